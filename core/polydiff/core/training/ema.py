"""Exponential moving averages of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EMA:
    """``average ← average + (1 − d) (weights − average)`` with ``d = min(decay, (1 + k) / (10 + k))`` at update k.

    The warm-up lets short runs forget their initial weights. Buffers are copied.

    Args:
        module: Whose parameters and buffers to average.
        decay: In [0, 1).
        warmup: Whether to warm up.

    Source: Denoising Diffusion Probabilistic Models, 2020, arXiv 2006.11239, for its use in diffusion.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: must lie in [0, 1)")
        self.module, self.decay, self.warmup, self.updates = module, decay, warmup, 0
        self._names = [n for n, _ in module.named_parameters()]
        self._buffers = [n for n, _ in module.named_buffers()]
        self.average = {k: v.detach().clone() for k, v in self._live().items()}
        self._stored: dict[str, Tensor] | None = None

    def _live(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters()) | dict(self.module.named_buffers())

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average, after an optimiser step."""
        live = self._live()
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        mine, theirs = [self.average[n] for n in self._names], [live[n] for n in self._names]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for name in self._buffers:
            self.average[name].copy_(live[name])
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, module: nn.Module | None = None) -> None:
        """Put the average into ``module`` (the averaged one by default)."""
        live = self._live() if module is None else dict(module.named_parameters()) | dict(module.named_buffers())
        for name, value in self.average.items():
            live[name].copy_(value)

    def store(self) -> None:
        """Keep the live weights aside."""
        self._stored = {k: v.detach().clone() for k, v in self._live().items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Bring the weights of ``store`` back."""
        if self._stored is None:
            raise ValueError("nothing was stored: call store() first")
        live = self._live()
        for name, value in self._stored.items():
            live[name].copy_(value)
        self._stored = None

    def state_dict(self) -> dict[str, Tensor]:
        """The average by name, and the number of updates."""
        return dict(self.average) | {"updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state_dict``."""
        wanted = {*self.average, "updates"}
        if wrong := wanted ^ set(state):
            raise ValueError(f"averaged weights do not fit the module: check {sorted(wrong)[:3]}")
        self.updates = int(state["updates"])
        for name, value in self.average.items():
            value.copy_(state[name])
