"""Multistep solvers, which reuse earlier predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from polydiff.core.data import Context, Time, left
from polydiff.core.distributions import Distribution, Normal
from polydiff.core.processes import LinearGaussian, Process
from polydiff.core.sampling.step import OneCall, State


@dataclass(frozen=True, slots=True)
class DPMSolverPP(OneCall):
    """DPM-Solver++(2M): exponential integrator in the half log-SNR λ on the predicted data.

    ``x_s = g_s/g_t x_t − a_s (e^{−h} − 1) D`` with ``h = λ_s − λ_t`` and ``D = x̂_0 + h/(2 h′) (x̂_0 − x̂_0′)``, where a
    prime marks the step before. The first step and the step to t = 0 are of order 1.

    Args:
        order: 1 (DDIM in this form) or 2.

    Source: DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, 2022, arXiv 2211.01095.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order={self.order}: DPM-Solver++ multistep is here of order 1 or 2")

    def kernel(
        self, process: Process, x_t: Any, posterior: Distribution, t: Time, s: Time, ctx: Context, state: State
    ) -> tuple[Distribution, State]:
        """See ``OneCall``; the history is ``{"mean": x̂_0, "h": h}``."""
        if not isinstance(process, LinearGaussian) or not process.markov:
            raise TypeError("DPM-Solver++ needs a Gaussian process")
        (a, shift, g), (b, shift_s, h) = process.coef(t, ctx), process.coef(s, ctx)
        ratio: Time
        gap: Time
        gain: Time
        if isinstance(a, float) and isinstance(g, float) and isinstance(b, float) and isinstance(h, float):
            ratio = h / g
            gap = math.log(b / a) - math.log(ratio)
            gain = -b * math.expm1(-gap)
        else:
            ratio, b_ = left(h / g, x_t), left(b, x_t)
            gap = left(torch.as_tensor(b / a).log() - torch.as_tensor(h / g).log(), x_t)
            gain = -b_ * torch.expm1(-gap)
        if self.order == 1 or state is None or (isinstance(s, float) and s == 0.0):
            x = posterior.combine(gain, x_t, ratio, 0.0, 0.0).mean
        else:
            slope = _slope(gain * gap, state["h"], s, x_t)
            x = posterior.combine(gain + slope, x_t, ratio, 0.0, 0.0).mean
            x = torch.sub(x, state["mean"], alpha=slope) if isinstance(slope, float) else x - slope * state["mean"]
        if isinstance(shift_s, torch.Tensor):
            x = x + left(shift_s, x_t) - ratio * left(shift, x_t)
        return Normal(x, 0.0), {"mean": posterior.mean, "h": gap}


def _slope(change: Time, before: Time, s: Time, x: torch.Tensor) -> Time:
    """``a_s (1 − e^{−h}) h / 2 h′``; 0 (order 1) for an element that stood still in the step before, or ends now."""
    if isinstance(change, float) and isinstance(before, float):
        return change / (2 * before)
    past, change = torch.as_tensor(before), torch.as_tensor(change)
    moved = (past != 0) & ~left(torch.as_tensor(s == 0.0, device=past.device), x)
    return torch.where(moved, change / (2 * torch.where(past != 0, past, 1.0)), 0.0)
