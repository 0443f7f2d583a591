"""Paths: the coefficients of a corruption as functions of time, and the only cache of coefficients in the library."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polydiff.core.data import Time

LOGSNR_LIMIT = 20.0
_MEMO_LIMIT = 8192


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

    def inverse_alpha(self, alpha: Tensor) -> Tensor:
        """The time at a value of alpha, for schedules on which alpha falls from 1 to 0."""
        raise TypeError(f"{type(self).__name__} has no inverse in alpha: use LogLinear, RectifiedFlow or a VP schedule")
