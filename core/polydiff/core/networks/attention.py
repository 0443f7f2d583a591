"""Attention over a set or sequence, and the transformer block of diffusion models."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from polydiff.core.networks.init import zero_init

__all__ = ["Attention", "TransformerBlock", "modulate"]


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm in the type of its input, so that it stays one fused kernel under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., D)``."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return rms_norm(x, self.normalized_shape, weight, self.eps)


class Attention(nn.Module):
    """Multi-head self-attention, equivariant to permutations of the tokens.

    Args:
        width: Size of a token.
        heads: Must divide the width.
        qk_norm: Normalise queries and keys, which keeps long trainings stable.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} is no multiple of heads={heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.q_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, x_BLD: Tensor, valid: Tensor | None = None) -> Tensor:
        """``(B, L, D)`` to ``(B, L, D)``; tokens where ``valid`` (B, L) is False are not attended to."""
        q, k, v = self.qkv(x_BLD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if valid is None else valid[:, None, None, :]
        if valid is not None:
            v = torch.where(valid[:, None, :, None], v, 0.0)  # 0 · NaN is NaN: padding must not hold any
            k = torch.where(valid[:, None, :, None], k, 0.0)
        y = scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x (1 + scale) + shift``."""
    return torch.addcmul(shift, x, 1 + scale)


class TransformerBlock(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by the conditioning; the identity when new (adaLN-zero).

    Args:
        width: Size of a token.
        heads: Attention heads.
        cond: Size of the conditioning vector.
        expand: Width of the MLP's hidden layer, in widths.

    Source: Scalable Diffusion Models with Transformers, 2022, arXiv 2212.09748.
    """

    def __init__(self, width: int, heads: int, cond: int, expand: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, expand * width), nn.GELU("tanh"), nn.Linear(expand * width, width))
        self.condition = nn.Sequential(nn.SiLU(), zero_init(nn.Linear(cond, 6 * width)))

    def forward(self, x_BLD: Tensor, c_BD: Tensor, valid: Tensor | None = None) -> Tensor:
        """``(B, L, D)`` to ``(B, L, D)``; the conditioning is ``(B, cond)`` or ``(B, L, cond)``."""
        c = self.condition(c_BD)
        shift1, scale1, gate1, shift2, scale2, gate2 = (c if c.ndim == 3 else c[:, None]).chunk(6, -1)
        x = x_BLD + gate1 * self.attention(modulate(self.norm(x_BLD), shift1, scale1), valid)
        return x + gate2 * self.mlp(modulate(self.norm(x), shift2, scale2))
