"""Training of clocks: which element to settle first, learned by the bound while the network learns by its own loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from polydiff.core.data import Context, Data, Rng, batch_size, index, left, masked_sum
from polydiff.core.distributions import Categorical, Dirac, Distribution, Gated, Joint, Normal
from polydiff.core.processes import ContinuousProcess, LinearGaussian, Process, Product
from polydiff.core.schedules import Clock
from polydiff.core.training.batches import Batch
from polydiff.core.training.loss import Loss, Objective
from polydiff.core.training.objective import Denoising

__all__ = ["ClockBound", "LearnedClocks"]


class ClockBound(Objective):
    """The negative ELBO of rows in nats with its unbiased gradient, also in how x_t was drawn.

    With two draws x¹, x² of x_t at one t, and g the bound of a row,
    ``∇ E[g] = E[½ ∇(g₁ + g₂) + ½ (g₁ − g₂) ∇(log q(x¹ | x_0) − log q(x² | x_0))]``: numbers pass the gradient on by themselves
    (x_t = a x_0 + g z), for tokens each draw is the other's baseline.

    Args:
        denoising: Whose model and law of t to take; its process has trainable clocks.
        steps: For tokens, the bound of so many ancestral steps, ``T · KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t))`` at one of them;
            ``None`` for that of continuous time. Under the exact denoiser the latter is the entropy of the data **whatever
            the clocks**: only what is lost between steps, or in the model, tells them apart. Numbers always count in
            continuous time: their bound in few steps is that of the last step alone.

    Raises:
        TypeError: Where the process has no bound.

    Source: Simplified and Generalized Masked Diffusion for Discrete Data, 2024, arXiv 2406.04329 (the gradient).
    """

    def __init__(self, denoising: Denoising, *, steps: int | None = None) -> None:
        super().__init__()
        if steps is not None and steps < 1:
            raise ValueError(f"steps={steps}: a bound has at least 1 step, or None for continuous time")
        self.model, self.times, self.steps = denoising.model, denoising.times, steps

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """One time and two corruptions for each row."""
        process, x0, ctx = self.model.process, batch.x0, batch.ctx
        t: Tensor = self.times(process, x0 if isinstance(x0, Tensor) else next(iter(x0.values())), rng)
        s = None
        if self.steps is not None:
            i = (t * self.steps).floor().clamp_max(self.steps - 1)
            t, s = (i + 1) / self.steps, i / self.steps
        law = process.marginal(x0, t, ctx)
        bounds, logs = [], []
        for _ in range(2):
            x_t = ctx.hold(law.sample(rng))
            posterior = self.model(x_t, t, ctx)
            parts = _fields(process, x0, x_t, posterior, law, ctx)
            bounds.append(torch.stack([self._bound(part, t, s) for part in parts]).sum(0))
            logs.append(_log_draw(parts))
        score = logs[0] - logs[1]
        gap = (bounds[0] - bounds[1]).detach()
        total = 0.5 * (bounds[0] + bounds[1] + gap * (score - score.detach()))
        return Loss({"clock": (total.sum(), total.new_tensor(float(len(total))))})

    def _bound(self, part: tuple[Any, ...], t: Tensor, s: Tensor | None) -> Tensor:
        """Nats of each row in one field, ``(B,)``."""
        process, x0, x_t, posterior, _, ctx = part
        mask: Any = ctx.scored()
        if self.steps is not None and s is not None and not isinstance(process, ContinuousProcess):
            true = process.transition(x_t, Dirac(x0), t, s, ctx)
            apart = _kl(true, process.transition(x_t, posterior, t, s, ctx), mask)
            if apart is not None:
                return self.steps * apart
        bound = process.bound(posterior, x0, x_t, t, ctx)
        if not isinstance(bound, Tensor):
            raise TypeError(f"{type(process).__name__} has no bound to train clocks on")
        if isinstance(process, LinearGaussian):
            bound = bound - _constant(process, x0, x_t, t, ctx)
        return masked_sum(bound, mask)


def _constant(process: LinearGaussian, x0: Tensor, x_t: Tensor, t: Tensor, ctx: Context) -> Tensor:
    """Zero, with the gradient of the integrand ``−½ d log(1 + SNR)/dt`` of standard normal data.

    Its integral is the same for all clocks. Where noise is finer than the data the bound is close to it, most of its nats lie
    at the few t next to 0, and without this the draws elsewhere would all push one way.
    """
    logsnr = left(torch.as_tensor(process.logsnr(t)), x0)
    found = process.bound(Normal(x0 + (-logsnr).sigmoid().sqrt()), x0, x_t, t, ctx)
    assert isinstance(found, Tensor)
    return found - found.detach()


class LearnedClocks(Objective):
    """A denoising objective for the network, and beside it the bound for the clocks, each blind to the other's parameters.

    The network's loss, at the times that the clocks give; the clocks' bound on a share of the rows, through a network held
    still. (Trained on a weighted loss, as in the paper, a clock would dwell where that loss happens to be small.)

    Args:
        denoising: The objective of the network.
        steps: See ``ClockBound``; a clock learned for as many steps as sampling takes knows what they lose.
        share: Of the rows of a batch that the clocks see, at least 2.
        coef: Factor of the bound in the loss. Adam does not notice it, the clipping of gradients does: small, so that noise of
            the clocks does not slow the network.

    Raises:
        ValueError: Where nothing in the process can be learned, or for another share.

    Source: TabDiff: a Mixed-type Diffusion Model for Tabular Data Generation, 2024, arXiv 2410.20626 (learned schedules a
    column); Diffusion Models With Learned Adaptive Noise, 2023, arXiv 2312.13236 (learned by the bound).
    """

    def __init__(
        self, denoising: Denoising, *, steps: int | None = None, share: float = 0.25, coef: float = 0.01
    ) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: must lie in (0, 1]")
        if not any(isinstance(m, Clock) and m.trainable for m in denoising.modules()):
            raise ValueError("the process has no trainable clock: give its schedules Clock(..., trainable=True)")
        self.denoising, self.bound = denoising, ClockBound(denoising, steps=steps)
        self.share, self.coef = share, coef

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """Both losses."""
        rows = slice(0, max(2, round(self.share * batch_size(batch.x0))))
        part = Batch(index(batch.x0, rows), index(batch.ctx, rows))
        loss: Loss = functional_call(self.denoising, _still(self.denoising, clocks=True), (batch, rng))
        bound: Loss = functional_call(self.bound, _still(self.bound, clocks=False), (part, rng.child("clocks")))
        return Loss({**loss.terms, **bound.terms}, {**loss.coef, "clock": self.coef}, loss.logs)


def _still(objective: Objective, *, clocks: bool) -> dict[str, Tensor]:
    """Detached copies of the parameters of all clocks, or of everything else."""
    own = {id(p) for m in objective.modules() if isinstance(m, Clock) for p in m.parameters()}
    return {k: p.detach() for k, p in objective.named_parameters() if (id(p) in own) == clocks}


def _fields(
    process: Process, x0: Data, x_t: Data, posterior: Distribution, law: Distribution, ctx: Context
) -> list[tuple[Any, ...]]:
    """(process, clean, noisy, posterior, law of the noisy, context) field by field."""
    if not isinstance(process, Product):
        return [(process, x0, x_t, posterior, law, ctx)]
    assert isinstance(x0, dict) and isinstance(x_t, dict) and isinstance(law, Joint)
    laws = process.laws(posterior)
    return [(p, x0[k], x_t[k], laws[k], law.fields[k], c) for k, p, c in process.each(ctx)]


def _kl(true: Distribution, model: Distribution, mask: Any) -> Tensor | None:
    """KL of two kernels of one step in nats, ``(B,)``, with finite gradients where probabilities are 0 or 1."""
    if isinstance(true, Gated) and isinstance(model, Gated):  # the gates are the same: only what shows differs
        if not isinstance(true.inner, Dirac) or not isinstance(model.inner, Categorical):
            return None
        assert isinstance(true.inner.value, Tensor)
        gate = left(torch.as_tensor(true.p, dtype=torch.float64), true.stay)
        nats = -model.inner.log_prob_per_element(true.inner.value)
        return masked_sum(torch.where(true.open, gate * nats, 0.0), mask)
    if isinstance(true, Categorical) and isinstance(model, Categorical):
        inside = true.log_probs > -torch.inf
        p, q = (torch.where(inside, law.log_probs, 0.0) for law in (true, model))
        return masked_sum((torch.where(inside, p.exp(), 0.0) * (p - q)).sum(-1), mask)
    try:
        return true.kl(model, mask)
    except TypeError:
        return None


def _log_draw(parts: list[tuple[Any, ...]]) -> Tensor:
    """``log q(x_t | x_0)`` of the tokens of each row, ``(B,)``: the draws that pass no gradient on."""
    found = [
        _log_prob(law, x_t, ctx.scored())
        for process, _, x_t, _, law, ctx in parts
        if not isinstance(process, ContinuousProcess)
    ]
    return torch.stack(found).sum(0) if found else parts[0][2].new_zeros(len(parts[0][2]))


def _log_prob(law: Distribution, x: Tensor, mask: Any) -> Tensor:
    """``law.log_prob`` of a draw, with finite gradients where a gate is shut or wide open."""
    if not isinstance(law, Gated):
        return law.log_prob(x, mask)
    gate = left(torch.as_tensor(law.p, dtype=torch.float64), x).clamp(1e-30, 1 - 1e-15)
    return masked_sum(torch.where(law.open, torch.where(x == law.stay, (-gate).log1p(), gate.log()), 0.0), mask)
