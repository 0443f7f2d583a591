"""Discrete steps: exact laws of whole runs by enumeration of all states, orders of convergence, exact clocks."""

import itertools
import math

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Categorical
from polydiff.core.oracles import ExactTokens
from polydiff.core.processes import Discrete, Gaussian
from polydiff.core.processes.rates import RateDiscrete
from polydiff.core.sampling import Ancestral, sample, trajectory
from polydiff.core.sampling.glauber import (
    GlauberChain,
    HeatBath,
    NoiseClassification,
    NoiseClassifier,
    glauber_sample,
    heat_bath,
)
from polydiff.core.sampling.leaping import EulerJumps, Leaps, TauLeaping, poisson
from polydiff.core.sampling.planned import Planned, given_noise, next_redraw, noise_probability, planner_of
from polydiff.core.schedules import Cosine, LogLinear, uniform_times
from polydiff.core.training import Batch

N = 40_000
PROCESSES = {
    "absorbing": lambda: Discrete.absorbing(3),
    "absorbing/cosine": lambda: Discrete.absorbing(3, Cosine()),
    "uniform": lambda: Discrete.uniform(3),
    "uniform/cosine": lambda: Discrete.uniform(3, Cosine()),
    "marginal": lambda: Discrete.marginal_prior(torch.tensor([0.5, 0.3, 0.2])),
}


def states_of(states, length):
    return torch.tensor(list(itertools.product(range(states), repeat=length)))


def moved(kernel, x):
    """The matrix ``P(x_s = y | x_t = x)`` of a law over the batch of all states."""
    return torch.stack([kernel.log_prob(y.expand_as(x)).double().exp() for y in x], 1)


def law_of_run(step, denoiser, times, length):
    """Probabilities of all states at the end of a run: no sampling, no noise."""
    process = denoiser.process
    x = states_of(process.states, length)
    p = process.prior(x).log_prob(x).double().exp()
    for t, s in itertools.pairwise(times):
        kernel, _ = step.kernel(process, x, denoiser(x, t, Context()), t, s, Context(), None)
        rows = moved(kernel, x)
        torch.testing.assert_close(rows[p > 0].sum(1), torch.ones(int((p > 0).sum()), dtype=torch.float64))
        p = p @ torch.where((p > 0)[:, None], rows, 0.0)
    return p.reshape([process.states] * length)


def distance(p, table):
    """Total variation; mass on masked states counts."""
    clean = p[tuple(slice(0, n) for n in table.shape)]
    return 0.5 * float((clean - table / table.sum()).abs().sum() + p.sum() - clean.sum())


def frequencies(x, shape):
    place = torch.tensor([math.prod(shape[i + 1 :]) for i in range(len(shape))])
    return torch.bincount((x * place).sum(1), minlength=math.prod(shape)).double().reshape(shape) / len(x)


def run(denoiser, step, times, length, n=N, seed=0):
    x = denoiser.process.prior(torch.zeros(n, length, dtype=torch.long)).sample(Rng(seed))
    return sample(denoiser, x, times, step, rng=Rng(seed + 1))


# ------------------------------------------------------------------ leaping


@pytest.mark.parametrize("name", sorted(PROCESSES))
@pytest.mark.parametrize("step", [EulerJumps(), TauLeaping()], ids=["euler", "tau"])
def test_leaps_converge_at_first_order(table, slopes, name, step):
    """Total variation to the joint table halves with the step, no mask is left, and few steps err visibly."""
    denoiser = ExactTokens(table, PROCESSES[name]())
    gaps = [distance(law_of_run(step, denoiser, uniform_times(n), 2), table) for n in (8, 64, 128)]
    assert slopes(gaps[1:])[0] == pytest.approx(1.0, abs=0.12), gaps
    assert gaps[0] > 0.03 and gaps[-1] < 0.01


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_one_token_is_exact_by_ancestral_steps_alone(table, name):
    """Tweedie steps are exact for one token at any number of steps; frozen rates in general are not."""
    marginal = table.sum(1)
    denoiser = ExactTokens(marginal, PROCESSES[name]())
    grid = [1.0, 0.7, 0.4, 0.0]
    end = 0.0 if "cosine" not in name else 3e-5  # alpha of a cosine ends within e⁻¹⁰ of 0 and 1
    assert distance(law_of_run(Ancestral(), denoiser, grid, 1), marginal) <= end + 1e-12
    gaps = [distance(law_of_run(step, denoiser, grid, 1), marginal) for step in (EulerJumps(), TauLeaping())]
    if "absorbing" in name:  # when a single token shows does not matter
        assert max(gaps) <= end + 1e-12
    else:  # under a log-linear schedule q_t is linear in t, so that even Euler is exact
        assert (gaps[0] > 1e-3) == ("cosine" in name)
        assert gaps[1] > 1e-3


