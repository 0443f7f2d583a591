"""Discrete diffusion with structured noise: a continuous-time chain with any symmetric matrix of jump rates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, left
from polydiff.core.distributions import Categorical, Distribution
from polydiff.core.processes.base import Process
from polydiff.core.processes.tokens import only_markov, pick_rows, token_law
from polydiff.core.schedules import LogLinear, Schedule

CLOCK_LIMIT = 40.0
_FLOOR = 1e-14  # just above what rounding leaves in a kernel, where every entry is positive in exact arithmetic


class RateDiscrete(Process):
    """``q(x_t | x_s) = expm(R (B_t − B_s))[x_s, x_t]`` with the clock ``B_t = −log alpha_t``.

    R is symmetric, so the stationary law is uniform. ``R = 1/S − I`` is ``Discrete.uniform``. The clock stops at
    ``CLOCK_LIMIT`` = 40, so that schedules which end at alpha = 0 stay finite: a mode that decays at rate 1 is then down to
    4e-18. Kernels take S² numbers for each distinct time; entries under 1e-14 are raised to it.

    Args:
        rates: Jump rates ``(S, S)`` per unit of the clock: symmetric, not negative off the diagonal, rows that sum to 0. The
            slowest mode should decay at about rate 1 (``unit_gap``), else x_1 is not uniform, as the prior claims.
        schedule: ``alpha_t`` gives the clock.

    Raises:
        ValueError: For a matrix that is not such, or under which some states never reach others.

    Source: Structured Denoising Diffusion Models in Discrete State-Spaces, 2021, arXiv 2107.03006; A Continuous Time
    Framework for Discrete Denoising Models, 2022, arXiv 2205.14987.
    """

    rates: Tensor
    _values: Tensor
    _vectors: Tensor
    mask: int | None = None

    def __init__(self, rates: Tensor, schedule: Schedule | None = None) -> None:
        super().__init__()
        rates = rates.double()
        _check(rates)
        values, vectors = torch.linalg.eigh(rates)
        if len(rates) > 1 and float(values[-2]) > -1e-9 * float(rates.abs().max()):
            raise ValueError("the rates leave the states in parts that never meet: need a connected graph of jumps")
        self.register_buffer("rates", rates)
        self.register_buffer("_values", values.clamp_max(0.0))
        self.register_buffer("_vectors", vectors)
        self.schedule = LogLinear() if schedule is None else schedule

    @classmethod
    def ordinal(cls, states: int, bandwidth: float = 1.0, schedule: Schedule | None = None) -> RateDiscrete:
        """Levels 0 … states − 1 jump at rates ``∝ exp(−(i − j)² / 2 bandwidth²)``, scaled by ``unit_gap``."""
        if bandwidth <= 0:
            raise ValueError(f"bandwidth={bandwidth}: need a positive number of levels")
        level = torch.arange(states, dtype=torch.float64)
        return cls(unit_gap((-0.5 * ((level[:, None] - level) / bandwidth) ** 2).exp()), schedule)

    @classmethod
    def nearest(cls, embeddings: Tensor, k: int, schedule: Schedule | None = None) -> RateDiscrete:
        """Tokens jump to their k nearest neighbours among ``embeddings`` ``(S, D)`` and back, scaled by ``unit_gap``."""
        if not 1 <= k < len(embeddings):
            raise ValueError(f"k={k} neighbours of {len(embeddings)} tokens: need 1 to {len(embeddings) - 1}")
        distance = torch.cdist(embeddings.double(), embeddings.double()).fill_diagonal_(math.inf)
        graph = torch.zeros_like(distance).scatter(-1, distance.topk(k, largest=False).indices, 1.0)
        return cls(unit_gap(graph + graph.T), schedule)

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.rates)

    def prior(self, like: Data, ctx: Context = Context()) -> Distribution:
        """Uniform for every element."""
        assert isinstance(like, Tensor)
        return Categorical(self.rates.new_zeros(self.states).expand(*like.shape, -1))

    def marginal(self, x: Data, t: Time, ctx: Context = Context(), *, since: Time | None = None) -> Distribution:
        """See ``Process``: a row of the kernel."""
        assert isinstance(x, Tensor)
        elapsed = self._clock(t, x)[0] - (0.0 if since is None else self._clock(since, x)[0])
        return Categorical(pick_rows(self._kernel(elapsed), x).log())

    def transition(
        self, x_t: Data, posterior: Distribution, t: Time, s: Time, ctx: Context = Context(), *, eta: float = 1.0
    ) -> Distribution:
        """``Σ_k p(x_0 = k) q(x_s | x_t, x_0 = k)`` with ``q(x_s | x_t, k) ∝ q(x_t | x_s) q(x_s | k)``, exactly."""
        assert isinstance(x_t, Tensor)
        only_markov(eta)
        b_t, b_s = self._clock(t, x_t)[0], self._clock(s, x_t)[0]
        onward, past = pick_rows(self._kernel(b_t - b_s), x_t), self._kernel(b_s)
        # The evidence of each k is summed here, not read off the kernel to t: each q(· | x_t, k) is then normalised to the
        # last bit, even for a k from which x_t is out of reach.
        weight = token_law(posterior, self.states).probs.double() / _apply(onward, past).clamp_min(1e-300)
        return Categorical((onward * (_apply(weight, past) + 1e-300)).log())

    def loss(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data:
        """Cross-entropy of the clean token in nats."""
        assert isinstance(x0, Tensor)
        return -token_law(posterior, self.states).log_probs.gather(-1, x0[..., None])[..., 0]

    def bound(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data | None:
        """NELBO integrand in nats: ``Σ_{y ≠ x} R̂ − Ř + Ř log(Ř / R̂)``, Ř being the reverse rates under the true x_0."""
        assert isinstance(x0, Tensor) and isinstance(x_t, Tensor)
        model = self.reverse_rates(x_t, posterior, t, ctx)
        true = self.reverse_rates(x_t, Categorical.delta(x0, self.states), t, ctx)
        terms = model - true + torch.xlogy(true, true) - torch.xlogy(true, model.clamp_min(1e-300))
        return terms.sum(-1)

    def reverse_rates(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context = Context()) -> Tensor:
        """Jump rates of the reverse process ``(B, ..., S)`` per unit of time, zero at the present state.

        ``R̂(x → y) = dB/dt Σ_k p(x_0 = k | x_t) R[y, x] q_t(y | k) / q_t(x | k)``.
        """
        b, db = self._clock(t, x_t)
        kernel = self._kernel(b)
        weight = token_law(posterior, self.states).probs.double() / pick_rows(kernel, x_t).clamp_min(1e-300)
        return db[..., None] * (self.rates[x_t] * _apply(weight, kernel)).scatter(-1, x_t[..., None], 0.0)

    def _clock(self, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
        """``B_t`` and ``dB/dt``, with as many axes as ``x``; the clock stands still once alpha is under its limit."""
        c = self.schedule.at(t.double() if isinstance(t, Tensor) else t)
        a, da = (left(torch.as_tensor(u, dtype=torch.float64, device=x.device), x) for u in (c.a, c.da))
        last = math.exp(-CLOCK_LIMIT)
        return -a.clamp(last, 1.0).log(), torch.where(a > last, -da / a.clamp_min(last), 0.0)

    def _kernel(self, elapsed: Tensor) -> Tensor:
        """``expm(R · elapsed)``, ``(..., S, S)``; exactly the identity where nothing has elapsed."""
        decay = (self._values * elapsed.clamp_min(0.0)[..., None]).exp()
        kernel = ((self._vectors * decay[..., None, :]) @ self._vectors.T).clamp(_FLOOR, 1.0)
        return torch.where(elapsed[..., None, None] > 0, kernel, torch.eye(self.states).to(kernel))


def unit_gap(weights: Tensor) -> Tensor:
    """Rates ``(S, S)`` from symmetric weights, scaled so that the slowest mode decays at rate 1, as under ``Discrete``.

    ``alpha_t`` is then the correlation that is left in the slowest function of the state.

    Raises:
        ValueError: For weights that leave the states in several parts, which have no slowest decay.
    """
    jumps = weights.double() - torch.diag(weights.double().diagonal())
    rates = jumps - torch.diag(jumps.sum(1))
    gap = -float(torch.linalg.eigvalsh(rates)[-2]) if len(rates) > 1 else 1.0
    if gap <= 1e-9 * float(rates.abs().max()):
        raise ValueError(
            "the weights leave the states in parts that never meet: widen the band or take more neighbours"
        )
    return rates / gap


def _apply(v: Tensor, kernel: Tensor) -> Tensor:
    # einsum leaves a kernel that elements share unexpanded, which matmul does not.
    return torch.einsum("...i,...ij->...j", v, kernel)


def _check(rates: Tensor) -> None:
    size = float(rates.abs().max()) if rates.numel() else 0.0
    if rates.ndim != 2 or rates.shape[0] != rates.shape[1] or not 0 < size < math.inf:
        raise ValueError(f"rates of shape {tuple(rates.shape)}: need a finite square matrix that is not zero")
    if not torch.allclose(rates, rates.T, atol=1e-9 * size):
        raise ValueError("the rates are not symmetric: need R[i, j] = R[j, i]")
    if bool((rates - torch.diag(rates.diagonal()) < 0).any()) or float(rates.sum(1).abs().max()) > 1e-6 * size:
        raise ValueError("the rates are no generator: need rates ≥ 0 off the diagonal and rows that sum to 0")
