"""Block by block: diffusion inside a block, autoregression from block to block, a cache of what is behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng, tree_map
from polydiff.core.denoisers import Denoiser
from polydiff.core.processes import Process
from polydiff.core.sampling.loop import Times, sample
from polydiff.core.sampling.step import Step

__all__ = ["Blocks", "Memory"]

Memory = dict[str, Any]


@dataclass(frozen=True)
class Blocks:
    """Semi-autoregressive sampling: ``x^b ~ p(x^b | x^1 … x^{b−1})`` by a run of the loop a block, as a Sampler.

    The denoiser sees one block ``(B, size, ...)`` at a time and reads all that is behind it from ``ctx.memory``, which
    starts as the caller's and grows by ``remember`` after each block. Without a network's own ``remember`` the memory
    holds the tokens themselves: ``memory["prefix"]``, ``(B, tokens so far, ...)``, absent while there are none.

    Every block draws from streams of its own: a step that takes as long as the slowest sample of its batch
    (``FirstHitting``) would otherwise make the next block depend on the batch. Entries of ``ctx.known`` inside a block
    are held as in any run; a block known in all samples is remembered without an evaluation, so that a prompt of whole
    blocks works with every denoiser.

    Args:
        times: The grid of each block, or a function that makes one from the process.
        step: The step.
        size: Elements a block along axis 1; the last block holds what is left.
        remember: ``remember(x_block, memory) -> memory``, batch first; ``memory`` is ``None`` where nothing is behind.

    Raises:
        ValueError: For a size below 1.
        TypeError: For structured samples, which have no one axis to cut.

    Source: Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models, 2025, arXiv 2503.09573.
    """

    times: Times | Callable[[Process], Times]
    step: Step
    size: int
    remember: Callable[[Tensor, Memory | None], Memory] | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: a block holds at least 1 element")

    def __call__(self, denoiser: Denoiser, like: Data, ctx: Context, rng: Rng) -> Data:
        """See ``Sampler``; ``like`` is ``(B, L, ...)``."""
        if not isinstance(like, Tensor):
            raise TypeError(f"Blocks cuts one sequence, not the fields {list(like)}: give a tensor (B, L, ...)")
        times = self.times(denoiser.process) if callable(self.times) else self.times
        extend = _append if self.remember is None else self.remember
        length, memory, blocks = like.shape[1], ctx.memory, list[Tensor]()
        for start in range(0, length, self.size):
            inside = _slice(ctx, start, start + self.size).replace(memory=memory)
            x = self._block(denoiser, like[:, start : start + self.size], times, inside, rng.child("block", start))
            blocks.append(x)
            if start + self.size < length:  # nobody reads the last one
                memory = extend(x, memory)
        return torch.cat(blocks, 1) if blocks else like

    def _block(self, denoiser: Denoiser, like: Tensor, times: Times, ctx: Context, rng: Rng) -> Tensor:
        if ctx.known is not None:
            assert isinstance(ctx.known, Tensor)
            if bool(ctx.known.all()):
                held = ctx.hold(like)
                assert isinstance(held, Tensor)
                return held
            if not bool(ctx.known.any()):
                ctx = ctx.replace(known=None, given=None)
        x = denoiser.process.prior(like, ctx).sample(rng)
        out = sample(denoiser, x, times, self.step, ctx, rng=rng)
        assert isinstance(out, Tensor)
        return out


def _slice(ctx: Context, start: int, stop: int) -> Context:
    """The part of everything that is shaped like the data."""

    def part(value: Data | None) -> Any:
        return None if value is None else tree_map(lambda v: v[:, start:stop], value)

    return ctx.replace(valid=part(ctx.valid), known=part(ctx.known), given=part(ctx.given), x1=part(ctx.x1))


def _append(x: Tensor, memory: Memory | None) -> Memory:
    behind = memory or {}
    return {**behind, "prefix": torch.cat([behind["prefix"], x], 1) if "prefix" in behind else x}
