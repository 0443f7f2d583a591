"""Scores of rows: bounds on their likelihood, and how far they are from the rows of a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Denoiser
from polydiff.core.evaluation import nelbo
from polydiff.core.evaluation.anomaly import TimeClassification, expected_time, neighbour_time
from polydiff.core.processes import Gaussian
from polydiff.core.schedules import EDM, uniform_times
from polydiff.core.training import Batches, train
from polydiff.tabular.coder import Coder
from polydiff.tabular.limits import states_of

Reading = Literal["neighbours", "time"]

__all__ = ["Reading", "diffusion_time", "row_bounds"]

_BOUND_STEPS = 64
_FINEST = 0.03  # time at which the noise is a twentieth of a standard deviation: rows are compared no closer
_BINS = 7


def row_bounds(
    model: Denoiser,
    data: Mapping[str, Tensor],
    known: Mapping[str, Tensor],
    *,
    draws: int,
    seed: int,
    batch_size: int,
) -> Tensor:
    """``log p`` of the known cells of each row in nats, ``(N,)`` float64.

    Minus the NELBO of the row, a lower bound. Where cells are not known they are taken as they stand in ``data`` (drawn from
    their law given the rest), and ``log p(known) = log p(row) − log p(unknown | known)`` is the difference of two bounds: an
    estimate, no bound.

    Args:
        model: Of rows.
        data: Complete rows.
        known: Which cells count, bool.
        draws: Noisy paths of a row.
        seed: Of the noise.
        batch_size: Rows at a time.
    """
    n = len(next(iter(data.values())))
    times = [_FINEST + (1 - _FINEST) * t for t in uniform_times(_BOUND_STEPS)]
    out = []
    for start in range(0, n, batch_size):
        at = slice(start, min(start + batch_size, n))
        rows, told = ({k: v[at] for k, v in part.items()} for part in (data, known))
        rng = Rng(seed, range(at.start, at.stop))
        with torch.no_grad():
            bound = torch.stack([nelbo(model, rows, times, rng=rng.child(d)) for d in range(draws)]).mean(0)
            if not all(bool(v.all()) for v in told.values()):
                ctx = Context(known=told, given=states_of(model.process, rows))
                rest = [nelbo(model, rows, times, ctx, rng=rng.child("rest", d)) for d in range(draws)]
                some = torch.stack([(~v).any(1) for v in told.values()]).any(0)
                bound = bound - torch.where(some, torch.stack(rest).mean(0), 0.0)
        out.append(-bound.double().cpu())
    return torch.cat(out)


def diffusion_time(
    rows: pd.DataFrame, reference: pd.DataFrame, *, reading: Reading = "neighbours", k: int = 5, seed: int = 0
) -> Tensor:
    """How long each row looks diffused, seen from ordinary rows, float64 ``(N,)``: larger is stranger.

    Numbers are standardised by the reference and categories are indicators; values outside the range that was seen, unseen
    categories and missing values have their distance too.

    Args:
        rows: To be scored.
        reference: Ordinary rows.
        reading: ``"neighbours"``: the mean squared distance to the k nearest reference rows, a column (DTE-NP);
            ``"time"``: the expected time in (0, 1) that a small network, trained on the reference here, reads off a row
            (DTE-categorical): better where columns depend on one another, seconds to train.
        k: Number of neighbours.
        seed: Of the network and its training.

    Raises:
        ValueError: For other columns, another reading, or fewer reference rows than neighbours.

    Source: On Diffusion Modeling for Anomaly Detection, 2023, arXiv 2305.18593.
    """
    coder = Coder.of(reference)
    normal, x = (torch.as_tensor(coder.features(f)) for f in (reference, rows[list(reference.columns)]))
    if reading == "neighbours":
        return neighbour_time(normal, x, k)
    if reading != "time":
        raise ValueError(f"reading={reading!r}: need 'neighbours' or 'time'")
    network = _reader(normal.float(), seed)
    with torch.no_grad():
        return expected_time(network, x.float()).double()


class _Reader(nn.Module):
    """Logits of the slice of time from a noisy row, by a network as narrow as that of the authors is not."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        sizes = [inputs, 128, 256, 128]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1], _BINS))

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


@dataclass(frozen=True)
class _Budget:
    steps: int = 400
    batch_size: int = 64
    lr: float = 2e-3
    warmup: int = 20
    ema: float = 0.99


def _reader(normal: Tensor, seed: int) -> _Reader:
    """Trained on the reference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Reader(normal.shape[1])
    objective = TimeClassification(network, Gaussian(EDM(sigma_max=1.0)), bins=_BINS)
    budget = _Budget()
    optimiser = torch.optim.AdamW(objective.parameters(), lr=budget.lr, weight_decay=5e-4)
    batches = Batches(normal, batch_size=min(budget.batch_size, len(normal)), seed=seed)
    train(objective, optimiser, batches, budget, seed=seed, device=torch.device("cpu"), progress=False)
    return network.eval()
