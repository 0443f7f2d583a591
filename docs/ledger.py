"""The ledger of systems: checks docs/systems.toml and renders docs/systems.md from it.

``python docs/ledger.py`` renders; ``--check`` verifies and changes nothing; ``--import TSV`` adds rows of the project's
list that are missing. To mark a system, edit its table in the TOML by hand and render.

A row has ``name``, ``title``, ``kind``, ``cluster``, ``home`` and ``status``. ``works`` and ``partial`` rows also have
``where`` (import path), ``test`` (pytest node id), ``figure`` (what was measured), and may have ``baseline`` and ``note``;
a ``partial`` row must have a ``note`` that says what falls short. A ``survey`` row names the ``page`` that covers it once
there is one; ``out of scope`` rows are of no use to the project.
"""

from __future__ import annotations

import argparse
import ast
import csv
import importlib
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STATUSES = ("works", "partial", "not yet", "survey", "out of scope")
FIELDS = ("name", "title", "kind", "cluster", "home", "status", "where", "test", "figure", "baseline", "note", "page")
COUNT = 366

Rows = Mapping[str, Mapping[str, str]]


def read(path: Path) -> dict[str, dict[str, str]]:
    """The rows by id."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def write(path: Path, rows: Rows) -> None:
    """The rows in order of their ids, fields in a fixed order."""
    parts = [HEAD]
    for key in sorted(rows):
        lines = [f"[{key}]"] + [f"{f} = {_quote(rows[key][f])}" for f in FIELDS if rows[key].get(f)]
        parts.append("\n".join(lines))
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


HEAD = "# One table a published system; see docs/ledger.py for the fields. Rendered to systems.md by `make docs`."


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def problems(rows: Rows, root: Path = ROOT, count: int = COUNT) -> list[str]:
    """Everything that is wrong, one sentence each; empty for a good ledger."""
    wrong = [] if len(rows) == count else [f"the ledger has {len(rows)} rows; there are {count} systems"]
    expected = {f"S{i:03d}" for i in range(1, count + 1)}
    wrong += [f"{key} is no id of a system" for key in sorted(set(rows) - expected)]
    wrong += [f"{key} is missing" for key in sorted(expected - set(rows))]
    names = Counter(r.get("name", "") for r in rows.values())
    wrong += [f"the name {n!r} stands {k} times" for n, k in names.items() if k > 1]
    for key, row in rows.items():
        wrong += [f"{key}: {text}" for text in _row_problems(row, root)]
    return wrong


def _row_problems(row: Mapping[str, str], root: Path) -> list[str]:
    status, wrong = row.get("status"), []
    wrong += [f"unknown field {f!r}" for f in row if f not in FIELDS]
    wrong += [f"{f} is empty" for f in FIELDS[:6] if not row.get(f)]
    if status not in STATUSES:
        return [*wrong, f"status {status!r} is none of {', '.join(STATUSES)}"]
    if status in ("works", "partial"):
        wrong += [f"a row that {status} needs {f}" for f in ("where", "test", "figure") if not row.get(f)]
        if status == "partial" and not row.get("note"):
            wrong.append("a partial row needs a note that says what falls short")
        if row.get("where") and not importable(row["where"]):
            wrong.append(f"{row['where']} does not import")
        if row.get("test") and not test_exists(row["test"], root):
            wrong.append(f"there is no test {row['test']}")
    return wrong


def importable(path: str) -> bool:
    """Whether ``package.module.Name`` imports."""
    module, _, name = path.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False


def test_exists(node: str, root: Path) -> bool:
    """Whether ``file::test`` or ``file::Class::test`` is defined."""
    file, *names = re.sub(r"\[.*\]$", "", node).split("::")
    path = root / file
    if not path.is_file() or not names:
        return False
    body: list[Any] = ast.parse(path.read_text(encoding="utf-8")).body
    for name in names:
        found = [n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == name]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def render(rows: Rows) -> str:
    """The page."""
    counts = Counter(r["status"] for r in rows.values())
    lines = [
        "# Systems",
        "",
        "Every published system that polydiff was conceived from, and where it stands. A row *works* when its test shows what",
        "the figure says; *partial* rows say what is missing. Generated from `systems.toml` by `make docs`.",
        "",
        "| status | systems |",
        "|---|---|",
        *(f"| {s} | {counts[s]} |" for s in STATUSES),
    ]
    order = {s: i for i, s in enumerate(STATUSES)}
    for cluster in sorted({r["cluster"] for r in rows.values()}):
        part = sorted(
            (k for k, r in rows.items() if r["cluster"] == cluster), key=lambda k: (order[rows[k]["status"]], k)
        )
        lines += ["", f"## {cluster}", "", "| id | system | status | where | figure |", "|---|---|---|---|---|"]
        lines += [_line(k, rows[k]) for k in part]
    return "\n".join(lines) + "\n"


def _line(key: str, row: Mapping[str, str]) -> str:
    figure = row.get("figure", "")
    if row.get("baseline"):
        figure += f"; baseline: {row['baseline']}"
    if row.get("test"):
        figure += f" ([test](../{row['test'].split('::')[0]}))"
    if row.get("note"):
        figure += f" *{row['note']}*"
    where = f"`{row['where']}`" if row.get("where") else ""
    cells = (key, f"{row['name']}: {row['title']}", row["status"], where, figure)
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def add_missing(rows: Rows, tsv: Path) -> dict[str, dict[str, str]]:
    """The rows, with those of the project's list that were missing."""
    out = {k: dict(v) for k, v in rows.items()}
    with tsv.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            status = {"survey": "survey", "offtopic": "out of scope"}.get(line["kind"], "not yet")
            fields = {k: line[k] for k in ("title", "kind", "cluster", "home")}
            out.setdefault(line["id"], {"name": line["short"], **fields, "status": status})
    return out


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="verify; change nothing")
    parser.add_argument("--import", dest="tsv", type=Path, help="add rows that are missing")
    options = parser.parse_args()
    toml, page = ROOT / "docs" / "systems.toml", ROOT / "docs" / "systems.md"
    rows: Rows = read(toml) if toml.exists() else {}
    if options.tsv:
        rows = add_missing(rows, options.tsv)
    wrong = problems(rows)
    if options.check:
        if page.read_text(encoding="utf-8") != render(rows):
            wrong.append("docs/systems.md is not what systems.toml renders to: run make docs")
    else:
        write(toml, rows)
        page.write_text(render(rows), encoding="utf-8")
    for sentence in wrong:
        print(f"ledger: {sentence}", file=sys.stderr)
    print(f"ledger: {len(rows)} systems, {sum(r['status'] == 'works' for r in rows.values())} work")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
