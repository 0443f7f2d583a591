"""Schedules of their own for columns: exact laws, exact bounds by enumeration, and the gradient that trains them."""

import itertools
import math

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import (
    EpsPrediction,
    FieldPreconditioners,
    FunctionDenoiser,
    Karras,
    Model,
    TokenLogits,
    VelocityPrediction,
    VPrediction,
)
from polydiff.core.distributions import Dirac, Joint
from polydiff.core.evaluation import nelbo
from polydiff.core.oracles import ExactTokens
from polydiff.core.processes import Discrete, Flow, Gaussian, Product
from polydiff.core.sampling import Ancestral, Confident, DPMSolverPP, FirstHitting, PerField, Planned, sample
from polydiff.core.schedules import EDM, Clock, Clocked, Cosine, LogLinear, RectifiedFlow, uniform_times
from polydiff.core.training import Batch, ClockBound, Denoising, LearnedClocks, VWeight

F64 = torch.float64
# Three bits: the second is mostly the first, the third the exclusive or of both, mostly.
TABLE = torch.tensor([[[0.30, 0.08], [0.01, 0.09]], [[0.02, 0.10], [0.34, 0.06]]], dtype=F64)


def clock(*powers, trainable=False, low=0.0):
    return Clock(powers, trainable=trainable, low=low).double()


def clocked(base, *powers, trainable=False):
    return Clocked(base, clock(*powers, trainable=trainable))


# ------------------------------------------------------------------ coefficients


@pytest.mark.parametrize("low", [0.0, 1e-3])
def test_a_clock_runs_from_zero_to_one_and_knows_its_slope(low):
    own = clock(0.4, 1.0, 3.0, low=low)
    ends, _ = own(torch.tensor([0.0, 1.0], dtype=F64))
    assert torch.allclose(ends, torch.tensor([[0.0] * 3, [1.0] * 3], dtype=F64), atol=1e-6)
    t = torch.linspace(0.05, 0.95, 19, dtype=F64)
    (u, slope), (after, _), (before, _) = own(t), own(t + 1e-6), own(t - 1e-6)
    assert torch.allclose(slope, (after - before) / 2e-6, rtol=1e-6)
    assert bool((u.diff(dim=0) > 0).all())
    assert torch.allclose(u[:, 1], t)  # power 1 is the shared time
    assert torch.equal(own(t[:, None].expand(-1, 3))[0], u)  # times an element


def test_the_schedules_of_tabdiff_are_clocks():
    """Its power mean of sigma for numbers, and ``1 − t^k`` for categories."""
    rho, low, high = 7.0, 0.002, 80.0
    t = torch.linspace(0.1, 1, 10, dtype=F64)
    wanted = (low ** (1 / rho) + t * (high ** (1 / rho) - low ** (1 / rho))) ** rho
    u, _ = clock(rho, low=low / high)(t)
    sigma = low + (high - low) * u[:, 0]  # EDM: sigma is linear in time
    assert torch.allclose(sigma, wanted, rtol=1e-6)
    alpha = clocked(LogLinear(), 2.5).at(t).a[:, 0]
    assert torch.allclose(alpha, 1 - t**2.5, atol=1e-6)


def test_every_column_follows_the_base_at_its_own_time():
    base, path = Cosine(), clocked(Cosine(), 0.5, 1.0, 2.0)
    t = torch.tensor([0.2, 0.7], dtype=F64)
    c = path.at(t)
    for j, w in enumerate((0.5, 1.0, 2.0)):
        column = base.at(t ** path.clock.powers[j])
        assert torch.allclose(c.a[:, j], column.a) and torch.allclose(c.g[:, j], column.g), w
    later, earlier = path.at(t + 1e-6), path.at(t - 1e-6)
    assert torch.allclose(c.da, (later.a - earlier.a) / 2e-6, rtol=1e-6)
    assert torch.allclose(c.dg, (later.g - earlier.g) / 2e-6, rtol=1e-6)
    shared = path.at(0.7)
    assert shared.a.shape == (1, 3) and torch.allclose(shared.a, c.a[1:]) and torch.allclose(shared.dg, c.dg[1:])
    assert path.at(0.7) is shared  # remembered while fixed
    learned = clocked(Cosine(), 0.5, 1.0, 2.0, trainable=True)
    assert learned.at(0.7).a.requires_grad and learned.at(0.7) is not learned.at(0.7)


