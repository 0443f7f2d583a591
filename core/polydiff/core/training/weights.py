"""Loss weights as functions of the log-SNR, for the squared error of x_0.

The error of a noise prediction is SNR times the error of x_0, that of a v-prediction SNR + 1 times; papers that weight
those losses are converted here, so that one weight means the same for every parametrisation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["P2", "SNR", "EDMWeight", "Flat", "MinSNR", "Sigmoid", "VWeight", "VelocityWeight", "Weight"]


class Weight(ABC):
    """``w(logsnr)`` on ``(x̂_0 − x_0)²``, shaped like the log-SNR."""

    @abstractmethod
    def __call__(self, logsnr: Tensor) -> Tensor:
        """The weight."""


@dataclass(frozen=True)
class Flat(Weight):
    """1: the plain error of x_0."""

    def __call__(self, logsnr: Tensor) -> Tensor:
        """See ``Weight``."""
        return torch.ones_like(logsnr)


@dataclass(frozen=True)
class SNR(Weight):
    """SNR, at most ``limit``: the plain error of the noise (DDPM's simple loss).

    Source: Denoising Diffusion Probabilistic Models, 2020, arXiv 2006.11239.
    """

    limit: float = math.inf

    def __call__(self, logsnr: Tensor) -> Tensor:
        """See ``Weight``."""
        return logsnr.exp().clamp_max(self.limit)


@dataclass(frozen=True)
class VWeight(Weight):
    """SNR + 1: the plain error of v.

    Source: Progressive Distillation for Fast Sampling of Diffusion Models, 2022, arXiv 2202.00512.
    """

    def __call__(self, logsnr: Tensor) -> Tensor:
        """See ``Weight``."""
        return logsnr.exp() + 1


@dataclass(frozen=True)
class VelocityWeight(Weight):
    """``(1 + sqrt(SNR))²``: the plain error of the velocity noise − data of the rectified flow.

    Source: Flow Straight and Fast, 2022, arXiv 2209.03003.
    """

    def __call__(self, logsnr: Tensor) -> Tensor:
        """See ``Weight``: ``x̂_0 − x_0 = −sigma (v̂ − v)`` and ``1/sigma = 1 + alpha/sigma``."""
        return (1 + (0.5 * logsnr).exp()) ** 2


@dataclass(frozen=True)
class MinSNR(Weight):
    """``min(SNR, gamma)``.

    Source: Efficient Diffusion Training via Min-SNR Weighting Strategy, 2023, arXiv 2303.09556.
    """

    gamma: float = 5.0

    def __call__(self, logsnr: Tensor) -> Tensor:
        """See ``Weight``."""
        return logsnr.exp().clamp_max(self.gamma)


@dataclass(frozen=True)
class P2(Weight):
    """``SNR / (k + SNR)^gamma``: less weight where only imperceptible detail is left.

    Source: Perception Prioritized Training of Diffusion Models, 2022, arXiv 2204.00227.
    """

    gamma: float = 1.0
    k: float = 1.0

    def __call__(self, logsnr: Tensor) -> Tensor:
        """See ``Weight``."""
        snr = logsnr.exp()
        return snr / (self.k + snr) ** self.gamma


@dataclass(frozen=True)
class EDMWeight(Weight):
    """``(σ² + σ_d²) / (σ σ_d)²``: unit weight on the output of a Karras-preconditioned network.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364.
    """

    sigma_data: float = 1.0

    def __call__(self, logsnr: Tensor) -> Tensor:
        """See ``Weight``."""
        return logsnr.exp() + self.sigma_data**-2


@dataclass(frozen=True)
class Sigmoid(Weight):
    """``SNR · sigmoid(bias − logsnr)``: the error of the noise, faded out above ``bias``.

    Source: Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation, 2023, arXiv 2303.00848; Simpler
    Diffusion, 2024, arXiv 2410.19324.
    """

    bias: float = 0.0

    def __call__(self, logsnr: Tensor) -> Tensor:
        """See ``Weight``: SNR · sigmoid(b − l) = sigmoid(l − b) · e^b."""
        return (logsnr - self.bias).sigmoid() * math.exp(self.bias)
