"""Decoding in the order of the model's own certainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from polydiff.core.data import Context, Time
from polydiff.core.distributions import Categorical, Distribution, Gated
from polydiff.core.processes import Process
from polydiff.core.processes.discrete import absorbing, one_clock
from polydiff.core.sampling.first_hitting import open_positions
from polydiff.core.sampling.step import OneCall, State

Rule = Literal["confidence", "entropy", "margin"]
_AT_ONCE = 1 << 21  # numbers in flight


@dataclass(frozen=True, slots=True)
class Confident(OneCall):
    """Reveal the masked tokens of which the model is surest, as many as the schedule asks for.

    Of n tokens in all (neither given nor padding) ``round(n (1 − alpha_s))`` are left masked at s. Fewer errors of parallel
    drawing than at random positions, at the price of a law that is sharper than the model's: watch the entropy of the
    samples.

    Args:
        rule: Order by the largest probability, by the entropy of the law, or by the gap between the two largest.
        temperature: Of the draw at the chosen positions; 0 takes the most probable token.
        spread: Of m tokens to show, take the surest of each of m equal stretches of what is hidden. Neighbours depend on
            each other most, and the surest tokens are often neighbours: drawn at once they do not fit.

    Source: MaskGIT: Masked Generative Image Transformer, 2022, arXiv 2202.04200; Train for the Worst, Plan for the Best,
    2025, arXiv 2502.06768 (margin).
    """

    rule: Rule = "confidence"
    temperature: float = 1.0
    spread: bool = False

    def __post_init__(self) -> None:
        if self.rule not in ("confidence", "entropy", "margin"):
            raise ValueError(f"rule={self.rule!r}: need 'confidence', 'entropy' or 'margin'")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}: must not be negative")

    def kernel(
        self, process: Process, x_t: Tensor, posterior: Distribution, t: Time, s: Time, ctx: Context, state: State
    ) -> tuple[Distribution, State]:
        """See ``OneCall``: a draw at the chosen positions, certainty elsewhere."""
        masked = one_clock(absorbing(process, type(self).__name__), type(self).__name__)
        hidden, law = open_positions(masked, x_t, ctx), masked.clean(posterior)
        h = 1 - torch.as_tensor(masked.schedule.at(s).a, dtype=torch.float64, device=x_t.device)
        scored = ctx.scored()
        total = (scored if isinstance(scored, Tensor) else torch.ones_like(hidden)).flatten(1).sum(1)
        reveal = (hidden.flatten(1).sum(1) - (total * h).round()).clamp_min(0)
        sure = certainty(law, self.rule).masked_fill(~hidden, -torch.inf).flatten(1)
        if self.spread:
            chosen = hidden & _surest_of_stretches(sure, hidden.flatten(1), reveal).view_as(hidden)
        else:
            rank = sure.argsort(dim=1, descending=True, stable=True).argsort(1)
            chosen = hidden & (rank < reveal[:, None]).view_as(hidden)
        return Gated(x_t, chosen, 1.0, tempered(law, self.temperature)), None


def _surest_of_stretches(sure: Tensor, hidden: Tensor, reveal: Tensor) -> Tensor:
    """Bool ``(B, L)``: the surest hidden position of each of ``reveal`` stretches of the hidden ones."""
    place = hidden.cumsum(1) - 1
    count = hidden.sum(1, keepdim=True).clamp_min(1)
    stretch = torch.where(hidden, (place * reveal[:, None].long()) // count, sure.shape[1])
    order = sure.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, stretch.gather(1, order).argsort(dim=1, stable=True))  # by stretch, the surest first
    sorted_stretch = stretch.gather(1, order)
    first = torch.ones_like(hidden)
    first[:, 1:] = sorted_stretch[:, 1:] != sorted_stretch[:, :-1]
    return torch.zeros_like(hidden).scatter(1, order, first) & (reveal[:, None] > 0)


def certainty(law: Categorical, rule: Rule) -> Tensor:
    """How sure a law is at each position ``(B, ...)``: larger is surer."""
    rows = law.logits.flatten(0, -2)
    parts = rows.split(max(1, _AT_ONCE // rows.shape[-1]))  # a few rows at a time: no second copy of a large array
    return torch.cat([_sure(part.log_softmax(-1), rule) for part in parts]).reshape(law.logits.shape[:-1])


def _sure(log_p: Tensor, rule: Rule) -> Tensor:
    if rule == "confidence":
        return log_p.amax(-1)
    if rule == "entropy":
        return torch.where(log_p == -torch.inf, 0.0, log_p.exp() * log_p).sum(-1)
    top = log_p.topk(2, -1).values.exp()
    return top[..., 0] - top[..., 1]


def tempered(law: Categorical, temperature: float) -> Categorical:
    """``p^{1/temperature}``, renormalised; the mode at temperature 0."""
    if temperature == 1.0:
        return law
    if temperature == 0.0:
        return Categorical.delta(law.logits.argmax(-1), law.logits.shape[-1], law.logits.dtype)
    return Categorical(law.logits / temperature)
