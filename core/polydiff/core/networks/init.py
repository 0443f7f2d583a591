"""Initialisation."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def zero_init(module: M) -> M:
    """``module`` with all parameters set to zero, so that the branch it ends starts as nothing."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module
