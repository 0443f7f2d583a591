"""ImageGenerator: fit it on images; sample, inpaint, interpolate, score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from polydiff.core.data import Context
from polydiff.core.denoisers import Model
from polydiff.core.generator import Generator
from polydiff.core.guidance import ClassifierFree
from polydiff.core.processes import LinearGaussian
from polydiff.core.sampling import Chain, DPMSolverPP, Sampler, interpolate
from polydiff.core.schedules import Schedule, logsnr_times, uniform_times
from polydiff.core.training import Batches, adamw, train
from polydiff.images.build import model_of, objective_of
from polydiff.images.data import ImageCodec, Output, as_array
from polydiff.images.likelihood import ImageLikelihood, image_likelihood
from polydiff.images.masks import mask_of
from polydiff.images.recipes import ImageConfig, default


class ImageGenerator(Generator):
    """Learns the distribution of a set of images.

    Args:
        config: A recipe (``recipes.digits()``, ``mnist()``, ``cifar10()``, ``dit_s()``) or your own ``ImageConfig``;
            chosen by image size if left out.
        seed: Of weights, data order and training noise.
        device: Where to run; the best one at hand if left out.

    >>> from polydiff.datasets import digits
    >>> from polydiff.images import ImageGenerator
    >>> data = digits()
    >>> gen = ImageGenerator().fit(data.images, data.labels, steps=2)
    >>> gen.sample(3, label=7, steps=2).shape
    (3, 8, 8)
    """

    modality: ClassVar[str] = "images"
    config_class: ClassVar[type] = ImageConfig

    def __init__(
        self, config: ImageConfig | None = None, *, seed: int = 0, device: str | torch.device | None = None
    ) -> None:
        super().__init__(config, seed=seed, device=device)

    # -------------------------------------------------------------- building

    @classmethod
    def _codec_from(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ImageCodec:
        return ImageCodec.from_config(config)

    def _model_from(self, codec: ImageCodec) -> Model:
        return model_of(self.config, codec, self.seed, self.device)

    # -------------------------------------------------------------- fitting

    def fit(
        self,
        images: Any,
        labels: Any = None,
        *,
        maximum: float | None = None,
        steps: int | None = None,
        seconds: float | None = None,
        run_dir: str | Path | None = None,
        callbacks: Iterable[Callable[..., None]] = (),
        progress: bool | None = None,
    ) -> Self:
        """Learn from images, and from one label each if the samples are to be chosen by label.

        Args:
            images: ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` arrays or tensors, or a list of PIL images.
            labels: Integers or texts ``(N,)``.
            maximum: Value of a full pixel; 255 for bytes, 1 for unit floats, else the largest value seen.
            steps: Training steps; those of the recipe if left out.
            seconds: Stop after this time if it comes first.
            run_dir: Folder of log and checkpoints; a run that was interrupted goes on from the last checkpoint there.
            callbacks: ``callback(trainer, step, logs)``.
            progress: Show a bar; by default only on a terminal.

        Raises:
            ValueError: For bad data, before anything is trained or written.
        """
        codec = ImageCodec.fit(images, labels, maximum)
        x = codec.encode(images)
        cond = {} if labels is None else {"label": codec.class_numbers(labels, len(x))}
        if self.config is None:
            self.config = default(codec.height, codec.width)
        c: ImageConfig = self.config
        model = self._model_from(codec)
        self.history = train(
            objective_of(c, model, labelled=bool(cond)),
            adamw(model, c.lr, c.weight_decay),
            Batches(x, cond=cond, batch_size=min(c.batch_size, len(x)), seed=self.seed),
            c,
            seed=self.seed,
            device=self.device,
            steps=steps,
            seconds=seconds,
            run_dir=run_dir,
            callbacks=callbacks,
            progress=progress,
        )
        self.codec, self.model = codec, model.eval()
        return self

    # -------------------------------------------------------------- sampling

    def sample(
        self,
        n: int,
        *,
        label: Any = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        batch_size: int = 256,
        output: Output = "numpy",
        progress: bool | None = None,
    ) -> Any:
        """n new images.

        Args:
            n: How many.
            label: One label for all, or one each; by default labels of equal frequency in turn, where the model has any.
            steps: Sampling steps (evaluations of the network; two a step's cost under guidance).
            guidance: 1 samples the conditional model, more follows the label more closely.
            seed: Image i depends on seed and i alone, whatever the batch size.
            sampler: Any Sampler in place of DPM-Solver++(2M).
            batch_size: Images at a time: memory, not results.
            output: ``"numpy"`` ``(n, H, W[, C])``, ``"torch"`` ``(n, C, H, W)`` or ``"pil"``.
            progress: Show a bar; by default only on a terminal.
        """
        codec, _ = self._fitted()
        cond, scale = self._labels(label, n), self._scale(guidance)
        batches = self._generate(
            n,
            self._like,
            lambda rows: Context(cond={k: v[rows] for k, v in cond.items()}),
            self._sampler(steps) if sampler is None else sampler,
            seed=seed,
            batch_size=batch_size,
            wrap=lambda d: ClassifierFree(d, scale) if cond else d,
            progress=progress,
        )
        return _joined([codec.decode(batch, output) for batch in batches], output)

    def inpaint(
        self,
        images: Any,
        known: Any,
        *,
        label: Any = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        batch_size: int = 256,
        output: Output = "numpy",
    ) -> Any:
        """Fill in the pixels that are not known; known pixels come back untouched.

        Args:
            images: As for ``fit``; values at unknown pixels are ignored.
            known: Bool ``(H, W)`` or ``(N, H, W)``, True where a pixel is given.
            label: As for ``sample``, for models with labels; unconditional if left out.
            steps: As for ``sample``.
            guidance: As for ``sample``.
            seed: As for ``sample``.
            batch_size: As for ``sample``.
            output: As for ``sample``.
        """
        codec, model = self._fitted()
        if not model.sees_known:
            raise ValueError(
                "this model was trained without given pixels: set known=0.25 in its configuration and fit again"
            )
        raw = as_array(images)
        mask = mask_of(known, len(raw), (codec.height, codec.width))
        given = codec.encode(np.where(mask, raw, 0).astype(raw.dtype))
        hold = torch.from_numpy(mask.copy())
        free = label is None
        cond, scale = self._labels(label, len(raw), null=free), self._scale(guidance)
        batches = self._generate(
            len(raw),
            self._like,
            lambda r: Context(
                cond={k: v[r] for k, v in cond.items()}, known=hold[r].to(self.device), given=given[r].to(self.device)
            ),
            self._sampler(steps),
            seed=seed,
            batch_size=batch_size,
            wrap=lambda d: d if free else ClassifierFree(d, scale),
        )
        pixels = codec.decode(torch.cat([b for b in batches if isinstance(b, Tensor)]), "torch")
        exact = torch.where(hold, torch.from_numpy(np.where(mask, raw, 0).astype(np.float32)), pixels)
        return codec.decode((exact - codec.mean) / codec.std, output)

    def interpolate(
        self, first: Any, last: Any, n: int = 8, *, label: Any = None, steps: int = 50, output: Output = "numpy"
    ) -> Any:
        """n images on the way from ``first`` to ``last``: both are encoded to noise, and the great circle is decoded.

        Args:
            first: One image.
            last: Another.
            n: Number of images, both ends included.
            label: Label of all images on the way; unconditional if left out.
            steps: DDIM steps each way.
            output: As for ``sample``.

        Source: Denoising Diffusion Implicit Models, 2020, arXiv 2010.02502, section 5.3.
        """
        codec, model = self._fitted()
        ends = torch.cat([codec.encode([i]) for i in (first, last)]).to(self.device)
        cond = self._labels(label, 1, null=label is None)
        x = interpolate(model, ends[0], ends[1], n, uniform_times(steps), Context(cond=cond))
        return codec.decode(x, output)

    # -------------------------------------------------------------- likelihood and evaluation

    def log_likelihood(
        self,
        images: Any,
        labels: Any = None,
        *,
        steps: int = 50,
        divergence: Literal["exact", "hutchinson"] = "hutchinson",
        probes: int = 4,
        seed: int = 0,
        batch_size: int = 256,
    ) -> ImageLikelihood:
        """Likelihood under the probability-flow ODE, with uniform dequantisation of integer pixels.

        Args:
            images: As for ``fit``.
            labels: One each, for the conditional likelihood.
            steps: Runge–Kutta steps of four evaluations.
            divergence: ``"exact"`` costs a backward pass a pixel; ``"hutchinson"`` is an unbiased estimate of the
                integral.
            probes: Random vectors of the estimate.
            seed: Of dequantisation and estimate.
            batch_size: As for ``sample``.
        """
        codec, model = self._fitted()
        x = codec.encode(images)
        cond = self._labels(labels, len(x), null=labels is None)
        times = logsnr_times(self._schedule(), steps, high=9.0)[:-1]
        return image_likelihood(model, codec, x.to(self.device), cond, times, divergence, probes, seed, batch_size)

    def evaluate(self, images: Any, labels: Any = None, **options: Any) -> Any:
        """Honest numbers against held-out images: see ``polydiff.images.metrics.evaluate``."""
        from polydiff.images.metrics import evaluate

        return evaluate(self, images, labels, **options)

    # -------------------------------------------------------------- parts

    def _like(self, n: int) -> Tensor:
        codec, _ = self._fitted()
        return torch.zeros(n, *codec.shape, device=self.device)

    def _sampler(self, steps: int | None) -> Sampler:
        n = self.config.sample_steps if steps is None else steps
        if n < 1:
            raise ValueError(f"steps={n}: sampling needs at least 1 step")
        return Chain(logsnr_times(self._schedule(), n, high=8.0), DPMSolverPP(2))

    def _schedule(self) -> Schedule:
        _, model = self._fitted()
        assert isinstance(model.process, LinearGaussian) and isinstance(model.process.path, Schedule)
        return model.process.path

    def _card(self) -> str:
        codec, model = self._fitted()
        parameters = sum(p.numel() for p in model.parameters())
        return (
            f"Images of {codec.height}×{codec.width} pixels, {codec.channels} channel(s), "
            f"{len(codec.classes) or 'no'} classes; {parameters:,} parameters.\n\n"
            "```python\nfrom polydiff.images import ImageGenerator\n"
            'ImageGenerator.load("this folder").sample(16)\n```\n'
        )


def _joined(parts: list[Any], output: Output) -> Any:
    """Decoded batches as one: batches are decoded as they come, so that memory holds no second copy."""
    if output == "pil":
        return [image for part in parts for image in part]
    return torch.cat(parts) if output == "torch" else np.concatenate(parts)


__all__ = ["ImageGenerator", "ImageLikelihood"]
