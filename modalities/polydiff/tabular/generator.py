"""TabularGenerator: fit it on a table; sample, impute, balance, score."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polydiff.core.denoisers import Model
from polydiff.core.evaluation import Report
from polydiff.core.sampling import Sampler
from polydiff.core.training import Batches, History, adamw, train
from polydiff.tabular.build import model_of, objective_of
from polydiff.tabular.conditions import Conditions
from polydiff.tabular.copying import Watch
from polydiff.tabular.data import TableCodec
from polydiff.tabular.drawing import Drawing
from polydiff.tabular.frames import Unseen, matched
from polydiff.tabular.pooling import pooled
from polydiff.tabular.recipes import TableConfig, default
from polydiff.tabular.scoring import Reading, diffusion_time, row_bounds
from polydiff.tabular.utility import Learner
from polydiff.tabular.values import Kind, Name

__all__ = ["TabularGenerator"]

_REFERENCE = 5000  # generated rows that anomalies are told from


class TabularGenerator(Drawing):
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
            steps: Sampling steps (evaluations of the network).
            seed: Row i depends on seed and i alone, whatever the batch size (without ranges).
            sampler: Any Sampler in place of DPM-Solver++(2M) for numbers with ancestral sampling for categories.
            batch_size: Rows at a time: memory, not results.
            progress: Show a bar; by default only on a terminal.

        Raises:
            ValueError: For unknown columns and values, and where a range is met by less than one row in 300.
        """
        codec, _ = self._fitted()
        asked = Conditions.of(codec.schema, where)
        run = self._sampler(steps) if sampler is None else sampler

        def draw(rows: int, seed: int) -> pd.DataFrame:
            given, known = self._held(asked, rows, seed, batch_size)
            return codec.decode(self._draw(rows, given, known, None, run, seed, batch_size, progress))

        return asked.reject(draw, n, seed, batch_size) if asked.ranges else draw(n, seed)

    def impute(
        self,
        df: pd.DataFrame,
        *,
        draws: int = 1,
        pool: bool = False,
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
            steps: Sampling steps.
            seed: Of the draws.
            batch_size: Rows at a time.
            unseen: ``"missing"`` takes a category that the training data lacked for a hole; ``"error"`` refuses it.
        """
        codec, _ = self._fitted()
        if draws < 1:
            raise ValueError(f"draws={draws}: need at least 1")
        given, known = codec.given_frame(df, unseen=unseen)
        run, tables = self._sampler(steps), []
        for k in range(draws):
            x = self._draw(len(df), given, known, codec.allowed({}, missing=False), run, seed + k, batch_size, False)
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

    # -------------------------------------------------------------- scores

    def score_samples(
        self,
        df: pd.DataFrame,
        *,
        draws: int = 1,
        seed: int = 0,
        batch_size: int = 1024,
        unseen: Unseen = "error",
    ) -> np.ndarray:
        """A lower bound on the log-likelihood of each row in nats (minus the NELBO), ``(N,)``.

        Of numbers it is the log-density of their normal scores, the same change of variables for every row of a model: rows
        compare with rows, down to a twentieth of a standard deviation. Missing values count as values where the training
        data had them; elsewhere they are left out, and the score of what is there is an estimate, no bound.

        Args:
            df: Rows, with all columns.
            draws: Noisy paths of a row, each through all levels of noise.
            seed: Of the noise.
            batch_size: Rows at a time.
            unseen: ``"missing"`` takes a category that the training data lacked for a missing value; ``"error"`` refuses it.
        """
        codec, model = self._fitted()
        matched(codec.schema.columns, df, partial=False)
        data, known = codec.given_frame(df, missing="level", unseen=unseen)
        if not all(bool(v.all()) for v in known.values()):
            allowed = codec.allowed({}, missing=False)
            data = self._draw(len(df), data, known, allowed, self._sampler(None), seed, batch_size, False)
        here = ({k: v.to(self.device) for k, v in part.items()} for part in (data, known))
        return row_bounds(model, *here, draws=draws, seed=seed, batch_size=batch_size).numpy()

    def anomaly_score(
        self,
        df: pd.DataFrame,
        reference: pd.DataFrame | None = None,
        *,
        reading: Reading = "neighbours",
        k: int = 5,
        seed: int = 0,
    ) -> np.ndarray:
        """How strange each row is, ``(N,)``, larger for stranger: the diffusion time at which it would be ordinary.

        Unseen categories, values beyond the range that was seen and missing values are allowed and count as strange.

        Args:
            df: Rows, with all columns.
            reference: Ordinary rows, best those of training; 5,000 generated ones if left out, so that a saved generator
                needs no data.
            reading: ``"neighbours"`` (DTE-NP) or ``"time"``, a network trained in seconds on the reference (DTE-categorical).
            k: Neighbours of the first.
            seed: Of generated rows and network.

        Source: On Diffusion Modeling for Anomaly Detection, 2023, arXiv 2305.18593.
        """
        self._check(df)
        ordinary = self.sample(_REFERENCE, seed=seed, progress=False) if reference is None else reference
        return diffusion_time(df, ordinary, reading=reading, k=k, seed=seed).numpy()

    def evaluate(
        self,
        train: pd.DataFrame,
        holdout: pd.DataFrame,
        target: Name | None = None,
        *,
        n: int | None = None,
        learners: Sequence[Learner] = ("boosting", "linear"),
        limit: int = 2000,
        steps: int | None = None,
        seed: int = 0,
    ) -> Report:
        """As many new rows as ``train`` has, against ``holdout``: see ``polydiff.tabular.metrics.evaluate``.

        Args:
            train: The rows that it was fitted to.
            holdout: Rows of the same law that it never saw.
            target: Column that models trained on the new rows predict in ``holdout``.
            n: New rows, if not as many as ``train`` has.
            learners: Of these models, and of the detection.
            limit: Rows a side of the figures that compare all pairs of rows.
            steps: Sampling steps.
            seed: Of samples, thinning and learners.
        """
        from polydiff.tabular.metrics import evaluate

        for frame in (train, holdout):
            self._check(frame)
        made = self.sample(len(train) if n is None else n, steps=steps, seed=seed, progress=False)
        return evaluate(made, train, holdout, target=target, learners=learners, limit=limit, seed=seed)
