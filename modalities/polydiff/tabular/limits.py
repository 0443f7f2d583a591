"""Levels that a sample may not take."""

from __future__ import annotations

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time
from polydiff.core.denoisers import Denoiser, Wrapper
from polydiff.core.distributions import Categorical, Distribution, Gated, Joint

__all__ = ["Allowed"]


class Allowed(Wrapper):
    """A denoiser of tables whose categories keep to allowed levels: the others lose their mass, the rest is renormalised.

    The law of the row given that its cells are in these sets, up to what a cell says of the others while it is noisy: exact for
    one restricted cell, a close fit for several.

    Args:
        denoiser: Of a product with a field ``cat``.
        allowed: Bool ``(Dc, levels)``.
    """

    def __init__(self, denoiser: Denoiser, allowed: Tensor) -> None:
        super().__init__(denoiser)
        self.allowed = allowed

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The wrapped law without the levels that are not allowed."""
        law = self.denoiser(x_t, t, ctx)
        assert isinstance(law, Joint)
        cat = law.fields["cat"]
        assert isinstance(cat, Gated) and isinstance(cat.inner, Categorical)
        logits = torch.where(self.allowed.to(cat.inner.logits.device), cat.inner.logits, -torch.inf)
        return Joint({**law.fields, "cat": Gated(cat.stay, cat.open, cat.p, Categorical(logits))})
