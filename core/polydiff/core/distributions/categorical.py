"""Laws over tokens: Categorical, and Gated for vocabularies too large to write every probability down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polydiff.core.data import Data, Rng, index, left, masked_sum
from polydiff.core.distributions.base import Distribution
from polydiff.core.distributions.normal import Dirac

_AT_ONCE = 1 << 20  # float64 numbers in flight while drawing


@dataclass(eq=False)
class Categorical(Distribution):
    """Independent categories per element.

    Args:
        logits: ``(B, ..., S)``, unnormalised log-probabilities; −∞ excludes a state.
    """

    logits: Tensor
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    @classmethod
    def delta(cls, x: Tensor, states: int, dtype: torch.dtype = torch.float64) -> Categorical:
        """All mass of each element at the state ``x``."""
        return cls(torch.nn.functional.one_hot(x, states).to(dtype).log())

    @property
    def log_probs(self) -> Tensor:
        """Normalised log-probabilities ``(B, ..., S)``."""
        return self.logits.log_softmax(-1)

    @property
    def probs(self) -> Tensor:
        """Probabilities ``(B, ..., S)``."""
        return self.logits.softmax(-1)

    def noise(self, rng: Rng) -> Tensor:
        """One float64 uniform per element: float32 ones live on a grid that cuts rare states off."""
        return rng.uniform(self.logits[..., 0])

    def draw(self, noise: Tensor) -> Tensor:
        """Inverse CDF in float64; a state without mass is never drawn."""
        size = self.logits.shape[-1]
        if self.logits.numel() <= _AT_ONCE:
            return _invert(self.logits, noise)
        rows, u = self.logits.reshape(-1, size), noise.reshape(-1)
        parts = range(0, len(rows), max(1, _AT_ONCE // size))
        drawn = [_invert(rows[i : i + parts.step], u[i : i + parts.step]) for i in parts]
        return torch.cat(drawn).reshape(noise.shape)

    def whiten(self, x: Data) -> Tensor:
        """The middle of the interval of uniforms that draw ``x``."""
        p = self.logits.double().softmax(-1)
        upper = p.cumsum(-1)
        return ((upper - 0.5 * p) / upper[..., -1:]).gather(-1, x[..., None])[..., 0]  # type: ignore[index]

    def log_prob(self, x: Data, mask: Data | None = None) -> Tensor:
        """Log-probability in nats, ``(B,)``."""
        return masked_sum(self.log_prob_per_element(x), mask)  # type: ignore[arg-type]

    def log_prob_per_element(self, x: Tensor) -> Tensor:
        """Log-probability of each element, ``(B, ...)``; −∞ for states that the law has never heard of (the mask)."""
        states = self.logits.shape[-1]
        found = self.log_probs.gather(-1, x.clamp_max(states - 1)[..., None])[..., 0]
        return torch.where(x < states, found, -torch.inf)

    def kl(self, other: Distribution, mask: Data | None = None) -> Tensor:
        """``Σ p log(p/q)`` with 0 log 0 = 0; infinite where other excludes what self allows."""
        if not isinstance(other, Categorical):
            return super().kl(other, mask)
        return masked_sum(self.kl_per_element(other), mask)  # type: ignore[arg-type]

    def kl_per_element(self, other: Categorical) -> Tensor:
        """KL of each element, ``(B, ...)``."""
        p, q = self.log_probs, other.log_probs
        gap = torch.where(p == -torch.inf, 0.0, p - q)  # ∞ − ∞ would come back as the gradient 0 · ∞
        return torch.where(p == -torch.inf, 0.0, p.exp() * gap).sum(-1)

    def lerp(self, other: Distribution, w: float | Tensor) -> Distribution:
        """Log-probabilities blended; a state that self excludes stays excluded.

        A state that only ``other`` excludes has no finite blend for w > 1 and keeps the log-probability of self.
        """
        if isinstance(w, float) and w == 1.0:
            return self
        if not isinstance(other, Categorical):
            return super().lerp(other, w)
        p, q = self.log_probs, other.log_probs
        weight = w if isinstance(w, float) else left(w, p).to(p.dtype)
        if isinstance(w, float) and w == 0.0:
            return other
        blend = torch.lerp(q.nan_to_num(neginf=0.0), p.nan_to_num(neginf=0.0), weight)
        inside = torch.as_tensor(weight, dtype=p.dtype, device=p.device)
        blend = torch.where(q == -torch.inf, torch.where(inside < 1, -torch.inf, p), blend)
        blend = torch.where((p == -torch.inf) & (inside != 0), -torch.inf, blend)
        blend = torch.where(inside == 0, q, blend)
        return Categorical(blend)

    def expect(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """``Σ_k p_k f(k)``."""
        states = torch.arange(self.logits.shape[-1], device=self.logits.device)
        return (self.probs * f(states).to(self.logits.dtype)).sum(-1)


@dataclass(eq=False)
class Intensities(Categorical):
    """Categories by masses ``exp(logits)`` that need not add up to 1: rates of jumps, which a learned score is free to miss.

    As a law (sampled, scored, blended) the masses are normalised; a bound on jump rates reads them as they are.
    """


@dataclass(eq=False)
class Gated(Distribution):
    """Each open element moves with probability ``p`` to a draw from ``inner``; all else stays as it is.

    The forward kernel (``inner`` is the mask), the posterior (``p = 1``) and the reverse kernel of absorbing diffusion.
    The gate is drawn first, so that only the moved rows of a large vocabulary are ever turned into probabilities.
    ``inner`` must exclude the state that stays.

    Args:
        stay: States ``(B, ...)`` kept where nothing moves.
        open: Bool ``(B, ...)``, True where a move is possible (masked positions, in the reverse direction).
        p: Probability of a move, a float or a tensor that broadcasts from the left.
        inner: Law of a moved element.
    """

    stay: Tensor
    open: Tensor
    p: float | Tensor
    inner: Categorical | Dirac
    parts: Mapping[str, Distribution] = field(default_factory=dict, repr=False)

    def _gate(self) -> Tensor:
        p = torch.as_tensor(self.p, dtype=torch.float64, device=self.stay.device)
        return left(p, self.stay) if p.ndim else p

    def noise(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Uniforms of the gate and of the value, for every element whether it opens or not."""
        return rng.uniform(self.stay), rng.uniform(self.stay)

    def draw(self, noise: tuple[Tensor, Tensor]) -> Tensor:
        """Open the gates whose uniform lies under ``p``; draw these rows alone."""
        gate, value = noise
        rows = self.open & (gate < self._gate())
        out = self.stay.clone()
        states = self.inner.logits.shape[-1] if isinstance(self.inner, Categorical) else 1
        # Picking rows copies their logits: a few at a time, so that a step never holds the large array twice.
        for part in rows.nonzero().split(max(1, _AT_ONCE // states)):
            at = part.unbind(1)
            out[at] = index(self.inner, at).draw(value[at]).to(out.dtype)  # type: ignore[union-attr, arg-type]
        return out

    def log_prob(self, x: Data, mask: Data | None = None) -> Tensor:
        """Log-probability in nats, ``(B,)``."""
        assert isinstance(x, Tensor)
        p = self._gate()
        moved = _log(p) + self.inner.log_prob_per_element(x).double()
        stayed = torch.where(p == 1, -torch.inf, torch.where(p == 1, 0.0, -p).log1p())
        return masked_sum(
            torch.where(
                self.open,
                torch.where(x == self.stay, stayed, moved),
                torch.where(x == self.stay, 0.0, -torch.inf),
            ),
            mask,  # type: ignore[arg-type]
        )

    def kl(self, other: Distribution, mask: Data | None = None) -> Tensor:
        """KL of the gates plus, weighted by the probability of a move, KL of the inner laws."""
        if not isinstance(other, Gated) or not isinstance(other.inner, Categorical):
            return super().kl(other, mask)
        p, q = self._gate().expand(self.stay.shape), other._gate().expand(self.stay.shape)
        gates = _log(torch.stack([p, 1 - p], -1)), _log(torch.stack([q, 1 - q], -1))
        if isinstance(self.inner, Categorical):
            inner = self.inner.kl_per_element(other.inner)
        else:
            assert isinstance(self.inner.value, Tensor)
            inner = -other.inner.log_prob_per_element(self.inner.value)
        moves = self.open & (p > 0)
        inner = torch.where(moves, inner, 0.0)  # infinite where a law is told apart that never comes to bear
        total = Categorical(gates[0]).kl_per_element(Categorical(gates[1])) + torch.where(moves, p * inner, 0.0)
        return masked_sum(torch.where(self.open, total, 0.0), mask)  # type: ignore[arg-type]

    def lerp(self, other: Distribution, w: float | Tensor) -> Distribution:
        """Blend of the inner laws; both must share the gate, as two posteriors at one ``x_t`` do."""
        if isinstance(w, float) and w == 1.0:
            return self
        if not isinstance(other, Gated) or (self.p is not other.p and self.p != other.p):
            return super().lerp(other, w)
        inner = self.inner.lerp(other.inner, w)
        assert isinstance(inner, Categorical)
        return Gated(self.stay, self.open, self.p, inner)


def _log(p: Tensor) -> Tensor:
    """The logarithm, with the gradient 0 at 0: of an impossible event, which is no part of any sum, not 0 · ∞."""
    return torch.where(p == 0, -torch.inf, torch.where(p == 0, 1.0, p).log())


def _invert(logits: Tensor, u: Tensor) -> Tensor:
    """States ``(...)`` at uniforms ``(...)`` of laws ``(..., S)``."""
    cdf = logits.double().softmax(-1).cumsum(-1)
    # u ≤ 1 − 2⁻⁵³, so that u · total stays under the total in float64: the search cannot step past the last mass.
    level = (u[..., None] * cdf[..., -1:]).contiguous()
    return torch.searchsorted(cdf, level, right=True)[..., 0]
