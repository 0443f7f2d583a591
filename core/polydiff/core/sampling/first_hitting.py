"""First-hitting sampling of masked diffusion: one evaluation a token, at exactly the law of infinitely many steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Context, Rng, Time
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Gated
from polydiff.core.processes import Discrete
from polydiff.core.processes.discrete import absorbing, one_clock
from polydiff.core.sampling.step import State, Transition


@dataclass(frozen=True, slots=True)
class FirstHitting:
    """Jump to the time at which the next token shows; draw it; repeat.

    With n tokens masked at time t the hidden probability ``h = 1 − alpha`` falls to ``h_t u^{1/n}`` (u uniform) when the
    first of them shows, and which one it is is uniform. The step moves time itself, a time per sample: give it the grid
    ``[1.0, 0.0]``.

    Args:
        tokens: Tokens revealed by one evaluation; above 1 they are drawn independently given the rest.

    Source: Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate Categorical Sampling,
    2024, arXiv 2409.02908.
    """

    tokens: int = 1

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens={self.tokens}: each evaluation must reveal at least 1")

    def __call__(
        self, denoiser: Denoiser, x_t: Any, t: Time, s: Time, ctx: Context, state: State, rng: Rng | None
    ) -> Transition:
        """See ``Step``; rows without masked tokens are at the end of the grid, ``s``."""
        process = one_clock(absorbing(denoiser.process, type(self).__name__), type(self).__name__)
        if rng is None:
            raise ValueError("FirstHitting is random: pass an Rng")
        time = torch.full(x_t.shape[:1], t, dtype=torch.float64, device=x_t.device) if isinstance(t, float) else t
        hidden = open_positions(process, x_t, ctx)
        posterior = denoiser(x_t, time, ctx)
        count = hidden.flatten(1).sum(1)
        order = torch.where(hidden, rng.uniform(x_t), 2.0).flatten(1).argsort(1).argsort(1).view_as(hidden)
        chosen = hidden & (order < self.tokens)
        h = 1 - torch.as_tensor(process.schedule.at(time).a, dtype=torch.float64)
        for turn in range(self.tokens):
            left_over = count - turn
            h = torch.where(left_over > 0, h * rng.uniform(time) ** (1 / left_over.clamp_min(1)), h)
        after = torch.where(
            count > self.tokens, process.schedule.inverse_alpha(1 - h), torch.as_tensor(s, dtype=h.dtype)
        )
        x_s = Gated(x_t, chosen, 1.0, process.clean(posterior)).sample(rng)
        return Transition(t, torch.minimum(after, time), x_t, x_s, posterior, None, self, state, None, ctx)


def open_positions(process: Discrete, x_t: Tensor, ctx: Context) -> Tensor:
    """Bool like ``x_t``: masked, and neither padding nor given."""
    assert process.mask is not None
    hidden, scored = x_t.eq(process.mask), ctx.scored()
    return hidden & scored if isinstance(scored, Tensor) else hidden
