"""Steps and the loop: orders of convergence, exact laws, agreement with diffusers, identities."""

import math

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Dirac, Joint, Normal
from polydiff.core.oracles import ExactTokens, IdealDenoiser
from polydiff.core.processes import Bridge, Brownian, Discrete, Flow, Gaussian
from polydiff.core.sampling import (
    Ancestral,
    Chain,
    Churn,
    DPMSolverPP,
    Euler,
    Heun,
    PerField,
    Replace,
    Transition,
    path_log_prob,
    sample,
    trajectory,
)
from polydiff.core.schedules import EDM, Cosine, RectifiedFlow, VPLinear, karras_times, uniform_times
from polydiff.core.wrappers import NFE, ByTime

START = torch.tensor([[-1.5, 0.3], [0.3, 1.2], [1.2, -0.4], [0.1, 0.9]], dtype=torch.float64)
DETERMINISTIC = {
    "ddim": (Ancestral(0.0), 1.0, 0.1),
    "euler": (Euler(), 1.0, 0.1),
    "dpm++1": (DPMSolverPP(1), 1.0, 0.1),
    "heun": (Heun(), 2.0, 0.2),
    "dpm++2m": (DPMSolverPP(2), 2.0, 0.2),
}


def inner_grid(n, high=0.95, low=0.05):
    return [high + (low - high) * i / n for i in range(n + 1)]


def flow_exactly(process, denoiser, x, high, low):
    """The probability-flow ODE by an independent adaptive solver."""
    odeint = pytest.importorskip("torchdiffeq").odeint

    def f(t, y):
        return process.velocity(y, denoiser(y, float(t), Context()), float(t), Context())

    times = torch.tensor([high, low], dtype=torch.float64)
    return odeint(f, x, times, rtol=1e-11, atol=1e-12, method="dopri5")[-1]


@pytest.mark.parametrize("name", sorted(DETERMINISTIC))
def test_order_of_convergence(schedule, mixture, name, slopes):
    step, order, margin = DETERMINISTIC[name]
    process = Gaussian(schedule)
    denoiser = mixture.denoiser(process)
    x = START * process.at(0.95).g
    exact = flow_exactly(process, denoiser, x, 0.95, 0.05)
    errors = [float((sample(denoiser, x, inner_grid(n), step) - exact).norm()) for n in (128, 256, 512)]
    assert slopes(errors)[-1] == pytest.approx(order, abs=margin), errors


@pytest.mark.parametrize("name", sorted(DETERMINISTIC))
def test_encoding_returns_to_the_start(mixture, name):
    """Deterministic steps run the grid upwards too, and undo sampling to their own accuracy."""
    step, order, _ = DETERMINISTIC[name]
    denoiser = mixture.denoiser(Gaussian(Cosine()))
    grid = inner_grid(400)
    x = sample(denoiser, START, grid, step)
    back = sample(denoiser, x, grid[::-1], step)
    assert float((back - START).norm()) < (0.15 if order == 1 else 2e-3)


@pytest.mark.parametrize("step", [Ancestral(0.0), Euler(), Heun(), DPMSolverPP(2), Ancestral(1.0)], ids=repr)
@pytest.mark.parametrize("n", [1, 2, 5, 50])
def test_every_grid_ends_finite_at_the_data(schedule, mixture, step, n):
    denoiser = mixture.denoiser(Gaussian(schedule))
    x = denoiser.process.prior(START).sample(Rng(0, 4))
    x = sample(denoiser, x, uniform_times(n), step, rng=Rng(1, 4))
    assert bool(torch.isfinite(x).all())


def test_evaluations_are_counted(mixture):
    calls = 0
    exact = mixture.denoiser(Gaussian(Cosine()))

    def f(x, t, ctx):
        nonlocal calls
        calls += 1
        return exact(x, t, ctx)

    denoiser = FunctionDenoiser(exact.process, f)
    for step, expected in ((Ancestral(0.0), 10), (Euler(), 10), (DPMSolverPP(2), 10), (Heun(), 19)):
        calls = 0
        sample(denoiser, START, uniform_times(10), step)
        assert calls == expected


# ------------------------------------------------------------------ exact laws


