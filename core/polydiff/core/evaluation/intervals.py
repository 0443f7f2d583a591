"""Confidence intervals: a figure without one hides regressions in its noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import SupportsFloat

import numpy as np
import torch
from torch import Tensor

from polydiff.core.data import Rng
from polydiff.core.evaluation.features import Features
from polydiff.core.evaluation.results import Interval

__all__ = ["bootstrap_interval", "wilson_interval"]


def bootstrap_interval(
    statistic: Callable[..., SupportsFloat],
    *samples: Features,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of ``statistic(*samples)``.

    Each sample is redrawn with replacement along its first axis, independently of the others; put paired values in one
    array. Statistics that suffer from repeated rows (nearest neighbours, unbiased MMD) are biased under the bootstrap:
    use repeated runs for those.

    Args:
        statistic: Takes as many arrays as ``samples``, returns a float or one of this package's results.
        samples: Tensors or arrays (N, ...), each with a size of its own.
        level: Nominal coverage in (0, 1).
        resamples: Number of bootstrap draws.
        seed: Names the draws.

    Raises:
        ValueError: If there is no sample or an empty one, or ``level`` or ``resamples`` is out of range.

    Source: Bootstrap Methods: Another Look at the Jackknife, 1979, Ann. Statist. 7:1.
    """
    _check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; at least 1 is needed")
    if not samples or any(len(s) == 0 for s in samples):
        raise ValueError(f"bootstrap_interval got samples of sizes {[len(s) for s in samples]}; none may be empty")
    rng = Rng(seed)
    draws = torch.tensor(
        [float(statistic(*(_redraw(s, rng) for s in samples))) for _ in range(resamples)], dtype=torch.float64
    )
    low, high = draws.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    n = "+".join(str(len(s)) for s in samples)
    name = f"bootstrap:percentile:R={resamples}:N={n}"
    return Interval(float(statistic(*samples)), low, high, level, name)


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson score interval of a success rate ``p = successes / n``.

    ``(p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)`` with z the normal quantile of (1 + level)/2. It stays in
    [0, 1] and is sensible at 0 and n successes, where the usual ``p ± z √(p(1−p)/n)`` has no width.

    Args:
        successes: In 0 … n.
        n: Number of trials, at least 1.
        level: Nominal coverage in (0, 1).

    Raises:
        ValueError: If an argument is out of range.

    Source: Probable Inference, the Law of Succession, and Statistical Inference, 1927, JASA 22:209.
    """
    _check_level(level)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson_interval got {successes} successes of {n}; 0 ≤ successes ≤ n and n ≥ 1 are needed")
    z, p = NormalDist().inv_cdf((1 + level) / 2), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(p, low, high, level, f"wilson:N={n}")


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; a coverage in (0, 1), such as 0.95, is needed")


def _redraw(sample: Features, rng: Rng) -> Features:
    rows = (rng.uniform(torch.empty(len(sample))) * len(sample)).long()
    return sample[rows.to(sample.device)] if isinstance(sample, Tensor) else np.asarray(sample)[rows.numpy()]
