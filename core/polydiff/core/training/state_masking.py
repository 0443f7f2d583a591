"""Training of token-dependent masking schedules: an unbiased gradient through discrete draws."""

from __future__ import annotations

from torch import Tensor

from polydiff.core.data import Rng, left, masked_sum
from polydiff.core.denoisers import Denoiser
from polydiff.core.processes.state_masking import StateMasking
from polydiff.core.training.batches import Batch
from polydiff.core.training.loss import Loss, Objective
from polydiff.core.training.times import TimeLaw, Uniform


class LearnedMasking(Objective):
    """The negative ELBO of ``StateMasking`` in nats per element, with its unbiased gradient in the powers.

    With two draws x¹, x² of x_t at one t, and g the bound of a sample,
    ``∇ E[g] = E[½ ∇(g₁ + g₂) + ½ (g₁ − g₂) ∇(log q(x¹ | x_0) − log q(x² | x_0))]``: each draw is the other's baseline. The
    value of the loss is ``½ (g₁ + g₂)``; the second term adds gradient only. Two evaluations of the model a sample.

    Args:
        model: A denoiser of a ``StateMasking`` process; the optimiser must hold the parameters of both.
        times: Law of t. With powers under 1 the variance at t → 0 is infinite: start at ``Uniform(low=1e-3)``, say.

    Raises:
        TypeError: For another process.

    Source: Simplified and Generalized Masked Diffusion for Discrete Data, 2024, arXiv 2406.04329.
    """

    def __init__(self, model: Denoiser, *, times: TimeLaw = Uniform()) -> None:
        super().__init__()
        if not isinstance(model.process, StateMasking):
            raise TypeError(f"LearnedMasking trains StateMasking processes, not {type(model.process).__name__}")
        self.model, self.times = model, times

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """One time and two corruptions for each sample of the batch."""
        process, x0, ctx = self.model.process, batch.x0, batch.ctx
        assert isinstance(process, StateMasking) and isinstance(x0, Tensor)
        t, scored = self.times(process, x0, rng), ctx.scored()
        law = process.marginal(x0, t, ctx)
        bounds, logs = [], []
        for _ in range(2):
            x_t = ctx.hold(law.sample(rng))
            assert isinstance(x_t, Tensor)
            bound = process.bound(self.model(x_t, t, ctx), x0, x_t, t, ctx)
            assert isinstance(bound, Tensor)
            bounds.append(bound)
            logs.append(process.log_mask_prob(x0, x_t, t))
        assert scored is None or isinstance(scored, Tensor)
        gap = left(masked_sum((bounds[0] - bounds[1]).detach(), scored), x0)
        score = logs[0] - logs[1]
        return Loss.masked(0.5 * (bounds[0] + bounds[1]) + 0.5 * gap * (score - score.detach()), scored, {})
