"""From a configuration to what it names: process, network, model, objective, optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from polydiff.core.data import Data, Rng
from polydiff.core.denoisers import (
    FieldPreconditioners,
    Model,
    Preconditioner,
    TokenLogits,
    VelocityPrediction,
    VPrediction,
)
from polydiff.core.device import autocast_of
from polydiff.core.processes import Discrete, Flow, Gaussian, Process, Product
from polydiff.core.schedules import Cosine, RectifiedFlow
from polydiff.core.training import Denoising
from polydiff.core.training.weights import VelocityWeight, VWeight
from polydiff.tabular.networks import TableMLP
from polydiff.tabular.recipes import TableConfig

__all__ = ["model_of", "objective_of", "process_of"]


def process_of(config: TableConfig, numbers: int, sizes: Sequence[int]) -> Product:
    """The corruption of rows: a field ``num`` of numbers and a field ``cat`` of categories, where a table has them."""
    fields: dict[str, Process] = {}
    if numbers:
        fields["num"] = Flow(RectifiedFlow()) if config.numbers == "flow" else Gaussian(Cosine())
    if sizes:
        fields["cat"] = Discrete.absorbing(max(sizes))
    return Product(**fields)


def model_of(config: TableConfig, numbers: int, sizes: Sequence[int], seed: int, device: torch.device) -> Model:
    """The untrained model on its device; weights are drawn from ``seed`` and the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TableMLP(numbers, sizes, width=config.width, depth=config.depth, dropout=config.dropout)
    parametrised: dict[str, Preconditioner] = {}
    if numbers:
        parametrised["num"] = VelocityPrediction() if config.numbers == "flow" else VPrediction()
    if sizes:
        parametrised["cat"] = TokenLogits()
    return Model(
        network,
        process_of(config, numbers, sizes),
        FieldPreconditioners(**parametrised),
        sees_known=True,
        autocast=autocast_of(config.precision, device),
    ).to(device)


def objective_of(config: TableConfig, model: Model, groups: Mapping[str, Tensor]) -> Denoising:
    """What a configuration minimises; ``groups`` holds for each field the column that a cell belongs to."""
    return Denoising(
        model,
        weight=VelocityWeight() if config.numbers == "flow" else VWeight(),
        known=random_columns(config.share, groups) if config.share > 0 else None,
        coef={"cat": config.balance},
    )


def random_columns(share: float, groups: Mapping[str, Tensor]) -> Callable[[Data, Rng], Data]:
    """``known(x0, rng)`` for ``Denoising``: a share of the rows is told each of its columns at a random rate.

    Cells of one column (a number, and the level that says whether it is one) are told together.
    """
    columns = 1 + max(int(g.max()) for g in groups.values())

    def draw(x0: Data, rng: Rng) -> Data:
        assert isinstance(x0, dict)
        like = next(iter(x0.values()))
        u = rng.uniform(like.new_empty(len(like), columns + 2, dtype=torch.float64))
        told = (u[:, 2:] < u[:, :1]) & (u[:, 1:2] < share)
        return {k: told[:, g.to(told.device)] for k, g in groups.items()}

    return draw
