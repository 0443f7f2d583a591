"""Lengths of context and horizon, where a configuration leaves them to the data."""

from __future__ import annotations

import dataclasses

from polydiff.timeseries.recipes import SeriesConfig
from polydiff.timeseries.series import Collection
from polydiff.timeseries.stamps import Grid

__all__ = ["fitting", "season_of"]

_HORIZON = 24  # of series without a season


def season_of(grid: Grid) -> int:
    """Steps of the main season by the calendar: a day of hours, a week of days, a year of months; 1 where there is none."""
    if not grid.dated or not grid.regular:
        return 1
    if grid.step < 0.9:
        return round(1 / grid.step)
    if grid.freq == "B":
        return 5
    for step, season in ((1.5, 7), (8.0, 52), (32.0, 12), (95.0, 4)):
        if grid.step < step:
            return season
    return 1


def fitting(config: SeriesConfig, found: Collection) -> SeriesConfig:
    """The configuration with lengths: a horizon of about a season, a context of three, within what most series have.

    Raises:
        ValueError: For series that are all shorter than a horizon and one step of context.
    """
    season, steps = season_of(found.grid), sorted(len(s) for s in found.series)
    typical = steps[len(steps) // 2]
    horizon = config.horizon or max(min(season if season > 1 else _HORIZON, typical // 4, 60), 1)
    context = config.context or max(min(3 * max(season, horizon), 168, typical - horizon), 1)
    if steps[-1] < horizon + 1:
        raise ValueError(
            f"the longest series has {steps[-1]} steps: a horizon of {horizon} needs at least {horizon + 1}; ask for a "
            "shorter one"
        )
    return dataclasses.replace(config, context=context, horizon=horizon)
