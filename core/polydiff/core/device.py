"""Where things run."""

from __future__ import annotations

import torch

__all__ = ["device_of"]


def device_of(device: str | torch.device | None) -> torch.device:
    """The given device, else CUDA or Apple's where there is one, else the CPU."""
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
