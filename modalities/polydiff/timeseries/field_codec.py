"""States of a system on a grid, standardised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

__all__ = ["FieldCodec"]


class FieldCodec:
    """States ``(..., *space[, C])`` to standardised ``(..., S, C)`` and back; every channel has one mean and one scale.

    Args:
        shape: Of a state: (S,) or (S, C); on a sphere (latitudes, longitudes) or (latitudes, longitudes, C).
        axes: How many axes of the shape are space.
        mean: ``(C,)``.
        std: ``(C,)``.
    """

    def __init__(self, shape: tuple[int, ...], axes: int, mean: Tensor, std: Tensor) -> None:
        self.shape, self.axes, self.mean, self.std = tuple(shape), axes, mean, std

    @classmethod
    def of(cls, states: Tensor, axes: int) -> Self:
        """Of states ``(N, T, *shape)``."""
        shape = tuple(states.shape[2:])
        if len(shape) not in (axes, axes + 1):
            raise ValueError(f"states of shape {shape}: need {axes} axes of space, and at most one of channels")
        flat = states.reshape(-1, shape[-1] if len(shape) > axes else 1)
        std = flat.std(0)
        return cls(shape, axes, flat.mean(0), torch.where(std > 0, std, 1.0))

    def encode(self, natural: Any) -> Tensor:
        """``(..., *shape)`` to ``(..., S, C)`` in float32."""
        x = torch.as_tensor(np.asarray(natural), dtype=torch.float64)
        if tuple(x.shape[x.ndim - len(self.shape) :]) != self.shape:
            raise ValueError(
                f"states of shape {tuple(x.shape)}: the last axes must be {self.shape}, as in the training data"
            )
        if not bool(x.isfinite().all()):
            raise ValueError("the states hold values that are not finite: fill or drop them first")
        return ((x.reshape(*x.shape[: x.ndim - len(self.shape)], -1, len(self.mean)) - self.mean) / self.std).float()

    def decode(self, data: Any) -> Tensor:
        """``(..., S, C)`` to ``(..., *shape)`` in float64."""
        x: Tensor = data.double() * self.std + self.mean
        return x.reshape(*x.shape[:-2], *self.shape)

    def config(self) -> Mapping[str, Any]:
        """Shape and number of axes of space."""
        return {"shape": list(self.shape), "axes": self.axes}

    def tensors(self) -> Mapping[str, Tensor]:
        """Means and scales."""
        return {"mean": self.mean, "std": self.std}
