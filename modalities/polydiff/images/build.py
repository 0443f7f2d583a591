"""From a configuration to what it names: process, parametrisation, network, objective, trainer."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from polydiff.core.denoisers import (
    EpsPrediction,
    Karras,
    Model,
    Preconditioner,
    VelocityPrediction,
    VPrediction,
    X0Prediction,
)
from polydiff.core.device import autocast_of
from polydiff.core.processes import Flow, Gaussian, LinearGaussian
from polydiff.core.schedules import EDM, Cosine, RectifiedFlow, VPLinear
from polydiff.core.training import Denoising
from polydiff.core.training.times import LogitNormal, LogNormalSigma, TimeLaw, Uniform
from polydiff.core.training.weights import SNR, EDMWeight, MinSNR, Sigmoid, VelocityWeight, VWeight, Weight
from polydiff.images.data import ImageCodec
from polydiff.images.masks import random_masks
from polydiff.images.networks import DiT, UNet
from polydiff.images.recipes import ImageConfig

T = TypeVar("T")


def process_of(config: ImageConfig) -> LinearGaussian:
    """The corruption that a configuration names."""
    match config.schedule:
        case "cosine":
            return Gaussian(Cosine(config.shift))
        case "vp-linear":
            return Gaussian(VPLinear())
        case "edm":
            return Gaussian(EDM())
        case "rectified":
            return Flow(RectifiedFlow())
    raise ValueError(f"schedule={config.schedule!r}: need 'cosine', 'vp-linear', 'rectified' or 'edm'")


def preconditioner_of(config: ImageConfig) -> Preconditioner:
    """The parametrisation that a configuration names."""
    kinds: dict[str, type[Preconditioner]] = {
        "v": VPrediction,
        "eps": EpsPrediction,
        "x0": X0Prediction,
        "velocity": VelocityPrediction,
        "karras": Karras,
    }
    return _pick(kinds, "prediction", config.prediction)()


def weight_of(config: ImageConfig) -> Weight:
    """The loss weight that a configuration names."""
    kinds: dict[str, Weight] = {
        "v": VWeight(),
        "snr": SNR(),
        "min-snr": MinSNR(),
        "sigmoid": Sigmoid(bias=2.0),
        "edm": EDMWeight(),
        "velocity": VelocityWeight(),
    }
    return _pick(kinds, "weight", config.weight)


def times_of(config: ImageConfig) -> TimeLaw:
    """The law of the training time that a configuration names."""
    kinds: dict[str, TimeLaw] = {"uniform": Uniform(), "logit-normal": LogitNormal(), "edm": LogNormalSigma()}
    return _pick(kinds, "times", config.times)


def _pick(kinds: dict[str, T], field: str, name: str) -> T:
    if name not in kinds:
        raise ValueError(f"{field}={name!r}: need one of {', '.join(map(repr, kinds))}")
    return kinds[name]


def network_of(config: ImageConfig, codec: ImageCodec) -> nn.Module:
    """The untrained network that a configuration names, for data of a codec."""
    c, classes, told = config, len(codec.classes), config.known > 0
    if c.network == "unet":
        return UNet(
            codec.channels,
            patch=c.patch,
            width=c.width,
            multipliers=c.multipliers,
            blocks=c.blocks,
            attention=c.attention,
            num_classes=classes,
            known_mask=told,
            dropout=c.dropout,
        )
    if c.network == "dit":
        return DiT(
            codec.channels,
            (codec.height, codec.width),
            patch=c.patch,
            width=c.width,
            depth=c.depth,
            heads=c.heads,
            num_classes=classes,
            known_mask=told,
        )
    raise ValueError(f"network={c.network!r}: need 'unet' or 'dit'")


def model_of(config: ImageConfig, codec: ImageCodec, seed: int, device: torch.device) -> Model:
    """The untrained model on its device; weights are drawn from ``seed`` and the global generator is left as it was."""
    classes = len(codec.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = network_of(config, codec)
    return Model(
        network,
        process_of(config),
        preconditioner_of(config),
        null={"label": classes} if classes else None,
        sees_known=config.known > 0,
        autocast=autocast_of(config.precision, device),
    ).to(device)


def objective_of(config: ImageConfig, model: Model, *, labelled: bool) -> Denoising:
    """What a configuration minimises."""
    return Denoising(
        model,
        times=times_of(config),
        weight=weight_of(config),
        drop=config.drop if labelled else 0.0,
        known=random_masks(config.known) if config.known > 0 else None,
    )