def moments_agree(x, mixture, z=5.0):
    """Mean, covariance and mode weights within z standard errors of the exact ones."""
    n = len(x)
    exact = mixture.sample(400_000, Rng(99))
    covariance = exact.T.cov()
    assert bool(((x.mean(0) - mixture.mean).abs() < z * (mixture.variance / n).sqrt()).all())
    spread = ((exact - exact.mean(0)) ** 2).std(0) / math.sqrt(n)
    assert bool(((x.T.cov() - covariance).diagonal().abs() < z * 1.2 * spread).all())
    assert float((x.T.cov() - covariance)[0, 1].abs()) < z * 2 / math.sqrt(n)
    nearest = torch.cdist(x, mixture.means).argmin(1)
    reference = torch.cdist(exact, mixture.means).argmin(1)
    for k in range(3):
        p = float((reference == k).double().mean())
        assert float((nearest == k).double().mean()) == pytest.approx(p, abs=z * 1.2 * math.sqrt(p * (1 - p) / n))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "step", "n"),
    [
        ("ddpm, spread carried", Ancestral(1.0), 20),
        ("eta 0.5, spread carried", Ancestral(0.5), 20),
        ("churned Heun", Churn(Heun(), gamma=0.1, sigma_min=0.01, sigma_max=20.0), 60),
        ("Heun", Heun(), 60),
    ],
)
def test_samples_have_the_right_law(mixture, name, step, n):
    process = Gaussian(EDM()) if "Heun" in name else Gaussian(VPLinear())
    times = karras_times(process.schedule, n) if "Heun" in name else uniform_times(n)
    count = 100_000
    x = process.prior(torch.zeros(count, 2, dtype=torch.float64)).sample(Rng(0))
    if isinstance(process.schedule, EDM):
        x = x + 0.0  # 80 times unit noise: the data is one part in 6400 of its variance
    moments_agree(sample(mixture.denoiser(process), x, times, step, rng=Rng(1)), mixture)


@pytest.mark.slow
def test_ddpm_without_spread_needs_many_steps_and_then_agrees(mixture):
    """What a regression network knows, the mean alone, converges to the same law at first order."""
    process = Gaussian(VPLinear())
    exact = mixture.denoiser(process)
    mean_only = FunctionDenoiser(process, lambda x, t, ctx: Normal(exact(x, t, ctx).mean))
    x = process.prior(torch.zeros(100_000, 2, dtype=torch.float64)).sample(Rng(0))
    moments_agree(sample(mean_only, x, [t * t for t in uniform_times(600)], Ancestral(1.0), rng=Rng(1)), mixture)


@pytest.mark.parametrize(
    "make", [lambda: Discrete.uniform(3), lambda: Discrete.absorbing(3)], ids=["uniform", "absorbing"]
)
def test_tokens_reach_the_exact_joint_law(table, make):
    """Total variation at 64 steps is small (steps factorise over tokens), and falls with the steps."""
    process = make()
    oracle, n = ExactTokens(table, process), 40_000
    gaps = []
    for steps in (2, 64):
        x = process.prior(torch.zeros(n, 2, dtype=torch.long)).sample(Rng(0))
        x = sample(oracle, x, uniform_times(steps), Ancestral(), rng=Rng(1))
        assert int(x.max()) < 3, "a mask or an unknown state was left"
        counts = torch.bincount(x[:, 0] * 3 + x[:, 1], minlength=9).double() / n
        gaps.append(float(0.5 * (counts - table.flatten()).abs().sum()))
    assert gaps[1] < 0.015 < gaps[0]


def test_one_token_is_exact_in_any_number_of_steps(table):
    prior = table.sum(1)
    process = Discrete.absorbing(3)
    for steps in (1, 3):
        x = process.prior(torch.zeros(60_000, 1, dtype=torch.long)).sample(Rng(0))
        x = sample(ExactTokens(prior, process), x, uniform_times(steps), Ancestral(), rng=Rng(steps))
        counts = torch.bincount(x[:, 0], minlength=3).double() / len(x)
        assert float(((counts - prior) ** 2 / prior).sum() * len(x)) < 20  # chi², two degrees of freedom


