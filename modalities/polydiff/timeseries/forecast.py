"""Forecasts: samples of the future on the scale and stamps of the data, and everything that is read off them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from polydiff.timeseries.series import Form, rebuild
from polydiff.timeseries.stamps import Stamps

__all__ = ["Forecast", "SeriesForecast"]

_LEVELS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class SeriesForecast:
    """The future of one series.

    Attributes:
        item_id: Its name.
        index: ``H`` stamps.
        samples: ``(S, H)``, or ``(S, H, D)`` of several channels.
    """

    item_id: Any
    index: Stamps
    samples: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """``(H,)`` or ``(H, D)``."""
        return self.samples.mean(0)

    @property
    def median(self) -> np.ndarray:
        """The quantile at ½."""
        return self.quantile(0.5)

    @property
    def start_date(self) -> Any:
        """The first stamp."""
        return self.index[0]

    @property
    def prediction_length(self) -> int:
        """H."""
        return len(self.index)

    def quantile(self, q: float | str) -> np.ndarray:
        """Quantile of the samples at a level in [0, 1] (also as text, ``"0.9"``), ``(H,)`` or ``(H, D)``."""
        level = float(q)
        if not 0 <= level <= 1:
            raise ValueError(f"q={q}: a level in [0, 1] is needed")
        return np.quantile(self.samples, level, axis=0)


@dataclass(frozen=True)
class Forecast:
    """The future of several series, in the order in which they came.

    Attributes:
        names: Of the N series.
        channels: Names of the D channels.
        stamps: ``H`` stamps of each series.
        samples: ``(N, S, H, D)``, on the scale of the data.
        form: What the series came as: means and quantiles come back so.
    """

    names: tuple[Any, ...]
    channels: tuple[str, ...]
    stamps: tuple[Stamps, ...]
    samples: np.ndarray
    form: Form = "long"

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[SeriesForecast]:
        return (self._one(i) for i in range(len(self)))

    def __getitem__(self, name: Any) -> SeriesForecast:
        """The forecast of a series by its name."""
        if name not in self.names:
            raise KeyError(f"no series {name!r}: there are {', '.join(map(repr, self.names[:10]))}")
        return self._one(self.names.index(name))

    @property
    def mean(self) -> Any:
        """Mean of the samples, in the form of the data."""
        return self._natural(self.samples.mean(1))

    @property
    def median(self) -> Any:
        """Median of the samples, in the form of the data."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> Any:
        """Quantile of the samples at a level in [0, 1], in the form of the data."""
        return self._natural(self.quantiles([q])[0])

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Quantiles at several levels, ``(Q, N, H, D)``."""
        for q in levels:
            if not 0 <= q <= 1:
                raise ValueError(f"q={q}: a level in [0, 1] is needed")
        return np.quantile(self.samples, np.asarray(levels), axis=1)

    def to_frame(self, levels: Sequence[float] = _LEVELS) -> pd.DataFrame:
        """A long frame: ``unique_id, ds, mean`` and a column a quantile (``q0.1`` …); of several channels ``channel`` too."""
        mean, bands = self.samples.mean(1), self.quantiles(levels)
        parts = []
        for i, name in enumerate(self.names):
            for d, channel in enumerate(self.channels):
                columns: dict[str, Any] = {"unique_id": [name] * len(self.stamps[i]), "ds": self.stamps[i]}
                if len(self.channels) > 1:
                    columns["channel"] = channel
                columns["mean"] = mean[i, :, d]
                parts.append(pd.DataFrame(columns | {f"q{q:g}": bands[k, i, :, d] for k, q in enumerate(levels)}))
        return pd.concat(parts, ignore_index=True)

    def _one(self, i: int) -> SeriesForecast:
        rows = self.samples[i]
        return SeriesForecast(self.names[i], self.stamps[i], rows[..., 0] if len(self.channels) == 1 else rows)

    def _natural(self, values: np.ndarray) -> Any:
        return rebuild(self.form, self.channels, self.names, self.stamps, list(values))
