"""Networks of time series that need no attention: a window as one vector, and residual layers along time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from polydiff.core.data import Context
from polydiff.core.networks import MLP, modulate, zero_init
from polydiff.timeseries.inputs import Inputs

__all__ = ["ConvNet", "ResidualNet", "WindowMLP"]

_COND = 64  # of the conditioning vector: every layer is modulated by it, which costs in proportion


class WindowMLP(nn.Module):
    """The whole window as one vector through a residual perceptron: the cheapest network of short windows of one length.

    Shorter windows are those whose first steps are invalid.

    Args:
        length: L, the longest window.
        channels: D.
        width: Of the blocks.
        depth: Number of blocks.
        dropout: Inside the blocks.
        features: See ``Inputs``.
        static: See ``Inputs``.
        classes: See ``Inputs``.
        irregular: See ``Inputs``.

    Raises:
        ValueError: When called on a longer window.
    """

    def __init__(
        self,
        length: int,
        channels: int,
        *,
        width: int = 256,
        depth: int = 3,
        dropout: float = 0.0,
        features: int = 0,
        static: int = 0,
        classes: int = 0,
        irregular: bool = False,
    ) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"length={length}: a window has at least 1 step")
        self.length, self.channels = length, channels
        self.inputs = Inputs(channels, _COND, features=features, static=static, classes=classes, irregular=irregular)
        size = length * (self.inputs.size + 1)
        self.body = MLP(size, length * channels, width=width, depth=depth, cond=_COND, dropout=dropout)

    def forward(self, x: Tensor, level: Tensor, ctx: Context) -> Tensor:
        """``(B, L, D)`` at noise level ``(B,)`` or ``(B, L)`` to ``(B, L, D)``."""
        short = self.length - x.shape[1]
        if short < 0:
            raise ValueError(f"a window of {x.shape[1]} steps: the network was built for at most {self.length}")
        read = self.inputs(x, level, ctx)
        own = torch.where(read.present, read.level, 0.0)[..., None]
        flat = pad(torch.cat([read.steps, own], -1), (0, 0, short, 0)).flatten(1)
        # with a level a step the vector as a whole has their mean; each step's own is among its features
        cond = read.cond if read.cond.ndim == 2 else _mean(read.cond, read.present)
        return self.body(flat, cond).unflatten(1, (self.length, self.channels))[:, short:]


def _mean(x: Tensor, present: Tensor) -> Tensor:
    """Mean of ``(B, L, D)`` over present steps."""
    weight = present.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1)


class ResidualNet(nn.Module):
    """Residual layers along time: ``x ← (x + R z)/√2, skip ← skip + S z`` with ``z = tanh(a) sigmoid(b)``, ``[a, b] = mix(x̃)``.

    ``x̃`` is x normalised, scaled and shifted by the conditioning, and zero at steps without a valid entry: a mix that is linear
    along time then hears nothing of them, and a window is padded at no change.

    Args:
        channels: D.
        mix: Makes the layer that mixes along time, ``mix(width, number of the layer)``, from ``(B, L, width)`` to
            ``(B, L, 2 width)``.
        width: Of the layers.
        depth: Number of layers.
        dropout: On z.
        features: See ``Inputs``.
        static: See ``Inputs``.
        classes: See ``Inputs``.
        irregular: See ``Inputs``.

    Source: DiffWave: A Versatile Diffusion Model for Audio Synthesis, 2020, arXiv 2009.09761.
    """

    def __init__(
        self,
        channels: int,
        mix: Callable[[int, int], nn.Module],
        *,
        width: int,
        depth: int,
        dropout: float = 0.0,
        features: int = 0,
        static: int = 0,
        classes: int = 0,
        irregular: bool = False,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth={depth}: a network has at least 1 layer")
        self.inputs = Inputs(channels, _COND, features=features, static=static, classes=classes, irregular=irregular)
        self.enter = nn.Linear(self.inputs.size, width)
        self.layers = nn.ModuleList([_Layer(mix(width, i), width, dropout) for i in range(depth)])
        self.hidden = nn.Linear(width, width)
        self.leave = zero_init(nn.Linear(width, channels))

    def forward(self, x: Tensor, level: Tensor, ctx: Context) -> Tensor:
        """``(B, L, D)`` at noise level ``(B,)`` or ``(B, L)`` to ``(B, L, D)``."""
        read = self.inputs(x, level, ctx)
        present = read.present[..., None]
        cond = read.cond if read.cond.ndim == 3 else read.cond[:, None]
        h = self.enter(read.steps)
        skips = torch.zeros_like(h)
        for layer in self.layers:
            h, skip = layer(h, cond, present)
            skips = skips + skip
        return self.leave(silu(self.hidden(skips * len(self.layers) ** -0.5)))


class _Layer(nn.Module):
    def __init__(self, mix: nn.Module, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(_COND, 2 * width)
        self.mix = mix
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, cond: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = self.film(cond).chunk(2, -1)
        u = torch.where(present, modulate(self.norm(x), shift, scale), 0.0)
        a, b = self.mix(u).chunk(2, -1)
        more, skip = self.out(self.dropout(a.tanh() * b.sigmoid())).chunk(2, -1)
        return (x + more) * 0.5**0.5, skip


class ConvNet(ResidualNet):
    """Dilated convolutions that look both ways, of any length: DiffWave's and CSDI's kind of network.

    Layer i has dilation ``2^(i mod cycle)``; a cycle reaches ``2^cycle − 1`` steps to either side (kernel 3).

    Args:
        channels: D.
        width: Of the layers.
        depth: Number of layers.
        cycle: Layers until dilations begin anew.
        kernel: Taps of a convolution, an odd number.
        dropout: In the layers.
        features: See ``Inputs``.
        static: See ``Inputs``.
        classes: See ``Inputs``.
        irregular: See ``Inputs``.

    Source: DiffWave: A Versatile Diffusion Model for Audio Synthesis, 2020, arXiv 2009.09761; CSDI: Conditional Score-based
    Diffusion Models for Probabilistic Time Series Imputation, 2021, arXiv 2107.03502.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 64,
        depth: int = 6,
        cycle: int = 4,
        kernel: int = 3,
        dropout: float = 0.0,
        features: int = 0,
        static: int = 0,
        classes: int = 0,
        irregular: bool = False,
    ) -> None:
        if cycle < 1:
            raise ValueError(f"cycle={cycle}: dilations need at least 1 layer to begin anew")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: must be odd, so that it looks as far back as ahead")
        super().__init__(
            channels,
            lambda width, i: _Conv(width, 2 ** (i % cycle), kernel),
            width=width,
            depth=depth,
            dropout=dropout,
            features=features,
            static=static,
            classes=classes,
            irregular=irregular,
        )


class _Conv(nn.Conv1d):
    def __init__(self, width: int, dilation: int, kernel: int) -> None:
        super().__init__(width, 2 * width, kernel, padding=dilation * (kernel // 2), dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, width)`` to ``(B, L, 2 width)``."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)