def test_euler_jumps_are_ancestral_for_log_linear_masks(table):
    denoiser = ExactTokens(table, Discrete.absorbing(3))
    grid = [0.9, 0.5, 0.2, 0.1]
    ours, exact = (law_of_run(step, denoiser, grid, 2) for step in (EulerJumps(), Ancestral()))
    torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize(
    "make", [Discrete.uniform, Discrete.absorbing, RateDiscrete.ordinal], ids=lambda f: f.__qualname__
)
@pytest.mark.parametrize("step", [EulerJumps(), TauLeaping()], ids=["euler", "tau"])
def test_leaps_are_jump_rates_times_the_step(make, step):
    """As h → 0, P(jump to y) / h is the reverse rate; it is a probability law for any h."""
    process, x = make(4), torch.tensor([[0, 2, 3 if make is not Discrete.absorbing else 4]])
    posterior = Categorical(torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    rates = process.reverse_rates(x, posterior, 0.6, Context())
    h = 1e-7
    kernel, _ = step.kernel(process, x, posterior, 0.6, 0.6 - h, Context(), None)
    torch.testing.assert_close((kernel.probs / h).scatter(-1, x[..., None], 0.0), rates, rtol=1e-4, atol=1e-6)
    wide, _ = step.kernel(process, x, posterior, 0.6, 0.1, Context(), None)
    torch.testing.assert_close(wide.probs.sum(-1), torch.ones(1, 3, dtype=torch.float64))
    assert bool(wide.probs.isfinite().all())


def test_euler_clips_the_total_at_one():
    process, x = Discrete.uniform(3), torch.tensor([[0]])
    posterior = Categorical(torch.tensor([[[0.0, 0.7, 0.3]]], dtype=torch.float64).log())
    kernel, _ = EulerJumps().kernel(process, x, posterior, 0.9, 0.05, Context(), None)
    rates = process.reverse_rates(x, posterior, 0.9)
    assert float(0.85 * rates.sum()) > 1
    torch.testing.assert_close(kernel.probs, rates / rates.sum())


def test_single_leaps_are_poisson_counts_of_exactly_one():
    """The closed law of TauLeaping() against literal Poisson draws of every target."""
    process, x = Discrete.uniform(3), torch.tensor([[1]])
    posterior = Categorical(torch.tensor([[[0.5, 0.2, 0.3]]], dtype=torch.float64).log())
    kernel, _ = TauLeaping().kernel(process, x, posterior, 0.6, 0.2, Context(), None)
    mean = 0.4 * process.reverse_rates(x, posterior, 0.6)[0, 0]
    counts = poisson(mean.expand(200_000, 3), Rng(0).uniform(torch.empty(200_000, 3)))
    landed = torch.where(counts.sum(1) == 1, counts.argmax(1), 1)
    assert float(0.5 * (torch.bincount(landed, minlength=3) / 200_000 - kernel.probs[0, 0]).abs().sum()) < 0.004


def test_times_per_element_take_the_exact_law_at_the_ends_only(table):
    """A tensor of times gives the laws of floats element by element, ends included, without NaN."""
    process = Discrete.uniform(3)
    denoiser, x = ExactTokens(table, process), torch.tensor([[0, 2]] * 4)
    t, s = torch.tensor([1.0, 0.6, 0.3, 0.0]).double(), torch.tensor([0.6, 0.3, 0.0, 0.0]).double()
    for step in (EulerJumps(), TauLeaping()):
        kernel, _ = step.kernel(process, x, denoiser(x, t.clamp_min(0.1), Context()), t, s, Context(), None)
        for i in range(3):
            law, _ = step.kernel(
                process, x[:1], denoiser(x[:1], float(t[i]), Context()), float(t[i]), float(s[i]), Context(), None
            )
            for y in states_of(3, 2):
                got = kernel.log_prob(y.expand(4, 2))[i : i + 1]
                torch.testing.assert_close(got.exp(), law.log_prob(y[None]).exp(), msg=f"{step} row {i}")


@pytest.mark.parametrize("step", [EulerJumps(), TauLeaping()], ids=["euler", "tau"])
def test_no_mask_is_left_in_a_sample(table, step):
    for schedule in (LogLinear(), Cosine()):
        out = run(ExactTokens(table, Discrete.absorbing(3, schedule)), step, uniform_times(3), 2, 5000)
        assert int(out.max()) < 3


def test_poisson_counts_follow_their_law():
    """The least k with F(k) > u, for small, middling and very large means."""
    u = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    for mean in (0.0, 0.3, 4.0, 70.0, 590.0):
        k = poisson(torch.full_like(u, mean), u)
        below, upto = (torch.special.gammaincc((k + i).double(), torch.tensor(mean).double()) for i in (0, 1))
        assert bool((u < upto + 1e-9).all()) and bool(((u >= below - 1e-9) | (k == 0)).all()), mean
    big = poisson(torch.full_like(u, 1e4), u).double()
    assert float(big.mean()) == pytest.approx(1e4, rel=1e-3)
    assert float(big.std()) == pytest.approx(100, rel=0.02)
    means = torch.linspace(
        0.01, 40, 400, dtype=torch.float64
    )  # of some the CDF rounds to less than the largest uniform
    top = poisson(means, torch.full_like(means, 1 - 2**-53))
    assert bool((top > means).all()) and bool((top < means + 12 * means.sqrt() + 12).all())


def leap_law(x, mean):
    """Law of ``clip(x + Σ n_y (y − x))`` by convolution of the Poisson laws."""
    states, room = len(mean), 60
    shift = torch.zeros(2 * room + 1, dtype=torch.float64)
    shift[room] = 1
    for y in range(states):
        weights = [math.exp(-float(mean[y])) * float(mean[y]) ** k / math.factorial(k) for k in range(20)]
        shift = sum(w * shift.roll(k * (y - x)) for k, w in enumerate(weights))
    ends = (x + torch.arange(-room, room + 1)).clamp(0, states - 1)
    return torch.zeros(states, dtype=torch.float64).index_add(0, ends, shift)


def test_ordered_leaps_add_up_and_are_clipped():
    mean, n = torch.tensor([0.5, 0.0, 0.8, 0.2], dtype=torch.float64), 200_000
    out = Leaps(torch.ones(n, 1, dtype=torch.long), mean.expand(n, 1, 4)).sample(Rng(0))
    assert float(0.5 * (torch.bincount(out[:, 0], minlength=4) / n - leap_law(1, mean)).abs().sum()) < 0.004


def ordinal_denoiser(prior, process):
    """Exact for one token under any process: Bayes over its kernel."""
    levels = torch.arange(len(prior))[:, None]

    def f(x, t, ctx):
        kernel = process.marginal(levels, t).probs[:, 0]  # (x_0, x_t)
        return Categorical((prior * kernel[:, x].movedim(0, -1)).log())

    return FunctionDenoiser(process, f)


def test_ordered_leaping_converges_at_first_order(slopes):
    """The law of whole runs on one quantity of four levels; a sample agrees with it."""
    prior, x, gaps = torch.tensor([0.1, 0.4, 0.05, 0.45], dtype=torch.float64), states_of(4, 1), []
    process, step = RateDiscrete.ordinal(4, 0.7, Cosine()), TauLeaping(ordered=True)
    denoiser = ordinal_denoiser(prior, process)
    for n in (8, 64, 128):
        p = torch.full((4,), 0.25, dtype=torch.float64)
        for t, s in itertools.pairwise(uniform_times(n)):
            law, _ = step.kernel(process, x, denoiser(x, t, Context()), t, s, Context(), None)
            leap = isinstance(law, Leaps)
            p = p @ (torch.stack([leap_law(i, law.mean_jumps[i, 0]) for i in range(4)]) if leap else moved(law, x))
        gaps.append(distance(p, prior))
        if n == 8:
            drawn = run(denoiser, step, uniform_times(n), 1)[:, 0]
            assert distance(torch.bincount(drawn, minlength=4).double() / N, p) < 0.008
    assert slopes(gaps[1:])[0] == pytest.approx(1.0, abs=0.15) and gaps[0] > 0.05 > 0.003 > gaps[-1], gaps


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda k: k(EulerJumps(), Gaussian(Cosine()), 0.5, 0.4), TypeError, "jump rates"),
        (lambda k: k(TauLeaping(ordered=True), Discrete.absorbing(3), 0.5, 0.4), TypeError, "no place"),
        (lambda k: k(EulerJumps(), Discrete.uniform(3), 0.4, 0.5), ValueError, "must not be above"),
    ],
)
def test_leaping_refuses_what_it_cannot_mean(call, error, words):
    law = Categorical(torch.zeros(1, 1, 3, dtype=torch.float64))
    with pytest.raises(error, match=words):
        call(lambda step, p, t, s: step.kernel(p, torch.zeros(1, 1, dtype=torch.long), law, t, s, Context(), None))


