"""Images in, images out: validation, layouts, and the codec that standardises pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from polydiff.core.labels import class_numbers, classes_of

Output = Literal["pil", "numpy", "torch"]


def as_array(images: Any) -> np.ndarray:
    """``(N, C, H, W)`` from arrays or tensors ``(N, H, W)``, ``(N, H, W, C)``, ``(N, C, H, W)`` or a list of images.

    Raises:
        ValueError: In one sentence, for empty data, mixed sizes, impossible shapes, NaN or infinite pixels.
    """
    if isinstance(images, (str, bytes)):
        raise ValueError(f"images={images!r}: need an array, a tensor or a list of images, not a text")
    if isinstance(images, Tensor):
        array = images.detach().cpu().numpy()
    elif isinstance(images, np.ndarray) and images.dtype != object:
        array = images
    else:
        array = _stack(list(images))
    if array.size == 0:
        raise ValueError(f"the images are empty (shape {array.shape}): need at least one image")
    if array.dtype.kind not in "uifb":
        raise ValueError(f"pixels of type {array.dtype} are no numbers: need integers or floats")
    array = _channels_first(array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        n, c, y, x = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            f"pixel (row {y}, column {x}, channel {c}) of image {n} is {array[n, c, y, x]}: need finite numbers"
        )
    return array


def _stack(items: list[Any]) -> np.ndarray:
    if not items:
        raise ValueError("the list of images is empty: need at least one image")
    arrays = [np.asarray(i.detach().cpu() if isinstance(i, Tensor) else i) for i in items]
    shapes = [a.shape for a in arrays]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(f"image {i} has shape {shape} but image 0 has {shapes[0]}: resize them to one size first")
    return np.stack(arrays)


def _channels_first(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise ValueError(f"images of shape {array.shape}: need (N, H, W), (N, H, W, C) or (N, C, H, W)")
    first, last = array.shape[1] in (1, 3, 4), array.shape[3] in (1, 3, 4)
    if first == last:
        why = "either axis could hold the channels" if first else "no axis holds 1, 3 or 4 channels"
        raise ValueError(f"images of shape {array.shape}: {why}; need (N, H, W, C) or (N, C, H, W)")
    return array if first else array.transpose(0, 3, 1, 2)


@dataclass(frozen=True)
class ImageCodec:
    """Pixels of value 0 … maximum to data of mean 0 and variance 1, and back; labels to class numbers.

    Attributes:
        channels: 1, 3 or 4.
        height: Rows.
        width: Columns.
        maximum: Value of a full pixel (255 for bytes, 1 for unit floats, 16 for scikit-learn's digits).
        integer: Pixels are integers: decoded ones are rounded, and likelihoods are those of the integers.
        mean: Mean of the pixels.
        std: Their standard deviation.
        classes: The labels, in order of their class numbers; empty without labels.
    """

    channels: int
    height: int
    width: int
    maximum: float
    integer: bool
    mean: float
    std: float
    classes: tuple[int | str, ...] = ()

    @classmethod
    def fit(cls, images: Any, labels: Any = None, maximum: float | None = None) -> ImageCodec:
        """Read shape, range, mean, spread and classes off the data."""
        array = as_array(images)
        top = float(array.max())
        if maximum is None:
            maximum = 255.0 if array.dtype == np.uint8 else 1.0 if top <= 1 else top
        if float(array.min()) < 0 or top > maximum:
            raise ValueError(
                f"pixels run from {float(array.min()):g} to {top:g}: need values between 0 and {maximum:g}"
            )
        exact = array.astype(np.float64)
        std = float(exact.std())
        if std == 0:
            raise ValueError(f"every pixel is {top:g}: a constant has no distribution to learn")
        integer = bool((exact == np.round(exact)).all()) and maximum > 1
        classes = classes_of(labels, len(array), "image")
        c, h, w = array.shape[1:]
        return cls(c, h, w, float(maximum), integer, float(exact.mean()), std, classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    def encode(self, natural: Any) -> Tensor:
        """Standardised float32 ``(N, C, H, W)``."""
        array = as_array(natural)
        if array.shape[1:] != self.shape:
            raise ValueError(f"images of shape (C, H, W) = {array.shape[1:]}: this model was fitted to {self.shape}")
        if float(array.min()) < 0 or float(array.max()) > self.maximum:
            raise ValueError(
                f"pixels run from {float(array.min()):g} to {float(array.max()):g}: this model was fitted to values "
                f"between 0 and {self.maximum:g}"
            )
        return torch.from_numpy(((array.astype(np.float64) - self.mean) / self.std).astype(np.float32))

    def decode(self, data: Any, output: Output = "numpy") -> Any:
        """Images from standardised data: a list of PIL images, an array ``(N, H, W[, C])`` or a tensor ``(N, C, H, W)``."""
        if output not in ("pil", "numpy", "torch"):
            raise ValueError(f"output={output!r}: need 'pil', 'numpy' or 'torch'")
        pixels = (data.detach().float().cpu().numpy().astype(np.float64) * self.std + self.mean).clip(0, self.maximum)
        if self.integer:
            pixels = np.rint(pixels)
        if output == "torch":
            return torch.from_numpy(pixels.astype(np.float32))
        layout = pixels[:, 0] if self.channels == 1 else pixels.transpose(0, 2, 3, 1)
        if output == "numpy":
            return layout.astype(np.uint8 if self.integer and self.maximum <= 255 else np.float32)
        from PIL import Image

        return [Image.fromarray(i) for i in np.rint(layout * (255 / self.maximum)).astype(np.uint8)]

    def class_numbers(self, labels: Any, n: int) -> Tensor:
        """Class numbers ``(n,)`` of labels, or of one label for all."""
        return class_numbers(self.classes, labels, n, "image")

    def config(self) -> Mapping[str, Any]:
        """Everything, as JSON values."""
        return asdict(self) | {"classes": list(self.classes)}

    def tensors(self) -> Mapping[str, Tensor]:
        """Nothing: the statistics are plain numbers."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageCodec:
        """The inverse of ``config``; an unknown or missing key is refused by name."""
        names = set(cls.__dataclass_fields__)
        if wrong := set(config) ^ names:
            raise ValueError(f"codec with unknown or missing keys {sorted(wrong)}: need exactly {sorted(names)}")
        return cls(**{**config, "classes": tuple(config["classes"])})


def grid(images: Sequence[Any] | np.ndarray, columns: int = 8, scale: int = 4, gap: int = 1) -> Any:
    """One PIL picture of many images, ``columns`` in a row, enlarged ``scale`` times without smoothing.

    Args:
        images: PIL images, or an array ``(N, H, W[, C])`` of bytes.
        columns: Images in a row.
        scale: Enlargement.
        gap: White pixels between images, before enlargement.
    """
    from PIL import Image

    tiles = [i if isinstance(i, Image.Image) else Image.fromarray(i) for i in images]
    if not tiles:
        raise ValueError("no images to lay out")
    w, h = tiles[0].size
    rows = -(-len(tiles) // columns)
    sheet = Image.new(tiles[0].mode, (columns * (w + gap) + gap, rows * (h + gap) + gap), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (gap + i % columns * (w + gap), gap + i // columns * (h + gap)))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
