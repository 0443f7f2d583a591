"""TabularGenerator: fit it on a table; sample, impute, balance, score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng
from polydiff.core.denoisers import Denoiser, Model
from polydiff.core.evaluation import nelbo
from polydiff.core.generator import Generator
from polydiff.core.processes import Product
from polydiff.core.sampling import Ancestral, Chain, DPMSolverPP, OneCall, PerField, Sampler
from polydiff.core.schedules import uniform_times
from polydiff.core.training import Batches, History, adamw, train
from polydiff.tabular.build import model_of, objective_of
from polydiff.tabular.columns import Kind, Name
from polydiff.tabular.data import TableCodec
from polydiff.tabular.limits import Allowed
from polydiff.tabular.recipes import TableConfig, default

__all__ = ["TabularGenerator"]

_BOUND_STEPS = 64
_FINEST = 0.03  # time at which the noise is a twentieth of a standard deviation: rows are compared no closer
_LEAST_DRAWN, _DRAWN_FOR_ONE = 10_000, 300  # rows drawn before a range is given up


class TabularGenerator(Generator):
    """Learns the distribution of the rows of a table: numbers by Gaussian, categories by masked diffusion, one network.

    Args:
        config: A recipe (``recipes.small()``, ``medium()``) or your own ``TableConfig``; chosen by the number of rows if left
            out.
        seed: Of weights, data order and training noise.
        device: Where to run; the best one at hand if left out.

    >>> import pandas as pd
    >>> from polydiff.tabular import TabularGenerator
    >>> df = pd.DataFrame({"height": [1.6, 1.7, 1.8, 1.9] * 8, "tall": [False, False, True, True] * 8})
    >>> TabularGenerator().fit(df, steps=2).sample(3).dtypes.tolist() == df.dtypes.tolist()
    True
    """

    modality: ClassVar[str] = "tabular"
    config_class: ClassVar[type] = TableConfig
    codec: TableCodec | None = None

    def __init__(
        self, config: TableConfig | None = None, *, seed: int = 0, device: str | torch.device | None = None
    ) -> None:
        super().__init__(config, seed=seed, device=device)
        self._params: dict[str, Any] = {"config": config, "seed": seed, "device": device}

    # -------------------------------------------------------------- scikit-learn's conventions

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor as they were given (``sklearn.base.clone`` builds an equal one from them)."""
        return dict(self._params)

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor; what was fitted is forgotten."""
        if wrong := sorted(set(params) - set(self._params)):
            raise ValueError(f"parameter {wrong[0]!r}: TabularGenerator has {', '.join(self._params)}")
        TabularGenerator.__init__(self, **{**self._params, **params})
        self.codec = self.model = self.history = None
        return self

    @property
    def random_state(self) -> int:
        """Scikit-learn's name of ``seed``."""
        return self.seed

    @property
    def n_features_in_(self) -> int:
        """Columns of the training data."""
        return len(self.feature_names_in_)

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the columns of the training data."""
        codec, _ = self._fitted()
        return np.array(codec.schema.names, dtype=object)

    # -------------------------------------------------------------- building

    @classmethod
    def _codec_from(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TableCodec:
        return TableCodec.from_config(config, tensors)

    def _model_from(self, codec: TableCodec) -> Model:
        return model_of(self.config, codec.numbers, codec.sizes, self.seed, self.device)

    # -------------------------------------------------------------- fitting

    def fit(
        self,
        df: pd.DataFrame,
        *,
        kinds: Mapping[Name, Kind] | None = None,
        steps: int | None = None,
        seconds: float | None = None,
        run_dir: str | Path | None = None,
        callbacks: Iterable[Callable[..., None]] = (),
        progress: bool | None = None,
    ) -> Self:
        """Learn from a table.

        Args:
            df: Any columns of numbers, booleans, texts, categories and datetimes, with missing values where you like.
            kinds: Kinds of columns where the inferred one is not what you mean, such as ``{"zip": "category"}``.
            steps: Training steps; those of the recipe if left out.
            seconds: Stop after this time if it comes first.
            run_dir: Folder of log and checkpoints; a run that was interrupted goes on from the last checkpoint there.
            callbacks: ``callback(trainer, step, logs)``.
            progress: Show a bar; by default only on a terminal.

        Raises:
            ValueError: For bad data, before anything is trained or written.
        """
        codec = TableCodec.fit(df, overrides=kinds)
        data = codec.encode(df)
        self.config = self._params["config"] or default(len(df))
        model = self._model_from(codec)
        self.history = self._learn(
            model,
            codec,
            Batches(data, batch_size=min(self.config.batch_size, len(df)), seed=self.seed),
            steps=steps,
            seconds=seconds,
            run_dir=run_dir,
            callbacks=callbacks,
            progress=progress,
        )
        self.codec, self.model = codec, model.eval()
        return self

    def _learn(self, model: Model, codec: TableCodec, batches: Batches, **run: Any) -> History:
        """Train the model; ``run`` is what ``train`` takes."""
        c = self.config
        return train(
            objective_of(c, model, codec.groups),
            adamw(model, c.lr, c.weight_decay),
            batches,
            c,
            seed=self.seed,
            device=self.device,
            **run,
        )

    # -------------------------------------------------------------- sampling

    def sample(
        self,
        n: int,
        *,
        where: Mapping[Name, Any] | None = None,
        steps: int | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        batch_size: int = 8192,
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """n new rows, with the columns, dtypes and categories of the training data.

        Args:
            n: How many.
            where: Columns to hold: a value; a set or list of values; or a range, a tuple ``(low, high)`` with ``None`` for an
                open end. Values are given to the model, sets of categories restrict its levels, and ranges reject: the
                accepted share is in ``frame.attrs["accepted"]``.
            steps: Sampling steps (evaluations of the network).
            seed: Row i depends on seed and i alone, whatever the batch size (without ranges).
            sampler: Any Sampler in place of DPM-Solver++(2M) for numbers with ancestral sampling for categories.
            batch_size: Rows at a time: memory, not results.
            progress: Show a bar; by default only on a terminal.

        Raises:
            ValueError: For unknown columns and values, and where a range is met by less than one row in 300.
        """
        codec, _ = self._fitted()
        held, sets, ranges = _conditions(codec, dict(where or {}))
        run = self._sampler(steps) if sampler is None else sampler

        def draw(rows: int, seed: int) -> pd.DataFrame:
            given, known = codec.given(held, rows) if held else (None, None)
            return codec.decode(self._draw(rows, given, known, codec.allowed(sets), run, seed, batch_size, progress))

        if not ranges:
            return draw(n, seed)
        kept: list[pd.DataFrame] = []
        drawn = found = 0
        while drawn < max(_LEAST_DRAWN, n * _DRAWN_FOR_ONE):
            share = max(found, 1) / max(drawn, 1)
            rows = draw(min(max(int(1.2 * (n - found) / share), 256), batch_size), seed + drawn)
            drawn += len(rows)
            kept.append(rows[_within(rows, ranges)])
            found += len(kept[-1])
            if found >= n:
                out = pd.concat(kept, ignore_index=True).iloc[:n]
                out.attrs["accepted"] = found / drawn
                return out
        raise ValueError(f"where={where!r}: {found} of {drawn} drawn rows meet it: ask for fewer rows or a wider range")

    def impute(
        self,
        df: pd.DataFrame,
        *,
        draws: int = 1,
        steps: int | None = None,
        seed: int = 0,
        batch_size: int = 8192,
    ) -> pd.DataFrame | list[pd.DataFrame]:
        """The table with every missing value drawn from its law given the rest of its row.

        Args:
            df: Any pattern of holes; columns may be left out altogether.
            draws: Multiple imputation: so many completed tables, in a list, when above 1.
            steps: Sampling steps.
            seed: Of the draws.
            batch_size: Rows at a time.
        """
        codec, _ = self._fitted()
        if draws < 1:
            raise ValueError(f"draws={draws}: need at least 1")
        given, known = codec.given_frame(df)
        run, tables = self._sampler(steps), []
        for k in range(draws):
            x = self._draw(len(df), given, known, codec.allowed({}, missing=False), run, seed + k, batch_size, False)
            tables.append(codec.fill(df, codec.decode(x)))
        return tables[0] if draws == 1 else tables

    def balance(
        self, df: pd.DataFrame, target: Name, *, steps: int | None = None, seed: int = 0, batch_size: int = 8192
    ) -> pd.DataFrame:
        """The table with new rows of the rarer values of ``target`` behind it, until all are as frequent as the first."""
        if target not in df.columns:
            raise ValueError(f"target={target!r}: the table has no such column")
        counts = df[target].value_counts()
        new = [
            self.sample(
                int(counts.max() - count), where={target: value}, steps=steps, seed=seed + i, batch_size=batch_size
            )
            for i, (value, count) in enumerate(counts.items())
            if count < counts.max()
        ]
        return pd.concat([df, *new], ignore_index=True)

    def score_samples(self, df: pd.DataFrame, *, draws: int = 1, seed: int = 0, batch_size: int = 1024) -> np.ndarray:
        """A lower bound on the log-likelihood of each row in nats (minus the NELBO), ``(N,)``.

        Of numbers it is the log-density of their normal scores, the same change of variables for every row of a model: rows
        compare with rows, down to a twentieth of a standard deviation. Missing values count as values where the training
        data had them.

        Args:
            df: Rows without holes that were not there in training.
            draws: Noisy paths of a row, each through all levels of noise.
            seed: Of the noise.
            batch_size: Rows at a time.
        """
        codec, model = self._fitted()
        data = {k: v.to(self.device) for k, v in codec.encode(df).items()}
        out: list[Tensor] = []
        grid = [_FINEST + (1 - _FINEST) * t for t in uniform_times(_BOUND_STEPS)]
        for start in range(0, len(df), batch_size):
            rows = {k: v[start : start + batch_size] for k, v in data.items()}
            rng = Rng(seed, range(start, min(start + batch_size, len(df))))
            with torch.no_grad():
                out.append(
                    -torch.stack([nelbo(model, rows, grid, rng=rng.child(d)) for d in range(draws)]).mean(0).cpu()
                )
        return torch.cat(out).double().numpy()

    # -------------------------------------------------------------- parts

    def _draw(
        self,
        n: int,
        given: dict[str, Tensor] | None,
        known: dict[str, Tensor] | None,
        allowed: Tensor | None,
        sampler: Sampler,
        seed: int,
        batch_size: int,
        progress: bool | None,
    ) -> dict[str, Tensor]:
        """Cells of n rows with everything unknown drawn."""
        codec, _ = self._fitted()

        def like(size: int) -> Data:
            fields = {"num": (codec.numbers, torch.float32), "cat": (codec.categories, torch.long)}
            return {k: torch.zeros(size, d, dtype=t, device=self.device) for k, (d, t) in fields.items() if d}

        def context(rows: slice) -> Context:
            if known is None or given is None:
                return Context()
            parts = ({k: v[rows].to(self.device) for k, v in part.items()} for part in (known, given))
            return Context(known=next(parts), given=next(parts))

        def wrap(denoiser: Denoiser) -> Denoiser:
            return denoiser if allowed is None else Allowed(denoiser, allowed)

        batches = list(
            self._generate(n, like, context, sampler, seed=seed, batch_size=batch_size, wrap=wrap, progress=progress)
        )
        return {k: torch.cat([b[k] for b in batches]) for k in batches[0]}  # type: ignore[call-overload, index]

    def _sampler(self, steps: int | None) -> Sampler:
        _, model = self._fitted()
        n = self.config.sample_steps if steps is None else steps
        if n < 1:
            raise ValueError(f"steps={n}: sampling needs at least 1 step")
        kinds: dict[str, OneCall] = {"num": DPMSolverPP(order=2), "cat": Ancestral()}
        assert isinstance(model.process, Product)
        return Chain(uniform_times(n), PerField(**{k: kinds[k] for k in model.process.fields}))

    def _card(self) -> str:
        codec, model = self._fitted()
        columns = ", ".join(f"{c.name} ({c.kind})" for c in codec.schema)
        return f"Rows of {len(codec.schema)} columns; {sum(p.numel() for p in model.parameters()):,} parameters.\n\n{columns}\n"


def _conditions(
    codec: TableCodec, where: dict[Name, Any]
) -> tuple[dict[Name, Any], dict[Name, list[Any]], dict[Name, tuple[Any, Any]]]:
    """Values to hold, sets of levels, and ranges."""
    held: dict[Name, Any] = {}
    sets: dict[Name, list[Any]] = {}
    ranges: dict[Name, tuple[Any, Any]] = {}
    for name, value in where.items():
        if isinstance(value, tuple):
            if len(value) != 2:
                raise ValueError(f"where[{name!r}]={value!r}: a range is (low, high), with None for an open end")
            codec.columns_of(name)
            ranges[name] = value
        elif isinstance(value, (set, frozenset, list)):
            sets[name] = list(value)
        else:
            held[name] = value
    return held, sets, ranges


def _within(rows: pd.DataFrame, ranges: Mapping[Name, tuple[Any, Any]]) -> pd.Series:
    keep = pd.Series(True, index=rows.index)
    for name, (low, high) in ranges.items():
        if low is not None:
            keep &= (rows[name] >= low).fillna(False).astype(bool)
        if high is not None:
            keep &= (rows[name] <= high).fillna(False).astype(bool)
    return keep
