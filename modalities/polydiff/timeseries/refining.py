"""Refinement: a fitted model improves the forecasts of another one, whatever made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng, Time
from polydiff.core.denoisers import Denoiser, Wrapper
from polydiff.core.distributions import Distribution, Normal
from polydiff.core.guidance import Observed
from polydiff.core.guidance.observed import Misfit, quantile_levels
from polydiff.core.inverse import refine as descend
from polydiff.core.sampling import Ancestral, sample
from polydiff.core.schedules import uniform_times
from polydiff.timeseries.drawing import Asked
from polydiff.timeseries.forecast import Forecast
from polydiff.timeseries.foreign import draws_of
from polydiff.timeseries.reading import extended
from polydiff.timeseries.series import Collection

if TYPE_CHECKING:
    from polydiff.timeseries.generator import TimeSeriesGenerator

__all__ = ["Descent", "Refinement", "Renoising", "refine"]


class Refinement(Protocol):
    """How windows of another forecaster become better ones."""

    def __call__(self, denoiser: Denoiser, base: Tensor, ctx: Context, rng: Rng) -> Tensor:
        """Windows ``(B, L, D)`` from windows ``base``, in the space of the denoiser."""
        ...


@dataclass(frozen=True)
class Renoising:
    """Noise of time t*, then the reverse SDE from there: ``x_{t*} = a y + g z``, ``x_0 ~ p(x_0 | x_{t*}, context)``.

    What the noise drowns is drawn anew by the model, what it leaves is kept of the base: near 0 the base itself, at 1 the
    model's own forecast.

    Args:
        time: t* in (0, 1].
        steps: Of the reverse process, an evaluation of the network each.

    Source: SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations, 2021, arXiv 2108.01073.
    """

    time: float = 0.6
    steps: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.time <= 1 or self.steps < 1:
            raise ValueError(f"time={self.time}, steps={self.steps}: need a time in (0, 1] and at least 1 step")

    def __call__(self, denoiser: Denoiser, base: Tensor, ctx: Context, rng: Rng) -> Tensor:
        """See ``Refinement``."""
        times = [self.time * t for t in uniform_times(self.steps)]
        start = denoiser.process.marginal(base, times[0], ctx).sample(rng)
        out = sample(denoiser, start, times, Ancestral(eta=1.0), ctx, rng=rng)
        assert isinstance(out, Tensor)
        return out


@dataclass(frozen=True)
class Descent:
    """Descent (or, with a temperature, Langevin dynamics) on the energy of ``core.inverse.refine``, from the base.

    Args:
        steps: Of the descent.
        step_size: Of each.
        strength: How much the base counts beside the model.
        times: Representative levels at which the model judges.
        loss: ``"quantile"`` pulls draw k of S towards the level ``k / (S + 1)`` of the base: spread for point forecasts.
        temperature: 0 for the minimum.

    Source: Predict, Refine, Synthesize, 2023, arXiv 2307.11494, section 3.2.
    """

    steps: int = 20
    step_size: float = 0.1
    strength: float = 1.0
    times: tuple[float, ...] = (0.2,)
    loss: Misfit = "gaussian"
    temperature: float = 0.0

    def __call__(self, denoiser: Denoiser, base: Tensor, ctx: Context, rng: Rng) -> Tensor:
        """See ``Refinement``."""
        return descend(
            denoiser.denoiser if isinstance(denoiser, Observed) else _Held(denoiser),
            base,
            ctx,
            rng=rng,
            steps=self.steps,
            step_size=self.step_size,
            strength=self.strength,
            times=self.times,
            loss=self.loss,
            temperature=self.temperature,
        )


def refine(
    generator: TimeSeriesGenerator,
    forecast: Any,
    context: Any,
    *,
    by: Refinement = Renoising(),
    num_samples: int | None = None,
    future: Any = None,
    seed: int = 0,
    batch_size: int = 4096,
    progress: bool | None = None,
) -> Forecast:
    """A forecast of another model, improved by this one.

    The base is taken to the space of the model (units of its windows, surprises of its linear model), refined there given the
    context, and brought back. A model that is told nothing goes by guidance, as its forecasts do. Horizons beyond that of the
    model are refined a block at a time, each sample behind itself.

    Args:
        generator: Fitted.
        forecast: Of the series of ``context``, in their order: a ``Forecast``, a list of forecasts with ``.samples``
            ``(S, H)`` or ``(S, H, D)`` (GluonTS), an array ``(N, H)`` of points, ``(N, S, H)`` or ``(N, S, H, D)`` of draws, or
            a long frame of points.
        context: Series as for ``forecast``, up to the first step of the forecast.
        by: ``Renoising(time, steps)`` or ``Descent(...)``.
        num_samples: Of each series; as many as the base has, 100 of points; draws of the base are repeated in turn.
        future: As for ``forecast``.
        seed: Draw k of series i depends on seed, i and k alone.
        batch_size: Windows at a time.
        progress: Show a bar; by default only on a terminal.

    Raises:
        ValueError: For other series, channels or values that are missing in the base.
    """
    codec, _ = generator._fitted()
    found = generator._collected(context)
    base = draws_of(forecast, [s.name for s in found.series], codec.channels)
    count = num_samples or (100 if base.shape[1] == 1 else base.shape[1])
    if count < 1:
        raise ValueError(f"num_samples={num_samples}: need an integer of at least 1")
    base = base[:, np.arange(count) % base.shape[1]]
    values = (torch.as_tensor(base) - codec.moments["mean"]) / codec.moments["std"]
    made = _blocks(
        generator,
        found,
        values.flatten(0, 1),
        generator._future(future),
        by,
        {"seed": seed, "batch_size": batch_size, "progress": progress},
    )
    stamps = tuple(codec.grid.after(s.stamps[-1], base.shape[2]) for s in found.series)
    names = tuple(s.name for s in found.series)
    return Forecast(names, codec.channels, stamps, codec.decode(made.unflatten(0, (len(names), count))), found.form)


def _blocks(
    generator: TimeSeriesGenerator,
    found: Collection,
    base: Tensor,
    future: Collection | None,
    by: Refinement,
    run: dict[str, Any],
) -> Tensor:
    """Refined steps ``(N · S, H, D)`` from those of the base, in the units of the codec."""
    codec, model = generator._fitted()
    horizon, length, stride = base.shape[1], generator.length, generator.config.horizon
    windows = generator._windows(codec.store(extended(found, horizon, future)))
    last = torch.tensor([len(s) for s in found.series])
    repeats = len(base) // len(last)
    rows, made = torch.arange(len(last)).repeat_interleave(repeats), base[:, :0]
    while made.shape[1] < horizon:
        done = made.shape[1]
        size = min(stride, horizon - done)
        x, valid, cond = windows.cut(rows, last[rows] + done + size - length)
        behind = (torch.arange(length) >= length - size)[None, :, None].expand_as(valid)
        back = min(done, length - size)
        x, valid = x.clone(), valid.clone()
        if back:
            x[:, length - size - back : length - size] = made[:, -back:]
            valid[:, length - size - back : length - size] = True
        known = valid & ~behind
        asked = Asked(torch.where(known, x, 0.0), known, behind, cond)
        z, loc, scale = generator._units(asked)
        z[:, -size:] = ((base[:, done : done + size] - loc) / scale).float()
        if codec.base is not None:
            told = known & model.sees_known  # an untold model sees the surprises of its context too
            z = codec.base.encode(z, told, (known | behind) & ~told)
        sampler = _Refined(by, z, quantile_levels(repeats, len(last)))
        new = generator._draw(asked, sampler=sampler, **{**run, "seed": run["seed"] + 1_000_003 * done})
        made = torch.cat([made, new[:, 0, -size:]], 1)
    return made


@dataclass(frozen=True)
class _Refined:
    """A refinement as a sampler: slot i of the noise starts from row i of the base."""

    by: Refinement
    base: Tensor
    levels: Tensor

    def __call__(self, denoiser: Denoiser, like: Data, ctx: Context, rng: Rng) -> Data:
        assert isinstance(like, Tensor)
        side = {**ctx.side, "quantile": self.levels[rng.slots].to(like)}
        return self.by(denoiser, self.base[rng.slots].to(like), ctx.replace(side=side), rng)


class _Held(Wrapper):
    """A denoiser that is told: it sees known entries clean and says of them what is given."""

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The law with known entries held."""
        if ctx.known is None:
            return self.denoiser(x_t, t, ctx)
        mean = self.denoiser(ctx.hold(x_t), t, ctx).mean
        held = ctx.hold(mean)
        assert isinstance(held, Tensor)
        return Normal(held)
