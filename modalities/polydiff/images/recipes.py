"""Named, complete configurations as plain functions; any field can be changed with ``dataclasses.replace``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ImageConfig:
    """Everything about an image generator that is not read off the data: network, process, training, sampling.

    Attributes:
        network: ``"unet"`` or ``"dit"``.
        width: Channels of the first level, or of the transformer.
        multipliers: Channel factors of the U-Net's levels.
        blocks: Residual blocks a level.
        attention: Levels of the U-Net with self-attention (0 is the finest).
        patch: Side of the squares of pixels that are folded into one position first.
        depth: Blocks of the transformer.
        heads: Attention heads of the transformer.
        dropout: In the residual blocks.
        schedule: Noise schedule.
        shift: Shift of the cosine schedule; below 1 for more noise (images above 64 pixels).
        prediction: What the network predicts.
        weight: Loss weight by log-SNR, in terms of the error of x_0.
        times: Law of the training time.
        known: Probability that a training sample has given pixels: above 0 the model can inpaint.
        drop: Probability that the label is dropped: above 0 the model can be guided.
        steps: Training steps.
        batch_size: Samples a step.
        lr: Peak learning rate of AdamW.
        warmup: Steps of linear warm-up; then a cosine to zero over the run.
        weight_decay: Of AdamW.
        ema: Decay of the averaged weights, which are the ones that are used and saved.
        precision: ``"fp32"`` or ``"bf16"``.
        sample_steps: Sampling steps, unless asked otherwise.
        guidance: Guidance scale, unless asked otherwise.
    """

    network: Literal["unet", "dit"] = "unet"
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (2,)
    patch: int = 1
    depth: int = 6
    heads: int = 4
    dropout: float = 0.0
    schedule: Literal["cosine", "vp-linear", "rectified", "edm"] = "cosine"
    shift: float = 1.0
    prediction: Literal["v", "eps", "x0", "velocity", "karras"] = "v"
    weight: Literal["v", "snr", "min-snr", "sigmoid", "edm", "velocity"] = "sigmoid"
    times: Literal["uniform", "logit-normal", "edm"] = "uniform"
    known: float = 0.25
    drop: float = 0.1
    steps: int = 10_000
    batch_size: int = 128
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999
    precision: Literal["fp32", "bf16"] = "fp32"
    sample_steps: int = 20
    guidance: float = 1.5

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "patch", "depth", "heads", "steps", "batch_size", "sample_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("dropout", "known", "drop", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must lie in [0, 1]")


# ------------------------------------------------------------------ recipes


def digits() -> ImageConfig:
    """scikit-learn's 8×8 digits in under a minute on two cores."""
    return ImageConfig(
        width=24,
        multipliers=(1, 2),
        blocks=1,
        attention=(),
        steps=1600,
        batch_size=64,
        lr=3e-3,
        warmup=50,
        ema=0.993,
        known=0.15,
        guidance=1.2,
    )


def mnist() -> ImageConfig:
    """MNIST, 28×28, in under twenty minutes on two cores."""
    return ImageConfig(
        patch=2, width=48, multipliers=(1, 2), blocks=1, attention=(1,), steps=5000, batch_size=64, lr=2e-3, ema=0.998
    )


def cifar10() -> ImageConfig:
    """CIFAR-10, 32×32×3, for one GPU: the size and settings that reach single-digit FID in about a day."""
    return ImageConfig(
        width=128,
        multipliers=(1, 2, 2, 2),
        blocks=3,
        attention=(1, 2),
        dropout=0.1,
        prediction="karras",
        schedule="edm",
        weight="edm",
        times="edm",
        steps=200_000,
        batch_size=512,
        warmup=5000,
        ema=0.9998,
        precision="bf16",
        known=0.0,
        sample_steps=35,
    )


def dit_s() -> ImageConfig:
    """A small diffusion transformer (12 blocks of width 384) trained as a rectified flow, for one GPU."""
    return ImageConfig(
        network="dit",
        patch=2,
        width=384,
        depth=12,
        heads=6,
        schedule="rectified",
        prediction="velocity",
        weight="velocity",
        times="logit-normal",
        steps=200_000,
        batch_size=256,
        lr=2e-4,
        warmup=2000,
        ema=0.9999,
        precision="bf16",
        known=0.0,
        sample_steps=50,
    )


def default(height: int, width: int) -> ImageConfig:
    """A starting point by image size: ``digits`` up to 12 pixels, ``mnist`` up to 40, ``cifar10`` beyond."""
    side = max(height, width)
    return digits() if side <= 12 else mnist() if side <= 40 else cifar10()
