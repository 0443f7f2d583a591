"""Labelled images: what the image data sets return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["LabelledImages"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images with one class each, exactly as stored: integers, never rescaled.

    Attributes:
        images: Integer intensities in 0 … ``maximum``, (N, H, W) or (N, H, W, C).
        labels: Integer classes, (N,).
        maximum: The intensity of white: 255 for bytes, 16 for ``digits``.
        name: Name of the data set and split.
        source: Where the data come from.
    """

    images: np.ndarray
    labels: np.ndarray
    maximum: int
    name: str
    source: str

    def __post_init__(self) -> None:
        if self.images.ndim not in (3, 4) or not np.issubdtype(self.images.dtype, np.integer):
            raise ValueError(
                f"images of {self.name} are {self.images.dtype} of shape {self.images.shape}; integers (N, H, W) or "
                "(N, H, W, C) are needed"
            )
        if self.labels.shape != self.images.shape[:1] or not np.issubdtype(self.labels.dtype, np.integer):
            raise ValueError(
                f"labels of {self.name} are {self.labels.dtype} of shape {self.labels.shape}; integers "
                f"({len(self.images)},) are needed, one an image"
            )
        if self.images.size and not 0 <= int(self.images.min()) <= int(self.images.max()) <= self.maximum:
            raise ValueError(
                f"images of {self.name} span {self.images.min()} … {self.images.max()}; 0 … {self.maximum} are allowed"
            )

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, idx: Sequence[int] | np.ndarray | slice) -> LabelledImages:
        """The images and labels at ``idx``: integers, a bool mask (N,) or a slice."""
        rows = np.arange(len(self))[idx]
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def split(self, fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """Disjoint ``(train, holdout)`` with ``fraction`` of every class, to one image, in train.

        Train has ``round(fraction · N)`` images; the remainders of the classes are rounded by largest remainder. Both
        parts keep the order of the data. The same seed gives the same split on every machine and numpy version.

        Raises:
            ValueError: If ``fraction`` is not in (0, 1).
        """
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"the fraction of a split of {self.name} is {fraction}; it must lie in (0, 1)")
        # numpy promises the stream of a bit generator, not that of Generator.permutation: sort raw 64-bit keys
        keys = np.random.PCG64(seed).random_raw(len(self))
        classes, counts = np.unique(self.labels, return_counts=True)
        quota = np.floor(fraction * counts).astype(int)
        spare = round(fraction * len(self)) - int(quota.sum())
        quota[np.argsort(quota - fraction * counts, kind="stable")[:spare]] += 1
        train = np.zeros(len(self), dtype=bool)
        for label, count in zip(classes, quota):
            members = np.flatnonzero(self.labels == label)
            train[members[np.argsort(keys[members], kind="stable")[:count]]] = True
        return self.subset(train), self.subset(~train)
