"""Shared by processes over tokens."""

from __future__ import annotations

from torch import Tensor

from polydiff.core.distributions import Categorical, Dirac, Distribution, Gated

__all__ = ["only_markov", "pick_rows", "token_law"]


def token_law(posterior: Distribution, states: int) -> Categorical:
    """The posterior as a ``Categorical`` over clean tokens; ``Gated`` and ``Dirac`` laws are unwrapped."""
    if isinstance(posterior, Gated):
        return token_law(posterior.inner, states)
    if isinstance(posterior, Dirac):
        assert isinstance(posterior.value, Tensor)
        return Categorical.delta(posterior.value, states)
    if not isinstance(posterior, Categorical):
        raise TypeError(f"a discrete process needs a law over tokens, not {type(posterior).__name__}")
    return posterior


def only_markov(eta: float) -> None:
    """Refuse an ``eta`` that a discrete process does not have."""
    if eta != 1.0:
        raise ValueError(f"eta={eta}: a discrete process has only its Markov posterior, eta=1")


def pick_rows(table: Tensor, x: Tensor) -> Tensor:
    """Row ``x`` of a table ``(B, ..., S, S)`` that broadcasts against the elements, ``(B, ..., S)``."""
    wide = table.expand(*x.shape, *table.shape[-2:])
    return wide.gather(-2, x[..., None, None].expand(*x.shape, 1, table.shape[-1]))[..., 0, :]
