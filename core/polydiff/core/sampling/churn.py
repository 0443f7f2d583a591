"""Churn: a little fresh noise before each step of any solver."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng, Time
from polydiff.core.denoisers import Denoiser
from polydiff.core.processes import LinearGaussian
from polydiff.core.sampling.step import State, Step, Transition
from polydiff.core.schedules import Schedule


@dataclass(frozen=True, slots=True)
class Churn:
    """Raise the noise from σ to ``σ (1 + gamma)`` by the exact forward kernel, then let ``step`` go on from there.

    Args:
        step: The solver, such as ``Heun()``.
        gamma: Relative increase; the paper's ``min(S_churn / N, √2 − 1)`` (see ``Churn.edm``).
        sigma_min: Noise level (sigma / alpha) below which no noise is added.
        sigma_max: Noise level above which no noise is added.
        noise: Factor on the added noise (the paper's S_noise).

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364, algorithm 2.
    """

    step: Step
    gamma: float = 0.2
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    noise: float = 1.0

    @classmethod
    def edm(cls, step: Step, churn: float, steps: int, sigma_min: float = 0.05, sigma_max: float = 50.0) -> Churn:
        """The paper's setting for a total churn spread over ``steps``."""
        return cls(step, min(churn / steps, math.sqrt(2) - 1), sigma_min, sigma_max)

    def __call__(
        self, denoiser: Denoiser, x_t: Data, t: Time, s: Time, ctx: Context, state: State, rng: Rng | None
    ) -> Transition:
        """See ``Step``. The churned state, not ``x_t``, is what the posterior of the transition belongs to."""
        process = denoiser.process
        if not isinstance(process, LinearGaussian) or not isinstance(process.path, Schedule):
            raise TypeError("churn needs a Gaussian process with a schedule")
        assert isinstance(x_t, Tensor)
        up = self._up(process.path, t, s)
        if isinstance(up, float) and up == t:
            return self.step(denoiser, x_t, t, s, ctx, state, rng)
        kernel = process.marginal(x_t, up, ctx, since=t)
        noisy = kernel.sample(rng)
        if self.noise != 1.0:
            noisy = kernel.mean + self.noise * (noisy - kernel.mean)
        done = self.step(denoiser, noisy, up, s, ctx, state, rng)
        return Transition(t, done.s, x_t, done.x_s, done.posterior, None, self, state, done.next_state, done.ctx)

    def _up(self, schedule: Schedule, t: Time, s: Time) -> Time:
        """The time at σ (1 + gamma); t itself for what is out of range, or stands still."""
        if isinstance(t, float):
            sigma = math.exp(-float(schedule.logsnr(t)) / 2)
            up = float(schedule.inverse(-2 * math.log(sigma * (1 + self.gamma))))
            return up if self.sigma_min <= sigma <= self.sigma_max and up > t else t
        sigmas = (-0.5 * torch.as_tensor(schedule.logsnr(t))).exp()
        ups = torch.as_tensor(schedule.inverse(-2 * (sigmas * (1 + self.gamma)).log()))
        inside = (self.sigma_min <= sigmas) & (sigmas <= self.sigma_max)
        return torch.where(inside & (ups > t) & (t != s), ups, t)
