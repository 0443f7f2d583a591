"""How likely series are, step by step and as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from polydiff.core.data import Rng
from polydiff.core.evaluation import nelbo
from polydiff.core.schedules import uniform_times
from polydiff.timeseries.drawing import Asked
from polydiff.timeseries.filling import Filling
from polydiff.timeseries.reading import covering

__all__ = ["Scoring"]

_DRAWS = 39
_FINEST = 0.03  # time at which the noise is a twentieth of a standard deviation: values are told apart no closer
_TAIL = 1.6449  # half the width of the central 90 % of a standard normal


class Scoring(Filling):
    """Scores of a generator of series."""

    def anomaly_score(
        self, data: Any, *, block: int = 0, draws: int = _DRAWS, seed: int = 0, batch_size: int = 4096
    ) -> Any:
        """How strange each step is given its surroundings, larger for stranger: series like ``data`` with scores for values.

        Every second block of steps is hidden and drawn again; then the others. The score is the distance from the median of
        the draws in standard deviations of a normal law with their central 90 %: about 1 for an ordinary step.

        Args:
            data: As for ``fit``; scores of missing values are NaN.
            block: Steps hidden together; a quarter of the horizon, at least 1, if left out.
            draws: Of each block.
            seed: Of the draws.
            batch_size: Windows at a time.
        """
        codec, _ = self._fitted()
        found = self._collected(data)
        size = block or max(self.config.horizon // 4, 1)
        store = codec.store(found)
        truth = codec.decode(store.values)
        score = np.full_like(truth, np.nan)
        for phase in (0, 1):
            hidden = covering(store, size, phase)[:, None].expand_as(store.values)
            made = self._fill(found, draws, hidden | store.values.isnan(), seed=seed + phase, batch_size=batch_size)
            low, middle, high = np.quantile(made, [0.05, 0.5, 0.95], axis=0)
            spread = np.maximum((high - low) / (2 * _TAIL), 1e-9 * np.nanstd(truth, 0) + 1e-300)
            score = np.where(hidden.numpy(), np.abs(truth - middle) / spread, score)
        return self._natural(found, score)

    def log_likelihood(
        self, data: Any, *, steps: int | None = None, seed: int = 0, batch_size: int = 256
    ) -> np.ndarray:
        """A lower bound on the log-density of each series in nats, ``(N,)``, in the units of the data.

        ``Σ log p(block | context)`` over blocks of a horizon, by minus the NELBO of each, from the first block with a full
        context on: the first steps are what it goes on from. A model that is told nothing scores whole windows, one after the
        other. Missing values are left out.

        Args:
            data: As for ``fit``.
            steps: Of the bound's grid: more are tighter.
            seed: Of its noise.
            batch_size: Windows at a time.
        """
        codec, model = self._fitted()
        found = self._collected(data)
        store = codec.store(found)
        told, length = model.sees_known, self.length
        first = self.config.context if told else 0
        total = torch.zeros(len(found.series), dtype=torch.float64)
        units = codec.moments["std"].log()
        grid = [_FINEST + (1 - _FINEST) * t for t in uniform_times(steps or 4 * self.config.sample_steps)]
        for start in range(first, int(store.length.max()), self.config.horizon if told else length):
            mine = (store.length > start).nonzero()[:, 0]
            x, valid, cond = self._windows(store).cut(mine, torch.full((len(mine),), start - first))
            behind = (torch.arange(length) >= first)[None, :, None]
            asked = Asked(x, valid & ~behind, valid & behind, cond)
            total[mine] += self._bounds(asked, grid, seed + start, batch_size) - (asked.open * units).flatten(1).sum(1)
        return total.numpy()

    def _bounds(self, asked: Asked, grid: list[float], seed: int, batch_size: int) -> Tensor:
        """Minus the NELBO of the open entries, ``(N,)`` nats in the units of the codec."""
        _, model = self._fitted()
        there = asked.known | asked.open
        loc, scale = self._scaling().of(asked.x, there, asked.known)
        z = torch.where(there, (asked.x - loc) / scale, 0.0)
        volume = torch.where(asked.open, scale.log(), 0.0).flatten(1).sum(1)
        if self.codec is not None and self.codec.base is not None:
            z = self.codec.base.encode(z, asked.known, asked.open)
            volume += self.codec.base.log_det(asked.known, asked.open)
        z, out = z.float(), []
        for start in range(0, len(z), batch_size):
            at = torch.arange(start, min(start + batch_size, len(z)))
            ctx = self._context(asked, z, at, model.sees_known)
            with torch.no_grad():
                out.append(nelbo(model, z[at].to(self.device), grid, ctx, rng=Rng(seed, at.tolist())).cpu())
        return -torch.cat(out).double() - volume
