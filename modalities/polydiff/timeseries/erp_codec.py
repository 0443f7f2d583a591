"""Epochs and their conditions, as a network reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["NAMES", "EpochCodec"]

NAMES = ("label", "subject", "session")


class EpochCodec:
    """Epochs ``(N, C, T)`` standardised by channel as ``(N, T, C)`` and back, and the values that conditions take.

    Args:
        shape: (C, T).
        values: That ``label``, ``subject`` and ``session`` take.
        mean: ``(C,)``.
        std: ``(C,)``.
    """

    def __init__(
        self, shape: tuple[int, int], values: Mapping[str, tuple[Any, ...]], mean: Tensor, std: Tensor
    ) -> None:
        self.shape, self.values, self.mean, self.std = shape, dict(values), mean, std

    def encode(self, natural: Any) -> Tensor:
        """Epochs ``(N, C, T)`` to ``(N, T, C)``."""
        x = torch.as_tensor(np.asarray(natural, dtype=np.float64))
        if x.ndim != 3 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"epochs of shape {tuple(x.shape)}: need (N, {self.shape[0]}, {self.shape[1]})")
        if not bool(x.isfinite().all()):
            raise ValueError("the epochs hold values that are not finite: drop these epochs first")
        return ((x.mT - self.mean) / self.std).float()

    def decode(self, data: Any) -> NDArray[np.float64]:
        """Epochs ``(N, C, T)``."""
        out: NDArray[np.float64] = (data.double() * self.std + self.mean).mT.numpy()
        return out

    def config(self) -> Mapping[str, Any]:
        """See ``Codec``."""
        return {"shape": list(self.shape), "values": {k: list(v) for k, v in self.values.items()}}

    def tensors(self) -> Mapping[str, Tensor]:
        """See ``Codec``."""
        return {"mean": self.mean, "std": self.std}

    def cond(self, given: Mapping[str, Any], n: int) -> dict[str, Tensor]:
        """``label`` ``(n,)`` and ``static`` ``(n, S)``, the others as indicators: a linear map of them is a sum of embeddings.

        What is not given is null: the number behind the last label, indicators that are all zero.
        """
        out = {"label": torch.full((n,), len(self.values["label"]))}
        flags = []
        for name in NAMES:
            values, asked = self.values[name], given.get(name)
            at = (
                None
                if asked is None
                else torch.tensor([self._number(name, v) for v in np.broadcast_to(asked, (n,)).tolist()])
            )
            if name == "label":
                out["label"] = out["label"] if at is None else at
            else:
                flags.append(torch.zeros(n, len(values)) if at is None else torch.eye(len(values))[at])
        return {**out, "static": torch.cat(flags, 1)}

    def _number(self, name: str, value: Any) -> int:
        if value not in self.values[name]:
            raise ValueError(f"{name}={value!r}: this model knows {', '.join(map(repr, self.values[name]))}")
        return self.values[name].index(value)