# ------------------------------------------------------------------ planned


@pytest.mark.parametrize("name", ["uniform", "uniform/cosine", "marginal"])
def test_noise_and_redraw_are_those_of_bayes(table, name):
    """Against enumeration over clean tokens and noise flags; and c_i does not depend on the token at i."""
    process, t = PROCESSES[name](), 0.55
    a, x = process.schedule.at(t).a, states_of(3, 2)
    p0, pi = table / table.sum(), process.pi
    posterior = ExactTokens(table, process)(x, t, Context())
    q, c = noise_probability(process, posterior, x, t), given_noise(process, posterior, x, t).probs
    for row, (u, v) in enumerate(x.tolist()):
        other = (
            torch.tensor([a * (w == v) for w in range(3)], dtype=torch.float64) + (1 - a) * pi[v]
        )  # P(x_t[1] | x_0[1])
        given_other = p0 @ other
        noise, kept = (1 - a) * pi[u] * given_other.sum(), a * given_other[u]
        torch.testing.assert_close(q[row, 0], noise / (noise + kept))
        torch.testing.assert_close(c[row, 0], given_other / given_other.sum())
    torch.testing.assert_close(planner_of(ExactTokens(table, process))(x, t, Context()), q)


def test_waits_solve_their_integral():
    h, w = (
        torch.tensor([0.9, 0.5, 1.0, 0.8, 0.7, 1.0]).double(),
        torch.tensor([0.0, 1.0, 0.2, 2.9, 1 + 1e-12, 1.5]).double(),
    )
    wait = torch.full_like(h, 0.25)
    to = next_redraw(h, w, wait)
    assert bool((to < h).all()) and bool((to > 0).all())
    for i in range(len(h)):
        grid = torch.linspace(float(to[i]), float(h[i]), 20_001, dtype=torch.float64)
        passed = torch.trapezoid(1 / (w[i] * (1 - grid) + grid), grid)
        assert float(passed) == pytest.approx(0.25, abs=1e-7)
    assert bool((next_redraw(h, torch.full_like(h, 1e12), 30 * wait) <= 0).all()), "no overflow, no redraw"


