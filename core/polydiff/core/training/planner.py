"""Training of the planner of planned denoising: which tokens of a noisy string are noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polydiff.core.data import Rng, Time
from polydiff.core.processes import Discrete
from polydiff.core.processes.discrete import unmasked
from polydiff.core.training.batches import Batch
from polydiff.core.training.loss import Loss, Objective
from polydiff.core.training.simple_denoising import log_share
from polydiff.core.training.times import TimeLaw, Uniform

__all__ = ["PlannerLoss"]


class PlannerLoss(Objective):
    """``E_t E_{x_t} BCE(planner(x_t, t), P(token is noise | x_t, x_0))`` in nats per element.

    A token that differs from the clean one is noise for certain; one that agrees is noise all the same with probability
    ``r = (1 − alpha) pi_x / (alpha + (1 − alpha) pi_x)``. With this target in place of the 0 or 1 that was drawn the gradient
    has the same mean and less variance. At the optimum the planner is ``P(token is noise | x_t)``, what ``Planned`` asks for;
    the denoiser beside it, the law of a token that is noise, is trained by ``SimpleDenoising``.

    Args:
        planner: A module ``planner(x_t, t, ctx) -> P(token is noise)``, shaped like x_t and in [0, 1].
        process: A uniform or marginal-prior process.
        times: Law of t.

    Raises:
        TypeError: For another process.

    Source: Think While You Generate: Discrete Diffusion with Planned Denoising, 2024, arXiv 2410.06264.
    """

    def __init__(self, planner: nn.Module, process: Discrete, *, times: TimeLaw = Uniform()) -> None:
        super().__init__()
        self.planner, self.process, self.times = planner, unmasked(process, "PlannerLoss"), times

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """One draw of times and noise for each sample of the batch; padding and given tokens do not count."""
        x0, ctx = batch.x0, batch.ctx
        assert isinstance(x0, Tensor)
        t = self.times(self.process, x0, rng)
        x_t = ctx.hold(self.process.marginal(x0, t, ctx).sample(rng))
        assert isinstance(x_t, Tensor)
        return Loss.masked(self.error(self.planner(x_t, t, ctx), x0, x_t, t), ctx.scored(), {})

    def error(self, noise: Tensor, x0: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """The summand ``(B, ...)`` of a planner's answer ``noise``."""
        agree = log_share(self.process, x_t, t).exp()
        target = torch.where(x_t == x0, agree, 1.0).to(noise)
        return nn.functional.binary_cross_entropy(noise, target, reduction="none")
