"""Exact denoisers: what a perfect network would say, in closed form. For tests, and to teach with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polydiff.core.data import Context, Data, Rng, Time, left
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Categorical, Distribution, Empirical, Mixture
from polydiff.core.processes import Discrete, LinearGaussian
from polydiff.core.processes.tokens import carry_over

__all__ = ["ExactMixture", "ExactTokens", "GaussianMixture", "IdealDenoiser"]


class GaussianMixture:
    """``Σ_k w_k N(mean_k, diag(std_k²))`` over samples of any shape, with everything known about it under noise.

    Args:
        weights: ``(K,)``, normalised here.
        means: ``(K, ...)``.
        stds: ``(K,)`` or ``(K, ...)``, positive.

    >>> two = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.2, 0.1]))
    >>> two.mean
    tensor([0.4000])
    """

    def __init__(self, weights: Tensor, means: Tensor, stds: Tensor) -> None:
        if weights.ndim != 1 or len(means) != len(weights) or len(stds) != len(weights):
            raise ValueError(
                f"weights {tuple(weights.shape)}, means {tuple(means.shape)} and stds {tuple(stds.shape)} must agree in "
                "their first axis, the number of components"
            )
        if bool((stds <= 0).any()) or bool((weights < 0).any()):
            raise ValueError("stds must be positive and weights must not be negative")
        self.log_weights = (weights / weights.sum()).log()
        self.means, self.stds = means, left(stds, means).expand_as(means)

    @property
    def mean(self) -> Tensor:
        """Mean of the data, shaped like a sample."""
        return (left(self.log_weights.exp(), self.means) * self.means).sum(0)

    @property
    def variance(self) -> Tensor:
        """Variance of each element of the data."""
        w = left(self.log_weights.exp(), self.means)
        return (w * (self.stds**2 + self.means**2)).sum(0) - self.mean**2

    def law(self, n: int) -> Mixture:
        """The data law, for a batch of n."""
        logits, means, stds = (c[None].expand(n, *c.shape) for c in (self.log_weights, self.means, self.stds))
        return Mixture(logits, means, stds)

    def sample(self, n: int, rng: Rng) -> Tensor:
        """n samples."""
        return self.law(n).sample(rng)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of the data in nats, ``(B,)``."""
        return self.law(len(x)).log_prob(x)

    def noised(self, process: LinearGaussian, t: Time, like: Tensor, ctx: Context = Context()) -> Mixture:
        """Law of x_t: what ``log_prob`` and its gradient are checked against."""
        a, shift, g = _component(process, t, like, ctx)
        wide = self.law(len(like))
        return Mixture(wide.logits, a * wide.means + shift, ((a * wide.stds) ** 2 + g**2) ** 0.5)

    def posterior(self, process: LinearGaussian, x_t: Tensor, t: Time, ctx: Context = Context()) -> Mixture:
        """Law of x_0 given x_t."""
        a, shift, g = _component(process, t, x_t, ctx)
        wide = self.law(len(x_t))
        var = (a * wide.stds) ** 2 + g**2
        gap = x_t[:, None] - shift - a * wide.means
        logits = wide.logits + (-0.5 * gap**2 / var - 0.5 * var.log()).flatten(2).sum(2)
        means = wide.means + a * wide.stds**2 / var * gap
        return Mixture(logits, means, wide.stds * g * var**-0.5)

    def denoiser(self, process: LinearGaussian) -> ExactMixture:
        """The exact denoiser of this data under ``process``."""
        return ExactMixture(self, process)


def _component(process: LinearGaussian, t: Time, like: Tensor, ctx: Context) -> tuple[Time, Time, Time]:
    """Coefficients with an axis for the components after the batch axis, which may be 1 for a shared time."""

    def place(c: Time) -> Time:
        return c if isinstance(c, float) or c.ndim == 0 else left(c, like).unsqueeze(1)

    a, shift, g = process.coef(t, ctx)
    return place(a), place(shift), place(g)


