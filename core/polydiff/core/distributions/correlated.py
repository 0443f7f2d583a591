"""Noise that is a random function of a place: Gaussian processes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from polydiff.core.data import left, masked_sum
from polydiff.core.distributions.kernels import Kernel
from polydiff.core.distributions.noise import Noise

__all__ = ["GP", "Correlated"]


class Correlated(Noise):
    """Noise of leaves ``(B, L, ...)``, correlated along axis 1 and independent over the further ones.

    Padding is exactly zero and has no degrees of freedom.

    Attributes:
        at: Places ``(B, L)`` or ``(B, L, P)``; those of padding are never read.
        valid: Bool ``(B, L)``, False for padding; ``None`` where there is none.
    """

    at: Tensor
    valid: Tensor | None

    # -------------------------------------------------------------- what a law provides: z is (B, L, R), here is (B, L)

    @abstractmethod
    def _colour(self, w: Tensor) -> Tensor: ...

    @abstractmethod
    def _whiten(self, z: Tensor) -> Tensor: ...

    @abstractmethod
    def _precision(self, z: Tensor) -> Tensor: ...

    @abstractmethod
    def _log_det(self) -> Tensor:
        """``log det L``, ``(B,)``."""

    @abstractmethod
    def _spread(self, ratio: Tensor) -> Tensor:
        """``¼ Σ_ij (Σ⁻¹)_ij Σ_ij (r_i − r_j)²``, ``(B, R)``."""

    # -------------------------------------------------------------- masks

    @cached_property
    def here(self) -> Tensor:
        """``valid``, or True everywhere."""
        return (
            torch.ones(self.at.shape[:2], dtype=torch.bool, device=self.at.device) if self.valid is None else self.valid
        )

    def _check(self, x: Tensor) -> None:
        if x.shape[:2] != self.at.shape[:2]:
            raise ValueError(
                f"noise at places {tuple(self.at.shape)} is for data (B, L, ...) of the same B and L, not {tuple(x.shape)}"
            )

    def _within(self, mask: Tensor | None, like: Tensor) -> tuple[Self, int]:
        """The law of the masked elements alone, and how many rows of it one sample takes (its further axes, if not 1)."""
        self._check(like)
        if mask is None:
            return self, 1
        flat = mask.reshape(*mask.shape[:2], -1) if mask.ndim > 1 else mask[:, None, None]
        if bool((flat == flat[..., :1]).all()):
            here = self.here & flat[..., 0]
            return (self if torch.equal(here, self.here) else self._at(self.at, here)), 1
        wide = left(mask, like).expand_as(like).flatten(2)
        each, rows = wide.shape[2], torch.arange(len(like), device=like.device).repeat_interleave(wide.shape[2])
        return self._at(self.at[rows], self.here[rows] & wide.mT.flatten(0, 1)), each

    def _at(self, at: Tensor, valid: Tensor) -> Self:
        """The same law at other places."""
        return replace(self, at=at, valid=valid)  # type: ignore[type-var]

    # -------------------------------------------------------------- Noise

    def colour(self, w: Tensor) -> Tensor:
        """See ``Noise``."""
        self._check(w)
        return self._colour(w.reshape(*w.shape[:2], -1)).reshape(w.shape)

    def whiten(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """See ``Noise``."""
        law, each = self._within(mask, z)
        return _unfold(law._whiten(_fold(z, each)), each, z)

    def precision(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """See ``Noise``."""
        law, each = self._within(mask, z)
        return _unfold(law._precision(_fold(z, each)), each, z)

    def sum(self, per_element: Tensor, mask: Tensor | None) -> Tensor:
        """See ``Noise``."""
        inside = torch.where(left(self.here, per_element), per_element, 0.0)
        return masked_sum(inside, mask)

    def log_det(self, like: Tensor, mask: Tensor | None) -> float | Tensor:
        """See ``Noise``."""
        law, each = self._within(mask, like)
        copies = like[0, 0].numel() // each
        return (copies * law._log_det().reshape(len(like), each).sum(1)).to(like.dtype)

    def kl(self, ratio: Tensor, shift: Tensor, mask: Tensor | None) -> Tensor:
        """See ``Noise``; any ratio.

        The trace is ``Σ_ij r_i r_j (Σ⁻¹)_ij Σ_ij = Σ_i r_i² − ½ Σ_ij (Σ⁻¹)_ij Σ_ij (r_i − r_j)²``, as the rows of
        ``Σ⁻¹ ∘ Σ`` sum to 1.
        """
        law, each = self._within(mask, ratio)
        extra = law._spread(_fold(ratio, each)).reshape(len(ratio), -1).sum(1)
        return Noise.kl(self, ratio, shift, mask) - extra.to(ratio.dtype)


def _fold(x: Tensor, each: int) -> Tensor:
    """``(B, L, ...)`` to ``(B, L, R)``, or to ``(B R, L, 1)`` where every one of the R has a mask of its own."""
    flat = x.reshape(*x.shape[:2], -1)
    return flat if each == 1 else flat.mT.flatten(0, 1)[..., None]


def _unfold(flat: Tensor, each: int, like: Tensor) -> Tensor:
    return (flat if each == 1 else flat[..., 0].unflatten(0, (len(like), each)).mT).reshape(like.shape)


@dataclass(frozen=True, eq=False)
class GP(Correlated):
    """A Gaussian process at given places: ``Σ_ij = k(t_i, t_j) + jitter · δ_ij``.

    The factor is a Cholesky factor in float64, formed once; the jitter is part of the law, so that samples, densities and
    divergences belong to one covariance. Colouring runs in the type of the data, whitening in float64.

    Args:
        kernel: Covariance function.
        at: Places ``(B, L)`` or ``(B, L, P)``.
        valid: Bool ``(B, L)``, False for padding.
        jitter: Variance of the white noise that is added.

    Source: Modeling Temporal Data as Continuous Functions with Stochastic Process Diffusion, 2022, arXiv 2211.02590.
    """

    kernel: Kernel
    at: Tensor
    valid: Tensor | None = None
    jitter: float = 1e-6

    @cached_property
    def covariance(self) -> Tensor:
        """``Σ``, ``(B, L, L)``, in float64; padding has rows of the identity."""
        at = self.at if self.at.ndim == 3 else self.at[..., None]
        at = torch.where(self.here[..., None], at.double(), 0.0)
        pair = self.here[:, :, None] & self.here[:, None, :]
        eye = torch.eye(at.shape[1], dtype=torch.float64, device=at.device)
        return torch.where(pair, self.kernel(at, at) + self.jitter * eye, eye)

    @cached_property
    def factor(self) -> Tensor:
        """``L``, lower triangular, ``(B, L, L)``, in float64."""
        try:
            return torch.linalg.cholesky(self.covariance)
        except torch.linalg.LinAlgError:
            raise ValueError(
                f"jitter={self.jitter}: the covariance of {self.kernel} at these places is singular; raise the jitter"
            ) from None

    @cached_property
    def _coupling(self) -> Tensor:
        return torch.cholesky_inverse(self.factor) * self.covariance

    def _inside(self, z: Tensor) -> Tensor:
        return torch.where(self.here[..., None], z, 0.0)

    def _colour(self, w: Tensor) -> Tensor:
        return self.factor.to(w.dtype) @ self._inside(w)

    def _whiten(self, z: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.factor, self._inside(z).double(), upper=False).to(z.dtype)

    def _precision(self, z: Tensor) -> Tensor:
        return torch.cholesky_solve(self._inside(z).double(), self.factor).to(z.dtype)

    def _log_det(self) -> Tensor:
        return self.factor.diagonal(dim1=1, dim2=2).log().sum(1)

    def _spread(self, ratio: Tensor) -> Tensor:
        r = self._inside(ratio).double()
        gaps = (r[:, :, None] - r[:, None, :]).square()
        pairs = self._coupling * (self.here[:, :, None] & self.here[:, None, :])
        return 0.25 * torch.einsum("bij,bijr->br", pairs, gaps)

    def deviation(self, like: Tensor) -> float | Tensor:
        """``sqrt(k(t, t) + jitter)``; zero for padding."""
        return left((self.here * (self.kernel.variance + self.jitter) ** 0.5).to(like.dtype), like)
