"""One law for some elements and another for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Data, Rng, left
from polydiff.core.distributions.base import Distribution


@dataclass(eq=False)
class Where(Distribution):
    """``first`` for the elements that are chosen, ``second`` for the others; both over tensors of one shape.

    Args:
        chosen: Bool ``(B, ...)``, shaped like a sample.
        first: Law of the chosen elements.
        second: Law of the rest.
    """

    chosen: Tensor
    first: Distribution
    second: Distribution
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    def noise(self, rng: Rng) -> tuple[Any, Any]:
        """Noise of both, so that a draw does not depend on who is chosen."""
        return self.first.noise(rng), self.second.noise(rng)

    def draw(self, noise: tuple[Any, Any]) -> Tensor:
        """See ``Distribution``."""
        return torch.where(self.chosen, self.first.draw(noise[0]), self.second.draw(noise[1]))

    def log_prob(self, x: Data, mask: Data | None = None) -> Tensor:
        """Nats, ``(B,)``."""
        wide = torch.ones_like(self.chosen) if mask is None else left(mask, self.chosen)  # type: ignore[arg-type]
        return self.first.log_prob(x, wide & self.chosen) + self.second.log_prob(x, wide & ~self.chosen)
