"""The maximum mean discrepancy (KID, with the polynomial kernel) and its permutation test."""

from __future__ import annotations

import torch
from torch import Tensor

from polydiff.core.data import Rng
from polydiff.core.evaluation.features import Features, as_pair, row_blocks, sizes
from polydiff.core.evaluation.kernels import RBF, Kernel
from polydiff.core.evaluation.results import Score, TwoSampleTest

_ROUNDING = 1e-12

__all__ = ["mmd", "mmd_permutation_test"]


def mmd(x: Features, y: Features, kernel: Kernel | None = None) -> Score:
    """Unbiased estimate of the squared maximum mean discrepancy; it may be negative.

    ``MMD² = Σ_{i≠j} k(x_i, x_j) / (N(N−1)) + Σ_{i≠j} k(y_i, y_j) / (M(M−1)) − 2 Σ_{ij} k(x_i, y_j) / (NM)``. With
    ``Polynomial()`` and Inception features this is KID (on all pairs, not averaged over subsets).

    Args:
        x: Features (N, D), N ≥ 2.
        y: Features (M, D), M ≥ 2.
        kernel: ``RBF()`` with the median bandwidth unless given.

    Raises:
        ValueError: If the features are no finite matrices with as many columns.

    Source: A Kernel Two-Sample Test, 2012, JMLR 13:723; Demystifying MMD GANs, 2018, arXiv 1801.01401.
    """
    x, y = as_pair(x, y)
    k = (kernel or RBF()).fitted(torch.cat([x, y]))
    n, m = len(x), len(y)
    between = sum(float(k(x[rows], y).sum()) for rows in row_blocks(n, m))
    value = _sum_of_pairs(k, x) / (n * (n - 1)) + _sum_of_pairs(k, y) / (m * (m - 1)) - 2 * between / (n * m)
    return Score(value, f"mmd2:{k.id}:unbiased:float64:{sizes(x, y)}")


def mmd_permutation_test(
    x: Features, y: Features, kernel: Kernel | None = None, *, permutations: int = 500, seed: int = 0
) -> TwoSampleTest:
    """Test of equal laws by the MMD² under random relabellings of the pooled sample.

    ``p = (1 + #{permuted ≥ observed}) / (1 + permutations)``, which is exact at any sample size. The kernel matrix is
    passed over once, in blocks of rows, for all relabellings together.

    Args:
        x: Features (N, D), N ≥ 2.
        y: Features (M, D), M ≥ 2.
        kernel: ``RBF()`` with the median bandwidth unless given.
        permutations: Number of relabellings; the smallest possible p-value is ``1 / (1 + permutations)``.
        seed: Names the relabellings.

    Raises:
        ValueError: If the features are no finite matrices with as many columns, or ``permutations`` is below 1.

    Source: A Kernel Two-Sample Test, 2012, JMLR 13:723.
    """
    if permutations < 1:
        raise ValueError(f"permutations is {permutations}; at least 1 is needed")
    x, y = as_pair(x, y)
    pooled = torch.cat([x, y])
    k = (kernel or RBF()).fitted(pooled)
    n, total = len(x), len(pooled)
    order = Rng(seed).uniform(torch.empty(permutations, total)).argsort(1).to(x.device)
    member = pooled.new_zeros(permutations + 1, total)  # 1 where a row is labelled x; the true labels come first
    member[0, :n] = 1.0
    member[1:].scatter_(1, order[:, :n], 1.0)

    within_x = pooled.new_zeros(permutations + 1)
    degree = pooled.new_empty(total)
    for rows in row_blocks(total, total):
        block = _without_diagonal(k(pooled[rows], pooled), rows)
        degree[rows] = block.sum(1)
        within_x += ((member @ block.T) * member[:, rows]).sum(1)
    from_x = member @ degree  # within x, and once between
    between = from_x - within_x
    within_y = degree.sum() - from_x - between
    m = total - n
    values = within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)
    rounding = _ROUNDING * degree.abs().sum() / total**2  # equal statistics must count as reached
    reached = int((values[1:] >= values[0] - rounding).sum())
    return TwoSampleTest(
        float(values[0]),
        (1 + reached) / (1 + permutations),
        f"mmd2:{k.id}:permutation:{permutations}:float64:{sizes(x, y)}",
    )


def _sum_of_pairs(k: Kernel, x: Tensor) -> float:
    return sum(float(_without_diagonal(k(x[rows], x), rows).sum()) for rows in row_blocks(len(x), len(x)))


def _without_diagonal(block: Tensor, rows: slice) -> Tensor:
    """A fresh block of a symmetric kernel matrix with k(x_i, x_i) set to 0."""
    block.diagonal(rows.start).zero_()
    return block
