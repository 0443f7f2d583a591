"""Blackout diffusion: counts die one by one until nothing is left, and are born again in reverse."""

from __future__ import annotations

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, left
from polydiff.core.distributions import Categorical, Dirac, Distribution
from polydiff.core.processes.base import Process
from polydiff.core.processes.tokens import only_markov, pick_rows, token_law
from polydiff.core.schedules import LogLinear, Schedule


class Blackout(Process):
    """``n_t | n_0 ~ Binomial(n_0, alpha_t)`` on the counts 0 … states − 1.

    The source is the empty state. In reverse ``n_s = n_t + Binomial(n_0 − n_t, (alpha_s − alpha_t) / (1 − alpha_t))``, mixed
    exactly over a posterior of n_0 in O(S²) per element. Counts only fall, so that a posterior is always restricted to
    ``n_0 ≥ n_t`` and renormalised; one without mass there counts as ``n_0 = n_t``.

    Args:
        states: Number of counts; 256 for bytes.
        schedule: ``alpha_t`` is the probability that a unit is still alive; the prior is exact where ``alpha_1 = 0``.

    Source: Blackout Diffusion: Generative Diffusion Models in Discrete-State Spaces, 2023, arXiv 2305.11089.
    """

    mask: int | None = None
    _choose: Tensor

    def __init__(self, states: int, schedule: Schedule | None = None) -> None:
        super().__init__()
        if states < 2:
            raise ValueError(f"states={states}: need at least the counts 0 and 1")
        self.states = states
        self.schedule = LogLinear() if schedule is None else schedule
        n = torch.arange(states, dtype=torch.float64)
        dead = n[:, None] - n
        log_choose = (n + 1).lgamma()[:, None] - (n + 1).lgamma() - (dead.clamp_min(0) + 1).lgamma()
        self.register_buffer("_choose", torch.where(dead >= 0, log_choose, -torch.inf))

    def prior(self, like: Data, ctx: Context = Context()) -> Distribution:
        """Zero everywhere."""
        assert isinstance(like, Tensor)
        return Dirac(torch.zeros_like(like))

    def marginal(self, x: Data, t: Time, ctx: Context = Context(), *, since: Time | None = None) -> Distribution:
        """See ``Process``; between two times a unit survives with probability ``alpha_t / alpha_s``."""
        assert isinstance(x, Tensor)
        alive = self._alpha(t, x)[0]
        if since is not None:
            alive = (alive / self._alpha(since, x)[0]).nan_to_num(nan=1.0)  # 0/0: nobody is left to die
        return Categorical(pick_rows(self._binomial(alive), x))

    def transition(
        self, x_t: Data, posterior: Distribution, t: Time, s: Time, ctx: Context = Context(), *, eta: float = 1.0
    ) -> Distribution:
        """``Σ_k p(n_0 = k) P(Binomial(k − n_t, (alpha_s − alpha_t) / (1 − alpha_t)) = n_s − n_t)``."""
        assert isinstance(x_t, Tensor)
        only_markov(eta)
        a_t, a_s = self._alpha(t, x_t)[0], self._alpha(s, x_t)[0]
        born = self._binomial((a_s - a_t) / (1 - a_t).clamp_min(1e-300)).exp()
        unborn = _shift(self.restricted(posterior, x_t).probs.double(), x_t)
        return Categorical(_shift(torch.einsum("...k,...kn->...n", unborn, born), -x_t).log())

    def restricted(self, posterior: Distribution, x_t: Tensor) -> Categorical:
        """The posterior of n_0 given ``n_0 ≥ n_t``."""
        logits = token_law(posterior, self.states).log_probs
        counts = torch.arange(self.states, device=x_t.device)
        inside = torch.where(counts >= x_t[..., None], logits, -torch.inf)
        barred = inside.amax(-1, keepdim=True) == -torch.inf
        return Categorical(torch.where(barred & (counts == x_t[..., None]), 0.0, inside))

    def loss(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data:
        """Cross-entropy of n_0 in nats under the restricted posterior."""
        assert isinstance(x0, Tensor) and isinstance(x_t, Tensor)
        return -self.restricted(posterior, x_t).log_probs.gather(-1, x0[..., None])[..., 0]

    def bound(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data | None:
        """NELBO integrand in nats: ``λ̂ − λ + λ log(λ / λ̂)`` of the birth rates, ``λ = (n_0 − n_t) · −alpha′/(1 − alpha)``.

        The model's rate λ̂ has ``E[n_0]`` in place of n_0.
        """
        assert isinstance(x0, Tensor) and isinstance(x_t, Tensor)
        rate, model, true = self._rate(t, x_t), self._expected(posterior, x_t), (x0 - x_t).double()
        return rate * (model - true + torch.xlogy(true, true) - torch.xlogy(true, model.clamp_min(1e-300)))

    def reverse_rates(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context = Context()) -> Tensor:
        """Jump rates of the reverse process ``(B, ..., S)`` per unit of time: one birth, at ``(E[n_0] − n_t) r_t``."""
        rate = self._rate(t, x_t) * self._expected(posterior, x_t)
        return torch.where(torch.arange(self.states, device=x_t.device) == x_t[..., None] + 1, rate[..., None], 0.0)

    def _expected(self, posterior: Distribution, x_t: Tensor) -> Tensor:
        """``E[n_0 | n_t] − n_t``, never negative."""
        unborn = _shift(self.restricted(posterior, x_t).probs.double(), x_t)
        return unborn @ torch.arange(self.states, dtype=torch.float64, device=x_t.device)

    def _alpha(self, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha_t`` and its derivative, with as many axes as ``x``."""
        c = self.schedule.at(t.double() if isinstance(t, Tensor) else t)
        a, da = (left(torch.as_tensor(u, dtype=torch.float64, device=x.device), x) for u in (c.a, c.da))
        return a, da

    def _rate(self, t: Time, x: Tensor) -> Tensor:
        a, da = self._alpha(t, x)
        return -da / (1 - a)

    def _binomial(self, p: Tensor) -> Tensor:
        """``log P(Binomial(N, p) = n)``, ``(..., S, S)`` with N along the rows."""
        n = torch.arange(self.states, dtype=torch.float64, device=p.device)
        wide = p.clamp(0.0, 1.0)[..., None, None]
        return self._choose + torch.xlogy(n, wide) + torch.xlogy((n[:, None] - n).clamp_min(0.0), 1 - wide)


def _shift(p: Tensor, by: Tensor) -> Tensor:
    """``out[j] = p[j + by]`` along the last axis, zero from outside."""
    place = torch.arange(p.shape[-1], device=p.device) + by[..., None]
    inside = (place >= 0) & (place < p.shape[-1])
    return torch.where(inside, p.gather(-1, place.clamp(0, p.shape[-1] - 1)), 0.0)
