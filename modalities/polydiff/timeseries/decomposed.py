"""A transformer whose output is a trend, a season and a residual."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from polydiff.core.data import Context
from polydiff.core.networks import TransformerBlock, zero_init
from polydiff.timeseries.inputs import Inputs

__all__ = ["DecomposedTransformer", "Grid"]

_BASE = 1000.0  # the longest wave of the rotary positions, 2π of these steps


class Grid:
    """Where the steps of windows lie, and the polynomials and waves there.

    Both bases are analysed by sums over present steps alone, so that absent steps are as good as not there. On complete
    regular windows the waves are those of the DFT, ``k = 1 … ⌈L/2⌉ − 1`` cycles in L steps: neither the mean nor the
    alternating one.

    Args:
        at: Stamps ``(B, L)`` in units of the typical step.
        present: Bool ``(B, L)``; other steps' stamps are never read.
        harmonics: Number of waves, F; those of a period of 2 steps or less are left out.

    Attributes:
        place: ``(B, L)``, steps since the first present one.
        trends: ``(B, L, 4)``, Legendre polynomials of degrees 0 to 3 on the window's span.
        waves: ``(B, L, 2 F)``, cosines, then sines.
        present: As given.
    """

    def __init__(self, at: Tensor, present: Tensor, harmonics: int) -> None:
        first = torch.where(present, at, torch.inf).amin(1, keepdim=True)
        self.place = torch.where(present, at - first, 0.0).to(torch.promote_types(torch.float32, first.dtype))
        self.present = present
        span = self.place.amax(1, keepdim=True)
        s = 2 * self.place / span.clamp_min(1e-6) - 1
        legendre = [torch.ones_like(s), s, 1.5 * s**2 - 0.5, 2.5 * s**3 - 1.5 * s]
        self.trends = torch.stack(legendre, -1)
        k = torch.arange(1, harmonics + 1, device=at.device)
        angle = (2 * math.pi / (span + 1))[..., None] * self.place[..., None] * k
        inside = (2 * k < span + 1 - 1e-3)[:, None]
        self.waves = torch.cat([torch.where(inside, angle.cos(), 0.0), torch.where(inside, angle.sin(), 0.0)], -1)
        weight = present.to(s.dtype)[..., None]
        self.share = weight / weight.sum(1, keepdim=True).clamp_min(1)

    def mean(self, v: Tensor) -> Tensor:
        """Mean of ``(B, L, D)`` over present steps, ``(B, 1, D)``."""
        return (self.share.to(v.dtype) * v).sum(1, keepdim=True)

    def trend(self, v: Tensor) -> Tensor:
        """The cubic ``Σ_p (2p + 1) ⟨P_p, v⟩ P_p`` of ``(B, L, D)``, ⟨⟩ the mean over present steps."""
        size = torch.arange(1, 8, 2, dtype=v.dtype, device=v.device)[:, None]
        basis = self.trends.to(v.dtype)
        return basis @ (size * (basis.mT @ (self.share.to(v.dtype) * v)))

    def season(self, v: Tensor, top: int) -> Tensor:
        """The ``top`` waves of largest amplitude in each channel of ``(B, L, D)``."""
        basis = self.waves.to(v.dtype)
        parts = (2 * basis.mT @ (self.share.to(v.dtype) * v)).unflatten(1, (2, -1))
        power = parts.square().sum(1, keepdim=True)
        if top < power.shape[2]:
            parts = torch.where(power >= power.topk(top, 2).values[:, :, -1:], parts, 0.0)
        return basis @ parts.flatten(1, 2)


class DecomposedTransformer(nn.Module):
    """Attention between steps; each block adds a cubic to the trend and a few waves to the season, the rest is a residual.

    ``output = trend + season + residual``. With values ``u, v`` that block i reads off its steps, ``trend += cubic(u)`` and
    ``season += top_K(v)``; the residual is read off the last block, and its mean goes to the trend. Times are continuous: where
    ``cond["at"]`` has stamps, rotary positions, polynomials and waves are taken at those, so shifting all stamps changes
    nothing, and to leave steps out is to mark them invalid.

    Unlike the paper there is no encoder beside the decoder, cubics and waves are analysed on the channels of the data and not
    on hidden ones (so a block's season has at most K waves a channel), and no weight belongs to a place, so that any length and
    any stamps will do.

    Args:
        channels: D.
        width: Of a token.
        depth: Number of blocks.
        heads: Of attention.
        top: K, waves a block and channel.
        harmonics: Waves to choose from: 1 to this many cycles a window.
        decompose: Off, the residual is all there is: a plain transformer.
        dropout: In the blocks.
        features: See ``Inputs``.
        static: See ``Inputs``.
        classes: See ``Inputs``.

    Raises:
        ValueError: For a head of odd size, or nonpositive ``top`` or ``harmonics``.

    Source: Diffusion-TS: Interpretable Diffusion for General Time Series Generation, 2024, arXiv 2403.01742; RoFormer: Enhanced
    Transformer with Rotary Position Embedding, 2021, arXiv 2104.09864.
    """

    omega: Tensor

    def __init__(
        self,
        channels: int,
        *,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        top: int = 3,
        harmonics: int = 32,
        decompose: bool = True,
        dropout: float = 0.0,
        features: int = 0,
        static: int = 0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        if top < 1 or harmonics < 1:
            raise ValueError(f"top={top}, harmonics={harmonics}: a season has at least 1 wave")
        if width % (2 * heads):
            raise ValueError(
                f"width={width} with heads={heads}: rotary positions turn pairs, so a head's size must be even"
            )
        self.top, self.harmonics, self.decompose = top, harmonics, decompose
        self.inputs = Inputs(channels, width, features=features, static=static, classes=classes)
        self.enter = nn.Linear(self.inputs.size, width)
        self.blocks = nn.ModuleList(
            [TransformerBlock(width, heads, cond=width, expand=2, dropout=dropout) for _ in range(depth)]
        )
        self.read = nn.ModuleList(
            [
                nn.Sequential(nn.LayerNorm(width), zero_init(nn.Linear(width, 2 * channels)))
                for _ in range(depth if decompose else 0)
            ]
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(nn.Linear(width, channels)))
        half = width // heads // 2
        self.register_buffer("omega", _BASE ** (-torch.arange(half) / half), persistent=False)

    def forward(self, x: Tensor, level: Tensor, ctx: Context) -> Tensor:
        """``(B, L, D)`` at noise level ``(B,)`` or ``(B, L)`` to ``(B, L, D)``."""
        trend, season, residual = self._parts(x, level, ctx)
        return trend + season + residual

    def parts(self, x: Tensor, level: Tensor, ctx: Context) -> dict[str, Tensor]:
        """``trend``, ``season`` and ``residual`` of the output, each ``(B, L, D)``; parts of x̂_0 for an x_0 prediction."""
        return dict(zip(("trend", "season", "residual"), self._parts(x, level, ctx)))

    def _parts(self, x: Tensor, level: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        read = self.inputs(x, level, ctx)
        grid = self._grid(read.present, ctx)
        angles = grid.place[:, None, :, None] * self.omega
        # a window without any valid step attends to all of it: not every kernel has a softmax over nothing
        heard = read.present | ~read.present.any(1, keepdim=True)
        h = self.enter(read.steps)
        trend = season = torch.zeros_like(x, dtype=grid.place.dtype)
        for i, block in enumerate(self.blocks):
            h = block(h, read.cond, heard, angles=angles)
            if self.decompose:
                u, v = self._values(self.read[i](h), grid).chunk(2, -1)
                with torch.autocast(x.device.type, enabled=False):
                    trend, season = trend + grid.trend(u), season + grid.season(v, self.top)
        rest = self._values(self.leave(h), grid)
        if not self.decompose:
            return trend, season, rest
        mean = grid.mean(rest)
        return trend + mean, season, rest - mean

    @staticmethod
    def _values(v: Tensor, grid: Grid) -> Tensor:
        return v.to(torch.promote_types(torch.float32, v.dtype))

    def _grid(self, present: Tensor, ctx: Context) -> Grid:
        """Where the steps lie: at their stamps, or one unit apart."""
        at, length = ctx.cond.get("at"), present.shape[1]
        dtype = self.omega.dtype
        if isinstance(at, Tensor):
            return Grid(at if at.is_floating_point() else at.to(dtype), present, self.harmonics)
        regular = torch.arange(length, device=present.device, dtype=dtype).expand(len(present), -1)
        return Grid(regular, present, min(self.harmonics, max((length - 1) // 2, 1)))
