"""The training that every modality starts from: one phase, warm-up and cosine, averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from polydiff.core.training.ema import EMA
from polydiff.core.training.loss import Objective
from polydiff.core.training.schedule import WarmupCosine
from polydiff.core.training.trainer import Phase, Trainer

__all__ = ["standard_trainer"]


def standard_trainer(
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    *,
    steps: int,
    warmup: int,
    ema: float,
    seed: int,
    device: torch.device,
    run_dir: str | Path | None,
    callbacks: Iterable[Callable[..., None]],
    progress: bool | None,
    fingerprint: Mapping[str, Any],
) -> Trainer:
    """A trainer of one phase.

    Args:
        objective: What to minimise.
        optimiser: Over its parameters, at its peak rates.
        steps: Length of the run, after which the rates are zero.
        warmup: Steps of linear warm-up, at most a tenth of the run.
        ema: Decay of the averaged weights.
        seed: Of the training noise.
        device: Where batches go.
        run_dir: Folder of log and checkpoints.
        callbacks: ``callback(trainer, step, logs)``.
        progress: Show a bar; by default only on a terminal.
        fingerprint: Plain values that must be equal on resume.
    """
    schedule = WarmupCosine(min(warmup, max(steps // 10, 1)), steps)
    return Trainer(
        [Phase(objective, optimiser, schedule=schedule)],
        ema=EMA(objective, decay=ema),
        seed=seed,
        device=device,
        run_dir=run_dir,
        callbacks=list(callbacks),
        progress=progress,
        fingerprint={**fingerprint, "steps": steps},
    )
