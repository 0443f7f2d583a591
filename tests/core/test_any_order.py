"""The order-agnostic view of masked models, against enumeration of masks, orders and schedules."""

import itertools
import math

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Categorical
from polydiff.core.evaluation.any_order import any_order_nelbo, best_schedule, level_losses, predicted_cost
from polydiff.core.evaluation.likelihood import nelbo
from polydiff.core.oracles import ExactTokens
from polydiff.core.processes import Discrete
from polydiff.core.schedules import LogLinear, uniform_times

V, L = 3, 3
COUNTS = torch.tensor([40 if len({*x}) == 1 else 1 + sum(x) for x in itertools.product(range(V), repeat=L)]).reshape(
    V, V, V
)
TABLE = COUNTS.double() / COUNTS.sum()
STATES = torch.tensor(list(itertools.product(range(V), repeat=L)))
DATA = STATES.repeat_interleave(COUNTS.flatten(), 0)  # a batch whose frequencies are the table's, exactly
LOG_P = TABLE.flatten().log()
MASK = V


class Quadratic(LogLinear):
    """``alpha = 1 − t²``, exact at both ends."""

    def natural(self, u):
        return 1 - u**2, u**2, -2 * u, 2 * u


class EveryOrder(Rng):
    """Uniforms that run through all orders of the tokens: six draws are every mask of k tokens equally often."""

    def __init__(self, length=L):
        super().__init__(0)
        self.orders = itertools.cycle(itertools.permutations(range(length)))

    def uniform(self, like):
        order = torch.tensor(next(self.orders), dtype=torch.float64)
        return ((order + 0.5) / len(order)).expand(like.shape)


def timeless(table=TABLE, process=None):
    """The exact denoiser of what shows, whatever the time; sums in place of ExactTokens where tokens show at t = 1."""
    exact = ExactTokens(table, process or Discrete.absorbing(V))
    return FunctionDenoiser(exact.process, lambda x, t, ctx: exact(x, 0.5, ctx), sees_known=True)


def conditional(x, hidden, i):
    """p(x_i | the tokens of x outside ``hidden``), from the table by hand."""
    table = TABLE
    for j in range(L):
        if j not in hidden:
            table = table.index_select(j, torch.tensor([x[j]]))
    others = [j for j in range(L) if j != i]
    law = table.sum(others)
    return float(law[0] if len(law) == 1 else law[x[i]] / law.sum())


def exact_levels():
    out = []
    for k in range(1, L + 1):
        masks = list(itertools.combinations(range(L), k))
        cost = 0.0
        for x, p in zip(STATES.tolist(), TABLE.flatten().tolist()):
            cost -= p * sum(math.log(conditional(x, m, i)) for m in masks for i in m) / (k * len(masks))
        out.append(cost)
    return torch.tensor(out, dtype=torch.float64)


# ------------------------------------------------------------------ level losses


def test_level_losses_are_the_enumerated_ones_and_sum_to_the_entropy():
    exact = ExactTokens(TABLE, Discrete.absorbing(V))
    levels = level_losses(exact, DATA, rng=EveryOrder(), draws=6)
    torch.testing.assert_close(levels, exact_levels(), rtol=1e-12, atol=0)
    assert float(levels.sum()) == pytest.approx(exact.entropy(), rel=1e-12)
    assert bool((levels.diff() > 0).all())  # a token costs more the less it sees


def test_random_masks_agree_with_all_masks():
    levels = level_losses(ExactTokens(TABLE, Discrete.absorbing(V)), DATA, rng=Rng(0), draws=200)
    torch.testing.assert_close(levels, exact_levels(), rtol=0.02, atol=0)


def test_the_denoiser_is_told_the_masked_fraction():
    seen = []

    def law(x, t, ctx):
        seen.append((t, (x == MASK).double().mean(1)))
        return Categorical(torch.zeros(*x.shape, V))

    flat = FunctionDenoiser(Discrete.absorbing(V), law)
    levels = level_losses(flat, DATA, rng=Rng(0), draws=2)
    any_order_nelbo(flat, DATA, rng=Rng(0), draws=2)
    torch.testing.assert_close(levels, torch.full((L,), math.log(V), dtype=torch.float64))
    assert len(seen) == 2 * L + 2
    for t, fraction in seen:
        assert t.shape == (len(DATA),)
        torch.testing.assert_close(t.double(), fraction, rtol=0, atol=1e-6)


# ------------------------------------------------------------------ NELBO


def per_sample(f, rounds):
    values = torch.stack([f(Rng(seed)) for seed in range(rounds)])
    return values.mean(0), values.std(0) / math.sqrt(rounds)


