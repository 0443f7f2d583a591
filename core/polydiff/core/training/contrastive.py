"""Noise-contrastive energies: whole sequences of data told from those that a denoiser draws token by token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from polydiff.core.data import Context, Rng, Time, match_time
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Distribution
from polydiff.core.processes import Discrete
from polydiff.core.processes.tokens import carried
from polydiff.core.training.batches import Batch
from polydiff.core.training.loss import Loss, Objective
from polydiff.core.training.times import TimeLaw, Uniform

__all__ = ["NoiseContrastive", "learned_ratio"]

Energy = Callable[[Tensor, Tensor, Tensor, Context], Tensor]
"""``energy(x0, x_t, t, ctx) -> (B,)`` of clean sequences ``(B, ...)`` beside what shows, t ``(B,)``; lower is likelier."""


class NoiseContrastive(Objective):
    """``E log(1 + exp E(x_0, x_t, t)) + E log(1 + exp −E(x̂_0, x_t, t))``: data ``x_0`` against ``x̂_0 ∼ mu(x_0 | x_t)``.

    Both sequences share one x_t and what shows in it. The minimum over all functions is
    ``−E(x_0, x_t, t) = log p(x_0 | x_t) − log mu(x_0 | x_t)``, mu being the law of the denoiser, independent over tokens,
    and p the true one: the ratio that ``Reweighted`` needs (``learned_ratio``), correct for any denoiser, whose errors it
    mends as well. At the start, at E = 0, the loss is 2 log 2 = 1.386; nothing is learned where it stays there.

    Args:
        energy: A module ``energy(x0, x_t, t, ctx) -> (B,)``.
        model: The denoiser, of a discrete process; used without gradient. Give the optimiser the energy's parameters only.
        times: Law of t.
        draws: Sequences of the denoiser for each x_t, each of weight ``1 / draws``: the minimum is the same.

    Raises:
        TypeError: For a denoiser that is not one of tokens.
        ValueError: For less than one draw.

    Source: Energy-Based Diffusion Language Models for Text Generation, 2024, arXiv 2410.21357; Residual Energy-Based Models
    for Text Generation, 2020, arXiv 2004.11714.
    """

    def __init__(self, energy: nn.Module, model: Denoiser, *, times: TimeLaw = Uniform(), draws: int = 1) -> None:
        super().__init__()
        if not isinstance(model.process, Discrete):
            raise TypeError(f"an energy weighs sequences of tokens: need a discrete process, not {model.process}")
        if draws < 1:
            raise ValueError(f"draws={draws}: need one sequence or more to tell the data from")
        self.energy, self.model, self.times, self.draws = energy, model, times, draws

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """One time, one corruption and ``draws`` sequences of the denoiser for each sample of the batch."""
        x0, ctx, process = batch.x0, batch.ctx, self.model.process
        assert isinstance(x0, Tensor) and isinstance(process, Discrete)
        with torch.no_grad():
            t = self.times(process, x0, rng)
            x_t = ctx.hold(process.marginal(x0, t, ctx).sample(rng))
            assert isinstance(x_t, Tensor)
            law = self.model(x_t, t, ctx)
            drawn = [carried(process.mask, law.sample(rng), x_t, ctx) for _ in range(self.draws)]
        real = self.energy(x0, x_t, t, ctx)
        fake = torch.stack([self.energy(x, x_t, t, ctx) for x in drawn])
        nats = softplus(real) + softplus(-fake).mean(0)
        told = ((real < 0).double().mean() + (fake > 0).double().mean()) / 2
        total, count = nats.sum(), torch.full((), float(len(nats)), dtype=nats.dtype, device=nats.device)
        return Loss({"loss": (total, count)}, {}, {"told apart": told.detach()})


def learned_ratio(energy: Energy) -> Callable[[Distribution, Tensor, Tensor, Time, Context], Tensor]:
    """``−E(x_0, x_t, t)`` as the ``log_ratio`` of ``Reweighted``.

    Source: Energy-Based Diffusion Language Models for Text Generation, 2024, arXiv 2410.21357.
    """

    def ratio(posterior: Distribution, x0: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Tensor:
        with torch.no_grad():
            return -energy(x0, x_t, match_time(t, x_t), ctx)

    return ratio
