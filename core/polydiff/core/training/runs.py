"""The folder of a run: checkpoints of a trainer, and the way back."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polydiff.core.training.checkpoint import CorruptCheckpoint, read_artifact, state_hash, write_artifact

if TYPE_CHECKING:
    from polydiff.core.training.trainer import Phase, Trainer


class RunFolder:
    """``folder/step-00001000`` and so on, the newest ``keep`` of them.

    Args:
        folder: The run's folder; created when first written to.
        keep: Checkpoints to keep.
        fingerprint: Plain values that must be equal on resume.
    """

    def __init__(self, folder: Path, keep: int, fingerprint: Mapping[str, Any]) -> None:
        self.folder, self.keep, self.fingerprint = folder, keep, dict(fingerprint)

    def checkpoints(self) -> list[Path]:
        """Folders of checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir())

    def save(self, trainer: Trainer) -> Path:
        """Write the state of ``trainer``, then drop the oldest."""
        states = trainer_state(trainer)
        head = {"step": trainer.step, "fingerprint": self.fingerprint, "seed": trainer.seed}
        files = {f"{k}.safetensors": v for k, v in states.items()} | {"state.json": head}
        path = write_artifact(self.folder / f"step-{trainer.step:08d}", files)
        for old in self.checkpoints()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return path

    def load(self, trainer: Trainer) -> bool:
        """Restore the newest whole checkpoint; False where there is none.

        Raises:
            ValueError: Where the run was another one (seed or fingerprint differ), naming the difference.
        """
        for path in reversed(self.checkpoints()):
            try:
                artifact = read_artifact(path)
            except CorruptCheckpoint:
                continue  # an older one may be whole
            head = artifact.json("state.json")
            self._check(path, head, trainer.seed)
            names = trainer_state(trainer)
            restore(trainer, {k: artifact.tensors(f"{k}.safetensors", missing_ok=not v) for k, v in names.items()})
            trainer.step = int(head["step"])
            return True
        return False

    def _check(self, path: Path, head: Mapping[str, Any], seed: int) -> None:
        then, now = {**head["fingerprint"], "seed": head["seed"]}, {**self.fingerprint, "seed": seed}
        for key in [*now, *then]:
            if then.get(key) != now.get(key):
                raise ValueError(
                    f"{path} is a checkpoint of another run: {key} was {then.get(key)!r} and is {now.get(key)!r} now; use "
                    "another run_dir, or resume='never'"
                )


def trainer_state(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """All tensors of a run, by kind and name."""
    states: dict[str, dict[str, Tensor]] = {"optimiser": {}, "objective": {}, "ema": {}}
    for i, phase in enumerate(trainer.phases):
        states["objective"] |= {f"{i}.{k}": v for k, v in phase.objective.state_dict().items()}
        states["optimiser"] |= {f"{i}.{k}": v for k, v in _optimiser_state(phase).items()}
    if trainer.ema is not None:
        states["ema"] = trainer.ema.state_dict()
    return states


def restore(trainer: Trainer, states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """The inverse of ``trainer_state``."""
    for i, phase in enumerate(trainer.phases):
        own = {
            kind: {k[len(f"{i}.") :]: v for k, v in states[kind].items() if k.startswith(f"{i}.")} for kind in states
        }
        phase.objective.load_state_dict(own["objective"])
        _restore_optimiser(phase, own["optimiser"])
    if trainer.ema is not None:
        trainer.ema.load_state_dict(states["ema"])


def digest(trainer: Trainer) -> str:
    """A hash of weights, averages and optimiser state."""
    return state_hash({f"{kind}.{k}": v for kind, state in trainer_state(trainer).items() for k, v in state.items()})


def _optimiser_state(phase: Phase) -> dict[str, Tensor]:
    names = {id(p): n for n, p in phase.objective.named_parameters()}
    return {
        f"{names[id(p)]}:{key}": torch.as_tensor(value)
        for p, state in phase.optimiser.state.items()
        for key, value in state.items()
        if value is not None
    }


def _restore_optimiser(phase: Phase, state: Mapping[str, Tensor]) -> None:
    parameters = dict(phase.objective.named_parameters())
    phase.optimiser.state.clear()
    for name, value in state.items():
        owner, _, key = name.rpartition(":")
        p = parameters[owner]
        # Step counters stay on the CPU where optimisers keep them; moments live with their parameter.
        phase.optimiser.state[p][key] = value.clone() if value.ndim == 0 else value.to(p.device, p.dtype)
