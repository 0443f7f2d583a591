"""Pictures of series: forecast fans, filled holes, series from nothing, calibration, strange steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from polydiff.core.pictures import subplots, svg
from polydiff.timeseries.forecast import SeriesForecast

__all__ = ["anomalies", "calibration", "fans", "filled", "gallery", "observed_shares"]

_INK, _SOFT, _MADE, _OFF = "#212529", "#868e96", "#0b6bcb", "#d9480f"
_COLOURS = (_MADE, "#e8590c", "#2b8a3e", "#9c36b5", "#c2255c")
_BANDS = ((0.95, "#cfe2f6"), (0.8, "#9fc5ec"), (0.5, "#5b9fde"))  # opaque, so that bands of neighbours do not add up


def fans(truth: pd.Series, forecasts: Sequence[SeriesForecast], *, label: str) -> bytes:
    """Forecasts over what came, and below them both without their median, where the bands can be seen, as SVG.

    Args:
        truth: By stamp, from the last of what the first forecast saw to the end.
        forecasts: Of one channel, one behind the other.
        label: Of the vertical axis.
    """
    figure, panels = subplots(2, 1, (10.2, 5.6), sharex=True, gridspec_kw={"height_ratios": (3, 2)})
    top, below = panels.flat
    for k, f in enumerate(forecasts):
        at, middle = f.index.to_numpy(), f.median
        for axes, base in ((top, 0.0), (below, middle)):
            _bands(axes, at, f.samples - base, name=k == 0)
            axes.axvline(at[0], color="#dee2e6", linewidth=0.8, zorder=0)
        top.plot(at, middle, color=_MADE, linewidth=1.3, label="median" if k == 0 else None)
        there = truth.reindex(f.index).to_numpy()
        below.plot(at, there - middle, ".", color=_INK, markersize=3.2)
    below.axhline(0, color=_MADE, linewidth=1.3)
    top.plot(truth.index.to_numpy(), truth.to_numpy(), ".", color=_INK, markersize=3.2, label="what came")
    top.set_ylabel(label)
    below.set_ylabel("minus the median")
    top.legend(frameon=False, fontsize=9, loc="upper left", ncols=5)
    return svg(figure)


def filled(panels: Sequence[tuple[str, pd.Series, pd.DataFrame, pd.Series | None]], *, label: str) -> bytes:
    """Holes with what was drawn for them: median, 50 and 95 % of the draws and, where it is known, the truth, as SVG.

    Args:
        panels: Of each its title, the series with NaN for its holes, draws (one a column, by stamp), and the truth.
        label: Of the vertical axis.
    """
    figure, grid = subplots(1, len(panels), (10.2, 3.4))
    for k, (axes, (title, given, draws, truth)) in enumerate(zip(grid.flat, panels)):
        hole = given.isna().reindex(draws.index).to_numpy()
        rows = np.where(hole[:, None], draws.to_numpy(), np.nan).T
        for start, stop in _runs(hole):
            part = slice(max(start - 1, 0), min(stop + 1, len(hole)))  # up to the values on both sides
            at, some = draws.index[part].to_numpy(), draws.to_numpy()[part].T
            _bands(axes, at, some, name=k == 0 and start == _runs(hole)[0][0], levels=(0.95, 0.5))
        axes.plot(
            draws.index.to_numpy(),
            np.median(rows, 0),
            "-",
            color=_MADE,
            linewidth=1.3,
            label="median draw" if k == 0 else None,
        )
        axes.plot(given.index.to_numpy(), given.to_numpy(), ".-", color=_INK, markersize=3.2, linewidth=0.7)
        if truth is not None:
            hidden = truth[given.isna().reindex(truth.index, fill_value=False)]
            axes.plot(hidden.index.to_numpy(), hidden.to_numpy(), ".", color=_OFF, markersize=5, label="hidden truth")
        axes.set_title(title, fontsize=10, loc="left")
        _few_dates(axes)
    grid.flat[0].set_ylabel(label)
    figure.legend(*_handles(grid), loc="outside upper right", ncols=4, frameon=False, fontsize=9)
    return svg(figure)


def gallery(real: np.ndarray, made: np.ndarray, *, step: float, unit: str) -> bytes:
    """Real windows in the upper row, generated ones below, each around its own mean on one scale, as SVG.

    Args:
        real: Windows (N, L).
        made: Windows (N, L).
        step: From one value to the next, in units of the horizontal axis.
        unit: Of the horizontal axis.
    """
    n = len(real)
    figure, panels = subplots(2, n, (10.2, 3.6), sharex=True, sharey=True)
    for row, (title, sets, colour) in enumerate((("real", real, _INK), ("generated", made, _MADE))):
        for axes, y in zip(panels[row], sets):
            axes.plot(step * np.arange(len(y)), y - np.nanmean(y), color=colour, linewidth=1.2)
            axes.set_title(f"around {np.nanmean(y):.1f}", fontsize=8, loc="right", color=_SOFT, pad=2)
        panels[row, 0].set_title(title, fontsize=11, loc="left", color=colour)
    for axes in panels[1]:
        axes.set_xlabel(unit, fontsize=8)
    return svg(figure)


def calibration(draws: Mapping[str, np.ndarray], truth: np.ndarray) -> bytes:
    """Share of true values inside central intervals against the share that was promised, as SVG.

    Args:
        draws: Forecasts (S, …) by name.
        truth: Values (…), NaN where not counted.
    """
    levels = np.linspace(0.05, 0.95, 19)
    figure, panels = subplots(1, 1, (5.0, 4.4))
    axes = panels.flat[0]
    axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.9)
    for k, (name, some) in enumerate(draws.items()):
        width = 2.2 if k == 0 else 1.1
        axes.plot(levels, observed_shares(some, truth, levels), color=_COLOURS[k], linewidth=width, label=name)
    axes.set(xlabel="promised share", ylabel="share of what came inside", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return svg(figure)


def anomalies(values: pd.Series, scores: pd.Series, spoiled: Sequence[Any], *, label: str) -> bytes:
    """A series above the strangeness of its steps, those that were spoiled in orange, as SVG.

    Args:
        values: By stamp.
        scores: Of the same stamps; about 1 is ordinary.
        spoiled: Stamps that were tampered with.
        label: Of the upper axis.
    """
    figure, panels = subplots(2, 1, (5.0, 4.4), sharex=True)
    top, below = panels.flat
    at = values.index.to_numpy()
    bad = values.index.isin(list(spoiled))
    top.plot(at, values.to_numpy(), ".-", color=_INK, markersize=3, linewidth=0.7)
    top.plot(at[bad], values.to_numpy()[bad], ".", color=_OFF, markersize=6)
    below.vlines(at, 0, scores.to_numpy(), color=np.where(bad, _OFF, _MADE), linewidth=1.2)
    top.set_ylabel(label)
    below.set(ylabel="strangeness", ylim=(0, None))
    _few_dates(below)
    return svg(figure)


def observed_shares(draws: np.ndarray, truth: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Of draws (S, …), the share of true values inside each central interval, at ranks ``p (S + 1)``."""
    there = ~np.isnan(truth)
    some, y = draws[:, there], truth[there]
    low, high = (np.quantile(some, (1 + sign * levels) / 2, axis=0, method="weibull") for sign in (-1, 1))
    return np.asarray(((low <= y) & (y <= high)).mean(1))


# ------------------------------------------------------------------ parts


def _bands(
    axes: Any, at: np.ndarray, draws: np.ndarray, *, name: bool, levels: Sequence[float] = (0.95, 0.8, 0.5)
) -> None:
    for level, colour in _BANDS:
        if level in levels:
            low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
            axes.fill_between(at, low, high, color=colour, linewidth=0, label=f"{level:.0%}" if name else None)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _handles(panels: Any) -> tuple[list[Any], list[str]]:
    """Of all panels, every label once."""
    found: dict[str, Any] = {}
    for axes in panels.flat:
        for handle, name in zip(*axes.get_legend_handles_labels()):
            found.setdefault(name, handle)
    return list(found.values()), list(found)


def _few_dates(axes: Any) -> None:
    import matplotlib.dates as dates

    locator = dates.AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
