"""Stamps of a series: their grid where there is one, those that follow, and what the calendar says of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

__all__ = ["Grid", "calendar", "grid_of", "positions"]

Stamps: TypeAlias = pd.Index

_LONG = ("YS", "YE", "QS", "QE", "MS", "ME")  # offsets that no fixed step can say, the coarsest first
_DENSITY = 20  # a grid with more empty steps than this a stamp is none


@dataclass(frozen=True)
class Grid:
    """The steps on which stamps lie.

    Attributes:
        kind: ``"datetime"``, ``"number"``, or ``"irregular"`` with stamps of either type on no grid.
        freq: Of datetimes, as pandas writes it, such as ``"h"``; empty otherwise.
        step: Length of a step, in the units of the stamps (days for datetimes): the typical one for irregular stamps.
        dated: Whether stamps are datetimes.
    """

    kind: str
    freq: str
    step: float
    dated: bool

    @property
    def regular(self) -> bool:
        """Whether there is a grid."""
        return self.kind != "irregular"

    def between(self, first: object, last: object) -> Stamps:
        """All stamps of the grid from the first to the last."""
        if self.kind == "datetime":
            return pd.date_range(first, last, freq=self.freq)  # type: ignore[call-overload]
        steps = round((float(last) - float(first)) / self.step)  # type: ignore[arg-type]
        return self._like(first, float(first) + self.step * np.arange(steps + 1))  # type: ignore[arg-type]

    def after(self, last: object, n: int) -> Stamps:
        """The n stamps after one; a typical step apart where there is no grid."""
        if self.kind == "datetime":
            return pd.date_range(last, periods=n + 1, freq=self.freq)[1:]  # type: ignore[call-overload]
        ahead = self.step * np.arange(1, n + 1)
        if self.dated:
            return pd.DatetimeIndex(pd.Timestamp(last) + pd.to_timedelta(ahead, unit="D"))  # type: ignore[arg-type]
        return self._like(last, float(last) + ahead)  # type: ignore[arg-type]

    def _like(self, one: object, stamps: np.ndarray) -> Stamps:
        """Whole numbers where a stamp and the step are."""
        whole = isinstance(one, (int, np.integer)) and self.step.is_integer()
        return pd.Index(np.round(stamps).astype(np.int64) if whole else stamps)


def grid_of(indices: Sequence[Stamps], freq: str | None = None) -> Grid:
    """The common grid of the stamps of several series, each sorted and without repetition.

    Args:
        indices: Stamps of each series; those with fewer than two say nothing.
        freq: Of datetimes, where you know it.

    Raises:
        ValueError: For stamps that do not lie on the grid of ``freq``.
    """
    telling = [i for i in indices if len(i) > 1]
    if not telling:
        dated = any(isinstance(i, pd.DatetimeIndex) for i in indices)
        return Grid("datetime", freq or "D", 1.0, True) if dated else Grid("number", "", 1.0, False)
    gaps = np.concatenate([np.diff(_numbers(i)) for i in telling])
    step = float(np.median(gaps))
    if not isinstance(telling[0], pd.DatetimeIndex):
        step = _divisor(gaps)
        if step > 0:
            return Grid("number", "", step, False)
        return Grid("irregular", "", float(np.median(gaps)), False)
    for name in [freq] if freq else _candidates(telling, gaps):
        if all(_on_grid(i, name) for i in telling):
            return Grid("datetime", name, _days(name, telling[0][0]), True)
    if freq:
        bad = next(i for i in telling if not _on_grid(i, freq))
        raise ValueError(f"freq={freq!r}: the stamps {bad[0]} to {bad[-1]} do not lie on that grid")
    return Grid("irregular", "", step, True)


def positions(stamps: Stamps, step: float, origin: object = None) -> np.ndarray:
    """Stamps as numbers of typical steps since an origin, the first stamp unless given: ``(T,)``."""
    numbers = _numbers(stamps)
    start = numbers[0] if origin is None else _numbers(pd.Index([origin]))[0]
    return (numbers - start) / step


def calendar(stamps: Stamps, step: float) -> np.ndarray:
    """Sines and cosines of the hour, weekday and day of the year that the step can tell apart, ``(T, F)``; none for numbers.

    Args:
        stamps: Datetimes, or numbers, which have no calendar.
        step: In days.
    """
    if not isinstance(stamps, pd.DatetimeIndex):
        return np.zeros((len(stamps), 0))
    turns = []
    if step < 0.9:
        turns.append((stamps.hour + stamps.minute / 60) / 24)
    if step < 6.0:
        turns.append((stamps.day_of_week + stamps.hour / 24) / 7)
    if step < 300.0:
        turns.append(stamps.day_of_year / 365.25)
    if not turns:
        return np.zeros((len(stamps), 0))
    angle = 2 * np.pi * np.stack([np.asarray(t, dtype=np.float64) for t in turns], 1)
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)


# ------------------------------------------------------------------ parts


def _numbers(stamps: Stamps) -> np.ndarray:
    """Days for datetimes, the stamps themselves for numbers."""
    if isinstance(stamps, pd.DatetimeIndex):
        absolute = stamps if stamps.tz is None else stamps.tz_convert(None)
        return (absolute - pd.Timestamp(0)).total_seconds().to_numpy() / 86_400.0
    return stamps.to_numpy(dtype=np.float64)


def _candidates(indices: Sequence[pd.Index], gaps: np.ndarray) -> list[str]:
    """Frequencies to try: what pandas sees in the longest run, the shortest gap, the calendar's."""
    longest = max(indices, key=len)
    found = _seen(longest)
    seconds = round(float(gaps.min()) * 86_400)
    if 0.9 < gaps.min() < 1.1:  # a day of a change of clocks has 23 or 25 hours
        found.append("D")
    if 0 < seconds < 27 * 86_400:
        weekly = seconds == 7 * 86_400  # the anchor of a week is its weekday
        found.append(f"W-{longest[0].strftime('%a').upper()}" if weekly else f"{seconds}s")
    if gaps.min() > 27:
        found.extend(_LONG)
    if seconds == 86_400 and len(longest) > 10 and not any((i.day_of_week > 4).any() for i in indices):  # type: ignore[attr-defined]
        found.insert(0, "B")
    return [n for n in dict.fromkeys(found) if n]


def _seen(stamps: Stamps) -> list[str]:
    """The frequency that pandas sees in stamps without a gap."""
    if len(stamps) < 3:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas 3 announces that pandas 4 returns an offset, which is read below
        found: Any = pd.infer_freq(stamps)
    return [] if found is None else [getattr(found, "freqstr", found)]


def _on_grid(stamps: pd.Index, freq: str) -> bool:
    grid = pd.date_range(stamps[0], stamps[-1], freq=freq)
    return len(grid) <= _DENSITY * len(stamps) and bool(stamps.isin(grid).all())


def _days(freq: str, at: object) -> float:
    grid = pd.date_range(at, periods=13, freq=freq)  # type: ignore[call-overload]
    return float((grid[-1] - grid[0]).total_seconds() / 86_400 / 12)


def _divisor(gaps: np.ndarray) -> float:
    """The shortest gap if all are whole multiples of it, else 0."""
    step = float(gaps.min())
    ratio = gaps / step
    whole = np.abs(ratio - ratio.round()) < 1e-6 * np.maximum(ratio, 1)
    return step if bool(whole.all()) and ratio.mean() <= _DENSITY else 0.0
