"""Discrete diffusion: absorbing (masked), uniform and marginal-prior corruption in one formula."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polydiff.core.data import Context, Data, Time, left
from polydiff.core.distributions import Categorical, Dirac, Distribution, Gated, Intensities
from polydiff.core.processes.base import Process
from polydiff.core.processes.tokens import only_markov, token_law, ungated
from polydiff.core.schedules import Clocked, LogLinear, Schedule


class Discrete(Process):
    """``q(x_t | x_0) = alpha_t δ(x_0) + (1 − alpha_t) pi`` over S states.

    Args:
        pi: Stationary probabilities ``(S,)``, or of each element ``(L, S)`` where elements have states of their own: those
            without probability never occur. The absorbing process has all mass on the mask state.
        schedule: ``alpha_t`` is the probability that an element has not been corrupted.
        mask: Index of the mask state for absorbing processes, which is never a clean state.

    Source: Structured Denoising Diffusion Models in Discrete State-Spaces, 2021, arXiv 2107.03006; Simplified and
    Generalized Masked Diffusion for Discrete Data, 2024, arXiv 2406.04329.
    """

    pi: Tensor

    def __init__(self, pi: Tensor, schedule: Schedule | None = None, mask: int | None = None) -> None:
        super().__init__()
        if pi.ndim not in (1, 2) or bool((pi < 0).any()) or bool(((pi.sum(-1) - 1).abs() > 1e-6).any()):
            raise ValueError("pi must be a vector of probabilities that sum to 1, or one such row an element")
        self.register_buffer("pi", pi.double())
        self.schedule = LogLinear() if schedule is None else schedule
        self.mask = mask

    @classmethod
    def absorbing(cls, vocab: int, schedule: Schedule | None = None) -> Discrete:
        """Tokens 0 … vocab − 1 turn into the mask state ``vocab``."""
        return cls(nn.functional.one_hot(torch.tensor(vocab), vocab + 1).double(), schedule, mask=vocab)

    @classmethod
    def uniform(cls, states: int, schedule: Schedule | None = None) -> Discrete:
        """States turn into any state with equal probability."""
        return cls(torch.full((states,), 1 / states, dtype=torch.float64), schedule)

    @classmethod
    def uniform_of(cls, sizes: Sequence[int], schedule: Schedule | None = None) -> Discrete:
        """Element i has ``sizes[i]`` states, which turn into each other with equal probability (TabDDPM's multinomial).

        Source: TabDDPM: Modelling Tabular Data with Diffusion Models, 2022, arXiv 2209.15421.
        """
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes={sizes}: every element needs at least 1 state")
        size = torch.tensor(sizes, dtype=torch.float64)[:, None]
        return cls(torch.where(torch.arange(max(sizes)) < size, 1 / size, 0.0), schedule)

    @classmethod
    def marginal_prior(cls, frequencies: Tensor, schedule: Schedule | None = None) -> Discrete:
        """States turn into states at their frequency in the data (DiGress)."""
        return cls(frequencies.double() / frequencies.double().sum(), schedule)

    @property
    def states(self) -> int:
        """Number of states of x_t, the mask included."""
        return self.pi.shape[-1]

    def pi_of(self, x: Tensor) -> Tensor:
        """Stationary probability of each state ``x`` ``(B, ...)``."""
        if self.pi.ndim == 1:
            return self.pi[x]
        return self.pi.expand(*x.shape, -1).gather(-1, x[..., None])[..., 0]

    def _alpha(self, t: Time, x: Tensor) -> Tensor:
        """``alpha_t`` with a state axis to broadcast against ``(B, ..., S)``."""
        alpha = torch.as_tensor(self.schedule.at(t).a, dtype=torch.float64, device=self.pi.device)
        return left(alpha, x)[..., None] if alpha.ndim else alpha

    def prior(self, like: Data, ctx: Context = Context()) -> Distribution:
        """``pi`` for every element."""
        assert isinstance(like, Tensor)
        if self.mask is not None:
            return Dirac(torch.full_like(like, self.mask))
        return Categorical(self.pi.log().expand(*like.shape, -1))

    def marginal(self, x: Data, t: Time, ctx: Context = Context(), *, since: Time | None = None) -> Distribution:
        """See ``Process``; between two times alpha is the ratio."""
        assert isinstance(x, Tensor)
        alpha = self._alpha(t, x) if since is None else self._alpha(t, x) / self._alpha(since, x)
        if since is not None and self.mask is not None:
            alpha = torch.nan_to_num(alpha, nan=0.0)  # both fully masked
        if self.mask is not None:
            hide = 1 - (alpha[..., 0] if alpha.ndim else alpha)
            return Gated(x, x != self.mask, hide, Dirac(torch.full_like(x, self.mask)))
        hot = nn.functional.one_hot(x, self.states).to(alpha)
        return Categorical(_log(alpha * hot + (1 - alpha) * self.pi))

    def transition(
        self, x_t: Data, posterior: Distribution, t: Time, s: Time, ctx: Context = Context(), *, eta: float = 1.0
    ) -> Distribution:
        """``Σ_k p(x_0 = k) q(x_s | x_t, x_0 = k)``, exactly and in O(S) per element."""
        assert isinstance(x_t, Tensor)
        only_markov(eta)
        a_t, a_s = self._alpha(t, x_t), self._alpha(s, x_t)
        if self.mask is not None:
            reveal = ((a_s - a_t) / (1 - a_t).clamp_min(1e-300)).clamp(0, 1)
            inner = ungated(posterior)
            shown = inner if isinstance(inner, Dirac) else self.clean(inner)  # a point need not become a dense law
            return Gated(x_t, x_t == self.mask, reveal[..., 0] if reveal.ndim else reveal, shown)
        # q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0), both of rank one plus diagonal.
        p0 = self.clean(posterior).probs.to(a_t)
        hot, pi_t = nn.functional.one_hot(x_t, self.states).to(a_t), self.pi_of(x_t)[..., None]
        ratio = torch.where(a_s > 0, a_t / a_s, 1.0)  # both are pure noise: nothing moves
        weight = p0 / (a_t * hot + (1 - a_t) * pi_t).clamp_min(1e-300)
        law = (ratio * hot + (1 - ratio) * pi_t) * (a_s * weight + (1 - a_s) * self.pi * weight.sum(-1, keepdim=True))
        return Categorical(_log(law.clamp_min(0.0)))  # learned ratios may ask for masses below 0

    def clean(self, posterior: Distribution) -> Categorical:
        """The posterior as a Categorical over clean states."""
        return token_law(posterior, self.states if self.mask is None else self.states - 1)

    def loss(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data:
        """Cross-entropy of the clean token in nats; for the absorbing process at masked positions only."""
        assert isinstance(x0, Tensor) and isinstance(x_t, Tensor)
        nats = -self.clean(posterior).log_probs.gather(-1, x0[..., None])[..., 0]
        return nats if self.mask is None else torch.where(x_t == self.mask, nats, 0.0)

    def bound(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data | None:
        """NELBO integrand in nats: ``−alpha′/(1 − alpha) · cross-entropy`` where masked; a KL of jump rates otherwise."""
        assert isinstance(x0, Tensor) and isinstance(x_t, Tensor)
        c = self.schedule.at(t)
        a, da = (torch.as_tensor(u, dtype=torch.float64, device=x0.device) for u in (c.a, c.da))
        if self.mask is not None:
            law = self.clean(posterior)
            if isinstance(law, Intensities):  # KL of jump rates that need not add up: Σ_v p̂_v − 1 − log p̂_{x_0}
                gap = law.logits.exp().sum(-1) - 1 - law.logits.gather(-1, x0[..., None])[..., 0]
                nats: Data = torch.where(x_t == self.mask, gap, 0.0)
            else:
                nats = self.loss(posterior, x0, x_t, t, ctx)
            assert isinstance(nats, Tensor)
            return (
                left(-da / (1 - a).clamp_min(1e-30), x0) * nats
            )  # under a slow clock nothing is hidden yet: 0, not 0/0
        return self._jump_bound(posterior, x0, x_t, a, da)

    def reverse_rates(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context = Context()) -> Tensor:
        """Jump rates of the reverse process ``(B, ..., S)`` per unit of time, zero at the present state.

        ``R̂(x → y) = Σ_k p(x_0 = k | x_t) R(y → x) q_t(y | k) / q_t(x | k)``: what leaping solvers integrate.

        Source: A Continuous Time Framework for Discrete Denoising Models, 2022, arXiv 2205.14987.
        """
        c = self.schedule.at(t)
        a, da = (torch.as_tensor(u, dtype=torch.float64, device=x_t.device) for u in (c.a, c.da))
        law = self.clean(posterior)
        if self.mask is not None:
            rates = torch.where((x_t == self.mask)[..., None], law.probs.double(), 0.0)
            rates = rates * (left(-da / (1 - a), x_t)[..., None] if a.ndim else -da / (1 - a))
            return nn.functional.pad(rates, (0, 1))
        rate = (left(-da / a, x_t) if a.ndim else -da / a) * self.pi_of(x_t)
        return (rate[..., None] * self._ratios(law.probs.double(), x_t, a)).scatter(-1, x_t[..., None], 0.0)

    def _ratios(self, p0: Tensor, x_t: Tensor, a: Tensor) -> Tensor:
        """``Σ_k p0_k q_t(y | k) / q_t(x_t | k)`` for every y, in O(S)."""
        wide = left(a, x_t)[..., None] if a.ndim else a
        hot = nn.functional.one_hot(x_t, self.states).to(p0)
        weight = p0 / (wide * hot + (1 - wide) * self.pi_of(x_t)[..., None]).clamp_min(1e-300)
        return wide * weight + (1 - wide) * self.pi * weight.sum(-1, keepdim=True)

    def _jump_bound(self, posterior: Distribution, x0: Tensor, x_t: Tensor, a: Tensor, da: Tensor) -> Tensor:
        """``Σ_{y ≠ x} R̂ − R + R log(R/R̂)`` with reverse rates ``R(x → y) = rate · pi_x · q_t(y | x_0) / q_t(x | x_0)``."""
        rate = left(-da / a, x0) if a.ndim else -da / a
        true = self._ratios(nn.functional.one_hot(x0, self.states).double(), x_t, a)
        model = self._ratios(self.clean(posterior).probs.double(), x_t, a)
        terms = model - true + true * torch.where(true > 0, true / model.clamp_min(1e-300), 1.0).log()
        terms = terms.scatter(-1, x_t[..., None], 0.0)
        return rate * self.pi_of(x_t) * terms.sum(-1)


def _log(p: Tensor) -> Tensor:
    """The logarithm, with the gradient 0 at 0: clocks that learn need it where a state never occurs."""
    return torch.where(p > 0, torch.where(p > 0, p, 1.0).log(), -torch.inf) if p.requires_grad else p.log()


def unmasked(process: object, who: str) -> Discrete:
    """The process, if it is a uniform or marginal-prior one."""
    if not isinstance(process, Discrete) or process.mask is not None:
        raise TypeError(
            f"{who} tells noise from data: it needs Discrete.uniform or marginal_prior, not an absorbing process: "
            "masks are told at sight"
        )
    return process


def absorbing(process: object, who: str) -> Discrete:
    """The process, if it is an absorbing one."""
    if not isinstance(process, Discrete) or process.mask is None:
        raise TypeError(f"{who} reveals masked tokens: it needs an absorbing process, not {type(process).__name__}")
    return process


def one_clock(process: Discrete, who: str) -> Discrete:
    """The process, if its elements share their time."""
    if isinstance(process.schedule, Clocked):
        raise TypeError(f"{who} counts on elements that share their time: with a clock each, use Ancestral")
    return process
