"""One honest report of a generator of series: its forecasts of held-out steps, and its windows from nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from polydiff.core.evaluation import Figure, Report, Score
from polydiff.timeseries.baselines import SeasonalNaive
from polydiff.timeseries.context_frechet import context_frechet
from polydiff.timeseries.discriminative import discriminative_score, predictive_score
from polydiff.timeseries.forecast_metrics import mean_quantile_loss
from polydiff.timeseries.held_out import cut, joined_to, thinned
from polydiff.timeseries.interval_metrics import central_interval, coverage, mase, msis
from polydiff.timeseries.lengths import season_of
from polydiff.timeseries.scores import autocorrelation_distance, correlational_score, marginal_distance
from polydiff.timeseries.series import Collection

if TYPE_CHECKING:
    from polydiff.timeseries.generator import TimeSeriesGenerator

__all__ = ["evaluate"]

_LEVEL = 0.95  # of the intervals that MSIS scores, as in M4
_FEWEST = 10  # windows a side below which nothing from nothing is scored


@dataclass(frozen=True)
class _Round:
    """Forecasts beside the truth: draws ``(S, M, H)`` of the model and of the reference, ``(M, H)``, M histories, M owners."""

    made: np.ndarray
    naive: np.ndarray
    truth: np.ndarray
    histories: tuple[np.ndarray, ...]
    owners: np.ndarray


def evaluate(
    generator: TimeSeriesGenerator,
    train: Any,
    holdout: Any,
    horizon: int | None = None,
    *,
    num_samples: int = 100,
    rounds: int | None = None,
    season: int | None = None,
    limit: int = 1000,
    iterations: int = 600,
    steps: int | None = None,
    seed: int = 0,
) -> Report:
    """Forecasts of held-out steps, and windows from nothing where the model makes them, each figure beside its floor.

    Forecasts: every ``horizon`` held-out steps from all that lies before them. The floor of loss, MASE and MSIS is the
    seasonal naive forecast on the same steps, a reference to beat and no limit; of the coverage it is the nominal 0.9.

    Windows: as many new ones as there are held-out ones, against these; the floor puts equally many training windows in the
    place of the new ones: what copying would score. Windows with missing values are left out.

    Args:
        generator: Fitted.
        train: What it was fitted to.
        holdout: The steps that follow those of ``train``, by name and stamp; or series of their own, of which all steps
            behind a first context are held out.
        horizon: Of a forecast; that of the model if left out.
        num_samples: Of each forecast, at least 39 for intervals of 95 %.
        rounds: Forecasts of each series, the first ones; as many as fit if left out.
        season: In steps; by the calendar if left out.
        limit: Windows a side.
        iterations: Training steps of the readers of windows; published scores take 2000 (discriminative), 5000 (predictive)
            and 600 (context-Fréchet).
        steps: Sampling steps.
        seed: Of samples, reference and readers.

    Raises:
        ValueError: For a horizon that no held-out series has, or other channels than those of training.
    """
    codec, _ = generator._fitted()
    h = generator.config.horizon if horizon is None else horizon
    if isinstance(h, bool) or not isinstance(h, (int, np.integer)) or h < 1:
        raise ValueError(f"horizon={horizon!r}: need an integer of at least 1")
    least = int(np.ceil(2 / (1 - _LEVEL) - 1 - 1e-9))
    if num_samples < least:
        raise ValueError(f"num_samples={num_samples}: intervals of {_LEVEL:.0%} need at least {least}")
    past, found = generator._collected(train), generator._collected(holdout)
    joined, first = joined_to(past, found, generator.config.context, codec.grid)
    m = season or season_of(codec.grid)
    run = {"steps": steps, "seed": seed, "batch_size": 4096, "progress": False}
    parts = _forecasts(generator, joined, first, int(h), num_samples, rounds, m, run)
    figures = _scored(parts, m, seed)
    if generator.config.nothing > 0:
        figures += _windows(generator, past, joined, first, limit, iterations, steps, seed)
    return Report(tuple(figures))


# ------------------------------------------------------------------ forecasts


def _forecasts(
    generator: TimeSeriesGenerator,
    joined: Collection,
    first: Sequence[int],
    horizon: int,
    count: int,
    rounds: int | None,
    season: int,
    run: dict[str, Any],
) -> list[_Round]:
    most = max(len(s) - f for s, f in zip(joined.series, first)) // horizon
    if most < 1:
        raise ValueError(
            f"no held-out series has a forecast of horizon={horizon} behind its context: ask for a shorter one"
        )
    found = []
    for k in range(most if rounds is None else min(most, rounds)):
        ends = [f + k * horizon for f in first]
        use = [
            i
            for i, (s, end) in enumerate(zip(joined.series, ends))
            if end + horizon <= len(s)
            and (~np.isnan(s.values[:end])).sum(0).min() > 1
            and not np.isnan(s.values[max(end - generator.config.context, 0) : end]).all()
            and not np.isnan(s.values[end : end + horizon]).all()
        ]
        if not use:
            continue
        past = replace(joined, series=tuple(joined.series[i].part(0, ends[i]) for i in use))
        ahead = replace(joined, series=tuple(joined.series[i].part(ends[i], ends[i] + horizon) for i in use))
        made = generator._continue(past, horizon, count, ahead, **{**run, "seed": run["seed"] + 7919 * k})
        histories = tuple(h for s in past.series for h in s.values.T)
        draws = SeasonalNaive(season).forecast(histories, horizon, num_samples=count, seed=run["seed"])
        truth = np.concatenate([s.values.T for s in ahead.series])
        owners = np.repeat(use, truth.shape[0] // len(use))
        found.append(_Round(made.transpose(1, 0, 3, 2).reshape(draws.shape), draws, truth, histories, owners))
    if not found:
        raise ValueError("no held-out series has values both before and within a forecast: there is nothing to score")
    return found


def _scored(parts: Sequence[_Round], season: int, seed: int) -> list[Figure]:
    made, naive = (np.concatenate([getattr(p, k) for p in parts], 1) for k in ("made", "naive"))
    truth, owners = np.concatenate([p.truth for p in parts]), np.concatenate([p.owners for p in parts])
    histories = [h for p in parts for h in p.histories]

    def points(draws: np.ndarray) -> Score:
        return mase(np.median(draws, 0), truth, histories, season)

    def bands(draws: np.ndarray) -> Score:
        return msis(*central_interval(draws, _LEVEL), truth, histories, season, _LEVEL)

    inside, other = (coverage(draws, truth, clusters=owners, seed=seed) for draws in (made, naive))
    against = "the floor is the seasonal naive forecast"
    figures = []
    for name, score, meaning in (
        ("quantile loss", lambda d: mean_quantile_loss(d, truth), "mean weighted quantile loss, levels 0.1 to 0.9"),
        ("MASE", points, "absolute error of the median, in those of the seasonal naive forecast in sample"),
        ("MSIS", bands, "width and misses of 95 % intervals, in the same unit"),
    ):
        try:
            value, floor = score(made), score(naive)
        except ValueError:  # a truth of 0 throughout, or histories that are all constant, have no scale
            continue
        figures.append(Figure(name, value.value, floor.value, "lower", value.id, f"{meaning}; {against}"))
    meaning = (
        f"share of true values inside 90 % intervals; 95 % interval {inside.low:.3f} to {inside.high:.3f}; of the seasonal "
        f"naive forecast {other.estimate:.3f}"
    )
    figures.insert(1, Figure("coverage 90 %", inside.estimate, 0.9, "near", inside.id, meaning))
    return figures


# ------------------------------------------------------------------ windows from nothing


def _windows(
    generator: TimeSeriesGenerator,
    past: Collection,
    joined: Collection,
    first: Sequence[int],
    limit: int,
    iterations: int,
    steps: int | None,
    seed: int,
) -> list[Figure]:
    length = generator.length
    known = cut([(s, 0, len(s)) for s in past.series], length)
    # where fewer steps are held out than a window has, the windows that end with them reach back
    held = cut([(s, min(f, max(len(s) - length, 0)), len(s)) for s, f in zip(joined.series, first)], length)
    n = min(len(held), len(known) // 2, limit)
    if n < _FEWEST:
        return []
    real, both = thinned(held, n), thinned(known, 2 * n)
    floor, learn = both[::2], both[1::2]
    made = generator.sample(n, length, steps=steps, seed=seed, progress=False)
    reads = {"seed": seed, "iterations": iterations}
    scores: list[tuple[str, Callable[[np.ndarray], Score], str]] = [
        (
            "discriminative",
            lambda x: discriminative_score(real, x, **reads),
            "how far a GRU tells them apart; 0 is ideal",
        ),
        (
            "predictive",
            lambda x: predictive_score(real, x, **reads),
            "error on held-out windows of a GRU trained on them",
        ),
        (
            "context-Fréchet",
            lambda x: context_frechet(real, x, train=learn, **reads),
            "distance of embeddings by an encoder of other training windows",
        ),
        ("autocorrelation", lambda x: autocorrelation_distance(real, x), "mean gap of autocorrelations"),
        ("marginal W1", lambda x: marginal_distance(real, x), "distance of values, in standard deviations"),
    ]
    if real.shape[2] > 1:
        scores.append(("correlation", lambda x: correlational_score(real, x), "gap of the channels' correlations"))
    figures = []
    for name, score, meaning in scores:
        value, reference = score(made), score(floor)
        against = "the floor is training windows"
        figures.append(Figure(name, value.value, reference.value, "lower", value.id, f"{meaning}; {against}"))
    return figures
