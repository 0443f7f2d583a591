"""The schema of a table: what each column is, inferred from a DataFrame and open to correction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from polydiff.tabular.columns import Column
from polydiff.tabular.frames import check_frame
from polydiff.tabular.values import EXACT, KINDS, Kind, Name, family, plain, shown, tagged, untagged

__all__ = ["Schema"]

_LARGEST = 1e300  # beyond, differences of two numbers overflow
_FLOATS = ("float16", "float32", "float64", "Float32", "Float64")


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order.

    Attributes:
        columns: At least one; names are distinct texts or integers.
    """

    columns: tuple[Column, ...]

    @classmethod
    def infer(
        cls,
        df: pd.DataFrame,
        overrides: Mapping[Name, Kind] | None = None,
        *,
        few: int = 20,
        rows_a_level: int = 20,
        max_levels: int = 20_000,
    ) -> Schema:
        """Read the schema off data.

        Texts, objects and Categoricals are categories, booleans are booleans, datetimes and timedeltas are datetimes, a column
        of one value (or none) is constant. Numbers with at most ``few`` distinct values, each held by ``rows_a_level`` rows
        on average, are categories too, ordered and of unchanged dtype: a grade or a count of rooms is many spikes, which a
        law of levels draws exactly and a density does not. Other whole numbers are integers (floats with NaN included).

        Args:
            df: The training data.
            overrides: Kinds by column name, for those that shall be modelled otherwise.
            few: Most distinct numbers of a category; 0 for none.
            rows_a_level: Rows that each of them must have on average.
            max_levels: Most levels of a category.

        Raises:
            ValueError: In one sentence that names the column: for duplicate or odd names, infinite numbers, values of a type
                that cannot be kept, integers that float64 cannot hold, too many levels, or an impossible override.
        """
        check_frame(df)
        wanted = dict(overrides or {})
        for name, kind in wanted.items():
            if name not in df.columns:
                raise ValueError(f"overrides name column {name!r}: the columns are {shown(df.columns)}")
            if kind not in KINDS:
                raise ValueError(f"overrides[{name!r}]={kind!r}: need one of {', '.join(KINDS)}")
        found = []
        for place, label in enumerate(df.columns):
            name = int(label) if isinstance(label, np.integer) else label
            reader = _Reader(name, df.iloc[:, place], few, rows_a_level, max_levels)
            found.append(reader.column(wanted.get(name)))
        return cls(tuple(found))

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def names(self) -> tuple[Name, ...]:
        """Names of the columns."""
        return tuple(c.name for c in self.columns)

    def place(self, name: Hashable) -> int:
        """Number of the column of this name.

        Raises:
            ValueError: Where there is none.
        """
        if name not in self.names:
            raise ValueError(f"there is no column {name!r}: the columns are {shown(self.names)}")
        return self.names.index(name)  # type: ignore[arg-type]

    def to_json(self) -> list[dict[str, Any]]:
        """Plain JSON values."""
        return [c.to_json() for c in self.columns]

    @classmethod
    def from_json(cls, config: list[Mapping[str, Any]]) -> Schema:
        """The inverse of ``to_json``."""
        return cls(tuple(Column.from_json(c) for c in config))


# ------------------------------------------------------------------ one column


