"""Steps of masked diffusion: exact laws on a joint table, counts of evaluations, and no mask left behind."""

import math

import pytest
import torch

from polydiff.core import NFE
from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Categorical, Dirac, Gated
from polydiff.core.oracles import ExactTokens
from polydiff.core.processes import Discrete
from polydiff.core.sampling import Ancestral, Confident, FirstHitting, Lazy, Remask, sample, trajectory
from polydiff.core.schedules import Cosine, LogLinear, RectifiedFlow, VPLinear, uniform_times

N = 40_000
# Remasking shows more tokens in all, so it errs more at as many steps: weak at 64, strong at 512.
STEPS = {
    "first-hitting": (FirstHitting(), [1.0, 0.0]),
    "remask/cap": (Remask(0.01), uniform_times(64)),
    "remask/strong": (Remask(0.2), uniform_times(512)),
    "remask/rescale": (Remask(0.5, "rescale"), uniform_times(512)),
    "lazy": (Lazy(Ancestral()), uniform_times(64)),
    "lazy/remask": (Lazy(Remask(0.01)), uniform_times(64)),
}


def frequencies(x, shape):
    flat = torch.zeros(shape).flatten()
    place = torch.tensor([math.prod(shape[i + 1 :]) for i in range(len(shape))])
    return flat.index_add(0, (x * place).sum(1), torch.ones(len(x))).reshape(shape) / len(x)


def distance(x, table):
    return 0.5 * float((frequencies(x, table.shape) - table / table.sum()).abs().sum())


def start(n, table):
    return torch.full((n, table.ndim), table.shape[0])


@pytest.mark.parametrize("schedule", [LogLinear, Cosine])
@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=[pytest.mark.slow] if len(v[1]) > 100 else []) for k, v in sorted(STEPS.items())]
)
def test_the_exact_joint_law_is_reached(table, name, schedule):
    step, times = STEPS[name]
    process = Discrete.absorbing(table.shape[0], schedule())
    x = sample(ExactTokens(table, process), start(N, table), times, step, rng=Rng(0))
    assert int(x.max()) < table.shape[0], "a masked token was left"
    assert distance(x, table) < 0.012


def test_first_hitting_costs_one_evaluation_a_token(table):
    counted = NFE(ExactTokens(table, Discrete.absorbing(table.shape[0])))
    path = list(trajectory(counted, start(50, table), [1.0, 0.0], FirstHitting(), rng=Rng(0)))
    assert counted.count == len(path) == table.ndim
    for tr in path:
        assert ((tr.x_t != tr.x_s).sum(1) == 1).all()
        assert (tr.s <= tr.t).all()
    two = list(trajectory(counted, start(50, table), [1.0, 0.0], FirstHitting(tokens=2), rng=Rng(0)))
    assert len(two) == math.ceil(table.ndim / 2)


@pytest.mark.parametrize("schedule", [LogLinear, Cosine, VPLinear, RectifiedFlow])
def test_first_hitting_times_follow_the_schedule(schedule):
    """The first of n hidden tokens shows at the largest of n times with P(time ≤ t) = 1 − alpha_t."""
    process = Discrete.absorbing(2, schedule())
    flat = FunctionDenoiser(process, lambda x, t, ctx: Gated(x, x == 2, 1.0, Categorical(torch.zeros(*x.shape, 2))))
    x = torch.full((20_000, 3), 2)
    first = next(iter(trajectory(flat, x, [1.0, 0.0], FirstHitting(), rng=Rng(0))))
    hidden = (1 - process.schedule.at(first.s).a) / (1 - process.schedule.at(1.0).a)  # VP schedules end just short
    for q in (0.25, 0.5, 0.9):
        assert float((hidden <= q).double().mean()) == pytest.approx(q**3, abs=0.012)


def test_inverse_alpha_undoes_alpha():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    for schedule in (LogLinear(), Cosine(), VPLinear(), RectifiedFlow()):
        torch.testing.assert_close(schedule.inverse_alpha(schedule.at(t).a), t)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rule", ["cap", "rescale"])
def test_remasking_keeps_the_marginals(eta, rule):
    """q(x_s | x_0) = Σ q(x_t | x_0) p(x_s | x_t, x_0), exactly, for both states of a token."""
    process, x0 = Discrete.absorbing(3), torch.ones(1, 1, dtype=torch.long)
    for t, s in ((1.0, 0.7), (0.7, 0.4), (0.4, 0.1), (0.1, 0.0)):
        shown = torch.tensor(0.0, dtype=torch.float64)
        for state, weight in ((x0, 1 - t), (torch.full_like(x0, 3), t)):
            kernel, _ = Remask(eta, rule).kernel(process, state, Dirac(x0), t, s, Context(), None)
            shown = shown + weight * kernel.log_prob(x0).exp().sum()
        assert float(shown) == pytest.approx(1 - s, abs=1e-12)


def test_remasking_without_strength_is_ancestral(table):
    process = Discrete.absorbing(table.shape[0])
    x = torch.tensor([[0, table.shape[0], 1][: table.ndim] + [table.shape[0]] * (table.ndim - 3)])
    law = ExactTokens(table, process)(x, 0.6, Context())
    ours, _ = Remask(0.0).kernel(process, x, law, 0.6, 0.3, Context(), None)
    plain, _ = Ancestral().kernel(process, x, law, 0.6, 0.3, Context(), None)
    y = plain.sample(Rng(0))
    torch.testing.assert_close(ours.log_prob(y), plain.log_prob(y))


