"""Block diffusion on exact tables: sampling, training times, the bound."""

import itertools
import math

import pytest
import torch

from polydiff.core.data import Context, Rng, index
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Categorical, Gated
from polydiff.core.evaluation.any_order import any_order_nelbo
from polydiff.core.evaluation.block_bound import block_nelbo
from polydiff.core.processes import Discrete
from polydiff.core.sampling import Ancestral, FirstHitting
from polydiff.core.sampling.blocks import Blocks
from polydiff.core.schedules import uniform_times
from polydiff.core.training.per_block import PerBlock
from polydiff.core.training.times import LogitNormal, Uniform

L, V = 4, 2
HIT = Blocks([1.0, 0.0], FirstHitting(), 2)


class PrefixTokens(Denoiser):
    """The posterior of a table given what a noisy block shows and all that is behind it.

    ``twist`` adds a fixed function of (place, what shows) to the logits: a denoiser that is wrong in its own way.
    """

    def __init__(self, p, size, twist=0.0, sees_known=True):
        super().__init__()
        self.process, self.sees_known = Discrete.absorbing(V), sees_known
        self.p, self.size, self.twist, self.calls = p, size, twist, 0
        self.all = torch.tensor(list(itertools.product(range(V), repeat=L)))

    def forward(self, x_t, t, ctx):
        self.calls += 1
        if "clean" in ctx.cond:
            clean = ctx.cond["clean"]
            parts = [self._law(clean[:, :a], x_t[:, a : a + self.size]) for a in range(0, x_t.shape[1], self.size)]
            logits = torch.cat(parts, 1)
        else:
            behind = (ctx.memory or {}).get("prefix", x_t[:, :0])
            logits = self._law(behind, x_t)
        return Gated(x_t, x_t == V, 1.0, Categorical(logits))

    def _law(self, behind, block):
        a, n = behind.shape[1], block.shape[1]
        fits = (self.all[None, :, :a] == behind[:, None]).all(-1)
        fits = fits & ((self.all[None, :, a : a + n] == block[:, None]) | (block[:, None] == V)).all(-1)
        hot = torch.nn.functional.one_hot(self.all[:, a : a + n], V).double()
        logits = torch.einsum("bs,snv->bnv", fits * self.p, hot).log()
        code = (block * 3 ** torch.arange(n)).sum(1, keepdim=True) + 7 * (behind * 2 ** torch.arange(a)).sum(
            1, keepdim=True
        )
        turn = torch.sin(1.0 + code[..., None] * 1.7 + torch.arange(a, a + n)[:, None] * 2.3 + torch.arange(V) * 0.9)
        return logits + self.twist * turn


@pytest.fixture
def joint():
    """Probabilities of the 16 sequences of four bits: positive, and far from independent."""
    g = torch.Generator().manual_seed(3)
    p = torch.rand(V**L, generator=g, dtype=torch.float64) ** 3 + 0.002
    return p / p.sum()


def run(sampler, denoiser, n, ctx=Context(), seed=0, slots=None):
    return sampler(denoiser, torch.zeros(n, L, dtype=torch.long), ctx, Rng(seed, slots))


def gap(x, p):
    """Total variation from the law p of the sequences."""
    counts = torch.bincount((x * 2 ** torch.arange(L - 1, -1, -1)).sum(1), minlength=V**L).double()
    return float(0.5 * (counts / len(x) - p).abs().sum())


# ------------------------------------------------------------------ sampling


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_blocks_reach_the_joint_law(joint, size):
    """First hitting is exact in a block, memory carries the rest: 3 leaves a shorter last block, 9 is one block."""
    x = run(Blocks([1.0, 0.0], FirstHitting(), size), PrefixTokens(joint, size), 40_000)
    assert x.shape == (40_000, L) and gap(x, joint) < 0.012


