"""Batches in an order that is a pure function of (seed, epoch): resuming needs a step number and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng, batch_size, index


@dataclass(frozen=True)
class Batch:
    """Data and its context.

    Attributes:
        x0: ``(B, ...)``.
        ctx: Conditions, masks, sources.
    """

    x0: Data
    ctx: Context = field(default_factory=Context)

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return Batch(_to(self.x0, device), _to(self.ctx, device))


def _to(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, Tensor):
        return tree.to(device, non_blocking=True)
    if isinstance(tree, dict):
        return {k: _to(v, device) for k, v in tree.items()}
    if isinstance(tree, Context):
        names = ("cond", "side", "valid", "known", "given", "x1", "memory")
        return Context(*(_to(getattr(tree, n), device) for n in names))
    return tree


class Batches:
    """Shuffled batches of data held in memory.

    Args:
        data: ``(N, ...)`` tensors.
        cond: Conditions ``(N, ...)`` by name.
        ctx: A whole context ``(N, ...)`` in place of ``cond``.
        batch_size: Samples a batch; an incomplete last batch of an epoch is dropped.
        seed: Of the order.
        transform: Augmentation ``f(batch, rng)``; its randomness is a pure function of (seed, step).
    """

    def __init__(
        self,
        data: Data,
        *,
        cond: Mapping[str, Tensor] | None = None,
        ctx: Context | None = None,
        batch_size: int = 128,
        seed: int = 0,
        transform: Callable[[Batch, Rng], Batch] | None = None,
    ) -> None:
        self.count = _rows(data)
        if not 1 <= batch_size <= self.count:
            raise ValueError(f"batch_size={batch_size} with {self.count} samples: need 1 to {self.count}")
        self.data, self.batch_size, self.seed, self.transform = data, batch_size, seed, transform
        self.ctx = Context(cond=dict(cond or {})) if ctx is None else ctx
        for name, value in self.ctx.cond.items():
            if isinstance(value, Tensor) and len(value) != self.count:
                raise ValueError(f"condition {name!r} has {len(value)} rows for {self.count} samples")
        self._epoch: tuple[int, Tensor] | None = None

    @property
    def per_epoch(self) -> int:
        """Batches an epoch."""
        return self.count // self.batch_size

    def rows(self, step: int) -> Tensor:
        """Which samples make the batch of ``step``."""
        epoch, position = divmod(step, self.per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(Rng(self.seed).child("order", epoch).seed)
            self._epoch = epoch, torch.randperm(self.count, generator=generator)
        return self._epoch[1][position * self.batch_size : (position + 1) * self.batch_size]

    def batch(self, step: int) -> Batch:
        """The batch of ``step``, any step at any time."""
        rows = self.rows(step)
        batch = Batch(index(self.data, rows), index(self.ctx, rows))
        return batch if self.transform is None else self.transform(batch, Rng(self.seed).child("augment", step))


def _rows(data: Data) -> int:
    if isinstance(data, dict) and len({len(v) for v in data.values()}) > 1:
        raise ValueError(f"fields of unequal length: { {k: len(v) for k, v in data.items()} }")
    n = batch_size(data)
    if n == 0:
        raise ValueError("the data is empty: need at least one sample")
    return n
