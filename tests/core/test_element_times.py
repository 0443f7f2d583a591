"""Times of their own for the elements: every process and step treats an element as if its time were everybody's."""

import pytest
import torch

from polydiff.core.data import Context, Rng, left
from polydiff.core.denoisers import EpsPrediction, FunctionDenoiser, Karras, Model, VelocityPrediction, VPrediction
from polydiff.core.distributions import Categorical, Normal
from polydiff.core.inverse import ToldByTime
from polydiff.core.processes import Bridge, Brownian, Discrete, Flow, Gaussian
from polydiff.core.sampling import (
    Ancestral,
    Chain,
    Churn,
    Corrected,
    DPMSolverPP,
    Euler,
    Heun,
    TauLeaping,
    Trapezoidal,
    sample,
    trajectory,
)
from polydiff.core.schedules import Cosine, RectifiedFlow, VPLinear, staggered_times, uniform_times
from polydiff.core.schedules.per_element import known_times
from polydiff.core.training import SNR, Batch, Denoising, LogitNormal, Uniform, VWeight
from polydiff.core.training.times import RollingTimes, VectorTimes

B, L, D = 3, 5, 2
LEVELS = [0.9, 0.6, 0.3, 1e-3, 0.0]
PATTERN = torch.tensor([[0, 1, 2, 3, 4], [4, 4, 0, 0, 2], [2, 3, 1, 0, 4]])


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_levels(values):
    return torch.tensor(values, dtype=torch.float64)[PATTERN]


def agrees(vector, scalar):
    """``vector`` at element times is, element by element, what ``scalar(level)`` is at the time of the element."""
    for i in range(len(LEVELS)):
        here = i == PATTERN
        torch.testing.assert_close(vector[here], scalar(i)[here], rtol=1e-9, atol=1e-9)


@pytest.fixture
def continuous(linear):
    return linear, numbers(0, B, L, D), Context(x1=numbers(1, B, L, D) if linear.observes_source else None)


# ------------------------------------------------------------------ processes


def test_marginals(continuous):
    process, x, ctx = continuous
    own = process.marginal(x, of_levels(LEVELS), ctx).sample(Rng(0))
    agrees(own, lambda i: process.marginal(x, LEVELS[i], ctx).sample(Rng(0)))


def test_forward_kernels(continuous):
    process, x, ctx = continuous
    if not process.markov:
        pytest.skip("it has no forward kernel")
    since = [0.5 * t for t in LEVELS]
    own = process.marginal(x, of_levels(LEVELS), ctx, since=of_levels(since)).sample(Rng(0))
    agrees(own, lambda i: process.marginal(x, LEVELS[i], ctx, since=since[i]).sample(Rng(0)))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spread", [None, 0.3], ids=["mean alone", "with spread"])
