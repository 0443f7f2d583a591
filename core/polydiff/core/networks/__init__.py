"""Parts of networks; each modality puts its own together."""

from polydiff.core.networks.attention import Attention, TransformerBlock, modulate
from polydiff.core.networks.embeddings import FourierEmbedding, LabelEmbedding, PeriodicFeatures, grid_positions
from polydiff.core.networks.init import zero_init
from polydiff.core.networks.mlp import MLP
from polydiff.core.networks.residual import Downsample, ResBlock, Upsample, conv
from polydiff.core.networks.rotary import rotary_angles, rotate

__all__ = [
    "MLP",
    "Attention",
    "Downsample",
    "FourierEmbedding",
    "LabelEmbedding",
    "PeriodicFeatures",
    "ResBlock",
    "TransformerBlock",
    "Upsample",
    "conv",
    "grid_positions",
    "modulate",
    "rotary_angles",
    "rotate",
    "zero_init",
]