@pytest.mark.slow
@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_bridge_carries_its_source_to_the_conditional_law(eta):
    """x_0 | x_1 ~ N(x_1 / 2, 0.09): residual mean, variance and slope."""
    process, n = Bridge(Brownian(0.8)), 100_000
    x1 = 1.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def posterior(x, t, ctx):
        a, shift, g = process.coef(t, ctx)
        mean, var = 0.5 * ctx.x1, a * a * 0.09 + g * g
        gain = a * 0.09 / max(var, 1e-30)
        return Normal(mean + gain * (x - shift - a * mean), math.sqrt(max(0.09 - gain * a * 0.09, 0.0)))

    x0 = sample(FunctionDenoiser(process, posterior), x1, uniform_times(20), Ancestral(eta), Context(x1=x1), rng=Rng(3))
    residual = x0 - 0.5 * x1
    assert float(residual.mean()) == pytest.approx(0, abs=5 * 0.3 / math.sqrt(n))
    assert float(residual.var()) == pytest.approx(0.09, rel=5 * math.sqrt(2 / n))


def test_flow_from_a_mixture_source_arrives(mixture):
    """Euler along the exact velocity carries any source to the data: here an empirical source of 6 points to 1 point."""
    target = torch.tensor([[0.4, -0.2]], dtype=torch.float64)
    process = Flow(source=lambda like, ctx: Dirac(torch.full_like(like, 2.0)))
    x = process.prior(torch.zeros(6, 2, dtype=torch.float64)).sample(Rng(0))
    out = sample(FunctionDenoiser(process, lambda x, t, ctx: Dirac(target.expand_as(x))), x, uniform_times(7), Euler())
    torch.testing.assert_close(out, target.expand(6, 2), rtol=0, atol=2e-4)


def test_product_moves_each_field_by_its_own_step(product):
    """pos | kind: the fields meet in the denoiser alone; one evaluation a step."""
    calls = 0
    n = 64

    def f(x, t, ctx):
        nonlocal calls
        calls += 1
        token = torch.zeros(n, 2, 4, dtype=torch.float64)
        kind = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64).log().expand(n, 1, 3)
        from polydiff.core.distributions import Categorical

        return Joint({"pos": Normal(0.5 * x["pos"]), "atom": Categorical(token), "kind": Categorical(kind)})

    like = {
        "pos": torch.zeros(n, 1, dtype=torch.float64),
        "atom": torch.zeros(n, 2, dtype=torch.long),
        "kind": torch.zeros(n, 1, dtype=torch.long),
    }
    x = product.prior(like).sample(Rng(0, n))
    step = PerField(pos=DPMSolverPP(2), atom=Ancestral(), kind=Ancestral())
    out = sample(FunctionDenoiser(product, f), x, uniform_times(12), step, rng=Rng(1, n))
    assert calls == 12
    alone = sample(
        FunctionDenoiser(product.fields["pos"], lambda x, t, ctx: Normal(0.5 * x)),
        x["pos"],
        uniform_times(12),
        DPMSolverPP(2),
    )
    assert torch.equal(out["pos"], alone)
    assert int(out["atom"].max()) < 4


# ------------------------------------------------------------------ an independent implementation


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers")


class FromTable(VPLinear):
    """The discrete noise levels of a diffusers scheduler, at times i / N (shared grid)."""

    def __init__(self, alphas_cumprod):
        super().__init__()
        self.levels = alphas_cumprod.double()

    def coefficients(self, t):
        from polydiff.core.schedules import Coefficients

        a2 = self.levels[(t * (len(self.levels) - 1)).round().long()]
        zero = torch.zeros_like(a2)
        return Coefficients(a2.sqrt(), zero, (1 - a2).sqrt(), zero, zero, zero)


def _eps(x, level=None, ctx=None):
    return torch.tanh(1.3 * x) * 0.6 + 0.1 * x.flip(-1)


def _clean(x, level=None, ctx=None):
    return torch.tanh(0.8 * x + 0.1 * x.flip(-1))


def _vp_pair(scheduler, steps):
    from polydiff.core.denoisers import Model, X0Prediction

    scheduler.set_timesteps(steps)
    table = FromTable(scheduler.alphas_cumprod)
    times = [int(t) / (len(scheduler.alphas_cumprod) - 1) for t in scheduler.timesteps]
    return Model(_clean, Gaussian(table), X0Prediction()), times


