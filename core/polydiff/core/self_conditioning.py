"""Self-conditioning: the network reads its own last estimate of the clean sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, batch_size, index, match_time, tree_map
from polydiff.core.denoisers import Wrapper
from polydiff.core.distributions import Distribution
from polydiff.core.sampling.step import Transition

__all__ = ["SelfConditioned", "estimate_of", "remember_estimate"]

_KEY = "estimate"


def estimate_of(x_t: Data, ctx: Context) -> Any:
    """What a network reads: the estimate of x_0 that the run has made so far, zeros where there is none."""
    found = None if ctx.memory is None else ctx.memory.get(_KEY)
    return tree_map(torch.zeros_like, x_t) if found is None else found


def remember_estimate(tr: Transition) -> Transition:
    """The control of sampling: the next evaluation reads this one's ``x̂_0``."""
    if tr.posterior is None:
        raise TypeError(f"{type(tr.step).__name__} shows no posterior: self-conditioning has no estimate to remember")
    mean = tr.posterior.mean
    tr.ctx = _told(tr.ctx, mean if tr.ancestor is None else index(mean, tr.ancestor))
    return tr


class SelfConditioned(Wrapper):
    """A denoiser as it is trained: every second sample of a batch reads an estimate, the others read zeros.

    The estimate is that of a first pass without one, and no gradient flows through it. To be put around the model in an
    objective, whose batches are in random order; sampling uses the model itself with ``remember_estimate`` as control.

    Args:
        denoiser: Its network reads ``estimate_of(x_t, ctx)``.

    Source: Analog Bits: Generating Discrete Data using Diffusion Models with Self-Conditioning, 2022, arXiv 2208.04202.
    """

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The law of the second pass."""
        t = match_time(t, x_t)
        rows = torch.arange(0, batch_size(x_t), 2)
        with torch.no_grad():
            first = self.denoiser(index(x_t, rows), t[rows], index(ctx, rows)).mean

        def spread(like: Tensor, half: Tensor) -> Tensor:
            return torch.zeros_like(like).index_copy(0, rows.to(like.device), half.to(like.dtype))

        return self.denoiser(x_t, t, _told(ctx, tree_map(spread, x_t, first)))


def _told(ctx: Context, estimate: Any) -> Context:
    return ctx.replace(memory={**(ctx.memory or {}), _KEY: estimate})
