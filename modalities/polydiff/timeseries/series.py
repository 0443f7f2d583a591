"""Series in the forms in which people have them, as one: names, stamps, values with NaN for what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from polydiff.timeseries.stamps import Grid, Stamps, grid_of

__all__ = ["Collection", "Form", "Item", "Series", "assembled", "rebuild"]

Form = Literal["long", "wide", "dict", "array"]
Item = tuple[Any, Stamps, np.ndarray, np.ndarray, tuple[Any, ...]]


@dataclass(frozen=True)
class Series:
    """One series.

    Attributes:
        name: Of the series.
        stamps: ``T`` datetimes or numbers, increasing.
        values: ``(T, D)`` float64, NaN where missing.
        features: ``(T, F)`` float64: covariates known at every step, also of the future.
        static: Values of the covariates of the series as a whole, numbers or texts.
    """

    name: Any
    stamps: Stamps
    values: np.ndarray
    features: np.ndarray
    static: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, stop: int) -> Series:
        """Steps from ``start`` to ``stop``."""
        return replace(
            self,
            stamps=self.stamps[start:stop],
            values=self.values[start:stop],
            features=self.features[start:stop],
        )


@dataclass(frozen=True)
class Collection:
    """Series of the same channels on one grid.

    Attributes:
        series: One or more.
        channels: Names of the D channels.
        features: Names of the F covariates.
        grid: Of the stamps.
        form: What they came as.
        statics: Names of the covariates of a series as a whole.
    """

    series: tuple[Series, ...]
    channels: tuple[str, ...]
    features: tuple[str, ...]
    grid: Grid
    form: Form
    statics: tuple[str, ...] = ()


# ------------------------------------------------------------------ assembling


def assembled(
    items: list[Item],
    channels: tuple[str, ...],
    features: tuple[str, ...],
    form: Form,
    freq: str | None,
    statics: tuple[str, ...] = (),
) -> Collection:
    """Items on their common grid.

    Raises:
        ValueError: For no item, an empty one, stamps out of order or repeated, and no value at all.
    """
    if not items:
        raise ValueError("there is no series in the data")
    for name, stamps, values, *_ in items:
        _ordered(stamps, name)
        if not len(values):
            raise ValueError(f"series {name!r} has no step")
    grid = grid_of([s for _, s, *_ in items], freq)
    series = tuple(_on(grid, Series(*item)) for item in items)
    if not any(np.isfinite(s.values).any() for s in series):
        raise ValueError("every value is missing: there is nothing to learn from")
    return Collection(series, channels, features, grid, form, statics)


def _on(grid: Grid, s: Series) -> Series:
    """The series with a step for every stamp of the grid, NaN where it had none."""
    if not grid.regular or len(s) < 2:
        return s
    full = grid.between(s.stamps[0], s.stamps[-1])
    if len(full) == len(s):
        return s
    if isinstance(full, pd.DatetimeIndex):
        at = full.get_indexer(s.stamps)
    else:
        at = np.round((s.stamps.to_numpy(dtype=np.float64) - float(s.stamps[0])) / grid.step).astype(int)
    values = np.full((len(full), s.values.shape[1]), np.nan)
    features = np.full((len(full), s.features.shape[1]), np.nan)
    values[at], features[at] = s.values, s.features
    return replace(s, stamps=full, values=values, features=features)


def _ordered(stamps: Stamps, name: Any) -> None:
    if stamps.hasnans:
        raise ValueError(f"series {name!r} has a missing stamp at step {int(np.argmax(stamps.isna()))}")
    twice = stamps.duplicated()
    if twice.any():
        raise ValueError(
            f"series {name!r} has the stamp {stamps[int(np.argmax(twice))]} more than once: keep one of them"
        )
    if not stamps.is_monotonic_increasing:
        late = int(np.argmax(stamps[1:] < stamps[:-1])) + 1
        raise ValueError(f"series {name!r} is out of order at step {late} ({stamps[late]}): sort it by its stamps")


# ------------------------------------------------------------------ back again


def rebuild(
    form: Form,
    channels: Sequence[str],
    names: Sequence[Any],
    stamps: Sequence[Stamps],
    values: Sequence[np.ndarray],
) -> Any:
    """Series in the form in which others came: ``(T, D)`` values each."""
    if form == "array" and len({len(v) for v in values}) == 1:
        stacked = np.stack(list(values))
        return stacked[:, :, 0] if stacked.shape[2] == 1 else stacked
    if form in ("dict", "array"):
        flat = (v[:, 0] if v.shape[1] == 1 else v for v in values)
        return dict(zip(names, flat))
    if form == "wide" and len(names) == 1:
        return pd.DataFrame(values[0], index=stamps[0], columns=list(channels))
    if form == "wide":
        return pd.DataFrame({n: pd.Series(v[:, 0], index=s) for n, s, v in zip(names, stamps, values)})
    parts = [
        pd.DataFrame({"unique_id": [n] * len(v), "ds": s, **dict(zip(channels, v.T))})
        for n, s, v in zip(names, stamps, values)
    ]
    return pd.concat(parts, ignore_index=True)
