"""Are samples copies of the training data? Their distance to it, against that of data the model never saw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.evaluation.features import Features, as_pair, row_blocks, squared_distances

__all__ = ["Memorisation", "memorisation_test"]


@dataclass(frozen=True, slots=True)
class Memorisation:
    """Evidence that samples lie closer to the training data than new data of the same law do.

    Small p-values and a large ``closer`` or ``share`` mean memorisation. The opposite, samples farther from training
    data than held-out data are, is no merit: it is poor fit, which this test does not look for.

    Attributes:
        closer: Probability that a sample is closer to the training data than a held-out point is (ties count half);
            0.5 is ideal.
        p_value: One-sided Mann–Whitney test of ``closer`` > 0.5: sees a shift of the whole sample.
        share: Share of samples closer than the ``quantile`` of the held-out distances; ``quantile`` is ideal.
        share_p_value: One-sided exact test of that share: sees a few copies among many new samples.
        quantile: Which part of the held-out distances counts as close.
        copies: Share of samples equal to a training row.
        direction: In words, which way is bad.
        id: Implementation and sample sizes.
    """

    closer: float
    p_value: float
    share: float
    share_p_value: float
    quantile: float
    copies: float
    direction: str
    id: str


def memorisation_test(train: Features, holdout: Features, samples: Features, *, quantile: float = 0.05) -> Memorisation:
    """Test of samples for memorised training data, with held-out data as the yardstick.

    With ``d(a) = min_i |a − train_i|``, a model that has learned the law and no more gives samples whose d has the law
    of held-out data's d. Two one-sided tests against "samples are closer": Mann–Whitney on all distances, and on the
    count below the r-th smallest held-out distance, ``r = ⌈quantile · H⌉``. If at least c of S samples lie below it,
    at least c of the c + r − 1 smallest of all distances are samples, which is hypergeometric under equal laws.

    Args:
        train: Features (N, D) of the data the model was fitted to.
        holdout: Features (H, D) of data of the same source, which neither training nor selection saw.
        samples: Features (S, D) of the model's unconditional samples.
        quantile: In (0, 1].

    Raises:
        ValueError: If the features are no finite matrices with as many columns, or ``quantile`` is out of range.

    Source: A Non-Parametric Test to Detect Data-Copying in Generative Models, 2020, arXiv 2004.05675 (the comparison by
    Mann–Whitney; theirs within cells, this one over the whole space).
    """
    if not 0.0 < quantile <= 1.0:
        raise ValueError(f"quantile is {quantile}; it must lie in (0, 1]")
    from scipy.stats import hypergeom, mannwhitneyu

    reference, held_out = as_pair(train, holdout, ("train", "holdout"), at_least=1)
    _, generated = as_pair(train, samples, ("train", "samples"), at_least=1)
    d_held, d_sample = _nearest(held_out, reference), _nearest(generated, reference)
    h, s = len(d_held), len(d_sample)
    u = mannwhitneyu(d_sample.numpy(), d_held.numpy(), alternative="less")
    rank = math.ceil(quantile * h)
    count = int((d_sample < d_held.kthvalue(rank).values).sum())
    return Memorisation(
        closer=1.0 - float(u.statistic) / (h * s),
        p_value=float(u.pvalue),
        share=count / s,
        share_p_value=float(hypergeom.sf(count - 1, h + s, s, count + rank - 1)),
        quantile=quantile,
        copies=float((d_sample == 0).double().mean()),
        direction="memorised if samples are closer to train than holdout is: small p-values, closer > 0.5",
        id=f"memorisation:mann-whitney:float64:N={len(reference)}:H={h}:S={s}",
    )


def _nearest(x: Tensor, reference: Tensor) -> Tensor:
    """Squared distance of every row to its nearest reference row, (N,) on the CPU; the tests use ranks alone."""
    return torch.cat(
        [squared_distances(x[rows], reference).amin(1) for rows in row_blocks(len(x), len(reference))]
    ).cpu()