@pytest.mark.parametrize("steps", [5, 20])
def test_ddim_agrees_with_diffusers(diffusers, steps):
    theirs = diffusers.DDIMScheduler(
        prediction_type="sample", clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading"
    )
    model, times = _vp_pair(theirs, steps)
    x = y = START.float()
    for t in theirs.timesteps:
        y = theirs.step(_clean(y), t, y, eta=0.0).prev_sample
    ours = sample(model, x, [*times, 0.0], Ancestral(0.0))
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_ddim_agrees_with_diffusers_on_shared_noise(diffusers, eta):
    theirs = diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False, set_alpha_to_one=False)
    model, times = _vp_pair(theirs, 10)
    y, noise = START.float(), Rng(5, 4)
    for t in theirs.timesteps:
        y = theirs.step(_clean(y), t, y, eta=eta, variance_noise=noise.normal(y)).prev_sample
    # Their last step stays at the first entry of the table: the identity, with noise of variance zero.
    assert times[-1] == 0.0
    ours = sample(model, START.float(), times, Ancestral(eta), rng=Rng(5, 4))
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [6, 25])
def test_dpm_solver_pp_agrees_with_diffusers(diffusers, steps):
    theirs = diffusers.DPMSolverMultistepScheduler(
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
        lower_order_final=True,
        euler_at_final=True,
        final_sigmas_type="sigma_min",
    )
    model, times = _vp_pair(theirs, steps)
    y = START.float()
    for t in theirs.timesteps:
        y = theirs.step(_clean(y), t, y).prev_sample
    ours = sample(model, START.float(), [*times, 0.0], DPMSolverPP(2))
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "step"), [("EulerDiscreteScheduler", Euler()), ("HeunDiscreteScheduler", Heun())])
@pytest.mark.parametrize("steps", [6, 25])
def test_sigma_space_solvers_agree_with_diffusers(diffusers, name, step, steps):
    """Karras grid, shared noise, the same denoiser; their final sigma of 0 is set to ours, e⁻¹⁰."""
    process = Gaussian(EDM(sigma_max=160.0))
    theirs = getattr(diffusers, name)(use_karras_sigmas=True)
    theirs.set_timesteps(steps)
    sigmas = theirs.sigmas.double().unique_consecutive() if name.startswith("Heun") else theirs.sigmas.double()
    times = [float(process.schedule.inverse(-2 * math.log(s))) for s in sigmas.tolist() if s > 0] + [0.0]
    x = START.float() * float(sigmas[0])
    y = x

    def noise(u, sigma):
        return _eps(u / (sigma**2 + 1) ** 0.5)

    for i, t in enumerate(theirs.timesteps):
        sigma = float(theirs.sigmas[i])
        y = theirs.step(noise(y, sigma), t, y).prev_sample
        if i == len(theirs.timesteps) - 2:
            before_last = y

    def denoise(u, t, ctx):
        sigma = float(process.at(t).g)
        return Normal(u - sigma * noise(u, sigma))

    path = list(trajectory(FunctionDenoiser(process, denoise), x, times, step))
    torch.testing.assert_close(path[-1].x_t, before_last, rtol=1e-5, atol=1e-5)
    # The last step goes to σ = e⁻¹⁰ here and to 0 there: they differ by e⁻¹⁰ times the noise prediction, exactly.
    gap = math.exp(-10) * noise(before_last, math.exp(-float(process.schedule.logsnr(times[-2])) / 2))
    torch.testing.assert_close(path[-1].x_s - gap, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 20])
def test_flow_euler_agrees_with_diffusers(diffusers, steps):
    from polydiff.core.denoisers import Model, VelocityPrediction

    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(steps)
    process = Flow(RectifiedFlow())
    times = [
        float(process.schedule.inverse(2 * math.log((1 - s) / s))) if 0 < s < 1 else s for s in theirs.sigmas.tolist()
    ]
    y = START.float()

    def velocity(u, sigma):  # of the input at unit variance, as our preconditioner feeds it
        return _eps(u / ((1 - sigma) ** 2 + sigma**2) ** 0.5)

    for t, sigma in zip(theirs.timesteps, theirs.sigmas.tolist()):
        y = theirs.step(velocity(y, sigma), t, y).prev_sample
    ours = sample(Model(_eps, process, VelocityPrediction()), START.float(), times, Euler())
    # Our ends lie at sigma = e⁻¹⁰/(1 + e⁻¹⁰) from theirs: the first and the last step are shorter by that much.
    torch.testing.assert_close(ours, y, rtol=0, atol=2e-4)
    inner = [t for t in times if 0 < t < 1]
    z = w = START.float()
    theirs.set_timesteps(steps)
    for s, u in zip(theirs.sigmas[1:-2], theirs.sigmas[2:-1]):
        w = w + (u - s) * velocity(w, float(s))
    ours = sample(Model(_eps, process, VelocityPrediction()), z, inner, Euler())
    torch.testing.assert_close(ours, w, rtol=0, atol=1e-5)


