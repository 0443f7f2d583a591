"""Mixtures: exact posteriors of Gaussian mixtures and of finite data sets; laws known only through samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Data, Rng, left
from polydiff.core.distributions.base import Distribution
from polydiff.core.distributions.categorical import Categorical
from polydiff.core.distributions.normal import Normal


@dataclass(eq=False)
class Mixture(Distribution):
    """One component a sample, then independent normal noise: ``Σ_k π_k N(means_k, stds_k²)``.

    Args:
        logits: Log-weights ``(B, K)``, unnormalised.
        means: ``(B, K, ...)``.
        stds: ``(B, K, ...)``, broadcastable against the means from the left.
    """

    logits: Tensor
    means: Tensor
    stds: Tensor
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    @property
    def mean(self) -> Tensor:
        """``Σ_k π_k means_k``."""
        return (left(self.logits.softmax(-1), self.means) * self.means).sum(1)

    def noise(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """A uniform that picks the component, and unit noise."""
        return rng.uniform(self.logits[:, 0]), rng.normal(self.means[:, 0])

    def draw(self, noise: tuple[Tensor, Tensor]) -> Tensor:
        """The picked component's mean plus its std times the noise."""
        k = Categorical(self.logits).draw(noise[0])
        rows = torch.arange(len(k), device=k.device)
        std = left(self.stds, self.means).expand_as(self.means)[rows, k]
        return self.means[rows, k] + std * noise[1]

    def log_prob(self, x: Data, mask: Data | None = None) -> Tensor:
        """Log-density in nats, ``(B,)``."""
        z = (x[:, None] - self.means) / left(self.stds, self.means)  # type: ignore[index]
        terms = -0.5 * z**2 - left(self.stds, self.means).log().expand_as(z) - 0.5 * math.log(2 * math.pi)
        if mask is not None:
            terms = torch.where(left(mask[:, None], terms), terms, 0.0)  # type: ignore[index]
        return (self.logits.log_softmax(-1) + terms.flatten(2).sum(2)).logsumexp(-1)

    def affine(self, scale: float | Tensor, shift: float | Tensor, std: float | Tensor) -> Mixture:
        """Component by component."""
        scale, shift, std = (_insert(c) for c in (scale, shift, std))
        wide = [c if isinstance(c, float) else left(c, self.means) for c in (scale, shift, std)]
        stds = ((wide[0] * left(self.stds, self.means)) ** 2 + wide[2] ** 2) ** 0.5
        return Mixture(self.logits, wide[0] * self.means + wide[1], stds)

    def expect(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Quadrature in every component."""
        inner = Normal(self.means, left(self.stds, self.means)).expect(f)
        return (left(self.logits.softmax(-1), inner) * inner).sum(1)

    def lerp(self, other: Distribution, w: float | Tensor) -> Distribution:
        """A product of powers of mixtures is no mixture: only the means are blended, as guidance does."""
        if isinstance(w, float) and w == 1.0:
            return self
        return Normal(self.mean).lerp(Normal(other.mean), w)


def _insert(c: float | Tensor) -> float | Tensor:
    """Add the component axis to a batch-first coefficient."""
    return c[:, None] if isinstance(c, Tensor) and c.ndim else c


@dataclass(eq=False)
class Empirical(Distribution):
    """Weighted atoms ``scale · atoms_k + shift + std · z``: the exact posterior over a finite data set.

    The atoms ``(K, ...)`` are shared by the batch and never copied per sample.

    Args:
        logits: Log-weights ``(B, K)``, unnormalised.
        atoms: ``(K, ...)``, shared.
        scale: Float or ``(B, ...)``.
        shift: Float or ``(B, ...)``.
        std: Float or ``(B, ...)``.
    """

    logits: Tensor
    atoms: Tensor
    scale: float | Tensor = 1.0
    shift: float | Tensor = 0.0
    std: float | Tensor = 0.0
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)
    shared = ("atoms",)

    def _place(self, x: Tensor) -> Tensor:
        scale, shift = (c if isinstance(c, float) else left(c, x) for c in (self.scale, self.shift))
        return scale * x + shift

    @property
    def mean(self) -> Tensor:
        """The weighted mean of the atoms, placed."""
        w = self.logits.softmax(-1).to(self.atoms.dtype)
        return self._place((w @ self.atoms.flatten(1)).unflatten(1, self.atoms.shape[1:]))

    def noise(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """A uniform that picks the atom, and unit noise."""
        like = self.atoms[:1].expand(len(self.logits), *self.atoms.shape[1:])
        return rng.uniform(self.logits[:, 0]), rng.normal(like)

    def draw(self, noise: tuple[Tensor, Tensor]) -> Tensor:
        """The picked atom, placed, plus noise."""
        x = self._place(self.atoms[Categorical(self.logits).draw(noise[0])])
        return x + (self.std if isinstance(self.std, float) else left(self.std, x)) * noise[1]

    def affine(self, scale: float | Tensor, shift: float | Tensor, std: float | Tensor) -> Empirical:
        """See ``Distribution``."""
        like = self.atoms[:1].expand(len(self.logits), *self.atoms.shape[1:])
        a, b, s, a0, b0, s0 = (
            c if isinstance(c, float) else left(c, like) for c in (scale, shift, std, self.scale, self.shift, self.std)
        )
        return replace(self, scale=a * a0, shift=a * b0 + b, std=((a * s0) ** 2 + s**2) ** 0.5, parts={})

    def lerp(self, other: Distribution, w: float | Tensor) -> Distribution:
        """Blend of the means, as guidance does."""
        if isinstance(w, float) and w == 1.0:
            return self
        return Normal(self.mean).lerp(Normal(other.mean), w)


@dataclass(eq=False)
class Implicit(Distribution):
    """A law known only through its samples: ``f(rng)`` draws one batch."""

    f: Callable[[Rng], Any]
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    def noise(self, rng: Rng) -> Any:
        """The sample itself stands for its noise."""
        return self.f(rng)

    def draw(self, noise: Any) -> Any:
        """The sample."""
        return noise

    def affine(self, scale: float | Tensor, shift: float | Tensor, std: float | Tensor) -> Implicit:
        """See ``Distribution``."""

        def placed(rng: Rng) -> Tensor:
            return Normal(self.f(rng), 0.0).affine(scale, shift, std).sample(rng)

        return Implicit(placed)
