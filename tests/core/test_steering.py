"""What repairs parallel sampling of tokens: energies, denoising entropy and critics, against tables and enumeration."""

import itertools
import math

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Categorical, Dirac, Gated
from polydiff.core.oracles import ExactTokens
from polydiff.core.processes import Discrete, Gaussian
from polydiff.core.sampling import Ancestral, Chain, sample, trajectory
from polydiff.core.sampling.confidence import Confident
from polydiff.core.sampling.critic import Corrector, CriticLoss
from polydiff.core.sampling.energy import Reweighted, residual
from polydiff.core.schedules import Cosine, uniform_times
from polydiff.core.steering import BestOfPaths, EntropyWeights, state_entropy
from polydiff.core.training import Batch

MASK = 2
PARITY = torch.tensor(
    [(1.0 + 2 * x[0] + 3 * x[1] * x[3]) * (sum(x) % 2 == 0) for x in itertools.product((0, 1), repeat=4)]
).reshape(2, 2, 2, 2)
PARITY = PARITY.double() / PARITY.sum()
# Three tokens that mostly agree; two ways of disagreeing are a little likelier than the others.
AGREE = torch.tensor([[[30.0, 2], [1, 2]], [[1, 1], [3, 20]]], dtype=torch.float64) / 60


def denoiser(table, process=None):
    """Exact, and uniform where parallel steps have arrived at what the table excludes; told of known entries."""
    exact = ExactTokens(table, process or Discrete.absorbing(table.shape[0]))

    def law(x, t, ctx):
        found = exact(x, min(t, 0.999) if isinstance(t, float) else t.clamp_max(0.999), ctx)
        logits = (found.inner if isinstance(found, Gated) else found).logits
        safe = Categorical(logits.nan_to_num(nan=0.0, neginf=-torch.inf))
        return Gated(x, x == exact.process.mask, 1.0, safe) if isinstance(found, Gated) else safe

    return FunctionDenoiser(exact.process, law, sees_known=True)


def start(n, length):
    return torch.full((n, length), MASK)


def frequencies(x, vocab=2):
    place = vocab ** torch.arange(x.shape[1] - 1, -1, -1)
    return torch.bincount((x * place).sum(1), minlength=vocab ** x.shape[1]).double() / len(x)


def tv(x, table):
    return float(0.5 * (frequencies(x) - table.flatten()).abs().sum())


# ------------------------------------------------------------------ energies


def table_energy(table):
    return residual(lambda x0, ctx: table[tuple(x0.T)].log())


def weighed(table, steps, candidates, n, **window):
    step = Reweighted(Ancestral(), table_energy(table), candidates, **window)
    return sample(denoiser(table), start(n, table.ndim), uniform_times(steps), step, rng=Rng(candidates))


def valid(x):
    return float((x.sum(1) % 2 == 0).double().mean())


def test_one_step_is_valid_unless_all_candidates_fail():
    """Half of the independent strings have the parity: a share of ``1 − 2^−K`` is exact for K candidates."""
    flat = torch.where(PARITY > 0, 1 / 8, 0.0).double()
    n = 20_000
    for k in (1, 2, 4):
        share = valid(weighed(flat, 1, k, n))
        expected = 1 - 0.5**k
        assert share == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / n))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_valid_strings_and_total_variation_improve_with_candidates(steps):
    runs = [weighed(PARITY, steps, k, 12_000) for k in (1, 4, 24)]
    shares, gaps = [valid(x) for x in runs], [tv(x, PARITY) for x in runs]
    assert shares[0] < shares[1] - 0.05 and shares[1] < shares[2] and shares[2] > 0.999
    assert gaps[0] > 2 * gaps[1] > 2 * gaps[2] and gaps[2] < 0.03
    plain = sample(denoiser(PARITY), start(12_000, 4), uniform_times(steps), Ancestral(), rng=Rng(9))
    assert valid(plain) == pytest.approx(shares[0], abs=0.025)  # one candidate is no energy


