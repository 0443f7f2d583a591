"""The two image networks: a U-Net and a diffusion transformer.

Both are called as ``network(x, noise_level, ctx)``: x ``(B, C, H, W)``, noise level ``(B,)``, labels in
``ctx.cond["label"]`` (the number of classes is the null label), given pixels in ``ctx.known``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle, silu

from polydiff.core.data import Context
from polydiff.core.networks import (
    Attention,
    Downsample,
    FourierEmbedding,
    LabelEmbedding,
    ResBlock,
    TransformerBlock,
    Upsample,
    conv,
    grid_positions,
    modulate,
    zero_init,
)

__all__ = ["DiT", "UNet"]


class _Conditioning(nn.Module):
    """Noise level and label to one vector."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.level = FourierEmbedding(width)
        self.label = LabelEmbedding(num_classes, width) if num_classes else None

    def forward(self, level: Tensor, ctx: Context) -> Tensor:
        c = self.level(level)
        if self.label is None:
            return c
        if "label" not in ctx.cond:
            raise ValueError("this network was built for labels: pass them as ctx.cond['label'] (B,)")
        return c + self.label(ctx.cond["label"])


def _with_known(x: Tensor, ctx: Context) -> Tensor:
    """x with a channel that marks the given pixels."""
    if ctx.known is None:
        mark = torch.zeros_like(x[:, :1])
    else:
        assert isinstance(ctx.known, Tensor)
        mark = ctx.known[:, :1].to(x.dtype).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, mark], 1)


class _SelfAttention(nn.Module):
    """Attention between the pixels of a level, as a residual branch that starts as nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.attention = Attention(channels, max(1, channels // 32) if channels % 32 == 0 else 1)
        zero_init(self.attention.out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class _Level(nn.Module):
    """A residual block and, on some levels, attention."""

    def __init__(self, inputs: int, outputs: int, cond: int, dropout: float, attend: bool) -> None:
        super().__init__()
        self.block = ResBlock(inputs, outputs, cond, dropout)
        self.attend = _SelfAttention(outputs) if attend else nn.Identity()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.attend(self.block(x, c))


class UNet(nn.Module):
    """A U-Net of residual blocks with attention on chosen levels; any image size.

    Args:
        channels: Of the image.
        patch: Side of the squares of pixels that are folded into channels first: 2 quarters the cost of large images.
        width: Channels of the finest level.
        multipliers: Channels of each level, in widths.
        blocks: Residual blocks a level on the way down; one skip each on the way up.
        attention: Levels with self-attention; 0 is the finest.
        num_classes: Number of labels; 0 for an unconditional network.
        known_mask: Read ``ctx.known``.
        dropout: In the residual blocks.

    Source: Denoising Diffusion Probabilistic Models, 2020, arXiv 2006.11239; Diffusion Models Beat GANs on Image Synthesis,
    2021, arXiv 2105.05233.
    """

    def __init__(
        self,
        channels: int,
        *,
        patch: int = 1,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (),
        num_classes: int = 0,
        known_mask: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.known_mask, self.patch = known_mask, patch
        cond = 4 * width
        self.condition = _Conditioning(cond, num_classes)
        self.enter = conv(2, (channels + known_mask) * patch**2, width)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        sizes = [m * width for m in multipliers]
        skips, now = [], width
        for i, size in enumerate(sizes):
            if i:
                self.shrink.append(Downsample(now, size))
                now = size
            level = nn.ModuleList()
            for _ in range(blocks):
                level.append(_Level(now, size, cond, dropout, i in attention))
                now = size
                skips.append(now)
            self.down.append(level)
        self.middle = _Level(now, now, cond, dropout, len(sizes) - 1 in attention)
        for i, size in reversed(list(enumerate(sizes))):
            level = nn.ModuleList()
            for _ in range(blocks):
                level.append(_Level(now + skips.pop(), size, cond, dropout, i in attention))
                now = size
            self.up.append(level)
            if i:
                self.grow.append(Upsample(now, sizes[i - 1]))
                now = sizes[i - 1]
        self.norm = nn.GroupNorm(8 if now % 8 == 0 else 1, now)
        self.leave = zero_init(conv(2, now, channels * patch**2))

    def forward(self, x: Tensor, noise_level: Tensor, ctx: Context) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        c = silu(self.condition(noise_level, ctx))
        height, width = x.shape[2:]
        x = _with_known(x, ctx) if self.known_mask else x
        h = self.enter(pixel_unshuffle(pad(x, (0, -width % self.patch, 0, -height % self.patch)), self.patch))
        skips: list[Tensor] = []
        for i, level in enumerate(self.down):
            h = self.shrink[i - 1](h) if i else h
            for block in level:  # type: ignore[attr-defined]
                h = block(h, c)
                skips.append(h)
        h = self.middle(h, c)
        for i, level in enumerate(self.up):
            if i:
                h = self.grow[i - 1](h, skips[-1])
            for block in level:  # type: ignore[attr-defined]
                h = block(torch.cat([h, skips.pop()], 1), c)
        return pixel_shuffle(self.leave(silu(self.norm(h))), self.patch)[..., :height, :width]


class DiT(nn.Module):
    """A diffusion transformer on patches, with sine–cosine positions.

    Args:
        channels: Of the image.
        size: (H, W); a size that the patch does not divide is padded.
        patch: Side of a patch.
        width: Size of a token; a multiple of 4 and of the heads.
        depth: Number of blocks.
        heads: Attention heads.
        num_classes: Number of labels; 0 for an unconditional network.
        known_mask: Read ``ctx.known``.

    Source: Scalable Diffusion Models with Transformers, 2022, arXiv 2212.09748.
    """

    positions: Tensor

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        *,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        num_classes: int = 0,
        known_mask: bool = False,
    ) -> None:
        super().__init__()
        self.known_mask, self.patch, self.size = known_mask, patch, size
        self.grid = -(-size[0] // patch), -(-size[1] // patch)
        self.condition = _Conditioning(width, num_classes)
        self.enter = nn.Conv2d(channels + known_mask, width, patch, stride=patch)
        self.register_buffer("positions", grid_positions(*self.grid, width), persistent=False)
        self.blocks = nn.ModuleList([TransformerBlock(width, heads, width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), zero_init(nn.Linear(width, 2 * width)))
        self.leave = zero_init(nn.Linear(width, patch * patch * channels))

    def forward(self, x: Tensor, noise_level: Tensor, ctx: Context) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        (h, w), p, (rows, columns) = self.size, self.patch, self.grid
        if x.shape[2:] != (h, w):
            raise ValueError(f"images of {tuple(x.shape[2:])} pixels: this transformer was built for {(h, w)}")
        c = self.condition(noise_level, ctx)
        x = _with_known(x, ctx) if self.known_mask else x
        x = pad(x, (0, columns * p - w, 0, rows * p - h))
        t = self.enter(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            t = block(t, c)
        shift, scale = self.modulation(c)[:, None].chunk(2, -1)
        y = self.leave(modulate(self.norm(t), shift, scale))
        y = y.unflatten(1, (rows, columns)).unflatten(-1, (-1, p, p)).permute(0, 3, 1, 4, 2, 5)
        return y.flatten(4, 5).flatten(2, 3)[..., :h, :w]
