"""Forecasts of other libraries as draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["draws_of"]


def draws_of(forecast: Any, names: Sequence[Any], channels: Sequence[str]) -> np.ndarray:
    """Draws ``(N, S, H, D)`` of a forecast of N series of D channels; S is 1 for points.

    Args:
        forecast: An object with ``.samples`` ``(N, S, H, D)``; objects with ``.samples`` ``(S, H)`` or ``(S, H, D)``, one a
            series; an array ``(N, H)``, ``(N, S, H)`` or ``(N, S, H, D)``; a long frame ``unique_id, ds`` and the channels.
        names: Of the N series, in order.
        channels: Names.

    Raises:
        ValueError: For other shapes, a series that is not there, or a value that is missing or infinite.
    """
    n, d = len(names), len(channels)
    if isinstance(forecast, pd.DataFrame):
        x = _of_frame(forecast, names, channels)
    elif hasattr(forecast, "samples"):
        x = np.asarray(forecast.samples, dtype=np.float64)
    elif isinstance(forecast, Sequence) and forecast and all(hasattr(f, "samples") for f in forecast):
        x = np.stack([np.asarray(f.samples, dtype=np.float64) for f in forecast])
    else:
        x = np.asarray(forecast, dtype=np.float64)
    shape = x.shape
    if x.ndim == 2:
        x = x[:, None]
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[0] != n or x.shape[3] != d or min(x.shape) < 1:
        raise ValueError(
            f"forecast of shape {shape} for {n} series of {d} channels: need ({n}, H), ({n}, S, H) or ({n}, S, H, {d})"
        )
    if not np.isfinite(x).all():
        i = int(np.argwhere(~np.isfinite(x))[0][0])
        raise ValueError(f"the forecast of series {names[i]!r} holds values that are missing or infinite")
    return x


def _of_frame(frame: pd.DataFrame, names: Sequence[Any], channels: Sequence[str]) -> np.ndarray:
    """Points ``(N, 1, H, D)`` of a long frame."""
    lacking = [c for c in ("unique_id", *channels) if c not in frame.columns]
    if lacking:
        raise ValueError(f"column {lacking[0]!r} is not in the forecast: need unique_id and {', '.join(channels)}")
    rows = dict(iter(frame.groupby("unique_id", sort=False)))
    absent = [name for name in names if name not in rows]
    if absent:
        raise ValueError(f"the forecast has no rows of series {absent[0]!r}")
    steps = {name: len(rows[name]) for name in names}
    if len(set(steps.values())) > 1:
        raise ValueError(f"the forecast has {sorted(set(steps.values()))} rows a series: all need the same number")
    return np.stack([rows[name][list(channels)].to_numpy(dtype=np.float64) for name in names])[:, None]
