"""Grids of times for sampling: floats from 1 (noise) down to 0 (data)."""

from __future__ import annotations

import math
from collections.abc import Callable

from polydiff.core.schedules.path import Schedule


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
