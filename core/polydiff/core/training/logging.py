"""What a run says: a bar on a terminal, a line of JSON per record in a file."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm


def progress_bar(total: int | None, text: str, show: bool | None = None) -> Any:
    """A tqdm bar; ``show=None`` means only where stderr is a terminal."""
    return tqdm(total=total, desc=text, disable=not (sys.stderr.isatty() if show is None else show), leave=False)


class JsonLines:
    """Appends records to a file, one JSON object a line, flushed each; numbers that JSON lacks become texts."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        plain = {k: repr(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")
