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

__all__ = ["LogNormalSigma", "LogitNormal", "RollingTimes", "TimeLaw", "Uniform", "VectorTimes"]


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


@dataclass(frozen=True)
class VectorTimes(TimeLaw):
    """Times ``(B, L)``: with probability p a time of its own for each element of a sample, else one that they share.

    Own times are stratified over all elements of the batch and dealt out at random, shared ones over the samples. A model
    that has met both makes whole samples by one time, and goes on from given elements by setting theirs to 0
    (``known_times``, ``ToldByTime``).

    Args:
        p: Probability of own times.
        law: Of each time.

    Raises:
        ValueError: For a p outside [0, 1], or data without a second axis.

    Source: Redefining Temporal Modeling in Video Diffusion: The Vectorized Timestep Approach, 2024, arXiv 2410.03160;
    Diffusion Forcing: Next-token Prediction Meets Full-Sequence Diffusion, 2024, arXiv 2407.01392 (p = 1).
    """

    p: float = 0.5
    law: TimeLaw = Uniform()

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p={self.p}: must be a probability")

    def __call__(self, process: Process, like: Tensor, rng: Rng) -> Tensor:
        """Times ``(B, L)`` for the sequences of ``like``, on its device."""
        cells = _cells(like)
        dealt = rng.uniform(cells).flatten().argsort().view_as(cells)
        own = self.quantile(process, (dealt + rng.uniform(cells)) / max(cells.numel(), 1))
        shared = self.law(process, like, rng)[:, None]
        apart = rng.uniform(cells[:, :1]) < self.p
        return torch.where(apart, own.to(shared.dtype), shared)

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """That of ``law``."""
        return self.law.quantile(process, u)


@dataclass(frozen=True)
class RollingTimes(TimeLaw):
    """Times ``(B, L)`` that rise along a window: ``t_k = clip((k − n + u) / W, 0, 1)`` behind n = L − W clean elements.

    So are the states of a window that slides over a sequence (``Rolling``), with u ~ U[0, 1] between two moves. With
    probability ``start`` the states of its start-up in place of that, ``t_k = clip((k − m) / W + v, 0, 1)`` behind m given
    elements, m uniform on 0 … n and v on [(m − n) / W, 1]: all of it is noise at v = 1, and it rolls at the lower end.

    Args:
        window: W, elements that are under way at once.
        start: Probability of the start-up.
        law: What a local time in (0, 1) is turned into, by its quantile function; 0 and 1 stay.

    Raises:
        ValueError: For a window below 1 or longer than the data, or a start outside [0, 1].

    Source: Rolling Diffusion Models, 2024, arXiv 2402.09470.
    """

    window: int
    start: float = 0.1
    law: TimeLaw = Uniform()

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window={self.window}: a window holds at least 1 element")
        if not 0 <= self.start <= 1:
            raise ValueError(f"start={self.start}: must be a probability")

    def __call__(self, process: Process, like: Tensor, rng: Rng) -> Tensor:
        """Times ``(B, L)`` for the sequences of ``like``, on its device."""
        cells, window = _cells(like), self.window
        clean = cells.shape[1] - window
        if clean < 0:
            raise ValueError(f"window={window} is longer than the sequences of {cells.shape[1]} elements")
        u = (torch.arange(len(like), device=like.device)[:, None] + rng.uniform(cells[:, :1])) / max(len(like), 1)
        begins = rng.uniform(cells[:, :1]) < self.start
        given = (rng.uniform(cells[:, :1]) * (clean + 1)).floor()
        low = (given - clean) / window
        place = torch.arange(cells.shape[1], device=like.device)
        rolling = (place - clean + u) / window
        starting = torch.where(place < given, 0.0, (place - given) / window + low + (1 - low) * u)
        local = torch.where(begins, starting, rolling).clamp(0.0, 1.0)
        t = torch.where((local > 0) & (local < 1), self.quantile(process, local), local)
        return t.to(torch.float64 if like.dtype == torch.float64 else torch.float32)

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """That of ``law``."""
        return self.law.quantile(process, u)


def _cells(like: Tensor) -> Tensor:
    """Room for one float64 an element ``(B, L)``."""
    if like.ndim < 2:
        raise ValueError(f"data of shape {tuple(like.shape)} has no sequence of elements: need (B, L, ...)")
    return like.new_empty(like.shape[:2], dtype=torch.float64)


def _probit(u: Tensor) -> Tensor:
    return math.sqrt(2) * torch.erfinv(2 * u.clamp(1e-12, 1 - 1e-12) - 1)
