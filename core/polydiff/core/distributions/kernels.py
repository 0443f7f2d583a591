"""Covariance functions: what two places of a random function have to do with each other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RBF", "Kernel", "Matern", "Periodic", "Scaled", "Sum", "regression"]


class Kernel(ABC):
    """A stationary covariance function ``k(x, y)``; ``a + b`` and ``2.0 * a`` are kernels."""

    @property
    def variance(self) -> float:
        """``k(x, x)``."""
        return 1.0

    @abstractmethod
    def of(self, gap: Tensor) -> Tensor:
        """``k`` of differences ``x − y``, ``(..., P)`` to ``(...)``."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The matrix ``k(x_i, y_j)``: ``(..., N, P)`` and ``(..., M, P)`` to ``(..., N, M)``."""
        return self.of(x[..., :, None, :] - y[..., None, :, :])

    def __add__(self, other: Kernel) -> Sum:
        return Sum((self, other))

    def __rmul__(self, variance: float) -> Scaled:
        return Scaled(self, variance)


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value}: need a positive number")


@dataclass(frozen=True)
class RBF(Kernel):
    """``exp(−|d|² / 2 length²)``: smooth functions.

    Args:
        length: Length scale, in the units of the places.
    """

    length: float = 1.0

    def __post_init__(self) -> None:
        _positive("length", self.length)

    def of(self, gap: Tensor) -> Tensor:
        """See ``Kernel``."""
        return (-0.5 * (gap / self.length).square().sum(-1)).exp()


@dataclass(frozen=True)
class Matern(Kernel):
    """``e^−u`` times 1, ``1 + u`` or ``1 + u + u²/3``, with ``u = sqrt(2 nu) |d| / length``: functions with nu − ½ derivatives.

    ``Matern(0.5)`` is the covariance of the Ornstein–Uhlenbeck process.

    Args:
        nu: 0.5, 1.5 or 2.5.
        length: Length scale, in the units of the places.
    """

    nu: float = 1.5
    length: float = 1.0

    def __post_init__(self) -> None:
        _positive("length", self.length)
        if self.nu not in (0.5, 1.5, 2.5):
            raise ValueError(f"nu={self.nu}: must be 0.5, 1.5 or 2.5")

    def of(self, gap: Tensor) -> Tensor:
        """See ``Kernel``."""
        u = math.sqrt(2 * self.nu) / self.length * gap.square().sum(-1).sqrt()
        factor = 1.0 if self.nu == 0.5 else 1 + u if self.nu == 1.5 else 1 + u + u * u / 3
        return factor * (-u).exp()


@dataclass(frozen=True)
class Periodic(Kernel):
    """``exp(−2 Σ_p sin²(π d_p / period) / length²)``.

    Args:
        period: In the units of the places.
        length: Smoothness within a period.
    """

    period: float
    length: float = 1.0

    def __post_init__(self) -> None:
        _positive("period", self.period)
        _positive("length", self.length)

    def of(self, gap: Tensor) -> Tensor:
        """See ``Kernel``."""
        return (-2 * ((math.pi / self.period * gap).sin() / self.length).square().sum(-1)).exp()


@dataclass(frozen=True)
class Scaled(Kernel):
    """``factor · kernel``."""

    kernel: Kernel
    factor: float

    def __post_init__(self) -> None:
        _positive("factor", self.factor)

    @property
    def variance(self) -> float:
        """See ``Kernel``."""
        return self.factor * self.kernel.variance

    def of(self, gap: Tensor) -> Tensor:
        """See ``Kernel``."""
        return self.factor * self.kernel.of(gap)


@dataclass(frozen=True)
class Sum(Kernel):
    """The sum of kernels: the covariance of a sum of independent functions."""

    kernels: tuple[Kernel, ...]

    def __post_init__(self) -> None:
        if not self.kernels:
            raise ValueError("a sum of kernels needs at least one")

    @property
    def variance(self) -> float:
        """See ``Kernel``."""
        return sum(k.variance for k in self.kernels)

    def of(self, gap: Tensor) -> Tensor:
        """See ``Kernel``."""
        total = self.kernels[0].of(gap)
        for kernel in self.kernels[1:]:
            total = total + kernel.of(gap)
        return total


def regression(kernel: Kernel, at: Tensor, values: Tensor, to: Tensor, *, noise: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Exact Gaussian-process regression: ``mean = K_* (K + noise I)⁻¹ y``, ``cov = K_** − K_* (K + noise I)⁻¹ K_*ᵀ``.

    Args:
        kernel: Of the prior, which has mean zero.
        at: Places of the observations ``(..., N, P)``.
        values: Observations ``(..., N, D)``, independent over D.
        to: Places asked for ``(..., M, P)``.
        noise: Variance of the observations about the function.

    Returns:
        Mean ``(..., M, D)`` and covariance ``(..., M, M)`` of the function, in float64.

    Source: Gaussian Processes for Machine Learning, 2006, MIT Press, algorithm 2.1.
    """
    at, values, to = at.double(), values.double(), to.double()
    eye = torch.eye(at.shape[-2], dtype=torch.float64, device=at.device)
    factor = torch.linalg.cholesky(kernel(at, at) + noise * eye)
    half = torch.linalg.solve_triangular(factor, kernel(at, to), upper=False)
    mean = half.mT @ torch.linalg.solve_triangular(factor, values, upper=False)
    return mean, kernel(to, to) - half.mT @ half
