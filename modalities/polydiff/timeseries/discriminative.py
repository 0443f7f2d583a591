"""TimeGAN's scores by trained readers: can a GRU tell windows apart, and does one trained on them forecast real ones?

The unit, its initial values, Adam at 1e-3, the numbers of steps and windows a step are those of the published code. The
readers have a handful of units: a low discriminative score is necessary, not sufficient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polydiff.core.data import Rng
from polydiff.core.evaluation import Score
from polydiff.timeseries.scores import Windows, as_windows, unit_range
from polydiff.timeseries.small_gru import Reader

BATCH = 128

__all__ = ["discriminative_score", "predictive_score"]


def discriminative_score(
    real: Windows, synthetic: Windows, *, seed: int = 0, iterations: int = 2000, hidden: int | None = None
) -> Score:
    """``|accuracy − ½|`` of a GRU that is trained on 80 % of both sets and tested on the rest: 0 is ideal, ½ the worst.

    Each channel is mapped to [0, 1] by the range of the real windows. The last state goes through a linear layer; the loss
    is the sum of the cross-entropies of 128 real and 128 synthetic windows a step. The accuracy is the mean of those on
    real and on synthetic windows, the usual one where both sets are equally large.

    Args:
        real: Windows (N, L, D), held out from the generator's training.
        synthetic: Windows (M, L, D).
        seed: Of split, weights and batches.
        iterations: Training steps.
        hidden: Units; ``max(D // 2, 1)`` unless given.

    Raises:
        ValueError: For other shapes or fewer than 5 windows.

    Source: Time-series Generative Adversarial Networks, 2019, NeurIPS; metrics/discriminative_metrics.py.
    """
    r, s = as_windows(real, "real windows"), as_windows(synthetic, "synthetic windows")
    if min(len(r), len(s)) < 5 or r.shape[1:] != s.shape[1:]:
        raise ValueError(f"windows {tuple(r.shape)} and {tuple(s.shape)}: need at least 5 of each, of equal (L, D)")
    rng = Rng(seed)
    parts = [_split(x, rng.child("split", i)) for i, x in enumerate(unit_range(r, r, s))]
    units = max(r.shape[2] // 2, 1) if hidden is None else hidden
    reader = Reader(r.shape[2], units, rng.child("weights"))
    optimiser = torch.optim.Adam(reader.parameters(), lr=1e-3, fused=True)
    draws = rng.child("batches")
    sizes = [min(BATCH, len(train)) for train, _ in parts]
    label = torch.cat([torch.ones(sizes[0]), torch.zeros(sizes[1])])
    weight = torch.cat([torch.full((n,), 1 / n) for n in sizes])
    for _ in range(iterations):
        logit = reader(torch.cat([_batch(train, draws) for train, _ in parts]))[:, -1]
        loss = F.binary_cross_entropy_with_logits(logit, label, weight, reduction="sum")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        right = [((reader(test)[:, -1] > 0) == bool(1 - i)).double().mean() for i, (_, test) in enumerate(parts)]
    value = abs(float(sum(right)) / 2 - 0.5)
    return Score(value, f"discriminative:gru{units}:steps={iterations}:seed={seed}:N={len(r)}+{len(s)}")


def predictive_score(
    real: Windows, synthetic: Windows, *, seed: int = 0, iterations: int = 5000, hidden: int | None = None
) -> Score:
    """Error on real windows of a GRU trained on synthetic ones to forecast the last channel one step ahead.

    The inputs are the other channels (with one channel, that one), the output passes a sigmoid, loss and figure are the
    mean absolute error on channels mapped to [0, 1] by the range of the real windows. Compare with the score of training
    windows in the place of the synthetic ones.

    Args:
        real: Windows (N, L, D), L ≥ 2.
        synthetic: Windows (M, L, D).
        seed: Of weights and batches.
        iterations: Training steps of 128 windows.
        hidden: Units; ``max(D // 2, 1)`` unless given.

    Raises:
        ValueError: For other shapes or windows of one step.

    Source: Time-series Generative Adversarial Networks, 2019, NeurIPS; metrics/predictive_metrics.py.
    """
    r, s = as_windows(real, "real windows"), as_windows(synthetic, "synthetic windows")
    if r.shape[1:] != s.shape[1:] or r.shape[1] < 2:
        raise ValueError(f"windows {tuple(r.shape)} and {tuple(s.shape)}: need equal (L, D) with L ≥ 2")
    test, train = unit_range(r, r, s)
    inputs = max(r.shape[2] - 1, 1)
    units = max(r.shape[2] // 2, 1) if hidden is None else hidden
    rng = Rng(seed)
    reader = Reader(inputs, units, rng.child("weights"))
    optimiser = torch.optim.Adam(reader.parameters(), lr=1e-3, fused=True)
    draws = rng.child("batches")
    for _ in range(iterations):
        batch = _batch(train, draws)
        loss = (reader(batch[:, :-1, :inputs]).sigmoid() - batch[:, 1:, -1]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        value = float((reader(test[:, :-1, :inputs]).sigmoid() - test[:, 1:, -1]).abs().double().mean())
    return Score(value, f"predictive:gru{units}:steps={iterations}:seed={seed}:N={len(r)}+{len(s)}")


def _split(x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    order = rng.uniform(torch.empty(len(x))).argsort()
    cut = int(0.8 * len(x))
    return x[order[:cut]], x[order[cut:]]


def _batch(x: Tensor, rng: Rng) -> Tensor:
    if len(x) <= BATCH:
        return x
    return x[rng.uniform(torch.empty(len(x))).topk(BATCH, sorted=False).indices]