def test_single_tokens_are_exact_in_one_step_and_halves_are_not(joint):
    """Left to right nothing is factorised; a block drawn at once forgets what its tokens owe each other."""
    gaps = [
        gap(run(Blocks(lambda process: uniform_times(1), Ancestral(), size), PrefixTokens(joint, size), 40_000), joint)
        for size in (1, 2)
    ]
    assert gaps[0] < 0.012 and gaps[1] > 0.05


def test_memory_is_what_carries_the_past(joint):
    x = run(Blocks([1.0, 0.0], FirstHitting(), 2, lambda x, memory: {}), PrefixTokens(joint, 4), 20_000)
    assert gap(x, joint) > 0.05


def test_remember_is_called_once_for_every_block_that_is_read(joint):
    seen = []

    def remember(x, memory):
        seen.append((x.shape[1], None if memory is None else memory["prefix"].shape[1]))
        return {"prefix": x if memory is None else torch.cat([memory["prefix"], x], 1)}

    run(Blocks([1.0, 0.0], FirstHitting(), 1, remember), PrefixTokens(joint, 1), 5)
    assert seen == [(1, None), (1, 1), (1, 2)]


def test_memory_of_the_caller_comes_first(joint):
    """A run that starts behind two given tokens draws the other two from their conditional law."""
    given = torch.tensor([[1, 0]]).expand(20_000, 2)
    sampler = Blocks([1.0, 0.0], FirstHitting(), 1)
    ctx = Context(memory={"prefix": given})
    x = sampler(PrefixTokens(joint, 1), torch.zeros(20_000, 2, dtype=torch.long), ctx, Rng(0))
    law = joint.view(2, 2, 4)[1, 0] / joint.view(2, 2, 4)[1, 0].sum()
    counts = torch.bincount(2 * x[:, 0] + x[:, 1], minlength=4).double() / len(x)
    assert float(0.5 * (counts - law).abs().sum()) < 0.012


def test_known_tokens_stay_and_condition(joint):
    """Tokens 0 and 2 are given: block diffusion sees what is behind and beside, so the law given (0, 2) is reached for a
    block whose unknown tokens come after the known ones."""
    known = torch.tensor([[True, True, True, False]]).expand(20_000, L)
    given = torch.tensor([[1, 0, 1, 0]]).expand(20_000, L)
    denoiser = PrefixTokens(joint, 2)
    x = run(HIT, denoiser, 20_000, Context(known=known, given=given))
    assert bool((x[:, :3] == given[:, :3]).all())
    law = joint.view(2, 2, 2, 2)[1, 0, 1]
    assert float(x[:, 3].double().mean()) == pytest.approx(float(law[1] / law.sum()), abs=5 * 0.5 / math.sqrt(20_000))
    assert denoiser.calls == 1  # the first block was only remembered, the second had one token to draw


def test_whole_known_blocks_need_no_denoiser_that_is_told(joint):
    known = torch.tensor([[True, True, False, False]]).expand(3, L)
    ctx = Context(known=known, given=torch.ones(3, L, dtype=torch.long))
    x = run(HIT, PrefixTokens(joint, 2, sees_known=False), 3, ctx)
    assert bool((x[:, :2] == 1).all()) and bool((x < V).all())
    with pytest.raises(ValueError, match="not trained to be told"):
        run(HIT, PrefixTokens(joint, 2, sees_known=False), 3, ctx.replace(known=known.roll(1, 1)))


def test_seeds_belong_to_samples(joint):
    """Also where first hitting runs on until the slowest row of its batch is done."""
    n = 64
    known = Rng(5).uniform(torch.zeros(n, L)) < 0.4
    given = (Rng(6).uniform(torch.zeros(n, L)) < 0.5).long()
    ctx, denoiser = Context(known=known, given=given), PrefixTokens(joint, 2)
    whole = run(HIT, denoiser, n, ctx, slots=n)
    alone = [run(HIT, denoiser, 1, index(ctx, slice(i, i + 1)), slots=[i]) for i in range(n)]
    assert bool((torch.cat(alone) == whole).all())


