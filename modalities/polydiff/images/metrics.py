"""Metrics of images: features from a small network trained on the real data, and one honest report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from polydiff.core.evaluation import (
    Figure,
    Polynomial,
    Report,
    Score,
    classifier_two_sample_test,
    frechet_distance,
    memorisation_test,
    mmd,
    precision_recall_density_coverage,
)

if TYPE_CHECKING:
    from polydiff.images.generator import ImageGenerator

FeatureExtractor = Callable[[Tensor], Tensor]


class SmallConvFeatures:
    """A small convolutional classifier trained on labelled real images: its last hidden layer, ``(N, 64)``.

    The offline default where Inception features would be neither available nor meaningful. Distances are comparable
    only with others of the same ``id``, which holds seed, epochs and the number of training images.

    Args:
        images: Standardised real images ``(N, C, H, W)``.
        labels: Class numbers ``(N,)``.
        epochs: Passes over the data.
        seed: Of weights and order.
    """

    def __init__(self, images: Tensor, labels: Tensor, *, epochs: int = 20, seed: int = 0) -> None:
        classes = int(labels.max()) + 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(images.shape[1], 32, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(256, 64),
                nn.ReLU(),
            )
            self.head = nn.Linear(64, classes)
        self._train(images, labels, epochs, seed)
        self.id = f"small-conv-64:trained-on-real-N={len(images)}:epochs={epochs}:seed={seed}"

    def _train(self, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        both = nn.ModuleList([self.body, self.head])
        steps = max(1, epochs * len(images) // 128)
        optimiser = torch.optim.AdamW(both.parameters(), lr=2e-3)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        with torch.enable_grad():
            for _ in range(steps):
                rows = torch.randint(len(images), (min(128, len(images)),), generator=generator)
                loss = nn.functional.cross_entropy(self.head(self.body(images[rows])), labels[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                decay.step()
        both.eval().requires_grad_(False)

    def __call__(self, images: Tensor) -> Tensor:
        """Features ``(N, 64)`` of standardised images."""
        return torch.cat([self.body(part) for part in images.split(1024)])

    def predict(self, images: Tensor) -> Tensor:
        """Class numbers ``(N,)``: the same network as a judge of labels."""
        return torch.cat([self.head(self.body(part)).argmax(1) for part in images.split(1024)])


def evaluate(
    generator: ImageGenerator,
    images: Any,
    labels: Any = None,
    *,
    train: Any = None,
    features: FeatureExtractor | None = None,
    n: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Report:
    """Generated against real images, each figure beside its floor.

    The floor compares two disjoint halves of ``images`` at the same sample size, so that n images of each side are
    compared throughout.

    Args:
        generator: A fitted generator.
        images: Real images, best ones that the generator has not seen.
        labels: Their labels; needed for the default features and for label agreement.
        train: Training images, for the test of memorisation.
        features: ``(N, C, H, W)`` standardised images to ``(N, D)``; a ``SmallConvFeatures`` trained on ``images`` by
            default, or the pixels themselves without labels.
        n: Images a side; half of the real ones by default.
        steps: As for ``sample``.
        guidance: As for ``sample``.
        seed: Of samples, halves and features.
        progress: As for ``sample``.
    """
    codec, _ = generator._fitted()
    real = codec.encode(images)
    n = len(real) // 2 if n is None else n
    if not 10 <= n <= len(real) // 2:
        raise ValueError(f"n={n} with {len(real)} real images: need 10 to {len(real) // 2}, two disjoint halves of n")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(real)))
    first, second = real[order[:n]], real[order[n : 2 * n]]
    numbers = None if labels is None or not codec.classes else codec.class_numbers(labels, len(real))
    if features is None:
        features = _pixels if numbers is None else SmallConvFeatures(real, numbers, seed=seed)
    name = getattr(features, "id", "pixels" if features is _pixels else "custom")
    wanted = None if numbers is None else numbers[order[:n]]
    label = None if wanted is None else np.array([codec.classes[int(k)] for k in wanted])
    made = generator.sample(
        n, label=label, steps=steps, guidance=guidance, seed=seed, output="torch", progress=progress
    )
    fake = (made - codec.mean) / codec.std
    a, b, c = features(first), features(second), features(fake)
    rows = [
        _pair("frechet", frechet_distance, a, b, c, "lower", name, "distance of means and covariances of features"),
        _pair(
            "kid", lambda x, y: mmd(x, y, Polynomial()), a, b, c, "lower", name, "kernel distance of features, unbiased"
        ),
    ]
    rows += _prdc(a, b, c, name)
    rows.append(_two_sample(a, b, c, name, seed))
    if wanted is not None and isinstance(features, SmallConvFeatures):
        agree = float((features.predict(fake) == wanted).float().mean())
        floor = float((features.predict(second) == numbers[order[n : 2 * n]]).float().mean())  # type: ignore[index]
        rows.append(
            Figure("label agreement", agree, floor, "higher", name, "share of images judged to be what was asked")
        )
    if train is not None:
        rows.append(_memorisation(codec.encode(train), first, second, fake))
    return Report(tuple(rows))


def _pixels(images: Tensor) -> Tensor:
    return images.flatten(1)


def _pair(
    name: str,
    metric: Callable[[Tensor, Tensor], Score],
    a: Tensor,
    b: Tensor,
    c: Tensor,
    better: str,
    features: str,
    meaning: str,
) -> Figure:
    value, floor = metric(a, c), metric(a, b)
    return Figure(name, float(value), float(floor), better, f"{value.id}:{features}", meaning)


def _prdc(a: Tensor, b: Tensor, c: Tensor, features: str) -> list[Figure]:
    value, floor = (precision_recall_density_coverage(a, x) for x in (c, b))
    meanings = {
        "precision": "share of generated images inside the manifold of real ones",
        "recall": "share of real images inside the manifold of generated ones",
        "coverage": "share of real images with a generated one nearby",
    }
    return [
        Figure(k, getattr(value, k), getattr(floor, k), "higher", f"{value.id}:{features}", text)
        for k, text in meanings.items()
    ]


def _two_sample(a: Tensor, b: Tensor, c: Tensor, features: str, seed: int) -> Figure:
    value, floor = (classifier_two_sample_test(a, x, seed) for x in (c, b))
    meaning = "accuracy of a classifier that tells generated from real; 0.5 means it cannot"
    return Figure("classifier two-sample", value.statistic, floor.statistic, "lower", f"{value.id}:{features}", meaning)


def _memorisation(train: Tensor, holdout: Tensor, other: Tensor, fake: Tensor) -> Figure:
    value, floor = (memorisation_test(train.flatten(1), holdout.flatten(1), x.flatten(1)) for x in (fake, other))
    meaning = "p-value of the test that samples lie no closer to the training images than held-out ones; small is bad"
    return Figure("memorisation p-value", value.p_value, floor.p_value, "higher", value.id, meaning)
