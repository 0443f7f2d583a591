"""Where the columns of a table lie in its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polydiff.tabular.schema import Schema
from polydiff.tabular.values import Name

__all__ = ["Entries", "Layout"]


@dataclass(frozen=True)
class Entries:
    """Where a column is found in the data; a constant is nowhere.

    Attributes:
        num: Places on the last axis of ``"num"``; at most one.
        cat: Places on the last axis of ``"cat"``; at most one.
    """

    num: tuple[int, ...]
    cat: tuple[int, ...]


class Layout:
    """The entries of ``num`` and ``cat`` that the columns of a schema take, in order.

    Args:
        schema: Of the columns.
        states: Of each numeric, integer and datetime column, how many its companion tells apart; 1 needs none.
        missing: Which of these states is missing, if any.
    """

    def __init__(self, schema: Schema, states: Mapping[int, int], missing: Mapping[int, int | None]) -> None:
        self.schema = schema
        self.entries: list[Entries] = []
        sizes: list[int] = []
        absent: list[int | None] = []
        numbers = 0
        for i, column in enumerate(schema):
            num: tuple[int, ...] = ()
            cat: tuple[int, ...] = ()
            if column.continuous:
                num, numbers = (numbers,), numbers + 1
                if states[i] > 1:
                    cat = (len(sizes),)
                    sizes.append(states[i])
                    absent.append(missing[i])
            elif column.kind != "constant":
                cat = (len(sizes),)
                sizes.append(len(column.levels) + column.has_missing)
                absent.append(len(column.levels) if column.has_missing else None)
            self.entries.append(Entries(num, cat))
        self.numbers, self.sizes, self.missing = numbers, tuple(sizes), tuple(absent)

    @property
    def categories(self) -> int:
        """Number of entries of ``cat``."""
        return len(self.sizes)

    def columns_of(self, name: Name) -> Entries:
        """The entries of a column: its number, its level, or its number and companion."""
        return self.entries[self.schema.place(name)]

    @property
    def groups(self) -> dict[str, Tensor]:
        """For each field, the number of the column that an entry belongs to, int64 (Dn,) and (Dc,)."""
        num = [i for i, e in enumerate(self.entries) for _ in e.num]
        cat = [i for i, e in enumerate(self.entries) for _ in e.cat]
        return {k: torch.tensor(v) for k, v in {"num": num, "cat": cat}.items() if v}

    def valid(self, data: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Which numbers count, bool ``{"num": (N, Dn)}``: those whose companion says continuous; ``None`` if all do."""
        if all(not (e.num and e.cat) for e in self.entries):
            return None
        mask = torch.ones(data["num"].shape, dtype=torch.bool, device=data["num"].device)
        for entries in self.entries:
            if entries.num and entries.cat:
                mask[:, entries.num[0]] = data["cat"][:, entries.cat[0]] == 0
        return {"num": mask}

    def masks(self, given: Mapping[int, np.ndarray], n: int) -> dict[str, Tensor]:
        """Bool masks of the entries of columns, by number of the column the rows (n,) where it is given."""
        num = torch.zeros(n, self.numbers, dtype=torch.bool)
        cat = torch.zeros(n, self.categories, dtype=torch.bool)
        for i, rows in given.items():
            num[:, list(self.entries[i].num)] = torch.from_numpy(rows)[:, None]
            cat[:, list(self.entries[i].cat)] = torch.from_numpy(rows)[:, None]
        return {k: v for k, v in {"num": num, "cat": cat}.items() if v.shape[1]}
