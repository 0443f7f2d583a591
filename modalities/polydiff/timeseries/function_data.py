"""Functions as sets of points: padded, standardised tensors and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Function", "FunctionCodec"]

Function = tuple[Any, Any]
"""Places ``(N, D_x)`` and values ``(N, D_y)``."""


@dataclass(frozen=True, eq=False)
class FunctionCodec:
    """Sets of points to padded, standardised tensors and back.

    One centre and one scale serve all input dimensions, so that none of them is told from the others.

    Attributes:
        inputs: D_x.
        outputs: D_y.
        centre: Of the inputs.
        scale: Standard deviation of the inputs.
        mean: Of the outputs, ``(D_y,)``.
        std: Of the outputs, ``(D_y,)``.
    """

    inputs: int
    outputs: int
    centre: float
    scale: float
    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, functions: Sequence[Function]) -> FunctionCodec:
        """The codec of some functions."""
        pairs = [_pair(f, i) for i, f in enumerate(functions)]
        if not pairs:
            raise ValueError("functions is empty: need at least one set of points (x, y)")
        x, y = (torch.cat([p[k] for p in pairs]) for k in (0, 1))
        return cls(
            x.shape[1],
            y.shape[1],
            float(x.mean()),
            float(x.std(unbiased=False)) or 1.0,
            y.mean(0),
            y.std(0, unbiased=False).clamp_min(1e-6),
        )

    def places(self, x: Any) -> Tensor:
        """Standardised places ``(N, D_x)``."""
        at = _matrix(x, "x")
        if at.shape[1] != self.inputs:
            raise ValueError(f"x has {at.shape[1]} columns: these functions have {self.inputs} inputs")
        return ((at - self.centre) / self.scale).float()

    def values(self, y: Any) -> Tensor:
        """Standardised values ``(N, D_y)``."""
        found = _matrix(y, "y")
        if found.shape[1] != self.outputs:
            raise ValueError(f"y has {found.shape[1]} columns: these functions have {self.outputs} outputs")
        return ((found - self.mean) / self.std).float()

    def pack(self, functions: Sequence[Function]) -> tuple[Tensor, Tensor, Tensor]:
        """Values ``(B, N, D_y)``, places ``(B, N, D_x)`` and which points are there ``(B, N)``; the rest is zero."""
        pairs = [_pair(f, i) for i, f in enumerate(functions)]
        pad = torch.nn.utils.rnn.pad_sequence
        values = pad([self.values(y) for _, y in pairs], batch_first=True)
        places = pad([self.places(x) for x, _ in pairs], batch_first=True)
        counts = torch.tensor([len(x) for x, _ in pairs])
        return values, places, torch.arange(values.shape[1]) < counts[:, None]

    def encode(self, natural: Any) -> Tensor:
        """Standardised values ``(B, N, D_y)``, padded."""
        return self.pack(natural)[0]

    def decode(self, data: Any) -> np.ndarray:
        """Values in the units of the data."""
        found: np.ndarray = (data.double() * self.std + self.mean).numpy()
        return found

    def config(self) -> Mapping[str, Any]:
        """See ``Codec``."""
        return {"inputs": self.inputs, "outputs": self.outputs, "centre": self.centre, "scale": self.scale}

    def tensors(self) -> Mapping[str, Tensor]:
        """See ``Codec``."""
        return {"mean": self.mean, "std": self.std}


def _matrix(values: Any, name: str) -> Tensor:
    found = torch.as_tensor(np.asarray(values, dtype=np.float64))
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name} must be finite numbers (N, D) or (N,), not of shape {tuple(found.shape)} with gaps")
    return found


def _pair(function: Function, i: int) -> tuple[Tensor, Tensor]:
    x, y = _matrix(function[0], f"x of function {i}"), _matrix(function[1], f"y of function {i}")
    if len(x) != len(y) or not len(x):
        raise ValueError(f"function {i} has {len(x)} places and {len(y)} values: need as many, and at least one")
    return x, y
