"""Which noise a linear process adds, read off the context: what its argument ``noise`` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polydiff.core.data import Context
from polydiff.core.distributions.correlated import GP
from polydiff.core.distributions.kernels import Kernel
from polydiff.core.distributions.noise import Noise, ZeroSum
from polydiff.core.distributions.ornstein_uhlenbeck import OU

__all__ = ["CentredNoise", "GPNoise", "NoiseOf", "OUNoise"]

NoiseOf = Callable[[Tensor, Context], Noise]
"""``noise(like, ctx)``: the law of the unit noise of a leaf shaped like ``like``."""


class _Last:
    """The last law, so that the steps of a run share one Cholesky factor; recognised by the tensors that made it."""

    def __init__(self) -> None:
        self.key: tuple[Tensor, int, Tensor | None] | None = None
        self.law: Noise | None = None

    def __call__(self, at: Tensor, valid: Tensor | None, make: Callable[[], Noise]) -> Noise:
        key, law = self.key, self.law
        if key is None or law is None or key[0] is not at or key[1] != at._version or key[2] is not valid:
            law = make()
            self.key, self.law = (at, at._version, valid), law
        return law


def _places(key: str, ctx: Context, like: Tensor) -> Tensor:
    at = ctx.side.get(key)
    if not isinstance(at, Tensor):
        raise ValueError(f'noise that depends on places needs them as Context.side["{key}"], (B, L) or (B, L, P)')
    if at.shape[:2] != like.shape[:2]:
        raise ValueError(
            f'Context.side["{key}"] is {tuple(at.shape)}: its B and L must be those of data {tuple(like.shape)}'
        )
    return at


def _valid(ctx: Context, like: Tensor) -> Tensor | None:
    """Padding ``(B, L)``: where a mask of the elements leaves none of them."""
    valid = ctx.valid
    if valid is None:
        return None
    assert isinstance(valid, Tensor)
    return valid.flatten(2).any(2) if valid.ndim > 2 else valid.expand(like.shape[:2])


@dataclass(frozen=True)
class GPNoise:
    """A Gaussian process at the places ``Context.side[key]``.

    >>> from polydiff.core.distributions.kernels import RBF
    >>> from polydiff.core.processes import Gaussian
    >>> from polydiff.core.schedules import Cosine
    >>> process = Gaussian(Cosine(), noise=GPNoise(RBF(0.5)))
    >>> ctx = Context(side={"at": torch.linspace(0, 1, 5).expand(2, 5)})
    >>> process.prior(torch.zeros(2, 5, 1), ctx).law.covariance.shape
    torch.Size([2, 5, 5])

    Args:
        kernel: Covariance function.
        key: Of the places, ``(B, L)`` or ``(B, L, P)``.
        jitter: See ``GP``.
    """

    kernel: Kernel
    key: str = "at"
    jitter: float = 1e-6
    _last: _Last = field(default_factory=_Last, compare=False, repr=False)

    def __call__(self, like: Tensor, ctx: Context) -> Noise:
        """See ``NoiseOf``."""
        at = _places(self.key, ctx, like)
        return self._last(at, ctx.valid, lambda: GP(self.kernel, at, _valid(ctx, like), self.jitter))  # type: ignore[arg-type]


@dataclass(frozen=True)
class OUNoise:
    """Ornstein–Uhlenbeck noise at the increasing times ``Context.side[key]``, ``(B, L)``.

    Args:
        length: Correlation time.
        key: Of the times.
    """

    length: float = 1.0
    key: str = "at"
    _last: _Last = field(default_factory=_Last, compare=False, repr=False)

    def __call__(self, like: Tensor, ctx: Context) -> Noise:
        """See ``NoiseOf``."""
        at = _places(self.key, ctx, like)
        return self._last(at, ctx.valid, lambda: OU(self.length, at, _valid(ctx, like)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class CentredNoise:
    """Noise without translation (``ZeroSum``) for point clouds ``(B, N, D)``; padding is where ``Context.valid`` is False."""

    def __call__(self, like: Tensor, ctx: Context) -> Noise:
        """See ``NoiseOf``."""
        valid = _valid(ctx, like)
        return ZeroSum(torch.ones(like.shape[:2], dtype=torch.bool, device=like.device) if valid is None else valid)
