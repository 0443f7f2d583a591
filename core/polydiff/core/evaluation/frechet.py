"""The Fréchet distance between Gaussians fitted to features: FID, FAD and FCD, by the choice of features."""

from __future__ import annotations

import torch
from torch import Tensor

from polydiff.core.evaluation.features import Features, as_features, as_pair, sizes
from polydiff.core.evaluation.results import Score

_NEGATIVE = 1e-5  # an eigenvalue below −_NEGATIVE · the largest is no rounding of a covariance, even one in float32

__all__ = ["frechet_distance", "frechet_from_moments"]


def frechet_distance(x: Features, y: Features) -> Score:
    """Squared Fréchet (2-Wasserstein) distance between Gaussians fitted to two samples.

    ``d² = |m_x − m_y|² + tr C_x + tr C_y − 2 tr (C_x^½ C_y C_x^½)^½`` with unbiased covariances C = RᵀR. The last trace
    is the sum of the singular values of ``R_x R_yᵀ``, and R comes from the centred features by QR: no covariance is
    formed and no root of a rounded zero is taken, so covariances of any rank (also N ≤ D) keep their digits. The
    estimate is biased upwards at small N: compare at equal N only.

    Args:
        x: Features (N, D), N ≥ 2.
        y: Features (M, D), M ≥ 2.

    Returns:
        The squared distance, in squared units of the features.

    Raises:
        ValueError: If the features are no finite matrices with as many columns.

    Source: GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, 2017, arXiv 1706.08500.
    """
    x, y = as_pair(x, y)
    moments = [(s.mean(0), _factor_of_sample(s)) for s in (x, y)]
    return Score(_distance(*moments[0], *moments[1]), f"frechet:float64:{sizes(x, y)}")


def frechet_from_moments(mu1: Features, cov1: Features, mu2: Features, cov2: Features) -> Score:
    """Squared Fréchet distance between two Gaussians, ``N(mu1, cov1)`` and ``N(mu2, cov2)``.

    As ``frechet_distance``, with ``C = V Λ Vᵀ = RᵀR``, ``R = Λ^½ Vᵀ`` by eigen-decomposition. Singular covariances are
    fine.

    Args:
        mu1: Mean (D,).
        cov1: Covariance (D, D), symmetric and positive semi-definite.
        mu2: Mean (D,).
        cov2: Covariance (D, D), symmetric and positive semi-definite.

    Raises:
        ValueError: If shapes disagree or a matrix is no covariance.
    """
    m1, m2 = (torch.as_tensor(m).reshape(1, -1) for m in (mu1, mu2))
    m1, m2 = as_pair(m1, m2, ("mu1", "mu2"), at_least=1)
    r1, r2 = (_factor_of_covariance(c, m1, name) for c, name in ((cov1, "cov1"), (cov2, "cov2")))
    return Score(_distance(m1[0], r1, m2[0], r2), f"frechet:float64:moments:D={m1.shape[1]}")


def _distance(m1: Tensor, r1: Tensor, m2: Tensor, r2: Tensor) -> float:
    overlap = torch.linalg.svdvals(r1 @ r2.T).sum()
    d2 = (m1 - m2).square().sum() + r1.square().sum() + r2.square().sum() - 2 * overlap
    return max(float(d2), 0.0)


def _factor_of_sample(x: Tensor) -> Tensor:
    """R (min(N, D), D) with RᵀR the unbiased covariance of ``x``."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return centred if len(x) <= x.shape[1] else torch.linalg.qr(centred, mode="r").R


def _factor_of_covariance(cov: Features, mean: Tensor, name: str) -> Tensor:
    c = as_features(cov, name, at_least=1).to(mean.device)
    d = mean.shape[1]
    if c.shape != (d, d):
        raise ValueError(f"{name} has shape {tuple(c.shape)}; ({d}, {d}) is needed beside a mean of {d} entries")
    asymmetry = float((c - c.T).abs().max())
    if asymmetry > _NEGATIVE * float(c.abs().max()):
        raise ValueError(f"{name} differs from its transpose by {asymmetry:.3g}; a covariance is symmetric")
    values, vectors = torch.linalg.eigh((c + c.T) / 2)
    if values[0] < -_NEGATIVE * values[-1].clamp_min(0.0):
        raise ValueError(f"{name} has the eigenvalue {float(values[0]):.3g}; a covariance has none below 0")
    return values.clamp_min(0.0).sqrt()[:, None] * vectors.T
