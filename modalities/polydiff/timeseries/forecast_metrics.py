"""Scores of probabilistic forecasts: CRPS, energy score, the quantile losses of GluonTS. Lower is better for all.

Samples are arrays (S, …) whose first axis counts the draws, truths arrays (…) without it. Where the truth is NaN nothing is
scored; a NaN in a forecast that is scored is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from polydiff.core.evaluation import Score

__all__ = [
    "LEVELS",
    "crps",
    "crps_sum",
    "energy_score",
    "mean_crps",
    "mean_quantile_loss",
    "quantile_loss",
    "sample_quantiles",
]

LEVELS = tuple(i / 10 for i in range(1, 10))


def crps(samples: np.ndarray, truth: np.ndarray, *, estimator: Literal["fair", "energy"] = "fair") -> np.ndarray:
    """Continuous ranked probability score of each value, in its units.

    ``CRPS = E|X − y| − ½ E|X − X'|``. The second mean is over all S² pairs of draws (``"energy"``: the score of the
    empirical law, biased by the number of draws) or over the S (S − 1) distinct ones (``"fair"``: unbiased for the law that
    the draws come from). With sorted draws ``Σ_{i,j} |x_i − x_j| = 2 Σ_i (2 i − S − 1) x_(i)``: O(S log S).

    Args:
        samples: Draws (S, …); S ≥ 2 for the fair estimator.
        truth: Values (…).
        estimator: As above.

    Returns:
        Scores (…), NaN where the truth is.

    Raises:
        ValueError: For other shapes, too few draws, or a draw that is not finite where there is a truth.

    Source: Strictly Proper Scoring Rules, 2007, JASA 102:359; Fair scores for ensemble forecasts, 2014, QJRMS 140:1917.
    """
    x, y = _checked(samples, truth)
    count = len(x)
    if estimator not in ("fair", "energy"):
        raise ValueError(f"estimator={estimator!r}: 'fair' or 'energy' are there")
    if estimator == "fair" and count < 2:
        raise ValueError("the fair CRPS needs at least 2 draws; take estimator='energy' for a point forecast")
    pairs = count * (count - 1 if estimator == "fair" else count)
    ranks = (2 * np.arange(1, count + 1) - count - 1).astype(np.float64)
    x = np.sort(x - y, axis=0)
    return np.asarray(np.abs(x).mean(0) - np.tensordot(ranks, x, 1) / pairs)


def mean_crps(samples: np.ndarray, truth: np.ndarray) -> Score:
    """Mean of the fair CRPS over all values that are there.

    Raises:
        ValueError: As ``crps``, or if there is no truth at all.
    """
    found = crps(samples, truth)
    return Score(float(found[_there(found)].mean()), f"crps:fair:S={len(samples)}:N={int(_there(found).sum())}")


def energy_score(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Energy score of each vector, ``E‖X − y‖ − ½ E‖X − X'‖`` with distinct draws: the CRPS of whole paths.

    Args:
        samples: Draws (S, N, D), S ≥ 2.
        truth: Vectors (N, D); entries that are NaN are left out of the norms of their vector.

    Returns:
        Scores (N,), NaN where nothing of a vector is there.

    Raises:
        ValueError: As ``crps``, or if the vectors are no matrix.

    Source: Strictly Proper Scoring Rules, 2007, JASA 102:359.
    """
    from scipy.spatial.distance import pdist

    x, y = _checked(samples, truth)
    if y.ndim != 2 or len(x) < 2:
        raise ValueError(f"samples of shape {x.shape}: the energy score needs (S, N, D) with at least 2 draws")
    found = np.full(len(y), np.nan)
    for i, row in enumerate(y):
        kept = ~np.isnan(row)
        if kept.any():
            draws = np.ascontiguousarray(x[:, i, kept])
            found[i] = np.linalg.norm(draws - row[kept], axis=1).mean() - pdist(draws).mean() / 2
    return found


def sample_quantiles(samples: np.ndarray, levels: Sequence[float] = LEVELS) -> np.ndarray:
    """Quantiles (Q, …) of draws (S, …) as GluonTS reads them: the sorted draw of number ``round((S − 1) q)``, from 0."""
    x = np.sort(np.asarray(samples, dtype=np.float64), axis=0)
    ranks = [round((len(x) - 1) * q) for q in _levels(levels)]
    return np.asarray(x[ranks])


