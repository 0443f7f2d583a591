"""Losses as sums and counts, and what an objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from polydiff.core.data import Data, Rng, left
from polydiff.core.training.batches import Batch


@dataclass(frozen=True)
class Loss:
    """``Σ_name coef_name · total_name / count_name``.

    Totals and counts travel apart, so that the division happens once, after micro-batches and ranks: masks of unequal
    size then weigh as they should.

    Attributes:
        terms: (total, count) by name, scalars.
        coef: Factor of each term; 1 where none is given.
        logs: Further scalars to log, averaged over micro-batches.
    """

    terms: Mapping[str, tuple[Tensor, Tensor]]
    coef: Mapping[str, float] = field(default_factory=dict)
    logs: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def masked(cls, loss: Data, mask: Data | None, coef: Mapping[str, float]) -> Loss:
        """Per-element losses summed where ``mask`` is True; a tensor becomes the term ``loss``, a dict a term a field."""
        fields = {"loss": loss} if isinstance(loss, Tensor) else loss
        masks = {"loss": mask} if isinstance(loss, Tensor) else mask if isinstance(mask, dict) else {}
        return cls({k: _sum(v, masks.get(k)) for k, v in fields.items()}, coef)  # type: ignore[arg-type]

    @classmethod
    def sum(cls, losses: Sequence[Loss]) -> Loss:
        """Totals and counts added."""
        names = losses[0].terms
        terms = {k: (_add([x.terms[k][0] for x in losses]), _add([x.terms[k][1] for x in losses])) for k in names}
        logs = {k: _add([x.logs[k] for x in losses]) / len(losses) for k in losses[0].logs}
        return cls(terms, losses[0].coef, logs)

    def scale(self, name: str) -> Tensor:
        """Factor of a term's total in the value: ``coef / count``, zero where nothing counts."""
        count = self.terms[name][1]
        return self.coef.get(name, 1.0) * torch.where(count > 0, 1 / count.clamp_min(1e-30), 0.0)

    @property
    def value(self) -> Tensor:
        """The scalar."""
        return _add([self.scale(k) * total for k, (total, _) in self.terms.items()])

    def report(self) -> dict[str, Tensor]:
        """Mean of each term, and the logs, detached."""
        means = {k: (total / count.clamp_min(1e-30)).detach() for k, (total, count) in self.terms.items()}
        return means | {k: v.detach() for k, v in self.logs.items()}


def _sum(loss: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if mask is None:
        return loss.sum(), torch.full((), float(loss.numel()), dtype=loss.dtype, device=loss.device)
    wide = left(mask, loss).expand_as(loss)
    return torch.where(wide, loss, 0.0).sum(), wide.sum().to(loss.dtype)


def _add(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum(0) if len(values) > 1 else values[0]


class Objective(nn.Module, ABC):
    """What a phase of training minimises. It holds the modules it trains; EMA targets and curricula are its buffers."""

    @abstractmethod
    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """The loss of a batch; all randomness comes from ``rng``."""

    def after_step(self, step: int) -> None:
        """Called after each optimiser step, for targets and curricula."""
