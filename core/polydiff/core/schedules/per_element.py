"""Grids of element times: what is known stays at time 0, what moves may move in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["known_times", "rolling_times"]


def known_times(times: Sequence[float], known: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Element times ``(N + 1, B, L)``: those of ``times`` for the free elements, 0 all along for the known ones.

    The loop leaves an element whose time stands still as it is, bit by bit: start it at its value, and a denoiser that takes a
    time an element reads a clean neighbour. Forecasts, gaps and both ends given are one model with other masks.

    Args:
        times: From 1 down to 0.
        known: Bool ``(B, L)``, or ``(B, L, ...)`` where an element is known as a whole or not at all.
        dtype: That of the data.

    Raises:
        ValueError: For an element of which a part is known.

    Source: Redefining Temporal Modeling in Video Diffusion: The Vectorized Timestep Approach, 2024, arXiv 2410.03160.

    >>> known_times([1.0, 0.5, 0.0], torch.tensor([[True, False]]))[:, 0].tolist()
    [[0.0, 1.0], [0.0, 0.5], [0.0, 0.0]]
    """
    grid = torch.tensor(times, dtype=dtype, device=known.device)
    return torch.where(whole(known), 0.0, grid[:, None, None])


def rolling_times(
    times: Sequence[float], window: int, length: int, *, given: int = 0, rolling: bool = True, dtype: torch.dtype
) -> Tensor:
    """Element times ``(N + 1, 1, L)`` of a window of W elements: each follows ``times`` 1/W of the way behind its forerunner.

    With n = L − W clean elements in front, one move of the window takes element n from 1/W of the way to its end:
    ``t_k = clip((k − n + u) / W, 0, 1)``, u from 1 to 0, read off ``times``. The start-up takes
    ``t_k = clip((k − given) / W + v, 0, 1)``, v from 1 to (given − n) / W, and ends where a move ends.

    Args:
        times: From 1 down to 0 for each element: a multiple of W steps.
        window: W.
        length: L, at least W.
        given: Elements in front that are given in the start-up, at most L − W.
        rolling: A move, rather than the start-up.
        dtype: That of the data.

    Raises:
        ValueError: Where the steps are no multiple of W, or for lengths that do not fit.

    Source: Rolling Diffusion Models, 2024, arXiv 2402.09470.
    """
    steps, rest = divmod(len(times) - 1, window)
    if window < 1 or steps < 1 or rest:
        raise ValueError(
            f"a grid of {len(times) - 1} steps in a window of {window}: the steps must be a multiple of it"
        )
    clean = length - window
    if not 0 <= given <= clean:
        raise ValueError(f"given={given} with {clean} clean elements in front of the window: need 0 to {clean}")
    ahead = clean if rolling else given
    high = steps if rolling else len(times) - 1
    ticks = torch.arange(high, (ahead - clean) * steps - 1, -1)[:, None]  # whole numbers: 0 and 1 are met exactly
    place = torch.arange(length)
    local = ((place - ahead) * steps + ticks).clamp(0, len(times) - 1)
    local = torch.where(place < ahead, 0, local)
    return torch.tensor(list(times)[::-1], dtype=dtype)[local][:, None]


def whole(known: Tensor) -> Tensor:
    """Which elements are known, ``(B, L)``."""
    flat = known.reshape(*known.shape[:2], -1)
    if bool((flat.any(-1) != flat.all(-1)).any()):
        raise ValueError("times an element tell of whole elements: known must be the same for all channels of one")
    return flat.all(-1)