def test_transitions(continuous, eta, spread):
    process, x, ctx = continuous
    law, to = Normal(numbers(2, B, L, D), spread), [0.5 * t for t in LEVELS]
    own = process.transition(x, law, of_levels(LEVELS), of_levels(to), ctx, eta=eta).sample(Rng(0))
    agrees(own, lambda i: process.transition(x, law, LEVELS[i], to[i], ctx, eta=eta).sample(Rng(0)))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_transition_to_where_it_is_keeps_every_bit(continuous, eta):
    process, x, ctx = continuous
    t = of_levels([0.9, 0.6, 0.3, 1e-3, 1e-4])
    law = process.transition(x, Normal(numbers(2, B, L, D), 0.3), t, t, ctx, eta=eta)
    torch.testing.assert_close(law.sample(Rng(0)), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("what", ["velocity", "score", "loss", "bound"])
def test_fields_and_objectives(continuous, what):
    process, x, ctx = continuous
    law, clean = Normal(numbers(2, B, L, D)), numbers(3, B, L, D)
    inner = [0.9, 0.6, 0.3, 0.1, 0.02]  # a bridge is pinned at its ends

    def f(t):
        if what in ("velocity", "score"):
            return getattr(process, what)(x, law, t, ctx)
        return getattr(process, what)(law, clean, x, t, ctx)

    agrees(f(of_levels(inner)), lambda i: f(inner[i]))


def test_flows_from_another_source():
    process = Flow(source=lambda like, ctx: Normal(torch.full_like(like, 2.0), 0.5))
    x = numbers(0, B, L, D)
    own = process.marginal(x, of_levels(LEVELS)).sample(Rng(0))
    agrees(own, lambda i: process.marginal(x, LEVELS[i]).sample(Rng(0)))


def tokens(process, seed, masked=True):
    mask = process.mask if masked else None
    x = torch.randint(0, 3, (B, L), generator=torch.Generator().manual_seed(seed))
    return x if mask is None else torch.where(numbers(seed, B, L) > 0, mask, x)


def test_discrete_laws(discrete):
    clean, x = tokens(discrete, 0, masked=False), tokens(discrete, 1)
    posterior, to = Categorical(numbers(4, B, L, 3)), [0.5 * t for t in LEVELS]
    own = discrete.marginal(clean, of_levels(LEVELS)).sample(Rng(0))
    agrees(own, lambda i: discrete.marginal(clean, LEVELS[i]).sample(Rng(0)))
    for seed in range(20):
        own = discrete.transition(x, posterior, of_levels(LEVELS), of_levels(to)).sample(Rng(seed))
        agrees(own, lambda i, seed=seed: discrete.transition(x, posterior, LEVELS[i], to[i]).sample(Rng(seed)))
    inner = [0.9, 0.6, 0.3, 0.1, 0.02]
    for f in (discrete.loss, discrete.bound):
        agrees(f(posterior, clean, x, of_levels(inner)), lambda i, f=f: f(posterior, clean, x, inner[i]))
    rates = discrete.reverse_rates(x, posterior, of_levels(inner))
    agrees(rates, lambda i: discrete.reverse_rates(x, posterior, inner[i]))


# ------------------------------------------------------------------ steps


def alone(process):
    """Every element by itself, so that its neighbours' times cannot matter; it depends on its own time."""

    def f(x, t, ctx):
        level = t if isinstance(t, float) else left(t, x)
        return Normal((1 - level) * torch.tanh(x) + 0.1 * level)

    return FunctionDenoiser(process, f)


STEPS = {
    "ddpm": Ancestral(1.0),
    "ddim": Ancestral(0.0),
    "euler": Euler(),
    "heun": Heun(),
    "dpm++1": DPMSolverPP(1),
    "dpm++2m": DPMSolverPP(2),
    "corrected": Corrected(Ancestral(1.0)),
    "churn": Churn(Heun(), gamma=0.3),
}


@pytest.mark.parametrize("name", sorted(STEPS))
@pytest.mark.parametrize("schedule", [VPLinear, RectifiedFlow])
def test_whole_runs_are_those_of_each_element_alone(name, schedule):
    """Five grids side by side; two of them wait for a while, at noise or on the way."""
    process, step = Gaussian(schedule()), STEPS[name]
    grids = [
        [0.9, 0.6, 0.3, 0.0],
        [0.9, 0.8, 0.1, 0.0],
        [0.7, 0.5, 0.4, 0.2],
        [0.9, 0.5, 0.2, 1e-2],
        [0.6, 0.5, 0.3, 0.0],
    ]
    x = numbers(0, B, L, D)
    times = torch.stack([of_levels([g[n] for g in grids]) for n in range(4)])
    own = sample(alone(process), x, times, step, rng=Rng(0))
    agrees(own, lambda i: sample(alone(process), x, grids[i], step, rng=Rng(0)))


@pytest.mark.parametrize("name", sorted(STEPS))
def test_elements_that_wait_lose_nothing(name):
    """Element 0 goes first and element 1 waits for it at noise; 2 is data all along; 3 stops on the way."""
    process = Gaussian(Cosine())
    times = torch.tensor(
        [[1.0, 1.0, 0.0, 0.9], [0.5, 1.0, 0.0, 0.4], [0.0, 1.0, 0.0, 0.4], [0.0, 0.5, 0.0, 0.2], [0.0, 0.0, 0.0, 0.0]],
        dtype=torch.float64,
    )[:, None]
    x = numbers(0, B, 4, D)
    path = list(trajectory(alone(process), x, times, STEPS[name], rng=Rng(0)))
    assert bool(torch.isfinite(path[-1].x_s).all())
    for tr in path:
        still = (tr.t == tr.s).expand(B, 4)
        assert torch.equal(tr.x_s[still], tr.x_t[still])
    if name in ("ddim", "euler", "heun", "dpm++1", "dpm++2m"):  # without noise a wait is no step at all
        torch.testing.assert_close(path[-1].x_s[:, 1], sample(alone(process), x[:, 1], [1.0, 0.5, 0.0], STEPS[name]))


@pytest.mark.parametrize("step", [Euler(), Heun(), DPMSolverPP(2)], ids=repr)
def test_orders_hold_where_paces_differ(step, slopes):
    """Elements that pull at each other, one of them ahead of the other along smooth ways: order 2 stays 2."""
    process = Gaussian(VPLinear())

    def f(x, t, ctx):
        level = t if isinstance(t, float) else left(t, x)
        return Normal((1 - level) * torch.tanh(x + 0.5 * x.flip(1)) + 0.1 * level.flip(1))

    x = numbers(0, 4, 2)

    def grid(n):
        u = torch.arange(n + 1, dtype=torch.float64) / n
        return torch.stack([0.9 - 0.8 * u, 0.95 - 0.5 * u - 0.3 * u**2], -1)[:, None]

    exact = sample(FunctionDenoiser(process, f), x, grid(1500), Heun())
    errors = [float((sample(FunctionDenoiser(process, f), x, grid(n), step) - exact).norm()) for n in (32, 64, 128)]
    assert slopes(errors)[-1] == pytest.approx(1 if step == Euler() else 2, abs=0.2), errors


def test_bridges_leave_their_pinned_end_in_turn():
    process, x1 = Bridge(Brownian(0.8)), numbers(1, B, L, D)
    times = staggered_times([1.0, 0.5, 0.0], L)
    out = sample(alone(process), x1, times, Ancestral(1.0), Context(x1=x1), rng=Rng(0))
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize(
    "step", [Ancestral(), Trapezoidal(Ancestral()), Corrected(Ancestral()), TauLeaping()], ids=repr
)
@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_discrete_steps(step, name):
    process = Discrete.absorbing(3) if name == "absorbing" else Discrete.uniform(3)
    law = numbers(0, 3)

    def f(x, t, ctx):
        return Categorical(law.expand(*x.shape, 3))

    denoiser, x = FunctionDenoiser(process, f), tokens(process, 1)
    start, to = [0.9, 0.6, 0.3, 1e-3, 0.2], [0.5, 0.3, 0.2, 5e-4, 0.2]
    own = next(trajectory(denoiser, x, [of_levels(start), of_levels(to)], step, rng=Rng(0))).x_s
    for i in range(len(LEVELS) - 1):
        here = i == PATTERN
        pair = [start[i], to[i]]
        if isinstance(step, TauLeaping):  # for times an element it draws the noise of the exact ends too
            pair = [torch.full((B, L), v, dtype=torch.float64) for v in pair]
        shared = next(trajectory(denoiser, x, pair, step, rng=Rng(0))).x_s
        assert torch.equal(own[here], shared[here])
    assert torch.equal(own[PATTERN == 4], x[PATTERN == 4])


# ------------------------------------------------------------------ networks, types, known elements


@pytest.mark.parametrize(
    "pre", [EpsPrediction(), VPrediction(), VelocityPrediction(), Karras()], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("schedule", [VPLinear, RectifiedFlow])
def test_preconditioners_tell_each_element_its_level(pre, schedule):
    def network(x, level, ctx):
        return torch.tanh(x) + left(level, x)

    model, x = Model(network, Gaussian(schedule()), pre), numbers(0, B, L, D)
    inner = [0.9, 0.6, 0.3, 0.1, 0.02]
    agrees(model(x, of_levels(inner), Context()).mean, lambda i: model(x, inner[i], Context()).mean)


def test_single_precision_stays_single():
    """Times of the data's own precision leave a float32 state, and with it the input of a float32 network, as it is."""
    net = torch.nn.Linear(D, D)
    model = Model(lambda x, level, ctx: net(x), Gaussian(VPLinear()), VPrediction())
    x = numbers(0, B, L, D).float()
    for step in (Ancestral(0.0), Ancestral(1.0), Euler(), Heun(), DPMSolverPP(2)):
        out = sample(model, x, known_times(uniform_times(4), torch.zeros(B, L, dtype=torch.bool)), step, rng=Rng(0))
        assert out.dtype == torch.float32


def test_known_times_keep_what_is_known():
    known = torch.tensor([[True, False, False, True, False]]).expand(B, L)
    x = numbers(0, B, L, D)
    times = known_times(uniform_times(6), known, dtype=torch.float64)
    out = sample(alone(Gaussian(Cosine())), x, times, DPMSolverPP(2))
    assert torch.equal(out[known], x[known])
    assert not torch.equal(out[~known], x[~known])
    with pytest.raises(ValueError, match="all channels"):
        known_times([1.0, 0.0], torch.tensor([[[True, False]]]))


def correlated(process, rho=0.8):
    """The exact law of two correlated numbers, each at its own level."""
    sigma = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)

    def f(x, t, ctx):
        times = torch.full((len(x), 2), t, dtype=x.dtype) if isinstance(t, float) else t.expand(len(x), 2)
        c = process.at(times.double())
        a, g = c.a, c.g
        gain = sigma * a[:, None, :] @ torch.linalg.inv(a[:, :, None] * sigma * a[:, None, :] + torch.diag_embed(g * g))
        cov = sigma - gain @ (a[:, :, None] * sigma)
        mean = (gain @ x.double()[..., None])[..., 0]
        return Normal(mean, cov.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt())

    return FunctionDenoiser(process, f)


@pytest.mark.parametrize("way", ["times", "told"])
def test_a_clean_neighbour_gives_the_exact_conditional(way):
    """x_1 = 2: x_2 ~ N(1.6, 0.36), whatever the grid, as for a model that was told."""
    denoiser, n = correlated(Gaussian(Cosine())), 20_000
    known = torch.tensor([[True, False]]).expand(n, 2)
    x = numbers(0, n, 2)
    given = torch.full((n, 2), 2.0, dtype=torch.float64)
    if way == "times":
        start = torch.where(known, given, x)
        out = sample(denoiser, start, known_times(uniform_times(12), known, dtype=x.dtype), Ancestral(), rng=Rng(0))
    else:
        ctx = Context(known=known, given=given)
        out = Chain(uniform_times(12), Ancestral(), start=x)(ToldByTime(denoiser), x, ctx, Rng(0))
    assert bool((out[:, 0] == 2.0).all())
    assert float(out[:, 1].mean()) == pytest.approx(1.6, abs=5 * 0.6 / n**0.5)
    assert float(out[:, 1].var()) == pytest.approx(0.36, rel=5 * (2 / n) ** 0.5)


# ------------------------------------------------------------------ training


LIKE = torch.zeros(256, 8, 2)


def test_laws_of_before_are_bit_equal():
    u = Rng(0).uniform(LIKE.new_empty(256, dtype=torch.float64))
    assert torch.equal(Uniform()(None, LIKE, Rng(0)), ((torch.arange(256) + u) / 256).float())


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_vector_times_share_or_do_not(p):
    t = VectorTimes(p)(None, LIKE, Rng(0))
    assert t.shape == (256, 8)
    assert t.dtype == torch.float32
    apart = (t != t[:, :1]).any(1)
    assert float(apart.double().mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / 256) ** 0.5)
    assert float((~(t == t[:, :1])[apart][:, 1:]).double().mean() if bool(apart.any()) else 1.0) == 1.0
    if p == 1.0:  # stratified over all elements, in no order
        slices = (t.double().flatten() * t.numel()).floor().sort().values
        assert float((slices - torch.arange(t.numel())).abs().max()) <= 1
        assert abs(float(torch.corrcoef(t.T)[0, 1])) < 0.25
    if p == 0.0:
        assert torch.equal((t[:, 0].double() * 256).floor(), torch.arange(256).double())


