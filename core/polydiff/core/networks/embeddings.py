"""Embeddings of noise levels, labels and positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["FourierEmbedding", "LabelEmbedding", "PeriodicFeatures", "grid_positions"]


class FourierEmbedding(nn.Module):
    """``[sin(ω_i x), cos(ω_i x)]`` at geometrically spaced frequencies, then a small MLP.

    Args:
        width: Size of the embedding.
        frequencies: Number of frequencies.
        low: Lowest angular frequency.
        high: Highest; noise levels run over about [−5, 5].

    Source: Fourier Features Let Networks Learn High Frequency Functions, 2020, arXiv 2006.10739.
    """

    omega: Tensor

    def __init__(self, width: int, frequencies: int = 32, low: float = 0.25, high: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("omega", torch.logspace(math.log10(low), math.log10(high), frequencies), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, level: Tensor) -> Tensor:
        """``(...)`` to ``(..., width)``."""
        angle = level.to(self.omega.dtype)[..., None] * self.omega
        return self.mlp(torch.cat([angle.sin(), angle.cos()], -1))


class PeriodicFeatures(nn.Module):
    """``[sin(ω_{dk} x_d), cos(ω_{dk} x_d)]`` with frequencies of each number's own that are learned.

    A network of plain numbers draws smooth functions; with these it draws the edges that tables are full of.

    Args:
        numbers: D.
        frequencies: K of each.
        scale: Standard deviation of the frequencies at the start, radians a unit of x.

    Source: On Embeddings for Numerical Features in Tabular Deep Learning, 2022, arXiv 2203.05556.
    """

    def __init__(self, numbers: int, frequencies: int, scale: float) -> None:
        super().__init__()
        self.omega = nn.Parameter(scale * torch.randn(numbers, frequencies))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., 2 D K)``."""
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would lose the phase
            angle = x.to(self.omega.dtype)[..., None] * self.omega
            return torch.cat([angle.sin(), angle.cos()], -1).flatten(-2)  # number by number


class LabelEmbedding(nn.Embedding):
    """An embedding of class numbers with one more row, ``classes``, for the null label of guidance."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes + 1, width)
        nn.init.normal_(self.weight, std=0.5)


def grid_positions(height: int, width: int, dim: int) -> Tensor:
    """Sine–cosine positions of a grid, ``(height · width, dim)``: half of the features for each axis.

    Source: Scalable Diffusion Models with Transformers, 2022, arXiv 2212.09748.
    """
    if dim % 4:
        raise ValueError(f"dim={dim}: must be a multiple of 4")
    omega = 10_000.0 ** (-torch.arange(dim // 4) / (dim // 4))
    axes = [(torch.arange(n)[:, None] * omega) for n in (height, width)]
    rows, columns = (torch.cat([a.sin(), a.cos()], 1) for a in axes)
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], -1).flatten(0, 1)
