"""Evidence: one JSON file a figure under docs/evidence, from which docs and ledger are made."""

from __future__ import annotations

import datetime
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = ("name", "cluster", "metric", "value", "versions", "commit", "command", "date", "cpu_seconds")


def record(
    cluster: str,
    name: str,
    metric: str,
    value: float,
    *,
    interval: Sequence[float] | None = None,
    floor: float | None = None,
    baselines: Mapping[str, float] | None = None,
    bar: str | None = None,
    seeds: Sequence[int] | None = None,
    note: str | None = None,
    root: Path = ROOT,
) -> Path:
    """Write ``docs/evidence/<cluster>/<name>.json``.

    Args:
        cluster: Modality or theme.
        name: Of the figure.
        metric: What was measured, with implementation and sample sizes.
        value: The figure.
        interval: Low and high end of its confidence interval.
        floor: The same metric between real data and real data.
        baselines: The same metric for others, by name.
        bar: What was asked for, in words.
        seeds: That went into the figure.
        note: Anything that a reader must know.
        root: Of the repository.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    entry = {
        "name": name,
        "cluster": cluster,
        "metric": metric,
        "value": float(value),
        "interval": None if interval is None else [float(v) for v in interval],
        "floor": None if floor is None else float(floor),
        "baselines": dict(baselines or {}),
        "bar": bar,
        "seeds": list(seeds or []),
        "note": note,
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "versions": versions(),
        "commit": commit(root),
        "command": " ".join(sys.argv),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    path = root / "docs" / "evidence" / cluster / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def check(entry: Mapping[str, Any]) -> list[str]:
    """What is wrong with an entry; nothing for a good one."""
    wrong = [f"{key} is missing" for key in REQUIRED if entry.get(key) in (None, "")]
    if not isinstance(entry.get("value"), (int, float)):
        return [*wrong, "value is no number"]
    interval = entry.get("interval")
    if interval is not None and not (len(interval) == 2 and interval[0] <= entry["value"] <= interval[1]):
        wrong.append("the interval does not hold the value")
    return wrong


def versions() -> dict[str, str]:
    """Of what could change a figure."""
    import importlib.metadata as metadata

    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{p: metadata.version(p) for p in ("numpy", "scipy", "scikit-learn", "polydiff")},
    }


def commit(root: Path) -> str:
    """The commit that made the figure; marked where the tree was changed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, check=False, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (
        "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
    )