def test_vector_times_have_the_law_that_was_asked_for():
    t = VectorTimes(0.5, LogitNormal(-1.0, 0.5))(None, torch.zeros(4096, 4), Rng(0)).double().logit()
    assert float(t.mean()) == pytest.approx(-1, abs=0.02)
    assert float(t.std()) == pytest.approx(0.5, abs=0.02)


def test_rolling_times_rise_along_the_window():
    t = RollingTimes(4, start=0.0)(None, LIKE.double(), Rng(0))
    assert bool((t[:, :4] == 0).all())
    torch.testing.assert_close(t[:, 5:] - t[:, 4:-1], torch.full((256, 3), 0.25, dtype=torch.float64))
    assert bool(((t[:, 4] >= 0) & (t[:, 4] <= 0.25)).all())
    assert float(t[:, 4].mean()) == pytest.approx(0.125, abs=1e-3)


def test_rolling_times_start_from_noise_behind_any_context():
    t = RollingTimes(4, start=1.0)(None, torch.zeros(4000, 6, dtype=torch.float64), Rng(0))
    zeros = (t == 0).sum(1)
    assert bool((t[:, 1:] >= t[:, :-1]).all())
    assert set(zeros.unique().tolist()) == {0, 1, 2}  # it moves on as soon as one more is done
    assert bool((t.max(1).values > 0.74).all())
    assert float((t[:, 0] > 0).double().mean()) == pytest.approx((1 / 3) * (1 / 1.5), abs=0.03)  # none given, v > 0


