"""What an imputer of series must beat: straight lines, similar hours, a Kalman smoother.

Each takes a frame with a row a step, a ``DatetimeIndex`` of one frequency and numeric columns, and fills its NaN; the other
cells, the columns and the index stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

__all__ = [
    "CovariateRegression",
    "KalmanSmoother",
    "LinearInterpolation",
    "NeighboursInTime",
    "SeriesImputer",
    "calendar",
]


class SeriesImputer(Protocol):
    """Anything that fills the holes of a frame of series."""

    def impute(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame without NaN."""
        ...


class LinearInterpolation:
    """Straight lines between the neighbours of a hole, level at the ends."""

    def impute(self, frame: pd.DataFrame) -> pd.DataFrame:
        """See the module.

        Raises:
            ValueError: For a frame that is not as the module says, or a column without any value.
        """
        _checked(frame)
        return frame.interpolate("linear", limit_direction="both")


class NeighboursInTime:
    """k-NN over steps: the mean of the k steps that look most alike, by scikit-learn's ``KNNImputer``.

    A step is described by all columns ``reach`` steps before to after it, standardised, and by the calendar (hour, weekday,
    day of the year, each as a point on a circle). Neighbours come from the same stretch of ``window`` steps. Distances use
    the entries that both steps have, weighted up for those they lack, and neighbours count by their nearness.

    Args:
        k: Neighbours.
        reach: Steps on both sides.
        window: Steps of a stretch; memory and time grow with its square.

    Source: Missing value estimation methods for DNA microarrays, 2001, Bioinformatics 17:520.
    """

    def __init__(self, k: int = 10, *, reach: int = 3, window: int = 2000) -> None:
        if k < 1 or reach < 0 or window < 2:
            raise ValueError(f"k={k}, reach={reach}, window={window}: need at least 1, 0 and 2")
        self.k, self.reach, self.window = k, reach, window

    def impute(self, frame: pd.DataFrame) -> pd.DataFrame:
        """See the module.

        Raises:
            ValueError: For a frame that is not as the module says, or a column without any value.
        """
        from sklearn.impute import KNNImputer

        x = _checked(frame)
        mean, std = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
        std = np.where(std > 0, std, 1.0)
        z = (x - mean) / std
        beside = [_shifted(z, k) for k in range(-self.reach, self.reach + 1) if k != 0]
        rows = np.concatenate([z, *beside, calendar(frame.index)], 1)
        pieces = max(len(rows) // self.window, 1)
        filled = []
        for part in np.array_split(rows, pieces):
            imputer = KNNImputer(n_neighbors=self.k, weights="distance", keep_empty_features=True)
            needy = np.isnan(part[:, : z.shape[1]]).any(1)
            done = part[:, : z.shape[1]].copy()
            if needy.any():
                done[needy] = imputer.fit(part).transform(part[needy])[:, : z.shape[1]]
            filled.append(done)
        return _with(frame, x, np.concatenate(filled) * std + mean)


class KalmanSmoother:
    """The exact smoother of a structural model of each column, ``y_t = level_t + season_t + a_t + ε_t``.

    Level a random walk, season a sum of ``harmonics`` trigonometric waves of ``season`` steps with drifting amplitudes, a
    autoregressive of order 1: statsmodels' ``UnobservedComponents``. The parameters are those of greatest likelihood on the
    ``fit_length`` consecutive steps with the fewest holes; all steps are smoothed with them.

    Args:
        season: In steps; 0 for none.
        harmonics: Waves of the season.
        fit_length: Steps for the parameters.
        autoregression: Whether there is a.

    Source: Time Series Analysis by State Space Methods, 2012, Oxford.
    """

    def __init__(
        self, season: int = 24, *, harmonics: int = 3, fit_length: int = 2000, autoregression: bool = True
    ) -> None:
        if season < 0 or harmonics < 1 or fit_length < 20:
            raise ValueError(f"season={season}, harmonics={harmonics}, fit_length={fit_length}: need ≥ 0, ≥ 1 and ≥ 20")
        self.season, self.harmonics, self.fit_length = season, harmonics, fit_length
        self.autoregression = autoregression

    def impute(self, frame: pd.DataFrame) -> pd.DataFrame:
        """See the module.

        Raises:
            ValueError: For a frame that is not as the module says, or a column without any value.
        """
        return self.smooth(frame)[0]

    def smooth(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The imputed frame and the standard deviation of each imputed value, 0 where it was there.

        Raises:
            ValueError: As ``impute``.
        """
        x = _checked(frame)
        means, spreads = np.zeros_like(x), np.zeros_like(x)
        for j, column in enumerate(x.T):
            middle, scale = np.nanmean(column), np.nanstd(column)
            if not np.isnan(column).any():
                continue
            if scale == 0:
                means[:, j] = middle
                continue
            mean, std = self._column((column - middle) / scale)
            means[:, j], spreads[:, j] = middle + scale * mean, scale * std
        std = pd.DataFrame(np.where(np.isnan(x), spreads, 0.0), frame.index, frame.columns)
        return _with(frame, x, means), std

    def _column(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        length = min(self.fit_length, len(y))
        holes = np.concatenate([[0], np.isnan(y).cumsum()])
        start = int((holes[length:] - holes[:-length]).argmin())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = self._model(y[start : start + length]).fit(disp=False, maxiter=100)
            found = self._model(y).smooth(fit.params)
        # the smoothed signal Z α_t, and its variance Z V_t Zᵀ plus that of the noise
        z = found.model["design"][0]
        mean = z @ found.smoother_results.smoothed_state
        spread = np.einsum("i,ijt,j->t", z, found.smoother_results.smoothed_state_cov, z)
        return mean, np.sqrt(np.maximum(spread + found.model["obs_cov"][0, 0], 0))

    def _model(self, y: np.ndarray) -> Any:
        from statsmodels.tsa.statespace.structural import UnobservedComponents

        waves = min(self.harmonics, self.season // 2)
        return UnobservedComponents(
            y,
            level="local level",
            freq_seasonal=[{"period": self.season, "harmonics": waves}] if waves else None,
            autoregressive=1 if self.autoregression else None,
        )


class CovariateRegression:
    """What covariates say of a series: ridge regression on them, on those of neighbouring steps and on the calendar.

    Steps of training are predicted by coefficients of other stretches: a model that reads the prediction beside the series
    learns how far to trust it elsewhere.

    Args:
        lags: Steps before (positive) and after (negative) whose covariates count.
        ridge: Penalty of squared coefficients of standardised covariates.
        folds: Stretches of training that are left out in turn.
    """

    def __init__(
        self, lags: Sequence[int] = (*range(-12, 25, 3), 36, 48), *, ridge: float = 300.0, folds: int = 4
    ) -> None:
        if not lags or ridge <= 0 or folds < 2:
            raise ValueError(
                f"lags={tuple(lags)}, ridge={ridge}, folds={folds}: need at least 1 lag, > 0 and at least 2"
            )
        self.lags, self.ridge, self.folds = tuple(lags), ridge, folds

    def predict(self, covariates: pd.DataFrame, values: np.ndarray) -> np.ndarray:
        """Predictions ``(T,)`` from covariates with a row a step; values are NaN where not known, as in a test.

        Raises:
            ValueError: For a frame that is not as the module says, or fewer values than twice the folds.
        """
        x, y = _checked(covariates), np.asarray(values, dtype=np.float64)
        there = np.flatnonzero(~np.isnan(y))
        if y.shape != (len(x),) or len(there) < 2 * self.folds:
            raise ValueError(
                f"{len(there)} values of shape {y.shape} beside {len(x)} steps of covariates: too few or many"
            )
        std = np.nanstd(x, axis=0)
        z = np.nan_to_num((x - np.nanmean(x, axis=0)) / np.where(std > 0, std, 1.0))
        rows = np.concatenate([calendar(covariates.index), *(np.nan_to_num(_shifted(z, -k)) for k in self.lags)], 1)
        out = self._fitted(rows, y, there)(rows)
        for fold in np.array_split(there, self.folds):
            part = np.arange(fold[0], fold[-1] + 1)
            out[part] = self._fitted(rows, y, np.setdiff1d(there, fold))(rows[part])
        return out

    def _fitted(self, rows: np.ndarray, y: np.ndarray, there: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        from sklearn.linear_model import Ridge

        return Ridge(self.ridge).fit(rows[there], y[there]).predict  # type: ignore[no-any-return]


def calendar(stamps: pd.Index) -> np.ndarray:
    """Hour of the day, day of the week and of the year as points on circles, (T, 6)."""
    index = pd.DatetimeIndex(stamps)
    hour = np.asarray(index.hour + index.minute / 60)
    turns = np.stack(
        [hour / 24, (np.asarray(index.day_of_week) + hour / 24) / 7, np.asarray(index.day_of_year) / 365.25], 1
    )
    return np.concatenate([np.sin(2 * np.pi * turns), np.cos(2 * np.pi * turns)], 1)


def _checked(frame: pd.DataFrame) -> np.ndarray:
    if not isinstance(frame.index, pd.DatetimeIndex) or not frame.index.is_monotonic_increasing:
        raise ValueError("the frame needs a sorted DatetimeIndex: set_index('ds').sort_index()")
    wrong = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c].dtype)]
    if wrong:
        raise ValueError(f"column {wrong[0]!r} is not numeric: leave it out or encode it")
    x = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    empty = np.isnan(x).all(0)
    if empty.any():
        raise ValueError(f"column {frame.columns[int(empty.argmax())]!r} holds no value: nothing can be learnt from it")
    return x


def _shifted(x: np.ndarray, k: int) -> np.ndarray:
    """Row t of the result is row t + k of x, NaN outside."""
    out = np.full_like(x, np.nan)
    if abs(k) >= len(x):
        return out
    if k >= 0:
        out[: len(x) - k] = x[k:]
    else:
        out[-k:] = x[:k]
    return out


def _with(frame: pd.DataFrame, x: np.ndarray, filled: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(np.where(np.isnan(x), filled, x), frame.index, frame.columns)
