"""Likelihoods: a T-step bound for every process, and the probability-flow log-density for continuous ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng, batch_size
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Dirac, Distribution, Joint, Normal, Predicted
from polydiff.core.distributions.noise import WHITE
from polydiff.core.processes import ContinuousProcess, LinearGaussian, Process, Product

__all__ = ["nelbo", "ode_log_prob"]


def nelbo(denoiser: Denoiser, x0: Data, times: Sequence[float], ctx: Context = Context(), *, rng: Rng) -> Tensor:
    """Negative ELBO of the sampler on this grid, in nats, ``(B,)``: one path a sample.

    ``KL(q(x_1 | x_0) ‖ prior) + Σ KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) − log p(x_0 | x_{t_N})`` with t_N the last time.
    Terms without closed form are estimated on the path itself, without bias. Elements that are padding or known are
    left out.

    Args:
        denoiser: The law of x_0 given x_t. Where it knows the mean alone, the last term uses ``N(x̂_0, (g/a)²)``.
        x0: Data ``(B, ...)``.
        times: Descending grid from 1 to 0.
        ctx: Side information.
        rng: Noise of the path.

    Source: Denoising Diffusion Probabilistic Models, 2020, arXiv 2006.11239; Variational Diffusion Models, 2021, arXiv
    2107.00630.
    """
    process, mask = denoiser.process, ctx.scored()
    start = process.marginal(x0, times[0], ctx)
    x = ctx.hold(start.sample(rng))
    total = _gap(start, process.prior(x0, ctx), x, mask)
    for t, s in itertools.pairwise(times):
        true = process.transition(x, _point(process, x0), t, s, ctx)
        model = process.transition(x, denoiser(x, t, ctx), t, s, ctx)
        x = ctx.hold(true.sample(rng))
        total = total + _gap(true, model, x, mask)
    return total - _reconstruction(process, denoiser, x, times[-1], x0, ctx)


def _gap(true: Distribution, model: Distribution, x: Data, mask: Data | None) -> Tensor:
    try:
        return true.kl(model, mask)
    except TypeError:
        return true.log_prob(x, mask) - model.log_prob(x, mask)


def _point(process: Process, x0: Data) -> Distribution:
    return Joint({k: Dirac(v) for k, v in x0.items()}) if isinstance(x0, dict) else Dirac(x0)


def _reconstruction(process: Process, denoiser: Denoiser, x: Data, t: float, x0: Data, ctx: Context) -> Tensor:
    """``log p(x_0 | x_t)`` at the last time; zero for tokens, which are there already."""
    if isinstance(process, Product):
        assert isinstance(x0, dict)
        laws = process.laws(denoiser(x, t, ctx))
        fields = [(p, laws[k], x0[k], c) for k, p, c in process.each(ctx)]
        terms = [_field(p, law, t, v, c) for p, law, v, c in fields if isinstance(p, LinearGaussian)]
        return torch.stack(terms).sum(0) if terms else torch.zeros(batch_size(x))
    if not isinstance(process, LinearGaussian):
        return torch.zeros(batch_size(x))
    return _field(process, denoiser(x, t, ctx), t, x0, ctx)


def _field(process: LinearGaussian, law: Distribution, t: float, x0: Data, ctx: Context) -> Tensor:
    if isinstance(law, Predicted) or getattr(law, "std", 0.0) is None:
        a, _, g = process.coef(t, ctx)
        law = Normal(law.mean, g / a, process.law(x0, ctx) if isinstance(x0, Tensor) else WHITE)
    return law.log_prob(x0, ctx.scored())


def ode_log_prob(
    denoiser: Denoiser,
    x: Tensor,
    times: Sequence[float],
    ctx: Context = Context(),
    *,
    divergence: Literal["exact", "hutchinson"] = "exact",
    probes: int = 1,
    rng: Rng | None = None,
) -> Tensor:
    """Log-density of x under the probability flow, in nats, ``(B,)``, by the classical Runge–Kutta method.

    ``log p(x) = log p_1(x_1) + ∫_0^1 div v dt`` along the flow from data to source.

    Args:
        denoiser: Over a continuous process.
        x: Data ``(B, ...)``.
        times: Descending grid, as for sampling; it is run upwards.
        ctx: Side information.
        divergence: ``"exact"`` takes one backward pass a dimension; ``"hutchinson"`` is an unbiased estimate of the
            integral with the same ``probes`` Rademacher vectors at every time.
        probes: Number of vectors.
        rng: Draws the vectors.

    Source: Score-Based Generative Modeling through Stochastic Differential Equations, 2021, arXiv 2011.13456, app. D.2;
    FFJORD, 2018, arXiv 1810.01367.
    """
    process = denoiser.process
    if not isinstance(process, ContinuousProcess):
        raise TypeError(f"{type(process).__name__} has no probability flow: use nelbo")
    if divergence == "hutchinson":
        if rng is None:
            raise ValueError("the Hutchinson estimate draws random vectors: pass an Rng")
        vectors = torch.stack([rng.uniform(x).lt(0.5).to(x.dtype) * 2 - 1 for _ in range(probes)])
    else:
        basis = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, 1, *x.shape[1:])
        vectors = basis.expand(-1, *x.shape)

    def field(y: Tensor, t: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            v = process.velocity(y, denoiser(y, t, ctx), t, ctx)
            (rows,) = torch.autograd.grad(v, y, vectors, is_grads_batched=True)
        traces = (rows * vectors).flatten(2).sum(2)
        return v.detach(), traces.mean(0) if divergence == "hutchinson" else traces.sum(0)

    y, integral = x, torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for s, t in itertools.pairwise(reversed(times)):
        h, middle = t - s, (s + t) / 2
        k1, d1 = field(y, s)
        k2, d2 = field(y + 0.5 * h * k1, middle)
        k3, d3 = field(y + 0.5 * h * k2, middle)
        k4, d4 = field(y + h * k3, t)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        integral = integral + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return process.prior(y, ctx).log_prob(y) + integral