# ------------------------------------------------------------------ the loop


def test_step_disposes_of_time_and_frozen_samples_keep_their_bits(mixture):
    """A step that reaches its own time per sample ends the run when all have arrived."""
    process = Gaussian(Cosine())
    exact = mixture.denoiser(process)

    class Hasty:
        def __call__(self, denoiser, x_t, t, s, ctx, state, rng):
            t = torch.full((4,), t, dtype=torch.float64) if isinstance(t, float) else t
            speed = torch.tensor([0.5, 0.25, 0.1, 0.05], dtype=torch.float64)
            to = (t - speed).clamp_min(0.0)
            q = denoiser(x_t, t, ctx)
            k = process.transition(x_t, Dirac(q.mean), t, to, ctx, eta=0.0)
            return Transition(t, to, x_t, k.sample(rng) + 1e-3, q, None, self, state, None, ctx)

    path = list(trajectory(exact, START, [1.0, 0.5, 0.0], Hasty()))
    assert len(path) == 20
    done = [i for i, tr in enumerate(path) if bool((tr.t == tr.s)[0])]
    assert done, "the first sample arrives long before the last"
    assert all(torch.equal(path[i].x_s[0], path[done[0]].x_t[0]) for i in done)
    assert bool((path[-1].s == 0).all())


def test_times_per_sample_follow_the_grid(mixture):
    denoiser = mixture.denoiser(Gaussian(Cosine()))
    shared = torch.tensor(uniform_times(8), dtype=torch.float64)
    a = sample(denoiser, START, shared[:, None].expand(9, 4).clone(), Ancestral(0.0))
    torch.testing.assert_close(a, sample(denoiser, START, uniform_times(8), Ancestral(0.0)))


def test_known_entries_are_refused_by_a_denoiser_that_is_not_told(mixture):
    denoiser = mixture.denoiser(Gaussian(Cosine()))
    known = torch.tensor([[True, False]] * 4)
    ctx = Context(known=known, given=torch.full((4, 2), 2.0, dtype=torch.float64))
    with pytest.raises(ValueError, match="not trained to be told"):
        sample(denoiser, START, uniform_times(5), Ancestral(), ctx, rng=Rng(0, 4))
    out = sample(
        denoiser,
        START,
        uniform_times(5),
        Ancestral(),
        ctx,
        rng=Rng(0, 4),
        controls=[Replace(denoiser.process, Rng(1, 4))],
    )
    assert bool((out[:, 0] == 2.0).all())


def test_a_told_denoiser_samples_the_exact_conditional():
    """ρ = 0.8, x_1 = 2 known: x_2 ~ N(1.6, 0.36). An untold denoiser held clean would give 1.2."""
    process, n = Gaussian(Cosine()), 20_000

    def f(x, t, ctx):
        c = process.at(t)
        mean, var = 0.8 * ctx.given[:, :1], 0.36
        gain = c.a * var / (c.a**2 * var + c.g**2)
        free = mean + gain * (x[:, 1:] - c.a * mean)
        spread = math.sqrt(var * c.g**2 / (c.a**2 * var + c.g**2))
        return Normal(torch.cat([ctx.given[:, :1], free], 1), spread)

    known = torch.tensor([[True, False]]).expand(n, 2)
    ctx = Context(known=known, given=torch.full((n, 2), 2.0, dtype=torch.float64))
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = sample(FunctionDenoiser(process, f, sees_known=True), x, uniform_times(20), Ancestral(), ctx, rng=Rng(0))
    assert bool((out[:, 0] == 2.0).all())
    assert float(out[:, 1].mean()) == pytest.approx(1.6, abs=0.02)
    assert float(out[:, 1].var()) == pytest.approx(0.36, abs=0.02)


