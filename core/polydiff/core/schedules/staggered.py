"""Grids on which one element moves at a time: tokens are then drawn one after the other, and nothing is lost between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def staggered_times(times: Sequence[float], length: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Element times ``(N · L + 1, 1, L)``: in each interval of ``times`` element 0 moves first, then 1, …, then L − 1.

    Given ``x_t`` and the elements that have moved already, the next one has the law ``E[q(x_s | x_t, x_0)]`` of its own
    posterior, whatever the intervals: under a process that corrupts elements independently, a run of ``Ancestral`` or
    ``Remask`` steps is exact at any N, N = 1 being left to right. For denoisers that take a time an element (``PerBlock``
    training), or none at all, as masked ones may; L · N evaluations.

    Args:
        times: From 1 down to 0, for each element.
        length: Elements L along axis 1 of the data ``(B, L)``.
        dtype: That of the data, where they are real numbers: wider times would widen them.

    Raises:
        ValueError: For fewer than two times, or no element.

    >>> staggered_times([1.0, 0.0], 2)[:, 0].tolist()
    [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]

    Source: Diffusion Forcing: Next-token Prediction Meets Full-Sequence Diffusion, 2024, arXiv 2407.01392, for times an
    element.
    """
    if len(times) < 2:
        raise ValueError(f"a grid of {len(times)} time(s) has no step: give at least a first and a last time")
    if length < 1:
        raise ValueError(f"length={length}: need one element or more")
    rows = [[times[0]] * length]
    for (_, s), i in itertools.product(itertools.pairwise(times), range(length)):
        rows.append([*rows[-1][:i], s, *rows[-1][i + 1 :]])
    return torch.tensor(rows, dtype=dtype)[:, None]
