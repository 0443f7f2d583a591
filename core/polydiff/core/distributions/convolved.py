"""The sum of a law and independent noise, where no closed form joins the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from polydiff.core.data import Rng, left
from polydiff.core.distributions.base import Distribution
from polydiff.core.distributions.noise import Noise
from polydiff.core.distributions.normal import Dirac, Normal, _shared

__all__ = ["Convolved", "with_noise"]


@dataclass(eq=False)
class Convolved(Distribution):
    """``x + std · z`` with x of any law over real vectors and independent z of a noise law: sampled exactly, not scored.

    Args:
        base: Law of x.
        std: A float, or a tensor that broadcasts from the left.
        law: Of z.
    """

    base: Distribution
    std: float | Tensor
    law: Noise
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    @property
    def mean(self) -> Tensor:
        """That of x."""
        mean: Tensor = self.base.mean
        return mean

    def noise(self, rng: Rng) -> tuple[Any, Tensor]:
        """That of x, then z."""
        first = self.base.noise(rng)
        return first, self.law.sample(rng, self.base.draw(first))

    def draw(self, noise: tuple[Any, Tensor]) -> Tensor:
        """``x + std · z``."""
        x: Tensor = self.base.draw(noise[0])
        return x + (self.std if isinstance(self.std, float) else left(self.std, x)) * noise[1]


def with_noise(law: Distribution, std: float | Tensor, noise: Noise) -> Distribution:
    """Law of ``x + std · z`` with x of ``law`` and independent z of ``noise``.

    A point gives a ``Normal`` of that noise, a ``Normal`` of the same noise adds its variance, whatever else is convolved.
    """
    if isinstance(std, float) and std == 0.0:
        return law
    if isinstance(law, Dirac):
        return Normal(law._real(), std, noise)
    if isinstance(law, Normal):
        own = law.std
        if own is None or (isinstance(own, float) and own == 0.0):
            return Normal(law.mean, std, noise)
        if law.law.same(noise) and _shared(own) and _shared(std):
            return law.affine(1.0, 0.0, std)
    return Convolved(law, std, noise)
