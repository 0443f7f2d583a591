"""Tables on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from polydiff.core.frames import ENDINGS, write_frame
from polydiff.core.notes import read_note, write_note
from polydiff.tabular import recipes
from polydiff.tabular.columns import Column
from polydiff.tabular.demo import demo
from polydiff.tabular.files import read_table
from polydiff.tabular.generator import TabularGenerator

if TYPE_CHECKING:
    from polydiff.cli import Evaluate, Fit, Sample

__all__ = ["demo", "evaluate", "fit", "load", "sample"]

_OFFICIAL = ("adult", "california", "abalone", "buddy", "house")
_RECIPES = ("small", "medium")
_HOLDOUT = 0.2  # share of a table without an official split that is never trained on


@dataclass(frozen=True)
class Rows:
    """A table in two parts.

    Attributes:
        train: To learn from.
        holdout: To measure with.
        target: What is predicted, where that is known.
    """

    train: pd.DataFrame
    holdout: pd.DataFrame
    target: str | None


def load(data: str, seed: int) -> Rows:
    """A data set by name, with its official split where there is one, or a .csv or .parquet file.

    Raises:
        ValueError: For another name, or a file that is not there.
    """
    import polydiff.datasets as sets
    from polydiff.datasets.tables import SMALL_TABLES, Table

    if data in _OFFICIAL:
        table = getattr(sets, data)()
        return Rows(table.train, table.test, table.target)
    if data == "travel" or data in SMALL_TABLES:
        table = sets.travel() if data == "travel" else sets.small(data)
    else:
        names = ", ".join((*_OFFICIAL, "travel", *SMALL_TABLES))
        table = Table(_read(Path(data), names), None, None, "", "regression", data, data)
    train, rest = table.split(1 - _HOLDOUT, seed)
    return Rows(train, rest, table.target or None)


def fit(command: Fit) -> None:
    """``polydiff fit tabular``."""
    if command.recipe is not None and command.recipe not in _RECIPES:
        raise ValueError(f"recipe={command.recipe!r}: need one of {', '.join(_RECIPES)}")
    config = None if command.recipe is None else getattr(recipes, command.recipe)()
    rows = load(command.data, command.seed)
    generator = TabularGenerator(config, seed=command.seed)
    generator.fit(rows.train, steps=command.steps, seconds=command.seconds)
    folder = generator.save(command.out)
    write_note(folder, {"data": command.data, "seed": command.seed})
    print(f"saved {folder}: {len(rows.train)} rows learned, {len(rows.holdout)} held out")


def sample(command: Sample) -> None:
    """``polydiff sample`` of tables to a file; ``--label column=value`` holds a column, ``--guidance`` heeds it more."""
    if command.out.suffix.lower() not in ENDINGS:
        raise ValueError(f"out={command.out}: need a name ending in .csv or .parquet")
    if command.prompt is not None:
        raise ValueError(f"prompt={command.prompt!r}: tables have no beginning; --label column=value holds a column")
    generator = TabularGenerator.load(command.model)
    made = generator.sample(
        command.n,
        where=_where(generator, command.label),
        guidance=1.0 if command.guidance is None else command.guidance,
        steps=command.steps,
        seed=command.seed,
    )
    write_frame(made, command.out)
    print(f"wrote {command.n} rows to {command.out}")


def evaluate(command: Evaluate) -> None:
    """``polydiff evaluate`` of tables: against the rows held out, or those of another file."""
    generator = TabularGenerator.load(command.model)
    found = read_note(command.model)
    data = found.get("data") or command.data
    if data is None:
        raise ValueError(f"{command.model} does not say what it was trained on: pass --data")
    rows = load(data, int(found.get("seed", 0)))
    holdout = rows.holdout if command.data in (None, data) else load(command.data, 0)
    if isinstance(holdout, Rows):  # another table was learned from by nobody: all of it measures
        holdout = pd.concat([holdout.train, holdout.holdout], ignore_index=True)
    print(generator.evaluate(rows.train, holdout, rows.target, n=command.n, steps=command.steps, seed=command.seed))


# ------------------------------------------------------------------ parts


def _read(path: Path, names: str) -> pd.DataFrame:
    if path.suffix.lower() not in ENDINGS or not path.is_file():
        raise ValueError(f"data={str(path)!r}: need one of {names}, or a .csv or .parquet file")
    return read_table(path)


def _where(generator: TabularGenerator, label: str | None) -> dict[Any, Any] | None:
    """``column=value`` as a condition, the value in the terms of the column."""
    if label is None:
        return None
    name, sign, text = label.partition("=")
    codec, _ = generator._fitted()
    names: dict[str, Column] = {str(c.name): c for c in codec.schema}
    if not sign or name not in names:
        raise ValueError(f"label={label!r}: need column=value with one of the columns {', '.join(names)}")
    column = names[name]
    if text == "" and column.has_missing:
        return {column.name: None}
    if column.continuous and column.kind != "datetime":
        try:
            return {column.name: float(text)}
        except ValueError:
            raise ValueError(f"label={label!r}: column {name!r} is {column.kind} and needs a number") from None
    levels = {str(v): v for v in column.levels}
    return {column.name: levels.get(text, text)}
