"""Learning-rate schedules: a factor on the peak rate by step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

LearningRate = Callable[[int], float]


@dataclass(frozen=True)
class Constant:
    """Linear warm-up to 1, then 1."""

    warmup: int = 0

    def __call__(self, step: int) -> float:
        """Factor at ``step``."""
        return min(1.0, (step + 1) / (self.warmup + 1))


@dataclass(frozen=True)
class _Decay(ABC):
    """Linear warm-up to 1, then a curve to ``floor`` at the last of ``steps``."""

    warmup: int
    steps: int
    floor: float = 0.0

    def __call__(self, step: int) -> float:
        """Factor at ``step``."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.floor + (1 - self.floor) * self.curve(done)

    @abstractmethod
    def curve(self, done: float) -> float:
        """From 1 at 0 to 0 at 1."""


@dataclass(frozen=True)
class WarmupCosine(_Decay):
    """Linear warm-up to 1, then half a cosine to ``floor`` at the last of ``steps``."""

    def curve(self, done: float) -> float:
        """Half a cosine."""
        return 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class WarmupLinear(_Decay):
    """Linear warm-up to 1, then a line to ``floor`` at the last of ``steps``."""

    def curve(self, done: float) -> float:
        """A line."""
        return 1 - done