def test_final_importance_weights_are_applied():
    """Weights left at the end tilt the samples: N(0, 1) tilted by exp(x) has mean 1."""
    process, n = Gaussian(Cosine()), 40_000
    denoiser = FunctionDenoiser(process, lambda x, t, ctx: Normal(process.at(t).a * x, process.at(t).g))

    def weigh(tr):
        if tr.s == 0.0:
            tr.log_w = tr.x_s[:, 0]
        return tr

    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = sample(denoiser, x, uniform_times(10), Ancestral(), rng=Rng(0), controls=[weigh])
    assert float(out.mean()) == pytest.approx(1.0, abs=0.05)


def test_frozen_rows_follow_their_ancestors(mixture):
    """A control that reverses the batch, while one row already stands still: it keeps the state of its ancestor."""
    process = Gaussian(Cosine())
    x = mixture.sample(2, Rng(0))
    times = torch.tensor([[0.5, 0.0], [0.0, 0.0]], dtype=torch.float64)

    def reverse(tr):
        rows = torch.tensor([1, 0])
        tr.x_s, tr.s, tr.ancestor = tr.x_s[rows], tr.s[rows], rows
        return tr

    last = next(iter(trajectory(mixture.denoiser(process), x, times, Ancestral(0.0), controls=[reverse])))
    assert torch.equal(last.x_s[0], x[1])
    assert not torch.equal(last.x_s[1], x[0])


def test_the_readout_sees_the_context_of_the_rows_that_were_kept(mixture):
    class Shifted(Gaussian):
        def readout(self, x, ctx):
            return x + ctx.side["shift"]

    def favour_the_last(tr):
        tr.log_w = torch.tensor([-torch.inf, -torch.inf, 0.0])
        return tr

    process = Shifted(Cosine())
    ctx = Context(side={"shift": torch.tensor([[10.0], [20.0], [30.0]], dtype=torch.float64)})
    x = sample(
        mixture.denoiser(process), mixture.sample(3, Rng(0)), [0.5, 0.0], Ancestral(0.0), ctx,
        controls=[favour_the_last], rng=Rng(0),
    )  # fmt: skip
    assert (x > 25).all()


def test_history_travels_outside_the_step(mixture):
    """Interrupted and continued from its state, a multistep run is the uninterrupted one."""
    denoiser, grid, step = mixture.denoiser(Gaussian(Cosine())), uniform_times(12), DPMSolverPP(2)
    whole = sample(denoiser, START, grid, step)
    *_, half = trajectory(denoiser, START, grid[:7], step)
    *_, rest = trajectory(denoiser, half.x_s, grid[6:], step, state=half.next_state)
    assert torch.equal(whole, rest.x_s)


def test_kernels_replay_the_path_and_score_it(mixture):
    """x_s is the kernel's draw of its noise; the kernel rebuilt by the step scores it the same."""
    denoiser = mixture.denoiser(Gaussian(Cosine()))
    for tr in trajectory(denoiser, START, uniform_times(6), Ancestral(), rng=Rng(0, 4)):
        again, _ = tr.step.kernel(denoiser.process, tr.x_t, tr.posterior, tr.t, tr.s, tr.ctx, tr.state)
        torch.testing.assert_close(again.log_prob(tr.x_s), tr.kernel.log_prob(tr.x_s))


@pytest.mark.parametrize("case", ["gaussian", "tokens"])
def test_recorded_paths_are_scored_and_differentiable(mixture, table, case):
    """The log-probability of a path under its own denoiser is that of its kernels; known entries do not count."""
    if case == "gaussian":
        denoiser, x = mixture.denoiser(Gaussian(Cosine())), START
        path = list(trajectory(denoiser, x, uniform_times(6)[:-1], Ancestral(), rng=Rng(0, 4)))
    else:
        denoiser = ExactTokens(table, Discrete.absorbing(3))
        path = list(trajectory(denoiser, torch.full((4, 2), 3), uniform_times(6), Ancestral(), rng=Rng(0, 4)))
    total = sum(tr.kernel.log_prob(tr.x_s) for tr in path)
    torch.testing.assert_close(path_log_prob(denoiser, path), total)
    gain = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    if case == "gaussian":
        learned = FunctionDenoiser(denoiser.process, lambda x, t, ctx: Normal(gain * x))
        path_log_prob(learned, path).sum().backward()
        assert float(gain.grad.abs()) > 0
    path[0].kernel = None
    with pytest.raises(ValueError, match="no single kernel"):
        path_log_prob(denoiser, path)


