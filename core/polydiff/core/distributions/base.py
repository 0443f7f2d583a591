"""The law: the one currency of the library. Posteriors over x_0 and kernels over x_s are the same type."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from polydiff.core.data import Data, Rng


class Distribution(ABC):
    """A law over ``Data`` that answers what it knows and refuses, in a sentence, what it does not.

    ``sample`` is ``draw(noise(rng))``, so that a path can be replayed from its noise, and ``whiten`` inverts ``draw``
    where the law is continuous. Wrappers that blend laws keep the originals in ``parts`` (``"base"`` is the law at
    guidance scale 1).
    """

    parts: Mapping[str, Distribution]
    mean: Any  # shaped like a sample; raises where there is none

    def __getattr__(self, name: str) -> Any:
        """Reached only for what the law lacks."""
        if name == "mean":
            raise TypeError(f"{type(self).__name__} has no mean")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def noise(self, rng: Rng) -> Any:
        """The randomness from which ``draw`` makes a sample."""
        raise TypeError(f"{type(self).__name__} cannot be sampled")

    def draw(self, noise: Any) -> Any:
        """The sample that belongs to ``noise``."""
        raise TypeError(f"{type(self).__name__} cannot be sampled")

    def sample(self, rng: Rng | None) -> Any:
        """A sample; ``rng`` may be ``None`` where the law is deterministic."""
        if rng is None:
            raise ValueError(f"{type(self).__name__} is random: pass an Rng")
        return self.draw(self.noise(rng))

    def whiten(self, x: Data) -> Any:
        """The noise that ``draw`` turns into ``x``."""
        raise TypeError(f"{type(self).__name__} cannot be whitened")

    def log_prob(self, x: Data, mask: Data | None = None) -> Tensor:
        """Log-density or log-probability of ``x`` in nats, ``(B,)``, summed over the elements where ``mask``."""
        raise TypeError(f"{type(self).__name__} has no log-probability")

    def kl(self, other: Distribution, mask: Data | None = None) -> Tensor:
        """KL(self ‖ other) in nats, ``(B,)``, summed over the elements where ``mask``."""
        raise TypeError(f"KL({type(self).__name__} ‖ {type(other).__name__}) has no closed form")

    def lerp(self, other: Distribution, w: float | Tensor) -> Distribution:
        """``w · self + (1 − w) · other`` in natural parameters, with 0 · ∞ = 0; ``w = 1`` is ``self`` exactly."""
        raise TypeError(f"{type(self).__name__} cannot be blended with {type(other).__name__}")

    def affine(self, scale: float | Tensor, shift: float | Tensor, std: float | Tensor) -> Distribution:
        """Law of ``scale · x + shift + std · z`` with fresh unit noise z: how linear processes consume a posterior."""
        raise TypeError(f"{type(self).__name__} is not a law over real vectors")

    def combine(
        self, scale: float | Tensor, x: Tensor, z: float | Tensor, shift: float | Tensor, std: float | Tensor
    ) -> Distribution:
        """Law of ``scale · x_0 + z · x + shift + std · noise``: ``affine`` for laws that may know ``x`` already."""
        free = x if isinstance(z, float) and z == 1.0 else x * z
        return self.affine(scale, free if isinstance(shift, float) and shift == 0.0 else free + shift, std)

    def expect(self, f: Callable[[Tensor], Tensor]) -> Any:
        """Expectation of an elementwise function, shaped like a sample."""
        raise TypeError(f"{type(self).__name__} has no expectations in closed form")