def test_one_step_has_the_law_of_resampling_among_two():
    """Two candidates, enumerated: ``P(x) = Σ_y mu(x) mu(y) 2 w(x) / (w(x) + w(y))``, w the table over mu."""
    table = AGREE
    marginals = [table.sum([j for j in range(3) if j != i]) for i in range(3)]
    mu = torch.einsum("a,b,c->abc", *marginals).flatten()
    w = table.flatten() / mu
    expected = mu * (mu * 2 * w[:, None] / (w[:, None] + w)).sum(1)
    n = 40_000
    counts = frequencies(weighed(table, 1, 2, n)) * n
    assert float(((counts - n * expected) ** 2 / (n * expected)).sum()) < 30  # chi², seven degrees of freedom
    assert float(((counts - n * table.flatten()) ** 2 / (n * table.flatten())).sum()) > 100


def test_uniform_noise_needs_the_likelihood_of_what_shows():
    process = Discrete.uniform(2)
    exact, n = ExactTokens(AGREE, process), 20_000
    x = process.prior(torch.zeros(n, 3, dtype=torch.long)).sample(Rng(0))

    def log_prob(x0, ctx):
        return AGREE[tuple(x0.T)].log()

    gaps = {}
    for name, ratio in {"with": residual(log_prob, process), "without": residual(log_prob)}.items():
        gaps[name] = tv(sample(exact, x, uniform_times(3), Reweighted(Ancestral(), ratio, 32), rng=Rng(1)), AGREE)
    assert gaps["with"] < 0.02 < 0.05 < gaps["without"]


def test_outside_the_window_the_step_runs_alone():
    calls = []

    exact = denoiser(PARITY)
    bare = FunctionDenoiser(exact.process, lambda x, t, ctx: Categorical(torch.zeros(*x.shape, 2)))

    def ratio(posterior, x0, x_t, t, ctx):
        calls.append(t)
        assert bool(torch.where(x_t == MASK, True, x0 == x_t).all())
        return torch.zeros(len(x0))

    step = Reweighted(Ancestral(), ratio, 3, low=0.4, high=0.8)
    for model in (exact, bare):  # a law that would draw tokens anew where they show is not asked there
        calls.clear()
        run = list(trajectory(model, start(200, 4), uniform_times(4), step, rng=Rng(0)))
        assert calls == [0.75] * 3 + [0.5] * 3
        assert [tr.kernel is None for tr in run] == [False, True, True, False]


