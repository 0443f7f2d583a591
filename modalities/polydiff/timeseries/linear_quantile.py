"""Linear quantile regression on lags, one model for all series: the baseline that most forecasters fail to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from polydiff.core.data import Rng
from polydiff.timeseries.baselines import filled
from polydiff.timeseries.forecast_metrics import LEVELS

__all__ = ["LinearQuantile"]


class LinearQuantile:
    """Direct linear forecasts of every step ahead and level, ``q_{h,τ} = a_{h,τ} · lags + b_{h,τ}``, by the pinball loss.

    Each window of ``lags`` steps is centred at its mean (or its last value) and divided by its mean absolute deviation;
    forecasts are scaled back and sorted over levels. The least-squares solution with the quantiles of its residuals is the
    start, Adam with a falling rate does the rest.

    Args:
        lags: Steps of the past that are read.
        horizon: Steps ahead.
        levels: Of the quantiles, ascending.
        centre: ``"mean"`` or ``"last"`` of the window; the last value suits random walks.
        steps: Of Adam, 512 windows each.
        ridge: Of the start, as a share of the windows.
        limit: Windows that are kept, drawn at random where there are more.
        seed: Of that draw and the batches.

    Source: Regression Quantiles, 1978, Econometrica 46:33.
    """

    def __init__(
        self,
        lags: int,
        horizon: int,
        levels: Sequence[float] = LEVELS,
        *,
        centre: str = "mean",
        steps: int = 1500,
        ridge: float = 1e-3,
        limit: int = 50_000,
        seed: int = 0,
    ) -> None:
        if lags < 2 or horizon < 1 or list(levels) != sorted(set(levels)):
            raise ValueError(f"lags={lags}, horizon={horizon}, levels={list(levels)}: need ≥ 2, ≥ 1 and ascending ones")
        if centre not in ("mean", "last"):
            raise ValueError(f"centre={centre!r}: 'mean' or 'last' are there")
        self.lags, self.horizon, self.levels, self.centre = lags, horizon, tuple(levels), centre
        self.steps, self.ridge, self.limit, self.seed = steps, ridge, limit, seed

    def fit(self, series: Sequence[np.ndarray]) -> LinearQuantile:
        """Learn from all windows of all series (T_i,); holes are filled on straight lines.

        Raises:
            ValueError: If no series holds a window and its future.
        """
        length = self.lags + self.horizon
        long = [filled(np.asarray(y, dtype=np.float64)) for y in series if len(y) >= length]
        if not long:
            raise ValueError(
                f"no series is as long as {self.lags} lags and {self.horizon} steps ahead: take fewer lags"
            )
        rng = Rng(self.seed)
        views = [np.lib.stride_tricks.sliding_window_view(y, length) for y in long]
        owner = np.repeat(np.arange(len(views)), [len(v) for v in views])
        place = np.concatenate([np.arange(len(v)) for v in views])
        if len(owner) > self.limit:
            chosen = rng.uniform(torch.empty(len(owner))).argsort()[: self.limit].numpy()
            owner, place = owner[chosen], place[chosen]
        rows = np.stack([views[i][j] for i, j in zip(owner, place)])
        middle, scale = self._frame(rows[:, : self.lags])
        kept = scale[:, 0] > 1e-6 * (1e-12 + np.abs(rows).max())  # constant windows teach nothing
        z = torch.as_tensor((rows - middle)[kept] / scale[kept] if kept.any() else rows * 0.0)
        self.weights = self._solve(_with_one(z[:, : self.lags]), z[:, self.lags :].clamp(-20, 20), rng.child("batches"))
        return self

    def quantiles(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Quantiles (Q, N, horizon) of the steps after each series; short ones are continued to the left by their mean.

        Raises:
            RuntimeError: Before ``fit``.
        """
        if not hasattr(self, "weights"):
            raise RuntimeError("LinearQuantile is not fitted: call fit first")
        rows = np.stack([_last(filled(np.asarray(y, dtype=np.float64)), self.lags) for y in histories])
        middle, scale = self._frame(rows)
        x = _with_one(torch.as_tensor((rows - middle) / np.where(scale > 0, scale, 1.0)))
        z = (x @ self.weights).reshape(len(rows), len(self.levels), self.horizon).numpy()
        return np.asarray(np.sort(middle[:, :, None] + scale[:, :, None] * z, axis=1).swapaxes(0, 1))

    def forecast(self, histories: Sequence[np.ndarray], *, num_samples: int = 100, seed: int = 0) -> np.ndarray:
        """Draws (num_samples, N, horizon), each step on its own, from the law that the quantiles are joined to.

        Linear between the levels; beyond the outer ones the outermost slope goes on.
        """
        q = self.quantiles(histories)
        u = np.random.default_rng(seed).uniform(size=(num_samples, *q.shape[1:]))
        levels = np.array(self.levels)
        if len(levels) == 1:
            return np.broadcast_to(q, u.shape).copy()
        k = np.clip(np.searchsorted(levels, u) - 1, 0, len(levels) - 2)
        low, high = (np.take_along_axis(q, i, 0) for i in (k, k + 1))
        return np.asarray(low + (high - low) * (u - levels[k]) / (levels[k + 1] - levels[k]))

    def _frame(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        middle = rows[:, -1:] if self.centre == "last" else rows.mean(1, keepdims=True)
        scale = np.abs(rows - middle).mean(1, keepdims=True)
        return middle, scale

    def _solve(self, x: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """Weights (lags + 1, Q · H)."""
        n, p = x.shape
        gram = x.T @ x / n + self.ridge * torch.eye(p, dtype=x.dtype)
        start = torch.linalg.solve(gram, x.T @ y / n)
        tau = torch.tensor(self.levels, dtype=x.dtype)
        residual = y - x @ start
        some = residual[rng.uniform(torch.empty(n)).argsort()[:20_000]]
        weights = start[:, None].repeat(1, len(tau), 1)
        weights[-1] += some.quantile(tau, dim=0)
        w = weights.reshape(p, -1).float().requires_grad_()
        x, y, level = x.float(), y.float()[:, None], tau.float()[:, None]
        optimiser = torch.optim.Adam([w], lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=max(self.steps, 1), pct_start=0.1)
        for _ in range(self.steps):
            rows = (rng.uniform(torch.empty(min(512, n))) * n).long()
            error = y[rows] - (x[rows] @ w).reshape(len(rows), len(tau), -1)
            loss = torch.maximum(level * error, (level - 1) * error).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        return w.detach().double()


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def _last(y: np.ndarray, count: int) -> np.ndarray:
    return y[-count:] if len(y) >= count else np.concatenate([np.full(count - len(y), y.mean()), y])
