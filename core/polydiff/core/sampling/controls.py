"""Controls: what happens between steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polydiff.core.data import Rng, left, tree_map
from polydiff.core.processes import Process
from polydiff.core.sampling.step import Transition


@dataclass(frozen=True)
class Replace:
    """Infilling for a denoiser that is not told: known entries are set to a noisy copy of their values at time s.

    Approximate: the free entries never see the clean values. A denoiser trained with known masks needs no control.

    Args:
        process: The process that noises the values.
        rng: Noise of the copies; independent of the run's own.

    Source: Score-Based Generative Modeling through Stochastic Differential Equations, 2021, arXiv 2011.13456, app. I.2.
    """

    process: Process
    rng: Rng
    handles_known: ClassVar[bool] = True

    def __call__(self, tr: Transition) -> Transition:
        """See ``Control``."""
        if tr.ctx.known is None or tr.ctx.given is None:
            return tr
        noisy = self.process.marginal(tr.ctx.given, tr.s, tr.ctx).sample(self.rng)

        def leaf(x: Tensor, k: Tensor | None, g: Tensor) -> Tensor:
            return x if k is None else torch.where(left(k, x), g.to(x.dtype), x)

        tr.x_s, tr.kernel = tree_map(leaf, tr.x_s, tr.ctx.known, noisy), None
        return tr
