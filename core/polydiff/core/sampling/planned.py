"""Planned denoising: a planner says which token is noise, the denoiser redraws that one alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polydiff.core.data import Context, Rng, Time, left
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Categorical, Distribution
from polydiff.core.processes import Discrete
from polydiff.core.sampling.step import State, Transition

Planner = Callable[[Tensor, Time, Context], Tensor]
"""``planner(x_t, t, ctx) -> (B, ...)``: probability that each token is noise, given all of x_t."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Jump to the time at which the next token is redrawn; choose it by the planner; redraw it; repeat.

    Token i is redrawn at the rate ``−alpha′ / (1 − alpha) · q_i`` from ``p(x_0^i | x_t, i is noise)``, q_i the probability
    that it is noise. Jumps at these rates have exactly the marginals of the process, jointly over tokens, when planner and
    denoiser are exact. With all q frozen over the wait, the corrupted fraction ``h = 1 − alpha`` falls to
    ``h u^{1 / Σ q_i}`` (u uniform): the only error. A wait that would pass the time s that the grid proposes ends there
    with nothing redrawn, so that finer grids have less of it; ``[1.0, 0.0]`` costs the fewest evaluations. On masked tokens
    q would be 0 or 1 and this ``FirstHitting``; here a token that was settled can be redrawn.

    The step moves time itself, a time per sample.

    Args:
        planner: ``planner(x_t, t, ctx) -> P(token is noise)``; ``None`` derives it from the denoiser's own law, at no
            further evaluation.
        thin: Remove the error instead: candidates come at the fastest possible rate (every token noise), each is looked
            at *at its own time* and redrawn with probability q_i. Candidates never end as h → 0: what is left at the
            grid's time ``s > 0`` is for the steps after it.

    Raises:
        TypeError: For an absorbing process, or one that is not ``Discrete``.
        ValueError: Without an Rng.

    Source: Think While You Generate: Discrete Diffusion with Planned Denoising, 2024, arXiv 2410.06264.
    """

    planner: Planner | None = None

    def __call__(
        self, denoiser: Denoiser, x_t: Any, t: Time, s: Time, ctx: Context, state: State, rng: Rng | None
    ) -> Transition:
        """See ``Step``."""
        process = unmasked(denoiser.process, "Planned")
        if rng is None:
            raise ValueError("Planned is random: pass an Rng")
        time, stop = (
            torch.as_tensor(u, dtype=torch.float64, device=x_t.device).expand(x_t.shape[:1]) for u in (t, s)
        )
        posterior = denoiser(x_t, time, ctx)
        noise, redraw = split(process, posterior, x_t, time)
        if self.planner is not None:
            noise = self.planner(x_t, time, ctx).double()
        scored = ctx.scored()
        if isinstance(scored, Tensor):
            noise = torch.where(left(scored, noise), noise, 0.0)
        total = noise.flatten(1).sum(1)
        after = self._wait(process, total, time, rng)
        moves = after > stop
        choice = Categorical(torch.where(moves[:, None], noise.flatten(1), 1.0).log()).sample(rng)
        chosen = nn.functional.one_hot(choice, noise[0].numel()).bool().view_as(noise) & left(moves, noise)
        x_s = torch.where(chosen, redraw.sample(rng), x_t)
        return Transition(t, torch.maximum(after, stop), x_t, x_s, posterior, None, self, state, None, ctx)
