"""The generator under the method names of GluonTS and darts; duck-typed, neither is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from polydiff.timeseries.forecast import SeriesForecast
from polydiff.timeseries.forms import collect
from polydiff.timeseries.generator import TimeSeriesGenerator
from polydiff.timeseries.series import Collection, Series
from polydiff.timeseries.stamps import Stamps, grid_of

__all__ = ["DartsModel", "GluonEstimator", "GluonPredictor"]

_DRAWS = 100


# ------------------------------------------------------------------ GluonTS


@dataclass(frozen=True)
class GluonPredictor:
    """``Predictor.predict`` of GluonTS.

    Args:
        generator: Fitted.
        prediction_length: Steps; the horizon of the model if left out.
        num_samples: Of each forecast.
        seed: Of the draws.
    """

    generator: TimeSeriesGenerator
    prediction_length: int | None = None
    num_samples: int = _DRAWS
    seed: int = 0

    def predict(self, dataset: Iterable[Mapping[str, Any]], num_samples: int | None = None) -> Iterator[SeriesForecast]:
        """A forecast an entry, with ``samples``, ``quantile``, ``mean``, ``index``, ``start_date`` and ``item_id``.

        Args:
            dataset: Entries ``{"start": Period or Timestamp, "target": (T,) or (D, T), "item_id": ...}``.
            num_samples: In place of that of the predictor.

        Raises:
            ValueError: For an entry without start or target.
        """
        entries = list(dataset)
        if not entries:
            return
        found = _of_entries(entries, self.generator)
        made = self.generator.forecast(
            found, self.prediction_length, num_samples or self.num_samples, seed=self.seed, progress=False
        )
        for entry, one in zip(entries, made):
            index = one.index
            if isinstance(entry["start"], pd.Period):
                index = pd.PeriodIndex(index, freq=entry["start"].freq)
            yield SeriesForecast(entry.get("item_id"), index, one.samples)


@dataclass(frozen=True)
class GluonEstimator:
    """``Estimator.train`` of GluonTS.

    Args:
        generator: To be fitted.
        prediction_length: As for ``GluonPredictor``.
        num_samples: As for ``GluonPredictor``.
        steps: Training steps; those of the recipe if left out.
    """

    generator: TimeSeriesGenerator
    prediction_length: int | None = None
    num_samples: int = _DRAWS
    steps: int | None = None

    def train(self, training_data: Iterable[Mapping[str, Any]]) -> GluonPredictor:
        """Fit the generator to entries."""
        self.generator.fit(_of_entries(list(training_data), None), steps=self.steps, progress=False)
        return GluonPredictor(self.generator, self.prediction_length, self.num_samples)


def _of_entries(entries: Sequence[Mapping[str, Any]], generator: TimeSeriesGenerator | None) -> Collection:
    items: list[Series] = []
    for i, entry in enumerate(entries):
        if "start" not in entry or "target" not in entry:
            raise ValueError(f"entry {i} has the keys {sorted(entry)}: need 'start' and 'target'")
        target = np.asarray(entry["target"], dtype=np.float64)
        values = target[:, None] if target.ndim == 1 else target.T
        start = entry["start"]
        if isinstance(start, pd.Period):
            stamps: Stamps = pd.period_range(start, periods=len(values)).to_timestamp()
        else:
            freq = getattr(start, "freq", None) or entry.get("freq") or _freq_of(generator)
            if freq is None:
                raise ValueError(f"entry {i} starts at {start!r}, which has no frequency: give a Period, or 'freq'")
            stamps = pd.date_range(start, periods=len(values), freq=freq)
        items.append(Series(i, stamps, values, np.zeros((len(values), 0))))
    if not items:
        raise ValueError("there is no entry to learn from")
    width = items[0].values.shape[1]
    channels = ("y",) if width == 1 else tuple(f"y{k}" for k in range(width))
    if generator is not None:
        channels = _channels(generator, channels)
    return Collection(tuple(items), channels, (), grid_of([s.stamps for s in items]), "dict")


def _freq_of(generator: TimeSeriesGenerator | None) -> str | None:
    codec = None if generator is None else generator.codec
    return codec.grid.freq or None if codec is not None else None


def _channels(generator: TimeSeriesGenerator, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the model where there are as many: other libraries do not name them."""
    codec, _ = generator._fitted()
    own: tuple[str, ...] = codec.channels
    return own if len(own) == len(names) else names


