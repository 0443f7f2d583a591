"""The transformer of text: bidirectional for denoising, causal for the autoregressive judge."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polydiff.core.data import Context
from polydiff.core.networks import FourierEmbedding, LabelEmbedding, TransformerBlock, rotary_angles, zero_init

__all__ = ["TextTransformer"]


class TextTransformer(nn.Module):
    """Tokens to logits, with rotary positions; any length.

    Without time and classes the blocks are plain: masked diffusion needs no time, since the state shows how much is masked.
    With either, a conditioning vector scales, shifts and gates every block (adaLN-zero).

    Args:
        states: Tokens that may come in, the mask included.
        vocab: Tokens that may come out.
        width: Size of a token.
        depth: Blocks.
        heads: Attention heads.
        time: Read the noise level.
        num_classes: Labels, read from ``ctx.cond["label"]``; 0 for none.
        causal: Attend to the left only.
        dropout: In the blocks.
    """

    def __init__(
        self,
        states: int,
        vocab: int,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        time: bool = False,
        num_classes: int = 0,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        cond = width if time or num_classes else 0
        self.head_width, self.causal = width // heads, causal
        self.embedding = nn.Embedding(states, width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.start = None if causal else nn.Parameter(0.5 * torch.randn(1, 1, width))
        self.time = FourierEmbedding(width, low=1.0, high=64.0) if time else None
        self.label = LabelEmbedding(num_classes, width) if num_classes else None
        self.blocks = nn.ModuleList([TransformerBlock(width, heads, cond, dropout=dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = zero_init(nn.Linear(width, vocab))

    def forward(self, x_BL: Tensor, level: Tensor, ctx: Context) -> Tensor:
        """States ``(B, L)`` and noise levels ``(B,)`` to logits ``(B, L, V)``."""
        h = self.embedding(x_BL)
        c: Tensor | None = None
        if self.time is not None:
            c = self.time(level)
        if self.label is not None:
            label = self.label(ctx.cond["label"])
            c = label if c is None else c + label
        valid = ctx.valid if isinstance(ctx.valid, Tensor) else None
        if self.start is not None:
            # Rotary positions are relative: without a token that marks the start, masks alone would all look the same.
            h = torch.cat([self.start.expand(len(h), 1, -1), h], 1)
            valid = None if valid is None else torch.cat([valid.new_ones(len(h), 1), valid], 1)
        angles = rotary_angles(h.shape[1], self.head_width, device=h.device)
        for block in self.blocks:
            h = block(h, c, valid, angles=angles, causal=self.causal)
        return self.head(self.norm(h if self.start is None else h[:, 1:]))

    def outside(self) -> list[nn.Module]:
        """Linear layers that are no hidden matrices: the output, and the embeddings of conditions."""
        return [self.head, *(m for part in (self.time, self.label) if part is not None for m in part.modules())]


def tokens_before(x_BL: Tensor, start: int) -> Tensor:
    """Inputs of a causal network: every token moved one place to the right behind ``start``."""
    return torch.cat([torch.full_like(x_BL[:, :1], start), x_BL[:, :-1]], 1)
