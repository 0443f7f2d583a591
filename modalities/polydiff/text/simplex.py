"""Networks that read points of a simplex or sphere in place of tokens."""

from __future__ import annotations

from torch import Tensor, nn

from polydiff.core.data import Context, Time, match_time
from polydiff.core.processes.sphere import SphereTokens
from polydiff.core.rounding import PointEvidence
from polydiff.text.networks import TextTransformer

__all__ = ["EvidenceLogits", "PointEmbedding", "SphereTransformer"]


class EvidenceLogits(PointEvidence):
    """``p(k | x_t) ∝ q(x_t at its own place | k) · exp(logits_k)``: the network says what the other places say.

    What a state says of its own token is known in closed form, but only to a precision of ``1/σ²``, which a network that
    reads coordinates has to learn at every noise level. It reads that law instead, ``softmax_k log q(x_t | k)``, which is a
    sufficient statistic of the token (with zero for the mask). Not in the source, which has ``TokenLogits``: this one starts
    faster (after 80 updates) and was no better after 600.
    """

    def inputs(self, process: SphereTokens, x_t: Tensor, t: Time, ctx: Context) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The law of each token by its own state alone, and t."""
        alone = process.evidence(x_t, t).softmax(-1).to(x_t.dtype)
        return nn.functional.pad(alone, (0, 1)), match_time(t, x_t)


class PointEmbedding(nn.Embedding):
    """``h = Σ_k x_k w_k``: the embedding of a token at its vertex, and linear between."""

    def forward(self, input: Tensor) -> Tensor:
        """Points ``(B, L, S)`` to ``(B, L, width)``."""
        return input.to(self.weight.dtype) @ self.weight


class SphereTransformer(TextTransformer):
    """``TextTransformer`` on points ``(B, L, vocab + 1)`` of the sphere of ``SphereTokens``.

    Args:
        vocab: Tokens that come out; points have one coordinate more.
        width: Size of a token.
        depth: Blocks.
        heads: Attention heads.
        time: Read the noise level.
        num_classes: Labels, read from ``ctx.cond["label"]``; 0 for none.
        dropout: In the blocks.

    Source: Continuous Diffusion Model for Language Modeling, 2025, arXiv 2502.11564.
    """

    def __init__(
        self,
        vocab: int,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        time: bool = True,
        num_classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            vocab + 1,
            vocab,
            width=width,
            depth=depth,
            heads=heads,
            time=time,
            num_classes=num_classes,
            dropout=dropout,
        )
        points = PointEmbedding(vocab + 1, width)
        points.weight = self.embedding.weight
        self.embedding = points
