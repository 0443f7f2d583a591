"""The parts of FALDA: a point model of modes, trend and season, a denoiser of what they leave, and what both minimise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, pad, silu

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Model
from polydiff.core.networks import MLP, FourierEmbedding
from polydiff.core.training import Batch, Denoising, Loss, Objective
from polydiff.core.training.weights import VWeight

__all__ = ["DEMA", "FaldaNet", "Point", "PointModel", "ResidualDiffusion", "moving_average", "strongest_modes"]

_COND = 64


def strongest_modes(x: Tensor, top: int) -> Tensor:
    """The ``top`` Fourier modes of largest amplitude in each channel of windows ``(B, L, D)``, the mean being one of them."""
    spectrum = torch.fft.rfft(x, dim=1)
    size = spectrum.abs()
    if top < size.shape[1]:
        spectrum = torch.where(size >= size.topk(top, 1).values[:, -1:], spectrum, 0.0)
    return torch.fft.irfft(spectrum, x.shape[1], 1)


def moving_average(x: Tensor, kernel: int) -> Tensor:
    """Centred means of ``kernel`` steps, an odd number, of windows ``(B, L, D)``; the ends are repeated beyond them."""
    half = kernel // 2
    return avg_pool1d(pad(x.mT, (half, half), mode="replicate"), kernel, 1).mT


class Point(NamedTuple):
    """What a point model says.

    Attributes:
        mean: ``(B, H, D)``.
        modes: The part of it that goes on from the strongest modes.
        noise: ``(B, C, D)``: of the context what neither modes nor trend explain.
    """

    mean: Tensor
    modes: Tensor
    noise: Tensor


class PointModel(nn.Module):
    """``m = net(modes_K(x)) + A trend(x′) + B (x′ − trend(x′))`` with ``x′ = x − modes_K(x)``, each channel by itself.

    Args:
        context: C.
        horizon: H.
        top: K.
        kernel: Of the trend.
        hidden: Width of the net.

    Source: Effective Probabilistic Time Series Forecasting with Fourier Adaptive Noise-Separated Diffusion, 2025, arXiv
    2505.11306; Are Transformers Effective for Time Series Forecasting?, 2022, arXiv 2205.13504 (DLinear); Frequency Adaptive
    Normalization For Non-stationary Time Series Forecasting, 2024, arXiv 2409.20371 (the modes).
    """

    def __init__(self, context: int, horizon: int, top: int, kernel: int, hidden: int) -> None:
        super().__init__()
        self.top, self.kernel = top, kernel
        self.net = nn.Sequential(nn.Linear(context, hidden), nn.SiLU(), nn.Linear(hidden, horizon))
        self.trend, self.season = nn.Linear(context, horizon), nn.Linear(context, horizon)

    def forward(self, history: Tensor) -> Point:
        """Contexts ``(B, C, D)``."""
        modes = strongest_modes(history, self.top)
        rest = history - modes
        trend = moving_average(rest, self.kernel)
        noise = rest - trend
        ahead = self.net(modes.mT).mT
        return Point(ahead + self.trend(trend.mT).mT + self.season(noise.mT).mT, ahead, noise)


class DEMA(nn.Module):
    """Trend and rest of a noisy residual, each through a perceptron that adaLN modulates by the noise level; their sum.

    Both read the noise of the context, split in the same way.

    Args:
        context: C.
        horizon: H.
        channels: D.
        kernel: Of the moving average.
        width: Of each perceptron.
        depth: Of each.
        dropout: In each.

    Source: Effective Probabilistic Time Series Forecasting with Fourier Adaptive Noise-Separated Diffusion, 2025, arXiv
    2505.11306.
    """

    def __init__(
        self, context: int, horizon: int, channels: int, *, kernel: int, width: int, depth: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.level = FourierEmbedding(_COND)
        inputs, outputs = (context + horizon) * channels, horizon * channels
        self.slow, self.fast = (
            MLP(inputs, outputs, width=width, depth=depth, cond=_COND, dropout=dropout) for _ in range(2)
        )

    def forward(self, x: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """A residual ``(B, H, D)`` at level ``(B,)``, behind noise ``(B, C, D)``."""
        c = silu(self.level(level))
        slow = [moving_average(part, self.kernel) for part in (noise, x)]
        fast = [noise - slow[0], x - slow[1]]
        out: Tensor = self.slow(torch.cat(slow, 1).flatten(1), c) + self.fast(torch.cat(fast, 1).flatten(1), c)
        return out.view_as(x)


class FaldaNet(nn.Module):
    """A point model, the spread of what it leaves at each lead, and the denoiser of that: ``network(x, level, ctx)``.

    Args:
        context: C.
        horizon: H.
        channels: D.
        modes: K.
        kernel: Of the moving averages.
        hidden: Of the net of the modes.
        width: Of the denoiser.
        depth: Of the denoiser.
        dropout: In the denoiser.
    """

    power: Tensor
    seen: Tensor

    def __init__(
        self,
        context: int,
        horizon: int,
        channels: int,
        *,
        modes: int,
        kernel: int,
        hidden: int,
        width: int,
        depth: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.point = PointModel(context, horizon, modes, kernel, hidden)
        self.denoise = DEMA(context, horizon, channels, kernel=kernel, width=width, depth=depth, dropout=dropout)
        self.register_buffer("power", torch.ones(horizon, channels))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @property
    def spread(self) -> Tensor:
        """Root mean square of the residual at each lead, ``(H, D)``."""
        return self.power.sqrt().clamp_min(1e-6)

    @torch.no_grad()
    def observe(self, gap: Tensor) -> None:
        """A running mean of the squares of residuals ``(B, H, D)``, over about the last hundred batches."""
        if self.training:
            self.seen += 1
            self.power.lerp_((gap**2).mean(0), max(0.01, 1 / int(self.seen)))

    def forward(self, x: Tensor, level: Tensor, ctx: Context) -> Tensor:
        """``(B, H, D)``; the condition is ``cond["noise"]``, the noise of the context."""
        return self.denoise(x, level, ctx.cond["noise"])


class ResidualDiffusion(Objective):
    """``|y − m|² + |m_modes − modes_K(y)|²`` and the denoising loss of ``r = (y − m) / s``, s the spread of each lead.

    The residual is taken as it is: no gradient of the denoising loss reaches the point model. So the two parts of one step have
    the gradients of alternate training, of the same batch; only the clipping of their common norm tells them apart.

    Args:
        model: Its network is a ``FaldaNet``. A batch holds futures ``(B, H, D)`` and ``cond["history"]`` ``(B, C, D)``.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        assert isinstance(model.network, FaldaNet)
        self.net, self.denoising = model.network, Denoising(model, weight=VWeight())

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """See ``Objective``."""
        y, net = batch.x0, self.net
        assert isinstance(y, Tensor)
        found = net.point(batch.ctx.cond["history"])
        gap = y - found.mean
        net.observe(gap.detach())
        about = Context(cond={"noise": found.noise.detach()})
        diffusion = self.denoising(Batch(gap.detach() / net.spread, about), rng)
        errors = {"point": gap**2, "modes": (found.modes - strongest_modes(y, net.point.top)) ** 2}
        point = Loss.masked(errors, None, {})
        return Loss({**point.terms, **diffusion.terms})
