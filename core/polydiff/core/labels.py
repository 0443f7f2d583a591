"""Labels of samples: integers or texts, as class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["class_numbers", "classes_of"]

Label = int | str


def classes_of(labels: Any, n: int, thing: str) -> tuple[Label, ...]:
    """The distinct labels of n samples in order; none where ``labels`` is ``None``."""
    return () if labels is None else tuple(_plain(c) for c in np.unique(_checked(labels, n, thing)))


def class_numbers(classes: Sequence[Label], labels: Any, n: int, thing: str) -> Tensor:
    """Class numbers ``(n,)`` of labels, or of one label for all.

    Args:
        classes: Of the model.
        labels: One a sample, or a single one.
        n: Number of samples.
        thing: What a sample is called in errors.

    Raises:
        ValueError: For a model without classes, an unknown label, or another number of labels than samples.
    """
    if not classes:
        raise ValueError("this model was fitted without labels: it has no classes to choose from")
    known = {c: i for i, c in enumerate(classes)}
    values = [_plain(v) for v in _checked(labels, n, thing)]
    for i, value in enumerate(values):
        if value not in known:
            shown = ", ".join(map(repr, classes[:12])) + (", …" if len(classes) > 12 else "")
            raise ValueError(f"label {value!r} (number {i}) is none of the classes of this model: {shown}")
    return torch.tensor([known[v] for v in values])


def _checked(labels: Any, n: int, thing: str) -> np.ndarray:
    """n labels as a one-dimensional array; a single label is repeated."""
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    array = np.asarray(labels)
    if array.ndim == 0:
        array = np.repeat(array, n)
    if array.shape != (n,):
        raise ValueError(f"labels of shape {array.shape} for {n} {thing}s: need one label for each {thing}")
    if array.dtype.kind not in "iuUSbO" and not (array.dtype.kind == "f" and bool((array == np.round(array)).all())):
        raise ValueError(f"labels of type {array.dtype}: need integers or texts")
    return array


def _plain(label: Any) -> Label:
    return str(label) if isinstance(label, (str, bytes)) else int(label)
