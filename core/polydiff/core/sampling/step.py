"""Steps: frozen values that carry a state from t to s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from polydiff.core.data import Context, Data, Rng, Time
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Distribution
from polydiff.core.processes import Process

State = Any


@dataclass(slots=True, eq=False)
class Transition:
    """What one step did: all that steering, policy gradients, parallel sampling and pictures need to know.

    Attributes:
        t: Time before the step.
        s: Time after it; a step may choose another than the grid proposed.
        x_t: State before.
        x_s: State after.
        posterior: Law of x_0 given x_t that the step used.
        kernel: Law from which x_s was drawn; ``None`` where there is no single law or something has moved x_s since.
        step: The step, so that the kernel can be rebuilt under another denoiser.
        state: The step's history before the step, batch first.
        next_state: Its history after it.
        ctx: The context; a control may change it for the rest of the run.
        log_w: Log importance weights ``(B,)`` accumulated so far, where something weighs.
        carry: Memory of the controls, batch first.
        ancestor: Which row of the batch before each row came from, where a control resampled.
    """

    t: Time
    s: Time
    x_t: Data
    x_s: Data
    posterior: Distribution | None
    kernel: Distribution | None
    step: Step
    state: State
    next_state: State
    ctx: Context
    log_w: Tensor | None = None
    carry: dict[str, Any] | None = None
    ancestor: Tensor | None = None


Control = Callable[[Transition], Transition]


class Step(Protocol):
    """A frozen value that receives the denoiser and hands its history back."""

    def __call__(
        self, denoiser: Denoiser, x_t: Data, t: Time, s: Time, ctx: Context, state: State, rng: Rng | None
    ) -> Transition:
        """One step from t to s (or to a time of the step's own choice)."""
        ...


class OneCall(ABC):
    """A step of one evaluation and one law (a point where it is deterministic): nearly every solver."""

    __slots__ = ()

    def __call__(
        self, denoiser: Denoiser, x_t: Data, t: Time, s: Time, ctx: Context, state: State, rng: Rng | None
    ) -> Transition:
        """See ``Step``."""
        posterior = denoiser(x_t, t, ctx)
        kernel, after = self.kernel(denoiser.process, x_t, posterior, t, s, ctx, state)
        return Transition(t, s, x_t, kernel.sample(rng), posterior, kernel, self, state, after, ctx)

    @abstractmethod
    def kernel(
        self, process: Process, x_t: Any, posterior: Distribution, t: Time, s: Time, ctx: Context, state: State
    ) -> tuple[Distribution, State]:
        """The law of x_s, and the history after the step."""
