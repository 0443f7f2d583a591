"""Energy-based token diffusion: clean candidates drawn independently per token, weighed as whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng, Time, left
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Categorical, Dirac, Distribution
from polydiff.core.processes import Discrete
from polydiff.core.processes.tokens import carried
from polydiff.core.sampling.step import OneCall, State, Transition

LogRatio = Callable[[Distribution, Tensor, Tensor, Time, Context], Tensor]
"""``(posterior, x0, x_t, t, ctx) -> (B,)``: minus the energy of whole clean sequences x0 against the posterior."""


def residual(log_prob: Callable[[Tensor, Context], Tensor], process: Discrete | None = None) -> LogRatio:
    """``log p(x_0) − log mu(x_0 | x_t)``: the energy under which independent tokens become draws from ``p(x_0 | x_t)``.

    Args:
        log_prob: ``log_prob(x0, ctx) -> (B,)``, exact or autoregressive log-probability of whole sequences in nats.
        process: Adds ``log q(x_t | x_0)``, which every candidate of an absorbing process shares and others need.

    Source: Energy-Based Diffusion Language Models for Text Generation, 2024, arXiv 2410.21357.
    """

    def ratio(posterior: Distribution, x0: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Tensor:
        mask = ctx.scored()
        out = log_prob(x0, ctx).double() - posterior.log_prob(x0, mask)
        return out if process is None else out + process.marginal(x0, t, ctx).log_prob(x_t, mask)

    return ratio


@dataclass(frozen=True, slots=True)
class Reweighted:
    """``x_0 ∼ mu(x_0 | x_t) exp(log_ratio) / Z`` by self-normalised importance resampling, then the step from ``Dirac(x_0)``.

    The denoiser's law ``mu`` is independent over tokens, so that parallel steps lose what ties them together; among
    ``candidates`` whole sequences the energy picks one that hangs together. One evaluation of the denoiser a step and
    one of the energy a candidate; with the exact residual the law of a step is exact as candidates grow. Where all
    candidates have ratio −∞ one of them is taken at random.

    Args:
        step: A step for tokens, such as ``Ancestral()``.
        log_ratio: ``log_ratio(posterior, x0, x_t, t, ctx) -> (B,)``, see ``residual``; any constant cancels.
        candidates: Clean sequences a sample.
        low: Time below which ``step`` runs alone.
        high: Time above which ``step`` runs alone.

    Source: Energy-Based Diffusion Language Models for Text Generation, 2024, arXiv 2410.21357.
    """

    step: OneCall
    log_ratio: LogRatio
    candidates: int = 8
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates={self.candidates}: need one clean sequence or more")
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low={self.low}, high={self.high}: need 0 ≤ low ≤ high ≤ 1")

    def __call__(
        self, denoiser: Denoiser, x_t: Data, t: Time, s: Time, ctx: Context, state: State, rng: Rng | None
    ) -> Transition:
        """See ``Step``. The state is drawn through a hidden x_0, so that the transition has no kernel."""
        process = denoiser.process
        if not isinstance(process, Discrete) or not isinstance(x_t, Tensor):
            raise TypeError(
                f"an energy weighs sequences of tokens: need a discrete process, not {type(process).__name__}"
            )
        if isinstance(t, Tensor) and t.ndim > 1:
            raise TypeError(f"times of shape {tuple(t.shape)}: whole sequences are weighed at one time a sample")
        if isinstance(t, float) and not self.low <= t <= self.high:
            return self.step(denoiser, x_t, t, s, ctx, state, rng)
        if rng is None:
            raise ValueError("candidates are random: pass an Rng")
        posterior = denoiser(x_t, t, ctx)
        x0 = self._pick(process, posterior, x_t, t, ctx, rng)
        kernel, after = self.step.kernel(process, x_t, Dirac(x0), t, s, ctx, state)
        return Transition(t, s, x_t, kernel.sample(rng), posterior, None, self, state, after, ctx)

    def _pick(self, process: Discrete, posterior: Distribution, x_t: Tensor, t: Time, ctx: Context, rng: Rng) -> Tensor:
        drawn = [carried(process.mask, posterior.sample(rng), x_t, ctx) for _ in range(self.candidates)]
        log_w = torch.stack([self.log_ratio(posterior, x0, x_t, t, ctx).double() for x0 in drawn], -1)
        log_w = torch.where((log_w == -torch.inf).all(-1, keepdim=True), 0.0, log_w)
        if isinstance(t, Tensor):  # outside the window any candidate is a draw from the step's own law
            log_w = torch.where(((t >= self.low) & (t <= self.high))[:, None], log_w, 0.0)
        choice = left(Categorical(log_w).sample(rng), x_t)[None].expand(1, *x_t.shape)
        return torch.stack(drawn).gather(0, choice)[0]
