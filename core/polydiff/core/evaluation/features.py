"""Feature matrices: how they are checked, and their distances in bounded memory.

Every metric here takes features (N, D), one row a sample; who makes them (pixels, a network, a fingerprint) is the
caller's choice. All arithmetic is float64, on the device of the first argument.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

Features = Tensor | np.ndarray

_BLOCK = 1 << 22  # float64 entries held at once, 32 MiB
_CANCELLED = 1e-4  # below this share of |x|² + |y|² the expanded square has lost too many digits

__all__ = ["Features", "as_features", "as_pair", "row_blocks", "sizes", "squared_distances"]


def as_features(x: Features, name: str, at_least: int = 2) -> Tensor:
    """Features as a float64 tensor (N, D), checked; the argument itself is never changed.

    Raises:
        ValueError: If ``x`` is not a matrix, has no column, fewer than ``at_least`` rows, or an entry that is not
            finite.
    """
    x = x.detach() if isinstance(x, Tensor) else torch.as_tensor(np.array(x))
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"features {name} have shape {tuple(x.shape)}; a matrix (N, D) with D ≥ 1 is needed")
    if len(x) < at_least:
        raise ValueError(f"features {name} have {len(x)} rows; at least {at_least} are needed")
    if x.device.type == "mps":  # has no float64
        x = x.cpu()
    x = x.to(torch.float64)
    finite = x.isfinite().all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise ValueError(f"features {name} are not finite in row {row}; remove or repair such samples first")
    return x


def as_pair(x: Features, y: Features, names: tuple[str, str] = ("x", "y"), at_least: int = 2) -> tuple[Tensor, Tensor]:
    """Two checked feature matrices (N, D) and (M, D) on one device.

    Raises:
        ValueError: As ``as_features``, or if the two have different numbers of columns.
    """
    a, b = as_features(x, names[0], at_least), as_features(y, names[1], at_least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features {names[0]} have {a.shape[1]} columns and {names[1]} have {b.shape[1]}; one extractor must make "
            "both"
        )
    return a, b.to(a.device)


def sizes(*samples: Tensor) -> str:
    """Sample sizes for a result's id: ``N=899``, or ``N=899+1000`` where they differ."""
    n = [len(s) for s in samples]
    return f"N={n[0]}" if len(set(n)) == 1 else "N=" + "+".join(map(str, n))


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows that together cover a rows × columns matrix, each small enough to be held."""
    step = max(1, _BLOCK // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances, float64 (N, M).

    ``|x|² + |y|² − 2 x·y`` is one matrix product, but loses its digits where x ≈ y: those pairs are recomputed from
    their difference, so that a copy is at distance 0 exactly and the rest is right to about 1e-11 of itself.
    """
    scale = x.square().sum(1)[:, None] + y.square().sum(1)
    out = torch.addmm(scale, x, y.T, alpha=-2.0)
    close = (out <= _CANCELLED * scale).nonzero()
    for pairs in close.split(max(1, _BLOCK // x.shape[1])):
        i, j = pairs.unbind(1)
        out[i, j] = (x[i] - y[j]).square().sum(1)
    return out
