"""Tables in files: .csv and .parquet, with the dates of a .csv recognised."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from polydiff.core.frames import read_frame

__all__ = ["read_table", "with_dates"]

_ISO = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?\s*(Z|[+-]\d{2}:?\d{2})?)?"


def read_table(path: Path) -> pd.DataFrame:
    """The table of a file that exists and ends in .csv or .parquet.

    Raises:
        ValueError: For parquet without pyarrow.
    """
    frame: pd.DataFrame = read_frame(path)
    return with_dates(frame) if path.suffix.lower() == ".csv" else frame


def with_dates(df: pd.DataFrame) -> pd.DataFrame:
    """The table with columns of texts turned into datetimes where every value is a date in ISO 8601.

    A .csv knows no types: whoever writes ``2024-03-01 12:00`` means a moment, and as a category it would have a level a row.
    The year, month and day must be there in full, so that no number and no code is taken for a date; one value that is none
    leaves the column as it is. Offsets that differ from row to row (winter and summer) come out in UTC, the same moments.
    """
    return df.assign(**{str(n): _dates(s) for n, s in df.items() if _dated(s)}) if len(df) else df


def _dated(series: pd.Series) -> bool:
    if not (pd.api.types.is_object_dtype(series.dtype) or isinstance(series.dtype, pd.StringDtype)):
        return False
    there = series.dropna()
    return (
        len(there) > 0
        and all(isinstance(v, str) for v in there)
        and bool(there.str.fullmatch(_ISO).all())
        and _dates(series) is not None
    )


def _dates(series: pd.Series) -> pd.Series | None:
    """Datetimes, or nothing for a day that is in no calendar."""
    for utc in (False, True):
        try:
            return pd.to_datetime(series, format="ISO8601", utc=utc)
        except ValueError:
            continue
    return None
