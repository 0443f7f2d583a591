"""What a fitted model says of rows, and what its rows are worth: scores, anomalies, evaluation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import pandas as pd

from polydiff.core.evaluation import Report
from polydiff.tabular.drawing import Drawing
from polydiff.tabular.frames import Unseen, matched
from polydiff.tabular.scoring import Reading, diffusion_time, row_bounds
from polydiff.tabular.utility import Learner
from polydiff.tabular.values import Name

__all__ = ["Measuring"]

_REFERENCE = 5000  # generated rows that anomalies are told from


class Measuring(Drawing):
    """A generator of rows that scores rows of any origin, and is itself measured against held-out ones."""

    @abstractmethod
    def sample(self, n: int, *, steps: int | None = None, seed: int = 0, progress: bool | None = None) -> pd.DataFrame:
        """n new rows."""

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
