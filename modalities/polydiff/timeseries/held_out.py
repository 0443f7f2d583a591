"""What is held out of series: steps behind those of training, and windows of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from polydiff.timeseries.series import Collection, Series
from polydiff.timeseries.stamps import Grid

__all__ = ["cut", "joined_to", "thinned"]


def joined_to(past: Collection, found: Collection, context: int, grid: Grid) -> tuple[Collection, list[int]]:
    """Held-out series behind what was seen of them, and the first held-out step of each.

    A series goes on where one of its name ends before it begins; any other is a series of its own, held out behind a first
    context.
    """
    seen = {s.name: s for s in past.series}
    series, first = [], []
    for s in found.series:
        before = seen.get(s.name)
        if before is not None and before.stamps[-1] < s.stamps[0]:
            series.append(_behind(grid, before, s))
            first.append(len(series[-1]) - len(s))
        else:
            series.append(s)
            first.append(min(context, len(s) - 1))
    return replace(found, series=tuple(series)), first


def _behind(grid: Grid, before: Series, after: Series) -> Series:
    """Two stretches of one series as one; steps of the grid between them are missing."""
    stamps = before.stamps.append(after.stamps)
    full = grid.between(stamps[0], stamps[-1]) if grid.regular else stamps
    gap = np.full((max(len(full) - len(stamps), 0), 1), np.nan)
    values, features = (
        np.concatenate([a, np.repeat(gap, a.shape[1], 1), b])
        for a, b in ((before.values, after.values), (before.features, after.features))
    )
    return replace(before, stamps=full, values=values, features=features)


def cut(parts: Sequence[tuple[Series, int, int]], length: int) -> np.ndarray:
    """Complete windows ``(N, L, D)``, half of one overlapping the next, counted from the end."""
    found = []
    for s, begin, end in parts:
        for last in range(end, begin + length - 1, -max(length // 2, 1)):
            window = s.values[last - length : last]
            if not np.isnan(window).any():
                found.append(window)
    return np.stack(found) if found else np.zeros((0, length, 1))


def thinned(windows: np.ndarray, n: int) -> np.ndarray:
    """n of them, evenly from first to last."""
    return windows[torch.linspace(0, len(windows) - 1, n).long().numpy()]
