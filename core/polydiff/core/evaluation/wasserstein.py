"""The Wasserstein distance on the line, and sliced over directions."""

from __future__ import annotations

import torch
from torch import Tensor

from polydiff.core.data import Rng
from polydiff.core.evaluation.features import Features, as_features, as_pair, row_blocks, sizes
from polydiff.core.evaluation.results import Score

__all__ = ["sliced_wasserstein", "wasserstein_1d"]


def wasserstein_1d(x: Features, y: Features, p: float = 2) -> Tensor:
    """Exact p-Wasserstein distance between the empirical laws of each column, ``(D,)``.

    ``W_p^p = ∫_0^1 |F_x⁻¹(u) − F_y⁻¹(u)|^p du``; the quantile functions are steps with jumps at i/N and j/M.

    Args:
        x: Values (N, D); every column is a sample of its own.
        y: Values (M, D).
        p: Order, at least 1.

    Raises:
        ValueError: If the values are no finite matrices with as many columns, or ``p`` is below 1.
    """
    x, y = as_pair(x, y, at_least=1)
    return _power_mean(x, y, p) ** (1.0 / p)


def sliced_wasserstein(
    x: Features, y: Features, *, projections: int | Tensor = 256, p: float = 2, seed: int = 0
) -> Score:
    """Sliced p-Wasserstein distance ``(E_θ W_p^p(θ·x, θ·y))^(1/p)`` over directions θ uniform on the sphere.

    Args:
        x: Features (N, D).
        y: Features (M, D).
        projections: How many directions are drawn, or the directions themselves (L, D), used as given.
        p: Order, at least 1.
        seed: Names the drawn directions; compare figures at equal directions.

    Returns:
        The distance, in units of the features.

    Raises:
        ValueError: If the features are no finite matrices with as many columns, ``p`` is below 1, or there is no
            direction.

    Source: Sliced and Radon Wasserstein Barycenters of Measures, 2015, J. Math. Imaging Vis. 51:22.
    """
    x, y = as_pair(x, y, at_least=1)
    directions = _directions(projections, x, seed)
    powers = [
        _power_mean(x @ directions[rows].T, y @ directions[rows].T, p)
        for rows in row_blocks(len(directions), len(x) + len(y))
    ]
    drawn = f"seed={seed}" if isinstance(projections, int) else "given"
    name = f"sliced-wasserstein:p={p:g}:L={len(directions)}:{drawn}:float64:{sizes(x, y)}"
    return Score(float(torch.cat(powers).mean()) ** (1.0 / p), name)


def _directions(projections: int | Tensor, x: Tensor, seed: int) -> Tensor:
    d = x.shape[1]
    if isinstance(projections, Tensor):
        given = as_features(projections, "projections", at_least=1).to(x.device)
        if given.shape[1] != d:
            raise ValueError(f"projections have {given.shape[1]} columns; {d} are needed, as in the features")
        return given
    if projections < 1:
        raise ValueError(f"projections is {projections}; at least 1 direction is needed")
    z = Rng(seed).normal(torch.empty(projections, d, dtype=torch.float64))
    return (z / z.norm(dim=1, keepdim=True)).to(x.device)


def _power_mean(x: Tensor, y: Tensor, p: float) -> Tensor:
    """W_p^p of each column."""
    if not 1 <= p < float("inf"):
        raise ValueError(f"the order p of the Wasserstein distance is {p}; 1 ≤ p < ∞ is needed")
    n, m = len(x), len(y)
    x, y = x.sort(0).values, y.sort(0).values
    if n == m:
        return (x - y).abs().pow(p).mean(0)
    # quantile levels in units of 1/(NM), where every jump is an integer
    jumps = torch.cat([torch.arange(n, device=x.device) * m, torch.arange(m, device=x.device) * n]).unique()
    width = torch.diff(jumps, append=jumps.new_tensor([n * m])).to(x.dtype) / (n * m)
    return width @ (x[jumps // m] - y[jumps // n]).abs().pow(p)