def test_times_of_samples_are_windowed_one_by_one():
    """The first half of the rows at t = 1 (inside), the rest at 0.25: only the first are weighed."""
    n = 8_000
    t = torch.where(torch.arange(n) < n // 2, 1.0, 0.25)
    step = Reweighted(Ancestral(), table_energy(PARITY), 16, low=0.5)
    x = sample(denoiser(PARITY), start(n, 4), torch.stack([t, torch.zeros(n)]), step, rng=Rng(0))
    assert valid(x[: n // 2]) > 0.99
    assert valid(x[n // 2 :]) == pytest.approx(0.5, abs=0.05)


def test_energy_keeps_given_entries():
    given = torch.tensor([[1, 0, 0, 0]]).expand(4000, 4)
    known = torch.tensor([True, False, False, False]).expand(4000, 4)
    step = Reweighted(Ancestral(), table_energy(PARITY), 24)
    ctx = Context(known=known, given=given)
    x = sample(denoiser(PARITY), start(4000, 4), [1.0, 0.0], step, ctx, rng=Rng(0))
    assert bool((x[:, 0] == 1).all())
    assert tv(x[:, 1:], PARITY[1] / PARITY[1].sum()) < 0.04

    def ratio(posterior, x0, x_t, t, ctx):
        assert bool((x0[:, 0] == 1).all())  # though this run does not hold them
        return torch.zeros(len(x0))

    Reweighted(Ancestral(), ratio)(denoiser(PARITY), start(4000, 4), 1.0, 0.5, ctx, None, Rng(0))


def test_energy_refusals():
    ratio = table_energy(PARITY)
    with pytest.raises(ValueError, match="candidates=0"):
        Reweighted(Ancestral(), ratio, 0)
    with pytest.raises(ValueError, match="low=0.9, high=0.1"):
        Reweighted(Ancestral(), ratio, low=0.9, high=0.1)
    step, x = Reweighted(Ancestral(), ratio), start(2, 4)
    with pytest.raises(ValueError, match="pass an Rng"):
        sample(denoiser(PARITY), x, [1.0, 0.0], step)
    with pytest.raises(TypeError, match="one time a sample"):
        sample(denoiser(PARITY), x, torch.stack([torch.ones(2, 4), torch.zeros(2, 4)]), step, rng=Rng(0))
    real = FunctionDenoiser(Gaussian(Cosine()), lambda x, t, ctx: Dirac(x))
    with pytest.raises(TypeError, match="discrete process, not Gaussian"):
        sample(real, torch.zeros(2, 4), [1.0, 0.0], step, rng=Rng(0))


# ------------------------------------------------------------------ denoising entropy


def two_steps(table):
    """All paths mask → x_t → x_0 over the grid (1, ½, 0): (x_t, x_0, probability, state entropy of x_t)."""
    model, length = denoiser(table), table.ndim
    states = torch.tensor(list(itertools.product(range(3), repeat=length)))
    first, later = (model(x, t, Context()).inner.probs for x, t in ((start(1, length), 1.0), (states, 0.5)))
    out = []
    for x_t, law in zip(states.tolist(), later):
        hidden = [i for i in range(length) if x_t[i] == MASK]
        chance = 0.5**length * math.prod(float(first[0, i, x_t[i]]) for i in range(length) if x_t[i] != MASK)
        entropy = [-sum(float(p) * math.log(p) for p in law[i] if p > 0) for i in hidden]
        for fill in itertools.product((0, 1), repeat=len(hidden)):
            x = list(x_t)
            for i, v in zip(hidden, fill):
                x[i] = v
            p = chance * math.prod(float(law[i, v]) for i, v in zip(hidden, fill))
            out.append((x, p, sum(entropy) / len(hidden) if hidden else 0.0))
    assert sum(p for _, p, _ in out) == pytest.approx(1)
    return out


def law_of(paths, weight):
    total = torch.zeros(2, 2, 2, dtype=torch.float64)
    for x, p, h in paths:
        total[tuple(x)] += p * weight(h)
    return (total / total.sum()).flatten()


GRID = [1.0, 0.5, 0.0]


def test_state_entropy_counts_masked_positions_only():
    process = Discrete.absorbing(2)
    p = torch.tensor([[0.5, 0.5], [0.1, 0.9], [1.0, 0.0], [0.3, 0.7]], dtype=torch.float64)
    h = -torch.where(p > 0, p * p.log(), 0.0).sum(1)
    x = torch.tensor([[2, 2, 2, 0], [2, 0, 1, 0], [0, 0, 1, 1], [2, 2, 0, 2]])
    got = state_entropy(Categorical(p.log().expand(4, 4, 2)), x, process)
    expected = torch.stack([h[:3].mean(), h[0], torch.zeros(()), (h[0] + h[1] + h[3]) / 3])
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0, check_dtype=False)
    valid, known = torch.ones(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    valid[:, 3], known[:, 0] = False, True
    got = state_entropy(Categorical(p.log().expand(4, 4, 2)), x, process, Context(valid=valid, known=known, given=x))
    torch.testing.assert_close(got, torch.stack([h[1:3].mean(), *torch.zeros(2), h[1]]).double(), check_dtype=False)
    with pytest.raises(TypeError, match="absorbing"):
        state_entropy(Categorical(p.log()), x, Discrete.uniform(2))


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("beta", [4.0, -2.0])
def test_particles_follow_the_tilted_path_law(every, beta):
    """``p(path) exp(−beta H)``, enumerated; whatever the steps between resamplings."""
    n, model = 60_000, denoiser(AGREE)
    control = EntropyWeights(model.process, Rng(5), beta, every)
    x = sample(model, start(n, 3), GRID, Ancestral(), controls=[control], rng=Rng(0))
    paths = two_steps(AGREE)
    assert float(0.5 * (frequencies(x) - law_of(paths, lambda h: math.exp(-beta * h))).abs().sum()) < 0.008
    assert float(0.5 * (frequencies(x) - law_of(paths, lambda h: 1.0)).abs().sum()) > 0.03


def test_changes_add_up():
    model, grid = denoiser(AGREE), [1.0, 0.7, 0.4, 0.2]
    control = EntropyWeights(model.process, Rng(5), 3.0, every=9)
    run = list(trajectory(model, start(50, 3), grid, Ancestral(), controls=[control], rng=Rng(0)))
    first, last = (state_entropy(tr.posterior, tr.x_t, model.process) for tr in (run[0], run[-1]))
    torch.testing.assert_close(run[-1].log_w, -3.0 * (last - first))
    assert float(run[-1].log_w.std()) > 0.1


def test_particles_stay_in_their_group():
    """Rows of one group share a given first token; none may cross, and each row keeps its context."""
    n, k = 400, 4
    first = (torch.arange(n) // k % 2)[:, None]
    given = torch.cat([first, torch.zeros(n, 2, dtype=torch.long)], 1)
    ctx = Context(known=torch.tensor([True, False, False]).expand(n, 3), given=given, cond={"row": torch.arange(n)})
    model = denoiser(AGREE)
    control = EntropyWeights(model.process, Rng(1), 3.0, 2, particles=k)
    run = list(trajectory(model, start(n, 3), uniform_times(5), Ancestral(), ctx, controls=[control], rng=Rng(0)))
    assert torch.equal(run[-1].x_s[:, :1], first)
    assert [tr.ancestor is not None for tr in run] == [False, True, False, True, True]  # every second, and at the end
    assert all(tr.log_w is None and tr.kernel is None for tr in run if tr.ancestor is not None)
    rows = torch.arange(n)
    for tr in run:
        if tr.ancestor is not None:
            assert torch.equal(tr.ancestor // k, torch.arange(n) // k)
            assert not torch.equal(tr.ancestor, torch.arange(n))
            rows = rows[tr.ancestor]
        assert torch.equal(tr.ctx.cond["row"], rows)
    assert torch.equal(
        run[1].carry["entropy"], state_entropy(run[1].posterior, run[1].x_t, model.process, run[0].ctx)[run[1].ancestor]
    )


def test_weights_of_others_are_kept():
    """A control that favours ones adds to the same weights."""
    model, n = denoiser(AGREE), 40_000

    def favour(tr):
        w = torch.where(tr.x_s == 1, 0.7, 0.0).sum(1).double() if tr.s == 0.0 else torch.zeros(n).double()
        tr.log_w = w if tr.log_w is None else tr.log_w + w
        return tr

    control = EntropyWeights(model.process, Rng(5), 2.0, 10)
    x = sample(model, start(n, 3), GRID, Ancestral(), controls=[favour, control], rng=Rng(0))
    tilted = law_of(two_steps(AGREE), lambda h: math.exp(-2 * h))
    ones = torch.tensor([sum(x) for x in itertools.product((0, 1), repeat=3)])
    expected = tilted * (0.7 * ones).exp()
    assert float(0.5 * (frequencies(x) - expected / expected.sum()).abs().sum()) < 0.01


def test_best_of_paths_has_the_law_of_the_smallest_entropy():
    """Among n paths the one of entropy h wins with probability ``(P(H ≥ h)^n − P(H > h)^n) / P(H = h)``."""
    paths, n, count = two_steps(AGREE), 3, 40_000
    model = denoiser(AGREE)

    def weight(h):
        above = [sum(p for _, p, g in paths if g > h + e) for e in (-1e-9, 1e-9)]
        return (above[0] ** n - above[1] ** n) / (above[0] - above[1])

    sampler = BestOfPaths(Chain(GRID, Ancestral()), n)
    x = sampler(model, start(count, 3), Context(), Rng(0))
    assert float(0.5 * (frequencies(x) - law_of(paths, weight)).abs().sum()) < 0.01
    assert float(0.5 * (frequencies(x) - law_of(paths, lambda h: 1.0)).abs().sum()) > 0.03


def test_best_of_paths_agrees_more_and_does_not_depend_on_the_batch():
    """Two tokens at once, then the third: where the two disagree, nothing is known of the third."""
    model, chain = denoiser(AGREE), Chain([1.0, 1 / 3, 0.0], Confident())
    one, eight = (BestOfPaths(chain, n)(model, start(3000, 3), Context(), Rng(0, 3000)) for n in (1, 8))
    agree = [float((x == x[:, :1]).all(1).double().mean()) for x in (one, eight)]
    assert agree[1] > agree[0] + 0.2
    alone = BestOfPaths(chain, 8)(model, start(3, 3), Context(), Rng(0, [5, 17, 40]))
    assert torch.equal(alone, eight[[5, 17, 40]])


def test_best_of_paths_ends_with_the_given_entries():
    class Inside:
        """Takes the known entries on itself, and leaves them to the end."""

        handles_known = True

        def __call__(self, tr):
            return tr

    model, given = denoiser(AGREE), torch.tensor([[1, 0, 0]]).expand(64, 3)
    model.sees_known = False
    ctx = Context(known=torch.tensor([True, False, False]).expand(64, 3), given=given)
    x = BestOfPaths(Chain(GRID, Ancestral(), [Inside()]), 2)(model, start(64, 3), ctx, Rng(0))
    assert bool((x[:, 0] == 1).all())


def test_best_of_paths_reports_the_mean_state_entropy():
    model, grid = denoiser(AGREE), uniform_times(4)
    x, entropy = BestOfPaths(Chain(grid, Ancestral()), 1).path(model, start(9, 3), Context(), Rng(3))
    run = list(trajectory(model, start(9, 3), grid, Ancestral(), rng=Rng(3)))
    torch.testing.assert_close(
        entropy, torch.stack([state_entropy(tr.posterior, tr.x_t, model.process) for tr in run]).mean(0)
    )
    assert torch.equal(x, run[-1].x_s)


def test_entropy_refusals():
    model, x = denoiser(AGREE), start(6, 3)
    with pytest.raises(ValueError, match="every=0"):
        EntropyWeights(model.process, Rng(0), every=0)
    with pytest.raises(ValueError, match="particles=0"):
        EntropyWeights(model.process, Rng(0), particles=0)
    with pytest.raises(ValueError, match="n=0"):
        BestOfPaths(Chain(GRID, Ancestral()), 0)
    control = EntropyWeights(model.process, Rng(0), particles=4)
    with pytest.raises(ValueError, match="divide the 6 rows"):
        sample(model, x, GRID, Ancestral(), controls=[control], rng=Rng(0))
    once = EntropyWeights(model.process, Rng(0))
    with pytest.raises(ValueError, match="another control has resampled"):
        sample(model, x, GRID, Ancestral(), controls=[once, once], rng=Rng(0))
    with pytest.raises(TypeError, match="equal times"):
        sample(model, x, torch.stack([torch.ones(6), torch.zeros(6)]), Ancestral(), controls=[once], rng=Rng(0))
    rare = EntropyWeights(model.process, Rng(0), every=9)
    with pytest.raises(ValueError, match="exclude each other"):
        BestOfPaths(Chain(GRID, Ancestral(), [rare]), 2)(model, x, Context(), Rng(0))


# ------------------------------------------------------------------ critics


def leave_one_out(table):
    """``P(x_i | the other tokens that show)``: an exact critic from the table."""
    model = denoiser(table)

    def critic(x, t, ctx):
        out = []
        for i in range(x.shape[1]):
            hidden = x.clone()
            hidden[:, i] = MASK
            law = model(hidden, 0.5, ctx).inner.probs[:, i]
            out.append(law.gather(1, x[:, i : i + 1].clamp_max(1))[:, 0])
        return torch.stack(out, 1)

    return critic


def corrected(table, controls, grid, n=40_000):
    return tv(sample(denoiser(table), start(n, table.ndim), grid, Ancestral(), controls=controls, rng=Rng(0)), table)


@pytest.mark.parametrize("rule", [{"threshold": 0.2}, {"lowest": 1}], ids=["threshold", "lowest"])
def test_an_exact_critic_repairs_parallel_errors(rule):
    process, rng = Discrete.absorbing(2), Rng(4)
    exact = Corrector(process, leave_one_out(AGREE), (0.3,), **rule)
    random = Corrector(process, lambda x, t, ctx: rng.uniform(x), (0.3,), **rule)
    grid = [1.0, 0.3, 0.0]
    none, ours, chance = (corrected(AGREE, c, grid) for c in ([], [exact], [random]))
    assert ours < 0.75 * none and ours < 0.8 * chance, (none, ours, chance)


def test_corrector_acts_once_where_the_grid_passes_its_times():
    process, seen = Discrete.absorbing(2), []

    def critic(x, t, ctx):
        seen.append(t.tolist())
        return torch.zeros(x.shape)

    for grid in (uniform_times(4), [1.0, 0.6, 0.45, 0.2, 0.0]):
        seen.clear()
        control = Corrector(process, critic, (0.5,), threshold=0.5)
        run = list(trajectory(denoiser(AGREE), start(200, 3), grid, Ancestral(), controls=[control], rng=Rng(0)))
        at = 0.5 if 0.5 in grid else 0.45
        assert seen == [pytest.approx([at] * 200)]
        for tr in run:
            assert (tr.kernel is None) == (tr.s == at)
            assert tr.s != at or bool((tr.x_s == MASK).all())  # no token was trusted
        assert bool((run[-1].x_s != MASK).all())


def test_corrector_masks_the_lowest_of_what_shows():
    x = torch.tensor([[0, 1, 1, 0], [MASK, 1, MASK, 0], [MASK, MASK, MASK, 1]])
    scores = torch.tensor([0.4, 0.1, 0.3, 0.2]).expand(3, 4)
    model = denoiser(PARITY)
    (tr,) = trajectory(model, x, [0.5, 0.4], Ancestral(), rng=Rng(0))

    def after(**rule):
        tr.x_s = x
        return Corrector(model.process, lambda *_: scores, (0.4,), **rule)(tr).x_s.tolist()

    assert after(lowest=1) == [[0, 2, 1, 0], [2, 2, 2, 0], [2, 2, 2, 2]]
    assert after(lowest=2) == [[0, 2, 1, 2], [2, 2, 2, 2], [2, 2, 2, 2]]
    assert after(threshold=0.25) == [[0, 2, 1, 2], [2, 2, 2, 2], [2, 2, 2, 2]]
    assert after(threshold=0.1) == x.tolist()
    tr.ctx = Context(
        known=torch.tensor([False, True, False, False]).expand(3, 4),
        given=x,
        valid=torch.tensor([True, True, True, False]).expand(3, 4),
    )
    assert after(lowest=1) == [[0, 1, 2, 0], [2, 1, 2, 0], [2, 2, 2, 1]]
    assert after(lowest=4) == [[2, 1, 2, 0], [2, 1, 2, 0], [2, 2, 2, 1]]
    assert after(threshold=0.9) == [[2, 1, 2, 0], [2, 1, 2, 0], [2, 2, 2, 1]]


class Lookup(torch.nn.Module):
    """A critic with one number for each state and position."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(9, 2, dtype=torch.float64))

    def forward(self, x, t, ctx):
        assert t.shape == x.shape[:1]
        return self.logits[x[:, 0] * 3 + x[:, 1]].sigmoid()


def test_trained_critic_is_the_probability_that_a_token_is_right():
    """Against ``P(x_s = x_0 | x_s)``, summed over x_0, x_t and a fine grid of t and s = u t."""
    table = torch.tensor([[0.5, 0.1], [0.05, 0.35]], dtype=torch.float64)
    model, critic, n = denoiser(table), Lookup(), 60_000
    pairs = list(itertools.product((0, 1), repeat=2))
    x0 = torch.tensor(pairs).repeat_interleave((table.flatten() * n).round().long(), 0)
    x0 = x0[torch.randperm(len(x0), generator=torch.Generator().manual_seed(0))]  # times are stratified over the rows
    objective = CriticLoss(critic, model)
    optimiser = torch.optim.Adam(critic.parameters(), 0.2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = objective(Batch(x0), Rng(0))  # the same draws: the minimum is their frequency
        loss.value.backward()
        optimiser.step()

    u = (torch.arange(50, dtype=torch.float64) + 0.5) / 50
    t, rest = u[:, None], u[None]
    shown, added, left = 1 - t + 0 * rest, t * (1 - rest), t * rest
    right, total = torch.zeros(9, 2, dtype=torch.float64), torch.zeros(9, 1, dtype=torch.float64)
    for true, fate in itertools.product(pairs, itertools.product(range(3), repeat=2)):
        weight = math.prod((shown, added, left)[f] for f in fate).mean() * table[true]
        x_t = torch.tensor([[true[i] if fate[i] == 0 else MASK for i in range(2)]])
        law = model(x_t, 0.5, Context()).inner.probs[0]
        for drawn in pairs:
            if any(drawn[i] and fate[i] != 1 for i in range(2)):
                continue
            x = [(true[i], drawn[i], MASK)[fate[i]] for i in range(2)]
            p = weight * math.prod(float(law[i, drawn[i]]) for i in range(2) if fate[i] == 1)
            row = x[0] * 3 + x[1]
            total[row] += p
            right[row] += p * torch.tensor([x[i] == true[i] for i in range(2)])
    assert float(total.sum()) == pytest.approx(1)
    expected, rows = right / total, torch.tensor(list(itertools.product(range(3), repeat=2)))
    shows = rows != MASK
    found = critic.logits.detach().sigmoid()
    torch.testing.assert_close(found[shows], expected[shows], rtol=0, atol=0.02)
    assert float(expected[shows].min()) < 0.7 < 0.9 < float(expected[shows].max())
    assert torch.equal(found[~shows], torch.full((int((~shows).sum()),), 0.5, dtype=torch.float64))  # never scored


def test_critic_loss_leaves_given_entries_and_padding_out_and_the_denoiser_alone():
    x0 = torch.tensor([[0, 1, 0, 1]]).expand(64, 4)
    known, valid = (torch.tensor(m).expand(64, 4) for m in ([True, False, False, False], [True, True, True, False]))
    seen, weight = [], torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    class Trust(torch.nn.Module):
        def forward(self, x, t, ctx):
            seen.append(x)
            return torch.tensor([0.9, 0.6, 0.6, 0.9]).expand(x.shape)

    def law(x, t, ctx):
        assert bool((x[:, 0] == 0).all())
        assert not torch.is_grad_enabled()
        return Gated(x, x == MASK, 1.0, Categorical(torch.stack([weight, -weight]).expand(*x.shape, 2)))

    model = FunctionDenoiser(Discrete.absorbing(2), law, sees_known=True)
    loss = CriticLoss(Trust(), model)(Batch(x0, Context(known=known, given=x0, valid=valid)), Rng(0))
    (x,), (total, count) = seen, loss.terms["loss"]
    assert bool((x[:, 0] == 0).all())
    shows = (x != MASK)[:, 1:3]
    assert float(count) == int(shows.sum()) > 0
    nats = torch.where(x == x0, -math.log(0.6), -math.log(0.4))[:, 1:3]
    assert float(total) == pytest.approx(float(nats[shows].sum()), rel=1e-5)
    assert bool((x != x0)[:, 1:3][shows].any())  # errors to learn from
    assert not loss.value.requires_grad


def test_critic_refusals():
    process, critic = Discrete.absorbing(2), leave_one_out(AGREE)
    for rule in ({}, {"threshold": 0.5, "lowest": 1}):
        with pytest.raises(ValueError, match="give one of the two"):
            Corrector(process, critic, (0.5,), **rule)
    with pytest.raises(ValueError, match="lowest=0"):
        Corrector(process, critic, (0.5,), lowest=0)
    for u in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Corrector(process, critic, (0.5, u), lowest=1)
    late = Corrector(process, critic, (0.1,), lowest=1)
    with pytest.raises(ValueError, match=r"last step passes the time 0\.1"):
        sample(denoiser(AGREE), start(2, 3), GRID, Ancestral(), controls=[late], rng=Rng(0))
    times = torch.stack([torch.ones(2), torch.zeros(2)])
    with pytest.raises(TypeError, match="grid of floats"):
        sample(denoiser(AGREE), start(2, 3), times, Ancestral(), controls=[late], rng=Rng(0))
    uniform = Corrector(Discrete.uniform(2), critic, (0.5,), lowest=1)
    with pytest.raises(TypeError, match="absorbing"):
        sample(denoiser(AGREE), start(2, 3), GRID, Ancestral(), controls=[uniform], rng=Rng(0))
    with pytest.raises(TypeError, match="absorbing"):
        CriticLoss(Lookup(), denoiser(AGREE, Discrete.uniform(2)))
