"""Precision-weighted guidance: every element is guided by how unsure the model is of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, batch_size, index
from polydiff.core.denoisers import Denoiser, Wrapper
from polydiff.core.distributions import Distribution
from polydiff.core.guidance.classifier_free import double
from polydiff.core.sampling.step import Transition

__all__ = ["Precision", "RememberEstimates", "uncertainty"]

_KEY = "estimates"


class Precision(Wrapper):
    """``G + w(U) (P − G)``: the conditional law P and the unconditional law G, blended element by element.

    ``w(U) = clip(scale · U / Ū, low, high)``, where U is the variance of the estimates ``x̂_0`` of P and Ū its mean over the
    elements of the sample: the guidance grows where the precision 1/U is low. With low = high it is classifier-free guidance;
    w = 1 is the conditional model. U is the variance

    - over the last denoising steps, which the control ``RememberEstimates`` keeps in ``Context.memory`` (a denoiser has no
      state, and this memory is batch-first: slots stay independent, and resampling carries it along). Until two estimates
      are there, w is 1 clipped;
    - or, with ``members``, over groups of so many consecutive rows that share their condition, within one evaluation.

    Args:
        denoiser: A model with a null condition, over real vectors.
        low: Smallest weight.
        high: Largest weight.
        scale: Weight where the uncertainty is average.
        members: Rows of a group; ``None`` for the variance over steps.

    Raises:
        ValueError: For ``low > high``, a scale that is not positive, fewer than 2 members, or a batch that they do not divide.

    Source: CogDPM: Diffusion Probabilistic Models via Cognitive Predictive Coding, 2024, arXiv 2405.02384 (it clips to a
    preset range; that U counts relative to its mean is ours, so that one range serves every step).
    """

    def __init__(
        self, denoiser: Denoiser, low: float, high: float, *, scale: float = 1.0, members: int | None = None
    ) -> None:
        super().__init__(denoiser)
        if low > high or scale <= 0:
            raise ValueError(f"low={low}, high={high}, scale={scale}: need low ≤ high and a positive scale")
        if members is not None and members < 2:
            raise ValueError(f"members={members}: a variance needs at least 2")
        self.low, self.high, self.scale, self.members = low, high, scale, members

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The blended law; its ``parts`` are ``base`` and ``cond`` (P) and ``uncond`` (G)."""
        n = batch_size(x_t)
        both = self.denoiser(
            double(x_t, x_t),
            t if isinstance(t, float) else torch.cat([t, t]),
            double(ctx, self.denoiser.nullify(ctx)),
        )
        cond, uncond = index(both, slice(0, n)), index(both, slice(n, None))
        law: Distribution = cond.lerp(uncond, self.weight(cond.mean, ctx))
        law.parts = {"base": cond, "cond": cond, "uncond": uncond}
        return law

    def weight(self, estimate: Tensor, ctx: Context) -> Tensor:
        """``w(U)``, shaped like the estimate ``(B, ...)`` of P that is added to those remembered."""
        u = self._members(estimate) if self.members is not None else uncertainty(estimate, ctx)
        if u is None:
            return torch.ones_like(estimate).clamp(self.low, self.high)
        mean = u.flatten(1).mean(1).reshape(-1, *[1] * (u.ndim - 1))
        share = torch.where(mean > 0, u / torch.where(mean > 0, mean, 1.0), 1.0)
        return (self.scale * share).clamp(self.low, self.high)

    def _members(self, estimate: Tensor) -> Tensor:
        assert self.members is not None
        if len(estimate) % self.members:
            raise ValueError(f"a batch of {len(estimate)} rows has no whole groups of members={self.members}")
        groups = estimate.unflatten(0, (-1, self.members))
        return groups.var(1).repeat_interleave(self.members, 0)


def uncertainty(estimate: Tensor, ctx: Context) -> Tensor | None:
    """Variance of an estimate and those remembered, shaped like it; ``None`` where none is."""
    past = None if ctx.memory is None else ctx.memory.get(_KEY)
    return None if past is None else torch.cat([past, estimate[:, None]], 1).var(1)


@dataclass(frozen=True, slots=True)
class RememberEstimates:
    """The control of sampling with ``Precision``: the last estimates of P stay in ``Context.memory``, ``(B, window, ...)``.

    Args:
        window: How many estimates are kept, beside which the next one is seen.
    """

    window: int = 3

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window={self.window}: must be at least 1")

    def __call__(self, tr: Transition) -> Transition:
        """See ``Control``."""
        if tr.posterior is None:
            raise TypeError(f"{type(tr.step).__name__} shows no posterior: there is no estimate to remember")
        estimate = getattr(tr.posterior, "parts", {}).get("cond", tr.posterior).mean[:, None]
        if tr.ancestor is not None:  # a control resampled the rows, and the memory with them
            estimate = estimate[tr.ancestor]
        past = (tr.ctx.memory or {}).get(_KEY)
        kept = estimate if past is None else torch.cat([past, estimate], 1)[:, -self.window :]
        tr.ctx = tr.ctx.replace(memory={**(tr.ctx.memory or {}), _KEY: kept})
        return tr
