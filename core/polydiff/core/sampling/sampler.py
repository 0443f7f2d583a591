"""Samplers: what a Generator holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from polydiff.core.data import Context, Data, Rng
from polydiff.core.denoisers import Denoiser
from polydiff.core.processes import Process
from polydiff.core.sampling.loop import Times, sample
from polydiff.core.sampling.step import Control, Step


class Sampler(Protocol):
    """Anything that turns a denoiser into samples: the loop, tree searches, parallel iterations, one-step students."""

    def __call__(self, denoiser: Denoiser, like: Data, ctx: Context, rng: Rng) -> Data:
        """Samples shaped like ``like``."""
        ...


@dataclass(frozen=True)
class Chain:
    """The loop as a Sampler.

    Args:
        times: A grid, or a function that makes one from the process (``lambda p: karras_times(p.schedule, 18)``).
        step: The step.
        controls: Called after each step.
        start: Initial state in place of a draw from the prior.

    >>> from polydiff.core.sampling import Ancestral
    >>> from polydiff.core.schedules import uniform_times
    >>> ddim = Chain(uniform_times(20), Ancestral(eta=0.0))
    """

    times: Times | Callable[[Process], Times]
    step: Step
    controls: Sequence[Control] = ()
    start: Data | None = None

    def __call__(self, denoiser: Denoiser, like: Data, ctx: Context, rng: Rng) -> Data:
        """See ``Sampler``."""
        x = denoiser.process.prior(like, ctx).sample(rng) if self.start is None else self.start
        times = self.times(denoiser.process) if callable(self.times) else self.times
        return sample(denoiser, x, times, self.step, ctx, controls=self.controls, rng=rng)
