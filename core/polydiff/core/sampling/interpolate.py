"""Interpolation through noise: encode two ends by the deterministic sampler, decode the great circle between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polydiff.core.data import Context
from polydiff.core.denoisers import Denoiser
from polydiff.core.sampling.ancestral import Ancestral
from polydiff.core.sampling.loop import sample

__all__ = ["interpolate", "slerp"]


def interpolate(
    denoiser: Denoiser, first: Tensor, last: Tensor, n: int, times: Sequence[float], ctx: Context = Context()
) -> Tensor:
    """n data on the way from ``first`` to ``last``, both ends included.

    Args:
        denoiser: Of a Gaussian-type process.
        first: One datum ``(...)``.
        last: Another.
        n: How many; at least 2.
        times: Grid from noise to data, walked up for encoding and down for decoding.
        ctx: Conditions and side information of all of them, with a first axis of size 1.

    Returns:
        ``(n, ...)``.

    Source: Denoising Diffusion Implicit Models, 2020, arXiv 2010.02502, section 5.3.
    """
    if n < 2:
        raise ValueError(f"n={n}: the way has two ends, so at least 2")
    ddim = Ancestral(0.0)
    with torch.no_grad():
        noise = sample(denoiser, torch.stack([first, last]), times[::-1], ddim, _repeated(ctx, 2))
        assert isinstance(noise, Tensor)
        way = slerp(noise[:1], noise[1:], torch.linspace(0, 1, n, device=noise.device))
        x = sample(denoiser, way, times, ddim, _repeated(ctx, n))
    assert isinstance(x, Tensor)
    return x


def slerp(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """Great circle from a to b ``(1, ...)`` at weights ``(n,)``; radii are interpolated linearly."""
    u, v = a.flatten(1), b.flatten(1)
    ru, rv = u.norm(), v.norm()
    angle = ((u @ v.T) / (ru * rv)).clamp(-1, 1).acos().clamp_min(1e-6)
    p, q = ((1 - w) * angle).sin() / angle.sin(), (w * angle).sin() / angle.sin()
    way = p.T * (u / ru) + q.T * (v / rv)
    return (way * ((1 - w) * ru + w * rv)[:, None]).unflatten(1, a.shape[1:])


def _repeated(ctx: Context, n: int) -> Context:
    rows = {k: v.expand(n, *v.shape[1:]) if isinstance(v, Tensor) else v for k, v in ctx.cond.items()}
    side = {k: v.expand(n, *v.shape[1:]) if isinstance(v, Tensor) else v for k, v in ctx.side.items()}
    return Context(cond=rows, side=side)
