"""One honest report of a synthetic table: shapes, trends, utility, detection, coverage and privacy, with their floors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
import torch

from polydiff.core.data import Rng
from polydiff.core.evaluation import Figure, Interval, Report, precision_recall_density_coverage
from polydiff.tabular.alpha_precision import alpha_precision
from polydiff.tabular.coder import Coder
from polydiff.tabular.detection import detection_auc
from polydiff.tabular.distances import closest_record, thinned, wasserstein
from polydiff.tabular.imputation import ImputationError, imputation_coverage, imputation_error
from polydiff.tabular.privacy import closer_to_train, membership_inference
from polydiff.tabular.shapes import column_shapes, mutual_information, pair_trends
from polydiff.tabular.utility import Efficiency, Learner, Task, machine_learning_efficiency

__all__ = [
    "Efficiency",
    "ImputationError",
    "alpha_precision",
    "closer_to_train",
    "closest_record",
    "column_shapes",
    "detection_auc",
    "evaluate",
    "imputation_coverage",
    "imputation_error",
    "machine_learning_efficiency",
    "membership_inference",
    "mutual_information",
    "over_seeds",
    "pair_trends",
    "wasserstein",
]


def evaluate(
    synthetic: pd.DataFrame,
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    target: Hashable | None = None,
    task: Task | None = None,
    learners: Sequence[Learner] = ("boosting", "linear"),
    categorical: Sequence[Hashable] | None = None,
    limit: int = 2000,
    seed: int = 0,
) -> Report:
    """A synthetic against a held-out table, each figure beside that of the training table: what copying would score.

    Fidelity is measured against ``test``, which the generator never saw; the floor puts equally many rows of ``train`` in
    the place of the synthetic ones. Of the privacy figures the floor is ½, their value where nothing is given away.

    Args:
        synthetic: Generated rows.
        train: The rows that the generator was fitted to.
        test: Rows of the same law that it never saw.
        target: Column that the models of machine-learning efficiency predict; without one there is no such figure.
        task: Classification or regression, by the target's values unless given.
        learners: Classifiers and regressors to use.
        categorical: Columns that are categories; by their dtypes in ``train`` unless given.
        limit: Rows a side of the figures that compare all pairs of rows.
        seed: Of thinning, folds and learners.

    Raises:
        ValueError: For other columns, duplicate names or too few rows.
    """
    names = list(train.columns)
    kinds = Coder.of(train, synthetic, test, categorical=categorical).categorical
    made, real, held = (f[names].reset_index(drop=True) for f in (synthetic, train, test))
    figures = [*_margins(made, real, held, kinds, seed)]
    if target is not None:
        for learner in learners:
            found = machine_learning_efficiency(
                made, real, held, target, task=task, learner=learner, categorical=kinds, seed=seed
            )
            figures += _efficiency(found, learner)
    for learner in learners:
        value, floor = (detection_auc(held, f, learner=learner, categorical=kinds, seed=seed) for f in (made, real))
        meaning = f"how well {learner} tells it from held-out rows; 0.5 means it cannot"
        figures.append(_with_interval(f"detection AUC {learner}", value, floor.estimate, "lower", meaning))
    small = [thinned(f, limit, seed) for f in (made, real, held)]
    figures += _neighbourhoods(small[0], small[1], small[2], real, kinds, seed)
    share = closer_to_train(made, real, held, categorical=kinds, seed=seed)
    figures.append(_with_interval("closer to train", share, 0.5, "near", "share nearer to training than held-out rows"))
    attack = membership_inference(made, small[1], small[2], categorical=kinds, seed=seed)
    figures.append(_with_interval("membership AUC", attack, 0.5, "lower", "telling training rows by how near it comes"))
    return Report(tuple(figures))


def over_seeds(reports: Sequence[Report]) -> pd.DataFrame:
    """Mean, standard deviation and 95 % t-interval of each figure over runs, with the mean floor; one row a figure.

    Raises:
        ValueError: For no report, or reports of different figures.
    """
    from scipy.stats import t

    if not reports:
        raise ValueError("no report was given: need at least one")
    names = [f.name for f in reports[0].figures]
    if any([f.name for f in r.figures] != names for r in reports):
        raise ValueError("the reports hold different figures: evaluate every run alike")
    values = np.array([[f.value for f in r.figures] for r in reports])
    runs = len(values)
    sd = values.std(0, ddof=1) if runs > 1 else np.full(len(names), np.nan)
    half = sd * t.ppf(0.975, max(runs - 1, 1)) / np.sqrt(runs)
    mean, floor = values.mean(0), np.mean([[f.floor for f in r.figures] for r in reports], 0)
    columns = {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "floor": floor, "runs": runs}
    return pd.DataFrame(columns, index=pd.Index(names, name="metric"))


# ------------------------------------------------------------------ parts of the report


def _margins(
    made: pd.DataFrame, real: pd.DataFrame, held: pd.DataFrame, kinds: Sequence[Hashable], seed: int
) -> list[Figure]:
    n = min(len(made), len(real), len(held))
    ours, theirs, against = (thinned(f, n, seed) for f in (made, real, held))
    figures = []
    for name, metric, meaning in (
        ("shape error %", column_shapes, "distance of the margins, mean over columns"),
        ("trend error %", pair_trends, "distance of correlations and contingency tables, mean over pairs"),
    ):
        scores = [metric(against, f, categorical=kinds) for f in (ours, theirs)]
        if len(scores[0]):
            value, floor = (100.0 * (1.0 - s) for s in scores)
            figures.append(
                _with_interval(name, _mean(value, seed, f"mean:N={n}"), float(floor.mean()), "lower", meaning)
            )
    information = [mutual_information(f, reference=held, categorical=kinds) for f in (against, ours, theirs)]
    if len(information[0]):
        value, floor = ((f - information[0]).abs() for f in information[1:])
        meaning = "gap of the mutual information of pairs, in nats"
        found = _mean(value, seed, f"plug-in:10-bins:N={n}")
        figures.append(_with_interval("information gap", found, float(floor.mean()), "lower", meaning))
    return figures


def _mean(values: pd.Series, seed: int, name: str) -> Interval:
    """The mean with its bootstrap interval over columns or pairs."""
    x = values.to_numpy()
    rows = (Rng(seed).uniform(torch.empty(500, len(x))) * len(x)).long().numpy()
    low, high = np.quantile(x[rows].mean(1), [0.025, 0.975])
    return Interval(float(x.mean()), float(low), float(high), 0.95, name)


def _efficiency(found: Efficiency, learner: Learner) -> list[Figure]:
    return [
        _with_interval(
            f"TSTR {score} {learner}",
            value,
            found.trtr[score].estimate,
            "lower" if score == "rmse" else "higher",
            f"trained on it, tested on held-out rows; the floor is trained on the real rows (ratio {found.ratio(score):.3f})",
            found.id,
        )
        for score, value in found.tstr.items()
    ]


def _neighbourhoods(
    made: pd.DataFrame,
    real: pd.DataFrame,
    held: pd.DataFrame,
    scale: pd.DataFrame,
    kinds: Sequence[Hashable],
    seed: int,
) -> list[Figure]:
    n = min(len(made), len(real), len(held))
    frames = [thinned(f, n, seed) for f in (made, real, held)]
    coder = Coder.of(scale, *frames, categorical=kinds)
    a, b, c = (coder.features(f) for f in frames)
    value, floor = (precision_recall_density_coverage(c, x) for x in (a, b))
    meanings = {
        "precision": "share of its rows inside the manifold of held-out ones",
        "recall": "share of held-out rows inside its manifold",
        "density": "held-out balls around a row of it",
        "coverage": "share of held-out rows with one of it nearby",
    }
    figures = [
        Figure(k, getattr(value, k), getattr(floor, k), "higher", value.id, meaning) for k, meaning in meanings.items()
    ]
    typical, real_typical = (
        alpha_precision(frames[2], f, scale=scale, categorical=kinds, seed=seed) for f in frames[:2]
    )
    figures += [
        Figure(
            "α-precision",
            typical.precision,
            real_typical.precision,
            "higher",
            typical.id,
            "how typical its rows are of held-out ones",
        ),
        Figure(
            "β-recall",
            typical.recall,
            real_typical.recall,
            "higher",
            typical.id,
            "how much of the held-out rows it covers; about 0.5 for equal laws",
        ),
    ]
    ours, theirs = (wasserstein(frames[2], f, scale=scale, categorical=kinds, seed=seed) for f in frames[:2])
    meaning = "cost of moving it onto held-out rows, in ranges of a column"
    return [*figures, Figure("wasserstein", ours.value, theirs.value, "lower", ours.id, meaning)]


def _with_interval(
    name: str, value: Interval, floor: float, better: str, meaning: str, note: str | None = None
) -> Figure:
    low, high = value.low, value.high
    return Figure(
        name, value.estimate, floor, better, note or value.id, f"{meaning}; 95 % interval {low:.4f} to {high:.4f}"
    )