# ------------------------------------------------------------------ darts


class DartsModel:
    """``fit`` and ``predict`` of darts, with its ``TimeSeries`` in and out.

    Args:
        generator: Fitted, or to be fitted.
        steps: Training steps; those of the recipe if left out.
        seed: Of the draws.
    """

    def __init__(
        self, generator: TimeSeriesGenerator | None = None, *, steps: int | None = None, seed: int = 0
    ) -> None:
        self.generator = TimeSeriesGenerator() if generator is None else generator
        self.steps, self.seed = steps, seed
        self.training_series: Any = None

    def fit(self, series: Any) -> Self:
        """Learn from a ``TimeSeries`` or a sequence of them with the same components."""
        self.training_series = series
        self.generator.fit(_of_darts(_listed(series), None), steps=self.steps, progress=False)
        return self

    def predict(self, n: int, series: Any = None, num_samples: int = 1) -> Any:
        """The n steps after a series, like it: with several samples, or for ``num_samples=1`` the median of 100.

        Args:
            n: Steps.
            series: One or a sequence; that of ``fit`` if left out.
            num_samples: Of the result.
        """
        given = self.training_series if series is None else series
        if given is None:
            raise ValueError("predict needs a series: none was fitted here")
        like = _listed(given)
        found = _of_darts(like, self.generator)
        draws = _DRAWS if num_samples == 1 else num_samples
        made = self.generator.forecast(found, n, draws, seed=self.seed, progress=False)
        x = np.median(made.samples, 1, keepdims=True) if num_samples == 1 else made.samples
        out = [_to_darts(s, made.stamps[i], x[i].transpose(1, 2, 0)) for i, s in enumerate(like)]
        return out if isinstance(given, Sequence) else out[0]


def _listed(series: Any) -> list[Any]:
    return list(series) if isinstance(series, Sequence) else [series]


def _of_darts(series: Sequence[Any], generator: TimeSeriesGenerator | None) -> Collection:
    items = []
    for i, s in enumerate(series):
        if hasattr(s, "time_index") and hasattr(s, "values"):
            x = np.asarray(s.values(), dtype=np.float64)
            frame = pd.DataFrame(x.reshape(len(x), -1), index=s.time_index)
        elif hasattr(s, "to_dataframe") or hasattr(s, "pd_dataframe"):
            frame = s.to_dataframe() if hasattr(s, "to_dataframe") else s.pd_dataframe()
        else:
            raise ValueError(f"series {i} is a {type(s).__name__}: need time_index and values(), or to_dataframe()")
        items.append(frame)
    found = collect(dict(enumerate(items)))
    return found if generator is None else _renamed(found, generator)


def _renamed(found: Collection, generator: TimeSeriesGenerator) -> Collection:
    return Collection(
        found.series, _channels(generator, found.channels), found.features, found.grid, found.form, found.statics
    )


def _to_darts(like: Any, stamps: Stamps, values: np.ndarray) -> Any:
    """``(H, D, S)`` as a series of the same class, or a frame with a column a component where it has no constructor."""
    index = getattr(like, "time_index", None)
    times = pd.Index(np.asarray(stamps).astype(index.dtype)) if index is not None and whole(index) else stamps
    make = getattr(type(like), "from_times_and_values", None)
    if make is not None:
        columns = getattr(like, "components", None)
        return make(times, values) if columns is None else make(times, values, columns=columns)
    return pd.DataFrame(values.reshape(len(values), -1), index=times)


def whole(index: pd.Index) -> bool:
    """Whether stamps are whole numbers."""
    return pd.api.types.is_integer_dtype(index.dtype)
