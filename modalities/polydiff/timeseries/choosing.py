"""How windows are best scaled, by what a linear model of them foresees in the later part of each series."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from polydiff.timeseries.innovations import Innovations
from polydiff.timeseries.windows import Scaling, Windows, places, spread_out, window_spectrum

__all__ = ["LocalScaling", "best_linear"]

LocalScaling = Literal["context", "last"]

_LATER = 0.8  # windows that begin behind this share of their series judge, those that end before it teach
_JUDGES = 2000
_RIDGES = (1e-3, 1e-2, 1e-1)


def best_linear(windows: Windows, scalings: Sequence[LocalScaling]) -> tuple[LocalScaling, float]:
    """The scaling and the ridge under which a linear model of windows forecasts best.

    By mean and standard deviation of the context, or by its last value and its increments. A model is fitted to the early
    windows under each choice and scored on the later ones by the CRPS of its normal law in units of each series' standard
    deviation; where windows are too large for it, by the plain absolute error of the location.

    Args:
        windows: Of the training series.
        scalings: To choose from.
    """
    early, later = _split(windows)
    errors = {
        (name, ridge): error
        for name in scalings
        for ridge, error in _errors(
            dataclasses.replace(windows.scaling, local=True, last=name == "last"), windows, early, later
        ).items()
    }
    return min(errors, key=errors.__getitem__)


def _split(windows: Windows) -> tuple[Tensor, Tensor]:
    rows = places(windows, windows.length)
    steps = windows.store.length[rows[:, 0]].double()
    early, later = (
        rows[rows[:, 1] + windows.length <= _LATER * steps],
        rows[rows[:, 1] >= _LATER * (steps - windows.length)],
    )
    return (early if len(early) else rows), (later if len(later) else rows)


def _errors(scaling: Scaling, windows: Windows, early: Tensor, later: Tensor) -> dict[float, float]:
    """Of each ridge."""
    trial = Windows(windows.store, windows.length, scaling, windows.irregular)
    rows = spread_out(later, _JUDGES)
    x, valid, _ = trial.cut(rows[:, 0], rows[:, 1])
    behind = (torch.arange(trial.length) >= trial.scaling.context)[None, :, None]
    known, open_ = valid & ~behind, valid & behind
    loc, scale = trial.scaling.of(x, known, known)
    _, std = trial.store.levels()
    unit = torch.where(std > 0, std, 1.0)[rows[:, 0]][:, None]
    if not trial.small:
        return {_RIDGES[0]: float(torch.where(open_, (x - loc) / unit, 0.0).abs().sum())}
    z = torch.where(valid, (x - loc) / scale, 0.0)
    found, errors = window_spectrum(trial, early, limit=10_000), {}
    for ridge in _RIDGES:
        crps = _normal_crps(z, *Innovations(found.mean, found.cov(ridge)).moments(z, known, open_))
        errors[ridge] = float(torch.where(open_, crps * scale / unit, 0.0).sum())
    return errors


def _normal_crps(y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """``σ (w (2 Φ(w) − 1) + 2 φ(w) − 1/√π)`` with w the standardised error."""
    std = std.clamp_min(1e-12)
    w = (y - mean) / std
    density = (-0.5 * w * w).exp() / math.sqrt(2 * math.pi)
    return std * (w * torch.erf(w / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
