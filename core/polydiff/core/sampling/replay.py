"""Recorded paths under another denoiser: all that policy gradients need."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polydiff.core.denoisers import Denoiser
from polydiff.core.sampling.step import OneCall, Transition


def path_log_prob(denoiser: Denoiser, path: Sequence[Transition]) -> Tensor:
    """``Σ log p(x_s | x_t)`` of recorded transitions in nats, ``(B,)``, differentiable in the denoiser.

    Padding and known entries are left out. Transitions whose state was moved after the draw have no kernel and are
    refused.

    Source: Training Diffusion Models with Reinforcement Learning, 2023, arXiv 2305.13301.
    """
    terms = []
    for tr in path:
        if tr.kernel is None or not isinstance(tr.step, OneCall):
            raise ValueError(f"the transition from t={tr.t} has no single kernel: record the path of a one-call step")
        posterior = denoiser(tr.x_t, tr.t, tr.ctx)
        kernel, _ = tr.step.kernel(denoiser.process, tr.x_t, posterior, tr.t, tr.s, tr.ctx, tr.state)
        terms.append(kernel.log_prob(tr.x_s, tr.ctx.scored()))
    return torch.stack(terms).sum(0)
