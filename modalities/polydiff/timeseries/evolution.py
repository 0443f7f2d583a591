"""Dynamics-informed diffusion: what noise is elsewhere is the way from one state of a system to a later one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng, Time, index, left, match_time
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Dirac, Distribution
from polydiff.core.processes import Process
from polydiff.core.training import Batch, Loss, Objective
from polydiff.timeseries.dynamics_networks import Interpolator

__all__ = ["Between", "Evolution", "Forecasting", "Interpolation", "step_times"]


def step_times(horizon: int, extra: int = 0) -> tuple[float, ...]:
    """The sampling grid, from 1 to 0: ``1 − i / horizon`` at every step i of the system, and ``extra`` times before i = 1.

    Raises:
        ValueError: For a horizon below 2, which has nothing between its ends, or negative ``extra``.
    """
    if horizon < 2 or extra < 0:
        raise ValueError(f"horizon={horizon}, extra={extra}: need a horizon of at least 2 and extra of at least 0")
    before = [1 - j / ((extra + 1) * horizon) for j in range(extra + 1)]
    return (*before, *(1 - i / horizon for i in range(1, horizon)), 0.0)


# ------------------------------------------------------------------ the process


@dataclass(eq=False)
class Between(Distribution):
    """The state at time t between two known ends: a network whose dropout masks are the noise.

    Attributes:
        interpolator: The network.
        first: State at t = 1, ``(B, S, C)``.
        last: State at t = 0.
        t: Times ``(B,)``; at 0 and 1 the law is a point.
    """

    interpolator: Interpolator
    first: Tensor
    last: Tensor
    t: Tensor
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    def noise(self, rng: Rng) -> Tensor:
        """Dropout masks."""
        return self.interpolator.net.dropout.masks(rng, self.last)

    def draw(self, noise: Tensor) -> Tensor:
        """The state under these masks."""
        way, t = self.interpolator(self.first, self.last, self.t, noise), left(self.t, self.last)
        return torch.where(t <= 0, self.last, torch.where(t >= 1, self.first, way))


class Evolution(Process):
    """Forward process ``x_t = I(x_1, x_0, t)``: x_1 the state now (observed), x_0 the state ``horizon`` steps later.

    A learned stochastic interpolator takes the place of noise, so that diffusion steps are time steps of the system: time
    t is step ``(1 − t) · horizon``. Sample with ``Cold("fresh")`` over ``step_times(horizon)``; the states of the trajectory
    are the forecast. The interpolator is frozen here: it is trained first, by ``Interpolation``.

    Args:
        interpolator: ``I(x_1, x_0, t, masks)``.

    Source: DYffusion: A Dynamics-informed Diffusion Model for Spatiotemporal Forecasting, 2023, arXiv 2306.01984.
    """

    observes_source = True

    def __init__(self, interpolator: Interpolator) -> None:
        super().__init__()
        self.interpolator = interpolator.requires_grad_(False)

    def prior(self, like: Data, ctx: Context) -> Distribution:
        """The state now."""
        return Dirac(_first(ctx))

    def marginal(self, x: Data, t: Time, ctx: Context, *, since: Time | None = None) -> Distribution:
        """``Between`` the state now and x.

        Raises:
            ValueError: With ``since``: the path between two times is not modelled.
        """
        assert isinstance(x, Tensor)
        if since is not None:
            raise ValueError(f"since={since}: an interpolator knows the states between two ends, but no forward kernel")
        return Between(self.interpolator, _first(ctx), x, match_time(t, x))

    def transition(
        self, x_t: Data, posterior: Distribution, t: Time, s: Time, ctx: Context, *, eta: float = 1.0
    ) -> Distribution:
        """``q(x_s | x̂_0)``, forgetting x_t: the naive sampler of the paper's ablation; use the step ``Cold`` instead."""
        return self.marginal(posterior.mean, s, ctx)

    def loss(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context) -> Data:
        """``(x̂_0 − x_0)²`` per element."""
        return (posterior.mean - x0) ** 2


def _first(ctx: Context) -> Tensor:
    if not isinstance(ctx.x1, Tensor):
        raise ValueError("a forecast starts at a state: pass it as Context.x1")
    return ctx.x1


# ------------------------------------------------------------------ the two stages of training


class Interpolation(Objective):
    """Stage 1: ``E_i (I(x_first, x_last, i) − x_i)²`` over the steps i between the ends of a window, under dropout.

    Batches are windows ``(B, horizon + 1, S, C)``.

    Args:
        interpolator: The network to train.
    """

    def __init__(self, interpolator: Interpolator) -> None:
        super().__init__()
        self.interpolator = interpolator

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """One step between the ends for each window."""
        x = batch.x0
        assert isinstance(x, Tensor)
        horizon, u = x.shape[1] - 1, rng.uniform(x.new_empty(len(x), dtype=torch.float64))
        i = 1 + (u * (horizon - 1)).long()
        t = (1 - i / horizon).to(x.dtype)
        law = Between(self.interpolator, x[:, 0], x[:, -1], t)
        error = (law.sample(rng) - x[torch.arange(len(x), device=x.device), i]) ** 2
        return Loss.masked(error, None, {})


class Forecasting(Objective):
    """Stage 2: ``(1 − ahead) · |F(x_t, t) − x_0|² + ahead · |F(x_s, s) − x_0|²``, summed over elements.

    ``x_t = I(x_1, x_0, t)`` is seen in training only; ``x_s = I(x_1, F(x_t, t), s)``, at the next time s of the grid, is what
    sampling will see. Gradients pass through the frozen interpolator. Batches are windows ``(B, horizon + 1, S, C)``; with
    ``ahead`` = 0 this is the denoising objective.

    Args:
        model: A denoiser of an ``Evolution``.
        times: The sampling grid, descending from 1 to 0.
        ahead: Share of the second term, in [0, 1].

    Source: DYffusion, 2023, arXiv 2306.01984, and its published code (lambda_reconstruction2).
    """

    def __init__(self, model: Denoiser, times: tuple[float, ...], ahead: float = 0.5) -> None:
        super().__init__()
        if not 0 <= ahead <= 1:
            raise ValueError(f"ahead={ahead}: must be a share in [0, 1]")
        self.model, self.times, self.ahead = model, times, ahead

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """One time for each window, and the one after it."""
        x, process = batch.x0, self.model.process
        assert isinstance(x, Tensor)
        x0, ctx = x[:, -1], batch.ctx.replace(x1=x[:, 0])
        u = rng.uniform(x.new_empty(len(x), dtype=torch.float64))
        place = (u * (len(self.times) - 1)).long()  # never the last time, 0, where nothing is left to forecast
        grid = torch.tensor(self.times, dtype=x.dtype, device=x.device)
        t, s = grid[place], grid[place + 1]
        estimate = self.model(process.marginal(x0, t, ctx).sample(rng), t, ctx).mean
        losses: dict[str, Tensor] = {"loss": (estimate - x0) ** 2}
        if self.ahead > 0:
            rows = s > 0
            there = index(ctx, rows)
            x_s = process.marginal(estimate[rows], s[rows], there).sample(rng)
            losses["ahead"] = (self.model(x_s, s[rows], there).mean - x0[rows]) ** 2
        return Loss.masked(losses, None, {"loss": 1 - self.ahead, "ahead": self.ahead})
