"""Classifier-free guidance, for any law."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, batch_size, index
from polydiff.core.denoisers import Denoiser, Wrapper
from polydiff.core.distributions import Distribution


class ClassifierFree(Wrapper):
    """``scale · conditional + (1 − scale) · unconditional`` in natural parameters.

    Means for Gaussian processes, log-probabilities for tokens, field by field for products. Scale 1 is the conditional
    model itself, scale 0 the unconditional one; each then costs one evaluation. Otherwise both laws come from one
    evaluation of a doubled batch.

    Args:
        denoiser: A model with a null condition.
        scale: A float, or a tensor ``(B,)`` of scales per sample.

    Source: Classifier-Free Diffusion Guidance, 2022, arXiv 2207.12598 (whose w is scale − 1).
    """

    def __init__(self, denoiser: Denoiser, scale: float | Tensor) -> None:
        super().__init__(denoiser)
        self.scale = scale

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The blended law; its ``parts`` are ``base`` and ``cond`` (scale 1) and ``uncond`` (scale 0)."""
        scale = self.scale
        if isinstance(scale, (int, float)) and scale == 1:
            return self.denoiser(x_t, t, ctx)
        null = self.denoiser.nullify(ctx)
        if isinstance(scale, (int, float)) and scale == 0:
            return self.denoiser(x_t, t, null)
        n = batch_size(x_t)
        both = self.denoiser(double(x_t, x_t), t if isinstance(t, float) else torch.cat([t, t]), double(ctx, null))
        cond, uncond = index(both, slice(0, n)), index(both, slice(n, None))
        law = cond.lerp(uncond, float(scale) if isinstance(scale, int) else scale)
        law.parts = {"base": cond, "cond": cond, "uncond": uncond}
        return law


def double(first: Any, second: Any) -> Any:
    """The two batches one after the other, through dicts and contexts; anything but tensors is shared."""
    if isinstance(first, Tensor):
        return torch.cat([first, second])
    if isinstance(first, dict):
        return {k: double(v, second[k]) for k, v in first.items()}
    if isinstance(first, Context):
        pairs = {f.name: double(getattr(first, f.name), getattr(second, f.name)) for f in fields(Context)}
        return Context(**pairs)
    return first
