"""Windows: pieces of series as batches of the core, scaled and partly told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Context, Rng
from polydiff.core.training import Batch, Batches
from polydiff.timeseries.data import Store
from polydiff.timeseries.innovations import Innovations, Spectrum, spectrum_of

__all__ = ["Scaling", "Windows", "examples_of", "places", "spread_out", "training_windows", "window_spectrum"]

_LIMIT = 12.0  # entries further from their context, in its standard deviations, are not learned from
_ENTRIES = 256  # of a window, up to which its linear model costs less than a network
_PATTERNS = 4  # of told entries under which the linear model sees a window

Told = Callable[[Tensor, Rng], Tensor]


@dataclass(frozen=True)
class Scaling:
    """How a window is scaled beyond the standardisation of its channels.

    Attributes:
        local: By the mean and standard deviation of what is told of it (of its first steps, where nothing is), so that one
            model serves series of any level; otherwise not at all.
        context: How many first steps.
        last: By the last told value and the root mean square of the increments instead, for series that wander.
    """

    local: bool
    context: int
    last: bool = False

    def of(self, x: Tensor, valid: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Location and scale ``(B, 1, D)`` of windows ``(B, L, D)``; 0 and 1 if not local or nothing is there."""
        if not self.local:
            return torch.zeros_like(x[:, :1]), torch.ones_like(x[:, :1])
        first = torch.arange(x.shape[1], device=x.device)[:, None] < self.context
        use = valid & first
        if known is not None:
            told = valid & known
            use = torch.where(told.flatten(1).any(1)[:, None, None], told, use)
        use = torch.where(use.any(1, keepdim=True), use, valid)
        if self.last:
            return _wander(x, use)
        n = use.sum(1, keepdim=True).clamp_min(1)
        mean = torch.where(use, x, 0.0).sum(1, keepdim=True) / n
        std = (torch.where(use, x - mean, 0.0).square().sum(1, keepdim=True) / n).sqrt()
        # A context that does not move has no scale of its own: a thousandth of its level keeps rounding from becoming one.
        return mean, torch.maximum(std, 1e-3 * mean.abs()).clamp_min(1e-12)


def _wander(x: Tensor, use: Tensor) -> tuple[Tensor, Tensor]:
    """Last used value, and the root mean square of increments between used neighbours over a window's length."""
    step = torch.arange(x.shape[1], device=x.device)[:, None].expand_as(x)
    at = torch.where(use, step, -1).amax(1, keepdim=True).clamp_min(0)
    loc = x.gather(1, at)
    both = use[:, 1:] & use[:, :-1]
    square = torch.where(both, x.diff(dim=1), 0.0).square().sum(1, keepdim=True) / both.sum(1, keepdim=True).clamp_min(
        1
    )
    std = (square * x.shape[1]).sqrt()
    return loc, torch.maximum(std, 1e-3 * loc.abs()).clamp_min(1e-12)


