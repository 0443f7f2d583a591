"""Noise schedules and time grids.

A schedule maps time t ∈ [0, 1] (0 = data, 1 = noise) to the coefficients of ``x_t = alpha_t x_0 + sigma_t z`` for data of
variance 1. Every continuous schedule keeps ``logsnr = log(alpha² / sigma²)`` inside [−20, 20], so that neither end is
singular: its natural parameter u runs over the part of its range where that holds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polydiff.core.data import Time

LOGSNR_LIMIT = 20.0
_MEMO_LIMIT = 8192

__all__ = [
    "EDM",
    "LOGSNR_LIMIT",
    "VE",
    "VP",
    "Coefficients",
    "Cosine",
    "LogLinear",
    "Path",
    "RectifiedFlow",
    "Schedule",
    "SubVP",
    "VPLinear",
    "karras_times",
    "logsnr_times",
    "quadratic_times",
    "uniform_times",
]


class Coefficients(NamedTuple):
    """``x_t = a x_0 + b x_1 + g z`` and the time derivatives: floats for a shared time, else tensors ``(B, ...)``."""

    a: Time
    b: Time
    g: Time
    da: Time
    db: Time
    dg: Time


class Path(nn.Module, ABC):
    """Coefficients as a function of time, with the only cache of coefficients in the library.

    Times that are floats are memoised in float64 (a sampler then pays for its arithmetic alone); nothing is memoised
    while the path has trainable parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self._memo: dict[float, Coefficients] = {}

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at a tensor of times, with closed-form derivatives."""

    def at(self, t: Time) -> Coefficients:
        """Coefficients at ``t``: memoised floats for a float, tensors for a tensor."""
        if not isinstance(t, float):
            return self.coefficients(t)
        found = self._memo.get(t)
        if found is None:
            exact = self.coefficients(torch.tensor(t, dtype=torch.float64))
            if any(p.requires_grad for p in self.parameters()):
                return exact
            found = Coefficients(*(float(c) for c in exact))
            if len(self._memo) >= _MEMO_LIMIT:
                self._memo.clear()
            self._memo[t] = found
        return found


class Schedule(Path):
    """A path without source term: ``alpha_t``, ``sigma_t`` and their derivatives, invertible in log-SNR.

    Subclasses give the natural law (``natural``, ``natural_inverse``) on u ∈ [0, 1]; this class restricts u to the
    part where the log-SNR stays within its limits, affinely in t.
    """

    def __init__(self) -> None:
        super().__init__()
        self._range: tuple[float, float] | None = None

    @abstractmethod
    def natural(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(alpha, sigma, dalpha/du, dsigma/du)."""

    @abstractmethod
    def natural_inverse(self, logsnr: Tensor) -> Tensor:
        """u at a log-SNR."""

    @property
    def range(self) -> tuple[float, float]:
        """The values of u at t = 0 and t = 1."""
        if self._range is None:
            limits = torch.tensor([LOGSNR_LIMIT, -LOGSNR_LIMIT], dtype=torch.float64)
            lo, hi = self.natural_inverse(limits).clamp(0.0, 1.0).tolist()
            self._range = (lo, hi)
        return self._range

    def coefficients(self, t: Tensor) -> Coefficients:
        """See ``Path``."""
        lo, hi = self.range
        alpha, sigma, dalpha, dsigma = self.natural(lo + (hi - lo) * t)
        zero = torch.zeros_like(alpha)
        return Coefficients(alpha, zero, sigma, (hi - lo) * dalpha, zero, (hi - lo) * dsigma)

    def logsnr(self, t: Time) -> Time:
        """``log(alpha² / sigma²)``, decreasing in t."""
        c = self.at(t)
        if isinstance(c.a, float) and isinstance(c.g, float):
            return 2 * (math.log(c.a) - math.log(c.g))
        return 2 * (torch.as_tensor(c.a).log() - torch.as_tensor(c.g).log())

    def inverse(self, logsnr: Time) -> Time:
        """The time at a log-SNR (of the range that the schedule covers)."""
        lo, hi = self.range
        if isinstance(logsnr, float):
            exact = self.natural_inverse(torch.tensor(logsnr, dtype=torch.float64))
            return min(max((float(exact) - lo) / (hi - lo), 0.0), 1.0)
        return ((self.natural_inverse(logsnr) - lo) / (hi - lo)).clamp(0.0, 1.0)


