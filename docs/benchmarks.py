"""The benchmark page: renders docs/benchmarks.md from docs/evidence; ``--check`` verifies and changes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def entries(root: Path = ROOT) -> list[dict[str, Any]]:
    """All figures, by cluster and name."""
    found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((root / "docs" / "evidence").glob("*/*.json"))]
    return sorted(found, key=lambda e: (e["cluster"], e["name"]))


def render(found: list[dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# Benchmarks",
        "",
        "Measured figures, each with the command that made it, its floor (the same metric between real data and real data)",
        "and what was asked for. Generated from `docs/evidence` by `make docs`.",
    ]
    for cluster in sorted({e["cluster"] for e in found}):
        head = [
            "",
            f"## {cluster}",
            "",
            "| figure | value | interval | floor | asked for | metric | made by |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += head + [_line(e) for e in found if e["cluster"] == cluster]
    return "\n".join(lines) + "\n"


def _line(e: dict[str, Any]) -> str:
    interval = "" if e["interval"] is None else f"{_number(e['interval'][0])} to {_number(e['interval'][1])}"
    floor = "" if e["floor"] is None else _number(e["floor"])
    others = "".join(f"; {k}: {_number(v)}" for k, v in e["baselines"].items())
    note = f". {e['note']}" if e["note"] else ""
    made = f"`{e['command']}` at {e['commit']}, torch {e['versions']['torch']}, {e['date']}"
    cells = (e["name"], f"**{_number(e['value'])}**{others}", interval, floor, e["bar"] or "", e["metric"] + note, made)
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _number(value: float) -> str:
    return f"{value:.4g}"


def main() -> int:
    """Command line."""
    page, text = ROOT / "docs" / "benchmarks.md", render(entries())
    if "--check" in sys.argv:
        if page.read_text(encoding="utf-8") != text:
            print("benchmarks: docs/benchmarks.md is not what the evidence renders to: run make docs", file=sys.stderr)
            return 1
        return 0
    page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