class ExactMixture(Denoiser):
    """The exact posterior of a ``GaussianMixture``, spread included."""

    def __init__(self, mixture: GaussianMixture, process: LinearGaussian) -> None:
        super().__init__()
        self.mixture, self.process = mixture, process

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """A ``Mixture`` over x_0."""
        assert isinstance(x_t, Tensor) and isinstance(self.process, LinearGaussian)
        return self.mixture.posterior(self.process, x_t, t, ctx)


class IdealDenoiser(Denoiser):
    """The exact denoiser of a finite data set: what a network of unlimited capacity would learn, memorising it.

    Args:
        data: ``(N, ...)`` standardised samples.
        process: A Gaussian process.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364, app. B.3.
    """

    data: Tensor

    def __init__(self, data: Tensor, process: LinearGaussian) -> None:
        super().__init__()
        if len(data) == 0:
            raise ValueError("an empty data set has no denoiser: give at least one sample")
        self.process = process
        self.register_buffer("data", data)

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """An ``Empirical`` over the data."""
        assert isinstance(x_t, Tensor) and isinstance(self.process, LinearGaussian)
        a, shift, g = (left(c, x_t) for c in self.process.coef(t, ctx))
        u, d = (x_t - shift).flatten(1), self.data.flatten(1)
        if isinstance(g, Tensor) and g.ndim > 1 and g[0].numel() > 1:  # elements at times of their own
            a, g = (torch.as_tensor(c).to(x_t).expand_as(x_t).flatten(1) for c in (a, g))
            return Empirical((a / g**2 * u) @ d.T - 0.5 * ((a / g) ** 2) @ (d * d).T, self.data)
        a2, g2 = (c if isinstance(c, float) or c.ndim == 0 else c.flatten(1) for c in (a, g))
        logits = (a2 * (u @ d.T) - 0.5 * a2**2 * (d * d).sum(1)) / g2**2  # the part of −|u − a d|² / 2g² that varies
        return Empirical(logits, self.data)


class ExactTokens(Denoiser):
    """The exact posterior marginals of tokens under a discrete process, from a table of joint probabilities.

    Args:
        table: Joint probabilities ``(V, V, …, V)``, one axis a token.
        process: A discrete process over V (+ mask) states.
    """

    table: Tensor

    def __init__(self, table: Tensor, process: Discrete) -> None:
        super().__init__()
        self.process = process
        self.register_buffer("table", table.double() / table.double().sum())

    def joint(self, x_t: Tensor, t: Time) -> Tensor:
        """Joint law of the clean tokens given x_t, ``(B, V, …, V)``."""
        process, length, vocab = self.process, self.table.ndim, self.table.shape[0]
        assert isinstance(process, Discrete)
        alpha = torch.as_tensor(process.schedule.at(t).a, dtype=torch.float64)
        wide = (left(alpha, x_t) if alpha.ndim else alpha.expand(x_t.shape))[..., None]
        hot = nn.functional.one_hot(x_t, process.states)[..., :vocab]
        likelihood = wide * hot + (1 - wide) * process.pi[x_t][..., None]  # (B, L, V)
        out = self.table.expand(len(x_t), *self.table.shape)
        for i in range(length):
            shape = [len(x_t)] + [1] * length
            shape[1 + i] = vocab
            out = out * likelihood[:, i].reshape(shape)
        return out / out.flatten(1).sum(1).reshape([-1] + [1] * length)

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """Marginals per token."""
        assert isinstance(x_t, Tensor) and isinstance(self.process, Discrete)
        joint, length = self.joint(x_t, t), self.table.ndim
        axes = [[1 + j for j in range(length) if j != i] for i in range(length)]
        law = Categorical(torch.stack([joint.sum(a) if a else joint for a in axes], 1).log())
        return carry_over(x_t, law, self.process.mask)

    def entropy(self) -> float:
        """Entropy of the table in nats: the floor of every NELBO."""
        p = self.table[self.table > 0]
        return -float((p * p.log()).sum())
