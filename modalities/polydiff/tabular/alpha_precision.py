"""α-precision and β-recall: are synthetic rows typical, and do they cover the typical real ones?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polydiff.core.evaluation.features import row_blocks, squared_distances
from polydiff.tabular.coder import Coder
from polydiff.tabular.distances import thinned

__all__ = ["AlphaPrecision", "alpha_precision"]

_STEPS = 30  # levels α and β, as in synthcity


@dataclass(frozen=True, slots=True)
class AlphaPrecision:
    """How far both curves are from the diagonal; 1 is the most.

    Attributes:
        precision: ``1 − Σ_α |α − P_α| / Σ_α α`` (Δ precision α).
        recall: ``1 − Σ_β |β − R_β| / Σ_β β`` (Δ coverage β); about ½ for equal laws.
        id: Variant and sample size.
    """

    precision: float
    recall: float
    id: str


def alpha_precision(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    scale: pd.DataFrame | None = None,
    categorical: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> AlphaPrecision:
    """α-precision and β-recall in the "naive" variant of synthcity, which TabSyn and TabDiff print: no learned embedding.

    Numbers are scaled to [0, 1] and categories are indicators. ``P_α`` is the share of synthetic rows within the ball around
    the mean of the real rows that holds a share α of them. ``R_β`` is the share of real rows whose nearest synthetic row is
    no farther than their nearest other real row and lies, among the nearest synthetic rows, within the share β that is
    closest to the mean of the synthetic ones. Both depend on the number of rows: compare at equal ones, beside the floor.

    Args:
        real: A table.
        synthetic: Another with the same columns; the larger one is thinned.
        scale: The table whose ranges scale the numbers; ``real`` unless given.
        categorical: Columns that are categories; by their dtypes unless given.
        seed: Of the thinning.

    Raises:
        ValueError: For other columns, or fewer than two rows.

    Source: How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing Generative Models, 2021,
    arXiv 2102.08921.
    """
    n = min(len(real), len(synthetic))
    if n < 2:
        raise ValueError(f"tables of {len(real)} and {len(synthetic)} rows: both need at least two")
    coder = Coder.of(real if scale is None else scale, real, synthetic, categorical=categorical)
    x, y = (_features(coder, thinned(f, n, seed)) for f in (real, synthetic))
    levels = torch.linspace(0, 1, _STEPS, dtype=torch.float64)
    reach = torch.quantile(_norm(x - x.mean(0)), levels)
    precision = (_norm(y - x.mean(0)) <= reach[:, None]).double().mean(1)

    own, other, nearest = _neighbours(x, y)
    depth = _norm(y - y.mean(0))[nearest]
    within = depth <= torch.quantile(depth, levels)[:, None]
    recall = ((other <= own) & within).double().mean(1)

    def near_diagonal(curve: Tensor) -> float:
        return float(1 - (levels - curve).abs().sum() / levels.sum())

    return AlphaPrecision(
        near_diagonal(precision), near_diagonal(recall), f"alpha-precision:naive:{_STEPS}-steps:N={n}"
    )


def _features(coder: Coder, frame: pd.DataFrame) -> Tensor:
    indicators = coder.features(frame)[:, 2 * len(coder.numeric) :]
    return torch.as_tensor(np.concatenate([coder.scaled(frame), indicators], 1))


def _norm(x: Tensor) -> Tensor:
    return x.square().sum(1).sqrt()


def _neighbours(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distance of each row of x to its nearest other row and to its nearest row of y, and which that is."""
    own, other, nearest = [], [], []
    for rows in row_blocks(len(x), len(x)):
        among = squared_distances(x[rows], x)
        among.diagonal(rows.start).fill_(float("inf"))
        own.append(among.amin(1))
        found = squared_distances(x[rows], y).min(1)
        other.append(found.values)
        nearest.append(found.indices)
    return torch.cat(own), torch.cat(other), torch.cat(nearest)
