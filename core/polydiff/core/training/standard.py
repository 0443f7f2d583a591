"""The training that every modality starts from: one phase, warm-up and cosine, averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from polydiff.core.training.batches import Batches
from polydiff.core.training.checkpoint import config_to_json
from polydiff.core.training.ema import EMA
from polydiff.core.training.loss import Objective
from polydiff.core.training.schedule import WarmupCosine
from polydiff.core.training.trainer import History, Phase, Trainer

__all__ = ["adamw", "train"]


class Recipe(Protocol):
    """What every modality's configuration says of its training."""

    @property
    def steps(self) -> int:
        """Length of the run, after which the rates are zero."""

    @property
    def warmup(self) -> int:
        """Steps of linear warm-up, at most a tenth of the run."""

    @property
    def ema(self) -> float:
        """Decay of the averaged weights."""


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over all weights of a module; one kernel for all of them where there is one: a tenth of a small step."""
    fused = next(module.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=fused)


def train(
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    steps: int | None = None,
    seconds: float | None = None,
    run_dir: str | Path | None = None,
    callbacks: Iterable[Callable[..., None]] = (),
    progress: bool | None = None,
) -> History:
    """Train the modules of an objective in one phase and leave the averaged weights in them.

    Args:
        objective: What to minimise.
        optimiser: Over its parameters, at its peak rates.
        batches: Data, in an order that belongs to a seed.
        recipe: A dataclass of plain values, which must be equal on resume.
        seed: Of the training noise.
        device: Where batches go.
        steps: In place of those of the recipe.
        seconds: Stop after this time if it comes first.
        run_dir: Folder of log and checkpoints; a run that was interrupted goes on from the last checkpoint there.
        callbacks: ``callback(trainer, step, logs)``.
        progress: Show a bar; by default only on a terminal.
    """
    steps = recipe.steps if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps={steps}: training needs at least 1 step")
    schedule = WarmupCosine(min(recipe.warmup, max(steps // 10, 1)), steps)
    averaged = EMA(objective, decay=recipe.ema)
    trainer = Trainer(
        [Phase(objective, optimiser, schedule=schedule)],
        ema=averaged,
        seed=seed,
        device=device,
        run_dir=run_dir,
        callbacks=list(callbacks),
        progress=progress,
        fingerprint={**config_to_json(recipe), "steps": steps},
    )
    history = trainer.fit(batches, steps, seconds=seconds)
    averaged.copy_to()
    return history
