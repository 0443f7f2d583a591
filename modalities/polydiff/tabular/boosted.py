"""Diffusion without a neural network: boosted trees undo the corruption, everything else is the core's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FieldPreconditioners, Karras, Model, Preconditioner, TokenLogits
from polydiff.core.processes import Discrete, Flow, Gaussian, Process, Product
from polydiff.core.schedules import Cosine, RectifiedFlow, uniform_times
from polydiff.core.training import Batches, History
from polydiff.tabular.build import random_columns
from polydiff.tabular.data import TableCodec
from polydiff.tabular.generator import TabularGenerator
from polydiff.tabular.trees import TreeEnsemble

__all__ = ["BoostedConfig", "BoostedGenerator", "BoostedTrees", "boosted_model", "fit_trees"]

_MOST_LEVELS = 64  # a classifier grows a tree a level and round


@dataclass(frozen=True)
class BoostedConfig:
    """Everything about a boosted generator that is not read off the data.

    Attributes:
        numbers: Process of numeric cells: ``"flow"`` (straight lines) or ``"gaussian"`` (cosine schedule).
        levels: Times of the grid, each with trees of its own; also the number of sampling steps.
        duplicates: Noisy copies of a row at each time.
        trees: Rounds of boosting of a cell and time.
        leaves: Most leaves of a tree.
        depth: Longest path of a tree.
        rate: Shrinkage of a tree.
        leaf_rows: Least noisy copies in a leaf.
        share: Of noisy copies that are told some of their cells: what holding, imputing and conditioning live on.
    """

    numbers: Literal["gaussian", "flow"] = "flow"
    levels: int = 25
    duplicates: int = 50
    trees: int = 50
    leaves: int = 15
    depth: int = 6
    rate: float = 0.15
    leaf_rows: int = 20
    share: float = 0.3

    def __post_init__(self) -> None:
        for name in ("levels", "duplicates", "trees", "leaves", "depth", "leaf_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share}: must be a probability")
        if self.rate <= 0:
            raise ValueError(f"rate={self.rate}: must be positive")

    @property
    def sample_steps(self) -> int:
        """One step a time of the grid."""
        return self.levels

    @property
    def batch_size(self) -> int:
        """Trees are fitted to all rows at once."""
        return 1 << 62


class BoostedTrees(nn.Module):
    """What a network is to a ``Model``: numbers and categories in, raw estimates of both out, by trees.

    A row of cells is ``[noisy numbers | given numbers | levels]``: a number is missing (NaN) in the first part where it is
    given and in the second where it is not, a masked level is missing. Trees send missing entries where the loss is least.

    Args:
        numbers: Numeric cells of a row, Dn.
        sizes: Levels of each categorical cell; state ``max(sizes)`` is the mask.
        noise_levels: What the model calls the times of the grid, ``(L,)``; a call takes the trees of the nearest.
        config: Sizes of the trees.
    """

    grid: Tensor
    place: Tensor

    def __init__(self, numbers: int, sizes: Sequence[int], noise_levels: Tensor, config: BoostedConfig) -> None:
        super().__init__()
        self.numbers, self.mask = numbers, max(sizes, default=0)
        self.outputs: list[list[int]] = []  # of each categorical cell: two levels need one sum
        end = numbers
        for size in sizes:
            self.outputs.append(list(range(end, end + (1 if size == 2 else size))))
            end = self.outputs[-1][-1] + 1
        self.ensemble = TreeEnsemble(len(noise_levels), end, config.trees, config.leaves, config.depth)
        place = torch.full((len(sizes), self.mask), end + 1)  # behind the sums stand a zero and a −∞
        for c, outputs in enumerate(self.outputs):
            columns = [end, *outputs] if len(outputs) == 1 and sizes[c] == 2 else outputs
            place[c, : len(columns)] = torch.tensor(columns)
        self.register_buffer("grid", noise_levels.float(), persistent=False)
        self.register_buffer("place", place, persistent=False)

    def cells(self, x: Mapping[str, Tensor], ctx: Context) -> Tensor:
        """What the trees read of noisy rows, float32 ``(B, 2 Dn + Dc)``."""
        parts = []
        if self.numbers:
            noisy = x["num"].float()
            known = ctx.known.get("num") if isinstance(ctx.known, dict) else None
            if known is None:
                parts += [noisy, torch.full_like(noisy, torch.nan)]
            else:
                assert isinstance(ctx.given, dict)
                parts += [noisy.masked_fill(known, torch.nan), ctx.given["num"].float().masked_fill(~known, torch.nan)]
        if self.outputs:
            parts.append(x["cat"].float().masked_fill(x["cat"] == self.mask, torch.nan))
        return torch.cat(parts, 1)

    def forward(self, x: dict[str, Tensor], level: dict[str, Tensor], ctx: Context) -> dict[str, Tensor]:
        """Fields ``num`` and ``cat`` to estimates ``(B, Dn)`` and logits ``(B, Dc, max(sizes))``."""
        noise = level["num" if self.numbers else "cat"].float()
        out = self.ensemble(self.cells(x, ctx), (noise[:, None] - self.grid).abs().argmin(1))
        found = {}
        if self.numbers:
            found["num"] = out[:, : self.numbers]
        if self.outputs:
            ends = out.new_tensor([0.0, -torch.inf]).expand(len(out), 2)
            found["cat"] = torch.cat([out, ends], 1)[:, self.place]
        return found


def boosted_model(config: BoostedConfig, numbers: int, sizes: Sequence[int]) -> Model:
    """The unfitted model: a product of flow (or diffusion) and masks whose estimates are trees.

    Raises:
        ValueError: For a column of more than 64 levels.
    """
    if sizes and max(sizes) > _MOST_LEVELS:
        raise ValueError(
            f"a column with {max(sizes)} levels: boosting grows a tree a level and takes at most {_MOST_LEVELS}; group the "
            "rare ones, or use TabularGenerator"
        )
    processes: dict[str, Process] = {}
    parametrised: dict[str, Preconditioner] = {}
    if numbers:
        processes["num"] = Flow(RectifiedFlow()) if config.numbers == "flow" else Gaussian(Cosine())
        parametrised["num"] = Karras()  # trees are poor at lines: they learn what the best linear estimate leaves
    if sizes:
        processes["cat"] = Discrete.absorbing(max(sizes))
        parametrised["cat"] = TokenLogits()
    key = "num" if numbers else "cat"
    like = torch.zeros(1, 1, dtype=torch.float32 if numbers else torch.long)
    levels = [parametrised[key].inputs(processes[key], like, t, Context())[1] for t in _times(config)]
    network = BoostedTrees(numbers, sizes, torch.cat(levels), config)
    return Model(network, Product(**processes), FieldPreconditioners(**parametrised), sees_known=True)


def _times(config: BoostedConfig) -> list[float]:
    return [float(t) for t in uniform_times(config.levels)][:-1]


class BoostedGenerator(TabularGenerator):
    """Learns the distribution of the rows of a table with gradient-boosted trees in the place of a network.

    One boosted regression a number and time, of the raw target of its preconditioner; one boosted classification a category
    and time, of its level given the rest of the corrupted row. All verbs are those of ``TabularGenerator``.

    Args:
        config: Sizes and noise.
        seed: Of the noise.
        device: Where to sample; trees are fitted on the CPU.

    Source: Generating and Imputing Tabular Data via Diffusion and Flow-based Gradient-Boosted Trees, 2023, arXiv 2309.09968.
    """

    config_class: ClassVar[type] = BoostedConfig
    config: Any

    def __init__(
        self, config: BoostedConfig | None = None, *, seed: int = 0, device: str | torch.device | None = None
    ) -> None:
        super().__init__(None, seed=seed, device=device)
        self.config = self._params["config"] = BoostedConfig() if config is None else config

    def _model_from(self, codec: TableCodec) -> Model:
        return boosted_model(self.config, codec.numbers, codec.sizes).to(self.device)

    def _learn(self, model: Model, codec: TableCodec, batches: Batches, **run: Any) -> History:
        """Fit the trees; the arguments of a training by steps are refused."""
        for name in ("steps", "seconds", "run_dir"):
            if run.get(name) is not None:
                raise ValueError(
                    f"{name}={run[name]!r}: trees are not trained by steps; set trees and levels in BoostedConfig"
                )
        if tuple(run.get("callbacks") or ()):
            raise ValueError("callbacks are called between training steps, and trees are not trained by steps")
        assert isinstance(batches.data, dict)
        data = {k: v.cpu() for k, v in batches.data.items()}
        history = fit_trees(
            model.cpu(), data, self.config, valid=codec.valid(data), groups=codec.groups, seed=self.seed
        )
        model.to(self.device)
        return history


def fit_trees(
    model: Model,
    data: Mapping[str, Tensor],
    config: BoostedConfig,
    *,
    valid: Mapping[str, Tensor] | None = None,
    groups: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> History:
    """Fit the trees of every time of the grid to noisy copies of the rows.

    The estimate is ``m + q · raw`` by the preconditioner, so that the target of a number is ``(x_0 − m) / q``. A category is
    learned with its own cell masked in every copy: the other cells are corrupted independently of it.

    Args:
        model: Of ``boosted_model``; its trees are replaced.
        data: Rows ``{"num": (N, Dn), "cat": (N, Dc)}``.
        config: Which the model was made with.
        valid: Which numbers count, as ``TableCodec.valid``.
        groups: Columns of the cells, as ``TableCodec.groups``: cells of a column are told together.
        seed: Of noise and trees.
    """
    network = model.network
    assert isinstance(network, BoostedTrees)
    rows = {k: v.repeat(config.duplicates, 1) for k, v in data.items()}
    counts = {k: v.repeat(config.duplicates, 1) for k, v in (valid or {}).items()}
    tell: Callable[..., Any] | None = random_columns(config.share, groups) if groups and config.share > 0 else None
    settings = _settings(config, seed)
    history, begin = History(), time.monotonic()
    for i, t in enumerate(_times(config)):
        rng = Rng(seed).child("boosted", i)
        ctx = Context() if tell is None else Context(known=tell(rows, rng), given=rows)
        x_t = ctx.hold(model.process.marginal(rows, t, ctx).sample(rng))
        x, _ = model.preconditioner.inputs(model.process, x_t, t, ctx)
        cells = network.cells(x, ctx).numpy()
        told = ctx.known if isinstance(ctx.known, dict) else {}
        keep = {k: _mask(v, told.get(k), counts.get(k)).numpy() for k, v in rows.items()}
        if network.numbers:
            target = _raw_target(model, rows, x_t, t, ctx)
            for j in range(network.numbers):
                at = keep["num"][:, j]
                network.ensemble.regress(i, j, cells[at], target[at, j], settings)
        for c, outputs in enumerate(network.outputs):
            at = keep["cat"][:, c]
            inputs = cells[at]
            inputs[:, 2 * network.numbers + c] = np.nan
            network.ensemble.classify(i, outputs, inputs, rows["cat"][:, c].numpy()[at], settings)
        history.records.append({"step": i + 1.0, "time": t, "seconds": round(time.monotonic() - begin, 3)})
    return history


def _mask(like: Tensor, known: Tensor | None, valid: Tensor | None) -> Tensor:
    keep = torch.ones(like.shape, dtype=torch.bool)
    if known is not None:
        keep &= ~known
    return keep if valid is None else keep & valid


def _raw_target(model: Model, rows: Mapping[str, Tensor], x_t: Any, t: float, ctx: Context) -> np.ndarray:
    """What the trees should say of the numbers: ``(x_0 − m) / q``, for any parametrisation linear in its raw output."""
    pre, process = model.preconditioner, model.process
    assert isinstance(pre, FieldPreconditioners) and isinstance(process, Product)
    field, law = pre.fields["num"], process.fields["num"]
    x, c = x_t["num"], ctx.on("num")
    m = field.posterior(law, torch.zeros_like(x), x, t, c).mean
    q = field.posterior(law, torch.ones_like(x), torch.zeros_like(x), t, c).mean
    return np.asarray(((rows["num"] - m) / q).numpy())


def _settings(config: BoostedConfig, seed: int) -> dict[str, Any]:
    return {
        "max_iter": config.trees,
        "max_leaf_nodes": max(config.leaves, 2),
        "max_depth": config.depth,
        "learning_rate": config.rate,
        "min_samples_leaf": config.leaf_rows,
        "early_stopping": False,
        "random_state": seed,
    }
