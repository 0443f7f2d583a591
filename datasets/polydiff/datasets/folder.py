"""Files of the data folder: found, read and checked. Nothing is downloaded or copied."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

VARIABLE = "POLYDIFF_DATA"

__all__ = ["VARIABLE", "data_folder", "read_checked"]


def data_folder() -> Path:
    """The folder named by the environment variable ``POLYDIFF_DATA``, else ``../shared/data`` from where one works."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else Path.cwd().parent / "shared" / "data"


def read_checked(relative: str, sha256: str) -> bytes:
    """The bytes of a file of the data folder, gunzipped where its name ends in ``.gz``.

    Args:
        relative: Path inside the data folder.
        sha256: Hexadecimal digest of the bytes that are returned.

    Raises:
        FileNotFoundError: If the file is absent.
        ValueError: If the bytes are not the pinned ones.
    """
    path = data_folder() / relative
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; set {VARIABLE} to the folder that holds {relative}")
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError) as damaged:
            raise ValueError(f"{path} is no readable gzip file ({damaged}); fetch it again") from damaged
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise ValueError(f"{path} holds bytes of sha256 {found}, but {sha256} is pinned; fetch the original file again")
    return raw