class VP(Schedule):
    """Variance preserving: ``alpha² = sigmoid(logsnr)``, ``sigma² = sigmoid(−logsnr)``; subclasses give the log-SNR."""

    @abstractmethod
    def log_ratio(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log-SNR and its derivative at u."""

    def natural(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See ``Schedule``: dalpha = alpha sigma² logsnr′ / 2, dsigma = −sigma alpha² logsnr′ / 2."""
        ratio, slope = self.log_ratio(u)
        alpha2, sigma2 = ratio.sigmoid(), (-ratio).sigmoid()
        alpha, sigma = alpha2.sqrt(), sigma2.sqrt()
        return alpha, sigma, 0.5 * alpha * sigma2 * slope, -0.5 * sigma * alpha2 * slope


class VPLinear(VP):
    """``alpha_u² = exp(−∫ beta)`` with beta linear from ``beta_min`` to ``beta_max``.

    Source: Score-Based Generative Modeling through Stochastic Differential Equations, 2021, arXiv 2011.13456.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__()
        if not 0 < beta_min <= beta_max:
            raise ValueError(f"beta_min={beta_min}, beta_max={beta_max}: need 0 < beta_min ≤ beta_max")
        self.beta_min, self.beta_max = beta_min, beta_max

    def log_ratio(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """``−log(exp(B) − 1)`` with B the integral of beta."""
        integral, beta = _linear_beta(u, self.beta_min, self.beta_max)
        return -integral.expm1().log(), beta / torch.expm1(-integral)

    def natural_inverse(self, logsnr: Tensor) -> Tensor:
        """``B = log(1 + exp(−logsnr))``, then the quadratic for u."""
        return _invert_linear_beta(nn.functional.softplus(-logsnr), self.beta_min, self.beta_max)


class Cosine(VP):
    """``logsnr = −2 log tan(π u / 2) + 2 log shift``.

    ``shift=1`` is the cosine schedule; for images of side d, ``shift = 64 / d`` keeps the noise level of the average
    pixel (the shifted cosine schedule).

    Source: Improved Denoising Diffusion Probabilistic Models, 2021, arXiv 2102.09672; Simple diffusion, 2023, arXiv
    2301.11093.
    """

    def __init__(self, shift: float = 1.0) -> None:
        super().__init__()
        if shift <= 0:
            raise ValueError(f"shift={shift}: need a positive number")
        self.shift = shift

    def log_ratio(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """See ``VP``."""
        return -2 * (math.pi / 2 * u).tan().log() + 2 * math.log(self.shift), -2 * math.pi / (math.pi * u).sin()

    def natural_inverse(self, logsnr: Tensor) -> Tensor:
        """See ``Schedule``."""
        return 2 / math.pi * (math.log(self.shift) - logsnr / 2).exp().atan()


class SubVP(Schedule):
    """``alpha = exp(−B/2)``, ``sigma = 1 − exp(−B)``: less noise than VP at the same signal.

    Source: Score-Based Generative Modeling through Stochastic Differential Equations, 2021, arXiv 2011.13456.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__()
        self.beta_min, self.beta_max = beta_min, beta_max

    def natural(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See ``Schedule``."""
        integral, beta = _linear_beta(u, self.beta_min, self.beta_max)
        alpha = (-0.5 * integral).exp()
        return alpha, -torch.expm1(-integral), -0.5 * beta * alpha, beta * (-integral).exp()

    def natural_inverse(self, logsnr: Tensor) -> Tensor:
        """With y = exp(−B): SNR (1 − y)² = y, solved for 1 − y without cancellation."""
        snr = logsnr.exp()
        delta = 2 / (1 + (1 + 4 * snr).sqrt())
        return _invert_linear_beta(-torch.log1p(-delta), self.beta_min, self.beta_max)


class VE(Schedule):
    """``alpha = 1`` and sigma geometric up to ``sigma_max``.

    Source: Score-Based Generative Modeling through Stochastic Differential Equations, 2021, arXiv 2011.13456.
    """

    def __init__(self, sigma_max: float = 80.0) -> None:
        super().__init__()
        self.sigma_max = sigma_max
        self._low = -LOGSNR_LIMIT / 2

    def natural(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See ``Schedule``."""
        slope = math.log(self.sigma_max) - self._low
        sigma = (self._low + slope * u).exp()
        return torch.ones_like(u), sigma, torch.zeros_like(u), slope * sigma

    def natural_inverse(self, logsnr: Tensor) -> Tensor:
        """See ``Schedule``."""
        return (-logsnr / 2 - self._low) / (math.log(self.sigma_max) - self._low)


class EDM(Schedule):
    """``alpha = 1`` and sigma linear in time up to ``sigma_max``, so that Euler in t is Euler in sigma.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364.
    """

    def __init__(self, sigma_max: float = 80.0) -> None:
        super().__init__()
        self.sigma_max = sigma_max

    def natural(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See ``Schedule``."""
        return torch.ones_like(u), self.sigma_max * u, torch.zeros_like(u), torch.full_like(u, self.sigma_max)

    def natural_inverse(self, logsnr: Tensor) -> Tensor:
        """See ``Schedule``."""
        return (-logsnr / 2).exp() / self.sigma_max


class RectifiedFlow(Schedule):
    """``alpha = 1 − u``, ``sigma = u``: straight lines, the velocity is noise minus data.

    Source: Flow Straight and Fast, 2022, arXiv 2209.03003; Flow Matching for Generative Modeling, 2022, arXiv 2210.02747.
    """

    def natural(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See ``Schedule``."""
        return 1 - u, u, -torch.ones_like(u), torch.ones_like(u)

    def natural_inverse(self, logsnr: Tensor) -> Tensor:
        """See ``Schedule``."""
        return (-logsnr / 2).sigmoid()


class LogLinear(Schedule):
    """For tokens: ``alpha = 1 − t`` is the probability that a token still shows, so t is the expected masked fraction.

    Both ends are exact (discrete processes have no singular end).

    Source: Simple and Effective Masked Diffusion Language Models, 2024, arXiv 2406.07524.
    """

    @property
    def range(self) -> tuple[float, float]:
        """All of [0, 1]."""
        return (0.0, 1.0)

    def natural(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See ``Schedule``."""
        return 1 - u, u, -torch.ones_like(u), torch.ones_like(u)

    def natural_inverse(self, logsnr: Tensor) -> Tensor:
        """See ``Schedule``."""
        return (-logsnr / 2).sigmoid()


def _linear_beta(u: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    return low * u + 0.5 * (high - low) * u * u, low + (high - low) * u


def _invert_linear_beta(integral: Tensor, low: float, high: float) -> Tensor:
    return 2 * integral / (low + (low * low + 2 * (high - low) * integral).sqrt())


# ------------------------------------------------------------------ grids of times, from 1 down to 0


def _checked(steps: int) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r}: the number of sampling steps must be an integer of at least 1")
    return steps


def uniform_times(steps: int) -> list[float]:
    """``steps + 1`` equally spaced times from 1 to 0."""
    n = _checked(steps)
    return [1 - i / n for i in range(n)] + [0.0]


def quadratic_times(steps: int) -> list[float]:
    """``t_i = (1 − i/N)²``: half of the steps below t = 1/4."""
    return [t * t for t in uniform_times(steps)]


def logsnr_times(schedule: Schedule, steps: int, low: float | None = None, high: float | None = None) -> list[float]:
    """Equally spaced in log-SNR between ``low`` (default: at t = 1) and ``high`` (default 10), then 0."""
    start = float(schedule.logsnr(1.0)) if low is None else low
    stop = min(10.0, float(schedule.logsnr(0.0)) - 1e-3) if high is None else high
    return _descending(schedule, steps, lambda r: start + (stop - start) * r)


def karras_times(
    schedule: Schedule, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> list[float]:
    """``sigma_i = (σ_max^{1/ρ} + i/(N−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ`` in units of sigma/alpha, then 0.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364.
    """
    top = min(sigma_max, math.exp(-float(schedule.logsnr(1.0)) / 2))
    low, high = sigma_min ** (1 / rho), top ** (1 / rho)
    return _descending(schedule, steps, lambda r: -2 * rho * math.log(high + r * (low - high)))


def _descending(schedule: Schedule, steps: int, logsnr: Callable[[float], float]) -> list[float]:
    """Times at the log-SNRs of N points r ∈ [0, 1]; then 0. One step starts at r = 0."""
    n = _checked(steps)
    times = [float(schedule.inverse(logsnr(i / max(n - 1, 1)))) for i in range(n)]
    return [*times, 0.0]