class Windows:
    """Windows of stored series, by series and first step.

    Args:
        store: The series.
        length: Steps of a window, L.
        scaling: Of its values.
        irregular: Pass the stamps on to the network.
    """

    def __init__(self, store: Store, length: int, scaling: Scaling, irregular: bool = False) -> None:
        self.store, self.length, self.scaling, self.irregular = store, length, scaling, irregular

    @property
    def small(self) -> bool:
        """Whether a linear model of windows costs less than a network: few entries, on a grid."""
        return self.length * self.store.values.shape[1] <= _ENTRIES and not self.irregular

    def cut(self, series: Tensor, start: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Values ``(B, L, D)`` with zeros where they are missing, where they are not, and conditions.

        Windows may begin before the first step of a series and end behind its last: nothing is there.
        """
        s = self.store
        at = start[:, None] + torch.arange(self.length)
        inside = (at >= 0) & (at < s.length[series][:, None])
        flat = s.first[series][:, None] + torch.minimum(at.clamp_min(0), s.length[series][:, None] - 1)
        x = s.values[flat]
        valid = inside[..., None] & ~x.isnan()
        cond: dict[str, Tensor] = {}
        if s.features.shape[1]:
            cond["time"] = s.features[flat] * inside[..., None]
        if s.static.shape[1]:
            cond["static"] = s.static[series]
        if self.irregular:
            stamps = s.at[flat] + (at - (flat - s.first[series][:, None]))  # outside steps go on at the typical pace
            cond["at"] = (stamps - stamps[:, :1]).float()
        return torch.where(valid, x, 0.0), valid, cond

    def scaled(self, x: Tensor, valid: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled values in float32, location and scale; missing entries stay zero."""
        loc, scale = self.scaling.of(x, valid, known)
        return torch.where(valid, (x - loc) / scale, 0.0).float(), loc, scale


def training_windows(
    windows: Windows,
    told: Told | None,
    *,
    shortest: int,
    batch_size: int,
    seed: int,
    base: Innovations | None = None,
) -> Batches:
    """Batches of random windows, every position of every series as likely as any other.

    Args:
        windows: Of the training series.
        told: Which entries are told, ``told(valid, rng)``; ``None`` for a model that is told nothing.
        shortest: Steps of a series that a window must hold at least; the rest is padding on the left.
        batch_size: Windows a step.
        seed: Of their order.
        base: A linear model whose surprises take the place of the entries that are not told.
    """
    rows = places(windows, shortest)

    def cut(batch: Batch, rng: Rng) -> Batch:
        assert isinstance(batch.x0, Tensor)
        x, valid, cond = windows.cut(batch.x0[:, 0], batch.x0[:, 1])
        known = None if told is None else told(valid, rng.child("told"))
        z, _, _ = windows.scaled(x, valid, known)
        valid = valid & (z.abs() <= _LIMIT)
        z = torch.where(valid, z, 0.0)
        if known is not None:
            known = known & valid
        if base is not None:
            told_ = torch.zeros_like(valid) if known is None else known
            z = base.encode(z, told_, valid & ~told_)
        return Batch(z, Context(cond=cond, valid=valid, known=known, given=None if known is None else z))

    return Batches(rows, batch_size=min(batch_size, len(rows)), seed=seed, transform=cut)


def places(windows: Windows, shortest: int) -> Tensor:
    """Series and first step ``(M, 2)`` of every window that holds at least ``shortest`` steps of its series, or all of it."""
    pairs = []
    for i, steps in enumerate(windows.store.length.tolist()):
        begins = torch.arange(min(shortest, steps) - windows.length, steps - windows.length + 1)
        pairs.append(torch.stack([torch.full_like(begins, i), begins], 1))
    return torch.cat(pairs)


def spread_out(rows: Tensor, limit: int) -> Tensor:
    """At most ``limit`` rows, evenly from first to last."""
    return rows[torch.linspace(0, len(rows) - 1, min(len(rows), limit)).long()]


def window_spectrum(
    windows: Windows,
    rows: Tensor | None = None,
    *,
    limit: int = 40_000,
    told: Told | None = None,
) -> Spectrum:
    """The Gaussian model of windows, fitted to an even selection of them, or of given places, scaled as in training.

    Scaled by their first steps alone, windows have mean 0 and variance 1 there exactly, and a model of that law fills a hole
    among them with whatever makes it so. Hence every window counts under several patterns of what is told.

    Args:
        windows: Of the training series.
        rows: Series and first step ``(M, 2)``; all places unless given.
        limit: Windows at most.
        told: Which entries are told, as in training; nothing unless given. Heeded where windows are scaled by their mean: last
            values of other patterns are too far apart for one covariance.
    """
    rows = spread_out(places(windows, windows.length) if rows is None else rows, limit)
    known: Tensor | None = None
    if told is not None and windows.scaling.local and not windows.scaling.last:
        rows = rows.repeat(max(min(_PATTERNS, limit // len(rows)), 1), 1)
    else:
        told = None
    x, valid, _ = windows.cut(rows[:, 0], rows[:, 1])
    if told is not None:
        known = told(valid, Rng(0).child("base"))
    z, _, _ = windows.scaled(x, valid, known)
    return spectrum_of(z, valid & (z.abs() <= _LIMIT))


def examples_of(windows: Windows, rows: Tensor, limit: int = 2048) -> tuple[Tensor, dict[str, Tensor]]:
    """Location and scale ``(M, D, 2)`` and conditions of an even selection of windows that are told nothing.

    What is generated from nothing takes them over; no scales where all windows share one.
    """
    rows = spread_out(rows, limit)
    x, valid, cond = windows.cut(rows[:, 0], rows[:, 1])
    if not windows.scaling.local:
        return torch.zeros(0, x.shape[2], 2, dtype=x.dtype), cond
    loc, scale = windows.scaling.of(x, valid, None)
    return torch.stack([loc[:, 0], scale[:, 0]], -1), cond