def test_blocks_refuse_what_they_cannot_do(joint):
    with pytest.raises(ValueError, match="size=0"):
        Blocks([1.0, 0.0], FirstHitting(), 0)
    with pytest.raises(TypeError, match="fields"):
        HIT(PrefixTokens(joint, 2), {"a": torch.zeros(2, 4)}, Context(), Rng(0))


# ------------------------------------------------------------------ the bound


def enumerated(denoiser, x0, size):
    """The expected bound of every row, by all masks of every block."""
    total = torch.zeros(len(x0), dtype=torch.float64)
    for a in range(0, L, size):
        places = range(a, min(a + size, L))
        for k in range(1, len(places) + 1):
            masks = list(itertools.combinations(places, k))
            for mask in masks:
                x_t = x0.clone()
                x_t[:, list(mask)] = V
                law = denoiser(x_t, 0.5, Context(cond={"clean": x0})).inner
                cost = -law.log_prob_per_element(x0)[:, list(mask)].mean(1)
                total += cost * len(places) / (len(places) * len(masks))
    return total


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_exact_bound_is_the_log_likelihood_of_every_sequence(joint, size):
    """The chain rule over blocks: with an exact denoiser the bound of x0 is −log p(x0), and its mean the entropy."""
    denoiser = PrefixTokens(joint, size)
    assert float((enumerated(denoiser, denoiser.all, size) + joint.log()).abs().max()) < 1e-12
    rounds = torch.stack([block_nelbo(denoiser, denoiser.all, size, rng=Rng(i), draws=4) for i in range(250)])
    error = rounds.std(0) / math.sqrt(len(rounds))
    assert bool(((rounds.mean(0) + joint.log()).abs() < 4.5 * error + 1e-9).all())
    entropy = -(joint * joint.log()).sum()
    assert float((rounds.mean(0) @ joint) - entropy) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_bound_of_a_wrong_denoiser_is_unbiased_too(joint, size):
    denoiser = PrefixTokens(joint, size, twist=0.8)
    truth = enumerated(denoiser, denoiser.all, size)
    assert float((truth + joint.log()).abs().max()) > 0.05  # wrong indeed
    rounds = torch.stack([block_nelbo(denoiser, denoiser.all, size, rng=Rng(i), draws=3) for i in range(300)])
    error = rounds.std(0) / math.sqrt(len(rounds))
    assert bool(((rounds.mean(0) - truth).abs() < 4.5 * error + 1e-9).all())


