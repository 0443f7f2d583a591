"""Ornstein–Uhlenbeck noise: a random function of time by its Markov recursion, without a Cholesky factor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from polydiff.core.data import left
from polydiff.core.distributions.correlated import Correlated

__all__ = ["OU"]


@dataclass(frozen=True, eq=False)
class OU(Correlated):
    """Ornstein–Uhlenbeck noise, ``Σ_ij = exp(−|t_i − t_j| / length)``, by its Markov recursion: no matrix is ever formed.

    ``z_i = ρ_i z_{i−1} + sqrt(1 − ρ_i²) w_i`` with ``ρ_i = exp(−(t_i − t_{i−1}) / length)``. Whitening, density and
    divergence are one pass of O(L); sampling combines the recursion over doubled distances, log₂ L tensor operations.

    Args:
        length: Correlation time.
        at: Increasing times ``(B, L)``, any gaps.
        valid: Bool ``(B, L)``, False for padding.

    Raises:
        ValueError: For times that do not increase.

    Source: Modeling Temporal Data as Continuous Functions with Stochastic Process Diffusion, 2022, arXiv 2211.02590.
    """

    length: float
    at: Tensor
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.length > 0:
            raise ValueError(f"length={self.length}: need a positive number")
        if self.at.ndim != 2:
            raise ValueError(f"places of shape {tuple(self.at.shape)}: Ornstein–Uhlenbeck noise has times (B, L)")
        gap = self._gap[self.here & (self._before >= 0)]
        if not bool((gap > 0).all()):
            raise ValueError("the times of Ornstein–Uhlenbeck noise must increase along each sample")

    @cached_property
    def _before(self) -> Tensor:
        """Index of the last valid element before each, −1 where there is none, ``(B, L)``."""
        steps = torch.arange(self.at.shape[1], device=self.at.device)
        last = torch.where(self.here, steps, -1).cummax(1).values
        return torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], 1)

    @cached_property
    def _gap(self) -> Tensor:
        at = torch.where(self.here, self.at.double(), 0.0)
        return at - at.gather(1, self._before.clamp_min(0))

    @cached_property
    def _rho(self) -> Tensor:
        """``ρ_i``, 0 for the first valid element, ``(B, L, 1)``."""
        return torch.where(self._before >= 0, (-self._gap / self.length).exp(), 0.0)[..., None]

    @cached_property
    def _fresh(self) -> Tensor:
        """``sqrt(1 − ρ_i²)``, 1 for the first valid element and for padding, ``(B, L, 1)``."""
        root = (-torch.expm1(-2 * self._gap / self.length)).sqrt()
        return torch.where(self.here & (self._before >= 0), root, 1.0)[..., None]

    def _previous(self, z: Tensor) -> Tensor:
        return z.gather(1, self._before.clamp_min(0)[..., None].expand_as(z))

    def _colour(self, w: Tensor) -> Tensor:
        here, size = self.here[..., None], w.shape[1]
        keep = torch.where(here, self._rho, 1.0).to(w.dtype)  # padding passes the state on
        z = torch.where(here, self._fresh.to(w.dtype) * w, 0.0)
        reach = 1
        while reach < size:
            z = torch.cat([z[:, :reach], z[:, reach:] + keep[:, reach:] * z[:, :-reach]], 1)
            keep = torch.cat([keep[:, :reach], keep[:, reach:] * keep[:, :-reach]], 1)
            reach *= 2
        return torch.where(here, z, 0.0)

    def _whiten(self, z: Tensor) -> Tensor:
        wide = torch.where(self.here[..., None], z, 0.0).double()
        w = (wide - self._rho * self._previous(wide)) / self._fresh
        return torch.where(self.here[..., None], w, 0.0).to(z.dtype)

    def _precision(self, z: Tensor) -> Tensor:
        wide = torch.where(self.here[..., None], z, 0.0).double()
        w = (
            torch.where(self.here[..., None], (wide - self._rho * self._previous(wide)) / self._fresh, 0.0)
            / self._fresh
        )
        back = self._before.clamp_min(0)[..., None].expand_as(w)
        return (w - torch.zeros_like(w).scatter_add(1, back, self._rho * w)).to(z.dtype)

    def _log_det(self) -> Tensor:
        return self._fresh[..., 0].log().sum(1)

    def _spread(self, ratio: Tensor) -> Tensor:
        r = torch.where(self.here[..., None], ratio, 1.0).double()
        pull = torch.where(self.here[..., None], -((self._rho / self._fresh) ** 2), 0.0)
        return 0.5 * (pull * (r - self._previous(r)).square()).sum(1)

    def deviation(self, like: Tensor) -> float | Tensor:
        """1; zero for padding."""
        return left(self.here.to(like.dtype), like)
