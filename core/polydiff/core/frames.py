"""Tables in files, .csv and .parquet; pandas is imported when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["ENDINGS", "read_frame", "write_frame"]

ENDINGS = (".csv", ".parquet")


def read_frame(path: Path) -> Any:
    """The pandas frame of a file that exists and ends in one of ``ENDINGS``.

    Raises:
        ValueError: For parquet without pyarrow.
    """
    import pandas as pd

    if path.suffix.lower() == ".csv":
        return pd.read_csv(path)
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise ValueError(f"data={str(path)!r}: parquet needs pyarrow; .csv needs nothing") from None


def write_frame(frame: Any, path: Path) -> None:
    """Write a pandas frame, without its row index, making folders as needed.

    Raises:
        ValueError: For parquet without pyarrow, and for another ending.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"out={path}: need a name ending in .csv or .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".csv":
        frame.to_csv(path, index=False)
        return
    try:
        frame.to_parquet(path, index=False)
    except ImportError:
        raise ValueError(f"out={path}: parquet needs pyarrow; .csv needs nothing") from None
