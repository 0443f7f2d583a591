"""The network of tables: every cell into one vector, residual blocks, every cell out again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polydiff.core.data import Context
from polydiff.core.networks import MLP, FourierEmbedding, PeriodicFeatures

__all__ = ["TableMLP"]

_TIME = 64  # size of the embedding of the time; the blocks are modulated row by row, which costs in proportion


class TableMLP(nn.Module):
    """Numbers ``(B, Dn)`` and categories ``(B, Dc)`` to estimates of both, given the time and which cells are known.

    Args:
        numbers: Numeric cells of a row, ``Dn``; 0 for none.
        sizes: Levels of each categorical cell; state ``max(sizes)`` is the mask.
        width: Of the blocks.
        depth: Number of blocks.
        dropout: Inside the blocks.
        frequencies: Periodic features of each number beside the number itself.
        scale: Of their frequencies.

    Source: TabDDPM: Modelling Tabular Data with Diffusion Models, 2022, arXiv 2209.15421; periodic features as in On
    Embeddings for Numerical Features in Tabular Deep Learning, 2022, arXiv 2203.05556.
    """

    first: Tensor
    last: Tensor
    place: Tensor

    def __init__(
        self,
        numbers: int,
        sizes: Sequence[int],
        *,
        width: int = 256,
        depth: int = 4,
        dropout: float = 0.0,
        frequencies: int = 0,
        scale: float = 8.0,
    ) -> None:
        super().__init__()
        self.numbers, self.levels, total = numbers, max(sizes, default=0), sum(sizes)
        cells = numbers + len(sizes)
        if not cells:
            raise ValueError("a table needs at least one column that varies")
        self.time = FourierEmbedding(_TIME)
        self.periodic = PeriodicFeatures(numbers, frequencies, scale) if numbers and frequencies else None
        inputs = numbers * (1 + 2 * frequencies) + cells
        self.body = MLP(inputs, numbers + total, width=width, depth=depth, cond=_TIME, dropout=dropout)
        if sizes:
            ends = torch.tensor(sizes).cumsum(0)
            first = ends - torch.tensor(sizes)
            levels = torch.arange(self.levels)
            inside = levels < torch.tensor(sizes)[:, None]
            self.register_buffer("first", first + torch.arange(len(sizes)), persistent=False)
            self.register_buffer("last", torch.tensor(sizes), persistent=False)
            self.register_buffer("place", torch.where(inside, first[:, None] + levels, total), persistent=False)
            self.states = nn.EmbeddingBag(total + len(sizes), width, mode="sum")  # a mask of its own for each column
            nn.init.normal_(self.states.weight, std=len(sizes) ** -0.5)

    def forward(self, x: dict[str, Tensor], level: dict[str, Tensor], ctx: Context) -> dict[str, Tensor]:
        """Fields ``num`` and ``cat`` to estimates ``(B, Dn)`` and logits ``(B, Dc, max(sizes))``.

        Levels that a column does not have are at −∞.
        """
        known = ctx.known if isinstance(ctx.known, dict) else {}
        told = [torch.zeros_like(v) if known.get(k) is None else known[k] for k, v in x.items()]
        parts = [*([x["num"]] if self.numbers else []), *(t.to(torch.float32) for t in told)]
        if self.periodic is not None:
            parts.append(self.periodic(x["num"]))
        h: Any = self.body.enter(torch.cat(parts, 1).to(self.body.enter.weight.dtype))
        if self.levels:
            h = h + self.states(torch.minimum(x["cat"], self.last) + self.first)
        c = self.time(level["num" if self.numbers else "cat"])
        for block in self.body.blocks:
            h = block(h, c)
        out = self.body.leave(h)
        found = {}
        if self.numbers:
            found["num"] = out[:, : self.numbers]
        if self.levels:
            flat = torch.nn.functional.pad(out[:, self.numbers :].float(), (0, 1), value=-torch.inf)
            found["cat"] = flat[:, self.place]
        return found