def test_a_clock_that_moved_to_another_dtype_forgets_what_it_remembered():
    path = Clocked(Cosine(), Clock([1.0, 2.0]))
    assert path.at(0.5).a.dtype == torch.float32
    assert path.double().at(0.5).a.dtype == F64


# ------------------------------------------------------------------ networks


@pytest.mark.parametrize("make", [EpsPrediction, VPrediction, VelocityPrediction, Karras])
@pytest.mark.parametrize("time", [0.3, torch.tensor([0.3, 0.3], dtype=F64)])
def test_preconditioners_read_the_clocks_and_the_network_is_told_the_shared_time(make, time):
    path, pre = clocked(RectifiedFlow(), 0.5, 2.0), make()
    process = Flow(path)
    x0, z = torch.randn(2, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(0)).unbind()
    c = path.at(torch.full((2,), 0.3, dtype=F64))
    x_t = c.a * x0 + c.g * z
    inputs, level = pre.inputs(process, x_t, time, Context())
    assert inputs.shape == x_t.shape
    assert level.shape == (2,) and torch.allclose(level, pre.inputs(Flow(), x_t, time, Context())[1])
    power = (c.a**2 + c.g**2).sqrt()
    u = x_t * power**-1 if make is not Karras else None
    raw = {
        EpsPrediction: z,
        VPrediction: (c.a * z - c.g * x0) / power,
        VelocityPrediction: z - x0,  # in an element's own time, whatever its pace
        Karras: (x0 - c.a * x_t / power**2) * power / c.g,
    }[make]
    assert u is None or torch.allclose(inputs, u)
    assert torch.allclose(pre.posterior(process, raw, x_t, time, Context()).mean, x0, atol=1e-5)


# ------------------------------------------------------------------ exact laws


def exact(mixture, process):
    return FunctionDenoiser(
        process, lambda x, t, ctx: mixture.posterior(process, x, torch.full(x.shape[:1], t, dtype=x.dtype), ctx)
    )


@pytest.mark.parametrize("process", [Gaussian(clocked(Cosine(), 0.5, 2.5)), Flow(clocked(RectifiedFlow(), 3.0, 0.7))])
def test_gaussian_columns_with_clocks_sample_the_exact_law(mixture, process):
    """Ancestral sampling with the whole posterior is exact at any number of steps; the solver converges to it."""
    n = 8000
    truth = mixture.sample(n, Rng(1))
    for step, steps in ((Ancestral(), 3), (DPMSolverPP(2), 100)):
        noise = process.prior(truth).sample(Rng(2))
        x = sample(exact(mixture, process), noise, uniform_times(steps), step, rng=Rng(3))
        assert float((x.mean(0) - mixture.mean).abs().max()) < 0.04, step
        assert float((x.var(0) - mixture.variance).abs().max()) < 0.04, step
        for direction in torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7], [0.7, -0.7]], dtype=F64):
            gap = (x @ direction).sort().values - (truth @ direction).sort().values
            assert float(gap.abs().mean()) < 0.05, step


def states(process, length):
    return torch.tensor(list(itertools.product(range(process.states), repeat=length)))


def sampler_law(denoiser, times, length):
    """The law of the last state of ancestral sampling, by enumeration: ``{state: probability}`` as a tensor."""
    process = denoiser.process
    all_ = states(process, length)
    p = process.prior(all_).log_prob(all_).exp()
    for t, s in itertools.pairwise(times):
        out = torch.zeros_like(p)
        for i in p.nonzero()[:, 0].tolist():
            here = all_[i : i + 1].expand(len(all_), -1)
            out += p[i] * process.transition(here, denoiser(here, t, Context()), t, s, Context()).log_prob(all_).exp()
        p = out
    return p, all_


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_tokens_with_clocks_sample_the_exact_law(kind):
    path = clocked(LogLinear(), 0.5, 1.0, 3.0)
    process = Discrete.absorbing(2, path) if kind == "absorbing" else Discrete.uniform(2, path)
    denoiser = ExactTokens(TABLE, process)
    p, all_ = sampler_law(denoiser, uniform_times(100), 3)
    inside = (all_ < 2).all(1)
    assert float(p.sum()) == pytest.approx(1)
    assert 0.5 * float((p[inside] - TABLE.flatten()).abs().sum() + p[~inside].sum()) < 0.01