@dataclass(frozen=True)
class _Reader:
    """Infers one column."""

    name: Name
    series: pd.Series
    few: int
    rows_a_level: int
    max_levels: int

    def error(self, what: str) -> ValueError:
        return ValueError(f"column {self.name!r} {what}")

    def column(self, wanted: Kind | None) -> Column:
        dtype = self._dtype()
        kind = family(self.series.dtype)
        values, missing = plain(self.series, self.series.dtype)
        present = [v for v, gone in zip(values, missing) if not gone]
        self._check(present, missing)
        base = Column(self.name, "constant", dtype, has_missing=bool(missing.any()), **self._extras(missing))
        if kind == "other" or kind == "boolean":
            levels = self._levels(present)
        else:
            levels = tuple(sorted(set(present)))
        if len(levels) == 0 or (len(levels) == 1 and not missing.any()):
            if wanted not in (None, "constant"):
                raise self.error(f"holds one value only: it is constant and cannot be {wanted}")
            return _with(base, kind="constant", levels=levels)
        return self._varying(base, kind, levels, len(present), wanted)

    def _varying(self, base: Column, kind: str, levels: tuple[Any, ...], rows: int, wanted: Kind | None) -> Column:
        whole = False
        natural: Kind
        allowed: tuple[Kind, ...]
        if kind in ("other", "boolean"):
            natural = "boolean" if all(type(v) is bool for v in levels) else "category"
            allowed = ("category", natural)
        elif kind in ("datetime", "timedelta"):
            natural, allowed = "category" if len(levels) == 1 else "datetime", ("datetime", "category")
        else:
            small = len(levels) <= self.few and rows >= self.rows_a_level * len(levels)
            whole = kind == "integer" or all(float(v).is_integer() and abs(v) <= EXACT for v in levels)
            natural = "category" if small or len(levels) == 1 else "integer" if whole else "numeric"
            allowed = ("category", "numeric", "integer") if whole else ("category", "numeric")
        if wanted is not None and wanted not in allowed:
            raise self.error(f"of type {base.dtype} cannot be {wanted}: need {' or '.join(sorted(set(allowed)))}")
        chosen = wanted or natural
        if chosen in ("category", "boolean"):
            return self._category(base, chosen, levels, numbers=kind not in ("other", "boolean"))
        if chosen == "datetime" or whole:
            return self._lattice(base, "datetime" if chosen == "datetime" else "integer", levels)
        decimals = _decimals(levels, self.series.dtype)
        grain = 1 if decimals is None else _grain(levels, decimals)
        return _with(base, kind="numeric", minimum=levels[0], maximum=levels[-1], decimals=decimals, grain=grain)

    def _category(self, base: Column, kind: Kind, levels: tuple[Any, ...], numbers: bool) -> Column:
        if len(levels) > self.max_levels:
            raise self.error(
                f"has {len(levels)} distinct values and a category takes {self.max_levels}: drop it, group its values, or set "
                "max_levels higher"
            )
        return _with(base, kind=kind, levels=levels, ordered=base.ordered or numbers)

    def _lattice(self, base: Column, kind: Kind, levels: tuple[Any, ...]) -> Column:
        first, last = int(levels[0]), int(levels[-1])
        step = math.gcd(*(int(v) - first for v in levels)) or 1
        if (last - first) // step > EXACT:
            raise self.error(
                f"runs from {first} to {last} in steps of {step}, which float64 cannot tell apart beyond 2**53: drop it, "
                "shorten it, or override it as 'category'"
            )
        return _with(base, kind=kind, minimum=first, maximum=last, step=step)

    # -------------------------------------------------------------- what it is made of

    def _dtype(self) -> str:
        dtype = self.series.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            return "category"
        text = _text(dtype)
        known = pd.api.types.is_object_dtype(dtype) or isinstance(dtype, pd.StringDtype) or family(dtype) != "other"
        if family(dtype) == "float":
            known = text in _FLOATS
        try:
            rebuilt = pd.api.types.pandas_dtype(text)
        except (TypeError, ValueError, ImportError):
            rebuilt = None
        # a type that its own name does not give back would silently come out as another one
        if not known or rebuilt is None or rebuilt != dtype or isinstance(dtype, (pd.SparseDtype, pd.ArrowDtype)):
            raise self.error(
                f"is of type {dtype}: need numbers, booleans, datetimes, timedeltas, texts, objects or a Categorical "
                "(convert it with astype)"
            )
        return text

    def _check(self, present: list[Any], missing: np.ndarray) -> None:
        types = set(map(type, present))
        if types <= {str, int, bool} or (types == {float} and max(map(abs, present)) <= _LARGEST):
            return
        for row, v in zip(np.flatnonzero(~missing), present):
            if type(v) is float and not abs(v) <= _LARGEST:
                raise self.error(f"holds {v!r} in row {row}: need finite numbers of at most {_LARGEST:g} in size")
            try:
                kept = untagged(tagged(v))
            except (TypeError, ValueError):
                kept = None
            if type(kept) is not type(v) or kept != v or repr(kept) != repr(v):
                raise self.error(
                    f"holds a value of type {type(v).__name__} in row {row}: need texts, numbers, booleans or dates"
                )

    def _levels(self, present: list[Any]) -> tuple[Any, ...]:
        """Distinct values: of a Categorical in its order, else by type and value."""
        held = {(type(v).__name__, v): v for v in present}
        if isinstance(self.series.dtype, pd.CategoricalDtype):
            return tuple(v for v in self._categories() if (type(v).__name__, v) in held)
        return tuple(held[k] for k in sorted(held))

    def _categories(self) -> list[Any]:
        return [v.item() if isinstance(v, np.generic) else v for v in self.series.cat.categories.astype(object)]

    def _extras(self, missing: np.ndarray) -> dict[str, Any]:
        dtype = self.series.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            categories = self._categories()
            self._check(categories, np.zeros(len(categories), dtype=bool))
            text = _text(dtype.categories.dtype)
            kept = pd.Index(categories, dtype=text)
            if kept.dtype != dtype.categories.dtype or not kept.equals(dtype.categories):
                raise self.error(f"has categories of type {text}, which cannot be kept: convert them to texts")
            return {"categories": tuple(categories), "category_dtype": text, "ordered": bool(dtype.ordered)}
        if isinstance(dtype, pd.StringDtype):
            return {"missing_mark": "NA" if dtype.na_value is pd.NA else "nan"}
        if pd.api.types.is_object_dtype(dtype) and missing.any():
            mark = self.series.iloc[int(np.argmax(missing))]
            text = {type(None): "None", type(pd.NA): "NA", type(pd.NaT): "NaT"}.get(type(mark), "nan")
            return {"missing_mark": text}
        return {}


def _text(dtype: Any) -> str:
    """The name of a dtype that gives it back; that of nullable texts alone would leave their storage open."""
    nullable = isinstance(dtype, pd.StringDtype) and str(dtype) == "string"
    return f"string[{dtype.storage}]" if nullable else str(dtype)


def _with(column: Column, **changes: Any) -> Column:
    return dataclasses.replace(column, **changes)


def _decimals(levels: tuple[float, ...], dtype: Any) -> int | None:
    """Fewest decimals that give all numbers back in their own precision; ``None`` where more than six are needed."""
    base = getattr(dtype, "numpy_dtype", dtype)
    exact = np.array(levels, dtype=np.float64)
    for places in range(7):
        if (np.round(exact, places).astype(base) == exact.astype(base)).all():
            return places
    return None


def _grain(levels: tuple[float, ...], decimals: int) -> int:
    """The largest number of units of the last decimal that all differences are multiples of."""
    units = [round(v * 10**decimals) for v in levels]
    return math.gcd(*(u - units[0] for u in units)) or 1
