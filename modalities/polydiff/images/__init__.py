"""Images: generate, inpaint, interpolate, score."""

from polydiff.images import recipes
from polydiff.images.data import ImageCodec, grid
from polydiff.images.generator import ImageGenerator
from polydiff.images.likelihood import ImageLikelihood
from polydiff.images.masks import random_masks
from polydiff.images.metrics import SmallConvFeatures, evaluate
from polydiff.images.networks import DiT, UNet
from polydiff.images.recipes import ImageConfig

__all__ = [
    "DiT",
    "ImageCodec",
    "ImageConfig",
    "ImageGenerator",
    "ImageLikelihood",
    "SmallConvFeatures",
    "UNet",
    "evaluate",
    "grid",
    "random_masks",
    "recipes",
]
