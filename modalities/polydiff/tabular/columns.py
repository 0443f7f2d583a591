"""One column of a table: what it holds, and its values as levels or numbers and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from polydiff.tabular.values import Kind, Name, family, key_of, plain, shown, tagged, unit_of, untagged

_STRANGE = -2  # the place of a value that is no level
_NAT = np.iinfo(np.int64).min
_MARKS: dict[str, Any] = {"nan": np.nan, "None": None, "NA": pd.NA, "NaT": pd.NaT}

__all__ = ["Column", "Kind", "Name"]


@dataclass(frozen=True)
class Column:
    """What is known of one column; plain values only.

    A category is one of ``levels``. Integers and datetimes lie on the lattice ``minimum + step · k``, so that prices in
    hundreds and days come back as such; ``k`` is what the transforms see, exact however large the values. Other numbers are
    rounded to ``decimals`` where all of the training data were, in steps of ``grain`` units of the last one: lengths that were
    read off in half centimetres come back as such.

    Attributes:
        name: Of the column.
        kind: How it is modelled; a constant is not modelled but filled back.
        dtype: Of the pandas column, as text.
        has_missing: Whether values were missing.
        levels: Values of a category, boolean or constant, in order; ticks for datetimes.
        ordered: Whether the order of the levels means something.
        categories: The category set of a pandas Categorical, used or not.
        category_dtype: Type of these categories, as text.
        minimum: Smallest number (a tick for datetimes).
        maximum: Largest number.
        step: Of the lattice.
        decimals: To which numbers are rounded; ``None`` where they are not.
        grain: Units of the last decimal between two numbers, counted from the minimum.
        missing_mark: What stands for a missing value in an object column: nan, None, NA or NaT.
    """

    name: Name
    kind: Kind
    dtype: str
    has_missing: bool = False
    levels: tuple[Any, ...] = ()
    ordered: bool = False
    categories: tuple[Any, ...] | None = None
    category_dtype: str | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    step: int | None = None
    decimals: int | None = None
    grain: int = 1
    missing_mark: str = "nan"

    @property
    def continuous(self) -> bool:
        """Whether it is modelled as a number."""
        return self.kind in ("numeric", "integer", "datetime")

    @property
    def last(self) -> int:
        """Place of the maximum on the lattice."""
        assert self.minimum is not None and self.maximum is not None and self.step is not None
        return (int(self.maximum) - int(self.minimum)) // self.step

    @property
    def pandas_dtype(self) -> Any:
        """The dtype, rebuilt from its text."""
        return pd.api.types.pandas_dtype(self.dtype)

    def error(self, what: str) -> ValueError:
        """A refusal that names this column."""
        return ValueError(f"column {self.name!r} {what}")

    # -------------------------------------------------------------- levels

    def codes(self, series: pd.Series) -> np.ndarray:
        """Level numbers (N,) int64, −1 where missing.

        Raises:
            ValueError: For a value that is none of the levels.
        """
        out = self._places(series)
        if (out == _STRANGE).any():
            row = int(np.argmax(out == _STRANGE))
            what = "is constant" if self.kind == "constant" else "takes"
            allowed = shown(self.levels) if self.levels else "only missing values"
            raise self.error(f"{what} {allowed}: row {row} holds {_shown(series, row)}")
        return out

    def strange(self, series: pd.Series) -> np.ndarray:
        """Where a value is there and none of the levels, bool (N,).

        Raises:
            ValueError: For a value that could not be a level, such as a list.
        """
        out = np.asarray(self._places(series) == _STRANGE)
        for row in np.flatnonzero(out):
            if not isinstance(series.iloc[row], Hashable):
                what = type(series.iloc[row]).__name__
                raise self.error(f"holds a value of type {what} in row {row}: need texts, numbers, booleans or dates")
        return out

    def _places(self, series: pd.Series) -> np.ndarray:
        values, missing = self._plain(series)
        known = {key_of(v): i for i, v in enumerate(self.levels)}
        out = np.full(len(values), -1, dtype=np.int64)
        for i in np.flatnonzero(~missing):
            try:
                out[i] = known.get(key_of(values[i]), _STRANGE)
            except TypeError:  # a list cannot be a level
                out[i] = _STRANGE
        return out

    def of_codes(self, codes: np.ndarray) -> pd.Series:
        """The column of level numbers (N,), −1 where missing."""
        if self.categories is not None:
            place = {key_of(v): i for i, v in enumerate(self.categories)}
            where = np.array([*(place[key_of(v)] for v in self.levels), -1], dtype=np.int64)
            return pd.Series(pd.Categorical.from_codes(where[codes], dtype=self._categorical()))
        table = np.empty(len(self.levels) + 1, dtype=object)
        table[:-1] = self.levels
        table[-1] = self.levels[0] if self.levels else 0
        return self._series(table[codes], codes < 0)

    def _categorical(self) -> pd.CategoricalDtype:
        return pd.CategoricalDtype(pd.Index(list(self.categories or ()), dtype=self.category_dtype), self.ordered)

    # -------------------------------------------------------------- numbers

    def numbers(self, series: pd.Series) -> np.ndarray:
        """Float64 (N,) for the transforms: lattice places or the numbers themselves; NaN where missing.

        Raises:
            ValueError: For anything that is no finite number.
        """
        values, missing = self._plain(series)
        rows = np.flatnonzero(~missing)
        present = [values[i] for i in rows]
        odd = set(map(type, present)) - {int, float}
        for i, v in zip(rows, present) if odd or np.inf in present or -np.inf in present else ():
            if type(v) not in (int, float) or v in (np.inf, -np.inf):
                raise self.error(f"holds numbers: row {i} is {_shown(series, int(i))}, need a finite one")
        if self.step is not None:  # in Python's integers, so that differences beyond 2⁵³ are exact
            present = [(v - self.minimum) / self.step for v in present]
        out = np.full(len(values), np.nan)
        out[rows] = present
        return out

    def of_numbers(self, numbers: np.ndarray) -> pd.Series:
        """The column of float64 numbers (N,), NaN where missing; rounded and clamped to the range that was seen."""
        assert self.minimum is not None and self.maximum is not None
        missing = np.isnan(numbers)
        held = np.where(missing, 0.0 if self.step is not None else float(self.minimum), numbers)
        if self.step is None:
            rounded = held if self.decimals is None else np.round(self._grained(held), self.decimals)
            return self._series(np.clip(rounded, self.minimum, self.maximum), missing)
        place = np.rint(held).clip(0, self.last).astype(np.uint64)
        # modulo 2⁶⁴, so that neither a step nor a start beyond int64 overflows on the way
        origin, step = (np.array([int(v) % 2**64], dtype=np.uint64) for v in (self.minimum, self.step))
        ticks = origin + step * place
        unsigned = self.minimum >= 0
        return self._series(ticks if unsigned else ticks.view(np.int64), missing)

    def _grained(self, numbers: np.ndarray) -> np.ndarray:
        if self.grain == 1:
            return numbers
        assert self.minimum is not None and self.decimals is not None
        width = self.grain * 10.0**-self.decimals
        return np.asarray(self.minimum + width * np.rint((numbers - self.minimum) / width))

    # -------------------------------------------------------------- series

    def _plain(self, series: pd.Series) -> tuple[list[Any], np.ndarray]:
        try:
            return plain(series, self.pandas_dtype)
        except (ValueError, TypeError) as wrong:
            raise self.error(f"is of type {self.dtype} and cannot hold these values: {wrong}") from None

    def _series(self, values: np.ndarray, missing: np.ndarray) -> pd.Series:
        dtype, kind = self.pandas_dtype, family(self.pandas_dtype)
        if kind in ("datetime", "timedelta"):
            ticks = np.where(missing, _NAT, values.astype(np.int64))
            if kind == "timedelta":
                return pd.Series(pd.TimedeltaIndex(ticks.view(f"m8[{unit_of(dtype)}]")))
            index = pd.DatetimeIndex(ticks.view(f"M8[{unit_of(dtype)}]"))
            zone = getattr(dtype, "tz", None)
            return pd.Series(index if zone is None else index.tz_localize("UTC").tz_convert(zone))
        if kind == "other":
            held = np.empty(len(values), dtype=object)
            held[:] = values
            held[missing] = _MARKS[self.missing_mark]
            return pd.Series(held, dtype=dtype)
        base = getattr(dtype, "numpy_dtype", dtype)
        out = pd.Series(values.astype(base), dtype=dtype)
        if missing.any():
            out[missing] = np.nan if base is dtype else pd.NA
        return out

    # -------------------------------------------------------------- saving

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; levels keep their types."""
        plain_fields = asdict(self)
        plain_fields["levels"] = [tagged(v) for v in self.levels]
        plain_fields["categories"] = None if self.categories is None else [tagged(v) for v in self.categories]
        return plain_fields

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Column:
        """The inverse of ``to_json``; an unknown or missing key is refused by name."""
        names = set(cls.__dataclass_fields__)
        if wrong := set(config) ^ names:
            raise ValueError(f"a column with unknown or missing keys {sorted(wrong)}: need exactly {sorted(names)}")

        def levels(found: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(untagged(v) for v in found)

        categories = config["categories"]
        return cls(
            **{
                **config,
                "levels": levels(config["levels"]),
                "categories": None if categories is None else levels(categories),
            }
        )


def _shown(series: pd.Series, row: int) -> str:
    value = series.iloc[row]
    return repr(value.item() if isinstance(value, np.generic) and value.dtype.kind in "biufU" else value)
