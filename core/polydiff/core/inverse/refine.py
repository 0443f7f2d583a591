"""Refinement: a model of whole samples improves what another one has made."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from polydiff.core.data import Context, Rng, left, masked_sum
from polydiff.core.denoisers import Denoiser
from polydiff.core.guidance.observed import Misfit, misfit
from polydiff.core.processes import LinearGaussian

__all__ = ["refine"]


def refine(
    denoiser: Denoiser,
    y0: Tensor,
    ctx: Context = Context(),
    *,
    rng: Rng,
    steps: int = 20,
    step_size: float = 0.1,
    strength: float = 1.0,
    times: Sequence[float] = (0.2,),
    loss: Misfit = "gaussian",
    temperature: float = 0.0,
) -> Tensor:
    """Descent on ``E(y) = ½ E_{t, z} |L⁻¹ (z − ẑ(a y + g z, t))|² + strength · R(y, y0)``, from y0.

    z is noise of the process, of covariance ``L Lᵀ``, the identity where it is white. The first term stands for
    ``−log p_theta(y)``: the loss of the noise at a few representative levels, every one of them in every step, by a fresh z
    and its negative (for a Gaussian they cancel all of the noise of the gradient). R is half the squared error or the pinball
    loss at levels ``ctx.side["quantile"]``. With a temperature it is Langevin dynamics,
    ``y ← y − step_size ∇E + sqrt(2 · step_size · temperature) ξ``, which draws from ``exp(−E / temperature)`` as the step size
    falls. The authors use the squared error in both terms (twice this E), t = 0.2, 20 steps of 0.1.

    Args:
        denoiser: A model of whole samples, through which gradients can go.
        y0: ``(B, ...)``, such as a forecast behind its history.
        ctx: Side information; known entries are held as given, padding is not scored.
        rng: Noise.
        steps: Number of steps, each of ``2 · len(times)`` evaluations of a batch.
        step_size: Of the descent.
        strength: How much y0 counts.
        times: Levels at which samples are judged.
        loss: R.
        temperature: 0 for the minimum.

    Raises:
        ValueError: For no step, no level or a step size that is not positive.
        TypeError: For a process that is not linear Gaussian.

    Source: Predict, Refine, Synthesize: Self-Guiding Diffusion Models for Probabilistic Time Series Forecasting, 2023, arXiv
    2307.11494, section 3.2.
    """
    process = denoiser.process
    if not isinstance(process, LinearGaussian):
        raise TypeError(f"refine judges by the noise of a linear Gaussian process, not of {type(process).__name__}")
    if steps < 1 or not times or not step_size > 0 or temperature < 0:
        raise ValueError(
            f"steps={steps}, {len(times)} times, step_size={step_size}, temperature={temperature}: need a step, a time, a "
            "positive step size and no negative temperature"
        )
    scored = ctx.scored()
    assert scored is None or isinstance(scored, Tensor)
    y = _held(y0, ctx)
    for _ in range(steps):
        with torch.enable_grad():
            at = y.detach().requires_grad_()
            energy = strength * misfit(at, y0, loss, ctx, scored)
            for t in times:
                noise = process.law(at, ctx).sample(rng, at)
                for z in (noise, -noise):
                    energy = energy + _noise_loss(denoiser, process, at, z, t, ctx) / (2 * len(times))
            (slope,) = torch.autograd.grad(energy.sum(), at)
        y = y - step_size * slope
        if temperature > 0:
            y = y + math.sqrt(2 * step_size * temperature) * rng.normal(y)
        y = _held(y, ctx)
    return y


def _noise_loss(denoiser: Denoiser, process: LinearGaussian, y: Tensor, z: Tensor, t: float, ctx: Context) -> Tensor:
    """``½ |L⁻¹ (z − ẑ)|² = ½ (a / g)² |L⁻¹ (x̂_0 − y)|²``, ``(B,)``."""
    a, shift, g = (left(c, y) for c in process.coef(t, ctx))
    x_t = a * y + shift + g * z
    assert ctx.valid is None or isinstance(ctx.valid, Tensor)
    ratio = a / g
    gap = process.law(y, ctx).whiten(ratio * (denoiser(x_t, t, ctx).mean - y), ctx.valid)
    return masked_sum(0.5 * gap * gap, ctx.valid)  # of known entries too: they tell of the others


def _held(y: Tensor, ctx: Context) -> Tensor:
    held = ctx.hold(y)
    assert isinstance(held, Tensor)
    return held
