"""Forecasts of held-out steps and those of baselines, scored alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polydiff.timeseries.baselines import ETS, SeasonalNaive
from polydiff.timeseries.forecast_metrics import mean_quantile_loss
from polydiff.timeseries.interval_metrics import coverage, mase
from polydiff.timeseries.linear_quantile import LinearQuantile

__all__ = ["Scores", "beside", "scored"]

_LAGS = 168  # of the linear baseline, at most
_RECENT = 1000  # steps that exponential smoothing is fitted to: it is slow on more and hardly better


@dataclass(frozen=True)
class Scores:
    """Of forecasts of N series.

    Attributes:
        loss: Mean weighted quantile loss at 0.1 … 0.9, GluonTS's.
        coverage: Share of true values inside the central 90 % of the draws; NaN below 19 draws.
        mase: Mean absolute error of the median over that of the seasonal naive forecast in sample.
    """

    loss: float
    coverage: float
    mase: float


def scored(draws: np.ndarray, truth: np.ndarray, histories: Sequence[np.ndarray], season: int) -> Scores:
    """Scores of draws (S, N, H) of what follows N histories.

    Args:
        draws: Of the future.
        truth: Values (N, H), NaN where not scored.
        histories: The N series before them.
        season: In steps.

    Raises:
        ValueError: For other shapes, a truth that is missing or 0 throughout, or histories that are all constant.
    """
    covered = coverage(draws, truth).estimate if len(draws) >= 19 else float("nan")
    return Scores(
        mean_quantile_loss(draws, truth).value,
        covered,
        mase(np.median(draws, 0), truth, histories, season).value,
    )


def beside(
    histories: Sequence[np.ndarray],
    horizon: int,
    season: int,
    *,
    learned: Sequence[np.ndarray] = (),
    num_samples: int = 100,
    seed: int = 0,
) -> Mapping[str, np.ndarray]:
    """Draws (S, N, H) of three baselines, by name: seasonal naive, ETS, linear quantile regression.

    The regression reads as many lags as all of ``learned`` series have, at most 168, and is left out where that is too few.

    Args:
        histories: Series (T_i,) to continue, NaN where missing.
        horizon: Steps.
        season: In steps.
        learned: What the regression may learn from; the histories unless given.
        num_samples: Draws.
        seed: Of the draws.

    Raises:
        ValueError: For a history without two values.
    """
    found = {
        "seasonal naive": SeasonalNaive(season).forecast(histories, horizon, num_samples=num_samples, seed=seed),
        "ETS": ETS(season, window=_RECENT).forecast(histories, horizon, num_samples=num_samples, seed=seed),
    }
    series = list(learned or histories)
    lags = min(max(2 * season, horizon, 8), _LAGS)
    if max(len(y) for y in series) >= 2 * (lags + horizon):
        regression = LinearQuantile(lags, horizon, seed=seed).fit(series)
        found["linear quantiles"] = regression.forecast(histories, num_samples=num_samples, seed=seed)
    return found
