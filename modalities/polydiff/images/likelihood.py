"""Likelihood of images under the probability flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Denoiser
from polydiff.core.evaluation import ode_log_prob
from polydiff.images.data import ImageCodec


@dataclass(frozen=True)
class ImageLikelihood:
    """Likelihood of images under the probability flow.

    Attributes:
        nats: ``log P(image)`` of the integer pixels (after uniform dequantisation, hence a lower bound in expectation),
            or the log-density of unit-range float pixels, ``(N,)``.
        bits_per_dim: ``−nats / (D log 2)``, ``(N,)``.
        dequantised: Whether uniform noise was added to integer pixels.
    """

    nats: np.ndarray
    bits_per_dim: np.ndarray
    dequantised: bool


def image_likelihood(
    model: Denoiser,
    codec: ImageCodec,
    x: Tensor,
    cond: Mapping[str, Tensor],
    times: Sequence[float],
    divergence: Literal["exact", "hutchinson"],
    probes: int,
    seed: int,
    batch_size: int,
) -> ImageLikelihood:
    """``log P`` of encoded images; see ``ImageGenerator.log_likelihood``.

    An integer pixel is a box of one unit: with uniform noise inside it, ``log P ≥ E log p(x)`` for the density p in units
    of the pixels, which is the density of the standardised data less ``D log std``.
    """
    out = []
    for start in range(0, len(x), batch_size):
        rows = slice(start, min(start + batch_size, len(x)))
        rng, y = Rng(seed, range(rows.start, rows.stop)), x[rows]
        if codec.integer:
            y = y + (rng.uniform(y).to(y.dtype) - 0.5) / codec.std
        ctx = Context(cond={k: v[rows] for k, v in cond.items()})
        out.append(ode_log_prob(model, y, times, ctx, divergence=divergence, probes=probes, rng=rng).cpu())
    dims = math.prod(codec.shape)
    scale = codec.std if codec.integer else codec.std / codec.maximum
    nats = torch.cat(out).double().numpy() - dims * math.log(scale)
    return ImageLikelihood(nats, -nats / (dims * math.log(2)), codec.integer)
