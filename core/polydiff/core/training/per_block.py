"""One training time a block: what semi-autoregressive models practise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Rng
from polydiff.core.processes import Process
from polydiff.core.training.times import TimeLaw

__all__ = ["PerBlock"]


@dataclass(frozen=True)
class PerBlock(TimeLaw):
    """Times ``(B, L)``, constant in each block of ``size`` elements and of ``law`` for every block.

    Stratified over all blocks of the batch, one in each of ``B · ⌈L / size⌉`` equal slices of the law, and dealt out at
    random: a block must meet every time at whatever place it has in its sequence. Narrow laws, such as
    ``PerBlock(Uniform(0.3, 0.8), 4)``, are the clipped schedules of the paper.

    Args:
        law: Of each block's time.
        size: Elements a block along axis 1; the last block may be shorter.

    Raises:
        ValueError: For a size below 1, or data without a second axis.

    Source: Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models, 2025, arXiv 2503.09573.
    """

    law: TimeLaw
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: a block holds at least 1 element")

    def __call__(self, process: Process, like: Tensor, rng: Rng) -> Tensor:
        """Times ``(B, L)`` for the sequences of ``like``, on its device."""
        if like.ndim < 2:
            raise ValueError(f"data of shape {tuple(like.shape)} has no sequence to cut into blocks: need (B, L, ...)")
        cells = like.new_empty(len(like), -(-like.shape[1] // self.size), dtype=torch.float64)
        dealt = rng.uniform(cells).flatten().argsort().view_as(cells)
        t = self.quantile(process, (dealt + rng.uniform(cells)) / max(cells.numel(), 1))
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return t.to(dtype).repeat_interleave(self.size, 1)[:, : like.shape[1]]

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """That of ``law``."""
        return self.law.quantile(process, u)
