"""The trainer: optimisation and nothing else. It has never heard of a diffusion process."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polydiff.core.data import Rng
from polydiff.core.training.batches import Batch, Batches
from polydiff.core.training.ema import EMA
from polydiff.core.training.logging import JsonLines, progress_bar
from polydiff.core.training.loss import Loss, Objective
from polydiff.core.training.runs import RunFolder
from polydiff.core.training.schedule import Constant, LearningRate

__all__ = ["History", "NonFinite", "Phase", "Trainer"]

Callback = Callable[["Trainer", int, Mapping[str, float]], None]


class NonFinite(ArithmeticError):
    """A loss or a gradient is NaN or infinite; the optimiser was not stepped."""


@dataclass(eq=False)
class Phase:
    """One objective with its optimiser.

    Attributes:
        objective: What to minimise; it holds the modules.
        optimiser: Over the parameters that this phase trains.
        repeat: Optimiser steps of this phase in one step of the trainer.
        schedule: Factor on the optimiser's rates by step.
        clip: Largest norm of the gradient; infinity for no clipping.
    """

    objective: Objective
    optimiser: torch.optim.Optimizer
    repeat: int = 1
    schedule: LearningRate = field(default_factory=Constant)
    clip: float = 1.0

    def __post_init__(self) -> None:
        self._rates = [g["lr"] for g in self.optimiser.param_groups]
        self.parameters = [p for g in self.optimiser.param_groups for p in g["params"]]

    def set_rate(self, step: int) -> None:
        """Set the learning rates of ``step``."""
        for group, rate in zip(self.optimiser.param_groups, self._rates):
            group["lr"] = rate * self.schedule(step)


@dataclass
class History:
    """What was logged: records with ``step``, ``samples``, ``seconds``, ``lr``, ``grad_norm`` and the losses."""

    records: list[dict[str, float]] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[float]:
        """A column."""
        return [r[name] for r in self.records if name in r]


class Trainer:
    """Runs phases over batches, with averaging, exact resume and a stop before anything non-finite spreads.

    All randomness of step k is ``Rng(seed).child("train", phase, k, …)`` and the order of the data a function of seed
    and step, so that a run killed at any moment and resumed ends in the same bits (same machine, same thread count).

    Args:
        phases: One for ordinary training; two for adversarial games. They take turns within a step.
        ema: Average of the weights, updated after every step.
        accumulate: Micro-batches a step; counts are summed before the division, so the step is that of one large batch.
        seed: Of the training noise.
        device: Where batches go.
        run_dir: Folder of ``log.jsonl`` and checkpoints.
        checkpoint_every: Steps between checkpoints (and one at the end).
        keep: How many checkpoints to keep.
        log_every: Steps between records.
        callbacks: ``callback(trainer, step, logs)`` after each record; one that fails is dropped with a warning, and
            ``trainer.stop()`` ends the run.
        progress: Show a bar; by default only on a terminal.
        resume: ``"auto"`` goes on from the newest whole checkpoint of ``run_dir``, ``"must"`` insists on one, ``"never"``
            starts anew.
        fingerprint: Plain values that must be equal on resume, such as a configuration.

    Raises:
        NonFinite: With step, term and parameter, before the optimiser is stepped.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        *,
        ema: EMA | None = None,
        accumulate: int = 1,
        seed: int = 0,
        device: str | torch.device = "cpu",
        run_dir: str | Path | None = None,
        checkpoint_every: int = 1000,
        keep: int = 2,
        log_every: int = 10,
        callbacks: Sequence[Callback] = (),
        progress: bool | None = None,
        resume: Literal["auto", "must", "never"] = "auto",
        fingerprint: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in (
            ("accumulate", accumulate),
            ("checkpoint_every", checkpoint_every),
            ("keep", keep),
            ("log_every", log_every),
        ):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.phases, self.ema, self.accumulate, self.seed = list(phases), ema, accumulate, seed
        self.device, self.callbacks, self.progress = torch.device(device), list(callbacks), progress
        self.checkpoint_every, self.log_every, self.resume = checkpoint_every, log_every, resume
        self.run = None if run_dir is None else RunFolder(Path(run_dir), keep, dict(fingerprint or {}))
        self.step = 0
        self._stopped = False

    def stop(self) -> None:
        """End the run after this step, for callbacks; ``fit`` called again goes on."""
        self._stopped = True

    def fit(self, batches: Batches, steps: int, *, seconds: float | None = None) -> History:
        """Train up to ``steps`` steps in all, counting those of the run that is resumed.

        Args:
            batches: Random access by step.
            steps: Last step; a run that is already there returns at once.
            seconds: Stop after this wall time if it comes first. Learning rates then follow whichever budget is further
                spent, so that they come down in time; such a run is not bit-reproducible.
        """
        history, log = History(), None
        self._stopped = False
        if self.run is not None:
            self._resume(self.run)
            log = JsonLines(self.run.folder / "log.jsonl")
        begin = time.monotonic()
        for phase in self.phases:
            phase.objective.train()
        with progress_bar(steps, "training", self.progress) as bar:
            bar.update(self.step)
            while self.step < steps and not self._stopped and (seconds is None or time.monotonic() - begin < seconds):
                spent = 0 if seconds is None else int(steps * (time.monotonic() - begin) / seconds)
                for phase in self.phases:
                    phase.set_rate(max(self.step, spent))
                norms, reports = zip(*(self._phase(i, phase, batches) for i, phase in enumerate(self.phases)))
                if self.ema is not None:
                    self.ema.update()
                self.step += 1
                bar.update(1)
                if self.step % self.log_every == 0 or self.step == 1:
                    record = self._record(batches, norms, reports, time.monotonic() - begin)
                    bar.set_postfix(loss=f"{record['loss']:.4f}", refresh=False)
                    history.records.append(record)
                    if log is not None:
                        log(record)
                    self._call_back(record)
                if self.run is not None and self.step % self.checkpoint_every == 0 and self.step < steps:
                    self.run.save(self)
        if self.run is not None and self.step > 0:
            self.run.save(self)
        return history

    # -------------------------------------------------------------- one step

    def _phase(self, number: int, phase: Phase, batches: Batches) -> tuple[Tensor, dict[str, Tensor]]:
        for turn in range(phase.repeat):
            first = (self.step * phase.repeat + turn) * self.accumulate
            parts = [
                (batches.batch(first + m).to(self.device), Rng(self.seed).child("train", number, first + m))
                for m in range(self.accumulate)
            ]
            phase.optimiser.zero_grad(set_to_none=True)
            loss = self._backward(phase.objective, parts)
            norm = nn.utils.clip_grad_norm_(phase.parameters, phase.clip)
            if not bool(norm.isfinite()):
                raise NonFinite(self._diagnosis(phase, loss))
            phase.optimiser.step()
            phase.objective.after_step(self.step)
        return norm, loss.report()

    @staticmethod
    def _backward(objective: Objective, parts: list[tuple[Batch, Rng]]) -> Loss:
        """Gradients of ``Σ coef · Σ totals / Σ counts`` over the micro-batches, one graph in memory at a time."""
        if len(parts) == 1:
            batch, rng = parts[0]
            loss = objective(batch, rng)
            loss.value.backward()
            return loss
        # The divisor of a micro-batch is the count of all of them: it is found by a pass without gradients.
        with torch.no_grad():
            whole = Loss.sum([objective(batch, Rng(rng.seed)) for batch, rng in parts])
        for batch, rng in parts:
            loss = objective(batch, rng)
            value = sum(whole.scale(k) * total for k, (total, _) in loss.terms.items())
            assert isinstance(value, Tensor)
            value.backward()
        return whole

    def _diagnosis(self, phase: Phase, loss: Loss) -> str:
        bad_terms = [k for k, v in loss.report().items() if not bool(v.isfinite())]
        names = {id(p): n for n, p in phase.objective.named_parameters()}
        bad = [
            names.get(id(p), "?") for p in phase.parameters if p.grad is not None and not bool(p.grad.isfinite().all())
        ]
        broken = [n for n, p in phase.objective.named_parameters() if not bool(p.isfinite().all())]
        where = [
            f"loss term {bad_terms[0]!r} is not finite" if bad_terms else "",
            f"the gradient of {bad[0]!r} is not finite" if bad else "",
            f"the parameter {broken[0]!r} itself is not finite" if broken else "",
        ]
        return (
            f"step {self.step}: {', '.join(w for w in where if w)}; the optimiser was not stepped and the last checkpoint is "
            "intact: check the data for outliers, or lower the learning rate"
        )

    # -------------------------------------------------------------- records

    def _record(
        self, batches: Batches, norms: Sequence[Tensor], reports: Sequence[Mapping[str, Tensor]], seconds: float
    ) -> dict[str, float]:
        record: dict[str, float] = {
            "step": self.step,
            "samples": self.step * self.accumulate * batches.batch_size,
            "seconds": round(seconds, 3),
            "lr": self.phases[0].optimiser.param_groups[0]["lr"],
            "grad_norm": float(norms[0]),
        }
        for i, report in enumerate(reports):
            record |= {k if i == 0 else f"{k}/{i}": float(v) for k, v in report.items()}
        if "loss" not in record:
            record["loss"] = sum(float(v) for v in reports[0].values())
        return record

    def _call_back(self, record: Mapping[str, float]) -> None:
        for callback in list(self.callbacks):
            try:
                callback(self, self.step, record)
            except Exception as error:
                self.callbacks.remove(callback)
                warnings.warn(
                    f"callback {callback!r} failed at step {self.step} and is dropped: {error!r}", stacklevel=2
                )

    # -------------------------------------------------------------- state

    def _resume(self, run: RunFolder) -> None:
        found = None if self.resume == "never" else run.load(self)
        if self.resume == "must" and not found:
            raise ValueError(f"{run.folder} holds no whole checkpoint to resume from")
