"""Kernels between feature vectors, for the maximum mean discrepancy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from polydiff.core.evaluation.features import squared_distances

_MEDIAN_ROWS = 1000

__all__ = ["RBF", "Kernel", "Polynomial"]


class Kernel(Protocol):
    """A positive definite function of two feature vectors; a frozen value."""

    @property
    def id(self) -> str:
        """Name and settings."""
        ...

    def fitted(self, pooled: Tensor) -> Kernel:
        """The kernel with whatever it reads from the pooled sample (N + M, D) filled in."""
        ...

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Kernel matrix (N, M) of float64 features (N, D) and (M, D)."""
        ...


@dataclass(frozen=True, slots=True)
class RBF:
    """Gaussian kernel ``exp(−|x − y|² / (2 h²))``.

    Attributes:
        bandwidth: h > 0, in units of the features. ``None`` takes the median distance within the pooled sample (of at
            most 1,000 evenly spaced rows).

    Source: A Kernel Two-Sample Test, 2012, JMLR 13:723 (the median heuristic).
    """

    bandwidth: float | None = None

    def __post_init__(self) -> None:
        if self.bandwidth is not None and not 0.0 < self.bandwidth < float("inf"):
            raise ValueError(f"the bandwidth of RBF is {self.bandwidth}; a positive number or None is needed")

    @property
    def id(self) -> str:
        """Name and bandwidth."""
        return "rbf:median" if self.bandwidth is None else f"rbf:h={self.bandwidth:.6g}"

    def fitted(self, pooled: Tensor) -> RBF:
        """The kernel with its bandwidth, read from the pooled sample where none was given."""
        if self.bandwidth is not None:
            return self
        if len(pooled) > _MEDIAN_ROWS:
            pooled = pooled[torch.linspace(0, len(pooled) - 1, _MEDIAN_ROWS).long().to(pooled.device)]
        h = float(torch.nn.functional.pdist(pooled).quantile(0.5))
        if h == 0.0:
            raise ValueError("the median distance of the pooled sample is 0 (repeated rows); give RBF a bandwidth")
        return RBF(h)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Kernel matrix (N, M)."""
        if self.bandwidth is None:
            raise ValueError("this RBF has no bandwidth yet; give one or call fitted(pooled) first")
        return squared_distances(x, y).mul_(-0.5 / self.bandwidth**2).exp_()


@dataclass(frozen=True, slots=True)
class Polynomial:
    """Polynomial kernel ``(x·y / D + offset)^degree``; the defaults are the kernel of KID.

    Source: Demystifying MMD GANs, 2018, arXiv 1801.01401.
    """

    degree: int = 3
    offset: float = 1.0

    def __post_init__(self) -> None:
        if self.degree < 1 or self.offset < 0.0:
            raise ValueError(
                f"Polynomial got degree {self.degree} and offset {self.offset}; it is positive definite for degree ≥ 1 "
                "and offset ≥ 0"
            )

    @property
    def id(self) -> str:
        """Name, degree and offset."""
        return f"poly{self.degree}:c={self.offset:g}"

    def fitted(self, pooled: Tensor) -> Polynomial:
        """The kernel itself: nothing depends on the sample."""
        return self

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Kernel matrix (N, M)."""
        return (x @ y.T).div_(x.shape[1]).add_(self.offset).pow_(self.degree)
