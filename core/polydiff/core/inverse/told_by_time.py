"""Known elements at time 0: how a model with a time an element is told what is given."""

from __future__ import annotations

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, match_time
from polydiff.core.denoisers import Denoiser, Wrapper
from polydiff.core.distributions import Distribution
from polydiff.core.schedules.per_element import whole

__all__ = ["ToldByTime"]


class ToldByTime(Wrapper):
    """``p(x_0 | x_t, t_i = 0 where known)``: the denoiser sees given elements clean, and their time says so.

    So every step and sampler of one shared time forecasts and fills gaps with a model trained on times an element
    (``VectorTimes``, ``RollingTimes``): the loop holds what is known, for this denoiser is told of it.

    Args:
        denoiser: One that takes times ``(B, L)``.

    Raises:
        ValueError: For an element of which a part is known.

    Source: Redefining Temporal Modeling in Video Diffusion: The Vectorized Timestep Approach, 2024, arXiv 2410.03160.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.sees_known = True

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The law at times that are 0 where ``ctx.known``."""
        if ctx.known is None:
            return self.denoiser(x_t, t, ctx)
        assert isinstance(ctx.known, Tensor)
        known, times = whole(ctx.known), match_time(t, x_t)
        own = times[:, None] if times.ndim == 1 else times
        return self.denoiser(x_t, torch.where(known, 0.0, own), ctx)
