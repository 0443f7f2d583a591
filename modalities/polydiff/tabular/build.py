"""From a configuration to what it names: process, network, model, objective, optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from polydiff.core.data import Context, Data, Rng
from polydiff.core.denoisers import (
    Denoiser,
    FieldPreconditioners,
    Model,
    Preconditioner,
    TokenLogits,
    VelocityPrediction,
    VPrediction,
)
from polydiff.core.device import autocast_of
from polydiff.core.processes import Discrete, Flow, Gaussian, Indicators, Process, Product
from polydiff.core.rounding import PointEvidence
from polydiff.core.sampling import Ancestral, DPMSolverPP, OneCall, PerField
from polydiff.core.schedules import Clock, Clocked, Cosine, LogLinear, RectifiedFlow, Schedule
from polydiff.core.training import Batch, Denoising, LearnedClocks, Loss, Objective
from polydiff.core.training.weights import VelocityWeight, VWeight
from polydiff.tabular.networks import TableMLP
from polydiff.tabular.recipes import TableConfig
from polydiff.tabular.transformer import TableTransformer

__all__ = ["OneHot", "Told", "model_of", "objective_of", "process_of", "steps_of"]


def process_of(config: TableConfig, numbers: int, sizes: Sequence[int]) -> Product:
    """The corruption of rows: a field ``num`` of numbers and a field ``cat`` of categories, where a table has them."""

    def paced(base: Schedule, columns: int) -> Schedule:
        return Clocked(base, Clock(torch.ones(columns), trainable=True)) if config.clocks == "learned" else base

    fields: dict[str, Process] = {}
    if numbers:
        flow = config.numbers == "flow"
        fields["num"] = Flow(paced(RectifiedFlow(), numbers)) if flow else Gaussian(paced(Cosine(), numbers))
    if sizes:
        base = paced(Cosine() if config.categories == "onehot" else LogLinear(), len(sizes))
        match config.categories:
            case "absorbing":
                fields["cat"] = Discrete.absorbing(max(sizes), base)
            case "uniform":
                fields["cat"] = Discrete.uniform_of(sizes, base)
            case "onehot":
                fields["cat"] = Indicators(max(sizes), base)
    return Product(**fields)


def model_of(config: TableConfig, numbers: int, sizes: Sequence[int], seed: int, device: torch.device) -> Model:
    """The untrained model on its device; weights are drawn from ``seed`` and the global generator is left as it was."""
    points = config.categories == "onehot" and len(sizes) > 0

    def network_of(numbers: int, sizes: Sequence[int]) -> nn.Module:
        waves = 0 if points else config.frequencies
        if config.network == "transformer":
            return TableTransformer(
                numbers,
                sizes,
                width=config.width,
                depth=config.depth,
                heads=config.heads,
                dropout=config.dropout,
                frequencies=waves,
                scale=config.scale,
            )
        return TableMLP(
            numbers,
            sizes,
            width=config.width,
            depth=config.depth,
            dropout=config.dropout,
            frequencies=waves,
            scale=config.scale,
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = OneHot(network_of, numbers, sizes) if points else network_of(numbers, sizes)
    parametrised: dict[str, Preconditioner] = {}
    if numbers:
        parametrised["num"] = VelocityPrediction() if config.numbers == "flow" else VPrediction()
    if sizes:
        parametrised["cat"] = PointEvidence() if points else TokenLogits()
    return Model(
        network,
        process_of(config, numbers, sizes),
        FieldPreconditioners(**parametrised),
        sees_known=True,
        autocast=autocast_of(config.precision, device),
    ).to(device)


def objective_of(config: TableConfig, model: Model, groups: Mapping[str, Tensor]) -> Objective:
    """What a configuration minimises; ``groups`` holds for each field the column that a cell belongs to."""
    known = random_columns(config.share, groups) if config.share > 0 else None
    points = isinstance(cat := _fields(model).get("cat"), Indicators)
    denoising = Denoising(
        model,
        weight=VelocityWeight() if config.numbers == "flow" else VWeight(),
        known=None if points else known,
        coef={"cat": config.balance},
    )
    objective = LearnedClocks(denoising) if config.clocks == "learned" else denoising
    return Told(objective, known, cat) if isinstance(cat, Indicators) and known is not None else objective


def steps_of(model: Denoiser) -> PerField:
    """DPM-Solver++(2M) for numbers; ancestral sampling for categories, the mixture over levels for indicators."""
    kinds: dict[str, OneCall] = {"num": DPMSolverPP(order=2), "cat": Ancestral()}
    return PerField(**{k: kinds[k] for k in _fields(model)})


class OneHot(nn.Module):
    """A network of numbers alone that reads indicators as numbers and returns them as logits.

    Args:
        make: The network, ``make(numbers, sizes)``.
        numbers: Numeric cells of a row.
        sizes: Levels of each categorical cell.
    """

    inside: Tensor
    place: Tensor

    def __init__(self, make: Callable[[int, Sequence[int]], nn.Module], numbers: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.numbers, self.network = numbers, make(numbers + sum(sizes), ())
        inside = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        self.register_buffer("inside", inside, persistent=False)
        self.register_buffer("place", torch.where(inside, inside.flatten().cumsum(0).view_as(inside) - 1, -1), False)

    def forward(self, x: dict[str, Tensor], level: dict[str, Tensor], ctx: Context) -> dict[str, Tensor]:
        """Fields ``num`` (B, Dn) and ``cat`` (B, Dc, V) to estimates and logits; absent levels are at −∞."""
        known = ctx.known if isinstance(ctx.known, dict) else {}
        told = known.get("cat")
        if told is not None:
            told = told[..., None].expand(x["cat"].shape)[:, self.inside]
        cells, marks = x["cat"][:, self.inside], told
        if self.numbers:
            cells = torch.cat([x["num"], cells.to(x["num"].dtype)], 1)
            if told is not None:
                mine = known.get("num")
                mine = torch.zeros_like(x["num"], dtype=torch.bool) if mine is None else mine
                marks = torch.cat([mine, told], 1)
        inner = ctx.replace(known=None if marks is None else {"num": marks})
        shared = level["num" if self.numbers else "cat"]
        out = self.network({"num": cells}, {"num": shared}, inner)["num"]
        flat = nn.functional.pad(out[:, self.numbers :].float(), (0, 1), value=-torch.inf)
        found = {"cat": flat[:, self.place]}
        return {"num": out[:, : self.numbers], **found} if self.numbers else found


class Told(Objective):
    """An objective whose rows are told some of their cells, levels as the points that they are at time 0.

    Args:
        objective: What to minimise.
        known: Draws the masks, ``known(x0, rng)``.
        points: Process of the field ``cat``.
    """

    def __init__(self, objective: Objective, known: Callable[[Data, Rng], Data], points: Indicators) -> None:
        super().__init__()
        self.objective, self.known, self.points = objective, known, points

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """The loss of the batch with known cells."""
        x0 = batch.x0
        assert isinstance(x0, dict)
        given = {**x0, "cat": self.points.points[x0["cat"]]}
        told = batch.ctx.replace(known=self.known(x0, rng.child("known")), given=given)
        loss: Loss = self.objective(Batch(x0, told), rng)
        return loss


def _fields(model: Denoiser) -> Mapping[str, Process]:
    assert isinstance(model.process, Product)
    return model.process.fields


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
