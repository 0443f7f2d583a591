"""Pictures of images and of their training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.guidance import ClassifierFree
from polydiff.core.pictures import svg
from polydiff.core.sampling import Ancestral, trajectory
from polydiff.core.schedules import uniform_times
from polydiff.images.data import grid

if TYPE_CHECKING:
    from polydiff.core.training import History
    from polydiff.images.generator import ImageGenerator


def path_strip(
    generator: ImageGenerator, labels: Sequence[Any], *, frames: int = 12, steps: int = 60, seed: int = 0
) -> Any:
    """One row a label: the way from noise to image, as the states of the sampler at equal steps.

    Args:
        generator: A fitted generator with classes.
        labels: One a row.
        frames: Columns.
        steps: Sampling steps.
        seed: Of the noise.
    """
    codec, model = generator._fitted()
    n = len(labels)
    ctx = Context(cond={"label": codec.class_numbers(list(labels), n).to(generator.device)})
    rng = Rng(seed, n)
    x = model.process.prior(generator._like(n), ctx).sample(rng)
    states = [x]
    with torch.no_grad():
        for tr in trajectory(
            ClassifierFree(model, generator.config.guidance), x, uniform_times(steps), Ancestral(0.0), ctx, rng=rng
        ):
            states.append(tr.x_s)
    picked = [states[i] for i in np.linspace(0, steps, frames).round().astype(int)]
    rows = torch.stack(picked, 1).flatten(0, 1).cpu()
    return grid(codec.decode(rows, "pil"), columns=frames, scale=8)


def training_curve(history: History) -> bytes:
    """The loss by step, raw and smoothed, as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps, loss = np.array(history["step"]), np.array(history["loss"])
    figure, axes = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    axes.plot(steps, loss, color="#9db8d6", linewidth=0.8, label="each record")
    width = max(1, len(loss) // 20)
    if len(loss) > 2 * width:
        smooth = np.convolve(loss, np.ones(width) / width, "valid")
        axes.plot(steps[width - 1 :], smooth, color="#0b6bcb", linewidth=2, label=f"mean of {width}")
    axes.set(xlabel="training step", ylabel="weighted squared error", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return svg(figure)
