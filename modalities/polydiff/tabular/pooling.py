"""One table from the draws of a multiple imputation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from polydiff.tabular.columns import Column
from polydiff.tabular.schema import Schema

__all__ = ["pooled"]


def pooled(schema: Schema, draws: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The median of the numbers and the commonest of the levels: the guesses of least absolute error and most hits.

    Args:
        schema: Of the columns.
        draws: Completed tables of the same rows, in the columns and types of the schema.

    Raises:
        ValueError: For no table.
    """
    if not draws:
        raise ValueError("no draw was given: need at least one completed table")
    columns = [_middle(c, [d[c.name] for d in draws]) for c in schema]
    out = pd.concat(columns, axis=1, ignore_index=True)
    out.columns = draws[0].columns
    out.index = draws[0].index
    return out


def _middle(column: Column, draws: Sequence[pd.Series]) -> pd.Series:
    if column.kind == "constant":
        return draws[0].reset_index(drop=True)
    if column.continuous:
        return column.of_numbers(np.median([column.numbers(s) for s in draws], 0))
    codes = np.stack([column.codes(s) for s in draws], 1)
    votes = (codes[:, :, None] == np.arange(len(column.levels))).sum(1)
    return column.of_codes(votes.argmax(1))
