"""Independent laws per field of a structured sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from polydiff.core.data import Data, Rng
from polydiff.core.distributions.base import Distribution


def _mask(mask: Data | None, name: str) -> Tensor | None:
    return mask.get(name) if isinstance(mask, dict) else mask


@dataclass(eq=False)
class Joint(Distribution):
    """One law a field; independent given what the law was conditioned on, so the fields meet only in the network."""

    fields: dict[str, Distribution]
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    @property
    def mean(self) -> dict[str, Any]:
        """Means by field; raises where a field has none."""
        return {k: d.mean for k, d in self.fields.items()}

    def noise(self, rng: Rng) -> dict[str, Any]:
        """Noise by field, drawn in the order of the fields."""
        return {k: d.noise(rng) for k, d in self.fields.items()}

    def draw(self, noise: dict[str, Any]) -> dict[str, Any]:
        """Samples by field."""
        return {k: d.draw(noise[k]) for k, d in self.fields.items()}

    def sample(self, rng: Rng | None) -> dict[str, Any]:
        """Samples by field."""
        return {k: d.sample(rng) for k, d in self.fields.items()}

    def whiten(self, x: Data) -> dict[str, Any]:
        """Noise by field."""
        return {k: d.whiten(x[k]) for k, d in self.fields.items()}  # type: ignore[index]

    def log_prob(self, x: Data, mask: Data | None = None) -> Tensor:
        """Sum over the fields, ``(B,)``."""
        terms = [d.log_prob(x[k], _mask(mask, k)) for k, d in self.fields.items()]  # type: ignore[index]
        return sum(terms[1:], terms[0])

    def kl(self, other: Distribution, mask: Data | None = None) -> Tensor:
        """Sum over the fields, ``(B,)``."""
        if not isinstance(other, Joint):
            return super().kl(other, mask)
        terms = [d.kl(other.fields[k], _mask(mask, k)) for k, d in self.fields.items()]
        return sum(terms[1:], terms[0])

    def lerp(self, other: Distribution, w: float | Tensor) -> Distribution:
        """Blend field by field."""
        if isinstance(w, float) and w == 1.0:
            return self
        if not isinstance(other, Joint):
            return super().lerp(other, w)
        return Joint({k: d.lerp(other.fields[k], w) for k, d in self.fields.items()})

    def expect(self, f: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Expectation field by field."""
        return {k: d.expect(f) for k, d in self.fields.items()}
