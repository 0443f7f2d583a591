"""Networks over functions: sets of (place, value) points in any number and order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polydiff.core.data import Context, left
from polydiff.core.networks import FourierEmbedding, TransformerBlock
from polydiff.core.networks.init import zero_init

__all__ = ["BiDimensionalNet", "PointNet"]


class PointNet(nn.Module):
    """Attention over the points of a function: every point is its values, which of them are told, and its time.

    Args:
        channels: D.
        width: Of a point's token.
        depth: Number of blocks.
        heads: Of the attention.
        low: Lowest angular frequency of the features of time.
        high: Highest; the reach in detail is about ``1 / high``.

    Source: Modeling Temporal Data as Continuous Functions with Stochastic Process Diffusion, 2022, arXiv 2211.02590 (its
    transformer denoiser).
    """

    def __init__(
        self, channels: int, *, width: int = 32, depth: int = 2, heads: int = 4, low: float = 0.2, high: float = 20.0
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * channels, width)
        self.place = FourierEmbedding(width, 16, low, high)
        self.time = FourierEmbedding(width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, cond=width, expand=2) for _ in range(depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(nn.Linear(width, channels)))

    def forward(self, x: Tensor, level: Tensor, ctx: Context) -> Tensor:
        """``(B, L, D)`` to ``(B, L, D)``; reads ``cond["at"]``, ``(B, L)``, ``known`` and ``valid``."""
        told, valid = _masks(x, ctx)
        here = valid.any(2)
        x = torch.where(valid, x, 0.0)
        at = torch.where(here, ctx.cond["at"].to(x.dtype), 0.0)
        h = self.enter(torch.cat([x, told.to(x.dtype)], 2)) + self.place(at)
        c = self.time(level)
        for block in self.blocks:
            h = block(h, c, here)
        out: Tensor = self.leave(h)
        return out


def _masks(x: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
    """Which entries are told and which are valid, shaped like x."""
    told = torch.zeros_like(x, dtype=torch.bool)
    valid = ~told
    if isinstance(ctx.known, Tensor):
        told = left(ctx.known, x).expand_as(x)
    if isinstance(ctx.valid, Tensor):
        valid = left(ctx.valid, x).expand_as(x)
    return told & valid, valid


class BiDimensionalNet(nn.Module):
    """A token for every point and input dimension; attention over the points and over the dimensions, then their mean.

    Equivariant to the order of the points and invariant to that of the input dimensions: a token knows its coordinate, the
    values of its point and the noise level, never a number of its own.

    Args:
        outputs: D_y.
        width: Of a token.
        depth: Number of blocks, each with both kinds of attention.
        heads: Of either attention.
        low: Lowest angular frequency of the features of a coordinate.
        high: Highest.

    Source: Neural Diffusion Processes, 2022, arXiv 2206.03992.
    """

    def __init__(
        self, outputs: int, *, width: int = 32, depth: int = 2, heads: int = 4, low: float = 0.5, high: float = 30.0
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * outputs, width)
        self.place = FourierEmbedding(width, 16, low, high)
        self.time = FourierEmbedding(width)
        kinds = [
            nn.ModuleList(TransformerBlock(width, heads, cond=width, expand=2) for _ in range(depth)) for _ in "ab"
        ]
        self.points, self.dimensions = kinds
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(nn.Linear(width, outputs)))

    def forward(self, x: Tensor, level: Tensor, ctx: Context) -> Tensor:
        """``(B, N, D_y)`` to ``(B, N, D_y)``; reads the places ``cond["at"]``, ``(B, N, D_x)``, ``known`` and ``valid``."""
        told, valid = _masks(x, ctx)
        here = valid.any(2)
        values = torch.cat([torch.where(valid, x, 0.0), told.to(x.dtype)], 2)
        at = torch.where(here[..., None], ctx.cond["at"].to(x.dtype), 0.0)
        size, count, dims = at.shape
        h = self.enter(values)[:, :, None] + self.place(at)  # (B, N, D_x, W)
        c = self.time(level)
        many = here.repeat_interleave(dims, 0)
        for across, along in zip(self.points, self.dimensions):
            rows = across(h.transpose(1, 2).flatten(0, 1), c.repeat_interleave(dims, 0), many)
            h = rows.unflatten(0, (size, dims)).transpose(1, 2)
            if dims > 1:
                h = along(h.flatten(0, 1), c.repeat_interleave(count, 0)).unflatten(0, (size, count))
        out: Tensor = self.leave(h.mean(2))
        return out
