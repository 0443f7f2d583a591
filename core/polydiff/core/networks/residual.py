"""Residual blocks and changes of resolution for grids in one or two dimensions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from polydiff.core.networks.init import zero_init

__all__ = ["Downsample", "ResBlock", "Upsample", "conv"]

Dimension = Literal[1, 2]


def conv(dimension: Dimension, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """A convolution over one or two axes with "same" padding."""
    kind = nn.Conv1d if dimension == 1 else nn.Conv2d
    return kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2)


def _groups(channels: int) -> int:
    return next(g for g in (8, 4, 2, 1) if channels % g == 0)


class ResBlock(nn.Module):
    """``x + conv(act(FiLM(norm(conv(act(norm x))))))``: the block of diffusion U-Nets.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        cond: Size of the conditioning vector, which scales and shifts the second normalisation.
        dropout: Before the last convolution.
        dimension: 1 for sequences, 2 for images.

    Source: Diffusion Models Beat GANs on Image Synthesis, 2021, arXiv 2105.05233.
    """

    def __init__(self, inputs: int, outputs: int, cond: int, dropout: float = 0.0, dimension: Dimension = 2) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(inputs), inputs)
        self.conv1 = conv(dimension, inputs, outputs)
        self.norm2 = nn.GroupNorm(_groups(outputs), outputs)
        self.film = nn.Linear(cond, 2 * outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(conv(dimension, outputs, outputs))
        self.skip = nn.Identity() if inputs == outputs else conv(dimension, inputs, outputs, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """``(B, inputs, ...)`` and ``(B, cond)`` to ``(B, outputs, ...)``."""
        h = self.conv1(silu(self.norm1(x)))
        scale, shift = self.film(c).unflatten(1, (-1, *(1,) * (x.ndim - 2))).chunk(2, 1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(self.dropout(silu(h)))


class Downsample(nn.Module):
    """Half the resolution (rounded up) by a strided convolution."""

    def __init__(self, inputs: int, outputs: int, dimension: Dimension = 2) -> None:
        super().__init__()
        self.conv = conv(dimension, inputs, outputs, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, ...)``."""
        return self.conv(x)


class Upsample(nn.Module):
    """To the resolution of ``like``: nearest neighbours, then a convolution."""

    def __init__(self, inputs: int, outputs: int, dimension: Dimension = 2) -> None:
        super().__init__()
        self.conv = conv(dimension, inputs, outputs)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """``(B, C, ...)`` at the size of ``like``."""
        return self.conv(interpolate(x, size=like.shape[2:], mode="nearest"))
