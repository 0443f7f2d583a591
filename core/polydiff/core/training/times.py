"""Laws of the training time: which noise levels a model practises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Rng
from polydiff.core.processes import Process
from polydiff.core.schedules import Schedule

__all__ = ["LogNormalSigma", "LogitNormal", "TimeLaw", "Uniform"]


class TimeLaw(ABC):
    """Draws times ``(B,)`` by a quantile function of stratified uniforms: one in each of B equal slices.

    Stratification lowers the variance of the loss without bias, and needs no importance weights.

    Source: Variational Diffusion Models, 2021, arXiv 2107.00630, app. I.
    """

    def __call__(self, process: Process, like: Tensor, rng: Rng) -> Tensor:
        """Times for the batch of ``like``, on its device."""
        n = len(like)
        u = rng.uniform(like.new_empty(n, dtype=torch.float64))
        slices = (torch.arange(n, device=like.device) + u) / n
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return self.quantile(process, slices).to(dtype)

    @abstractmethod
    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """Time at the quantile u ∈ [0, 1)."""


@dataclass(frozen=True)
class Uniform(TimeLaw):
    """Uniform on [low, high]."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"low={self.low}, high={self.high}: need 0 ≤ low < high ≤ 1")

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """See ``TimeLaw``."""
        return self.low + (self.high - self.low) * u


@dataclass(frozen=True)
class LogitNormal(TimeLaw):
    """``logit(t) ~ N(mean, std²)``: more practice in the middle.

    Source: Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, 2024, arXiv 2403.03206.
    """

    mean: float = 0.0
    std: float = 1.0

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """See ``TimeLaw``."""
        return (self.mean + self.std * _probit(u)).sigmoid()


@dataclass(frozen=True)
class LogNormalSigma(TimeLaw):
    """``log(sigma / alpha) ~ N(mean, std²)``, through the inverse of the schedule.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364.
    """

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """See ``TimeLaw``."""
        schedule = getattr(process, "schedule", None)
        if not isinstance(schedule, Schedule):
            raise TypeError(f"{type(process).__name__} has no schedule to invert: use Uniform or LogitNormal")
        times = schedule.inverse(-2 * (self.mean + self.std * _probit(u)))
        assert isinstance(times, Tensor)
        return times


def _probit(u: Tensor) -> Tensor:
    return math.sqrt(2) * torch.erfinv(2 * u.clamp(1e-12, 1 - 1e-12) - 1)