def quantile_loss(quantiles: np.ndarray, truth: np.ndarray, levels: Sequence[float] = LEVELS) -> np.ndarray:
    """Weighted quantile loss of each level, ``2 Σ |(ŷ_q − y) (1[y ≤ ŷ_q] − q)| / Σ |y|``, (Q,).

    The sums are over all values that are there, so large series weigh more.

    Args:
        quantiles: Forecasts (Q, …), one a level.
        truth: Values (…).
        levels: Of the Q quantiles, in (0, 1).

    Raises:
        ValueError: For other shapes or levels, or if the truth is 0 throughout or all missing.

    Source: GluonTS: Probabilistic and Neural Time Series Modeling in Python, 2020, JMLR 21:116.
    """
    z, y = _checked(quantiles, truth)
    q = np.array(_levels(levels))
    if len(q) != len(z):
        raise ValueError(f"{len(z)} quantiles beside {len(q)} levels: one level a quantile is needed")
    there = _there(y)
    z, y = z[:, there], y[there]
    scale = np.abs(y).sum()
    if scale == 0:
        raise ValueError("the truth is 0 throughout: a loss weighted by its size is undefined, take the CRPS")
    losses = np.abs((z - y) * ((y <= z) - q[:, None])).sum(1)
    return np.asarray(2 * losses / scale)


def mean_quantile_loss(
    samples: np.ndarray,
    truth: np.ndarray,
    levels: Sequence[float] = LEVELS,
    *,
    of: Literal["samples", "quantiles"] = "samples",
) -> Score:
    """GluonTS's ``mean_wQuantileLoss``, the mean of ``quantile_loss`` over the levels: what papers report as CRPS.

    Args:
        samples: Draws (S, …), or quantiles (Q, …) of the levels.
        truth: Values (…).
        levels: In (0, 1); GluonTS takes 0.1 … 0.9, forecasting papers often 0.05 … 0.95.
        of: What the first argument holds.

    Raises:
        ValueError: As ``quantile_loss``.
    """
    quantiles = sample_quantiles(samples, levels) if of == "samples" else samples
    value = float(quantile_loss(quantiles, truth, levels).mean())
    count = f"S={len(samples)}" if of == "samples" else "quantiles"
    return Score(value, f"mwql:gluonts:Q={len(levels)}:{count}:N={int((~np.isnan(truth)).sum())}")


def crps_sum(samples: np.ndarray, truth: np.ndarray, levels: Sequence[float] = LEVELS) -> Score:
    """``mean_quantile_loss`` of the sum over the last axis, the channels: errors that are wrong together show.

    Steps that lack a channel are not scored.

    Args:
        samples: Draws (S, …, D).
        truth: Values (…, D).
        levels: In (0, 1).

    Raises:
        ValueError: As ``quantile_loss``.

    Source: High-Dimensional Multivariate Forecasting with Low-Rank Gaussian Copula Processes, 2019, arXiv 1910.03002.
    """
    x, y = _checked(samples, truth)
    found = mean_quantile_loss(x.sum(-1), y.sum(-1), levels)
    return Score(found.value, found.id.replace("mwql", "crps-sum"))


def _checked(samples: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(samples, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.ndim < 1 or x.shape[1:] != y.shape or len(x) == 0:
        raise ValueError(f"forecasts of shape {x.shape} beside a truth of {y.shape}: need (S, *{y.shape}) with S ≥ 1")
    if not np.isfinite(x[:, ~np.isnan(y)]).all():
        raise ValueError("a forecast holds NaN or infinity where there is a truth: nothing can be scored there")
    return x, y


def _there(values: np.ndarray) -> np.ndarray:
    there = np.asarray(~np.isnan(values))
    if not there.any():
        raise ValueError("the truth is missing throughout: there is nothing to score")
    return there


def _levels(levels: Sequence[float]) -> Sequence[float]:
    wrong = [q for q in levels if not 0 < q < 1]
    if wrong or len(levels) == 0:
        raise ValueError(f"quantile levels {list(levels)}: each must lie in (0, 1), and one at least is needed")
    return levels
