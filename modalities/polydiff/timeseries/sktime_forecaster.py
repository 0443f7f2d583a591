"""The generator under the method names of sktime; duck-typed, it is not needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pandas as pd

from polydiff.timeseries.adapters import whole
from polydiff.timeseries.forecast import Forecast
from polydiff.timeseries.generator import TimeSeriesGenerator
from polydiff.timeseries.stamps import Stamps

__all__ = ["SktimeForecaster"]

_DRAWS = 100


class SktimeForecaster:
    """``fit``, ``predict``, ``predict_quantiles`` and ``predict_interval`` of sktime.

    Args:
        generator: To be fitted.
        steps: Training steps; those of the recipe if left out.
        num_samples: Draws that quantiles are read off.
        seed: Of the draws.
    """

    def __init__(
        self,
        generator: TimeSeriesGenerator | None = None,
        *,
        steps: int | None = None,
        num_samples: int = _DRAWS,
        seed: int = 0,
    ) -> None:
        self.generator = TimeSeriesGenerator() if generator is None else generator
        self.steps, self.num_samples, self.seed = steps, num_samples, seed
        self._y: pd.Series | pd.DataFrame | None = None
        self._fh: Any = None

    def fit(self, y: pd.Series | pd.DataFrame, X: None = None, fh: Any = None) -> Self:
        """Learn from one series, of one channel or several."""
        _plain(X)
        if not isinstance(y, (pd.Series, pd.DataFrame)):
            raise ValueError(f"y is a {type(y).__name__}: need a pandas Series or DataFrame")
        self.generator.fit(y.to_frame() if isinstance(y, pd.Series) else y, steps=self.steps, progress=False)
        self._y, self._fh = y, fh
        return self

    @property
    def cutoff(self) -> pd.Index:
        """The last stamp that was seen."""
        return self._seen().index[-1:]

    def predict(self, fh: Any = None, X: None = None) -> pd.Series | pd.DataFrame:
        """Medians at the steps of the horizon, like y."""
        index, draws = self._draws(fh, X)
        middle = pd.DataFrame(np.median(draws, 0), index=index, columns=self._names())
        y = self._seen()
        return middle if isinstance(y, pd.DataFrame) else middle.iloc[:, 0].rename(y.name)

    def predict_quantiles(self, fh: Any = None, X: None = None, alpha: Any = None) -> pd.DataFrame:
        """Quantiles, columns ``(variable, level)``; levels 0.05 and 0.95 if left out."""
        levels = [0.05, 0.95] if alpha is None else [float(a) for a in np.atleast_1d(alpha)]
        index, draws = self._draws(fh, X)
        columns = pd.MultiIndex.from_product([self._names(), levels])
        values = np.quantile(draws, levels, axis=0).transpose(1, 2, 0)
        return pd.DataFrame(values.reshape(len(index), -1), index=index, columns=columns)

    def predict_interval(self, fh: Any = None, X: None = None, coverage: Any = 0.9) -> pd.DataFrame:
        """Central intervals, columns ``(variable, coverage, "lower" or "upper")``."""
        shares = [float(c) for c in np.atleast_1d(coverage)]
        levels = [(1 + side * c) / 2 for c in shares for side in (-1, 1)]
        quantiles = self.predict_quantiles(fh, X, levels)
        quantiles.columns = pd.MultiIndex.from_product([self._names(), shares, ["lower", "upper"]])
        return quantiles

    def _seen(self) -> pd.Series | pd.DataFrame:
        if self._y is None:
            raise ValueError("this SktimeForecaster knows no series yet: call fit")
        return self._y

    def _names(self) -> list[Any]:
        """As sktime names variables: the nameless one is 0."""
        y = self._seen()
        return list(y.columns) if isinstance(y, pd.DataFrame) else [0 if y.name is None else y.name]

    def _draws(self, fh: Any, X: None) -> tuple[pd.Index, np.ndarray]:
        """Stamps and draws ``(S, steps, D)`` at the steps of the horizon."""
        _plain(X)
        y = self._seen()
        asked = self._fh if fh is None else fh
        if asked is None:
            raise ValueError("fh is missing: give the steps ahead to fit or to predict, such as [1, 2, 3]")
        codec, _ = self.generator._fitted()
        at = _relative(asked, self.cutoff, lambda n: self._index(codec.grid.after(self._last(), n)))
        made: Forecast = self.generator.forecast(
            y.to_frame() if isinstance(y, pd.Series) else y,
            int(at.max()),
            self.num_samples,
            seed=self.seed,
            progress=False,
        )
        return self._index(made.stamps[0])[at - 1], made.samples[0][:, at - 1]

    def _last(self) -> Any:
        last = self.cutoff[0]
        return last.to_timestamp() if isinstance(last, pd.Period) else last

    def _index(self, stamps: Stamps) -> pd.Index:
        """Stamps of the kind that y has."""
        index = self._seen().index
        if isinstance(index, pd.PeriodIndex):
            return pd.PeriodIndex(stamps, freq=index.freq)
        return pd.Index(np.asarray(stamps).astype(index.dtype)) if whole(index) else stamps


def _plain(X: Any) -> None:
    if X is not None:
        raise ValueError(
            "X is given: the sktime adapter passes no covariates, use TimeSeriesGenerator.forecast(future=…)"
        )


def _relative(fh: Any, cutoff: pd.Index, after: Callable[[int], pd.Index]) -> np.ndarray:
    """Steps ahead, from 1 on."""
    if hasattr(fh, "to_relative"):
        fh = fh.to_relative(cutoff).to_numpy()
    if isinstance(fh, (pd.DatetimeIndex, pd.PeriodIndex)):
        n = 1
        while (ahead := after(n))[-1] < fh[-1]:
            n *= 2
        at = ahead.get_indexer(fh) + 1
    else:
        at = np.atleast_1d(np.asarray(fh))
    if not len(at) or not pd.api.types.is_integer_dtype(at.dtype) or at.min() < 1:
        raise ValueError(f"fh={fh!r}: need steps after the end of y, such as [1, 2, 3] or stamps that follow")
    return at
