"""Rotary positions: relative position by rotation of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rotary_angles", "rotate"]


def rotary_angles(length: int, dim: int, *, base: float = 10_000.0, device: torch.device | None = None) -> Tensor:
    """Angles ``position · base^{−2i/dim}``, ``(length, dim / 2)``."""
    if dim % 2:
        raise ValueError(f"dim={dim}: rotary positions turn pairs, so it must be even")
    omega = base ** (-torch.arange(0, dim, 2, device=device) / dim)
    return torch.arange(length, device=device)[:, None] * omega


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Halves of the last axis of ``x`` ``(..., L, dim)`` turned as pairs by angles ``(L, dim / 2)``.

    Products of two rotated vectors depend on the difference of their positions alone.

    Source: RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, arXiv 2104.09864.
    """
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    u, v = x.chunk(2, -1)
    return torch.cat([u * cos - v * sin, u * sin + v * cos], -1)