def test_sampled_tokens_follow_the_enumerated_law():
    denoiser = ExactTokens(TABLE, Discrete.absorbing(2, clocked(LogLinear(), 0.5, 1.0, 3.0)))
    p, all_ = sampler_law(denoiser, uniform_times(4), 3)
    n = 40_000
    x = sample(denoiser, torch.full((n, 3), 2), uniform_times(4), Ancestral(), rng=Rng(0))
    share = torch.stack([(x == s).all(1).double().mean() for s in all_])
    assert 0.5 * float((share - p).abs().sum()) < 0.01


# ------------------------------------------------------------------ bounds


def entropy():
    return -float((TABLE * TABLE.log()).sum())


def enumerated_bound(process, steps):
    """``E_{x_0} NELBO`` of ``steps`` ancestral steps with the exact posterior, differentiable in the clock."""
    denoiser, times, total = ExactTokens(TABLE, process), uniform_times(steps), 0.0
    all_, data = states(process, 3), states(Discrete.uniform(2), 3)
    for t, s in itertools.pairwise(times):
        law = denoiser(all_, t, Context())
        model = process.transition(all_, law, t, s, Context())
        for x0, p in zip(data, TABLE.flatten()):
            start = x0.expand(len(all_), -1)
            weight = process.marginal(start, t).log_prob(all_).exp()
            reached = weight.detach() > 0
            kl = process.transition(all_, Dirac(start), t, s, Context()).kl(model)
            total = total + p * (weight[reached] * kl[reached]).sum()
    return total


@pytest.mark.parametrize("powers", [(1.0, 1.0, 1.0), (0.3, 1.0, 4.0), (5.0, 0.5, 0.5)])
@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_the_bound_is_never_under_the_entropy_and_reaches_it(kind, powers):
    make = Discrete.absorbing if kind == "absorbing" else Discrete.uniform
    process = make(2, clocked(LogLinear(), *powers))
    few, many = (float(enumerated_bound(process, k)) for k in (2, 64))
    assert entropy() - 1e-9 < many < few
    assert many < entropy() + 0.025


@pytest.mark.parametrize("powers", [(1.0, 1.0, 1.0), (0.6, 1.0, 3.0)])
def test_the_integrated_bound_is_the_entropy_whatever_the_clocks(powers):
    """What tells clocks apart is lost between steps or in the model, never in continuous time under the exact posterior."""
    process = Discrete.absorbing(2, clocked(LogLinear(), *powers))
    denoiser, data, all_ = ExactTokens(TABLE, process), states(Discrete.uniform(2), 3), states(process, 3)
    nodes = torch.linspace(0, 1, 401, dtype=F64)
    total = 0.0
    for v in ((nodes[1:] + nodes[:-1]) / 2).tolist():
        t = v * v  # powers under 1 make the integrand singular at 0
        law = denoiser(all_, t, Context())
        for x0, p in zip(data, TABLE.flatten()):
            start = x0.expand(len(all_), -1)
            weight = process.marginal(start, t).log_prob(all_).exp()
            reached = weight > 0
            g = process.bound(law, start, all_, t, Context()).sum(1)
            total += 2 * v * float(p * (weight[reached] * g[reached]).sum()) / 400
    assert total == pytest.approx(entropy(), abs=2e-3)


def test_the_gaussian_bound_with_the_exact_denoiser_is_the_entropy_whatever_the_clocks(mixture):
    n = 1500
    x0 = mixture.sample(n, Rng(4))
    floor = -mixture.log_prob(x0)
    for powers in ((1.0, 1.0), (0.5, 2.0)):
        process = Gaussian(clocked(Cosine(), *powers))
        gap = nelbo(exact(mixture, process), x0, uniform_times(40), rng=Rng(5)) - floor
        assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(n) + 1e-3