@pytest.mark.parametrize("law", [VectorTimes(0.5), RollingTimes(4)], ids=repr)
@pytest.mark.parametrize("weight", [VWeight(), SNR(100.0), "bound"], ids=str)
def test_denoising_takes_times_an_element(law, weight):
    """The mean loss is the mean over elements of the loss at each one's own time."""
    process = Gaussian(VPLinear())
    model = Model(lambda x, level, ctx: torch.tanh(x) + left(level, x), process, VPrediction())
    x = numbers(0, 64, 8, 2)
    objective = Denoising(model, times=law, weight=weight)
    loss = objective(Batch(x), Rng(3))
    t = law(process, x, Rng(3))
    t_first = law(process, x, rng := Rng(3))
    assert torch.equal(t, t_first)
    x_t = process.marginal(x, t).sample(rng)
    mean = model(x_t, t, Context()).mean
    each = (mean - x) ** 2
    if weight == "bound":
        each = process.bound(Normal(mean), x, x_t, t)
    else:
        each = left(weight(process.logsnr(t)), each) * each
    torch.testing.assert_close(loss.value, each.flatten(1).sum(1).mean() / 16)


def test_refusals():
    with pytest.raises(ValueError, match="probability"):
        VectorTimes(1.5)
    with pytest.raises(ValueError, match="no sequence"):
        VectorTimes()(None, torch.zeros(3), Rng(0))
    with pytest.raises(ValueError, match="longer than"):
        RollingTimes(9)(None, LIKE, Rng(0))
    with pytest.raises(ValueError, match="at least 1"):
        RollingTimes(0)