def test_lazy_evaluates_as_often_as_theory_says():
    """n (1 − (1 − 1/n)^l) evaluations for one sample; the samples are bit-equal to the eager ones."""
    vocab, length, n, runs = 3, 12, 40, 300
    process = Discrete.absorbing(vocab)
    calls = []

    def law(x, t, ctx):
        calls.append(len(x))
        logits = torch.stack([(x == v).sum(1, keepdim=True).expand(x.shape) for v in range(vocab)], -1).double()
        return Gated(x, x == vocab, 1.0, Categorical(logits))

    denoiser, x = FunctionDenoiser(process, law), torch.full((runs, length), vocab)
    lazy = sample(denoiser, x, uniform_times(n), Lazy(Ancestral()), rng=Rng(0, runs))
    rows = sum(calls) / runs
    assert torch.equal(lazy, sample(denoiser, x, uniform_times(n), Ancestral(), rng=Rng(0, runs)))
    # The first state is evaluated once; each of the n − 1 later steps only if the step before showed a token. The last
    # step shows tokens too, but nothing is evaluated after it: the formula counts steps in which something shows.
    moved = n * (1 - (1 - 1 / n) ** length)
    assert rows == pytest.approx(moved + 1 - (1 - (1 - 1 / n) ** length), abs=0.35)


@pytest.mark.parametrize("rule", ["confidence", "entropy", "margin"])
def test_the_surest_tokens_show_first(rule):
    """Three positions, one certain, one likely, one open; and the number shown follows the schedule."""
    process = Discrete.absorbing(2)
    logits = torch.tensor([[0.0, 0.3], [0.0, 40.0], [2.0, 0.0]], dtype=torch.float64)
    law = FunctionDenoiser(process, lambda x, t, ctx: Gated(x, x == 2, 1.0, Categorical(logits.expand(len(x), 3, 2))))
    path = list(trajectory(law, torch.full((4, 3), 2), uniform_times(3), Confident(rule), rng=Rng(0)))
    shown = [(tr.x_s != 2).int().tolist()[0] for tr in path]
    assert shown == [[0, 1, 0], [0, 1, 1], [1, 1, 1]]
    greedy = sample(law, torch.full((4, 3), 2), [1.0, 0.0], Confident(rule, temperature=0.0), rng=Rng(0))
    assert greedy.tolist() == [[1, 1, 0]] * 4


def test_spread_takes_the_surest_of_each_stretch():
    """Eight positions, four to show; the surest two are neighbours, and only one of them is shown at first."""
    process = Discrete.absorbing(2)
    gaps = torch.tensor([5.0, 4.0, 1.0, 2.0, 0.5, 3.0, 1.5, 0.2], dtype=torch.float64)
    logits = torch.stack([torch.zeros(8), gaps], -1)
    law = FunctionDenoiser(process, lambda x, t, ctx: Gated(x, x == 2, 1.0, Categorical(logits.expand(len(x), 8, 2))))
    path = list(trajectory(law, torch.full((3, 8), 2), uniform_times(2), Confident(spread=True), rng=Rng(0)))
    assert (path[0].x_s[0] != 2).tolist() == [True, False, False, True, False, True, True, False]
    assert (path[1].x_s != 2).all()
    plain = next(iter(trajectory(law, torch.full((3, 8), 2), uniform_times(2), Confident(), rng=Rng(0))))
    assert (plain.x_s[0] != 2).tolist() == [True, True, False, True, False, True, False, False]
    many = list(trajectory(law, torch.full((3, 8), 2), uniform_times(20), Confident(spread=True), rng=Rng(0)))
    shown = [int((tr.x_s[0] != 2).sum()) for tr in many]
    assert shown == [8 - round(8 * (1 - (k + 1) / 20)) for k in range(20)]


def test_padding_stays_and_known_tokens_are_kept(table):
    process = Discrete.absorbing(table.shape[0])
    exact = ExactTokens(table, process)
    exact.sees_known = True
    x = start(6, table)
    known = torch.zeros_like(x, dtype=torch.bool)
    known[:, 0] = True
    valid = torch.ones_like(known)
    valid[:, -1] = False
    ctx = Context(known=known, given=torch.zeros_like(x), valid=valid)
    for step, times in ((FirstHitting(), [1.0, 0.0]), (Confident(), uniform_times(4))):
        out = sample(exact, x, times, step, ctx, rng=Rng(0))
        assert (out[:, 0] == 0).all()
        assert (out[:, -1] == table.shape[0]).all()
        assert (out[:, 1:-1] < table.shape[0]).all()


@pytest.mark.parametrize("step", [FirstHitting(), Confident(), Remask()])
def test_masked_steps_refuse_other_processes(table, step):
    process = Discrete.uniform(table.shape[0])
    with pytest.raises(TypeError, match="absorbing"):
        sample(ExactTokens(table, process), torch.zeros(2, table.ndim, dtype=torch.long), [1.0, 0.0], step, rng=Rng(0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FirstHitting(0), "at least 1"),
        (lambda: Confident("luck"), "'margin'"),
        (lambda: Confident(temperature=-1), "negative"),
        (lambda: Remask(1.5), "lie in"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