@pytest.mark.parametrize("times", [[1.0, 0.0], [1.0, 0.8, 0.3, 0.0]], ids=len)
@pytest.mark.parametrize("name", ["uniform", "marginal"])
def test_planned_denoising_of_one_token_is_exact(table, name, times):
    marginal = table.sum(1) / table.sum()
    out = run(ExactTokens(marginal, PROCESSES[name]()), Planned(), times, 1, 60_000)
    counts = torch.bincount(out[:, 0], minlength=3) / len(out)
    assert float(((counts - marginal) ** 2 / marginal).sum() * len(out)) < 20  # chi², two degrees of freedom


@pytest.mark.slow
def test_planned_denoising_reaches_the_joint_table_before_ancestral_sampling(table):
    """Error by evaluations: falls with the grid, and lies under that of Ancestral at as many evaluations."""
    denoiser, ours = ExactTokens(table, Discrete.uniform(3)), []
    for steps in (4, 16, 64):
        x = denoiser.process.prior(torch.zeros(N, 2, dtype=torch.long)).sample(Rng(0))
        path = list(trajectory(denoiser, x, uniform_times(steps), Planned(), rng=Rng(1)))
        ours.append(distance(frequencies(path[-1].x_s, table.shape), table))
        calls = sum(float((torch.as_tensor(tr.t).expand(N) > 0).double().mean()) for tr in path)
        assert ours[-1] < distance(law_of_run(Ancestral(), denoiser, uniform_times(round(calls)), 2), table)
    assert ours[0] > 0.05 > 0.03 > ours[1] and ours[2] < 0.01, ours


