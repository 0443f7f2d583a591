"""What the command line remembers of a training, beside the saved generator and no part of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["read_note", "write_note"]


def write_note(folder: Path, note: Mapping[str, Any]) -> None:
    """Write ``<folder>.training.json``."""
    _path(folder).write_text(json.dumps(note, indent=1))


def read_note(folder: Path) -> dict[str, Any]:
    """What was written for a folder; empty where nothing was."""
    path = _path(folder)
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _path(folder: Path) -> Path:
    return folder.absolute().parent / f"{folder.absolute().name}.training.json"
