"""Couplings: which source sample belongs to which data sample in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng
from polydiff.core.processes import Process

__all__ = ["Coupling", "Independent", "MinibatchOT"]


class Coupling(Protocol):
    """Fills ``Context.x1``; the denoiser sees it only if the process observes its source."""

    def __call__(self, process: Process, x0: Data, ctx: Context, rng: Rng) -> Context:
        """The context with the source of each sample."""
        ...


@dataclass(frozen=True)
class Independent:
    """Data and source are independent: nothing to fill in, the marginal draws its own noise."""

    def __call__(self, process: Process, x0: Data, ctx: Context, rng: Rng) -> Context:
        """See ``Coupling``."""
        return ctx


@dataclass(frozen=True)
class MinibatchOT:
    """Exact optimal transport between the batch and as many source samples, at squared distance.

    Straightens the paths of a flow. With a condition, samples are only exchanged within equal values of ``within``
    (a key of ``ctx.cond``): across classes, OT couples the source to the condition and biases conditional models.

    Source: Improving and generalizing flow-based generative models with minibatch optimal transport, 2023, arXiv
    2302.00482; Multisample Flow Matching, 2023, arXiv 2304.14772.
    """

    within: str | None = None

    def __call__(self, process: Process, x0: Data, ctx: Context, rng: Rng) -> Context:
        """See ``Coupling``."""
        if not isinstance(x0, Tensor):
            raise TypeError("MinibatchOT couples tensors: give a product one coupling a field")
        x1 = process.prior(x0, ctx).sample(rng)
        groups = torch.zeros(len(x0), dtype=torch.long) if self.within is None else ctx.cond[self.within].cpu()
        rows = torch.empty(len(x0), dtype=torch.long)
        for value in groups.unique():
            members = (groups == value).nonzero()[:, 0]
            here = members.to(x0.device)
            rows[members] = members[assignment(x0[here].flatten(1), x1[here].flatten(1))]
        return ctx.replace(x1=x1[rows.to(x1.device)])


def assignment(x: Tensor, y: Tensor) -> Tensor:
    """The permutation p that minimises ``Σ |x_i − y_{p(i)}|²``, ``(B,)``, by scipy's linear assignment."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x.double(), y.double()).square().cpu().numpy()
    return torch.as_tensor(linear_sum_assignment(cost)[1])