# ------------------------------------------------------------------ learning


def draws(n, seed):
    u = Rng(seed).uniform(torch.empty(n))
    cells = torch.searchsorted(TABLE.flatten().cumsum(0), u).clamp_max(7)
    return torch.stack([cells // 4, cells // 2 % 2, cells % 2], 1)


def oracle(process):
    """What shows says all under masks, whatever the clocks; logarithms of 0 there have no gradient."""
    exact = ExactTokens(TABLE, process)
    if process.mask is None:
        return exact
    still = ExactTokens(TABLE, Discrete.absorbing(2))
    return FunctionDenoiser(process, lambda x, t, ctx: still(x, torch.full((), 0.5), ctx))


def gradients(process, steps, repeats):
    denoising = Denoising(oracle(process), weight="bound")
    objective = ClockBound(denoising, steps=steps)
    found = []
    for k in range(repeats):
        loss = objective(Batch(draws(4000, 10 + k)), Rng(k)).value
        found.append(torch.autograd.grad(loss, process.schedule.clock.log_powers)[0])
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_the_gradient_of_the_clocks_is_that_of_the_enumerated_bound(kind):
    make = Discrete.absorbing if kind == "absorbing" else Discrete.uniform
    powers, steps = torch.tensor([1.4, 0.8, 1.1], dtype=F64), 3
    found = gradients(make(2, clocked(LogLinear(), *powers.tolist(), trainable=True)), steps, 24)
    differences = []
    for j in range(3):
        ends = []
        for sign in (1, -1):
            moved = powers.log()
            moved[j] += sign * 1e-4
            ends.append(float(enumerated_bound(make(2, clocked(LogLinear(), *moved.exp().tolist())), steps)))
        differences.append((ends[0] - ends[1]) / 2e-4)
    truth = torch.tensor(differences, dtype=F64)
    error = found.std(0) / math.sqrt(len(found))
    assert bool(((found.mean(0) - truth).abs() < 4 * error + 1e-4).all()), (found.mean(0), truth, error)
    assert float(error.max()) < 0.2 * float(truth.abs().max())


def test_learned_clocks_lower_the_bound_of_few_steps():
    """Two steps, three bits that depend on each other: one is settled first, and the others follow from it."""
    path = clocked(LogLinear(), 1.1, 1.0, 0.9, trainable=True)
    process = Discrete.absorbing(2, path)
    before = enumerated_bound(process, 2).item()
    objective = ClockBound(Denoising(oracle(process), weight="bound"), steps=2)
    optimiser = torch.optim.Adam([path.clock.log_powers], lr=0.1)
    for k in range(80):
        optimiser.zero_grad()
        objective(Batch(draws(500, k)), Rng(k)).value.backward()
        optimiser.step()
    after = enumerated_bound(process, 2).item()
    assert entropy() < after < before - 0.25 * (before - entropy()), (before, after, entropy())


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 2), torch.nn.Linear(4, 4)

    def forward(self, x, level, ctx):
        assert level["num"].ndim == level["cat"].ndim == 1
        h = torch.cat([x["num"], x["cat"].to(x["num"].dtype)], 1)
        return {"num": self.a(h), "cat": self.b(h).reshape(-1, 2, 2)}


def mixed(trainable=True):
    process = Product(
        num=Gaussian(Clocked(Cosine(), Clock([1.5, 0.8], trainable=trainable))),
        cat=Discrete.absorbing(2, Clocked(LogLinear(), Clock([1.0, 2.0], trainable=trainable))),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model(Net(), process, FieldPreconditioners(num=VPrediction(), cat=TokenLogits()))


def rows(n=64):
    x = Rng(0).normal(torch.empty(n, 2))
    return {"num": x, "cat": (x > 0).long()}


@pytest.mark.parametrize("steps", [None, 8])
def test_network_and_clocks_learn_from_their_own_loss(steps):
    model = mixed()
    denoising = Denoising(model, weight=VWeight())
    objective = LearnedClocks(denoising, steps=steps)
    loss = objective(Batch(rows()), Rng(0))
    assert set(loss.terms) == {"num", "cat", "clock"}
    own = [p for k, p in model.named_parameters() if "clock" in k]
    others = [p for k, p in model.named_parameters() if "clock" not in k]
    clock_term, net_term = loss.terms["clock"][0], loss.terms["num"][0] + loss.terms["cat"][0]
    for term, blind, sees in ((clock_term, others, own), (net_term, own, others)):
        found = torch.autograd.grad(term, blind + sees, allow_unused=True, retain_graph=True)
        assert all(g is None for g in found[: len(blind)])
        assert all(g is not None and bool(g.isfinite().all()) and bool((g != 0).any()) for g in found[len(blind) :])
    plain = denoising(Batch(rows()), Rng(0))  # the network's loss is the one it has without clocks to learn
    assert torch.equal(plain.terms["num"][0], loss.terms["num"][0])


def test_products_sample_with_clocks_at_float_and_at_tensor_times():
    model, x = mixed(trainable=False), rows(9)
    step = PerField(num=DPMSolverPP(2), cat=Ancestral())
    start = model.process.prior(x).sample(Rng(1))
    with torch.no_grad():
        made = sample(model, start, uniform_times(6), step, rng=Rng(2, 9))
        grid = torch.tensor(uniform_times(6))[:, None].expand(-1, 9)
        same = sample(model, start, grid, PerField(num=DPMSolverPP(1), cat=Ancestral()), rng=Rng(2, 9))
        again = sample(model, start, uniform_times(6), PerField(num=DPMSolverPP(1), cat=Ancestral()), rng=Rng(2, 9))
    assert made["num"].dtype == torch.float32 and bool((made["cat"] < 2).all())
    assert torch.allclose(same["num"], again["num"], atol=1e-4) and torch.equal(same["cat"], again["cat"])
    known = {"num": torch.zeros(9, 2, dtype=torch.bool), "cat": torch.ones(9, 2, dtype=torch.bool)}
    model.sees_known = True
    held = sample(model, start, uniform_times(6), step, Context(known=known, given=x), rng=Rng(2, 9))
    assert torch.equal(held["cat"], x["cat"])
    assert isinstance(model(start, 0.5, Context()), Joint)


# ------------------------------------------------------------------ refusals


def test_what_a_clock_cannot_mean_is_refused():
    path = clocked(LogLinear(), 1.0, 2.0)
    absorbing = ExactTokens(TABLE[0] / TABLE[0].sum(), Discrete.absorbing(2, path))
    x = torch.full((4, 2), 2)
    with pytest.raises(TypeError, match="FirstHitting counts on elements that share their time"):
        sample(absorbing, x, [1.0, 0.0], FirstHitting(), rng=Rng(0))
    with pytest.raises(TypeError, match="Confident counts on"):
        sample(absorbing, x, [1.0, 0.0], Confident(), rng=Rng(0))
    uniform = ExactTokens(TABLE[0] / TABLE[0].sum(), Discrete.uniform(2, path))
    with pytest.raises(TypeError, match="Planned counts on"):
        sample(uniform, x % 2, [1.0, 0.0], Planned(), rng=Rng(0))
    with pytest.raises(ValueError, match="powers="):
        Clock([1.0, 0.0])
    with pytest.raises(ValueError, match="low=1.0"):
        Clock([1.0], low=1.0)
    with pytest.raises(ValueError, match="clocked again"):
        Clocked(path, Clock([1.0]))
    with pytest.raises(TypeError, match="at different times"):
        path.inverse(0.0)
    with pytest.raises(ValueError, match="no trainable clock"):
        LearnedClocks(Denoising(mixed(trainable=False)))
    with pytest.raises(ValueError, match="share=0"):
        LearnedClocks(Denoising(mixed()), share=0.0)
    assert EDM().range[1] == Clocked(EDM(), Clock([2.0])).range[1]
