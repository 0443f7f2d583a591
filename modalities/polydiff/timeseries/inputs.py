"""What every network of time series reads: entries, what is told of them, the noise level and the conditions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from polydiff.core.data import Context, left
from polydiff.core.networks import FourierEmbedding, LabelEmbedding

__all__ = ["Inputs", "Read", "gaps"]


class Read(NamedTuple):
    """What ``Inputs`` makes of a window.

    Attributes:
        steps: ``(B, L, size)``, features of each step.
        cond: ``(B, width)``, ``(1, width)`` where nothing in it differs between windows, or ``(B, L, width)`` where the
            noise level is that of a step.
        present: Bool ``(B, L)``, steps with a valid entry.
        level: ``(B, L)``, the noise level of each step.
    """

    steps: Tensor
    cond: Tensor
    present: Tensor
    level: Tensor


class Inputs(nn.Module):
    """``[x · noisy, given · known, known, valid, time, gap]`` of each step, and ``embed(level) + static + label`` of a window.

    An entry is *noisy* where it is valid and not known; what invalid entries hold, NaN too, is never read. No mask in the
    context means that nothing is known and all is valid, to the same bits.

    Args:
        channels: D.
        width: Of the conditioning vector.
        features: F of ``cond["time"]`` ``(B, L, F)``, known features of a step.
        static: S of ``cond["static"]`` ``(B, S)``.
        classes: Of ``cond["label"]`` ``(B,)``; label ``classes``, or none in the context, is the null label.
        irregular: Read the time since the last valid step from the stamps ``cond["at"]`` ``(B, L)``.

    Raises:
        ValueError: When called without a condition, other than the label, that the network was built for.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        features: int = 0,
        static: int = 0,
        classes: int = 0,
        irregular: bool = False,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels={channels}: a window has at least 1 channel")
        self.channels, self.features, self.statics, self.classes = channels, features, static, classes
        self.irregular = irregular
        self.size = 4 * channels + features + irregular
        self.level = FourierEmbedding(width)
        self.static = nn.Linear(static, width) if static else None
        self.label = LabelEmbedding(classes, width) if classes else None

    def forward(self, x: Tensor, level: Tensor, ctx: Context) -> Read:
        """A window ``(B, L, D)`` at noise level ``(B,)`` or ``(B, L)``."""
        if x.shape[-1] != self.channels:
            raise ValueError(f"a window of {x.shape[-1]} channels: the network was built for {self.channels}")
        valid = _mask(ctx.valid, x, default=True)
        known = _mask(ctx.known, x, default=False) & valid
        present = valid.any(-1)
        noisy = torch.where(valid & ~known, x, 0.0)
        given = torch.where(known, x if ctx.given is None else _tensor(ctx.given).to(x.dtype), 0.0)
        parts = [noisy, given, known.to(x.dtype), valid.to(x.dtype)]
        if self.features:
            parts.append(torch.where(present[..., None], self._needed(ctx, "time", self.features).to(x.dtype), 0.0))
        if self.irregular:
            parts.append(gaps(self._needed(ctx, "at"), present)[..., None].to(x.dtype))
        dtype = self.level.omega.dtype
        steps = torch.cat(parts, -1).to(dtype)
        shared = (
            level.ndim == 1 and level.stride(0) == 0
        )  # one time for the whole batch: embedded once, broadcast after
        cond = self.level(level[:1] if shared else level)
        extra = self._window(ctx, cond)
        if extra is not None:
            cond = cond + (extra if cond.ndim == 2 else extra[:, None])
        return Read(steps, silu(cond), present, left(level, x[..., 0]).expand(x.shape[:2]).to(dtype))

    def _window(self, ctx: Context, like: Tensor) -> Tensor | None:
        """Embedding of what belongs to the whole window, ``(B, width)``."""
        found: Tensor | None = None
        if self.static is not None:
            found = self.static(self._needed(ctx, "static", self.statics).to(self.static.weight.dtype))
        if self.label is not None:
            label = ctx.cond.get("label")
            if label is None:
                label = torch.full(like.shape[:1], self.classes, device=like.device)
            named = self.label(label)
            found = named if found is None else found + named
        return found

    @staticmethod
    def _needed(ctx: Context, name: str, size: int | None = None) -> Tensor:
        value = ctx.cond.get(name)
        if not isinstance(value, Tensor):
            raise ValueError(f"the network was built to read cond[{name!r}], but the context has {sorted(ctx.cond)}")
        if size is not None and value.shape[-1] != size:
            raise ValueError(f"cond[{name!r}] has {value.shape[-1]} features: the network was built for {size}")
        return value


def gaps(at: Tensor, present: Tensor) -> Tensor:
    """``log(1 + at_l − at_k)``, k the last present step before l: 0 where there is none, and where l itself is absent.

    Args:
        at: Stamps ``(B, L)`` in units of the typical step, rising; those of absent steps are never read.
        present: Bool ``(B, L)``.
    """
    low = torch.where(present, at, -torch.inf)
    before = torch.cat([low[:, :1], low[:, :-1]], 1).cummax(1).values
    has = present & (before > -torch.inf)
    # the first step has itself before it: a gap of 0
    return torch.where(has, torch.where(has, at - before, 0.0).clamp_min(0), 0.0).log1p()


def _mask(mask: object, x: Tensor, default: bool) -> Tensor:
    """A mask on the leading axes of ``x`` as one of its shape."""
    if mask is None:
        return torch.full_like(x, default, dtype=torch.bool)
    return left(_tensor(mask), x).expand(x.shape)


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"a window is one tensor, and so are its masks: got {type(value).__name__}")
    return value
