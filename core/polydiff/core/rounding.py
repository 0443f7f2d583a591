"""Points in place of laws: how Diffusion-LM and its kin sample, beside the exact mixture over tokens."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time
from polydiff.core.denoisers import Denoiser, Wrapper
from polydiff.core.distributions import Categorical, Distribution
from polydiff.core.distributions.token_points import Rounded
from polydiff.core.preconditioners import TokenLogits
from polydiff.core.processes.embedded import Embedded
from polydiff.core.processes.tokens import token_law

__all__ = ["PointEstimate", "PointEvidence", "Rounding"]


class Rounding(TokenLogits):
    """The network returns an embedding ``x̂_0`` ``(B, ..., D)``; tokens are those near it, ``x̂_0 · E_k − |E_k|²/2``.

    The law is ``Rounded``: an ``Embedded`` process learns it by squared error and steps from the point itself.

    Source: Diffusion-LM Improves Controllable Text Generation, 2022, arXiv 2205.14217.
    """

    def posterior(self, process: Any, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        return Rounded(process.rounding(raw), point=raw)


class PointEvidence(TokenLogits):
    """The network returns logits of ``l(k) = p(x_0 = k | the other points)``; Bayes adds what the point itself says.

    ``p(x_0 = k | x_t) ∝ l(k) q(x_t | x_0 = k)`` in closed form, schedules of its own (``SoftMask``) included: the network need
    not learn which embedding is near. No gradient flows through the evidence.

    Source: Likelihood-Based Diffusion Language Models, 2023, arXiv 2305.18619 (output prior).
    """

    def posterior(self, process: Any, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        with torch.no_grad():
            said = process.evidence(x_t, t)
            said = said - said.amax(-1, keepdim=True)  # float32 holds small numbers, not differences of large ones
        return Categorical(raw.float() + said.float() if raw.dtype != torch.float64 else raw + said)


class PointEstimate(Wrapper):
    """A denoiser of an ``Embedded`` process whose law over tokens is reduced before each step.

    Args:
        denoiser: To wrap, outermost: guidance goes inside.
        by: ``"mean"`` puts the mean embedding in the place of the mixture, with the schedule of the most probable token
            (Masked-Diffuse LM); ``"token"`` puts all mass on the most probable token (the clamping of Diffusion-LM).

    Raises:
        TypeError: For another process.

    Source: Diffusion-LM Improves Controllable Text Generation, 2022, arXiv 2205.14217; A Cheaper and Better Diffusion
    Language Model with Soft-Masked Noise, 2023, arXiv 2304.04746.
    """

    def __init__(self, denoiser: Denoiser, by: Literal["mean", "token"]) -> None:
        super().__init__(denoiser)
        if by not in ("mean", "token"):
            raise ValueError(f"by={by!r}: need 'mean' or 'token'")
        if not isinstance(denoiser.process, Embedded):
            raise TypeError(f"PointEstimate needs an Embedded process, not {type(denoiser.process).__name__}")
        self.by = by

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """A law with a point, or on one token."""
        process = self.process
        assert isinstance(process, Embedded)
        law = token_law(self.denoiser(x_t, t, ctx), process.states)
        if self.by == "token":
            best = torch.nn.functional.one_hot(law.logits.argmax(-1), process.states)
            return Categorical(best.to(law.logits).log())
        return Rounded(law.logits, point=process.estimate(law))
