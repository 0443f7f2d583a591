"""Distances between sets of windows by their correlations, autocorrelations and marginals; means over seeds.

Windows are arrays (N, L, D) or (N, L). Published scores are taken on the data that the generator was trained on; give
held-out windows for honest ones, and training windows in the place of generated ones for the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import SupportsFloat

import numpy as np
import torch
from torch import Tensor

from polydiff.core.evaluation import Interval, Score, wasserstein_1d

Windows = Tensor | np.ndarray

__all__ = [
    "Windows",
    "as_windows",
    "autocorrelation_distance",
    "correlational_score",
    "marginal_distance",
    "repeated",
    "unit_range",
]


def correlational_score(real: Windows, synthetic: Windows) -> Score:
    """Difference of the correlations between channels at lag 0, ``Σ_{i ≥ j} |ρ_ij − ρ'_ij| / 10``.

    Each channel is standardised over all windows and steps of its set. The sum and the 10 are those of the published code;
    the score grows with the number of channels.

    Raises:
        ValueError: For other shapes, or a channel of the real windows that is constant.

    Source: Diffusion-TS: Interpretable Diffusion for General Time Series Generation, 2024, arXiv 2403.01742.
    """
    r, s = _pair(real, synthetic)
    _varies(r)
    a, b = (z.flatten(0, 1).T @ z.flatten(0, 1) / (z.shape[0] * z.shape[1]) for z in (_standard(r), _standard(s)))
    rows, columns = torch.tril_indices(r.shape[2], r.shape[2])
    return Score(float((a - b)[rows, columns].abs().sum() / 10), f"correlational:float64:{_sizes(r, s)}")


def autocorrelation_distance(real: Windows, synthetic: Windows, lags: int | None = None) -> Score:
    """Mean absolute difference of autocorrelations, ``mean_{d, k = 1 … lags} |ρ_dk − ρ'_dk|``.

    ``ρ_dk = mean_{n,t} z_t z_{t+k}`` inside the windows, z standardised over all windows and steps of the set.

    Args:
        real: Windows (N, L, D).
        synthetic: Windows (M, L, D).
        lags: Up to L − 1, which is also the default.

    Raises:
        ValueError: For other shapes, a constant channel, or lags out of range.
    """
    r, s = _pair(real, synthetic)
    _varies(r)
    most = r.shape[1] - 1 if lags is None else lags
    if not 1 <= most < r.shape[1]:
        raise ValueError(f"lags={lags} in windows of {r.shape[1]} steps: 1 to {r.shape[1] - 1} are there")
    a, b = (
        torch.stack([(z[:, k:] * z[:, :-k]).mean((0, 1)) for k in range(1, most + 1)])
        for z in (_standard(r), _standard(s))
    )
    return Score(float((a - b).abs().mean()), f"autocorrelation:lags={most}:{_sizes(r, s)}")


def marginal_distance(real: Windows, synthetic: Windows) -> Score:
    """1-Wasserstein distance between the values of each channel over all steps, in its real standard deviations, mean.

    Raises:
        ValueError: For other shapes, or a channel of the real windows that is constant.
    """
    r, s = _pair(real, synthetic)
    _varies(r)
    distances = wasserstein_1d(r.flatten(0, 1), s.flatten(0, 1), p=1) / r.std((0, 1))
    return Score(float(distances.mean()), f"w1:{_sizes(r, s)}")


def repeated(score: Callable[[int], SupportsFloat], seeds: Sequence[int], level: float = 0.95) -> Interval:
    """Mean of ``score(seed)`` over seeds with Student's interval, ``mean ± t_{n−1} s / √n``.

    The interval is for the mean over seeds of the score, not for other data.

    Raises:
        ValueError: For fewer than two seeds.

    >>> round(repeated(lambda seed: [0.1, 0.2, 0.3][seed], range(3)).estimate, 6)
    0.2
    """
    from scipy.stats import t

    if len(seeds) < 2:
        raise ValueError(f"{len(seeds)} seed: an interval needs at least 2, such as range(5)")
    values = np.array([float(score(seed)) for seed in seeds])
    mean = float(values.mean())
    half = float(t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return Interval(mean, mean - half, mean + half, level, f"student:runs={len(values)}")


def as_windows(values: Windows, name: str = "windows") -> Tensor:
    """Float64 windows (N, L, D) on the CPU.

    Raises:
        ValueError: For another shape, no window, or a value that is not finite.
    """
    x = torch.as_tensor(values).detach().to("cpu", torch.float64)
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or min(x.shape) == 0:
        raise ValueError(f"{name} of shape {tuple(x.shape)}: windows (N, L, D) or (N, L) are needed")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} hold NaN or infinity: the scores compare complete windows")
    return x


def unit_range(reference: Tensor, *windows: Tensor) -> list[Tensor]:
    """Windows with each channel mapped so that the reference fills [0, 1]: the scale of the published scores."""
    low = reference.amin((0, 1))
    span = reference.amax((0, 1)) - low
    return [((x - low) / torch.where(span > 0, span, 1.0)).float() for x in windows]


def _pair(real: Windows, synthetic: Windows) -> tuple[Tensor, Tensor]:
    r, s = as_windows(real, "real windows"), as_windows(synthetic, "synthetic windows")
    if r.shape[1:] != s.shape[1:]:
        raise ValueError(f"windows of {tuple(s.shape[1:])} beside real ones of {tuple(r.shape[1:])}: need equal (L, D)")
    return r, s


def _standard(x: Tensor) -> Tensor:
    std = x.std((0, 1), correction=0)
    return (x - x.mean((0, 1))) / torch.where(std > 0, std, 1.0)


def _varies(x: Tensor) -> None:
    constant = (x.amax((0, 1)) == x.amin((0, 1))).nonzero()
    if len(constant):
        raise ValueError(f"channel {int(constant[0])} of the real windows is constant: leave it out")


def _sizes(r: Tensor, s: Tensor) -> str:
    return f"N={len(r)}+{len(s)}:L={r.shape[1]}:D={r.shape[2]}"
