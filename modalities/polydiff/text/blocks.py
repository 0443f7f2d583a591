"""The transformer of block diffusion: clean blocks behind, a noisy block ahead, keys and values of the past cached."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from polydiff.core.data import Context, Rng
from polydiff.core.networks import TransformerBlock, rotary_angles
from polydiff.core.training import Batch
from polydiff.text.networks import TextTransformer

__all__ = ["BlockTransformer", "block_mask", "with_clean"]

Cache = list[tuple[Tensor, Tensor]]  # rotated keys and values (B, heads, tokens, width / heads) of each layer


class BlockTransformer(TextTransformer):
    """A ``TextTransformer``, weight for weight, whose tokens see their own noisy block and the clean blocks before it.

    To train, ``ctx.cond["clean"]`` holds the clean tokens and one pass over clean and noisy copies gives the logits of all
    blocks. To sample, a block alone is computed: ``ctx.memory`` holds ``"keys"`` and ``"values"``, ``(B, depth, heads,
    tokens, width / heads)``, of a start token and the clean tokens so far, as ``remember`` makes them. The clean copy reads
    noise level 0 and the null label, so that one cache serves every label and both sides of guidance.

    Args:
        states: Tokens that may come in, the mask included.
        vocab: Tokens that may come out.
        size: Tokens a block.
        width: Size of a token.
        depth: Blocks.
        heads: Attention heads.
        time: Read the noise level.
        num_classes: Labels, read from ``ctx.cond["label"]``; 0 for none.
        dropout: In the blocks.

    Source: Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models, 2025, arXiv 2503.09573.
    """

    def __init__(
        self,
        states: int,
        vocab: int,
        size: int,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        time: bool = False,
        num_classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        if size < 1:
            raise ValueError(f"size={size}: a block holds at least 1 token")
        super().__init__(
            states, vocab, width=width, depth=depth, heads=heads, time=time, num_classes=num_classes, dropout=dropout
        )
        self.size, self.null = size, num_classes

    def forward(self, x_BL: Tensor, level: Tensor, ctx: Context) -> Tensor:
        """States ``(B, L)`` and noise levels ``(B,)`` or ``(B, L)`` to logits ``(B, L, V)``.

        Raises:
            ValueError: For padding, and for more than a block without the clean tokens.
        """
        if ctx.valid is not None:
            raise ValueError("BlockTransformer reads no padding (ctx.valid): end texts with tokens of their own")
        noisy = self._condition(level, ctx.cond.get("label"))
        if "clean" not in ctx.cond:
            if x_BL.shape[1] > self.size:
                raise ValueError(f"{x_BL.shape[1]} tokens: without cond['clean'] a call takes a block of {self.size}")
            h, _ = self._ahead(x_BL, noisy, self._behind(len(x_BL), ctx.memory))
            return self.head(self.norm(h))
        n = x_BL.shape[1]
        h = torch.cat([self._start(len(x_BL)), self.embedding(ctx.cond["clean"]), self.embedding(x_BL)], 1)
        c, calm = noisy, self._calm(len(x_BL))
        if noisy is not None and calm is not None:
            c = torch.cat([calm.expand(-1, n + 1, -1), noisy.expand(-1, n, -1)], 1)
        angles = rotary_angles(n + 1, self.head_width, device=h.device)
        h, _ = self._layers(h, c, torch.cat([angles, angles[1:]]), block_mask(n, self.size, h.device), None)
        return self.head(self.norm(h[:, n + 1 :]))

    def remember(self, x_BL: Tensor, memory: dict[str, Any] | None) -> dict[str, Any]:
        """Memory with the clean tokens ``x_BL`` (a block or several) appended: the ``remember`` of ``Blocks``.

        ``None`` is the memory of nothing; tensors in it, batch first, so that ``index`` and guidance go through it.

        Raises:
            ValueError: For a memory that ends inside a block.
        """
        cache = self._behind(len(x_BL), memory)
        if (_tokens(cache) - 1) % self.size:
            raise ValueError(
                f"a memory of {_tokens(cache) - 1} tokens ends inside a block of {self.size}: nothing follows"
            )
        for block in x_BL.split(self.size, 1):
            _, cache = self._ahead(block, self._calm(len(x_BL)), cache)
        keys, values = (torch.stack(parts, 1) for parts in zip(*cache))
        return {**(memory or {}), "keys": keys, "values": values}

    def _behind(self, n: int, memory: dict[str, Any] | None) -> Cache:
        """The cache, or that of the start token alone."""
        if memory and "keys" in memory:
            return list(zip(memory["keys"].unbind(1), memory["values"].unbind(1)))
        start = self._start(n)
        return self._layers(start, self._calm(n), rotary_angles(1, self.head_width, device=start.device), None, None)[1]

    def _ahead(self, x_BL: Tensor, c: Tensor | None, past: Cache) -> tuple[Tensor, Cache]:
        """One block after the cache; the new cache holds both."""
        offset = _tokens(past)
        angles = rotary_angles(offset + x_BL.shape[1], self.head_width, device=x_BL.device)[offset:]
        return self._layers(self.embedding(x_BL), c, angles, None, past)

    def _layers(
        self, h: Tensor, c: Tensor | None, angles: Tensor, mask: Tensor | None, past: Cache | None
    ) -> tuple[Tensor, Cache]:
        cache: Cache = []
        for i, block in enumerate(self.blocks):
            h, pair = _layer(cast(TransformerBlock, block), h, c, angles, mask, None if past is None else past[i])
            cache.append(pair)
        return h, cache

    def _start(self, n: int) -> Tensor:
        assert self.start is not None
        return self.start.expand(n, 1, -1)

    def _condition(self, level: Tensor, label: Tensor | None) -> Tensor | None:
        """Conditioning vectors ``(B, 1 or L, width)``."""
        c: Tensor | None = None
        if self.time is not None:
            c = self.time(level if level.ndim == 2 else level[:, None])
        if self.label is not None:
            if label is None:
                raise ValueError("this network was built with labels: give cond['label'], (B,)")
            named = self.label(label)[:, None]
            c = named if c is None else c + named
        return c

    def _calm(self, n: int) -> Tensor | None:
        """The conditioning of clean tokens: noise level 0, null label."""
        device = self.embedding.weight.device
        return self._condition(torch.zeros(n, device=device), torch.full((n,), self.null, device=device))


def block_mask(length: int, size: int, device: torch.device | None = None) -> Tensor:
    """Who attends to whom among [start, clean copy, noisy copy]: bool ``(2 L + 1, 2 L + 1)``, rows are queries.

    A clean token sees clean tokens of its own and earlier blocks, a noisy one those of earlier blocks, and the noisy
    tokens of its own block; the start is a clean block before all others.
    """
    block = torch.arange(length, device=device) // size
    at = torch.cat([block.new_full((1,), -1), block, block])
    noisy = torch.arange(len(at), device=device) > length
    q, k = (at[:, None], noisy[:, None]), (at[None], noisy[None])
    behind = torch.where(q[1], k[0] < q[0], k[0] <= q[0]) & ~k[1]
    return behind | (q[1] & k[1] & (q[0] == k[0]))


def with_clean(batch: Batch, rng: Rng) -> Batch:
    """The ``transform`` of ``Batches`` that lets the network see the clean tokens: ``x0`` in ``cond["clean"]``."""
    return Batch(batch.x0, batch.ctx.replace(cond={**batch.ctx.cond, "clean": batch.x0}))


def _tokens(cache: Cache) -> int:
    """Tokens in the cache, the start included: the position of the next one."""
    return cache[0][0].shape[2]


def _layer(
    block: TransformerBlock,
    x: Tensor,
    c: Tensor | None,
    angles: Tensor,
    mask: Tensor | None,
    past: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A block of the transformer with a mask and a past, which comes back extended."""
    now: list[tuple[Tensor, Tensor]] = []

    def attend(h: Tensor) -> Tensor:
        q, k, v = block.attention.project(h, angles)
        if past is not None:
            k, v = torch.cat([past[0].to(k), k], 2), torch.cat([past[1].to(v), v], 2)
        now.append((k, v))
        return block.attention.mix(q, k, v, mask)

    return block(x, c, attend=attend), now[0]
