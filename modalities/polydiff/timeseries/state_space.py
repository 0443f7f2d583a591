"""Diagonal state-space layers, run both ways along time by one convolution."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from polydiff.timeseries.networks import ResidualNet

__all__ = ["StateSpace", "StateSpaceNet"]


class StateSpace(nn.Module):
    """``h' = A h + B u, y = Re(C h) + D u`` with diagonal A for each channel, forwards and backwards, sampled every Δ.

    Held inputs make it ``h_l = e^{ΔA} h_{l−1} + (e^{ΔA} − 1)/A · u_l``, hence ``y_l = Σ_j K_j u_{l−j}`` with kernel
    ``K_j = 2 Re Σ_n C_n (e^{Δ A_n} − 1)/A_n · e^{j Δ A_n}`` (B is 1: C has its part), a convolution by FFT. The backward
    pass has a C of its own and begins one step away: ``Σ_{j ≥ 1} K′_j u_{l+j}``.

    Args:
        width: Channels, each with A, C, D and Δ of its own.
        states: N, conjugate pairs of states (or real states) a channel and direction.
        init: ``"lin"``: ``A_n = −1/2 + iπn``; ``"real"``: ``A_n = −(n + 1)``.
        least: Smallest Δ at the start; they are spread evenly on a logarithmic scale.
        most: Largest Δ at the start.

    Raises:
        ValueError: For another ``init``, or no state.

    Source: On the Parameterization and Initialization of Diagonal State Space Models, 2022, arXiv 2206.11893.
    """

    def __init__(
        self,
        width: int,
        *,
        states: int = 16,
        init: Literal["lin", "real"] = "lin",
        least: float = 1e-3,
        most: float = 0.1,
    ) -> None:
        super().__init__()
        if init not in ("lin", "real"):
            raise ValueError(f"init={init!r}: need 'lin' or 'real'")
        if states < 1:
            raise ValueError(f"states={states}: need at least 1")
        n = torch.arange(states, dtype=torch.get_default_dtype())
        real, imag = (torch.full_like(n, 0.5), math.pi * n) if init == "lin" else (n + 1, torch.zeros_like(n))
        self.log_decay = nn.Parameter(real.log().expand(width, states).clone())
        self.angle = nn.Parameter(imag.expand(width, states).clone())
        self.log_step = nn.Parameter(torch.linspace(math.log(least), math.log(most), width))
        self.mix = nn.Parameter(torch.randn(2, width, states, 2) * 0.5**0.5)  # C: direction, channel, state, (Re, Im)
        self.through = nn.Parameter(torch.randn(width))

    def kernel(self, length: int) -> Tensor:
        """``(2, width, length)``: forwards and backwards."""
        rate = torch.complex(-self.log_decay.exp(), self.angle)
        turn = rate * self.log_step.exp()[:, None]
        powers = (turn[..., None] * torch.arange(length, device=turn.device)).exp()
        held = torch.view_as_complex(self.mix) * (torch.expm1(turn) / rate)
        return 2 * torch.einsum("swn,wnl->swl", held, powers).real

    def forward(self, u: Tensor) -> Tensor:
        """``(B, L, width)`` to the same; the FFT in the type of the parameters, as it knows no half precision."""
        x, length = u.to(self.through.dtype), u.shape[1]
        ahead, back = self.kernel(length)
        # both in one circular kernel of 2 L: index 2 L − j looks j steps ahead, and L is never read
        ring = torch.cat([ahead, torch.zeros_like(back[:, :1]), back[:, 1:].flip(1)], 1)
        spectrum = torch.fft.rfft(x, n=2 * length, dim=1) * torch.fft.rfft(ring, dim=1).T
        y = torch.fft.irfft(spectrum, n=2 * length, dim=1)[:, :length] + self.through * x
        return y.to(u.dtype)


class _Mix(nn.Module):
    def __init__(self, width: int, states: int, init: Literal["lin", "real"]) -> None:
        super().__init__()
        self.time = StateSpace(width, states=states, init=init)
        self.channels = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, width)`` to ``(B, L, 2 width)``."""
        return self.channels(gelu(self.time(x)))


class StateSpaceNet(ResidualNet):
    """Residual layers of diagonal state spaces along time and linear maps across channels, of any length: TSDiff's network.

    Args:
        channels: D.
        width: Of the layers.
        depth: Number of layers.
        states: Of each channel and direction, see ``StateSpace``.
        init: See ``StateSpace``.
        dropout: In the layers.
        features: See ``Inputs``.
        static: See ``Inputs``.
        classes: See ``Inputs``.
        irregular: See ``Inputs``.

    Source: Predict, Refine, Synthesize: Self-Guiding Diffusion Models for Probabilistic Time Series Forecasting, 2023, arXiv
    2307.11494; layers as in On the Parameterization and Initialization of Diagonal State Space Models, 2022, arXiv 2206.11893.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 64,
        depth: int = 4,
        states: int = 16,
        init: Literal["lin", "real"] = "lin",
        dropout: float = 0.0,
        features: int = 0,
        static: int = 0,
        classes: int = 0,
        irregular: bool = False,
    ) -> None:
        super().__init__(
            channels,
            lambda width, i: _Mix(width, states, init),
            width=width,
            depth=depth,
            dropout=dropout,
            features=features,
            static=static,
            classes=classes,
            irregular=irregular,
        )
