"""Guidance by known entries: the law that is told of them against the law that sees them under noise."""

from __future__ import annotations

from typing import Any

import torch

from polydiff.core.data import Context, Data, Rng, Time, tree_map
from polydiff.core.denoisers import Denoiser, Wrapper
from polydiff.core.distributions import Distribution
from polydiff.core.processes import Process

__all__ = ["KnownGuidance"]

_NOISE = "noise of known entries"


class KnownGuidance(Wrapper):
    """``scale · p(x_0 | x_t, known) + (1 − scale) · p(x_0 | x_t)`` in natural parameters.

    Both laws are of one denoiser that was trained with and without known entries. The second one is told of nothing, so
    that it must see what it was trained on, a row with noise of time t everywhere: its known entries are drawn from
    ``q(x_t | x_0 = given)``, the forward kernel since time 0, with the noise of ``prepare``. What is blended is therefore
    what the known entries say beyond what their noisy state says: everything at t = 1, nothing at t = 0.

    The noise is drawn once a run and the same at all times: a path of the forward process with its exact marginals, from
    one stream a sample. Scale 1 is the denoiser itself in one evaluation; others cost two.

    Args:
        denoiser: One that is told of known entries (``sees_known``).
        scale: A finite number; above 1 the known entries count for more.

    Raises:
        ValueError: For a denoiser that is not told of known entries.

    Source: Classifier-Free Diffusion Guidance, 2022, arXiv 2207.12598; TabDiff: a Mixed-type Diffusion Model for Tabular
    Data Generation, 2024, arXiv 2410.20626 (guidance of imputation, with a second network of the missing columns alone).
    """

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        super().__init__(denoiser)
        if not denoiser.sees_known:
            raise ValueError(
                f"{type(denoiser).__name__} is not told of known entries, so that they cannot guide it: train it with "
                "known masks"
            )
        self.scale = float(scale)

    @staticmethod
    def prepare(process: Process, ctx: Context, rng: Rng) -> Context:
        """``ctx`` with the noise of its known entries in ``memory``; unchanged where nothing is known.

        Args:
            process: Of the denoiser.
            ctx: With ``known`` and ``given``.
            rng: Of the noise alone, such as a child of that of the run.
        """
        if ctx.known is None or ctx.given is None:
            return ctx
        noise = process.marginal(ctx.given, 0.5, _untold(ctx), since=0.0).noise(rng)
        return ctx.replace(memory={**(ctx.memory or {}), _NOISE: noise})

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The blended law; its ``parts`` are ``base`` and ``cond`` (scale 1) and ``uncond`` (scale 0).

        Raises:
            ValueError: For known entries without noise.
        """
        if ctx.known is None or self.scale == 1.0:
            return self.denoiser(x_t, t, ctx)
        uncond = self.denoiser(self._noisy(x_t, t, ctx), t, _untold(ctx))
        if self.scale == 0.0:
            return uncond
        cond = self.denoiser(x_t, t, ctx)
        law = cond.lerp(uncond, self.scale)
        law.parts = {"base": cond, "cond": cond, "uncond": uncond}
        return law

    def _noisy(self, x_t: Data, t: Time, ctx: Context) -> Data:
        """The state with noise of time t on its known entries too."""
        memory: dict[str, Any] = ctx.memory or {}
        if _NOISE not in memory:
            raise ValueError(
                "the context holds no noise for its known entries: pass KnownGuidance.prepare(process, ctx, rng)"
            )
        assert ctx.given is not None
        noisy = self.process.marginal(ctx.given, t, _untold(ctx), since=0.0).draw(memory[_NOISE])
        return ctx.replace(given=noisy).hold(x_t)


def _untold(ctx: Context) -> Context:
    """The context of a sample of which nothing is known."""
    known = None if ctx.known is None else tree_map(torch.zeros_like, ctx.known)
    return ctx.replace(known=known)
