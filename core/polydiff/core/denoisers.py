"""Denoisers: the law of x_0 given x_t, from a network and a preconditioner or in closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from polydiff.core.data import Context, Data, Time
from polydiff.core.distributions import Distribution
from polydiff.core.preconditioners import (
    ConcreteScore,
    EpsPrediction,
    FieldPreconditioners,
    Karras,
    Preconditioner,
    TokenLogits,
    VelocityPrediction,
    VPrediction,
    X0Prediction,
)
from polydiff.core.processes import Process

__all__ = [
    "ConcreteScore",
    "Denoiser",
    "EpsPrediction",
    "FieldPreconditioners",
    "FunctionDenoiser",
    "Karras",
    "Model",
    "Preconditioner",
    "TokenLogits",
    "VPrediction",
    "VelocityPrediction",
    "Wrapper",
    "X0Prediction",
]


class Denoiser(nn.Module, ABC):
    """The law of the clean sample given the noisy one.

    ``sees_known`` says whether the denoiser is told which entries are given (``Context.known``); the loop holds known
    entries clean for such a denoiser only, and refuses for others; unless ``handles_known`` says that the denoiser makes of
    them what it needs (guidance by what is observed).
    """

    process: Process
    sees_known: bool = False
    handles_known: bool = False

    @abstractmethod
    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """Law of x_0 given x_t (``Joint`` of ``x0`` and ``x1`` where a latent source needs both)."""

    def reverse(self, x_t: Data, t: Time, s: Time, ctx: Context) -> Distribution:
        """Law of x_s given x_t, for flow maps and learned reverse laws only."""
        raise TypeError(f"{type(self).__name__} predicts x_0 only: it has no reverse law of its own")

    def nullify(self, ctx: Context) -> Context:
        """The unconditional context of guidance."""
        raise TypeError(f"{type(self).__name__} has no null condition: it cannot be guided without one")


class Wrapper(Denoiser):
    """A denoiser around a denoiser, which speaks for it in everything but its law.

    Args:
        denoiser: What is wrapped.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.sees_known = denoiser, denoiser.sees_known
        self.handles_known = denoiser.handles_known

    @property
    def process(self) -> Process:  # type: ignore[override]
        """The process of what is wrapped."""
        return self.denoiser.process

    def nullify(self, ctx: Context) -> Context:
        """See ``Denoiser``."""
        return self.denoiser.nullify(ctx)


class FunctionDenoiser(Denoiser):
    """A denoiser from ``f(x_t, t, ctx)``: exact denoisers, test doubles, regressors that are no networks.

    >>> from polydiff.core.distributions import Normal
    >>> from polydiff.core.processes import Gaussian
    >>> from polydiff.core.schedules import Cosine
    >>> zero = FunctionDenoiser(Gaussian(Cosine()), lambda x, t, ctx: Normal(torch.zeros_like(x)))
    >>> zero(torch.ones(2, 3), 0.5, Context()).mean.sum()
    tensor(0.)
    """

    def __init__(
        self, process: Process, f: Callable[[Any, Time, Context], Distribution], sees_known: bool = False
    ) -> None:
        super().__init__()
        self.process, self.f, self.sees_known = process, f, sees_known

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """``f(x_t, t, ctx)``."""
        return self.f(x_t, t, ctx)


# ------------------------------------------------------------------ the model


class Model(Denoiser):
    """A network with everything that makes it a denoiser.

    Args:
        network: ``network(x, noise_level, ctx) -> raw output``.
        process: The corruption that it undoes.
        preconditioner: Its parametrisation.
        null: Values that replace conditions for guidance, by key of ``ctx.cond``: a number fills an integer or float
            condition, a tensor is expanded.
        sees_known: The network reads ``ctx.known`` and was trained with given entries.
        autocast: Lower precision (``torch.bfloat16``) entered and left around the network alone.
    """

    def __init__(
        self,
        network: nn.Module | Callable[[Any, Any, Context], Any],
        process: Process,
        preconditioner: Preconditioner,
        *,
        null: Mapping[str, Any] | None = None,
        sees_known: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.network, self.process, self.preconditioner = network, process, preconditioner
        self.__dict__["process"] = process  # found at once: see LinearGaussian
        self.null, self.sees_known, self.autocast = dict(null or {}), sees_known, autocast

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """See ``Denoiser``."""
        process, pre = self.process, self.preconditioner
        x, level = pre.inputs(process, x_t, t, ctx)
        if self.autocast is None:
            return pre.posterior(process, self.network(x, level, ctx), x_t, t, ctx)
        device = next(iter(x.values())).device if isinstance(x, dict) else x.device
        with torch.autocast(device.type, self.autocast):
            raw = self.network(x, level, ctx)
        raw = {k: v.float() for k, v in raw.items()} if isinstance(raw, dict) else raw.float()
        return pre.posterior(process, raw, x_t, t, ctx)

    def nullify(self, ctx: Context) -> Context:
        """``ctx`` with the null values in place of the conditions."""
        if not self.null:
            return super().nullify(ctx)
        cond = dict(ctx.cond)
        for key, value in self.null.items():
            if key in cond:
                old = cond[key]
                cond[key] = torch.as_tensor(value, dtype=old.dtype, device=old.device).expand_as(old)
        return ctx.replace(cond=cond)
