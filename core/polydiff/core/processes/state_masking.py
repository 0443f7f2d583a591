"""Masked diffusion in which every token has a masking schedule of its own, fixed or learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polydiff.core.data import Context, Data, Time, left
from polydiff.core.distributions import Categorical, Dirac, Distribution, Gated
from polydiff.core.processes.base import Process
from polydiff.core.processes.tokens import only_markov, token_law


class StateMasking(Process):
    """Token v turns into the mask state V by time t with probability ``1 − alpha_{t,v} = t^{w_v}`` (GenMD4).

    A large power keeps a token visible for longer, so that sampling settles it early. Where powers differ, a mask is
    evidence: the posterior of x_0 depends on t, not on the visible tokens alone.

    Args:
        powers: ``w > 0``, ``(V,)``; all ones is ``Discrete.absorbing`` with the log-linear schedule.
        trainable: Learn them, as the softplus of a parameter; train with ``LearnedMasking``, since draws of x_t pass no
            gradient on.

    Source: Simplified and Generalized Masked Diffusion for Discrete Data, 2024, arXiv 2406.04329.
    """

    raw: Tensor

    def __init__(self, powers: Tensor, *, trainable: bool = False) -> None:
        super().__init__()
        if powers.ndim != 1 or not bool(((powers > 0) & powers.isfinite()).all()):
            raise ValueError(f"powers of shape {tuple(powers.shape)}: need a vector of positive finite numbers")
        exact = powers.detach().double()
        raw = exact + (-(-exact).expm1()).log()  # the inverse of softplus
        if trainable:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    @property
    def powers(self) -> Tensor:
        """``w``, ``(V,)``."""
        return nn.functional.softplus(self.raw.double())

    @property
    def mask(self) -> int:
        """Index of the mask state."""
        return len(self.raw)

    @property
    def states(self) -> int:
        """Number of states of x_t, the mask included."""
        return len(self.raw) + 1

    def prior(self, like: Data, ctx: Context = Context()) -> Distribution:
        """The mask everywhere."""
        assert isinstance(like, Tensor)
        return Dirac(torch.full_like(like, self.mask))

    def marginal(self, x: Data, t: Time, ctx: Context = Context(), *, since: Time | None = None) -> Distribution:
        """See ``Process``; since s a visible token is masked with probability ``(t^w − s^w) / (1 − s^w)``."""
        assert isinstance(x, Tensor)
        w = self._power_of(x)
        hide = _time(t, x) ** w
        if since is not None:
            before = _time(since, x) ** w
            hide = (hide - before) / (1 - before).clamp_min(1e-300)
        return Gated(x, x != self.mask, hide, Dirac(torch.full_like(x, self.mask)))

    def transition(
        self, x_t: Data, posterior: Distribution, t: Time, s: Time, ctx: Context = Context(), *, eta: float = 1.0
    ) -> Distribution:
        """A mask turns into v with probability ``p_v (1 − (s/t)^{w_v})``, and stays with what is left; ``Categorical``."""
        assert isinstance(x_t, Tensor)
        only_markov(eta)
        ratio = (_time(s, x_t) / _time(t, x_t)).nan_to_num(nan=1.0)[..., None]  # 0/0: no time passes
        wait = ratio**self.powers
        p = self.clean(posterior).probs.double()
        opened = torch.cat([p * (1 - wait), (p * wait).sum(-1, keepdim=True)], -1)
        shown = nn.functional.one_hot(x_t, self.states).to(opened)
        return Categorical(torch.where((x_t == self.mask)[..., None], opened, shown).log())

    def clean(self, posterior: Distribution) -> Categorical:
        """The posterior as a ``Categorical`` over the V clean tokens."""
        return token_law(posterior, self.mask)

    def loss(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data:
        """Cross-entropy of the clean token in nats, at masked positions only."""
        assert isinstance(x0, Tensor) and isinstance(x_t, Tensor)
        nats = -self.clean(posterior).log_probs.gather(-1, x0[..., None])[..., 0]
        return torch.where(x_t == self.mask, nats, 0.0)

    def bound(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data | None:
        """NELBO integrand in nats where masked: ``Σ_v r_v p_v − r_{x_0} − r_{x_0} log p_{x_0}``, ``r_v = w_v / t``."""
        assert isinstance(x0, Tensor) and isinstance(x_t, Tensor)
        law, w = self.clean(posterior), self.powers
        nats = -law.log_probs.gather(-1, x0[..., None])[..., 0]
        terms = law.probs @ w.to(law.probs) - (w[x0] * (1 - nats)).to(law.probs)
        # A mask at t = 0 has no probability: the floor only keeps 0 · ∞ out of the gradient.
        return torch.where(x_t == self.mask, terms / _time(t, x_t).clamp_min(1e-30), 0.0)

    def reverse_rates(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context = Context()) -> Tensor:
        """Jump rates of the reverse process ``(B, ..., V + 1)`` per unit of time: ``p_v w_v / t`` where masked."""
        rates = self.clean(posterior).probs.double() * self.powers / _time(t, x_t)[..., None]
        return nn.functional.pad(torch.where((x_t == self.mask)[..., None], rates, 0.0), (0, 1))

    def log_mask_prob(self, x0: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """``log q(x_t | x_0)`` per element in nats, ``(B, ...)``, differentiable in the powers for t ∈ [0, 1]."""
        log_t = _time(t, x0).clamp(1e-30, 1 - 1e-15).log()
        hide = self._power_of(x0) * log_t
        return torch.where(x_t == self.mask, hide, (-hide.expm1()).log())

    def _power_of(self, x: Tensor) -> Tensor:
        """The power of each token; that of the mask state is arbitrary."""
        return self.powers[x.clamp_max(self.mask - 1)]


def _time(t: Time, x: Tensor) -> Tensor:
    """Time in float64, with as many axes as ``x``."""
    return left(torch.as_tensor(t, dtype=torch.float64, device=x.device), x)
