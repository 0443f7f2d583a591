"""Handwritten digits: the 8×8 ones that ship with scikit-learn, and MNIST."""

from __future__ import annotations

from typing import Literal

import numpy as np

from polydiff.datasets.folder import read_checked
from polydiff.datasets.labelled import LabelledImages

# of the uncompressed idx files
_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

__all__ = ["digits", "mnist"]


def digits() -> LabelledImages:
    """1,797 real digits: uint8 (1797, 8, 8) in 0 … 16, ten classes. Needs scikit-learn, and no download.

    Raises:
        ImportError: If scikit-learn is not installed.

    Source: Optical Recognition of Handwritten Digits (test part), 1998, UCI Machine Learning Repository.
    """
    try:
        from sklearn.datasets import load_digits
    except Exception as broken:
        raise ImportError("the digits are read from scikit-learn: pip install 'polydiff[images]'") from broken
    found = load_digits()
    return LabelledImages(
        images=found.images.astype(np.uint8),
        labels=found.target.astype(np.int64),
        maximum=16,
        name="digits",
        source="Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, through scikit-learn",
    )


def mnist(split: Literal["train", "test"] = "train") -> LabelledImages:
    """MNIST, the official split: uint8 (60000, 28, 28) or (10000, 28, 28) in 0 … 255, ten classes.

    Reads the four gzipped idx files in ``images/mnist`` of the data folder and checks their bytes.

    Raises:
        FileNotFoundError: If a file is absent.
        ValueError: If a file is not the original, or ``split`` is unknown.

    Source: Gradient-Based Learning Applied to Document Recognition, 1998, Proc. IEEE 86:2278.
    """
    if split not in ("train", "test"):
        raise ValueError(f"MNIST has no split {split!r}; 'train' and 'test' are there")
    part = "train" if split == "train" else "t10k"
    return LabelledImages(
        images=_idx(f"{part}-images-idx3-ubyte"),
        labels=_idx(f"{part}-labels-idx1-ubyte").astype(np.int64),
        maximum=255,
        name=f"mnist/{split}",
        source="MNIST, original idx files",
    )


def _idx(file: str) -> np.ndarray:
    """Unsigned bytes in idx format: two zeros, type 8, the number of axes, their big-endian sizes, the entries."""
    raw = read_checked(f"images/mnist/{file}.gz", _SHA256[file])
    axes = raw[3]
    shape = np.frombuffer(raw, ">u4", count=axes, offset=4).tolist()
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()  # a view of bytes is read-only
