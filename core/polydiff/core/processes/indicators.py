"""Gaussian noise on indicators of categories, each column in a time of its own where it has a clock."""

from __future__ import annotations

import torch
from torch import Tensor

from polydiff.core.data import Time, left
from polydiff.core.processes.embedded import Embedded, Levels
from polydiff.core.schedules import Cosine, Schedule

__all__ = ["Indicators"]


class Indicators(Embedded):
    """``x_t = a_t c e_{x_0} + g_t z`` with the unit vector of the category: one-hot Gaussian diffusion.

    Data are categories ``(B, D)``, states ``(B, D, V)``. ``Embedded`` with the identity for a table; here the schedule may be
    ``Clocked``. A column of fewer than V categories never reaches the rest, if its law has no mass there.

    Args:
        states: V, of the largest column.
        schedule: Variance preserving; ``Cosine()`` if none is given.
        scale: c; 2 gives the indicator of a fair coin unit variance.

    Source: Analog Bits: Generating Discrete Data using Diffusion Models with Self-Conditioning, 2022, arXiv 2208.04202;
    Continuous diffusion for categorical data, 2022, arXiv 2211.15089 (cross-entropy).
    """

    def __init__(self, states: int, schedule: Schedule | None = None, *, scale: float = 2.0) -> None:
        if states < 1 or not scale > 0:
            raise ValueError(f"states={states}, scale={scale}: need at least 1 state and a positive scale")
        super().__init__(scale * torch.eye(states), Cosine() if schedule is None else schedule)

    def levels(self, t: Time, elements: Tensor) -> Levels:
        """See ``Embedded``; ``(..., 1)``."""
        c = self.schedule.at(t)
        parts = (torch.as_tensor(u, dtype=torch.float64, device=elements.device) for u in (c.a, c.g, c.da, c.dg))
        return Levels(*(left(u, elements)[..., None] for u in parts))
