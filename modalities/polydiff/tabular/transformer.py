"""A transformer of tables: every column a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from polydiff.core.data import Context
from polydiff.core.networks import FourierEmbedding, PeriodicFeatures, TransformerBlock

__all__ = ["TableTransformer"]


class TableTransformer(nn.Module):
    """What ``TableMLP`` does, with attention between columns: columns that say nothing of each other cost nothing.

    A number becomes a token by weights of its own from ``[1, x, told, sin ω x, cos ω x]``, a level by its embedding; blocks are
    modulated by the time; every column reads its estimate off its own token.

    Args:
        numbers: Numeric cells of a row, ``Dn``; 0 for none.
        sizes: Levels of each categorical cell; state ``max(sizes)`` is the mask.
        width: Of a token.
        depth: Number of blocks.
        heads: Of attention.
        dropout: Inside the blocks.
        frequencies: Periodic features of each number beside the number itself.
        scale: Of their frequencies.

    Source: TabDiff: a Mixed-type Diffusion Model for Tabular Data Generation, 2024, arXiv 2410.20626 (tokens of columns);
    Scalable Diffusion Models with Transformers, 2022, arXiv 2212.09748 (the blocks).
    """

    begin: Tensor
    last: Tensor

    def __init__(
        self,
        numbers: int,
        sizes: Sequence[int],
        *,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        dropout: float = 0.0,
        frequencies: int = 8,
        scale: float = 2.0,
    ) -> None:
        super().__init__()
        if not numbers and not sizes:
            raise ValueError("a table needs at least one column that varies")
        self.numbers, self.sizes, self.levels = numbers, tuple(sizes), max(sizes, default=0)
        self.time = FourierEmbedding(width)
        self.blocks = nn.ModuleList(
            [TransformerBlock(width, heads, cond=width, expand=2, dropout=dropout) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(width)
        if numbers:
            self.periodic = PeriodicFeatures(numbers, frequencies, scale) if frequencies else None
            features = 3 + 2 * frequencies
            self.enter = nn.Parameter(torch.randn(numbers, features, width) * features**-0.5)
            self.leave = nn.Parameter(torch.zeros(numbers, width + 1))
        if sizes:
            begin = torch.tensor([0, *sizes[:-1]]).cumsum(0) + torch.arange(len(sizes))
            self.register_buffer("begin", begin, persistent=False)
            self.register_buffer("last", torch.tensor(sizes), persistent=False)
            self.states = nn.Embedding(sum(sizes) + len(sizes), width)  # a mask of its own for each column
            self.told = nn.Parameter(0.5 * torch.randn(len(sizes), width))
            self.heads = nn.ModuleList([nn.Linear(width, n) for n in sizes])

    def forward(self, x: dict[str, Tensor], level: dict[str, Tensor], ctx: Context) -> dict[str, Tensor]:
        """Fields ``num`` and ``cat`` to estimates ``(B, Dn)`` and logits ``(B, Dc, max(sizes))``; absent levels are at −∞."""
        known = ctx.known if isinstance(ctx.known, dict) else {}
        told = {k: torch.zeros(v.shape, device=v.device) if known.get(k) is None else known[k] for k, v in x.items()}
        tokens = []
        if self.numbers:
            tokens.append(self._numbers(x["num"], told["num"]))
        if self.sizes:
            state = torch.minimum(x["cat"], self.last) + self.begin
            tokens.append(self.states(state) + told["cat"].to(self.told.dtype)[..., None] * self.told)
        h = torch.cat(tokens, 1)
        c = self.time(level["num" if self.numbers else "cat"])
        for block in self.blocks:
            h = block(h, c)
        h = self.norm(h)
        found = {}
        if self.numbers:
            found["num"] = (h[:, : self.numbers] * self.leave[:, :-1]).sum(-1) + self.leave[:, -1]
        if self.sizes:
            logits = [
                pad(head(h[:, self.numbers + j]).float(), (0, self.levels - n), value=-torch.inf)
                for j, (head, n) in enumerate(zip(self.heads, self.sizes))
            ]
            found["cat"] = torch.stack(logits, 1)
        return found

    def _numbers(self, x: Tensor, told: Tensor) -> Tensor:
        """Tokens ``(B, Dn, width)``."""
        value = x.to(self.enter.dtype)
        parts = [torch.ones_like(value)[..., None], value[..., None], told.to(value)[..., None]]
        if self.periodic is not None:
            parts.append(self.periodic(value).unflatten(-1, (self.numbers, -1)))
        return torch.einsum("bdf,dfw->bdw", torch.cat(parts, -1), self.enter)
