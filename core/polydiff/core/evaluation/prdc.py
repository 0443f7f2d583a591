"""Precision, recall, density and coverage: fidelity and diversity of samples, from nearest-neighbour balls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.evaluation.features import Features, as_pair, row_blocks, sizes, squared_distances

_TIE = 1.0 + 1e-9  # a point on the sphere belongs to the ball, whatever the rounding of the two distances

__all__ = ["PRDC", "precision_recall_density_coverage"]


@dataclass(frozen=True, slots=True)
class PRDC:
    """Fidelity (precision, density) and diversity (recall, coverage); more is better.

    Attributes:
        precision: Share of fakes inside some real ball, in [0, 1].
        recall: Share of reals inside some fake ball, in [0, 1].
        density: Real balls around a fake, on average, over k; 1 in expectation for equal laws, and not bounded by it.
        coverage: Share of real balls that hold some fake, in [0, 1].
        id: Implementation, k and sample sizes.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    id: str


def precision_recall_density_coverage(real: Features, fake: Features, k: int = 5) -> PRDC:
    """Precision and recall, density and coverage, of fakes Y against reals X.

    With closed balls ``B_k(a)`` around a that reach its k-th nearest neighbour in its own sample:
    ``precision = mean_j 1[Y_j ∈ ∪_i B_k(X_i)]``, ``recall = mean_i 1[X_i ∈ ∪_j B_k(Y_j)]``,
    ``density = mean_j Σ_i 1[Y_j ∈ B_k(X_i)] / k``, ``coverage = mean_i 1[∃j: Y_j ∈ B_k(X_i)]``. All depend on N, M and
    k: compare at equal ones. For equal laws and N = M, coverage is about ``1 − 2^−k``.

    Args:
        real: Features (N, D), N > k.
        fake: Features (M, D), M > k.
        k: Number of neighbours, at least 1.

    Raises:
        ValueError: If the features are no finite matrices with as many columns, or have too few rows for ``k``.

    Source: Improved Precision and Recall Metric for Assessing Generative Models, 2019, arXiv 1904.06991; Reliable
    Fidelity and Diversity Metrics for Generative Models, 2020, arXiv 2002.09797.
    """
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 neighbour is needed")
    x, y = as_pair(real, fake, ("real", "fake"), at_least=k + 1)
    reach_x, reach_y = _squared_radii(x, k), _squared_radii(y, k)
    inside = torch.zeros(len(y), device=x.device)  # real balls around each fake
    recalled = covered = 0
    for rows in row_blocks(len(x), len(y)):
        d2 = squared_distances(x[rows], y)
        in_real = d2 <= reach_x[rows, None]
        inside += in_real.sum(0)
        covered += int(in_real.any(1).sum())
        recalled += int((d2 <= reach_y).any(1).sum())
    return PRDC(
        precision=int((inside > 0).sum()) / len(y),
        recall=recalled / len(x),
        density=float(inside.double().sum()) / (k * len(y)),
        coverage=covered / len(x),
        id=f"prdc:k={k}:float64:{sizes(x, y)}",
    )


def _squared_radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th nearest other row, (N,)."""
    radii = []
    for rows in row_blocks(len(x), len(x)):
        d2 = squared_distances(x[rows], x)
        d2.diagonal(rows.start).fill_(float("inf"))
        radii.append(d2.kthvalue(k, dim=1).values)
    return torch.cat(radii) * _TIE
