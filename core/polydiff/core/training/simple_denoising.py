"""Simple denoising of uniform-state diffusion: cross-entropy where noise fell, and nowhere else."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, left
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Categorical, Distribution
from polydiff.core.preconditioners import TokenLogits
from polydiff.core.processes import Discrete
from polydiff.core.processes.discrete import unmasked
from polydiff.core.training.objective import Denoising
from polydiff.core.training.times import TimeLaw, Uniform

__all__ = ["LeaveOneOut", "SimpleDenoising"]

_LEAST = -60.0  # of log r: at t = 0 a token that shows is its own posterior, and logits must stay finite


class LeaveOneOut(TokenLogits):
    """The network returns logits of ``l(v) = p(x_0 = v | the other tokens of x_t)``; Bayes adds what the token itself says.

    ``p(x_0 = v | x_t) ∝ l(v) (alpha [v = x_t] + (1 − alpha) pi_x)``, one logit moved. An ancestral step from this posterior
    is the "plug-in" step ``q(x_s | x_t, x_0 ∼ l)`` of UDLM, Duo and SDDLM: a network trained for theirs is read by this one.

    Raises:
        TypeError: For an absorbing process, where the two laws are one: use ``TokenLogits``.

    Source: Simple Guidance Mechanisms for Discrete Diffusion Models, 2024, arXiv 2412.10193.
    """

    def posterior(self, process: Discrete, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        logits = raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw
        shift = -log_share(unmasked(process, "LeaveOneOut"), x_t, t)
        return Categorical(_moved(logits, x_t, shift))


class SimpleDenoising(Denoising):
    """``E_t E_{x_t} Σ_i P(i is noise | x_t, x_0) (−log l(x_0) + negative · mean_v log(l(v) + floor))``, in nats per element.

    l is the law that the denoiser gives a token from the *other* tokens alone: its posterior without the evidence of the
    token itself, whatever its parametrisation. Noise is certain where ``x_t ≠ x_0``. Where they agree its probability is
    ``r = (1 − alpha) pi_x / (alpha + (1 − alpha) pi_x)``, about 1/V: this small weight is what makes the exact posterior the
    minimiser (``counted="noised"``, the default). SDDLM leaves it out (``counted="changed"``): its minimiser is
    ``l(v) [v ≠ x_t] / (1 − l(x_t))``, a denoiser that takes every token for wrong.

    With ``negative`` λ (SDDLM-V1 has 1, with tokens drawn where we sum) the minimiser is ``(l(v) − λ/V)_+``, normalised, as
    ``floor`` → 0: less probable tokens are cut. The loss then is no bound on anything.

    Args:
        model: A denoiser of a uniform or marginal-prior process, best with ``LeaveOneOut()``.
        times: Law of t.
        drop: Probability that a sample's condition is replaced by the null condition, for guidance.
        counted: ``"noised"`` or ``"changed"``, see above.
        negative: λ ≥ 0, weight of the contrastive term.
        floor: Keeps the contrastive term bounded.

    Raises:
        TypeError: For another process.
        ValueError: For a negative ``negative``, a ``floor`` of 0 or less, another ``counted``.

    Source: Simple Denoising Diffusion Language Models, 2025, arXiv 2510.22926.
    """

    def __init__(
        self,
        model: Denoiser,
        *,
        times: TimeLaw = Uniform(),
        drop: float = 0.0,
        counted: Literal["noised", "changed"] = "noised",
        negative: float = 0.0,
        floor: float = 1e-6,
    ) -> None:
        super().__init__(model, times=times, drop=drop)
        unmasked(model.process, "SimpleDenoising")
        if counted not in ("noised", "changed"):
            raise ValueError(f"counted={counted!r}: need 'noised' or 'changed'")
        if negative < 0 or floor <= 0:
            raise ValueError(f"negative={negative}, floor={floor}: need negative ≥ 0 and floor > 0")
        self.counted, self.negative, self.floor = counted, negative, floor

    def error(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Tensor:
        """The summand ``(B, ...)`` of given tokens."""
        assert isinstance(x0, Tensor) and isinstance(x_t, Tensor)
        process = unmasked(self.model.process, "SimpleDenoising")
        share = log_share(process, x_t, t)
        law = Categorical(_moved(process.clean(posterior).log_probs, x_t, share))
        nats = -law.log_probs.gather(-1, x0[..., None])[..., 0]
        if self.negative > 0:
            nats = nats + self.negative * (law.probs + self.floor).log().mean(-1)
        kept = share.exp() if self.counted == "noised" else torch.zeros_like(share)
        return torch.where(x_t == x0, kept.to(nats), 1.0) * nats


def log_share(process: Discrete, x_t: Tensor, t: Time) -> Tensor:
    """``log r``, ``r = (1 − alpha) pi_x / (alpha + (1 − alpha) pi_x)``: noise that shows the clean token, ``(B, ...)``."""
    alpha = torch.as_tensor(process.schedule.at(t).a, dtype=torch.float64, device=x_t.device)
    shown = (1 - (left(alpha, x_t) if alpha.ndim else alpha)) * process.pi[x_t]
    return (shown / (left(alpha, x_t) + shown if alpha.ndim else alpha + shown)).log().clamp_min(_LEAST)


def _moved(logits: Tensor, x_t: Tensor, shift: Tensor) -> Tensor:
    return logits.scatter_add(-1, x_t[..., None], shift[..., None].to(logits))
