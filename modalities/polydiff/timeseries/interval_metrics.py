"""Scores of forecasts on the scale of the seasonal naive one, and the coverage of their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polydiff.core.evaluation import Interval, Score, bootstrap_interval

__all__ = ["central_interval", "coverage", "interval_coverage", "interval_score", "mase", "msis", "seasonal_scale"]


def interval_score(low: np.ndarray, high: np.ndarray, truth: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Winkler's score of central intervals, ``(u − l) + (2/α) (l − y)₊ + (2/α) (y − u)₊`` with α = 1 − level.

    Returns:
        Scores of the shape of ``truth``, NaN where it is.

    Raises:
        ValueError: If ``level`` is not in (0, 1) or an interval ends before it begins.

    Source: Strictly Proper Scoring Rules, 2007, JASA 102:359.
    """
    _check_level(level)
    l, u, y = (np.asarray(a, dtype=np.float64) for a in (low, high, truth))  # noqa: E741
    if (u < l).any():
        raise ValueError("an interval ends below its beginning: give the lower ends first")
    return np.asarray(u - l + 2 / (1 - level) * (np.maximum(l - y, 0) + np.maximum(y - u, 0)) + 0 * y)


def seasonal_scale(history: np.ndarray, season: int = 1) -> float:
    """Mean absolute error of the seasonal naive forecast in sample, ``mean |y_t − y_{t−m}|``.

    The season is 1 where the history is no longer than one. Pairs with a missing value are left out; NaN for a constant
    history or one without a pair: errors on its scale are undefined.
    """
    y = np.asarray(history, dtype=np.float64)
    m = season if len(y) > season else 1
    steps = np.abs(y[m:] - y[:-m])
    steps = steps[~np.isnan(steps)]
    scale = float(steps.mean()) if len(steps) else np.nan
    return scale if scale > 0 else np.nan


def mase(forecast: np.ndarray, truth: np.ndarray, histories: Sequence[np.ndarray], season: int = 1) -> Score:
    """Mean absolute scaled error of point forecasts: mean over series of ``mean_h |y − ŷ| / seasonal_scale``.

    Args:
        forecast: Points (N, H); the median is right for an absolute error.
        truth: Values (N, H).
        histories: The N series before the forecasts, of any lengths.
        season: In steps.

    Raises:
        ValueError: For other shapes, or if no series has a scale and a truth.

    Source: Another look at measures of forecast accuracy, 2006, Int. J. Forecasting 22:679.
    """
    y = np.asarray(truth, dtype=np.float64)
    return _scaled("mase", np.abs(y - np.asarray(forecast, dtype=np.float64)), histories, season)


def msis(
    low: np.ndarray,
    high: np.ndarray,
    truth: np.ndarray,
    histories: Sequence[np.ndarray],
    season: int = 1,
    level: float = 0.95,
) -> Score:
    """Mean scaled interval score of M4: mean over series of ``mean_h interval_score / seasonal_scale``.

    Args:
        low: Lower ends (N, H) of the central intervals.
        high: Upper ends (N, H).
        truth: Values (N, H).
        histories: The N series before the forecasts.
        season: In steps.
        level: Of the intervals; 0.95 in M4.

    Raises:
        ValueError: As ``mase`` and ``interval_score``.

    Source: The M4 Competition, 2020, Int. J. Forecasting 36:54.
    """
    return _scaled(f"msis:{level:g}", interval_score(low, high, truth, level), histories, season)


def central_interval(samples: np.ndarray, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central interval of draws (S, …), at ranks ``p (S + 1)`` for p = (1 ± level) / 2.

    Among S + 1 exchangeable values the true one lies between them with probability ``level`` exactly.

    Raises:
        ValueError: If S is below ``2 / (1 − level) − 1``, 19 for 90 %.
    """
    _check_level(level)
    x = np.asarray(samples, dtype=np.float64)
    need = int(np.ceil(round(2 / (1 - level) - 1, 9)))
    if len(x) < need:
        raise ValueError(f"{len(x)} draws: intervals of {level:.0%} need at least {need}")
    low, high = np.quantile(x, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    return low, high


def coverage(
    samples: np.ndarray,
    truth: np.ndarray,
    *,
    level: float = 0.9,
    clusters: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
) -> Interval:
    """``interval_coverage`` of the central intervals of draws (S, N, …)."""
    low, high = central_interval(samples, level)
    found = interval_coverage(low, high, truth, clusters=clusters, seed=seed)
    name = f"coverage:{level:g}:S={len(samples)}:{found.id}"
    return Interval(found.estimate, found.low, found.high, found.level, name)


def interval_coverage(
    low: np.ndarray,
    high: np.ndarray,
    truth: np.ndarray,
    *,
    clusters: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
) -> Interval:
    """Share of true values inside their intervals, with a 95 % interval that allows for dependence within a cluster.

    Errors of one series or window go together, so whole clusters are drawn anew in the bootstrap, not values.

    Args:
        low: Lower ends (N, …).
        high: Upper ends (N, …).
        truth: Values (N, …), NaN where not scored.
        clusters: Number of the cluster of each of the N rows, such as that of its series; every row its own unless given.
        seed: Of the bootstrap.

    Raises:
        ValueError: For other shapes, or if no value is there.
    """
    l, u, y = (np.asarray(a, dtype=np.float64) for a in (low, high, truth))  # noqa: E741
    if l.shape != y.shape or u.shape != y.shape or y.ndim < 1:
        raise ValueError(f"intervals of shapes {l.shape} and {u.shape} beside a truth of {y.shape}: need one shape")
    ids = np.arange(len(y)) if clusters is None else np.asarray(clusters)
    if ids.shape != (len(y),):
        raise ValueError(f"clusters of shape {ids.shape}: one number for each of {len(y)} rows is needed")
    there = ~np.isnan(y)
    if not there.any():
        raise ValueError("the truth is missing throughout: there is no interval to check")
    rows = tuple(range(1, y.ndim))
    hits, counts = ((there & (y >= l) & (y <= u)).sum(rows), there.sum(rows))
    _, place = np.unique(ids, return_inverse=True)
    table = np.stack([np.bincount(place, hits), np.bincount(place, counts)], 1)
    table = table[table[:, 1] > 0]
    found = bootstrap_interval(lambda t: float(t[:, 0].sum() / t[:, 1].sum()), table, seed=seed)
    return Interval(found.estimate, found.low, found.high, found.level, f"clusters={len(table)}:N={int(there.sum())}")


def _scaled(name: str, errors: np.ndarray, histories: Sequence[np.ndarray], season: int) -> Score:
    if errors.ndim != 2 or len(errors) != len(histories):
        raise ValueError(f"errors of shape {errors.shape} beside {len(histories)} histories: need (N, H) and N of them")
    scales = np.array([seasonal_scale(h, season) for h in histories])
    kept = ~np.isnan(scales) & (~np.isnan(errors)).any(1)
    if not kept.any():
        raise ValueError("every history is constant or too short, or every truth missing: nothing can be scaled")
    value = float((np.nanmean(errors[kept], axis=1) / scales[kept]).mean())
    return Score(value, f"{name}:season={season}:N={int(kept.sum())}")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}: a coverage in (0, 1), such as 0.9, is needed")
