"""Networks of fields in motion: residual blocks that mix over space, timed, with dropout whose masks are handed in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from polydiff.core.data import Context, Rng
from polydiff.core.networks import FourierEmbedding, zero_init

__all__ = ["EndForecaster", "FieldNet", "Interpolator", "LocalMix", "SeededDropout"]

_TIME = 32


class SeededDropout:
    """Dropout that takes its randomness from an ``Rng``: masks are drawn first and handed to the network.

    A mask is 0 with probability ``rate`` and ``1 / (1 − rate)`` otherwise. One mask holds for all sites of a field, so that
    the members of an ensemble differ by patterns and not by grain. Slot i of the Rng owns the masks of sample i, whatever
    the batch; nothing reads the global generator or the mode (train, eval) of a module.

    Args:
        rate: In [0, 1).
        shape: Of the masks of one sample: (blocks, width).

    Source: Dropout as a Bayesian Approximation, 2015, arXiv 1506.02142 (dropout at inference); whole channels as in
    Efficient Object Localization Using Convolutional Networks, 2014, arXiv 1411.4280.
    """

    def __init__(self, rate: float, shape: tuple[int, ...]) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"dropout={rate}: must lie in [0, 1)")
        self.rate, self.shape = rate, shape

    def masks(self, rng: Rng, like: Tensor) -> Tensor:
        """Masks ``(B, *shape)`` for the batch of ``like``, in its type."""
        kept = rng.uniform(like.new_empty(len(like), *self.shape, dtype=torch.float64)) >= self.rate
        return kept.to(like.dtype) / (1 - self.rate)


class LocalMix(nn.Module):
    """A convolution over S sites, ``(B, C, S)`` to itself: on a ring, or on a line with nothing beyond its ends.

    Args:
        width: C.
        kernel: Sites that it sees, odd.
        ring: Whether the last site neighbours the first.
    """

    def __init__(self, width: int, kernel: int, *, ring: bool) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: must be odd")
        self.reach, self.ring = kernel // 2, ring
        self.conv = nn.Conv1d(width, width, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, S)``."""
        return self.conv(pad(x, (self.reach, self.reach), mode="circular" if self.ring else "constant"))


class _Block(nn.Module):
    """``x + out(mask · act(FiLM_t(norm(mix x))))``."""

    def __init__(self, mix: nn.Module, width: int) -> None:
        super().__init__()
        self.mix, self.norm = mix, nn.GroupNorm(1, width, affine=False)
        self.film = nn.Linear(_TIME, 2 * width)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, c: Tensor, mask: Tensor | None) -> Tensor:
        scale, shift = self.film(c)[..., None].chunk(2, 1)
        h = silu(torch.addcmul(shift, self.norm(self.mix(x)), 1 + scale))
        return x + self.out(h if mask is None else h * mask[..., None])


class FieldNet(nn.Module):
    """Fields ``(B, S, inputs)`` to fields ``(B, S, outputs)``, modulated by a time.

    Equivariant to whatever its mixers are equivariant to: shifts along a ring for ``LocalMix(ring=True)``, rotations about
    the pole for spherical convolutions.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        mixers: One for each block, maps of ``(B, width, S)``.
        width: Channels inside.
        dropout: Rate, before the last layer of every block.
    """

    def __init__(
        self, inputs: int, outputs: int, mixers: Sequence[nn.Module], *, width: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = SeededDropout(dropout, (len(mixers), width))
        self.time = FourierEmbedding(_TIME, low=1.0, high=32.0)
        self.enter = nn.Conv1d(inputs, width, 1)
        self.blocks = nn.ModuleList([_Block(mix, width) for mix in mixers])
        self.leave = zero_init(nn.Conv1d(width, outputs, 1))

    def forward(self, x_BSC: Tensor, t: Tensor, masks: Tensor | None = None) -> Tensor:
        """``(B, S, inputs)``, times ``(B,)`` and masks ``(B, blocks, width)``, or none, to ``(B, S, outputs)``."""
        h, c = self.enter(x_BSC.transpose(1, 2)), silu(self.time(t))
        for i, block in enumerate(self.blocks):
            h = block(h, c, None if masks is None else masks[:, i])
        return self.leave(silu(h)).transpose(1, 2)


class Interpolator(nn.Module):
    """``I(x_1, x_0, t) = (1 − t) x_0 + t x_1 + net([x_1, x_0], t)``: the state between two ends of a trajectory.

    Here x_1 (t = 1) is the first state and x_0 (t = 0) the last: noise at 1, data at 0.

    Args:
        net: From 2 C channels to C.
    """

    def __init__(self, net: FieldNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, first: Tensor, last: Tensor, t: Tensor, masks: Tensor | None) -> Tensor:
        """States ``(B, S, C)`` and times ``(B,)`` to the states between, ``(B, S, C)``."""
        w = t[:, None, None]
        return (1 - w) * last + w * first + self.net(torch.cat([first, last], -1), t, masks)


class EndForecaster(nn.Module):
    """``F(x_t, t) = x_t + net([x_t, x_1], t)``: the last state, from one on the way and the first.

    Args:
        net: From 2 C channels to C.
    """

    def __init__(self, net: FieldNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_t: Tensor, t: Tensor, ctx: Context) -> Tensor:
        """``(B, S, C)``; the first state is ``ctx.x1``."""
        assert isinstance(ctx.x1, Tensor)
        return x_t + self.net(torch.cat([x_t, ctx.x1], -1), t)
