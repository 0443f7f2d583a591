"""Does a synthetic table give its training rows away? Distances to training rows, against those to held-out ones."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from polydiff.core.evaluation import Interval, wilson_interval
from polydiff.tabular.distances import closest_record, thinned
from polydiff.tabular.ranking import auc_interval, auc_with_variance

__all__ = ["closer_to_train", "membership_inference"]


def closer_to_train(
    synthetic: pd.DataFrame,
    train: pd.DataFrame,
    holdout: pd.DataFrame,
    *,
    categorical: Sequence[Hashable] | None = None,
    limit: int = 4000,
    seed: int = 0,
) -> Interval:
    """Share of synthetic rows nearer to the training rows than to equally many held-out rows; ½ where nothing was copied.

    Ties are left out: in tables of few levels they say nothing. The larger of the two tables is thinned. The interval is
    binomial: it covers the draw of synthetic rows, not that of train and holdout.

    Args:
        synthetic: Generated rows.
        train: The rows that the generator was fitted to.
        holdout: Rows of the same law that it never saw.
        categorical: Columns that are categories; by their dtypes unless given.
        limit: Synthetic rows whose neighbours are looked for (4,000 leave ±1.5 points); the reference is never thinned
            further, since the distance to the nearest record depends on how many there are.
        seed: Of the thinning.

    Returns:
        The share in [0, 1] with Wilson's interval of 95 %.

    Source: Mixed-Type Tabular Data Synthesis with Score-based Diffusion in Latent Space, 2023, arXiv 2310.09656, app. F.6.
    """
    n = min(len(train), len(holdout))
    synthetic = thinned(synthetic, limit, seed)
    distances = [
        closest_record(synthetic, thinned(f, n, seed), scale=train, categorical=categorical) for f in (train, holdout)
    ]
    wins, losses = int((distances[0] < distances[1]).sum()), int((distances[0] > distances[1]).sum())
    if wins + losses == 0:
        return Interval(0.5, 0.0, 1.0, 0.95, f"closer-to-train:gower:all-ties:N={n}:S={len(synthetic)}")
    found = wilson_interval(wins, wins + losses)
    name = f"closer-to-train:gower:N={n}:S={len(synthetic)}:ties={len(synthetic) - wins - losses}"
    return Interval(found.estimate, found.low, found.high, found.level, name)


def membership_inference(
    synthetic: pd.DataFrame,
    members: pd.DataFrame,
    others: pd.DataFrame,
    *,
    categorical: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Interval:
    """AUC of telling training rows from others by their distance to the nearest synthetic row; ½ where it tells nothing.

    Args:
        synthetic: Generated rows.
        members: The rows that the generator was fitted to; thinned to as many as the others.
        others: Rows of the same law that it never saw.
        categorical: Columns that are categories; by their dtypes unless given.
        seed: Of the thinning.

    Returns:
        The area with DeLong's interval of 95 %.

    Source: GAN-Leaks: A Taxonomy of Membership Inference Attacks against Generative Models, 2019, arXiv 1909.03935.
    """
    n = min(len(members), len(others))
    near: list[np.ndarray] = [
        -closest_record(thinned(f, n, seed), synthetic, scale=members, categorical=categorical)
        for f in (members, others)
    ]
    return auc_interval(*auc_with_variance(near[0], near[1]), f"membership:gower:N={n}:S={len(synthetic)}")
