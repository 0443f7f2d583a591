"""The law that a regression network learns: its mean alone, kept as a combination until somebody reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from polydiff.core.data import Data, Rng, left
from polydiff.core.distributions.base import Distribution
from polydiff.core.distributions.normal import Normal


@dataclass(eq=False)
class Predicted(Distribution):
    """Only the mean is known: ``p · x + q · raw`` of the state x and the raw network output.

    Every parametrisation of a linear process (noise, data, v, velocity, Karras) has this form, and so has a transition
    of it. Keeping the factors apart makes a sampling step two tensor operations instead of four, whatever the
    parametrisation; ``mean`` is formed when first read.

    Args:
        x: The state ``(B, ...)``.
        raw: The network output, shaped like x.
        p: Factor of x: a float, or a tensor already shaped to broadcast.
        q: Factor of raw.
    """

    x: Tensor
    raw: Tensor
    p: float | Tensor
    q: float | Tensor
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)
    std = None

    @cached_property
    def mean(self) -> Tensor:  # type: ignore[override]
        """``p · x + q · raw``."""
        return _blend(self.x, self.raw, self.p, self.q)

    @property
    def shared(self) -> tuple[str, ...]:
        """Factors of which one row serves the whole batch, as with clocks at a shared time: ``index`` keeps them."""
        factors = {"p": self.p, "q": self.q}
        return tuple(k for k, c in factors.items() if isinstance(c, Tensor) and (c.ndim == 0 or len(c) == 1))

    def _normal(self) -> Normal:
        return Normal(self.mean)

    def draw(self, noise: Tensor) -> Tensor:
        """Refused: the spread is not known."""
        return self._normal().draw(noise)

    def sample(self, rng: Rng | None) -> Tensor:
        """Refused: the spread is not known."""
        return self._normal().sample(rng)

    def log_prob(self, x: Data, mask: Data | None = None) -> Tensor:
        """Refused: the spread is not known."""
        return self._normal().log_prob(x, mask)

    def lerp(self, other: Distribution, w: float | Tensor) -> Distribution:
        """Means are blended; two predictions at one state blend their raw outputs."""
        if isinstance(w, float) and w == 1.0:
            return self
        if isinstance(other, Predicted) and other.x is self.x and other.p is self.p and other.q is self.q:
            weight = w if isinstance(w, float) else left(w, self.raw).to(self.raw.dtype)
            return Predicted(self.x, torch.lerp(other.raw, self.raw, weight), self.p, self.q)
        return self._normal().lerp(Normal(other.mean) if isinstance(other, Predicted) else other, w)

    def affine(self, scale: float | Tensor, shift: float | Tensor, std: float | Tensor) -> Normal:
        """See ``Distribution``; the unknown spread counts as zero."""
        return self._normal().affine(scale, shift, std)

    def combine(
        self, scale: float | Tensor, x: Tensor, z: float | Tensor, shift: float | Tensor, std: float | Tensor
    ) -> Distribution:
        """See ``Distribution``; at the same state the factors are merged before any tensor is touched."""
        if x is not self.x:
            return super().combine(scale, x, z, shift, std)
        mean = _blend(x, self.raw, scale * self.p + z, scale * self.q)
        return Normal(mean if isinstance(shift, float) and shift == 0.0 else mean + shift, std)


def _blend(x: Tensor, raw: Tensor, p: float | Tensor, q: float | Tensor) -> Tensor:
    if isinstance(p, float) and isinstance(q, float):
        if p == 0.0:
            return raw if q == 1.0 else raw * q
        # Scaling by a Python number wraps it in a tensor, adding with a factor does not: half the cost for small x.
        # Exact in the same way, as p − 1 is exact for p in [½, 2].
        scaled = torch.add(x, x, alpha=p - 1) if 0.5 <= p <= 2.0 else x * p
        return torch.add(scaled, raw, alpha=q)
    return p * x + q * raw