def test_frozen_probabilities_redraw_more_on_the_shortest_grid(table):
    """The paper's clock: better than frozen evidence on [1, 0], at the price of more evaluations."""
    denoiser = ExactTokens(table, Discrete.uniform(3))
    gaps = [distance(frequencies(run(denoiser, Planned(frozen=f), [1.0, 0.0], 2), table.shape), table) for f in FROZEN]
    assert gaps[1] < 0.06 < 0.15 < gaps[0], gaps


FROZEN = ("evidence", "probability")


@pytest.mark.parametrize("frozen", FROZEN)
def test_a_given_planner_is_read(table, frozen):
    """The exact planner handed in is the derived one (past alpha = 0); one that sees no noise moves nothing."""
    denoiser = ExactTokens(table, Discrete.uniform(3))
    x, grid = states_of(3, 2).repeat(50, 1), [0.8, 0.4, 0.0]
    derived = sample(denoiser, x, grid, Planned(frozen=frozen), rng=Rng(0))
    assert torch.equal(derived, sample(denoiser, x, grid, Planned(planner_of(denoiser), frozen), rng=Rng(0)))
    assert not torch.equal(derived, x)
    calm = Planned(lambda x, t, ctx: torch.zeros_like(x, dtype=torch.float64), frozen)
    assert torch.equal(sample(denoiser, x, grid, calm, rng=Rng(0)), x)


@pytest.mark.parametrize("frozen", FROZEN)
def test_planned_steps_move_one_token_and_never_back_in_time(table, frozen):
    denoiser = ExactTokens(table, Discrete.uniform(3))
    x = denoiser.process.prior(torch.zeros(500, 2, dtype=torch.long)).sample(Rng(0))
    ctx = Context(valid=torch.tensor([[True, False]]).expand(500, 2))
    for tr in trajectory(denoiser, x, uniform_times(4), Planned(frozen=frozen), ctx, rng=Rng(1)):
        assert bool((torch.as_tensor(tr.s) <= torch.as_tensor(tr.t)).all())
        assert bool((tr.x_s[:, 1] == x[:, 1]).all()), "padding moved"
    for tr in trajectory(denoiser, x, uniform_times(4), Planned(frozen=frozen), rng=Rng(1)):
        assert int((tr.x_t != tr.x_s).sum(1).max()) <= 1
    assert bool((tr.s == 0).all())


def test_planned_refuses_masks_silence_and_unknown_clocks(table):
    with pytest.raises(TypeError, match="masks are told at sight"):
        run(ExactTokens(table, Discrete.absorbing(3)), Planned(), [1.0, 0.0], 2, 4)
    with pytest.raises(ValueError, match="pass an Rng"):
        sample(ExactTokens(table, Discrete.uniform(3)), torch.zeros(1, 2, dtype=torch.long), [1.0, 0.0], Planned())
    with pytest.raises(ValueError, match="'evidence'"):
        Planned(frozen="time")


