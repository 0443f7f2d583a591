"""Pictures of tables: margins, associations, two numbers against one another, imputed values against true ones."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from polydiff.core.pictures import subplots, svg
from polydiff.tabular.coder import Coder

__all__ = ["associations", "heatmaps", "imputed", "marginals", "scatter"]

_REAL, _MADE, _OFF = "#9db8d6", "#0b6bcb", "#d9480f"
_COLOURS = ("#0b6bcb", "#e8590c", "#2b8a3e", "#9c36b5", "#c2255c", "#0c8599", "#5c940d", "#495057")
_SHOWN = 8  # levels of a category that get a bar


def marginals(real: pd.DataFrame, made: pd.DataFrame, *, columns: int = 4) -> bytes:
    """The law of every column, real beside generated, as SVG.

    Args:
        real: A table.
        made: Another with the same columns.
        columns: Panels in a row.
    """
    names = list(real.columns)
    coder = Coder.of(real, made)
    rows = -(-len(names) // columns)
    figure, panels = subplots(rows, columns, (2.55 * columns, 1.95 * rows))
    for axes, name in zip(panels.flat, names):
        if name in coder.categorical:
            _bars(axes, real[name], made[name])
        else:
            j = coder.numeric.index(name)
            _histograms(axes, coder.numbers(real)[:, j], coder.numbers(made)[:, j])
        axes.set_title(str(name), fontsize=10, loc="left")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    for axes in panels.flat[len(names) :]:
        axes.axis("off")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=10)
    return svg(figure)


def heatmaps(real: pd.DataFrame, made: pd.DataFrame) -> bytes:
    """How strongly every pair of columns hangs together, real beside generated, as SVG."""
    tables = [associations(f) for f in (real, made)]
    names, n = [str(c) for c in real.columns], len(real.columns)
    figure, panels = subplots(1, 2, (10.2, 4.6))
    for axes, table, title in zip(panels.flat, tables, ("real", "generated")):
        image = axes.imshow(table, vmin=-1, vmax=1, cmap="RdBu")
        axes.set_xticks(range(n), names, rotation=45, ha="right", fontsize=9)
        axes.set_yticks(range(n), names if title == "real" else [""] * n, fontsize=9)
        axes.tick_params(length=0)
        axes.set_title(title, fontsize=11, loc="left")
        axes.spines[:].set_visible(False)
        for (i, j), v in np.ndenumerate(table.to_numpy()) if n <= 12 else ():
            colour = "white" if abs(v) > 0.55 else "#495057"
            axes.text(
                j,
                i,
                f"{v:.2f}".replace("0.", ".").replace("1.00", "1"),
                ha="center",
                va="center",
                fontsize=7.5,
                color=colour,
            )
    figure.colorbar(image, ax=panels, shrink=0.8, aspect=24).outline.set_visible(False)
    return svg(figure)


def scatter(
    real: pd.DataFrame, made: pd.DataFrame, x: Hashable, y: Hashable, hue: Hashable, *, labels: Sequence[str] = ()
) -> bytes:
    """Two numbers against one another, coloured by a category, real beside generated, as SVG.

    Args:
        real: A table.
        made: Another with the same columns.
        x: Column of the horizontal axis.
        y: Column of the vertical axis.
        hue: Column of the colour.
        labels: Of both axes; the names of the columns unless given.
    """
    figure, panels = subplots(1, 2, (10.2, 4.4), sharex=True, sharey=True)
    levels = list(Coder.of(real[[hue]], categorical=[hue]).levels[0])[: len(_COLOURS)]
    for axes, frame, title in zip(panels.flat, (real, made), ("real", "generated")):
        for level, colour in zip(levels, _COLOURS):
            part = frame[frame[hue] == level]
            axes.scatter(part[x], part[y], s=9, alpha=0.6, linewidth=0, color=colour, label=str(level))
        axes.set_title(f"{title} · {len(frame)} rows", fontsize=11, loc="left")
        axes.set_xlabel(labels[0] if labels else str(x))
    panels.flat[0].set_ylabel(labels[1] if labels else str(y))
    handles, names = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=len(names), frameon=False, markerscale=2)
    return svg(figure)


def imputed(truth: np.ndarray, draws: np.ndarray, *, label: str, level: float = 0.9) -> bytes:
    """Hidden numbers against what was drawn for them: median and central interval of the draws, as SVG.

    Args:
        truth: Hidden values (N,).
        draws: Imputed ones (K, N).
        label: Of both axes.
        level: Of the intervals.
    """
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    middle = np.median(draws, 0)
    inside = (truth >= low) & (truth <= high)
    figure, panels = subplots(1, 1, (5.0, 4.4))
    axes = panels.flat[0]
    for some, colour, name in ((inside, _MADE, "truth inside"), (~inside, _OFF, "truth outside")):
        axes.vlines(truth[some], low[some], high[some], color=colour, alpha=0.35, linewidth=1.4)
        axes.scatter(truth[some], middle[some], s=12, color=colour, linewidth=0, label=f"{name} ({some.mean():.0%})")
    ends = [min(truth.min(), low.min()), max(truth.max(), high.max())]
    axes.plot(ends, ends, color="#868e96", linewidth=0.9, zorder=0)
    axes.set(xlabel=f"true {label}", ylabel=f"drawn {label}: median and {level:.0%} interval")
    axes.legend(frameon=False, fontsize=9)
    return svg(figure)


def associations(frame: pd.DataFrame) -> pd.DataFrame:
    """Strength of every pair of columns: correlation of numbers, Cramér's V of categories, correlation ratio of both.

    ``η = sqrt(Σ_c n_c (x̄_c − x̄)² / Σ (x − x̄)²)`` and ``V = sqrt(χ² / (n · (min(r, c) − 1)))``; 0 where a column is constant.
    """
    coder = Coder.of(frame)
    numbers, codes = coder.numbers(frame), coder.codes(frame)
    values = {c: numbers[:, j] for j, c in enumerate(coder.numeric)} | {
        c: codes[:, j] for j, c in enumerate(coder.categorical)
    }
    table = [[_strength(values[a], values[b], a in coder.numeric, b in coder.numeric) for b in frame] for a in frame]
    return pd.DataFrame(table, index=frame.columns, columns=frame.columns)


# ------------------------------------------------------------------ parts


def _strength(a: np.ndarray, b: np.ndarray, first: bool, second: bool) -> float:
    there = ~(np.isnan(a) | np.isnan(b))
    a, b = a[there], b[there]
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return 0.0
    if first and second:
        return float(np.corrcoef(a, b)[0, 1])
    if first != second:
        x, c = (a, b) if first else (b, a)
        groups = [x[c == v] for v in np.unique(c)]
        between = sum(len(g) * (g.mean() - x.mean()) ** 2 for g in groups)
        return float(np.sqrt(between / ((x - x.mean()) ** 2).sum()))
    table = pd.crosstab(a, b).to_numpy(dtype=np.float64)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return float(np.sqrt(((table - expected) ** 2 / expected).sum() / (table.sum() * (min(table.shape) - 1))))


def _histograms(axes: Any, real: np.ndarray, made: np.ndarray) -> None:
    real, made = real[~np.isnan(real)], made[~np.isnan(made)]
    values = np.unique(real)
    if len(values) <= 12:  # few numbers are bars
        edges = np.concatenate([[values[0] - 0.5], (values[1:] + values[:-1]) / 2, [values[-1] + 0.5]])
    else:
        edges = np.linspace(real.min(), np.quantile(real, 0.995), 25)
    axes.hist(real, edges, density=True, color=_REAL, label="real")
    axes.hist(made, edges, density=True, histtype="step", color=_MADE, linewidth=1.6, label="generated")


def _bars(axes: Any, real: pd.Series, made: pd.Series) -> None:
    shares = [s.astype(object).value_counts(normalize=True, dropna=False) for s in (real, made)]
    levels = list(shares[0].index[:_SHOWN])
    at = np.arange(len(levels))
    axes.bar(at, [shares[0].get(v, 0.0) for v in levels], 0.7, color=_REAL, label="real")
    outline = {"facecolor": "none", "edgecolor": _MADE, "linewidth": 1.6}
    axes.bar(at, [shares[1].get(v, 0.0) for v in levels], 0.7, label="generated", **outline)
    axes.set_xticks(at, [str(v)[:12] for v in levels], fontsize=8, rotation=0 if len(levels) < 5 else 40)
