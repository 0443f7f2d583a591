"""Shared by processes over tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from polydiff.core.data import Context
from polydiff.core.distributions import Categorical, Dirac, Distribution, Gated

__all__ = ["carried", "carry_over", "only_markov", "pick_rows", "token_law", "ungated"]


def carry_over(x_t: Tensor, law: Categorical, mask: int | None) -> Distribution:
    """The posterior that a law over clean tokens makes: where masks hide tokens, one that shows is its own posterior."""
    return law if mask is None else Gated(x_t, x_t == mask, 1.0, law)


def carried(mask: int | None, x0: Tensor, x_t: Tensor, ctx: Context) -> Tensor:
    """Clean tokens with those that show as they show, given ones as given, and padding as it was."""
    held = ctx.hold(x0 if mask is None else torch.where(x_t == mask, x0, x_t))
    assert isinstance(held, Tensor)
    return held


def ungated(posterior: Distribution) -> Distribution:
    """The law of what is hidden."""
    return posterior.inner if isinstance(posterior, Gated) else posterior


def token_law(posterior: Distribution, states: int) -> Categorical:
    """The posterior as a ``Categorical`` over clean tokens; ``Gated`` and ``Dirac`` laws are unwrapped."""
    law = ungated(posterior)
    if isinstance(law, Dirac):
        assert isinstance(law.value, Tensor)
        return Categorical.delta(law.value, states)
    if not isinstance(law, Categorical):
        raise TypeError(f"a discrete process needs a law over tokens, not {type(law).__name__}")
    return law


def only_markov(eta: float) -> None:
    """Refuse an ``eta`` that a discrete process does not have."""
    if eta != 1.0:
        raise ValueError(f"eta={eta}: a discrete process has only its Markov posterior, eta=1")


def pick_rows(table: Tensor, x: Tensor) -> Tensor:
    """Row ``x`` of a table ``(B, ..., S, S)`` that broadcasts against the elements, ``(B, ..., S)``."""
    wide = table.expand(*x.shape, *table.shape[-2:])
    return wide.gather(-2, x[..., None, None].expand(*x.shape, 1, table.shape[-1]))[..., 0, :]
