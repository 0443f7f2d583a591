"""Unit noise laws: what ``std`` multiplies in a Normal."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Rng, left, masked_sum

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Noise(ABC):
    """A centred Gaussian law ``N(0, Σ)``, ``Σ = L Lᵀ``, on (a subspace of) the space of a leaf ``(B, ...)``.

    A ``Normal`` of this law is ``mean + std · z`` with ``z = L w`` and white w. Its own noise is z: ``Normal.noise`` draws it,
    ``draw`` places it and ``Normal.whiten`` finds it again; the white w behind it is ``law.whiten(z)``. Where a method takes
    a mask, it speaks of the marginal law of the elements where the mask is True: ``Σ`` on these rows and columns alone.
    """

    @abstractmethod
    def colour(self, w: Tensor) -> Tensor:
        """``L w``: noise of this law from white noise of the same shape."""

    @abstractmethod
    def whiten(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """``L⁻¹ z``, so that the sum of its squares is ``zᵀ Σ⁻¹ z`` (of the masked elements, the others being zero)."""

    @abstractmethod
    def precision(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """``Σ⁻¹ z`` (of the masked elements, the others being zero), the pseudo-inverse on a subspace."""

    @abstractmethod
    def sum(self, per_element: Tensor, mask: Tensor | None) -> Tensor:
        """Sum a per-element quantity over the degrees of freedom of the law, ``(B,)``."""

    def sample(self, rng: Rng, like: Tensor) -> Tensor:
        """Noise of this law shaped like ``like``."""
        return self.colour(rng.normal(like))

    def deviation(self, like: Tensor) -> float | Tensor:
        """Standard deviation of each element, broadcastable against ``like``."""
        return 1.0

    def log_det(self, like: Tensor, mask: Tensor | None) -> float | Tensor:
        """``log det L`` over the elements of ``like`` where ``mask``, ``(B,)``."""
        return 0.0

    def log_prob(self, z: Tensor, log_std: Tensor, mask: Tensor | None) -> Tensor:
        """Log-density of ``std · z`` in nats, ``(B,)``; ``log_std`` is shaped like ``z``."""
        w = self.whiten(z, mask)
        return masked_sum(-0.5 * w * w, mask) - self.sum(log_std + _HALF_LOG_2PI, mask) - self.log_det(z, mask)

    def kl(self, ratio: Tensor, shift: Tensor, mask: Tensor | None) -> Tensor:
        """KL of ``N(μ₁, S₁ Σ S₁)`` from ``N(μ₂, S₂ Σ S₂)`` in nats, ``(B,)``, diagonal S.

        Args:
            ratio: ``S₁ / S₂``, shaped like the data; it must be shared by elements that are correlated unless the law says
                otherwise.
            shift: ``(μ₁ − μ₂) / S₂``, infinite where a certain second law lies elsewhere.
            mask: Elements that count.
        """
        far = torch.isinf(shift) if mask is None else torch.isinf(shift) & left(mask, shift)
        w = self.whiten(torch.where(far, 0.0, shift), mask)
        apart = torch.where(far.flatten(1).any(1), torch.inf, 0.5 * masked_sum(w**2, mask))
        return self.sum(0.5 * (ratio**2 - 1) - ratio.log(), mask) + apart

    def same(self, other: Noise) -> bool:
        """Whether the other law is equal to this one."""
        if self is other:
            return True
        if type(self) is not type(other) or not dataclasses.is_dataclass(self):
            return False
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or torch.equal(a, b)
    return bool(a == b) if not (isinstance(a, Tensor) or isinstance(b, Tensor)) else False


@dataclass(frozen=True, slots=True)
class White(Noise):
    """Independent standard normal noise."""

    def sample(self, rng: Rng, like: Tensor) -> Tensor:
        """See ``Noise``."""
        return rng.normal(like)

    def colour(self, w: Tensor) -> Tensor:
        """``w`` itself."""
        return w

    def whiten(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """``z`` itself."""
        return z if mask is None else torch.where(left(mask, z), z, 0.0)

    precision = whiten

    def sum(self, per_element: Tensor, mask: Tensor | None) -> Tensor:
        """See ``Noise``."""
        return masked_sum(per_element, mask)

    def kl(self, ratio: Tensor, shift: Tensor, mask: Tensor | None) -> Tensor:
        """See ``Noise``; any ratio."""
        spread = 0.5 * (ratio**2 - 1) - ratio.log()
        return masked_sum(spread, mask) + 0.5 * masked_sum(shift**2, mask)


@dataclass(frozen=True, slots=True, eq=False)
class ZeroSum(Noise):
    """White noise projected on ``Σ_i valid_i z_i = 0`` along axis 1: point clouds ``(B, N, D)`` without translation.

    A sample of n valid points has (n − 1) · D degrees of freedom; padding is exactly zero. Of m < n points alone (the others
    are given, say) the covariance is ``I − 1 1ᵀ / n``, which has an inverse, ``I + 1 1ᵀ / (n − m)``.

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

    def colour(self, w: Tensor) -> Tensor:
        """The projection."""
        return self.project(w)

    def whiten(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """See ``Noise``: the projection where all points count."""
        return self._stretch(z, mask, 0.5)

    def precision(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """See ``Noise``: the projection where all points count."""
        return self._stretch(z, mask, 1.0)

    def _stretch(self, z: Tensor, mask: Tensor | None, power: float) -> Tensor:
        """The mean of the points that count times ``(1 − m/n)^−power``, or 0 where m = n; the rest as it is."""
        if mask is None:
            return self.project(z)
        here, m, n = self._counts(z, mask)
        x = torch.where(here, z, 0.0)
        mean = x.sum(1, keepdim=True) / m.clamp_min(1)
        gain = torch.where(m < n, (n / (n - m).clamp_min(1)) ** power, 0.0)
        return torch.where(here, x + (gain - 1) * mean, 0.0)

    def _counts(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which elements count, how many along axis 1, and how many points there are."""
        valid = left(self.valid, z)
        here = (valid & left(mask, z)).expand_as(z)
        return here, here.sum(1, keepdim=True).to(z.dtype), valid.sum(1, keepdim=True).to(z.dtype)

    def sum(self, per_element: Tensor, mask: Tensor | None) -> Tensor:
        """See ``Noise``: the quantity must be the same for all points of a sample, as a shared scale is."""
        if mask is not None:
            here, m, n = self._counts(per_element, mask)
            free = torch.where(m < n, m, (n - 1).clamp_min(0))
            return masked_sum(torch.where(here, per_element, 0.0) * free / m.clamp_min(1), None)
        n = self.valid.sum(1).to(per_element.dtype)
        return masked_sum(per_element, self.valid) * (n - 1).clamp_min(0) / n.clamp_min(1)

    def deviation(self, like: Tensor) -> float | Tensor:
        """``sqrt(1 − 1/n)``; zero for padding."""
        n = self.valid.sum(1, keepdim=True).to(like.dtype).clamp_min(1)
        return left((1 - 1 / n).sqrt() * self.valid, like)

    def log_det(self, like: Tensor, mask: Tensor | None) -> float | Tensor:
        """See ``Noise``: ``½ log(1 − m/n)`` a dimension."""
        if mask is None:
            return 0.0
        _, m, n = self._counts(like, mask)
        return masked_sum(torch.where(m < n, 0.5 * torch.log1p(-m / n.clamp_min(1)), 0.0), None)


WHITE = White()
