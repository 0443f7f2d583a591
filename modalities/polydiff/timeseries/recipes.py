"""Named, complete configurations as plain functions; any field can be changed with ``dataclasses.replace``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polydiff.core.device import Precision

__all__ = ["SeriesConfig", "forecasting", "imputing", "mixed", "synthesis", "unconditional"]

NetworkName = Literal["mlp", "conv", "ssm", "transformer"]


@dataclass(frozen=True)
class SeriesConfig:
    """Everything about a generator of series that is not read off the data.

    Attributes:
        context: Steps that a forecast sees; 0: chosen by the data.
        horizon: Steps that it predicts; 0: chosen by the data. A window has ``context + horizon`` steps.
        network: ``"mlp"`` (the whole window as one vector: quickest for short windows), ``"conv"`` (dilated convolutions),
            ``"ssm"`` (diagonal state spaces) or ``"transformer"`` (trend, season and residual; reads irregular stamps).
        width: Of the network.
        depth: Of the network.
        heads: Of the transformer's attention.
        dropout: Inside the network.
        scaling: ``"context"``: every window by the mean and standard deviation of what is told of it, so that one model serves
            series of any level; ``"last"``: by its last value and its increments, for series that wander; ``"auto"``: one of
            these, by the data; ``"global"``: channels by their mean and standard deviation over everything.
        base: ``"linear"``: the network learns what a Gaussian model of windows cannot foresee (see ``Innovations``);
            ``"none"``; ``"auto"``: linear for windows of at most 256 entries, where the model is told something.
        process: ``"gaussian"`` (cosine schedule, v-prediction) or ``"flow"`` (straight lines).
        forecast: Share of training windows that are told all but their end.
        points: Share that is told entries here and there.
        blocks: Share that is told all but one run of steps.
        nothing: Share that is told nothing. With this share alone the model is unconditional, and forecasts by guidance.
        dates: Use the calendar where stamps are dates.
        fourier: Weight of the error of the spectrum beside that of the values.
        steps: Training steps.
        batch_size: Windows a step.
        lr: Peak rate of AdamW.
        weight_decay: Of AdamW.
        warmup: Steps of linear warm-up; then a cosine to zero.
        ema: Decay of the averaged weights, which are the ones that are used and saved.
        precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the hardware multiplies it.
        sample_steps: Sampling steps, unless asked otherwise.
        guidance: Strength of self-guidance of a model that is told nothing.
    """

    context: int = 0
    horizon: int = 0
    network: NetworkName = "mlp"
    width: int = 192
    depth: int = 3
    heads: int = 4
    dropout: float = 0.0
    scaling: Literal["auto", "context", "last", "global"] = "auto"
    base: Literal["auto", "linear", "none"] = "auto"
    process: Literal["gaussian", "flow"] = "gaussian"
    forecast: float = 0.5
    points: float = 0.15
    blocks: float = 0.15
    nothing: float = 0.2
    dates: bool = True
    fourier: float = 0.0
    steps: int = 2000
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 100
    ema: float = 0.999
    precision: Precision = "auto"
    sample_steps: int = 32
    guidance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "steps", "batch_size", "sample_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("context", "horizon"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: need a number of steps, or 0 to choose it by the data")

    @property
    def told(self) -> bool:
        """Whether the model is told given entries."""
        return self.forecast + self.points + self.blocks > 0


def mixed(context: int = 0, horizon: int = 0) -> SeriesConfig:
    """One model that forecasts, fills holes and generates."""
    return SeriesConfig(context=context, horizon=horizon)


def forecasting(context: int, horizon: int) -> SeriesConfig:
    """Forecasts and nothing else: the best use of a small budget."""
    return SeriesConfig(context=context, horizon=horizon, forecast=1.0, points=0.0, blocks=0.0, nothing=0.0)


def imputing(length: int) -> SeriesConfig:
    """Holes anywhere in windows of a length, in the units of the whole series."""
    return SeriesConfig(
        context=length // 2,
        horizon=length - length // 2,
        scaling="global",
        forecast=0.1,
        points=0.45,
        blocks=0.45,
        nothing=0.0,
    )


def synthesis(length: int) -> SeriesConfig:
    """Windows of a length from nothing, in the units of the whole series."""
    return SeriesConfig(
        context=length // 2,
        horizon=length - length // 2,
        scaling="global",
        process="flow",
        steps=3000,
        forecast=0.0,
        points=0.0,
        blocks=0.0,
        nothing=1.0,
        dates=False,
    )


def unconditional(context: int, horizon: int) -> SeriesConfig:
    """A model that is told nothing and forecasts by guidance with its own likelihood (TSDiff)."""
    return SeriesConfig(
        context=context, horizon=horizon, base="linear", forecast=0.0, points=0.0, blocks=0.0, nothing=1.0
    )
