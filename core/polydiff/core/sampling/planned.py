"""Planned denoising: a planner says which token is noise, the denoiser redraws that one alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polydiff.core.data import Context, Rng, Time, left
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Categorical, Distribution
from polydiff.core.processes import Discrete
from polydiff.core.processes.discrete import one_clock, unmasked
from polydiff.core.sampling.step import State, Transition

Planner = Callable[[Tensor, Time, Context], Tensor]
"""``planner(x_t, t, ctx) -> (B, ...)``: probability that each token is noise, given all of x_t."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Jump to the time at which the next token is redrawn, redraw that one alone, repeat: tokens are never settled.

    With ``h = 1 − alpha``, token i is redrawn at the rate ``q_i`` per unit of ``−log h`` from ``c_i(v) = p(x_0^i = v | x_t, i
    is noise)``, q_i the probability that it is noise. Jumps at these rates have exactly the marginals of the process,
    jointly over tokens. A noise token tells nothing of x_0, so that c_i is the law given the *other* tokens, and

    ``q_i = h pi_x / (alpha c_i(x) + h pi_x)``

    at the present token x. Waits are drawn by inverting ``∫ q_i dh / h`` for each token with something frozen, the only
    error; the earliest token moves. A wait that would pass the time s that the grid proposes ends there with nothing
    redrawn. The step moves time itself, a time per sample.

    Args:
        planner: ``planner(x_t, t, ctx) -> P(token is noise)``. ``None`` derives it from the denoiser's own law, at no further
            evaluation.
        frozen: ``"evidence"`` freezes c_i, or the odds of a planner: exact for one token, and for all on fine grids.
            ``"probability"`` freezes q_i as the paper does: some token is then redrawn before h = 0 however small its
            q_i, which helps on the grid ``[1.0, 0.0]`` and leaves an error on fine ones.

    Raises:
        TypeError: For an absorbing process, or one that is not ``Discrete``.
        ValueError: Without an Rng, and for another ``frozen``.

    Source: Think While You Generate: Discrete Diffusion with Planned Denoising, 2024, arXiv 2410.06264.
    """

    planner: Planner | None = None
    frozen: Literal["evidence", "probability"] = "evidence"

    def __post_init__(self) -> None:
        if self.frozen not in ("evidence", "probability"):
            raise ValueError(f"frozen={self.frozen!r}: need 'evidence' or 'probability'")

    def __call__(
        self, denoiser: Denoiser, x_t: Any, t: Time, s: Time, ctx: Context, state: State, rng: Rng | None
    ) -> Transition:
        """See ``Step``."""
        process = one_clock(unmasked(denoiser.process, "Planned"), "Planned")
        if rng is None:
            raise ValueError("Planned is random: pass an Rng")
        time, stop = (torch.as_tensor(u, dtype=torch.float64, device=x_t.device).expand(len(x_t)) for u in (t, s))
        posterior = denoiser(x_t, time, ctx)
        redraw = given_noise(process, posterior, x_t, time)
        h = self._next(process, posterior, redraw, x_t, time, ctx, rng)
        open_ = left(time > stop, x_t) & _scored(ctx, x_t)
        first, choice = torch.where(open_, h, -1.0).flatten(1).max(1)
        after = torch.minimum(process.schedule.inverse_alpha(1 - first.clamp_min(0.0)), time)
        moves = (first > 0) & (after > stop)
        chosen = nn.functional.one_hot(choice, h[0].numel()).bool().view_as(h) & left(moves, h)
        x_s = torch.where(chosen, redraw.sample(rng), x_t)
        return Transition(t, torch.where(moves, after, stop), x_t, x_s, posterior, None, self, state, None, ctx)

    def _next(
        self,
        process: Discrete,
        posterior: Distribution,
        redraw: Categorical,
        x_t: Tensor,
        time: Tensor,
        ctx: Context,
        rng: Rng,
    ) -> Tensor:
        """Corrupted fraction at which each token would be redrawn, ``(B, ...)``."""
        alpha = left(torch.as_tensor(process.schedule.at(time).a), x_t)
        wait = -(-rng.uniform(x_t)).log1p()
        if self.planner is None and self.frozen == "evidence":
            return next_redraw(1 - alpha, redraw.probs.gather(-1, x_t[..., None])[..., 0] / process.pi[x_t], wait)
        if self.planner is None:
            q = noise_probability(process, posterior, x_t, time)
        else:
            q = self.planner(x_t, time, ctx).double()
        if self.frozen == "probability":
            return (1 - alpha) * (-wait / q).exp()
        # At alpha = 0 all is noise and odds say nothing: noise for certain until the next look.
        odds = (1 - alpha) * (1 - q) / (q * alpha).clamp_min(1e-300)
        return next_redraw(1 - alpha, torch.where(alpha > 0, odds.clamp_max(1e12), 0.0), wait)


def next_redraw(h: Tensor, evidence: Tensor, wait: Tensor) -> Tensor:
    """Corrupted fraction ``h′ < h`` at which a token is redrawn; at or below 0 it never is.

    Solves ``∫_{h′}^{h} q dh / h = E`` for ``q = h / (w (1 − h) + h)``: ``h′ = h e^{κE} − w (e^{κE} − 1) / κ``, κ = w − 1.
    w = 0 (noise for certain) gives ``h e^{−E}``, w = 1 (no evidence) ``h − E``.

    Args:
        h: ``1 − alpha``, broadcasting against the rest.
        evidence: ``w = c(x) / pi_x``: how much more probable than under noise the present token is.
        wait: E, exponential numbers of mean 1.
    """
    kappa = evidence - 1
    power = (kappa * wait).clamp_max(600.0)
    mean = torch.where(kappa == 0, wait, power.expm1() / torch.where(kappa == 0, 1.0, kappa))
    return h * power.exp() - evidence * mean


def given_noise(process: Discrete, posterior: Distribution, x_t: Tensor, t: Time) -> Categorical:
    """``c(v) = p(x_0 = v | x_t, the token is noise)``: the law of each clean token given the other tokens of x_t.

    By ``p(x_0 = v | x_t) ∝ c(v) (alpha [v = x_t] + (1 − alpha) pi_x)``: the posterior, at ``v = x_t`` times the probability
    ``r = (1 − alpha) pi_x / (alpha + (1 − alpha) pi_x)`` that a token which shows its clean state is noise all the same.

    Source: Think While You Generate: Discrete Diffusion with Planned Denoising, 2024, arXiv 2410.06264.
    """
    return Categorical(_noise_part(process, posterior, x_t, t).log())


def noise_probability(process: Discrete, posterior: Distribution, x_t: Tensor, t: Time) -> Tensor:
    """``q = 1 − p(x_0 = x_t | x_t) (1 − r)`` ``(B, ...)``, r as in ``given_noise``: what a planner should say."""
    return _noise_part(process, posterior, x_t, t).sum(-1)


def _noise_part(process: Discrete, posterior: Distribution, x_t: Tensor, t: Time) -> Tensor:
    """``q c(v) = P(x_0 = v, noise | x_t)``, ``(B, ..., S)``."""
    alpha = left(torch.as_tensor(process.schedule.at(t).a, dtype=torch.float64, device=x_t.device), x_t)
    shown = (1 - alpha) * process.pi[x_t]
    p = process.clean(posterior).probs.double()
    here = p.gather(-1, x_t[..., None])[..., 0] * (shown / (alpha + shown))
    return p.scatter(-1, x_t[..., None], here[..., None])


def planner_of(denoiser: Denoiser) -> Planner:
    """The planner that a denoiser of a process without mask implies; exact for an exact denoiser.

    Raises:
        TypeError: For another process.
    """
    process = unmasked(denoiser.process, "planner_of")

    def planner(x_t: Tensor, t: Time, ctx: Context) -> Tensor:
        return noise_probability(process, denoiser(x_t, t, ctx), x_t, t)

    return planner


def _scored(ctx: Context, x: Tensor) -> Tensor:
    scored = ctx.scored()
    return left(scored, x) if isinstance(scored, Tensor) else torch.ones_like(x, dtype=torch.bool)
