"""Values of a column as plain Python values, and as JSON that remembers their types."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

Kind = Literal["numeric", "integer", "category", "boolean", "datetime", "constant"]
Name = str | int
Family = Literal["boolean", "integer", "float", "datetime", "timedelta", "other"]

KINDS: tuple[Kind, ...] = get_args(Kind)
EXACT = 2**53  # integers up to here are exact in float64

__all__ = [
    "EXACT",
    "KINDS",
    "Family",
    "Kind",
    "Name",
    "family",
    "key_of",
    "plain",
    "shown",
    "tagged",
    "unit_of",
    "untagged",
]


def family(dtype: Any) -> Family:
    """What a pandas dtype counts as; a Categorical is ``"other"``, whatever its categories."""
    types = pd.api.types
    if isinstance(dtype, pd.CategoricalDtype):
        return "other"
    if types.is_bool_dtype(dtype):
        return "boolean"
    if types.is_integer_dtype(dtype):
        return "integer"
    if types.is_float_dtype(dtype):
        return "float"
    if types.is_datetime64_any_dtype(dtype):
        return "datetime"
    return "timedelta" if types.is_timedelta64_dtype(dtype) else "other"


def unit_of(dtype: Any) -> str:
    """Resolution of a datetime or timedelta dtype: s, ms, us or ns."""
    return str(dtype.unit) if hasattr(dtype, "unit") else str(np.datetime_data(dtype)[0])


def plain(series: pd.Series, dtype: Any) -> tuple[list[Any], np.ndarray]:
    """Python values of a series, comparable with those of a column of this dtype, and where they are missing (N,).

    Datetimes become integer ticks since the epoch; whole floats become integers where the column holds integers.
    """
    missing = series.isna().to_numpy(dtype=bool)
    kind = family(dtype)
    if kind in ("datetime", "timedelta") and not missing.all():
        if family(series.dtype) not in ("other", kind):
            raise ValueError(f"values of type {series.dtype}: need {dtype}")
        index = pd.DatetimeIndex(series) if kind == "datetime" else pd.TimedeltaIndex(series)
        if kind == "datetime" and (index.tz is None) != (getattr(dtype, "tz", None) is None):
            raise ValueError(f"datetimes {'without' if index.tz is None else 'with'} a time zone: need {dtype}")
        ticks = index.as_unit(unit_of(dtype))
        if not ((ticks == index) | missing).all():
            raise ValueError(f"times finer than {unit_of(dtype)}: need {dtype}")
        return ticks.asi8.tolist(), missing
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biuf":
        values = series.to_numpy().tolist()
    else:
        values = [v.item() if isinstance(v, np.generic) else v for v in series.astype(object)]
    if kind == "integer":
        values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    elif kind == "float":
        values = [float(v) + 0.0 if type(v) in (int, float) else v for v in values]  # −0.0 becomes 0.0
    return values, missing


def tagged(value: Any) -> Any:
    """A level as a JSON value that remembers its type.

    Raises:
        TypeError: For anything but texts, finite numbers, booleans, dates, datetimes, timedeltas, decimals, intervals.
    """
    if type(value) in (str, bool, int) or (type(value) is float and np.isfinite(value)):
        return value
    if type(value) is datetime.date:
        return {"date": value.isoformat()}
    if type(value) is decimal.Decimal and value.is_finite():
        return {"decimal": str(value)}
    if isinstance(value, pd.Timestamp):
        return {"timestamp": value.isoformat()}
    if isinstance(value, pd.Timedelta):
        return {"timedelta": value.isoformat()}
    if isinstance(value, pd.Interval):
        return {"interval": [tagged(_python(value.left)), tagged(_python(value.right)), value.closed]}
    raise TypeError(type(value).__name__)


def untagged(value: Any) -> Any:
    """The inverse of ``tagged``."""
    if not isinstance(value, Mapping):
        return value
    ((tag, content),) = value.items()
    match tag:
        case "date":
            return datetime.date.fromisoformat(content)
        case "decimal":
            return decimal.Decimal(content)
        case "timestamp":
            return pd.Timestamp(content)
        case "timedelta":
            return pd.Timedelta(content)
        case "interval":
            return pd.Interval(untagged(content[0]), untagged(content[1]), closed=content[2])
    raise ValueError(f"a level of type {tag!r}: need date, decimal, timestamp, timedelta or interval")


def shown(values: Iterable[Any], most: int = 10) -> str:
    """Values in an error: at most ``most`` of them."""
    found = list(values)
    return ", ".join(map(repr, found[:most])) + (f", … ({len(found)} in all)" if len(found) > most else "")


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def key_of(value: Any) -> tuple[str, Any]:
    """1, 1.0 and True are three levels."""
    return type(value).__name__, value