def test_another_denoiser_for_each_interval_of_time():
    process = Gaussian(Cosine())
    low, high = (FunctionDenoiser(process, lambda x, t, ctx, v=v: Normal(torch.full_like(x, v))) for v in (1.0, 2.0))
    counted = NFE(low)
    both = ByTime({(0.0, 0.5): counted, (0.5, 1.0): high})
    assert float(both(START, 0.5, Context()).mean[0, 0]) == 1
    assert float(both(START, 0.51, Context()).mean[0, 0]) == 2
    counted.count = 0
    sample(both, START, uniform_times(10), Ancestral(0.0))
    assert counted.count == 5
    assert both.process is process
    with pytest.raises(ValueError, match="must cover"):
        ByTime({(0.0, 0.4): low, (0.5, 1.0): high})


def test_loop_is_differentiable():
    process = Gaussian(Cosine())
    gain = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    denoiser = FunctionDenoiser(process, lambda x, t, ctx: Normal(gain * x))
    sample(denoiser, START, uniform_times(4), Ancestral(0.0)).sum().backward()
    h = 1e-6
    ends = [
        sample(
            FunctionDenoiser(process, lambda x, t, ctx, g=g: Normal(g * x)), START, uniform_times(4), Ancestral(0.0)
        ).sum()
        for g in (0.5 + h, 0.5 - h)
    ]
    assert float(gain.grad) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("step", [Ancestral(1.0), Ancestral(0.4), DPMSolverPP(2)], ids=repr)
def test_sample_does_not_depend_on_the_batch(mixture, step):
    """Same seed and index: the same noise at any batch size, the same sample to rounding."""
    denoiser = mixture.denoiser(Gaussian(Cosine()))
    chain = Chain(uniform_times(10), step)
    whole = chain(denoiser, torch.zeros(7, 2, dtype=torch.float64), Context(), Rng(3, 7))
    for i in range(7):
        one = chain(denoiser, torch.zeros(1, 2, dtype=torch.float64), Context(), Rng(3, [i]))
        torch.testing.assert_close(one[0], whole[i], rtol=0, atol=1e-12)


def test_short_grids_are_refused(mixture):
    with pytest.raises(ValueError, match="no step"):
        sample(mixture.denoiser(Gaussian(Cosine())), START, [1.0], Ancestral())


def test_stochastic_steps_without_rng_are_refused(mixture):
    with pytest.raises(ValueError, match="pass an Rng"):
        sample(mixture.denoiser(Gaussian(Cosine())), START, [1.0, 0.5], Ancestral())


def test_ode_solvers_refuse_tokens(table):
    process = Discrete.absorbing(3)
    with pytest.raises(TypeError, match="no velocity"):
        sample(ExactTokens(table, process), torch.full((1, 2), 3), [1.0, 0.0], Euler())


def test_ideal_denoiser_returns_its_data():
    """With the exact denoiser of a finite set, samples are members of the set."""
    data = torch.randn(20, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = IdealDenoiser(data, Gaussian(Cosine()))
    x = denoiser.process.prior(torch.zeros(50, 1, 3, 3, dtype=torch.float64)).sample(Rng(0, 50))
    out = sample(denoiser, x, uniform_times(30), Ancestral(), rng=Rng(1, 50))
    nearest = torch.cdist(out.flatten(1), data.flatten(1)).min(1)
    assert float(nearest.values.max()) < 1e-2
    assert len(nearest.indices.unique()) > 12


def test_churn_needs_a_gaussian_process_and_leaves_quiet_levels_alone(mixture):
    denoiser = mixture.denoiser(Gaussian(EDM()))
    quiet = Churn(Heun(), gamma=0.3, sigma_min=1e9, sigma_max=1e10)
    x, grid = START * 80, karras_times(denoiser.process.schedule, 8)
    assert torch.equal(sample(denoiser, x, grid, quiet, rng=Rng(0, 4)), sample(denoiser, x, grid, Heun()))
