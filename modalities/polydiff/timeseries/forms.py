"""The forms in which people have series, read as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from polydiff.timeseries.series import Collection, Form, Item, assembled
from polydiff.timeseries.stamps import Stamps

__all__ = ["collect"]


def collect(
    data: Any,
    *,
    freq: str | None = None,
    id_col: str = "unique_id",
    time_col: str = "ds",
    target: str | Sequence[str] | None = None,
    known: Sequence[str] = (),
    static: Sequence[str] = (),
    joint: bool = True,
) -> Collection:
    """Read series.

    Args:
        data: A long frame (a row a series and stamp), a wide frame (a column a channel, stamps in the index), a dict of
            arrays or pandas Series by name, a list of arrays, or an array ``(N, L)`` or ``(N, L, D)``. NaN is missing.
        freq: Of datetimes; inferred if left out.
        id_col: Of a long frame.
        time_col: Of a long frame.
        target: Value columns of a long frame; ``"y"`` or every other numeric one.
        known: Columns that are known of the future as well.
        static: Columns of a long frame that are constant in a series: numbers or texts.
        joint: The columns of a wide frame are channels of one series, not series of their own.

    Raises:
        ValueError: For stamps out of order or repeated, values that are no numbers, and forms of none of these kinds.
    """
    if isinstance(data, Collection):
        return data
    if isinstance(data, pd.Series):
        data = data.to_frame(data.name if data.name is not None else "y")
    known = tuple(known)
    if isinstance(data, pd.DataFrame):
        if time_col in data.columns:
            return _long(data, freq, id_col, time_col, target, known, tuple(static))
        return _wide(data, freq, target, known, joint)
    if isinstance(data, Mapping):
        items = [(name, *_item(name, value)) for name, value in data.items()]
        return _gathered(items, "dict", freq)
    if isinstance(data, torch.Tensor):
        data = data.detach().cpu().numpy()
    if isinstance(data, np.ndarray):
        if data.ndim not in (2, 3) or not len(data):
            raise ValueError(f"array of shape {data.shape}: need (N, L) or (N, L, D), N series of L steps")
        return _gathered([(i, *_item(i, row)) for i, row in enumerate(data)], "array", freq)
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _gathered([(i, *_item(i, row)) for i, row in enumerate(data)], "dict", freq)
    raise ValueError(
        f"data of type {type(data).__name__}: need a long frame ({id_col}, {time_col}, y), a wide frame, a dict of arrays or "
        "an array (N, L, D)"
    )


# ------------------------------------------------------------------ forms


def _long(
    df: pd.DataFrame,
    freq: str | None,
    id_col: str,
    time_col: str,
    target: str | Sequence[str] | None,
    known: tuple[str, ...],
    static: tuple[str, ...],
) -> Collection:
    taken = {id_col, time_col, *known, *static}
    if target is None:
        rest = [c for c in df.columns if c not in taken]
        names = ["y"] if "y" in rest else rest
    else:
        names = [target] if isinstance(target, str) else list(target)
    _present(df, [*names, *known, *static])
    if not names:
        raise ValueError(f"the frame has no value column beside {sorted(map(str, taken))}")
    if id_col in df.columns and df[id_col].isna().any():
        raise ValueError(f"row {int(df[id_col].isna().argmax())} has no {id_col!r}: name the series that it belongs to")
    groups = df.groupby(id_col, sort=False) if id_col in df.columns else [("y", df)]
    items = []
    for name, rows in groups:
        stamps = _stamps(rows[time_col], name)
        items.append(
            (name, stamps, _numbers(rows, names, name), _numbers(rows, known, name), _constants(rows, static, name))
        )
    return assembled(items, tuple(map(str, names)), known, "long", freq, static)


def _wide(
    df: pd.DataFrame, freq: str | None, target: str | Sequence[str] | None, known: tuple[str, ...], joint: bool
) -> Collection:
    chosen = [target] if isinstance(target, str) else list(target) if target is not None else None
    names = chosen if chosen is not None else [c for c in df.columns if c not in known]
    _present(df, [*names, *known])
    if not names:
        raise ValueError("the frame has no column of values")
    stamps, features = _stamps(df.index.to_series(), "index"), _numbers(df, known, "index")
    if joint:
        items: list[Item] = [("y", stamps, _numbers(df, names, "index"), features, ())]
        return assembled(items, tuple(map(str, names)), known, "wide", freq)
    items = [(c, stamps, _numbers(df, [c], c), features, ()) for c in names]
    return assembled(items, ("y",), known, "wide", freq)


def _item(name: Any, value: Any) -> tuple[Stamps, np.ndarray, np.ndarray, tuple[Any, ...]]:
    if isinstance(value, (pd.Series, pd.DataFrame)):
        frame = value.to_frame() if isinstance(value, pd.Series) else value
        values = _numbers(frame, list(frame.columns), name)
        return _stamps(frame.index.to_series(), name), values, np.zeros((len(frame), 0)), ()
    try:
        values = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"series {name!r} holds values that are no numbers") from None
    if values.ndim not in (1, 2):
        raise ValueError(f"series {name!r} has shape {values.shape}: need (L,) or (L, D)")
    _finite(values, name)
    if not len(values):
        raise ValueError(f"series {name!r} has no step")
    values = values.reshape(len(values), -1)
    return pd.RangeIndex(len(values)), values, np.zeros((len(values), 0)), ()


def _gathered(items: list[Item], form: Form, freq: str | None) -> Collection:
    widths = {v.shape[1] for _, _, v, *_ in items}
    if len(widths) > 1:
        raise ValueError(f"series of {sorted(widths)} channels together: all need the same number")
    d = widths.pop() if widths else 1
    return assembled(items, ("y",) if d == 1 else tuple(f"y{i}" for i in range(d)), (), form, freq)


# ------------------------------------------------------------------ columns


def _stamps(column: pd.Series, name: Any) -> Stamps:
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return pd.DatetimeIndex(column)
    if isinstance(column.dtype, pd.PeriodDtype):
        return pd.DatetimeIndex(column.dt.to_timestamp())
    if pd.api.types.is_bool_dtype(column.dtype):
        raise ValueError(f"stamps of series {name!r} are booleans: need datetimes or numbers")
    if pd.api.types.is_numeric_dtype(column.dtype):
        return pd.Index(column.to_numpy())
    try:
        return pd.DatetimeIndex(pd.to_datetime(column))
    except (ValueError, TypeError):
        raise ValueError(f"stamp {column.iloc[0]!r} of series {name!r} is neither a date nor a number") from None


def _numbers(frame: pd.DataFrame, names: Sequence[Any], series: Any) -> np.ndarray:
    columns = []
    for name in names:
        try:
            column = pd.to_numeric(frame[name])
        except (ValueError, TypeError):
            raise ValueError(
                f"column {name!r} of series {series!r} holds values that are no numbers, such as "
                f"{frame[name].dropna().iloc[0]!r}"
            ) from None
        columns.append(column.to_numpy(dtype=np.float64, na_value=np.nan))
    out = np.stack(columns, 1) if columns else np.zeros((len(frame), 0))
    _finite(out, series)
    return out


def _finite(values: np.ndarray, series: Any) -> None:
    if np.isinf(values).any():
        raise ValueError(f"series {series!r} holds infinite values: mark missing ones as NaN")


def _constants(rows: pd.DataFrame, names: Sequence[str], series: Any) -> tuple[Any, ...]:
    for name in names:
        if rows[name].nunique(dropna=False) != 1:
            raise ValueError(f"static column {name!r} changes within series {series!r}: make it a known column instead")
    return tuple(rows[name].iloc[0] for name in names)


def _present(frame: pd.DataFrame, names: Sequence[Any]) -> None:
    for name in names:
        if name not in frame.columns:
            raise ValueError(f"column {name!r} is not in the frame: there are {', '.join(map(str, frame.columns))}")