@pytest.mark.parametrize("draws", [1, 2])
def test_nelbo_is_unbiased_for_each_sample(draws):
    """An exact denoiser's cost of a sample in any order is −log p(x): not only on average over the batch."""
    mean, error = per_sample(lambda r: any_order_nelbo(timeless(), STATES, rng=r, draws=draws), 400)
    z = (mean + LOG_P) / error
    assert float(z.abs().max()) < 4.5
    assert float((z**2).mean()) == pytest.approx(1, abs=0.8)
    assert float(error.max()) < 0.12


@pytest.mark.parametrize(("draws", "axis", "share"), [(6, 0, 2), (1, 1, len(STATES) / L)], ids=["sample", "batch"])
def test_levels_are_spread_evenly(draws, axis, share):
    """Over the draws of each sample, at a multiple of the length; over the batch, already at one draw."""
    levels = []

    def law(x, t, ctx):
        levels.append((x == MASK).sum(1))
        return Categorical(torch.zeros(*x.shape, V))

    any_order_nelbo(FunctionDenoiser(Discrete.absorbing(V), law), STATES, rng=Rng(3), draws=draws)
    for k in range(1, L + 1):
        assert bool(((torch.stack(levels) == k).sum(axis) == share).all())


@pytest.mark.parametrize("schedule", [LogLinear(), Quadratic()], ids=["linear", "quadratic"])
def test_nelbo_of_the_process_is_predicted_by_the_level_losses(schedule):
    """With T steps: ``Σ_steps Σ_k Binomial(k; L, hidden) k · reveal · L_k``, which tends to the any-order NELBO."""
    process = Discrete.absorbing(V, schedule)
    exact, times = exact_levels(), uniform_times(8)
    predicted = 0.0
    for t, s in itertools.pairwise(times):
        hidden, after = (1 - float(process.schedule.at(u).a) for u in (t, s))
        reveal = min((hidden - after) / hidden, 1.0)
        for k in range(1, L + 1):
            chance = math.comb(L, k) * hidden**k * (1 - hidden) ** (L - k)
            predicted += chance * k * reveal * float(exact[k - 1])
    x0 = DATA.repeat(120, 1)
    found = nelbo(timeless(process=process), x0, times, rng=Rng(0))
    error = float(found.std()) / math.sqrt(len(x0))
    assert float(found.mean()) == pytest.approx(predicted, abs=4 * error)
    assert predicted > float(exact.sum()) + 4 * error  # eight parallel steps cost more than one token at a time


def test_nelbo_tends_to_the_any_order_nelbo():
    x0 = DATA.repeat(30, 1)
    fine = nelbo(timeless(), x0, uniform_times(200), rng=Rng(0)).mean()
    ours = any_order_nelbo(timeless(), x0, rng=Rng(1), draws=3).mean()
    entropy = ExactTokens(TABLE, Discrete.absorbing(V)).entropy()
    assert float(ours) == pytest.approx(entropy, abs=0.01)
    assert float(fine) == pytest.approx(float(ours), abs=0.03)


def test_variance_is_lower_than_with_random_times():
    """Three evaluations a sample, either way."""
    process, oracle = Discrete.absorbing(V), timeless()

    def by_time(rng):
        total = torch.zeros(len(STATES), dtype=torch.float64)
        for _ in range(3):
            t = rng.uniform(total)
            x_t = process.marginal(STATES, t).sample(rng)
            total += process.bound(oracle(x_t, t, Context()), STATES, x_t, t).sum(1)
        return total / 3

    ours, theirs = (
        torch.stack([f(Rng(i)) for i in range(300)])
        for f in (lambda r: any_order_nelbo(oracle, STATES, rng=r, draws=3), by_time)
    )
    torch.testing.assert_close(ours.mean(), theirs.mean(), rtol=0.05, atol=0)  # the same expectation
    assert float(ours.var(0).mean()) < 0.3 * float(theirs.var(0).mean())


# ------------------------------------------------------------------ lengths and given entries


def shorter():
    """The exact denoiser of strings whose padding tells nothing, and contexts of lengths 3, 2 and 1 in turn."""
    oracle = timeless()
    lengths = torch.arange(len(STATES)) % L + 1
    valid = torch.arange(L) < lengths[:, None]

    def law(x, t, ctx):
        return oracle(torch.where(ctx.valid, x, MASK), t, ctx)

    return FunctionDenoiser(oracle.process, law), Context(valid=valid), lengths


def test_variable_lengths():
    denoiser, ctx, lengths = shorter()
    prefix = [TABLE.sum((1, 2)), TABLE.sum(2), TABLE]
    expected = torch.stack([-prefix[n - 1][tuple(x[:n])].log() for x, n in zip(STATES, lengths)])
    mean, error = per_sample(lambda r: any_order_nelbo(denoiser, STATES, rng=r, ctx=ctx), 300)
    assert float(((mean - expected).abs() - 4.5 * error).max()) < 1e-9
    assert float(error[lengths == 1].max()) < 1e-12  # one token, one mask: nothing is random
    levels = level_losses(denoiser, STATES, rng=EveryOrder(), ctx=ctx, draws=6)
    assert levels.shape == (L,)
    assert float(levels.sum()) == pytest.approx(float(expected.mean()), rel=1e-12)


