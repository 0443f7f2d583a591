"""Which windows answer which question: forecasts to continue, holes to fill, blocks to score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from polydiff.timeseries.data import Store
from polydiff.timeseries.drawing import Asked
from polydiff.timeseries.series import Collection, Series
from polydiff.timeseries.stamps import Grid
from polydiff.timeseries.windows import Windows

__all__ = ["continued", "covering", "extended", "holes"]


def extended(found: Collection, steps: int, future: Collection | None = None, needed: int = 0) -> Collection:
    """Series with so many further steps, their values missing; covariates from ``future`` where it has them.

    Raises:
        ValueError: For a future without a series, or without one of the first ``needed`` stamps.
    """
    ahead = {} if future is None else {s.name: s for s in future.series}
    out = []
    for s in found.series:
        stamps = found.grid.after(s.stamps[-1], steps)
        features = np.full((steps, s.features.shape[1]), np.nan)
        if future is not None:
            if s.name not in ahead:
                raise ValueError(f"future has no rows of series {s.name!r}")
            features = _looked_up(found.grid, ahead[s.name], s, needed, features)
        out.append(
            replace(
                s,
                stamps=s.stamps.append(stamps),
                values=np.concatenate([s.values, np.full((steps, s.values.shape[1]), np.nan)]),
                features=np.concatenate([s.features, features]),
            )
        )
    return replace(found, series=tuple(out))


def _looked_up(grid: Grid, ahead: Series, s: Series, needed: int, features: np.ndarray) -> np.ndarray:
    stamps = grid.after(s.stamps[-1], len(features))
    at = ahead.stamps.get_indexer(stamps)
    if (at[:needed] < 0).any():
        raise ValueError(f"the future of series {s.name!r} has no row at {stamps[int(np.argmax(at[:needed] < 0))]}")
    features[at >= 0] = ahead.features[at[at >= 0]]
    return features


def continued(windows: Windows, last: Tensor, made: Tensor | None, context: int, repeats: int) -> Asked:
    """The windows that continue every series behind its step ``last``.

    Args:
        windows: Of series that hold steps for the future too.
        last: Steps of each series that are given or made so far, ``(N,)``.
        made: Steps that were drawn already, ``(N · repeats, K, D)``; they count as given.
        context: Steps that a window sees.
        repeats: Draws of a series; a window each once something was drawn.
    """
    n = len(last)
    if made is None:
        x, valid, cond = windows.cut(torch.arange(n), last - context)
    else:
        rows = torch.arange(n).repeat_interleave(repeats)
        x, valid, cond = windows.cut(rows, last.repeat_interleave(repeats) - context)
        seen = min(made.shape[1], context)
        x, valid = x.clone(), valid.clone()
        x[:, context - seen : context], valid[:, context - seen : context] = made[:, -seen:], True
    behind = (torch.arange(windows.length) >= context)[None, :, None].expand_as(valid)
    return Asked(torch.where(behind, 0.0, x), valid & ~behind, behind, cond)


def holes(windows: Windows, missing: Tensor) -> tuple[Asked, Tensor, Tensor] | None:
    """Windows that hold every missing entry, each in the window in whose middle it is nearest.

    Args:
        windows: Of the series.
        missing: ``(T, D)``, of the storage.

    Returns:
        The windows, the row of the storage of each of their steps ``(M, L)`` and which entries to take from them; ``None``
        if nothing is missing.
    """
    series, starts = [], []
    store, length = windows.store, windows.length
    for i, steps in enumerate(store.length.tolist()):
        begins = sorted({*range(0, max(steps - length, 0) + 1, max(length // 2, 1)), max(steps - length, 0)})
        begins = begins if steps >= length else [steps - length]
        series += [i] * len(begins)
        starts += begins
    which, start = torch.tensor(series), torch.tensor(starts)
    at = start[:, None] + torch.arange(length)
    inside = (at >= 0) & (at < store.length[which][:, None])
    row = torch.where(inside, store.first[which][:, None] + at, -1)
    far = (torch.arange(length) - (length - 1) / 2).abs().expand_as(at)
    best = torch.full((len(store.values),), torch.inf, dtype=torch.float64)
    best.scatter_reduce_(0, row[inside], far[inside].double(), "amin")
    mine = inside & (far.double() == best[row.clamp_min(0)])
    mine &= _first_claim(row, mine, len(best))
    take = mine[..., None] & missing[row.clamp_min(0)]
    used = take.flatten(1).any(1)
    if not bool(used.any()):
        return None
    x, valid, cond = windows.cut(which[used], start[used])
    open_ = inside[used][..., None] & missing[row[used].clamp_min(0)]
    known = valid & ~open_
    loc, scale = _fallback(windows, x, known, which[used])
    return Asked(torch.where(known, x, 0.0), known, open_, cond, loc, scale), row[used], take[used]


def covering(store: Store, block: int, phase: int) -> Tensor:
    """Every second block of steps of every series, ``(T,)``; phases 0 and 1 together are all steps."""
    at = torch.cat([torch.arange(n) for n in store.length.tolist()])
    return (at // block) % 2 == phase


def _first_claim(row: Tensor, mine: Tensor, rows: int) -> Tensor:
    """Of windows equally near to a step, the first has it."""
    number = torch.arange(len(row))[:, None].expand_as(row)
    first = torch.full((rows,), len(row), dtype=torch.long)
    first.scatter_reduce_(0, row[mine], number[mine], "amin")
    return number == first[row.clamp_min(0)]


def _fallback(windows: Windows, x: Tensor, known: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Scales of windows; those of the whole series for channels of which a window is told nothing."""
    loc, scale = windows.scaling.of(x, known, known)
    lost = ~known.any(1, keepdim=True)
    if windows.scaling.local and bool(lost.any()):
        mean, std = (v[which][:, None] for v in windows.store.levels())
        loc = torch.where(lost, mean.nan_to_num(0.0), loc)
        scale = torch.where(lost, std.nan_to_num(1.0).clamp_min(1e-12), scale)
    return loc, scale
