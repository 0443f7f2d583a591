"""Frames as they come: refused where they are no table, matched to the columns of a schema, unseen values made missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from polydiff.tabular.columns import Column
from polydiff.tabular.values import shown

__all__ = ["Unseen", "check_frame", "matched"]

Unseen = Literal["error", "missing"]


def check_frame(df: Any) -> None:
    """Refuse what is no table with rows and distinct, plain column names."""
    if not isinstance(df, pd.DataFrame):
        raise ValueError(f"data of type {type(df).__name__}: need a pandas DataFrame")
    if df.shape[1] == 0:
        raise ValueError("the table has no columns: need at least one")
    for name in df.columns:
        if isinstance(name, bool) or not isinstance(name, (str, int, np.integer)):
            raise ValueError(f"column {name!r} is named by a {type(name).__name__}: need texts or integers")
    if not df.columns.is_unique:
        name = df.columns[df.columns.duplicated()][0]
        raise ValueError(f"column {name!r} occurs {int((df.columns == name).sum())} times: need distinct names")
    if len(df) == 0:
        raise ValueError(f"the table has columns {shown(df.columns)} but 0 rows: need at least one")


def matched(columns: Sequence[Column], df: Any, *, partial: bool, unseen: Unseen = "error") -> dict[int, pd.Series]:
    """Series by column number.

    Args:
        columns: Of the training data.
        df: A table of them, in any order.
        partial: Whether columns may be left out.
        unseen: ``"missing"`` makes values that are none of a column's levels missing; ``"error"`` leaves them, to be refused.

    Raises:
        ValueError: For no table, an unknown column, or one that is not there.
    """
    if unseen not in ("error", "missing"):
        raise ValueError(f"unseen={unseen!r}: need 'error' or 'missing'")
    check_frame(df)
    names = [c.name for c in columns]
    for name in df.columns:
        if name not in names:
            raise ValueError(f"column {name!r} is unknown to this model: it knows {shown(names)}")
    found = {i: df[name] for i, name in enumerate(names) if name in df.columns}
    if not partial and len(found) < len(names):
        name = next(name for i, name in enumerate(names) if i not in found)
        raise ValueError(f"there is no column {name!r} in the table: need {shown(names)}")
    return found if unseen == "error" else {i: _known(columns[i], series) for i, series in found.items()}


def _known(column: Column, series: pd.Series) -> pd.Series:
    if column.continuous:
        return series
    strange = column.strange(series)
    return series.astype(object).mask(strange, None) if strange.any() else series