def test_size_one_is_left_to_right_without_variance(joint):
    denoiser = PrefixTokens(joint, 1)
    assert torch.allclose(block_nelbo(denoiser, denoiser.all, 1, rng=Rng(0)), -joint.log(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("draws", [1, 3])
def test_one_block_is_the_order_agnostic_bound(joint, draws):
    """Mask by mask: the same random numbers give the same figure."""
    denoiser = PrefixTokens(joint, L, twist=0.5)
    ours = block_nelbo(denoiser, denoiser.all, L, rng=Rng(2), draws=draws)
    assert torch.allclose(ours, any_order_nelbo(denoiser, denoiser.all, rng=Rng(2), draws=draws), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [2, 4])
def test_every_level_of_every_block_occurs_equally_often(joint, size):
    """With as many draws as a block has tokens each block has had every level once; t is its masked fraction."""
    denoiser, seen = PrefixTokens(joint, size), []
    inner = denoiser.forward

    def spy(x_t, t, ctx):
        seen.append((x_t == V).unflatten(1, (-1, size)).double().mean(2))
        assert torch.allclose(seen[-1].repeat_interleave(size, 1), t.double())
        return inner(x_t, t, ctx)

    denoiser.forward = spy
    block_nelbo(denoiser, denoiser.all[:7], size, rng=Rng(0), draws=size)
    levels = (torch.stack(seen).sort(0).values * size).round()
    assert bool((levels == torch.arange(1, size + 1)[:, None, None]).all())


def test_known_tokens_are_never_scored(joint):
    """Given the first three tokens the bound is the cost of the last, exactly."""
    denoiser = PrefixTokens(joint, 2)
    known = torch.tensor([True, True, True, False]).expand(V**L, L)
    bound = block_nelbo(denoiser, denoiser.all, 2, rng=Rng(0), ctx=Context(known=known, given=denoiser.all))
    law = joint.view(8, 2) / joint.view(8, 2).sum(1, keepdim=True)
    assert torch.allclose(bound, -law.log().flatten(), atol=1e-12, rtol=0)


def test_the_bound_refuses_what_it_cannot_do(joint):
    denoiser = PrefixTokens(joint, 2)
    with pytest.raises(ValueError, match="draws=0"):
        block_nelbo(denoiser, denoiser.all, 2, rng=Rng(0), draws=0)
    denoiser.process = Discrete.uniform(V)
    with pytest.raises(TypeError, match="absorbing"):
        block_nelbo(denoiser, denoiser.all, 2, rng=Rng(0))


# ------------------------------------------------------------------ times


def test_times_are_one_a_block_and_stratified_over_all():
    process, like = Discrete.absorbing(3), torch.zeros(5, 11, dtype=torch.long)
    t = PerBlock(Uniform(), 4)(process, like, Rng(0))
    assert t.shape == (5, 11) and t.dtype == torch.float32
    for a in (0, 4, 8):
        assert bool((t[:, a : a + 4] == t[:, a : a + 1]).all())
    cells = t[:, ::4].flatten().sort().values
    assert bool(((cells * 15).long() == torch.arange(15)).all())


def test_every_block_meets_every_time():
    """Dealt out at random: each place of the batch has the law by itself, here its mean, spread and clipping."""
    process, like, n = Discrete.absorbing(3), torch.zeros(3, 8, dtype=torch.long), 2000
    t = torch.stack([PerBlock(Uniform(0.2, 0.8), 4)(process, like, Rng(i))[:, ::4] for i in range(n)]).double()
    assert float(t.min()) >= 0.2 - 1e-6 and float(t.max()) <= 0.8 + 1e-6
    std = 0.6 / math.sqrt(12)
    assert float((t.mean(0) - 0.5).abs().max()) < 5 * std / math.sqrt(n)
    assert float((t.std(0) / std - 1).abs().max()) < 5 / math.sqrt(2 * n)
    odd = PerBlock(LogitNormal(1.0, 0.1), 4)(process, like, Rng(0))
    assert float(odd.median()) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)


def test_times_of_blocks_go_through_the_discrete_process():
    """Marginal, loss and bound at times (B, L) are those of each token at its own time."""
    process = Discrete.absorbing(3)
    x0 = torch.randint(0, 3, (2, 6), generator=torch.Generator().manual_seed(0))
    t = PerBlock(Uniform(0.1, 0.9), 2)(process, x0, Rng(1)).double()
    law = Categorical(torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    x_t = process.marginal(x0, t).sample(Rng(2))
    bound = process.bound(law, x0, x_t, t)
    for b, i in itertools.product(range(2), range(6)):
        one = (slice(b, b + 1), slice(i, i + 1))
        alone = process.bound(Categorical(law.logits[one]), x0[one], x_t[one], float(t[b, i]))
        assert float((bound[one] - alone).abs()) < 1e-12
    many = torch.stack([process.marginal(x0, t).sample(Rng(i)) == 3 for i in range(4000)]).double().mean(0)
    assert float((many - t).abs().max()) < 5 * 0.5 / math.sqrt(4000)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="size=0"):
        PerBlock(Uniform(), 0)
    with pytest.raises(ValueError, match="no sequence"):
        PerBlock(Uniform(), 2)(Discrete.absorbing(3), torch.zeros(4), Rng(0))
