"""Preconditioners: what a network is fed and how its output becomes a law; the only place that knows parametrisations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Context, Time, left, match_time
from polydiff.core.distributions import Categorical, Distribution, Intensities, Joint, Normal, Predicted
from polydiff.core.distributions.signed import Signed
from polydiff.core.processes import Discrete, LinearGaussian, Product
from polydiff.core.processes.tokens import carry_over
from polydiff.core.schedules import VP, Clocked, Coefficients, Schedule

__all__ = [
    "ConcreteScore",
    "EpsPrediction",
    "FieldPreconditioners",
    "Karras",
    "Preconditioner",
    "TokenLogits",
    "VPrediction",
    "VelocityPrediction",
    "X0Prediction",
]


class Preconditioner(ABC):
    """What the network is fed and how its output becomes a law: the only place that knows parametrisations."""

    @abstractmethod
    def inputs(self, process: Any, x_t: Any, t: Time, ctx: Context) -> tuple[Any, Any]:
        """Network input and noise level ``(B, ...)``."""

    @abstractmethod
    def posterior(self, process: Any, raw: Any, x_t: Any, t: Time, ctx: Context) -> Distribution:
        """Law of x_0 from the raw network output."""


class _Linear(Preconditioner):
    """Shared by the parametrisations of linear Gaussian processes: unit-variance input, ``−logsnr / 4`` as noise level."""

    def inputs(self, process: LinearGaussian, x_t: Tensor, t: Time, ctx: Context) -> tuple[Tensor, Tensor]:
        """``x_t / sqrt(a² + g²)`` where the source is not observed, else x_t; known entries as given; the noise level."""
        if process.observes_source or process.source is not None:
            return x_t, match_time(t, x_t)
        c = process.at(t)
        level = match_time(_noise_level(process, t, c), x_t)
        if isinstance(process.path, VP):
            return x_t, level
        power = left(c.a * c.a + c.g * c.g, x_t)
        return ctx.hold(x_t * power**-0.5), level  # type: ignore[return-value]


def _noise_level(process: LinearGaussian, t: Time, c: Coefficients) -> Time:
    """``log(g / a) / 2 = −logsnr / 4``: in [−5, 5]; where elements have clocks, that of the time they share."""
    path = process.path
    shared = path.base.at(t) if isinstance(path, Clocked) else c
    a, g = shared.a, shared.g
    if isinstance(a, float) and isinstance(g, float):
        return 0.5 * math.log(g / a)
    return 0.5 * (torch.as_tensor(g).log() - torch.as_tensor(a).log())


class EpsPrediction(_Linear):
    """The network predicts the noise: ``x̂_0 = (x_t − shift − g ε̂) / a``.

    Source: Denoising Diffusion Probabilistic Models, 2020, arXiv 2006.11239.
    """

    def posterior(self, process: LinearGaussian, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        if process.observes_source:
            a, shift, g = (left(c, x_t) for c in process.coef(t, ctx))
            return Normal((x_t - shift - g * raw) / a)
        c = process.at(t)
        a, g = left(c.a, x_t), left(c.g, x_t)
        return Predicted(x_t, raw, 1 / a, -g / a)


class X0Prediction(_Linear):
    """The network predicts the clean sample."""

    def posterior(self, process: LinearGaussian, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        return Normal(raw)


class VPrediction(_Linear):
    """The network predicts ``v = a ε − g x_0`` (of the path rescaled to ``a² + g² = 1``): ``x̂_0 = a x_t − g v``.

    Source: Progressive Distillation for Fast Sampling of Diffusion Models, 2022, arXiv 2202.00512.
    """

    def posterior(self, process: LinearGaussian, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        a, shift, g = (left(c, x_t) for c in process.coef(t, ctx))
        power = a * a + g * g
        if not process.observes_source:
            return Predicted(x_t, raw, a / power, -g * power**-0.5)
        return Normal((a / power) * (x_t - shift) - (g * power**-0.5) * raw)


class VelocityPrediction(_Linear):
    """The network predicts ``dx/du = a′ x_0 + g′ z`` in the natural time u of the schedule: noise minus data for flows.

    (u is t but for the e⁻¹⁰ at either end that keeps the log-SNR finite.) Papers that run data at t = 1 are flipped
    here: their velocity is the negative of ours.
    """

    def posterior(self, process: LinearGaussian, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        if process.observes_source:
            raise TypeError("VelocityPrediction needs a path without observed source: use X0Prediction for bridges")
        path = process.path  # the natural time of an element with a clock is its own
        c = path.own(match_time(t, x_t)) if isinstance(path, Clocked) else process.at(t)
        a, _, g, da, _, dg = (left(u, x_t) for u in c)
        low, high = process.path.range if isinstance(process.path, Schedule) else (0.0, 1.0)
        det = dg * a - da * g
        return Predicted(x_t, raw, dg / det, -(high - low) * g / det)


class Karras(Preconditioner):
    """``x̂_0 = c_skip u + c_out F(c_in u)`` with u = x_t / a, σ = g / a and noise level ``log(σ) / 4``.

    Args:
        sigma_data: Standard deviation of the data; 1 for standardised data.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364.
    """

    def __init__(self, sigma_data: float = 1.0) -> None:
        self.sigma_data = sigma_data

    def inputs(self, process: LinearGaussian, x_t: Tensor, t: Time, ctx: Context) -> tuple[Tensor, Tensor]:
        """See ``Preconditioner``."""
        a, shift, g = (left(c, x_t) for c in process.coef(t, ctx))
        scale = (self.sigma_data**2 * a * a + g * g) ** -0.5
        return (x_t - shift) * scale, match_time(0.5 * _noise_level(process, t, process.at(t)), x_t)

    def posterior(self, process: LinearGaussian, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        a, shift, g = (left(c, x_t) for c in process.coef(t, ctx))
        var, s = self.sigma_data**2, self.sigma_data
        power = var * a * a + g * g
        if not process.observes_source:
            return Predicted(x_t, raw, var * a / power, s * g * power**-0.5)
        return Normal((var * a / power) * (x_t - shift) + (s * g * power**-0.5) * raw)


class TokenLogits(Preconditioner):
    """The network reads states and returns logits ``(B, ..., V)`` of the clean token.

    For the absorbing process a token that shows is its own posterior (carry-over), whatever the network says.
    """

    def inputs(self, process: Discrete, x_t: Tensor, t: Time, ctx: Context) -> tuple[Tensor, Tensor]:
        """The states, and t itself as noise level."""
        return x_t, match_time(t, x_t)

    def posterior(self, process: Discrete, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        law = Categorical(raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw)
        return carry_over(x_t, law, process.mask)


class ConcreteScore(TokenLogits):
    """The network returns ``log s(x_t → v)``, ratios ``p_t(v in the place of x_t) / p_t(x_t)`` of probabilities.

    Absorbing: ``s(mask → v) = alpha_t / (1 − alpha_t) · p(x_0 = v | x_t)``; the posterior's masses need not add up to 1.
    Otherwise they do, and may be negative where s is the score of no data (``Signed.of_ratios``); start below t = 1, where
    ratios say nothing. The bound (score entropy) reads the masses as they are, sampling reads them normalised.

    Source: Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution, 2023, arXiv 2310.16834.
    """

    def posterior(self, process: Discrete, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        alpha = torch.as_tensor(process.schedule.at(t).a, dtype=torch.float64, device=raw.device)
        alpha = left(alpha, raw) if alpha.ndim else alpha
        if process.mask is None:
            return Signed.of_ratios(raw, x_t, alpha, process.pi)
        law = Intensities(raw - (alpha.log() - torch.log1p(-alpha)).to(raw.dtype))
        return carry_over(x_t, law, process.mask)


class FieldPreconditioners(Preconditioner):
    """One preconditioner a field of a ``Product``; the network maps dicts to dicts."""

    def __init__(self, **fields: Preconditioner) -> None:
        self.fields = fields

    def inputs(self, process: Product, x_t: dict[str, Tensor], t: Time, ctx: Context) -> tuple[Any, Any]:
        """Dicts of inputs and noise levels."""
        pairs = {k: self.fields[k].inputs(p, x_t[k], t, c) for k, p, c in process.each(ctx)}
        return {k: v[0] for k, v in pairs.items()}, {k: v[1] for k, v in pairs.items()}

    def posterior(self, process: Product, raw: Any, x_t: dict[str, Tensor], t: Time, ctx: Context) -> Distribution:
        """A ``Joint``."""
        return Joint({k: self.fields[k].posterior(p, raw[k], x_t[k], t, c) for k, p, c in process.each(ctx)})
