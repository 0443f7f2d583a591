"""Forecasts of systems on a grid by dynamics-informed diffusion: fit to trajectories, forecast ensembles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Model, X0Prediction
from polydiff.core.generator import Generator
from polydiff.core.sampling import trajectory
from polydiff.core.sampling.cold import Cold
from polydiff.core.training import Batches, History
from polydiff.core.training.standard import adamw, train
from polydiff.timeseries.dynamics_networks import EndForecaster, FieldNet, Interpolator, LocalMix
from polydiff.timeseries.evolution import Evolution, Forecasting, Interpolation, step_times
from polydiff.timeseries.field_codec import FieldCodec
from polydiff.timeseries.spherical import CircularMix, SphericalMix

__all__ = ["DynamicsConfig", "DynamicsForecaster", "field_net"]

_MEMBER = 1 << 32  # slots between two members of an ensemble: a start keeps its noise whatever the number of members


@dataclass(frozen=True)
class DynamicsConfig:
    """Everything about a forecaster of dynamics that is not read off the data.

    Attributes:
        horizon: Steps from one end of the interpolator to the other; longer forecasts are rolled out.
        geometry: Of the sites. ``"ring"`` and ``"line"`` have local convolutions, ``"circle"`` is a ring with spectral
            ones, and ``"sphere"`` has states (latitudes, longitudes[, channels]) at Gauss–Legendre latitudes.
        width: Of the blocks.
        depth: Number of blocks.
        kernel: Sites that a local convolution sees.
        dropout: Of the interpolator, in training and in sampling: where the spread of the ensemble comes from.
        extra: Sampling steps before the first step of the system.
        ahead: Share of the loss one sampling step ahead.
        noise: ``"fresh"`` masks for both degradations of a cold step, or ``"shared"`` ones.
        steps: Training steps of each of the two stages.
        batch_size: Windows a step.
        lr: Peak rate of AdamW.
        weight_decay: Of AdamW.
        warmup: Steps of linear warm-up; then a cosine to zero.
        ema: Decay of the averaged weights.
    """

    horizon: int = 8
    geometry: Literal["ring", "line", "circle", "sphere"] = "ring"
    width: int = 64
    depth: int = 4
    kernel: int = 5
    dropout: float = 0.15
    extra: int = 0
    ahead: float = 0.5
    noise: Literal["fresh", "shared"] = "fresh"
    steps: int = 2000
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 50
    ema: float = 0.995

    def __post_init__(self) -> None:
        step_times(self.horizon, self.extra)
        for name in ("width", "depth", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.geometry not in ("ring", "line", "circle", "sphere"):
            raise ValueError(f"geometry={self.geometry!r}: need 'ring', 'line', 'circle' or 'sphere'")


class DynamicsForecaster(Generator):
    """Ensemble forecasts from a state: DYffusion, with local or spherical convolutions.

    Two networks of one size are trained one after the other: an interpolator between the ends of windows, random by dropout,
    and a forecaster of the last state from any state between. Sampling walks the window step by step, so that a forecast of
    h steps costs h evaluations of the forecaster and about 2 h of the interpolator.

    >>> trajectories = np.random.default_rng(0).standard_normal((4, 9, 8))
    >>> forecaster = DynamicsForecaster(DynamicsConfig(horizon=3, width=8, depth=1, steps=2, batch_size=4))
    >>> forecaster.fit(trajectories, progress=False).forecast(trajectories[:2, -1], 5, num_samples=3).shape
    (2, 3, 5, 8)

    Source: DYffusion: A Dynamics-informed Diffusion Model for Spatiotemporal Forecasting, 2023, arXiv 2306.01984;
    Probabilistic Emulation of a Global Climate Model with Spherical DYffusion, 2024, arXiv 2406.14798.
    """

    modality: ClassVar[str] = "timeseries"
    config_class: ClassVar[type] = DynamicsConfig
    config: DynamicsConfig
    codec: FieldCodec | None = None
    model: Model | None = None

    def __init__(
        self, config: DynamicsConfig | None = None, *, seed: int = 0, device: str | torch.device | None = None
    ) -> None:
        super().__init__(DynamicsConfig() if config is None else config, seed=seed, device=device)

    # -------------------------------------------------------------- fitting

    def fit(self, trajectories: ArrayLike, *, progress: bool | None = None) -> Self:
        """Train both stages.

        Args:
            trajectories: ``(N, T, *space[, C])`` at equal steps of time, with T > horizon; every window counts.
            progress: Show a bar; by default only on a terminal.
        """
        states = torch.as_tensor(np.asarray(trajectories), dtype=torch.float64)
        h, axes = self.config.horizon, 2 if self.config.geometry == "sphere" else 1
        if states.ndim < 3 or states.shape[1] <= h:
            raise ValueError(f"trajectories {tuple(states.shape)}: need (N, T, sites) with more than horizon={h} steps")
        self.codec = FieldCodec.of(states, axes)
        x = self.codec.encode(states)
        windows = x.unfold(1, h + 1, 1).movedim(-1, 2).flatten(0, 1)  # (N (T − h), h + 1, S, C)
        model = self._model_from(self.codec).to(self.device)
        process, network = model.process, model.network
        assert isinstance(process, Evolution) and isinstance(network, nn.Module)
        batches = Batches(windows, batch_size=min(self.config.batch_size, len(windows)), seed=self.seed)

        def run(objective: Interpolation | Forecasting, trained: nn.Module, seed: int) -> History:
            optimiser = adamw(trained, self.config.lr, self.config.weight_decay)
            return train(objective, optimiser, batches, self.config, seed=seed, device=self.device, progress=progress)

        interpolator = process.interpolator.requires_grad_(True)
        self.first_history = run(Interpolation(interpolator), interpolator, Rng(self.seed).child("stage", 1).seed)
        interpolator.requires_grad_(False)
        second = Forecasting(model, self._times(), self.config.ahead)
        self.history = run(second, network, Rng(self.seed).child("stage", 2).seed)
        self.model = model.eval()
        return self

    def _times(self) -> tuple[float, ...]:
        return step_times(self.config.horizon, self.config.extra)

    # -------------------------------------------------------------- forecasting

    def forecast(
        self, x0: ArrayLike, horizon: int, num_samples: int = 1, *, seed: int = 0, batch_size: int = 1024
    ) -> NDArray[np.float64]:
        """An ensemble of futures ``(N, num_samples, horizon, *space[, C])``, rolled out where it is longer than a window.

        Member k of start i depends on (seed, i, k) alone.

        Args:
            x0: States now, ``(N, *space[, C])``.
            horizon: Steps to forecast.
            num_samples: Members for each start.
            seed: Of the ensemble.
            batch_size: Members computed at once.
        """
        codec, model = self._fitted()
        assert isinstance(model, Model)
        for name, value in (("horizon", horizon), ("num_samples", num_samples), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        first = codec.encode(x0)
        if first.ndim != 3:
            raise ValueError(f"x0 of shape {np.shape(x0)}: need (N, {', '.join(map(str, codec.shape))})")
        n = len(first)
        slots = [i + k * _MEMBER for i in range(n) for k in range(num_samples)]
        out = []
        with torch.no_grad():
            for start in range(0, len(slots), batch_size):
                rows = slots[start : start + batch_size]
                begin = first[[slot % _MEMBER for slot in rows]].to(self.device)
                steps = list(islice(self._roll(model, begin, Rng(seed, rows)), horizon))
                out.append(codec.decode(torch.stack(steps, 1).cpu()))
        return torch.cat(out).unflatten(0, (n, num_samples)).numpy()

    def _roll(self, model: Model, x: Tensor, rng: Rng) -> Iterator[Tensor]:
        """States at every step of the system, without end."""
        times, skipped = self._times(), self.config.extra
        while True:
            for place, tr in enumerate(
                trajectory(model, x, times, Cold(self.config.noise), Context(x1=x), rng=rng), -skipped
            ):
                assert isinstance(tr.x_s, Tensor)
                end = tr.x_s
                if place >= 0:
                    yield end
            x = end

    # -------------------------------------------------------------- for Generator

    @classmethod
    def _codec_from(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FieldCodec:
        return FieldCodec(tuple(config["shape"]), config["axes"], tensors["mean"], tensors["std"])

    def _model_from(self, codec: Any) -> Model:
        channels = len(codec.mean)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(Rng(self.seed).child("weights").seed)
            interpolator = Interpolator(field_net(self.config, codec, 2 * channels, channels, self.config.dropout))
            network = EndForecaster(field_net(self.config, codec, 2 * channels, channels))
        return Model(network, Evolution(interpolator), X0Prediction())


def field_net(config: DynamicsConfig, codec: FieldCodec, inputs: int, outputs: int, dropout: float = 0.0) -> FieldNet:
    """The network that a configuration names, for states of a codec."""

    def mixer() -> nn.Module:
        match config.geometry:
            case "sphere":
                return SphericalMix(config.width, (codec.shape[0], codec.shape[1]))
            case "circle":
                return CircularMix(config.width, codec.shape[0])
            case _:
                return LocalMix(config.width, config.kernel, ring=config.geometry == "ring")

    return FieldNet(inputs, outputs, [mixer() for _ in range(config.depth)], width=config.width, dropout=dropout)
