"""What a forecaster must beat: the seasonal naive forecast and exponential smoothing, as draws of whole paths."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

__all__ = ["ETS", "ForecastBaseline", "SeasonalNaive", "filled"]


class ForecastBaseline(ABC):
    """Forecasts each series from its own past."""

    def forecast(
        self, histories: Sequence[np.ndarray], horizon: int, *, num_samples: int = 100, seed: int = 0
    ) -> np.ndarray:
        """Draws of the next ``horizon`` steps, (num_samples, N, horizon).

        Args:
            histories: N series (T_i,), NaN where missing.
            horizon: Steps, at least 1.
            num_samples: Draws.
            seed: Of the draws; series i has a stream of its own, whichever others there are before it.

        Raises:
            ValueError: For a horizon or number below 1, or a series without two values.
        """
        if horizon < 1 or num_samples < 1:
            raise ValueError(f"horizon={horizon}, num_samples={num_samples}: both must be at least 1")
        paths = []
        for i, history in enumerate(histories):
            y = np.asarray(history, dtype=np.float64)
            if y.ndim != 1 or (~np.isnan(y)).sum() < 2:
                raise ValueError(f"series {i} of shape {y.shape}: a series (T,) with at least 2 values is needed")
            g = np.random.Generator(np.random.PCG64([seed, i]))
            paths.append(self._paths(filled(y), horizon, num_samples, g))
        return np.stack(paths, 1)

    @abstractmethod
    def _paths(self, y: np.ndarray, horizon: int, count: int, g: np.random.Generator) -> np.ndarray: ...


class SeasonalNaive(ForecastBaseline):
    """The last season again, ``y_{T+h} = y_{T+h−m} + e``, and so on from the forecasts: a random walk a season.

    The errors are the differences ``y_t − y_{t−m}`` of the history, less their mean. ``"bootstrap"`` draws stretches of m
    consecutive ones, which keeps their dependence within a season; ``"gaussian"`` independent normal ones of their spread.
    A history of no more than a season is treated with season 1.

    Args:
        season: m in steps; 1 is the naive forecast.
        errors: How they are drawn.
        window: Most recent differences that are used; all unless given.

    Source: Forecasting: Principles and Practice, 2021, section 5.5.
    """

    def __init__(
        self, season: int = 1, errors: Literal["bootstrap", "gaussian"] = "bootstrap", window: int | None = None
    ) -> None:
        if season < 1:
            raise ValueError(f"season={season}: at least 1 step is needed")
        self.season, self.errors, self.window = season, errors, window

    def _paths(self, y: np.ndarray, horizon: int, count: int, g: np.random.Generator) -> np.ndarray:
        m = self.season if len(y) > self.season else 1
        differences = y[m:] - y[:-m]
        differences = differences[-self.window :] if self.window else differences
        differences = differences - differences.mean()
        seasons = -(-horizon // m)
        if self.errors == "gaussian":
            drawn = differences.std() * g.standard_normal((count, seasons, m))
        else:
            start = g.integers(0, max(len(differences) - m + 1, 1), (count, seasons, 1))
            drawn = differences[(start + np.arange(m)) % len(differences)]
        return (y[-m:] + drawn.cumsum(1)).reshape(count, -1)[:, :horizon]


class ETS(ForecastBaseline):
    """Exponential smoothing by statsmodels: the model of least AICc among a few, simulated paths.

    Error, trend and season are additive: level; level and damped trend; each with and without a season (with one of 12
    steps and more the trend comes only beside it). Multiplicative forms are had by ``log``. The starting states are
    heuristic, so that a fit has few parameters. A model that fails is passed over; where all fail, or the paths of the best
    are not finite, the seasonal naive forecast stands in.

    Args:
        season: In steps; a history below two seasons gets no season.
        window: Most recent steps that the fit sees; all unless given.
        log: Fit the logarithm of series that are positive throughout.
        trend: Whether damped trends are tried.

    Source: Forecasting with Exponential Smoothing: the State Space Approach, 2008, Springer.
    """

    def __init__(self, season: int = 1, *, window: int | None = None, log: bool = False, trend: bool = True) -> None:
        self.season, self.window, self.log, self.trend = season, window, log, trend
        self.fallback = SeasonalNaive(season)

    def _paths(self, y: np.ndarray, horizon: int, count: int, g: np.random.Generator) -> np.ndarray:
        recent = y[-self.window :] if self.window else y
        if np.ptp(recent) == 0:
            return np.broadcast_to(recent[-1], (count, horizon)).copy()
        logged = self.log and recent.min() > 0
        best = self._best(np.log(recent) if logged else recent)
        if best is not None:
            errors = best.scale**0.5 * g.standard_normal((horizon, count))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = best.simulate(horizon, anchor="end", repetitions=count, random_errors=errors)
            paths = np.asarray(made, dtype=np.float64).reshape(horizon, count).T
            paths = np.exp(paths) if logged else paths
            if np.isfinite(paths).all():
                return paths
        return self.fallback._paths(y, horizon, count, g)

    def _best(self, y: np.ndarray) -> Any:
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel

        seasonal = self.season > 1 and len(y) >= 2 * self.season + 2
        found: list[tuple[float, int, Any]] = []
        for trend in (None, "add") if self.trend else (None,):
            for season in (None, "add") if seasonal else (None,):
                if season is None and seasonal and self.season >= 12 and trend is not None:
                    continue  # a long season is there or not; a trend alone is not worth a fit
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        model = ETSModel(
                            y,
                            trend=trend,
                            damped_trend=trend is not None,
                            seasonal=season,
                            seasonal_periods=self.season if season else None,
                            initialization_method="heuristic",
                        )
                        fit = model.fit(disp=False, maxiter=100)
                    except (ValueError, np.linalg.LinAlgError, FloatingPointError, NotImplementedError):
                        continue
                if np.isfinite(fit.aicc) and np.isfinite(fit.params).all():
                    found.append((float(fit.aicc), len(found), fit))
        return min(found)[2] if found else None


def filled(y: np.ndarray) -> np.ndarray:
    """A series (T,) without its holes: on straight lines between neighbours, level at the ends."""
    there = ~np.isnan(y)
    steps = np.arange(len(y))
    return y if there.all() else np.interp(steps, steps[there], y[there])