def test_padding_is_never_scored():
    denoiser, ctx, _ = shorter()
    other = torch.where(ctx.valid, STATES, (STATES + 1) % V)
    a, b = (any_order_nelbo(denoiser, x, rng=Rng(0), ctx=ctx) for x in (STATES, other))
    assert torch.equal(a, b)
    a, b = (level_losses(denoiser, x, rng=Rng(0), ctx=ctx) for x in (STATES, other))
    assert torch.equal(a, b)


def test_known_entries_are_visible_and_never_scored():
    oracle, known = timeless(), torch.tensor([True, False, False]).expand(len(STATES), L)

    def law(x, t, ctx):
        assert torch.equal(x[:, 0], STATES[:, 0])
        torch.testing.assert_close(t, (x == MASK).sum(1) / (L - 1))
        return oracle(x, t, ctx)

    told = FunctionDenoiser(oracle.process, law, sees_known=True)
    ctx = Context(known=known, given=STATES)
    expected = -(TABLE / TABLE.sum((1, 2), keepdim=True)).flatten().log()
    mean, error = per_sample(lambda r: any_order_nelbo(told, STATES, rng=r, ctx=ctx, draws=2), 200)
    assert float(((mean - expected).abs() - 4.5 * error).max()) < 1e-9
    levels = level_losses(told, STATES, rng=EveryOrder(), ctx=ctx, draws=6)
    assert levels.shape == (L - 1,)
    assert float(levels.sum()) == pytest.approx(float(expected.mean()), rel=1e-12)


def test_a_sample_that_is_all_known_costs_nothing():
    known = torch.zeros(len(STATES), L, dtype=torch.bool)
    known[0] = True
    out = any_order_nelbo(timeless(), STATES, rng=Rng(0), ctx=Context(known=known, given=STATES))
    assert float(out[0]) == 0
    assert bool(out.isfinite().all())


# ------------------------------------------------------------------ schedules


def compositions(total, parts):
    for cuts in itertools.combinations(range(1, total), parts - 1):
        yield [b - a for a, b in itertools.pairwise((0, *cuts, total))]


@pytest.mark.parametrize("steps", range(1, 9))
def test_best_schedule_against_all_compositions(steps):
    for seed in range(5):
        losses = torch.rand(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        costs = {tuple(c): predicted_cost(losses, c) for c in compositions(8, steps)}
        best = best_schedule(losses, steps)
        assert sum(best) == 8
        assert predicted_cost(losses, best) == pytest.approx(min(costs.values()), rel=1e-12)
        assert costs[tuple(best)] == min(costs.values())


def test_best_schedule_starts_slowly_where_the_first_tokens_tell_the_most():
    """Losses that fall fast once a few tokens show: one at a time first, then many at once."""
    losses = torch.tensor([0.1] * 6 + [1.0, 2.0], dtype=torch.float64)
    assert best_schedule(losses, 3) == [1, 1, 6]


@pytest.mark.parametrize("counts", [[3], [2, 1], [1, 2], [1, 1, 1]])
def test_predicted_cost_is_the_nelbo_of_the_parallel_sampler(counts):
    """Enumerated: tokens of a random order, revealed in blocks, each drawn from what showed before its block."""
    orders, cost = list(itertools.permutations(range(L))), 0.0
    for x, p in zip(STATES.tolist(), TABLE.flatten().tolist()):
        for order in orders:
            start = 0
            for m in counts:
                hidden = order[start:]
                cost -= p / len(orders) * sum(math.log(conditional(x, hidden, i)) for i in hidden[:m])
                start += m
    levels = level_losses(ExactTokens(TABLE, Discrete.absorbing(V)), DATA, rng=EveryOrder(), draws=6)
    assert predicted_cost(levels, counts) == pytest.approx(cost, rel=1e-12)


# ------------------------------------------------------------------ refusals


def test_refusals():
    losses = torch.ones(3)
    for steps in (0, 4):
        with pytest.raises(ValueError, match=f"steps={steps}"):
            best_schedule(losses, steps)
    with pytest.raises(ValueError, match="not finite"):
        best_schedule(torch.tensor([1.0, math.inf]), 1)
    for counts in ([], [1, 1], [4, -1], [3, 0]):
        with pytest.raises(ValueError, match="sum to 3"):
            predicted_cost(losses, counts)
    uniform = FunctionDenoiser(Discrete.uniform(V), lambda x, t, ctx: Categorical(torch.zeros(*x.shape, V)))
    with pytest.raises(TypeError, match="absorbing"):
        level_losses(uniform, STATES, rng=Rng(0))
    with pytest.raises(ValueError, match="draws=0"):
        any_order_nelbo(timeless(), STATES, rng=Rng(0), draws=0)
