"""From a configuration to what it names: process, network, model, objective."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from polydiff.core.denoisers import Model, Preconditioner, VelocityPrediction, VPrediction
from polydiff.core.device import autocast_of
from polydiff.core.processes import Flow, Gaussian, LinearGaussian
from polydiff.core.schedules import Cosine
from polydiff.core.training import Denoising, Objective
from polydiff.core.training.weights import VelocityWeight, VWeight
from polydiff.timeseries.choosing import LocalScaling, best_linear
from polydiff.timeseries.data import SeriesCodec, Store
from polydiff.timeseries.decomposed import DecomposedTransformer
from polydiff.timeseries.innovations import Innovations
from polydiff.timeseries.masks import Tasks
from polydiff.timeseries.networks import ConvNet, WindowMLP
from polydiff.timeseries.recipes import SeriesConfig
from polydiff.timeseries.state_space import StateSpaceNet
from polydiff.timeseries.windows import Scaling, Windows, window_spectrum

__all__ = ["model_of", "network_of", "objective_of", "settled", "tasks_of"]

_RIDGE = 1e-3  # of the linear model of windows in the units of the series, in mean variances


def settled(config: SeriesConfig, codec: SeriesCodec, store: Store) -> tuple[SeriesConfig, Windows]:
    """The configuration with nothing left to the data, and the windows it speaks of; the codec keeps its linear model."""
    length, irregular = config.context + config.horizon, not codec.grid.regular
    windows = Windows(store, length, Scaling(True, config.context), irregular)
    scaling, ridge = config.scaling, _RIDGE
    if scaling != "global":
        holes = config.points + config.blocks > 0  # last values of all kinds of holes are too far apart
        free: tuple[LocalScaling, ...] = ("context",) if holes else ("context", "last")
        scaling, ridge = best_linear(windows, free if scaling == "auto" else (scaling,))
    windows = Windows(store, length, Scaling(scaling != "global", config.context, scaling == "last"), irregular)
    few = windows.small and config.told
    base = config.base if config.base != "auto" else "linear" if few else "none"
    if base == "linear":
        found = window_spectrum(windows, told=tasks_of(config))
        codec.base = Innovations(found.mean, found.cov(ridge))
    return dataclasses.replace(config, scaling=scaling, base=base), windows


def network_of(config: SeriesConfig, codec: SeriesCodec) -> nn.Module:
    """The network of a configuration for windows of these channels and covariates."""
    channels, length = codec.width, config.context + config.horizon
    irregular = not codec.grid.regular
    if irregular and config.network != "transformer":
        raise ValueError(
            f"network={config.network!r} reads steps of equal length, but the stamps lie on no grid: use network='transformer'"
        )
    width, depth, dropout = config.width, config.depth, config.dropout
    features, static = codec.known_features, codec.static_features
    match config.network:
        case "mlp":
            return WindowMLP(
                length, channels, width=width, depth=depth, dropout=dropout, features=features, static=static
            )
        case "conv":
            return ConvNet(channels, width=width, depth=depth, dropout=dropout, features=features, static=static)
        case "ssm":
            return StateSpaceNet(channels, width=width, depth=depth, dropout=dropout, features=features, static=static)
        case "transformer":
            return DecomposedTransformer(
                channels,
                width=width,
                depth=depth,
                heads=config.heads,
                dropout=dropout,
                features=features,
                static=static,
            )


def model_of(config: SeriesConfig, codec: SeriesCodec, seed: int, device: torch.device) -> Model:
    """The untrained model on its device; weights are drawn from ``seed`` and the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = network_of(config, codec)
    flow = config.process == "flow"
    process: LinearGaussian = Flow() if flow else Gaussian(Cosine())
    parametrised: Preconditioner = VelocityPrediction() if flow else VPrediction()
    return Model(
        network, process, parametrised, sees_known=config.told, autocast=autocast_of(config.precision, device)
    ).to(device)


def objective_of(config: SeriesConfig, model: Model) -> Objective:
    """What a configuration minimises."""
    return Denoising(model, weight=VelocityWeight() if config.process == "flow" else VWeight())


def tasks_of(config: SeriesConfig) -> Tasks | None:
    """What training windows are told; ``None`` for an unconditional model."""
    if not config.told:
        return None
    return Tasks(config.forecast, config.points, config.blocks, config.nothing, config.horizon)
