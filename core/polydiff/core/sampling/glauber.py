"""Glauber dynamics for tokens: noise one position at a time, heat bath in reverse, from a binary classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polydiff.core.data import Context, Data, Rng, Time, match_time
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Categorical, Distribution
from polydiff.core.processes import Discrete, Process
from polydiff.core.sampling.sampler import Chain
from polydiff.core.sampling.step import State, Transition
from polydiff.core.training.batches import Batch
from polydiff.core.training.loss import Loss, Objective


class GlauberChain(Process):
    """Visits to positions 0 … L − 1 in turn, round after round; each replaces the token by a uniform one, or keeps it.

    At visit k, of round r, ``Z ~ Pi`` with ``Pi(keep) = keep_r`` and ``Pi(a) = (1 − keep_r) / V``; the token becomes Z
    unless Z is "keep". Time is ``t = k / K`` with K = rounds · L visits. A position visited in rounds 0 … n − 1 has
    ``alpha = Π keep_r``: the chain is ``Discrete.uniform`` with a time for each element, and has its marginals and exact
    transitions.

    Args:
        vocab: Number of tokens V.
        length: Number of positions L.
        rounds: Visits to each position.
        keep: Probability that a visit changes nothing, in (0, 1); one for all rounds, or one a round.

    Raises:
        ValueError: For counts under 1 and probabilities outside (0, 1).

    Source: Glauber Generative Model: Discrete Diffusion Models via Binary Classification, 2024, arXiv 2405.17035.
    """

    keep: Tensor
    _alpha: Tensor

    def __init__(self, vocab: int, length: int, rounds: int, keep: float | Sequence[float]) -> None:
        super().__init__()
        if min(vocab, length, rounds) < 1:
            raise ValueError(f"vocab={vocab}, length={length}, rounds={rounds}: each must be at least 1")
        each = torch.tensor([keep] * rounds if isinstance(keep, float) else list(keep), dtype=torch.float64)
        if len(each) != rounds or not bool(((each > 0) & (each < 1)).all()):
            raise ValueError(f"keep={keep}: need a probability inside (0, 1), or one for each of the {rounds} rounds")
        self.vocab, self.length, self.visits = vocab, length, rounds * length
        self.tokens = Discrete.uniform(vocab)
        self.register_buffer("keep", each)
        self.register_buffer("_alpha", torch.cat([each.new_ones(1), each.cumprod(0)]))

    def times(self) -> list[float]:
        """The grid of the reverse chain: K/K … 1/K, 0."""
        return [k / self.visits for k in range(self.visits, -1, -1)]

    def positions(self, t: Time) -> Tensor:
        """Position of the visit that leads to time t, ``()`` or ``(B,)``."""
        return (self._count(t) - 1) % self.length

    def keep_at(self, t: Time) -> Tensor:
        """``Pi(keep)`` of the visit that leads to time t, ``()`` or ``(B,)``."""
        return self.keep[(self._count(t) - 1).div(self.length, rounding_mode="floor")]

    def _count(self, t: Time) -> Tensor:
        return (torch.as_tensor(t, dtype=torch.float64, device=self.keep.device) * self.visits).round().long()

    def element_times(self, t: Time) -> Tensor:
        """Times of ``tokens`` ``(B or 1, L)``: ``1 − alpha`` after the visits that a position has had."""
        later = self.length - 1 - torch.arange(self.length, device=self.keep.device)
        visited = (self._count(t).reshape(-1, 1) + later).div(self.length, rounding_mode="floor")
        return 1 - self._alpha[visited]

    def prior(self, like: Data, ctx: Context = Context()) -> Distribution:
        """Uniform tokens; the chain is within ``L Π keep`` of it in total variation."""
        return self.tokens.prior(like, ctx)

    def marginal(self, x: Data, t: Time, ctx: Context = Context(), *, since: Time | None = None) -> Distribution:
        """See ``Process``."""
        before = None if since is None else self.element_times(since)
        return self.tokens.marginal(x, self.element_times(t), ctx, since=before)

    def transition(
        self, x_t: Data, posterior: Distribution, t: Time, s: Time, ctx: Context = Context(), *, eta: float = 1.0
    ) -> Distribution:
        """See ``Process``: from a posterior of x_0 the chain can be undone without a classifier, many visits a step."""
        return self.tokens.transition(x_t, posterior, self.element_times(t), self.element_times(s), ctx, eta=eta)

    def loss(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data:
        """Cross-entropy of the clean token in nats."""
        return self.tokens.loss(posterior, x0, x_t, self.element_times(t), ctx)


def heat_bath(log_odds: Tensor, keep: Tensor) -> Categorical:
    """The token before a visit given all others, from the classifier of "the token that the visit left is noise".

    ``P(X_{k,i} = a | X_{k+1,−i}) = Pi(a) / Pi(keep) · (1 / P(noise | X_{k+1,i} = a, X_{k+1,−i}) − 1)``: the odds that a is no
    noise, ``exp(−log_odds_a)``, are ``Pi(keep) P(X_{k,i} = a | …) / Pi(a)``. Normalised, as a trained classifier need not be.

    Args:
        log_odds: ``log P(noise) − log P(kept)`` for each candidate a, ``(..., V)``.
        keep: ``Pi(keep)`` ``(...)``; for a uniform Pi(a) it only scales, and normalisation takes it out.

    Source: Glauber Generative Model, 2024, arXiv 2405.17035.
    """
    return Categorical(((1 - keep) / keep / log_odds.shape[-1]).log()[..., None] - log_odds)


class NoiseClassifier(Denoiser):
    """A network that tells, for the position of the last visit, whether the visit left noise there.

    The network never sees the token at that position: it holds V, and the answer comes for every candidate at once.

    Args:
        network: ``network(x, t, ctx) -> (B, L, V)``: log-odds that the token is noise, were it v, read at the position
            that holds V; x ``(B, L)``, t ``(B,)``.
        process: The chain.
        sees_known: The network was trained with given entries.
    """

    process: GlauberChain

    def __init__(
        self, network: Callable[[Tensor, Tensor, Context], Tensor], process: GlauberChain, *, sees_known: bool = False
    ) -> None:
        super().__init__()
        self.network, self.process, self.sees_known = network, process, sees_known

    def log_odds(self, x: Tensor, t: Time, ctx: Context) -> Tensor:
        """Log-odds of noise for each candidate at the visited position, ``(B, V)``."""
        place = self.process.positions(t).expand(len(x))[:, None]
        odds = self.network(x.scatter(1, place, self.process.vocab), match_time(t, x), ctx)
        return odds.gather(1, place[..., None].expand(-1, 1, odds.shape[-1]))[:, 0]

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """Refused."""
        raise TypeError("NoiseClassifier knows the token before a visit, not the law of x_0: use the step HeatBath()")

    def reverse(self, x_t: Data, t: Time, s: Time, ctx: Context) -> Distribution:
        """Law of the state before the visit: the heat bath at its position, certainty elsewhere."""
        assert isinstance(x_t, Tensor)
        bath = heat_bath(self.log_odds(x_t, t, ctx).double(), self.process.keep_at(t))
        place = self.process.positions(t).expand(len(x_t))[:, None]
        visited = torch.arange(x_t.shape[1], device=x_t.device) == place
        still = Categorical.delta(x_t, self.process.vocab).logits
        return Categorical(torch.where(visited[..., None], bath.log_probs[:, None], still))


@dataclass(frozen=True, slots=True)
class HeatBath:
    """Undo one visit of a ``GlauberChain``: redraw its position given all others. The grid is ``chain.times()``.

    With the classifier of Bayes the reverse chain is exact at every visit: no two tokens are drawn in parallel.

    Raises:
        TypeError: For a denoiser that is no ``NoiseClassifier``.
        ValueError: For a step that is not one visit back.

    Source: Glauber Generative Model: Discrete Diffusion Models via Binary Classification, 2024, arXiv 2405.17035.
    """

    def __call__(
        self, denoiser: Denoiser, x_t: Any, t: Time, s: Time, ctx: Context, state: State, rng: Rng | None
    ) -> Transition:
        """See ``Step``."""
        if not isinstance(denoiser, NoiseClassifier):
            raise TypeError(f"HeatBath reads a NoiseClassifier, not {type(denoiser).__name__}")
        visits = denoiser.process.visits
        if not (isinstance(t, float) and isinstance(s, float)) or abs((t - s) * visits - 1) > 1e-6:
            raise ValueError(f"from t={t} to s={s} is not one of the {visits} visits: use the grid chain.times()")
        kernel = denoiser.reverse(x_t, t, s, ctx)
        return Transition(t, s, x_t, kernel.sample(rng), None, kernel, self, state, None, ctx)


def glauber_sample(classifier: NoiseClassifier, count: int, rng: Rng, ctx: Context = Context()) -> Tensor:
    """Samples ``(count, L)`` of the reverse chain from uniform tokens: ``Chain(chain.times(), HeatBath())``."""
    chain = classifier.process
    like = torch.zeros(count, chain.length, dtype=torch.long, device=chain.keep.device)
    out = Chain(chain.times(), HeatBath())(classifier, like, ctx, rng)
    assert isinstance(out, Tensor)
    return out


class NoiseClassification(Objective):
    """``E_k BCE(P(noise | X_{k+1}), 1[visit k left noise])`` in nats, k uniform over the K visits.

    ``X_k`` comes from the closed form of the chain and the visit from Z. At the optimum ``model`` is the classifier of Bayes.

    Source: Glauber Generative Model: Discrete Diffusion Models via Binary Classification, 2024, arXiv 2405.17035.
    """

    def __init__(self, model: NoiseClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """One visit for each sample of the batch; visits to padding and given positions do not count."""
        chain, x0, ctx = self.model.process, batch.x0, batch.ctx
        assert isinstance(x0, Tensor)
        scored = ctx.scored()
        row = x0.new_empty(len(x0), dtype=torch.float64)
        k = (rng.uniform(row) * chain.visits).long()
        before, after = k / chain.visits, (k + 1) / chain.visits
        x = ctx.hold(chain.marginal(x0, before, ctx).sample(rng))
        assert isinstance(x, Tensor)
        place = chain.positions(after)[:, None]
        noisy = rng.uniform(row) >= chain.keep_at(after)
        drawn = (rng.uniform(row) * chain.vocab).long()
        token = torch.where(noisy, drawn, x.gather(1, place)[:, 0])
        odds = self.model.log_odds(x.scatter(1, place, token[:, None]), after, ctx).gather(1, token[:, None])[:, 0]
        nats = nn.functional.binary_cross_entropy_with_logits(odds, noisy.to(odds), reduction="none")
        return Loss.masked(nats, scored.gather(1, place)[:, 0] if isinstance(scored, Tensor) else None, {})
