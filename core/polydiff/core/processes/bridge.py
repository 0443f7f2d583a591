"""Bridges and residual diffusion: processes whose source x_1 is observed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polydiff.core.processes.linear import LinearGaussian
from polydiff.core.schedules import LOGSNR_LIMIT, Coefficients, Path, Schedule

__all__ = ["Bridge", "Brownian", "Residual"]


class Brownian(Schedule):
    """``alpha = 1``, ``sigma = scale · sqrt(t)``: pinned at both ends it is the Brownian bridge.

    Args:
        scale: Standard deviation at t = 1 of the unpinned motion.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale={scale}: need a positive number")
        self.scale = scale

    def natural(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See ``Schedule``."""
        sigma = self.scale * u.sqrt()
        return torch.ones_like(u), sigma, torch.zeros_like(u), 0.5 * self.scale**2 / sigma

    def natural_inverse(self, logsnr: Tensor) -> Tensor:
        """See ``Schedule``."""
        return (-logsnr).exp() / self.scale**2


class _Pinned(Path):
    """A schedule conditioned on its state at t = 1: with r = SNR_1 / SNR_t, ``a = alpha (1 − r)``, ``b = alpha/alpha_1 · r``,
    ``g² = sigma² (1 − r)``.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def coefficients(self, t: Tensor) -> Coefficients:
        """See ``Path``."""
        alpha, _, sigma, dalpha, _, dsigma = (torch.as_tensor(c) for c in self.schedule.coefficients(t))
        end = self.schedule.coefficients(torch.ones((), dtype=t.dtype, device=t.device))
        last = torch.as_tensor(end.a)
        gap = 2 * ((last.log() - torch.as_tensor(end.g).log()) - (alpha.log() - sigma.log()))  # exactly 0 at t = 1
        slope = 2 * (dsigma / sigma - dalpha / alpha)  # of log r
        r, rest = gap.exp(), -torch.expm1(gap)
        dr = r * slope
        root = rest.clamp_min(0).sqrt()
        return Coefficients(
            alpha * rest,
            alpha / last * r,
            sigma * root,
            dalpha * rest - alpha * dr,
            (dalpha * r + alpha * dr) / last,
            dsigma * root - sigma * dr / (2 * root),
        )


class Bridge(LinearGaussian):
    """A diffusion pinned at data x_0 and an observed source x_1 (``Context.x1``).

    ``Bridge(Brownian(scale))`` is ``x_t = (1 − t) x_0 + t x_1 + scale · sqrt(t (1 − t)) z``; with a VP or VE schedule it
    is a denoising diffusion bridge. Sampling starts at x_1 itself.

    Source: Denoising Diffusion Bridge Models, 2023, arXiv 2309.16948; I2SB, 2023, arXiv 2302.05872.
    """

    def __init__(self, schedule: Schedule | None = None) -> None:
        schedule = Brownian() if schedule is None else schedule
        super().__init__(_Pinned(schedule), observes_source=True)
        self.schedule = schedule


class _Shifting(Path):
    def __init__(self, kappa: float, power: float) -> None:
        super().__init__()
        self.kappa, self.power = kappa, power
        self.low = (math.exp(-LOGSNR_LIMIT / 2) / kappa) ** (2 / power)

    def coefficients(self, t: Tensor) -> Coefficients:
        u = self.low + (1 - self.low) * t
        e, de = u**self.power, (1 - self.low) * self.power * u ** (self.power - 1)
        g = self.kappa * e.sqrt()
        return Coefficients(1 - e, e, g, -de, de, 0.5 * self.kappa**2 * de / g)


class Residual(LinearGaussian):
    """Residual shifting: ``x_t = x_0 + e_t (x_1 − x_0) + kappa sqrt(e_t) z`` with ``e_t = t^power``.

    The forward kernel adds residual and noise without shrinking (keep = 1), so it depends on x_0. Sampling starts at
    ``N(x_1, kappa²)``.

    Source: ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting, 2023, arXiv 2307.12348.
    """

    def __init__(self, kappa: float = 1.0, power: float = 2.0) -> None:
        if kappa <= 0 or power <= 0:
            raise ValueError(f"kappa={kappa}, power={power}: need positive numbers")
        super().__init__(_Shifting(kappa, power), observes_source=True, markov=False)
