"""Leaping: the reverse jump process of tokens, with its rates frozen over a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from polydiff.core.data import Context, Rng, Time, left
from polydiff.core.distributions import Categorical, Distribution, Where
from polydiff.core.processes import Process
from polydiff.core.sampling.step import OneCall, State

_LARGE_MEAN = 600.0

Leap = Callable[[Tensor, Tensor], Distribution]  # present states, expected jumps (B, ..., S)


@runtime_checkable
class JumpProcess(Protocol):
    """A process on states 0 … S − 1 that knows the rates of its reverse: ``Discrete``, ``RateDiscrete``, ``StateMasking``."""

    def reverse_rates(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context) -> Tensor:
        """Rates ``(B, ..., S)`` per unit of time, zero at the present state."""
        ...


@dataclass(frozen=True, slots=True)
class EulerJumps(OneCall):
    """Each element jumps to y with probability ``h R̂(x → y)``, h = t − s, and stays otherwise.

    Where the total of an element passes 1 its probabilities are divided by it. Steps that start at t = 1 or end at s = 0,
    where rates may be infinite, take the exact transition of the process, so that no mask is left. Under a
    log-linear schedule, where q_t is linear in t, the marginals of one token are exact at any h that needs no clipping, and
    each step of the absorbing process is that of ``Ancestral``: ``h R̂ = (h / t) p(x_0 = y)``.

    Raises:
        TypeError: For a process without jump rates.
        ValueError: For a step upwards in time.

    Source: A Continuous Time Framework for Discrete Denoising Models, 2022, arXiv 2205.14987; Discrete Diffusion Modeling
    by Estimating the Ratios of the Data Distribution, 2023, arXiv 2310.16834.
    """

    def kernel(
        self, process: Process, x_t: Tensor, posterior: Distribution, t: Time, s: Time, ctx: Context, state: State
    ) -> tuple[Distribution, State]:
        """See ``OneCall``."""
        return _exact_at_the_ends(process, x_t, posterior, t, s, ctx, self._leap), None

    @staticmethod
    def _leap(x_t: Tensor, mean: Tensor) -> Distribution:
        total = mean.sum(-1, keepdim=True)
        return _jump_or_stay(x_t, mean / total.clamp_min(1.0))


@dataclass(frozen=True, slots=True)
class TauLeaping(OneCall):
    """Each element makes a Poisson number of jumps to every y, of mean ``h R̂(x → y)``, h = t − s.

    Tokens without order move only where exactly one jump occurred: to y with probability ``h R̂(x → y) exp(−h Σ R̂)``.
    Ordered states move by the sum of all displacements, ``x + Σ_y n_y (y − x)``, clipped to the range. Steps that start
    at t = 1 or end at s = 0, where rates may be infinite, take the exact transition of the process.

    Args:
        ordered: The states are levels of a quantity (pixels, counts), so that jumps add up.

    Raises:
        TypeError: For a process without jump rates, and for ordered states with a mask among them.
        ValueError: For a step upwards in time.

    Source: A Continuous Time Framework for Discrete Denoising Models, 2022, arXiv 2205.14987.
    """

    ordered: bool = False

    def kernel(
        self, process: Process, x_t: Tensor, posterior: Distribution, t: Time, s: Time, ctx: Context, state: State
    ) -> tuple[Distribution, State]:
        """See ``OneCall``."""
        if self.ordered and getattr(process, "mask", None) is not None:
            raise TypeError(
                "a mask has no place in an order of states: TauLeaping(ordered=False) is for absorbing processes"
            )
        leap: Leap = Leaps if self.ordered else self._single
        return _exact_at_the_ends(process, x_t, posterior, t, s, ctx, leap), None

    @staticmethod
    def _single(x_t: Tensor, mean: Tensor) -> Distribution:
        # Independent Poisson counts: exactly one jump in all, and to y, has the probability of the docstring.
        return _jump_or_stay(x_t, mean * (-mean.sum(-1, keepdim=True)).exp())


@dataclass(eq=False)
class Leaps(Distribution):
    """``clip(x + Σ_y n_y (y − x))`` with independent ``n_y ~ Poisson(mean_y)``: can be sampled, not scored.

    Args:
        x: Levels ``(B, ...)``.
        mean: Expected jumps to each level ``(B, ..., S)``.
    """

    x: Tensor
    mean_jumps: Tensor
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    def noise(self, rng: Rng) -> Tensor:
        """A uniform for each element and level, ``(B, ..., S)``."""
        return rng.uniform(self.mean_jumps)

    def draw(self, noise: Tensor) -> Tensor:
        """Counts by inverse CDF, displacements added and clipped."""
        levels = torch.arange(self.mean_jumps.shape[-1], device=self.x.device)
        moves = poisson(self.mean_jumps, noise) * (levels - self.x[..., None])
        return (self.x + moves.sum(-1)).clamp(0, len(levels) - 1)


def poisson(mean: Tensor, uniform: Tensor) -> Tensor:
    """Poisson counts by inverse CDF: the least k with ``F(k) > u``, shaped like ``mean``.

    Means above 600, where ``exp(−mean)`` nears the end of float64, take the quantile of the normal law. (Reads the device
    once for each count up to the largest.)

    >>> poisson(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.3, 0.5, 0.95], dtype=torch.float64))
    tensor([0, 1, 3])
    """
    mean = mean.double()
    small = mean.clamp_max(_LARGE_MEAN)
    count, term = torch.zeros_like(mean, dtype=torch.long), (-small).exp()
    total = term
    for k in range(1, int(2 * _LARGE_MEAN)):
        # The CDF may round to just under 1: past the mean it ends where its terms do.
        more = (uniform >= total) & ((term > 1e-18) | (k <= small))
        if not bool(more.any()):
            break
        count = count + more
        term = term * small / k
        total = total + term
    normal = (mean + mean.sqrt() * torch.special.ndtri(uniform.clamp_min(1e-300))).round().clamp_min(0)
    return torch.where(mean > _LARGE_MEAN, normal.long(), count)


def _exact_at_the_ends(
    process: Process, x_t: Tensor, posterior: Distribution, t: Time, s: Time, ctx: Context, leap: Leap
) -> Distribution:
    """The leap's law, and the exact transition for elements whose step starts at t = 1 or ends at s = 0."""
    if not isinstance(process, JumpProcess):
        raise TypeError(f"leaping needs the jump rates of a discrete process, not {type(process).__name__}")
    shared = isinstance(t, float) and isinstance(s, float)
    if isinstance(t, float) and isinstance(s, float) and s > t:
        raise ValueError(f"a step from t={t} to s={s}: the rates lead towards the data, so s must not be above t")
    if shared and (s == 0.0 or t == 1.0):
        return process.transition(x_t, posterior, t, s, ctx)
    rates = process.reverse_rates(x_t, posterior, t, ctx)
    start, stop = (left(torch.as_tensor(u, dtype=torch.float64, device=x_t.device), x_t) for u in (t, s))
    mean = (start - stop)[..., None] * rates
    if shared:
        return leap(x_t, mean)
    at_end = ((start == 1.0) | (stop == 0.0)).expand(x_t.shape)
    law = leap(x_t, torch.where(at_end[..., None], 0.0, mean))
    return Where(at_end, process.transition(x_t, posterior, t, s, ctx), law)


def _jump_or_stay(x_t: Tensor, jump: Tensor) -> Categorical:
    """``jump`` ``(B, ..., S)``, zero at the present state, which takes the rest."""
    stay = (1 - jump.sum(-1, keepdim=True)).clamp_min(0.0)
    return Categorical(jump.scatter(-1, x_t[..., None], stay).log())
