"""Self-guidance: a model that was never told goes by its own likelihood of what is observed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, left, masked_sum
from polydiff.core.denoisers import Denoiser, Wrapper
from polydiff.core.distributions import Distribution, Normal
from polydiff.core.distributions.noise import WHITE, Noise
from polydiff.core.processes import LinearGaussian

__all__ = ["Misfit", "Observed", "misfit", "quantile_levels"]

Misfit = Literal["gaussian", "quantile"]


class Observed(Wrapper):
    """``x̂_0 + s · g²/a · Σ ∇_{x_t} log p(y | x̂_0(x_t))``: the mean by the score of ``p_t(x_t) p(y | x̂_0)^s``.

    Σ is the covariance of the process's noise, the identity where it is white.

    y are the entries that ``ctx.known`` marks, with their values in ``ctx.given``; they are noised and sampled like all others,
    and read off as given at the end of the run. ``−log p`` is half the squared error, or the pinball loss of an asymmetric
    Laplace law at a level of each sample's own, ``ctx.side["quantile"]`` ``(B,)`` (see ``quantile_levels``).

    The authors' DDIM form is this one, their DDPM form (``mu + s · Sigma · gradient``) agrees with it to first order in the
    step; their squared error is not halved, so that their Gaussian s is half of this one.

    The true likelihood given x_t has the covariance of x_0 given x_t, which shrinks towards the data: no fixed s is right. A
    function of the log-SNR may follow it: ``VWeight()``, 1 + SNR, is the precision of white data of unit variance.

    Args:
        denoiser: A model of whole samples, through which gradients can go.
        scale: s, or s as a function of the log-SNR; 0 is the model itself, and as many evaluations.
        loss: The law of what is observed.
        limit: The factor ``g²/a`` goes up to this: where all is noise it would enlarge the errors of a network's derivative.

    Raises:
        ValueError: For a ``loss`` of another name; for quantiles without levels; for a denoiser that is told of known entries.
        TypeError: For a process that is not linear Gaussian.

    Source: Predict, Refine, Synthesize: Self-Guiding Diffusion Models for Probabilistic Time Series Forecasting, 2023, arXiv
    2307.11494.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float | Callable[[Tensor], Tensor],
        loss: Misfit = "gaussian",
        *,
        limit: float = 20.0,
    ) -> None:
        super().__init__(denoiser)
        if denoiser.sees_known:
            raise ValueError(f"{type(denoiser).__name__} is told of known entries: it needs no guidance by them")
        if loss not in ("gaussian", "quantile"):
            raise ValueError(f"loss={loss!r}: must be 'gaussian' or 'quantile'")
        if not limit > 0:
            raise ValueError(f"limit={limit}: must be positive")
        self.scale, self.loss, self.limit = scale, loss, limit
        self.handles_known = True

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The guided law, its spread and noise law as they were; its ``parts`` hold the ``base``."""
        process = self.process
        if ctx.known is None or ctx.given is None:
            return self.denoiser(x_t, t, ctx)
        if not isinstance(process, LinearGaussian) or not isinstance(x_t, Tensor):
            raise TypeError(
                f"Observed guides by the score of a linear Gaussian process, not of {type(process).__name__}"
            )
        assert isinstance(ctx.given, Tensor)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            base = self.denoiser(x, t, ctx)
            mean: Tensor = base.mean
            energy = misfit(mean, ctx.given, self.loss, ctx, _observed(ctx))
            (slope,) = torch.autograd.grad(energy.sum(), x)
        a, _, g = process.coef(t, ctx)
        pull = left(_gain(a, g, self.limit), x_t) * slope
        if process.noise is not None:  # diag(g) Σ diag(g) in place of g², also where elements have times of their own
            pull = left(_gain(a, g, self.limit) / g, x_t) * _covariance(process.law(x_t, ctx), left(g, x_t) * slope)
        pull = left(self._strength(process, t), x_t) * pull
        std, law = getattr(base, "std", None), base.law if isinstance(base, Normal) else WHITE
        plain = Normal(mean.detach(), std.detach() if isinstance(std, Tensor) else std, law)
        return Normal((plain.mean - pull).to(x_t.dtype), plain.std, plain.law, parts={"base": plain})

    def _strength(self, process: LinearGaussian, t: Time) -> Time:
        if not callable(self.scale):
            return float(self.scale)
        logsnr = self.scale(torch.as_tensor(process.logsnr(t)))
        return logsnr if isinstance(t, Tensor) else float(logsnr)


def misfit(x: Tensor, y: Tensor, loss: Misfit, ctx: Context, mask: Tensor | None) -> Tensor:
    """``−log p(y | x)`` up to a constant, ``(B,)``: ``½ Σ (y − x)²``, or ``Σ max(q e, (q − 1) e)`` with e = y − x."""
    safe = y if mask is None else torch.where(left(mask, y), y, x.detach())  # what is not compared may be NaN
    gap = safe.to(x.dtype) - x
    if loss == "gaussian":
        each = 0.5 * gap * gap
    else:
        if "quantile" not in ctx.side:
            raise ValueError(
                'the quantile loss needs a level of each sample: pass side={"quantile": quantile_levels(n)}'
            )
        q = left(ctx.side["quantile"].to(gap), gap)
        each = torch.maximum(q * gap, (q - 1) * gap)
    return masked_sum(each, mask)


def quantile_levels(samples: int, series: int = 1) -> Tensor:
    """Levels ``i / (samples + 1)``, i = 1 … samples, for each of ``series`` runs of consecutive rows: ``(series · samples,)``.

    >>> quantile_levels(3, 2).tolist()
    [0.25, 0.5, 0.75, 0.25, 0.5, 0.75]
    """
    if samples < 1 or series < 1:
        raise ValueError(f"samples={samples}, series={series}: need at least 1 of both")
    return ((torch.arange(samples, dtype=torch.float64) + 1) / (samples + 1)).repeat(series)


def _observed(ctx: Context) -> Tensor:
    """Known entries that are no padding."""
    assert isinstance(ctx.known, Tensor)
    if ctx.valid is None:
        return ctx.known
    assert isinstance(ctx.valid, Tensor)
    n = max(ctx.known.ndim, ctx.valid.ndim)
    known, valid = (m.reshape(m.shape + (1,) * (n - m.ndim)) for m in (ctx.known, ctx.valid))
    return known & valid


def _covariance(law: Noise, v: Tensor) -> Tensor:
    """``Σ v = L (Lᵀ v)``: a law knows L alone, and the gradient of ``vᵀ L w`` in w is ``Lᵀ v``."""
    with torch.enable_grad():
        w = torch.zeros_like(v, requires_grad=True)
        (back,) = torch.autograd.grad((law.colour(w) * v).sum(), w)
    return law.colour(back)


def _gain(a: Time, g: Time, limit: float) -> Time:
    """``g² / a``, at most ``limit``."""
    if isinstance(a, float) and isinstance(g, float):
        return min(g * g / a, limit) if a > 0 else limit
    a, g = torch.as_tensor(a), torch.as_tensor(g)
    return torch.where(a > 0, g * g / a, math.inf).clamp_max(limit)
