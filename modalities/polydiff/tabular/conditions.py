"""What ``sample(where=…)`` holds: values, sets of levels, ranges."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from polydiff.core.data import Rng
from polydiff.tabular.columns import Column
from polydiff.tabular.schema import Schema
from polydiff.tabular.values import Name, family

__all__ = ["Conditions", "held", "levels_of"]

_LEAST_DRAWN, _DRAWN_FOR_ONE = 10_000, 300  # rows drawn before a range is given up


@dataclass(frozen=True)
class Conditions:
    """What is asked of the columns of sampled rows.

    Attributes:
        held: One value each.
        sets: Allowed values of categories.
        ranges: Lower and upper end of numbers and datetimes, ``None`` where open.
    """

    held: Mapping[Name, Any]
    sets: Mapping[Name, list[Any]]
    ranges: Mapping[Name, tuple[Any, Any]]

    @classmethod
    def of(cls, schema: Schema, where: Mapping[Name, Any] | None) -> Self:
        """Tuples are ranges, lists and sets are sets, all else is a value; a range of ordered levels is a set of them.

        Raises:
            ValueError: For an unknown column, or a range that is none.
        """
        held: dict[Name, Any] = {}
        sets: dict[Name, list[Any]] = {}
        ranges: dict[Name, tuple[Any, Any]] = {}
        for name, value in (where or {}).items():
            column = schema.columns[schema.place(name)]
            if not isinstance(value, tuple):
                (sets if isinstance(value, (set, frozenset, list)) else held)[name] = value
            elif column.continuous:
                ranges[name] = _ends(column, value)
            else:
                sets[name] = _between(column, value)
        return cls(held, {k: list(v) for k, v in sets.items()}, ranges)

    def within(self, rows: pd.DataFrame) -> pd.Series:
        """Which rows lie in all ranges, ends included; a missing value lies in none."""
        keep = pd.Series(True, index=rows.index)
        for name, (low, high) in self.ranges.items():
            if low is not None:
                keep &= (rows[name] >= low).fillna(False).astype(bool)
            if high is not None:
                keep &= (rows[name] <= high).fillna(False).astype(bool)
        return keep

    def reject(self, draw: Callable[[int, int], pd.DataFrame], n: int, seed: int, most: int) -> pd.DataFrame:
        """n rows within the ranges, from ``draw(rows, seed)``; the accepted share is in ``attrs["accepted"]``.

        Args:
            draw: Rows that meet everything else.
            n: How many.
            seed: Of the draws.
            most: Rows at a time.

        Raises:
            ValueError: Where less than one row in 300 is met.
        """
        kept: list[pd.DataFrame] = []
        drawn = found = 0
        while drawn < max(_LEAST_DRAWN, n * _DRAWN_FOR_ONE):
            share = max(found, 1) / max(drawn, 1)
            wanted = min(max(int(1.2 * (n - found) / share), 256), most)
            rows = draw(wanted, Rng(seed).child("range", len(kept)).seed)
            drawn += len(rows)
            kept.append(rows[self.within(rows)])
            found += len(kept[-1])
            if found >= n:
                out = pd.concat(kept, ignore_index=True).iloc[:n]
                out.attrs["accepted"] = found / drawn
                return out
        raise ValueError(
            f"where={dict(self.ranges)!r}: {found} of {drawn} drawn rows meet it: ask for fewer rows or a wider range"
        )


def held(column: Column, value: Any) -> pd.Series:
    """One value as a series of one row, after making sure that the column can take exactly it.

    Datetimes may be texts; those without a time zone are in that of the column. ``None`` and NaN stand for missing.

    Raises:
        ValueError: For a number outside the range that was seen or between the values that the column can take, and for
            what is no datetime where one is needed.
    """
    dtype = column.pandas_dtype
    kind = family(dtype)
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return pd.Series([None], dtype=object)
    if kind in ("datetime", "timedelta"):
        value = _time(column, value)
    series = pd.Series([value], dtype=object)
    if column.continuous:
        _reachable(column, series, value)
    return series


def levels_of(column: Column, values: Collection[Any]) -> list[int]:
    """Numbers of the levels that a set of values allows; missing is the one after the last.

    Raises:
        ValueError: For an empty set, a column of numbers, or what is none of the levels.
    """
    if len(values) == 0:
        raise column.error("is held to an empty set: need at least one value")
    if column.continuous:
        raise column.error(f"is {column.kind} and takes one value or a range (low, high), no set")
    codes = [int(column.codes(held(column, v))[0]) for v in values]
    if -1 in codes and not column.has_missing:
        raise column.error("had no missing values when fitted: it cannot be held missing")
    return [len(column.levels) if c < 0 else c for c in codes]


def _ends(column: Column, ends: tuple[Any, ...]) -> tuple[Any, Any]:
    """Both ends of a range in the terms of the column."""
    what = "a range is (low, high), with None for an open end"
    if len(ends) != 2 or ends == (None, None):
        raise column.error(f"is held to {ends!r}: {what}")
    times = family(column.pandas_dtype) in ("datetime", "timedelta")
    low, high = (None if v is None else _time(column, v) if times else _number(column, v) for v in ends)
    if low is not None and high is not None and low > high:
        raise column.error(f"is held to {ends!r}: {what}, and low is at most high")
    return low, high


def _number(column: Column, value: Any) -> int | float:
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or np.isnan(number):
        raise column.error(f"is {column.kind}: {value!r} is no end of a range, which is a number or None")
    return number


def _between(column: Column, ends: tuple[Any, ...]) -> list[Any]:
    """The levels from the first to the last one named, of a column whose levels are in order."""
    if not column.ordered:
        raise column.error(
            f"has no order: it takes a value or a set such as {{{', '.join(map(repr, column.levels[:2]))}}}"
        )
    numbers = all(type(v) in (int, float) for v in column.levels)
    if numbers:
        low, high = _ends(column, ends)
        chosen = [v for v in column.levels if (low is None or v >= low) and (high is None or v <= high)]
    else:
        if len(ends) != 2 or ends == (None, None):
            raise column.error(f"is held to {ends!r}: a range is (low, high), with None for an open end")
        place = [None if v is None else levels_of(column, [v])[0] for v in ends]
        last = len(column.levels) if place[1] is None else place[1] + 1
        chosen = list(column.levels[place[0] or 0 : last])
    if not chosen:
        raise column.error(f"has no level within {ends!r}: there are {', '.join(map(repr, column.levels[:10]))}")
    return chosen


def _time(column: Column, value: Any) -> Any:
    dtype = column.pandas_dtype
    moment = family(dtype) == "datetime"
    try:
        parsed = pd.Timestamp(value) if moment else pd.Timedelta(value)
    except (ValueError, TypeError):
        raise column.error(f"is of type {dtype}: {value!r} is none") from None
    zone = getattr(dtype, "tz", None)
    return parsed.tz_localize(zone) if moment and zone is not None and parsed.tz is None else parsed


def _reachable(column: Column, series: pd.Series, value: Any) -> None:
    assert column.minimum is not None and column.maximum is not None
    number = column.numbers(series)
    lattice = column.step is not None
    ends = np.array([0, column.last] if lattice else [column.minimum, column.maximum], dtype=np.float64)
    least, most = column.of_numbers(ends)
    if not ends[0] <= number[0] <= ends[1]:
        raise column.error(f"runs from {least} to {most}: {value!r} is outside")
    back = column.of_numbers(number)
    if column.numbers(back)[0] == number[0] or (not lattice and _same(back, number[0])):
        return
    spacing = f"in steps of {column.step}" if lattice else f"with {column.decimals} decimals"
    if column.grain > 1:
        spacing = f"in steps of {column.grain / 10 ** (column.decimals or 0):g}"
    raise column.error(f"takes values from {least} to {most} {spacing}: {value!r} lies between")


def _same(back: pd.Series, number: float) -> bool:
    """Equal in the precision of the column."""
    base = getattr(back.dtype, "numpy_dtype", back.dtype)
    return bool(back.to_numpy(dtype=base)[0] == np.float64(number).astype(base))
