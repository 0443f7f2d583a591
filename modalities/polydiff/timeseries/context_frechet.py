"""Context-Fréchet distance: the Fréchet distance between embeddings of windows by an encoder trained on real ones.

The encoder is TS2Vec's: dilated convolutions, trained so that two overlapping crops of a window, masked at random, agree
where they overlap and differ elsewhere and from other windows. Here it sees the training windows only, is seeded and runs on
the CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polydiff.core.evaluation import Score, frechet_distance
from polydiff.timeseries.scores import Windows, as_windows, unit_range

__all__ = ["ContextEncoder", "context_frechet"]


def context_frechet(
    real: Windows, synthetic: Windows, *, train: Windows | None = None, seed: int = 0, iterations: int = 600
) -> Score:
    """Squared Fréchet distance between the embeddings of held-out real and of synthetic windows.

    The published score fits the encoder to the windows that it compares with, at equal numbers. The estimate is biased
    upwards where there are few windows: compare at equal N and give the score of training windows beside it.

    Args:
        real: Windows (N, L, D).
        synthetic: Windows (M, L, D).
        train: Windows that the encoder learns from and that scale the channels; the real ones unless given.
        seed: Of the encoder.
        iterations: Of its training, 8 windows each.

    Raises:
        ValueError: For other shapes.

    Source: PSA-GAN, 2021, arXiv 2108.00981; Diffusion-TS, 2024, arXiv 2403.01742.
    """
    encoder = ContextEncoder(real if train is None else train, seed=seed, iterations=iterations)
    found = frechet_distance(encoder(real), encoder(synthetic))
    return Score(found.value, f"context-{found.id}:ts2vec320:steps={iterations}:seed={seed}")


class ContextEncoder:
    """Embeds windows (N, L, D) as vectors (N, 320): the largest of each feature over the steps.

    Channels are mapped to [0, 1] by the range of the training windows. Ten residual blocks of two convolutions of 3 taps,
    64 wide, dilated by 2^k, and one to the features; weights averaged over training. Loss: at every scale of max-pooling by
    two, half instance-wise and half temporal contrast.

    Args:
        train: Real windows (N, L, D) to learn from, L ≥ 2.
        seed: Of weights, crops, masks and batches.
        iterations: Steps of AdamW at 1e-3; 600 is the published number for more than 100,000 values, 200 below.
        batch: Windows a step.
        features: Of the embedding.

    Raises:
        ValueError: For another shape.

    Source: TS2Vec: Towards Universal Representation of Time Series, 2021, arXiv 2106.10466.
    """

    def __init__(
        self, train: Windows, *, seed: int = 0, iterations: int = 600, batch: int = 8, features: int = 320
    ) -> None:
        self.reference = as_windows(train, "training windows")
        n, length, channels = self.reference.shape
        if length < 2 or n < 2:
            raise ValueError(f"training windows of shape {(n, length, channels)}: need N ≥ 2 and L ≥ 2")
        (x,) = unit_range(self.reference, self.reference)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _Encoder(channels, 64, 10, features)
            average = torch.optim.swa_utils.AveragedModel(network)
            optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
            for _ in range(iterations):
                rows = torch.randperm(n)[:batch]
                loss = _contrast(*_views(network, x[rows]))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                average.update_parameters(network)
        self.network = average.eval().requires_grad_(False)
        self.id = f"ts2vec{features}:steps={iterations}:seed={seed}"

    def __call__(self, windows: Windows) -> Tensor:
        """Embeddings (N, features)."""
        x = as_windows(windows)
        if x.shape[2] != self.reference.shape[2]:
            raise ValueError(f"windows of {x.shape[2]} channels: the encoder was trained on {self.reference.shape[2]}")
        (scaled,) = unit_range(self.reference, x)
        return torch.cat([self.network(part).amax(1) for part in scaled.split(256)])


class _Encoder(nn.Module):
    def __init__(self, channels: int, width: int, depth: int, features: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(channels, width)
        sizes = [width] * (depth + 1) + [features]
        self.blocks = nn.ModuleList(_Block(a, b, 2**k) for k, (a, b) in enumerate(zip(sizes, sizes[1:])))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inputs(x)
        if self.training:  # hide half of the steps
            h = h * (torch.rand(*h.shape[:2], 1) < 0.5)
        h = h.transpose(1, 2)
        for block in self.blocks:
            h = block(h)
        return F.dropout(h, 0.1, self.training).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.first = nn.Conv1d(inputs, outputs, 3)
        self.second = nn.Conv1d(outputs, outputs, 3)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self._convolve(self.first, F.gelu(x))
        return self._convolve(self.second, F.gelu(h)) + self.skip(x)

    def _convolve(self, layer: nn.Conv1d, x: Tensor) -> Tensor:
        if self.dilation >= x.shape[2]:  # the outer taps would meet padding only
            return F.conv1d(x, layer.weight[:, :, 1:2], layer.bias)
        return F.conv1d(x, layer.weight, layer.bias, padding=self.dilation, dilation=self.dilation)


def _views(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the overlap of two crops of each window, both (B, overlap, C)."""
    length = x.shape[1]

    def below(low: int, high: int) -> int:
        return int(torch.randint(low, high, ()))

    overlap = below(2, length + 1)
    left = below(0, length - overlap + 1)
    right = left + overlap
    start, end = below(0, left + 1), below(right, length + 1)
    shift = torch.randint(-start, length - end + 1, (len(x), 1))

    def crop(a: int, b: int) -> Tensor:
        features: Tensor = network(x[torch.arange(len(x))[:, None], shift + torch.arange(a, b)])
        return features

    return crop(start, right)[:, -overlap:], crop(left, end)[:, :overlap]


def _contrast(a: Tensor, b: Tensor) -> Tensor:
    losses = []
    while True:
        instances = _cross_entropy(torch.cat([a, b]).transpose(0, 1)) if len(a) > 1 else a.new_zeros(())
        steps = _cross_entropy(torch.cat([a, b], 1)) if a.shape[1] > 1 else a.new_zeros(())
        losses.append((instances + steps) / 2)
        if a.shape[1] == 1:
            return torch.stack(losses).mean()
        a, b = (F.max_pool1d(z.transpose(1, 2), 2).transpose(1, 2) for z in (a, b))


def _cross_entropy(z: Tensor) -> Tensor:
    """Of finding the partner ``i ± n`` among the other 2n − 1 of each row set (R, 2n, C)."""
    n = z.shape[1] // 2
    similarity = z @ z.transpose(1, 2)
    similarity = similarity.masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))
    partner = (torch.arange(2 * n) + n) % (2 * n)
    return -similarity.log_softmax(-1)[:, torch.arange(2 * n), partner].mean()
