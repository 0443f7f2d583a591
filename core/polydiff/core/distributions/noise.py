"""Unit noise laws: what ``std`` multiplies in a Normal."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Rng, left, masked_sum

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Noise(ABC):
    """A centred Gaussian law with unit scale on (a subspace of) the space of a leaf ``(B, ...)``."""

    @abstractmethod
    def sample(self, rng: Rng, like: Tensor) -> Tensor:
        """Unit noise shaped like ``like``."""

    @abstractmethod
    def sum(self, per_element: Tensor, mask: Tensor | None) -> Tensor:
        """Sum a per-element quantity over the degrees of freedom of the law, ``(B,)``."""

    def log_prob(self, z: Tensor, log_std: Tensor, mask: Tensor | None) -> Tensor:
        """Log-density of ``std · z`` in nats, ``(B,)``; ``log_std`` is shaped like ``z``."""
        return masked_sum(-0.5 * z * z, mask) - self.sum(log_std + _HALF_LOG_2PI, mask)


@dataclass(frozen=True, slots=True)
class White(Noise):
    """Independent standard normal noise."""

    def sample(self, rng: Rng, like: Tensor) -> Tensor:
        """See ``Noise``."""
        return rng.normal(like)

    def sum(self, per_element: Tensor, mask: Tensor | None) -> Tensor:
        """See ``Noise``."""
        return masked_sum(per_element, mask)


@dataclass(frozen=True, slots=True, eq=False)
class ZeroSum(Noise):
    """White noise projected on ``Σ_i valid_i z_i = 0`` along axis 1: point clouds ``(B, N, D)`` without translation.

    A sample of n valid points has (n − 1) · D degrees of freedom; padding is exactly zero.

    Args:
        valid: Bool ``(B, N)``, True for a real point.

    Source: Equivariant Diffusion for Molecule Generation in 3D, 2022, arXiv 2203.17003.
    """

    valid: Tensor

    def project(self, x: Tensor) -> Tensor:
        """``x`` less the mean of its valid points; padding zero."""
        keep = left(self.valid, x).to(x.dtype)
        x = torch.where(left(self.valid, x), x, 0.0)
        return (x - x.sum(1, keepdim=True) / keep.sum(1, keepdim=True).clamp_min(1)) * keep

    def sample(self, rng: Rng, like: Tensor) -> Tensor:
        """See ``Noise``."""
        return self.project(rng.normal(like))

    def sum(self, per_element: Tensor, mask: Tensor | None) -> Tensor:
        """See ``Noise``: the quantity must be the same for all points of a sample, as a shared scale is."""
        n = self.valid.sum(1).to(per_element.dtype)
        return masked_sum(per_element, self.valid) * (n - 1).clamp_min(0) / n.clamp_min(1)


WHITE = White()