# ------------------------------------------------------------------ glauber


def visit_by_visit(chain, table):
    """Laws of X_0 … X_K by enumeration of the visits themselves, ``(V, …, V)`` each."""
    laws = [table / table.sum()]
    for k in range(chain.visits):
        axis, keep = k % chain.length, float(chain.keep[k // chain.length])
        flat = laws[-1].sum(axis, keepdim=True).expand_as(table) / chain.vocab
        laws.append(keep * laws[-1] + (1 - keep) * flat)
    return laws


def bayes(chain, table):
    """The Bayes-optimal classifier: P(noise | X_{k+1}) from the joint law of X_k and Z."""
    laws = visit_by_visit(chain, table)

    def network(x, t, ctx):
        out = torch.full((*x.shape, chain.vocab), torch.nan, dtype=torch.float64)
        for row, (tokens, time) in enumerate(zip(x.tolist(), t.tolist())):
            k = round(time * chain.visits) - 1
            axis, keep = tokens.index(chain.vocab), float(chain.keep[k // chain.length])
            assert axis == k % chain.length
            slot = laws[k][tuple(slice(None) if v == chain.vocab else v for v in tokens)]
            noise = (1 - keep) / chain.vocab * slot.sum().expand(chain.vocab)
            out[row, axis] = (noise / (keep * slot)).log()
        return out

    return NoiseClassifier(network, chain)


def test_chain_has_the_marginals_of_its_visits(table):
    """Closed form against visit-by-visit enumeration, at every time, keep differing by round."""
    chain = GlauberChain(3, 2, 3, [0.9, 0.5, 0.3])
    x = states_of(3, 2)
    for k, law in enumerate(visit_by_visit(chain, table)):
        rows = moved(chain.marginal(x, k / chain.visits), x)
        torch.testing.assert_close((table / table.sum()).flatten() @ rows, law.flatten())
        since = moved(chain.marginal(x, 1.0, since=k / chain.visits), x)
        torch.testing.assert_close(law.flatten() @ since, visit_by_visit(chain, table)[-1].flatten())
    assert [int(chain.positions(t)) for t in chain.times()[:-1]] == [1, 0] * 3


def test_heat_bath_inverts_the_classifier(table):
    """The formula gives P(X_{k,i} = a | X_{k,−i}) already normalised for the classifier of Bayes."""
    keep, conditional = torch.tensor(0.7).double(), (table / table.sum(1, keepdim=True)).double()
    noise = 0.1 / (0.1 + keep * conditional)
    bath = heat_bath(noise.logit(), keep.expand(3))
    torch.testing.assert_close(bath.logits.exp(), conditional)


def test_reverse_chain_is_exact_at_every_visit(table):
    """From the law of X_K, heat baths of the Bayes classifier pass through the law of every X_k to the data."""
    chain = GlauberChain(3, 2, 3, [0.9, 0.5, 0.3])
    classifier, laws, x = bayes(chain, table), visit_by_visit(chain, table), states_of(3, 2)
    p = laws[-1].flatten()
    for k, (t, s) in zip(range(chain.visits - 1, -1, -1), itertools.pairwise(chain.times())):
        p = p @ moved(classifier.reverse(x, t, s, Context()), x)
        torch.testing.assert_close(p, laws[k].flatten())


def test_glauber_samples_follow_the_joint_table(table):
    """From uniform tokens, 3 · 0.3³ away from X_K at most; and an uninformed classifier fails."""
    chain, n = GlauberChain(3, 2, 6, 0.3), 8000
    gap = distance(frequencies(glauber_sample(bayes(chain, table), n, Rng(0)), table.shape), table)
    assert gap < 0.03
    blind = NoiseClassifier(lambda x, t, ctx: torch.zeros(*x.shape, 3), chain)
    assert distance(frequencies(glauber_sample(blind, n, Rng(0)), table.shape), table) > 0.2


def test_chain_is_undone_by_ancestral_steps_too(table):
    """With a posterior of x_0 in place of a classifier, one visit a step: exact on the way down as well."""
    chain = GlauberChain(3, 2, 3, 0.4)
    oracle = ExactTokens(table, chain.tokens)

    def f(x, t, ctx):
        return oracle(x, chain.element_times(t).expand(x.shape), ctx)

    x, p = states_of(3, 2), visit_by_visit(chain, table)[-1].flatten()
    for t, s in itertools.pairwise(chain.times()):
        kernel, _ = Ancestral().kernel(chain, x, f(x, t, Context()), t, s, Context(), None)
        p = p @ moved(kernel, x)
    torch.testing.assert_close(p, (table / table.sum()).flatten())


class Table(torch.nn.Module):
    """Free log-odds for every time, visible token and candidate (two positions)."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain
        self.odds = torch.nn.Parameter(torch.zeros(chain.visits, chain.vocab, chain.vocab, dtype=torch.float64))

    def forward(self, x, t, ctx):
        k = (t.double() * self.chain.visits).round().long() - 1
        seen = torch.where(x[:, 0] == self.chain.vocab, x[:, 1], x[:, 0])
        return self.odds[k, seen][:, None].expand(*x.shape, -1)


def test_the_objective_is_least_at_the_classifier_of_bayes(table):
    """Its gradient there is zero to sampling noise, and is not where the odds are wrong."""
    chain = GlauberChain(3, 2, 2, [0.8, 0.4])
    net = Table(chain)
    exact = bayes(chain, table)
    with torch.no_grad():
        for k in range(chain.visits):
            for v in range(3):
                x = torch.tensor([[3, v] if k % 2 == 0 else [v, 3]])
                net.odds[k, v] = exact.network(x, torch.tensor([(k + 1) / chain.visits]), Context())[0, k % 2]
    n = 200_000
    flat = Categorical((table.flatten() / table.sum()).log().expand(n, -1)).sample(Rng(5))
    batch = Batch(torch.stack([flat // 3, flat % 3], 1))
    grads, values = [], []
    for shift in (0.0, 0.3):
        with torch.no_grad():
            net.odds += shift
        net.odds.grad = None
        value = NoiseClassification(NoiseClassifier(net, chain))(batch, Rng(1)).value
        value.backward()
        values.append(float(value.detach()))
        grads.append(float(net.odds.grad.abs().max()))
    assert grads[0] < 8e-4 < 2e-3 < grads[1], grads
    assert values[0] < values[1]


def test_padding_and_given_positions_are_not_scored(table):
    chain = GlauberChain(3, 2, 2, 0.5)
    x0 = torch.zeros(64, 2, dtype=torch.long)
    batch = Batch(x0, Context(valid=torch.tensor([[True, False]]).expand(64, 2)))
    total, count = NoiseClassification(NoiseClassifier(Table(chain), chain))(batch, Rng(0)).terms["loss"]
    assert 0 < float(count) < 64
    assert float((total / count).detach()) == pytest.approx(math.log(2))


def test_glauber_refusals(table):
    chain = GlauberChain(3, 2, 2, 0.5)
    x = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"chain\.times"):
        sample(bayes(chain, table), x, [1.0, 0.0], HeatBath(), rng=Rng(0))
    with pytest.raises(TypeError, match="NoiseClassifier"):
        sample(ExactTokens(table, Discrete.uniform(3)), x, chain.times(), HeatBath(), rng=Rng(0))
    with pytest.raises(TypeError, match="HeatBath"):
        sample(bayes(chain, table), x, chain.times(), Ancestral(), rng=Rng(0))
    for bad in (1.0, 0.0, [0.5]):
        with pytest.raises(ValueError, match="inside"):
            GlauberChain(3, 2, 2, bad)
    with pytest.raises(ValueError, match="at least 1"):
        GlauberChain(3, 2, 0, 0.5)
