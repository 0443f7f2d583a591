"""Normal and Dirac laws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from polydiff.core.data import Data, Rng, left, masked_sum, tree_map
from polydiff.core.distributions.base import Distribution
from polydiff.core.distributions.noise import WHITE, Noise


def _shared(std: float | Tensor) -> bool:
    """Whether all elements of a sample along axis 1 have one standard deviation."""
    return isinstance(std, float) or std.ndim < 2 or std.shape[1] == 1


def _as_tensor(std: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(std, Tensor):
        return left(std, like).expand_as(like)
    return torch.full((), std, dtype=like.dtype, device=like.device).expand_as(like)


@dataclass(slots=True, eq=False)
class Normal(Distribution):
    """``x = mean + std · z`` with unit noise ``z`` (white unless another law is given).

    Args:
        mean: ``(B, ...)``.
        std: A float, or a tensor ``(B, ...)`` that broadcasts from the left. ``None`` says that only the mean is known
            (what a regression network learns): transitions then treat the spread as zero, and sampling raises.
        law: The law of z; with ``Σ`` its covariance the covariance of x is ``diag(std) Σ diag(std)``.

    >>> Normal(torch.zeros(2, 3), 1.0).log_prob(torch.zeros(2, 3))  # 3 · −½ log 2π
    tensor([-2.7568, -2.7568])
    """

    mean: Tensor
    std: float | Tensor | None = None
    law: Noise = WHITE
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    def _spread(self) -> float | Tensor:
        if self.std is None:
            raise ValueError("only the mean of this law is known: it can be neither sampled nor scored")
        return self.std

    def noise(self, rng: Rng) -> Tensor:
        """Unit noise z, of the law (``law.whiten`` tells the white noise behind it)."""
        return self.law.sample(rng, self.mean)

    def draw(self, noise: Tensor) -> Tensor:
        """``mean + std · noise``."""
        std = self._spread()
        if isinstance(std, float):
            return torch.add(self.mean, noise, alpha=std)
        return torch.addcmul(self.mean, left(std, noise).to(noise.dtype), noise)

    def sample(self, rng: Rng | None) -> Tensor:
        """The mean itself where std is the float 0, else a draw."""
        if isinstance(self.std, float) and self.std == 0.0:
            return self.mean
        if rng is None:
            raise ValueError("this transition is random: pass an Rng")
        return self.draw(self.law.sample(rng, self.mean))

    def whiten(self, x: Data) -> Tensor:
        """``(x − mean) / std``."""
        assert isinstance(x, Tensor)
        std = self._spread()
        return (x - self.mean) / (std if isinstance(std, float) else left(std, self.mean))

    def log_prob(self, x: Data, mask: Data | None = None) -> Tensor:
        """Log-density in nats, ``(B,)``."""
        assert isinstance(x, Tensor)
        std = _as_tensor(self._spread(), self.mean)
        return self.law.log_prob((x - self.mean) / std, std.log(), mask)  # type: ignore[arg-type]

    def kl(self, other: Distribution, mask: Data | None = None) -> Tensor:
        """``log(σ₂/σ₁) + (σ₁² + (μ₁ − μ₂)²) / 2σ₂² − ½`` summed; zero where both laws are the same point.

        With a noise law of covariance Σ the squares are ``|L⁻¹ (μ₁ − μ₂)|²`` and the like: see ``Noise.kl``.

        Raises:
            TypeError: For laws of unlike noise.
        """
        if not isinstance(other, Normal):
            return super().kl(other, mask)
        s1, s2 = (_as_tensor(d._spread(), self.mean) for d in (self, other))
        if not self.law.same(other.law):
            raise TypeError(f"KL of Normals of unlike noise laws, {self.law} and {other.law}, is not known")
        ratio = torch.where(s1 == s2, 1.0, s1 / s2)  # 0/0 between equal points
        gap = self.mean - other.mean
        return self.law.kl(ratio, torch.where(gap == 0, 0.0, gap / s2), mask)  # type: ignore[arg-type]

    def lerp(self, other: Distribution, w: float | Tensor) -> Distribution:
        """Natural parameters of a Normal: precisions and precision-weighted means; plain means where stds are equal."""
        if isinstance(w, float) and w == 1.0:
            return self
        if not isinstance(other, Normal):
            if self.std is not None or getattr(other, "std", 0.0) is not None:
                return super().lerp(other, w)
            other = Normal(other.mean)
        weight = w if isinstance(w, float) else left(w, self.mean).to(self.mean.dtype)
        if self.std is None or other.std is None or self.std is other.std:
            return Normal(torch.lerp(other.mean, self.mean, weight), self.std, self.law)
        self._alike(other.law, self.std, other.std, w)
        p1, p2 = (_as_tensor(s, self.mean) ** -2 for s in (self.std, other.std))
        precision = torch.where(p1 == p2, p1, p2 + weight * (p1 - p2))
        pull = torch.where(p1 == p2, 1.0, p1 / precision) * weight
        mean = torch.where(torch.as_tensor(weight == 1.0), self.mean, other.mean + pull * (self.mean - other.mean))
        return Normal(mean, precision.rsqrt(), self.law)

    def affine(self, scale: float | Tensor, shift: float | Tensor, std: float | Tensor) -> Normal:
        """See ``Distribution``; the fresh noise is of the same law, and variances add."""
        mean = self.mean
        if not isinstance(scale, float):
            scale = left(scale, mean)
        if isinstance(shift, Tensor) and isinstance(scale, float):
            mean = torch.add(shift, mean, alpha=scale)
        else:
            mean = scale * mean + (shift if isinstance(shift, float) else left(shift, mean))
        own = self.std
        if own is None or (isinstance(own, float) and own == 0.0):
            return Normal(mean, std, self.law)
        if isinstance(own, float) and isinstance(scale, float) and isinstance(std, float):
            return Normal(mean, math.hypot(std, scale * own), self.law)
        if not (isinstance(std, float) and std == 0.0):
            self._alike(self.law, own, scale, std)
        spread = _as_tensor(own, mean) * scale
        return Normal(mean, (spread**2 + _as_tensor(std, mean) ** 2).sqrt(), self.law)

    def _alike(self, law: Noise, *shared: float | Tensor) -> None:
        """Variances of correlated elements combine where the law is one and every factor is shared along axis 1."""
        if self.law is WHITE and law is WHITE:
            return
        if not (self.law.same(law) and all(_shared(c) for c in shared)):
            raise TypeError(f"{self.law} and {law} combine only as one law with one standard deviation a sample")

    def expect(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Gauss–Hermite quadrature with 64 nodes: exact for polynomials up to degree 127."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        std = _as_tensor(self._spread(), self.mean) * self.law.deviation(self.mean)
        total = math.sqrt(2 * math.pi)
        return torch.stack([w / total * f(self.mean + std * z) for z, w in zip(nodes.tolist(), weights.tolist())]).sum(
            0
        )


@dataclass(slots=True, eq=False)
class Dirac(Distribution):
    """All mass at ``value`` (``Data`` of any dtype)."""

    value: Data
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    @property
    def mean(self) -> Data:
        """The value."""
        return self.value

    def noise(self, rng: Rng) -> None:
        """Nothing."""
        return None

    def draw(self, noise: None = None) -> Data:
        """The value."""
        return self.value

    def sample(self, rng: Rng | None) -> Data:
        """The value."""
        return self.value

    def log_prob(self, x: Data, mask: Data | None = None) -> Tensor:
        """Zero where ``x`` is the value, else −∞ (the value as one atom)."""

        def leaf(v: Tensor, u: Tensor, m: Tensor | None) -> Tensor:
            return masked_sum(torch.where(v == u, 0.0, -torch.inf), m)

        out = tree_map(leaf, self.value, x, mask)
        return torch.stack(list(out.values())).sum(0) if isinstance(out, dict) else out

    def log_prob_per_element(self, x: Tensor) -> Tensor:
        """Zero or −∞ for each element of a single leaf."""
        assert isinstance(self.value, Tensor)
        return torch.where(self.value == x, 0.0, -torch.inf)

    def kl(self, other: Distribution, mask: Data | None = None) -> Tensor:
        """``−log other(value)`` for an atomic law; zero against the same point."""
        if isinstance(other, Normal):
            return Normal(self._real(), 0.0, other.law).kl(other, mask)
        return -other.log_prob(self.value, mask)

    def lerp(self, other: Distribution, w: float | Tensor) -> Distribution:
        """Blend of two points: the point between them."""
        if isinstance(w, float) and w == 1.0:
            return self
        if not isinstance(other, Dirac):
            return super().lerp(other, w)
        weight = w if isinstance(w, float) else left(w, self._real())
        return Dirac(torch.lerp(other._real(), self._real(), weight))

    def affine(self, scale: float | Tensor, shift: float | Tensor, std: float | Tensor) -> Normal:
        """See ``Distribution``."""
        return Normal(self._real(), 0.0).affine(scale, shift, std)

    def expect(self, f: Callable[[Tensor], Tensor]) -> Data:
        """``f(value)``."""
        return tree_map(f, self.value)

    def _real(self) -> Tensor:
        if not isinstance(self.value, Tensor) or not self.value.is_floating_point():
            raise TypeError("this point is not a real vector")
        return self.value
