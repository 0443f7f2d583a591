"""A residual multilayer perceptron with conditioning: the plain network for vectors."""

from __future__ import annotations

from torch import Tensor, nn

from polydiff.core.networks.attention import modulate
from polydiff.core.networks.init import zero_init

__all__ = ["MLP"]


class _Block(nn.Module):
    def __init__(self, width: int, cond: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.body = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.condition = zero_init(nn.Linear(cond, 3 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.condition(c).chunk(3, -1)
        return x + gate * self.body(modulate(self.norm(x), shift, scale))


class MLP(nn.Module):
    """``inputs → width``, residual blocks modulated by a conditioning vector (adaLN-zero), ``width → outputs``.

    Args:
        inputs: Size of a vector in.
        outputs: Size of a vector out.
        width: Of the blocks.
        depth: Number of blocks.
        cond: Size of the conditioning vector.
        dropout: Inside the blocks.
    """

    def __init__(
        self, inputs: int, outputs: int, *, width: int = 256, depth: int = 4, cond: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList([_Block(width, cond, dropout) for _ in range(depth)])
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(nn.Linear(width, outputs)))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """``(B, ..., inputs)`` and ``(B, ..., cond)`` to ``(B, ..., outputs)``."""
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, c)
        return self.leave(h)
