"""Forecasts by a point model and a diffusion of what it leaves: FALDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Model, VPrediction
from polydiff.core.generator import Generator
from polydiff.core.processes import Gaussian
from polydiff.core.sampling import Chain, DPMSolverPP, Sampler
from polydiff.core.schedules import Cosine, uniform_times
from polydiff.core.training import Batches
from polydiff.core.training.standard import adamw, train
from polydiff.timeseries.falda_networks import FaldaNet, ResidualDiffusion

__all__ = ["Falda", "FaldaConfig"]

_DRAW = 1 << 32  # slots between two draws of a series: it keeps its noise whatever the number of draws


@dataclass(frozen=True)
class FaldaConfig:
    """Everything about a forecaster of residuals that is not read off the data.

    Attributes:
        context: Steps that a forecast sees.
        horizon: Steps that it predicts.
        modes: K, the Fourier modes of a context that count as non-stationary.
        kernel: Steps of the moving averages that split trend from season, an odd number.
        hidden: Width of the small net of the modes.
        width: Of the two halves of the denoiser.
        depth: Of each.
        dropout: In the denoiser.
        steps: Training steps.
        batch_size: Windows a step.
        lr: Peak rate of AdamW.
        weight_decay: Of AdamW.
        warmup: Steps of linear warm-up; then a cosine to zero.
        ema: Decay of the averaged weights.
        sample_steps: Sampling steps, unless asked otherwise.
    """

    context: int = 48
    horizon: int = 24
    modes: int = 4
    kernel: int = 9
    hidden: int = 64
    width: int = 96
    depth: int = 2
    dropout: float = 0.0
    steps: int = 3000
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 100
    ema: float = 0.995
    sample_steps: int = 32

    def __post_init__(self) -> None:
        for name in ("horizon", "modes", "hidden", "width", "depth", "steps", "batch_size", "sample_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.context < 2:
            raise ValueError(f"context={self.context}: a forecast needs at least 2 steps to go on")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: must be odd, so that an average looks as far back as ahead")


class _Values:
    """Series ``(..., T)`` or ``(..., T, D)`` as tensors ``(..., T, D)`` and back."""

    def __init__(self, channels: int, plain: bool) -> None:
        self.channels, self.plain = channels, plain

    def encode(self, natural: Any) -> Tensor:
        x = torch.as_tensor(np.asarray(natural, dtype=np.float64))
        x = x[..., None] if self.plain else x
        if x.ndim < 2 or x.shape[-1] != self.channels:
            raise ValueError(f"series of shape {np.shape(natural)}: this model knows {self.channels} channel(s)")
        if not bool(x.isfinite().all()):
            raise ValueError("the series hold values that are not finite: fill them first, or use TimeSeriesGenerator")
        return x

    def decode(self, data: Any) -> NDArray[np.float64]:
        x: NDArray[np.float64] = data.double().numpy()
        return x[..., 0] if self.plain else x

    def config(self) -> Mapping[str, Any]:
        return {"channels": self.channels, "plain": self.plain}

    def tensors(self) -> Mapping[str, Tensor]:
        return {}


class Falda(Generator):
    """``y = m(x) + s r``: a point model of trend and season, and a diffusion model of the noise that it leaves.

    m has two parts: a small net foretells the K strongest Fourier modes of the future from those of the context, and linear
    maps of trend and season (DLinear) what the rest of the context says. Diffusion sees the residual r alone, in units of its
    spread s at each lead, and as condition the noise of the context: what neither modes nor trend explain there. Windows are
    standardised by their context. What is left of the future should be noise, of which little is to be known but much to be
    drawn. ``Innovations`` is the linear relative: there m and a whole covariance come in closed form.

    >>> waves = [np.sin(np.arange(60) / 3 + k) for k in range(4)]
    >>> falda = Falda(FaldaConfig(context=12, horizon=4, kernel=3, width=8, steps=2, batch_size=8))
    >>> falda.fit(waves, progress=False).forecast(np.stack(waves), num_samples=3).shape
    (4, 3, 4)

    Source: Effective Probabilistic Time Series Forecasting with Fourier Adaptive Noise-Separated Diffusion, 2025, arXiv
    2505.11306.
    """

    modality: ClassVar[str] = "timeseries"
    config_class: ClassVar[type] = FaldaConfig
    config: FaldaConfig
    codec: _Values | None = None
    model: Model | None = None

    def __init__(
        self, config: FaldaConfig | None = None, *, seed: int = 0, device: str | torch.device | None = None
    ) -> None:
        super().__init__(FaldaConfig() if config is None else config, seed=seed, device=device)

    def fit(self, series: Sequence[ArrayLike], *, progress: bool | None = None) -> Self:
        """Learn from every window of every series.

        Args:
            series: Arrays ``(T,)`` or ``(T, D)`` of any lengths, at equal steps and without holes.
            progress: Show a bar; by default only on a terminal.

        Raises:
            ValueError: For values that are not finite, series of unlike shapes, and no window of ``context + horizon`` steps.
        """
        c, arrays = self.config, [np.asarray(s, dtype=np.float64) for s in series]
        if not arrays or any(a.ndim not in (1, 2) or a.shape[1:] != arrays[0].shape[1:] for a in arrays):
            raise ValueError("series: need arrays (T,), or (T, D) with the same D, and at least one")
        self.codec = _Values(arrays[0].shape[1] if arrays[0].ndim == 2 else 1, arrays[0].ndim == 1)
        length = c.context + c.horizon
        values = [self.codec.encode(a) for a in arrays]
        cut = [x.unfold(0, length, 1).mT for x in values if len(x) >= length]
        if not cut:
            raise ValueError(f"no series has the {length} steps of a window: shorten context={c.context} or horizon")
        windows = torch.cat(cut)
        loc, scale = _units(windows[:, : c.context])
        z = ((windows - loc) / scale).float()
        model = self._model_from(self.codec).to(self.device)
        batches = Batches(
            z[:, c.context :],
            cond={"history": z[:, : c.context]},
            batch_size=min(c.batch_size, len(z)),
            seed=self.seed,
        )
        optimiser = adamw(model, c.lr, c.weight_decay)
        self.history = train(
            ResidualDiffusion(model), optimiser, batches, c, seed=self.seed, device=self.device, progress=progress
        )
        self.model = model.eval()
        return self

    def forecast(
        self,
        histories: ArrayLike,
        num_samples: int = 100,
        *,
        steps: int | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        batch_size: int = 4096,
    ) -> NDArray[np.float64]:
        """Draws of the next ``horizon`` steps, ``(N, num_samples, H)`` or ``(N, num_samples, H, D)``.

        Args:
            histories: ``(N, T)`` or ``(N, T, D)`` with T at least the context; the last steps count.
            num_samples: Of each series. Draw k of series i depends on (seed, i, k) alone.
            steps: Sampling steps.
            seed: Of the draws.
            sampler: In place of DPM-Solver++(2M).
            batch_size: Draws at a time.

        Raises:
            ValueError: For histories that are too short, and numbers below 1.
        """
        codec, model = self._fitted()
        c = self.config
        n_steps = c.sample_steps if steps is None else steps
        for name, value in (("num_samples", num_samples), ("steps", n_steps), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        x = codec.encode(histories)
        if x.ndim != 3 or x.shape[1] < c.context:
            raise ValueError(f"histories of shape {np.shape(histories)}: need (N, T) with at least {c.context} steps")
        loc, scale = _units(x[:, -c.context :])
        net = model.network
        assert isinstance(net, FaldaNet)
        run = Chain(uniform_times(n_steps), DPMSolverPP(order=2)) if sampler is None else sampler
        slots = [i + k * _DRAW for i in range(len(x)) for k in range(num_samples)]
        made = []
        with torch.no_grad():
            found = net.point(((x[:, -c.context :] - loc) / scale).float().to(self.device))
            for start in range(0, len(slots), batch_size):
                rows = slots[start : start + batch_size]
                at = torch.tensor([slot % _DRAW for slot in rows], device=self.device)
                r = run(model, found.mean[at], Context(cond={"noise": found.noise[at]}), Rng(seed, rows))
                assert isinstance(r, Tensor)
                made.append((found.mean[at] + net.spread * r).cpu().double())
        y = torch.cat(made).unflatten(0, (len(x), num_samples))
        return codec.decode(y * scale[:, None] + loc[:, None])

    # -------------------------------------------------------------- for Generator

    def _fitted(self) -> tuple[_Values, Model]:
        super()._fitted()
        assert self.codec is not None and self.model is not None
        return self.codec, self.model

    @classmethod
    def _codec_from(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Values:
        return _Values(config["channels"], config["plain"])

    def _model_from(self, codec: _Values) -> Model:
        c = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(Rng(self.seed).child("weights").seed)
            net = FaldaNet(
                c.context, c.horizon, codec.channels, modes=c.modes, kernel=c.kernel, hidden=c.hidden, width=c.width,
                depth=c.depth, dropout=c.dropout,
            )  # fmt: skip
        return Model(net, Gaussian(Cosine()), VPrediction())


def _units(history: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of contexts ``(N, C, D)``, ``(N, 1, D)``; a thousandth of its level for one that stands."""
    mean, std = history.mean(1, keepdim=True), history.std(1, keepdim=True, unbiased=False)
    return mean, torch.maximum(std, 1e-3 * mean.abs()).clamp_min(1e-12)
