"""TabularGenerator: fit it on a table; sample, impute, balance, score."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd
import torch
from torch import Tensor

from polydiff.core.denoisers import Model
from polydiff.core.sampling import Sampler
from polydiff.core.training import Batches, History, adamw, train
from polydiff.tabular.build import model_of, objective_of
from polydiff.tabular.conditions import Conditions
from polydiff.tabular.copying import Watch
from polydiff.tabular.data import TableCodec
from polydiff.tabular.frames import Unseen
from polydiff.tabular.measuring import Measuring
from polydiff.tabular.pooling import pooled
from polydiff.tabular.recipes import TableConfig, default
from polydiff.tabular.values import Kind, Name

__all__ = ["TabularGenerator"]


class TabularGenerator(Measuring):
    """Learns the distribution of the rows of a table: numbers by Gaussian, categories by masked diffusion, one network.

    Args:
        config: A recipe (``recipes.small()``, ``medium()``, ``large()``) or your own ``TableConfig``; chosen by the number of
            rows if left out.
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

    def __init__(
        self, config: TableConfig | None = None, *, seed: int = 0, device: str | torch.device | None = None
    ) -> None:
        super().__init__(config, seed=seed, device=device)
        self._params: dict[str, Any] = {"config": config, "seed": seed, "device": device}

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
        holdout: pd.DataFrame | None = None,
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
            holdout: Rows of the same law that are kept from training: the fit stops, with a warning, once its samples are
                nearer to ``df`` than to them beyond chance (see ``Watch``).
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
        if holdout is not None:
            callbacks = [*callbacks, Watch(self._probe(codec, model), df, holdout)]
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

    def _probe(self, codec: TableCodec, model: Model) -> Callable[[int, int], pd.DataFrame]:
        """Draws rows of a model that is being trained."""
        probe = copy.copy(self)
        probe.codec, probe.model = codec, model
        return lambda n, seed: probe.sample(n, seed=seed, progress=False)

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
        guidance: float = 1.0,
        steps: int | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        batch_size: int = 8192,
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """n new rows, with the columns, dtypes and categories of the training data.

        Args:
            n: How many.
            where: Columns to hold: a value (``None``: missing); a set or list of values; or a range, a tuple ``(low, high)``
                with ``None`` for an open end. Values are given to the model; of sets, and of ranges of levels in order, a
                value is drawn from its law given the set, and held; ranges of numbers and datetimes reject rows, and the
                share that was kept is in ``frame.attrs["accepted"]``.
            guidance: Above 1 the held cells count for more (see ``KnownGuidance``), at two evaluations a step; 1 is the model's
                own law given them.
            steps: Sampling steps (evaluations of the network).
            seed: Row i depends on seed and i alone, whatever the batch size (without ranges).
            sampler: Any Sampler in place of DPM-Solver++(2M) for numbers with ancestral sampling for categories.
            batch_size: Rows at a time: memory, not results.
            progress: Show a bar; by default only on a terminal.

        Raises:
            ValueError: For unknown columns and values, where a range is met by less than one row in 300, and for guidance
                without a held cell.
        """
        codec, _ = self._fitted()
        asked = Conditions.of(codec.schema, where)
        scale = self._guided(guidance)
        if scale != 1.0 and not asked.held and not asked.sets:
            raise ValueError(
                f"guidance={guidance}: where={where!r} holds no cell that could guide the rest; hold a value or a set"
            )
        run = self._sampler(steps) if sampler is None else sampler

        def draw(rows: int, seed: int) -> pd.DataFrame:
            given, known = self._held(asked, rows, seed, batch_size, scale)
            return codec.decode(self._draw(rows, given, known, None, run, seed, batch_size, progress, scale))

        return asked.reject(draw, n, seed, batch_size) if asked.ranges else draw(n, seed)

    def impute(
        self,
        df: pd.DataFrame,
        *,
        draws: int = 1,
        pool: bool = False,
        guidance: float = 1.0,
        steps: int | None = None,
        seed: int = 0,
        batch_size: int = 8192,
        unseen: Unseen = "error",
    ) -> pd.DataFrame | list[pd.DataFrame]:
        """The table with every missing value drawn from its law given the rest of its row.

        Args:
            df: Any pattern of holes; columns may be left out altogether.
            draws: Multiple imputation: so many completed tables, in a list, when above 1.
            pool: One table instead, with the median and the commonest level of the draws: the best single guess.
            guidance: Above 1 the cells that are there count for more, at two evaluations a step; 1 is the model's own law.
            steps: Sampling steps.
            seed: Of the draws.
            batch_size: Rows at a time.
            unseen: ``"missing"`` takes a category that the training data lacked for a hole; ``"error"`` refuses it.
        """
        codec, _ = self._fitted()
        if draws < 1:
            raise ValueError(f"draws={draws}: need at least 1")
        given, known = codec.given_frame(df, unseen=unseen)
        run, scale, tables = self._sampler(steps), self._guided(guidance), []
        allowed = codec.allowed({}, missing=False)
        for k in range(draws):
            x = self._draw(len(df), given, known, allowed, run, seed + k, batch_size, False, scale)
            tables.append(codec.fill(df, codec.decode(x), unseen=unseen))
        if pool:
            return codec.fill(df, pooled(codec.schema, tables), unseen=unseen)
        return tables[0] if draws == 1 else tables

    def balance(
        self, df: pd.DataFrame, target: Name, *, steps: int | None = None, seed: int = 0, batch_size: int = 8192
    ) -> pd.DataFrame:
        """The table with new rows of the rarer values of ``target`` behind it, until all are as frequent as the first."""
        self._check(df)
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
