"""One-step solvers of the probability-flow ODE: Euler and Heun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng, Time, left
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Dirac, Distribution
from polydiff.core.processes import ContinuousProcess, Process
from polydiff.core.sampling.step import OneCall, State, Transition


def continuous(process: Process) -> ContinuousProcess:
    """``process``, refused unless it has a velocity."""
    if not isinstance(process, ContinuousProcess):
        raise TypeError(f"{type(process).__name__} has no velocity: ODE solvers need a continuous process")
    return process


def _gap(t: Time, s: Time, x: Tensor) -> Time:
    return s - t if isinstance(t, float) and isinstance(s, float) else left(torch.as_tensor(s - t), x).to(x.dtype)


@dataclass(frozen=True, slots=True)
class Euler(OneCall):
    """``x_s = x_t + (s − t) v(x_t, t)``: order 1 in the time of the schedule (in sigma for EDM, straight lines for flows)."""

    def kernel(
        self, process: Process, x_t: Any, posterior: Distribution, t: Time, s: Time, ctx: Context, state: State
    ) -> tuple[Distribution, State]:
        """See ``OneCall``."""
        flow = continuous(process)
        return Dirac(flow.move(x_t, _gap(t, s, x_t) * flow.velocity(x_t, posterior, t, ctx))), None


@dataclass(frozen=True, slots=True)
class Heun:
    """The trapezoid rule: an Euler step, then the mean of the velocities at both ends. Order 2, two evaluations.

    The step that ends at t = 0 is an Euler step, as in the paper: there the velocity is the small difference of large
    numbers.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364.
    """

    def __call__(
        self, denoiser: Denoiser, x_t: Data, t: Time, s: Time, ctx: Context, state: State, rng: Rng | None
    ) -> Transition:
        """See ``Step``."""
        assert isinstance(x_t, Tensor)
        flow, posterior = continuous(denoiser.process), denoiser(x_t, t, ctx)
        gap, v = _gap(t, s, x_t), flow.velocity(x_t, posterior, t, ctx)
        x_s = flow.move(x_t, gap * v)
        if not (isinstance(s, float) and s == 0.0):
            slope = flow.velocity(x_s, denoiser(x_s, s, ctx), s, ctx)
            mean = flow.move(x_t, gap * 0.5 * (v + slope))
            x_s = mean if isinstance(s, float) else torch.where(left(s > 0, mean), mean, x_s)
        return Transition(t, s, x_t, x_s, posterior, Dirac(x_s), self, state, None, ctx)
