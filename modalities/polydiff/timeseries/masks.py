"""What a model is told in training: contexts to continue, holes to fill, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Rng

__all__ = ["Tasks"]


@dataclass(frozen=True)
class Tasks:
    """A task for every window, drawn by its share.

    ``forecast``: all but the last steps, ``horizon`` of them or, half of the time, any number up to it. ``points``: each
    entry by itself, at a rate of the window's own. ``blocks``: all but one run of steps, anywhere, of some channels.
    ``nothing``: plain generation.

    Args:
        forecast: Share.
        points: Share.
        blocks: Share.
        nothing: Share; the four are scaled to 1.
        horizon: Longest forecast.
        patterns: Distinct holes of a kind in a batch: a linear base solves each once.
    """

    forecast: float
    points: float
    blocks: float
    nothing: float
    horizon: int
    patterns: int = 8

    def __post_init__(self) -> None:
        if min(self.shares.values()) < 0 or sum(self.shares.values()) <= 0:
            raise ValueError(f"shares of tasks {self.shares}: need numbers of at least 0, not all of them 0")

    @property
    def shares(self) -> Mapping[str, float]:
        """By name."""
        return {"forecast": self.forecast, "points": self.points, "blocks": self.blocks, "nothing": self.nothing}

    def __call__(self, valid: Tensor, rng: Rng) -> Tensor:
        """Which entries are told, shaped like ``valid`` ``(B, L, D)``."""
        b, length, d = valid.shape
        u = rng.uniform(torch.empty(b, 8, dtype=torch.float64))
        ends = torch.tensor(list(self.shares.values()), dtype=torch.float64).cumsum(0)
        task = torch.searchsorted(ends / ends[-1], u[:, 0].contiguous(), right=True).clamp_max(3)[:, None, None]
        step = torch.arange(length)[:, None]
        far = min(self.horizon, length - 1)
        ahead = torch.where(u[:, 1] < 0.5, far, 1 + (u[:, 2] * far).long())[:, None, None]
        forecast = step < length - ahead
        holes = torch.arange(b) % min(self.patterns, b)
        v = u[: min(self.patterns, b)]
        each = rng.uniform(torch.empty(len(v), length, d, dtype=torch.float64)) < v[:, 3, None, None]
        run = 1 + (v[:, 4] * length).long()
        begin = (v[:, 5] * (length - run + 1)).long()
        gap = (step >= begin[:, None, None]) & (step < (begin + run)[:, None, None])
        some = rng.uniform(torch.empty(len(v), 1, d, dtype=torch.float64)) < v[:, 6, None, None]
        whole = (v[:, 7, None, None] < 0.5) | ~some.any(2, keepdim=True)
        each, blocks = each[holes], ~(gap & (whole | some))[holes]
        told = torch.where(task == 0, forecast, torch.where(task == 1, each, torch.where(task == 2, blocks, False)))
        return told & valid
