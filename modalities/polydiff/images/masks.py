"""Masks of given pixels: a user's, and random ones from which a model learns to be told part of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polydiff.core.data import Data, Rng


def mask_of(known: Any, n: int, size: tuple[int, int]) -> np.ndarray:
    """A user's mask ``(H, W)`` or ``(N, H, W)`` as ``(n, 1, H, W)``; refused where it is not one."""
    mask = np.asarray(known.cpu() if isinstance(known, Tensor) else known)
    if mask.dtype != bool:
        raise ValueError(f"known of type {mask.dtype}: need booleans, True where a pixel is given")
    if mask.shape not in (size, (n, *size)):
        raise ValueError(f"known of shape {mask.shape}: need {size} or {(n, *size)}, as the images")
    return np.broadcast_to(mask, (n, *size))[:, None]


def random_masks(share: float) -> Callable[[Data, Rng], Data]:
    """``known(x0, rng)`` for ``Denoising``: masks ``(B, 1, H, W)``, True where a pixel is given.

    A share of the samples gets masks, the others are generated whole. A mask is a random box that is either given or
    missing (half each), or single pixels given at a random rate, so that halves, holes and scattered pixels all occur.

    Args:
        share: Probability that a sample has a mask.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: must be a probability")

    def draw(x0: Data, rng: Rng) -> Tensor:
        assert isinstance(x0, Tensor)
        n, _, h, w = x0.shape
        u = rng.uniform(x0.new_empty(n, 9, dtype=torch.float64))
        rows, columns = (_interval(u[:, i], u[:, i + 1], size) for i, size in ((0, h), (2, w)))
        box = rows[:, :, None] & columns[:, None, :]
        box = torch.where(u[:, 4, None, None] < 0.5, box, ~box)
        scattered = rng.uniform(x0.new_empty(n, h, w, dtype=torch.float64)) < u[:, 5, None, None]
        mask = torch.where(u[:, 6, None, None] < 0.7, box, scattered)
        return (mask & (u[:, 7, None, None] < share))[:, None]

    return draw


def _interval(a: Tensor, b: Tensor, size: int) -> Tensor:
    """Positions between two uniform ends, ``(B, size)``; at least one."""
    low, high = (torch.minimum(a, b) * size).floor(), (torch.maximum(a, b) * size).floor()
    at = torch.arange(size, device=a.device)
    return (at >= low[:, None]) & (at <= high[:, None])
