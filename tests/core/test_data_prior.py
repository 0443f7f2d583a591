"""Data-dependent priors: equal to a change of variables done by hand, exact laws, and fewer steps where the prior is good."""

import math

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import EpsPrediction, FunctionDenoiser, Model, VPrediction
from polydiff.core.distributions import Dirac, Normal
from polydiff.core.evaluation import nelbo, ode_log_prob
from polydiff.core.networks import MLP, FourierEmbedding
from polydiff.core.oracles import GaussianMixture
from polydiff.core.processes import Flow, Gaussian
from polydiff.core.processes.adapted import Adapted, Whitened
from polydiff.core.sampling import Ancestral, DPMSolverPP, Euler, Heun, sample
from polydiff.core.schedules import Cosine, RectifiedFlow, VPLinear, uniform_times
from polydiff.core.training import Batches, Denoising, Phase, Trainer, VWeight

F64 = torch.float64
N = 6
MEAN, STD = torch.tensor([0.7, -1.5], dtype=F64), torch.tensor([0.4, 2.5], dtype=F64)
CTX = Context(side={"prior_mean": MEAN.expand(N, 2), "prior_std": STD.expand(N, 2)})


def around(mixture):
    """The mixture in units of the data, ``m + s · mixture``."""
    return GaussianMixture(mixture.log_weights.exp(), MEAN + STD * mixture.means, STD * mixture.stds)


def wide(n, ctx=CTX):
    return ctx.replace(side={k: v[:1].expand(n, -1) for k, v in ctx.side.items()})


@pytest.mark.parametrize("schedule", [Cosine, VPLinear, RectifiedFlow])
@pytest.mark.parametrize("step", [Ancestral(), Ancestral(eta=0.0), DPMSolverPP(2), Euler(), Heun()])
def test_sampling_is_the_change_of_variables_done_by_hand(mixture, schedule, step):
    plain, adapted = Gaussian(schedule()), Adapted(schedule())
    z = Rng(0).normal(torch.empty(N, 2, dtype=F64))
    times = [1.0, 0.7, 0.45, 0.2, 0.05]  # to a noisy state: there is no exact last step to hide behind
    by_hand = sample(mixture.denoiser(plain), z, times, step, rng=Rng(1, N))
    start = MEAN + STD * z
    found = sample(around(mixture).denoiser(adapted), start, times, step, CTX, rng=Rng(1, N))
    assert torch.allclose(found, MEAN + STD * by_hand, atol=1e-9)


def test_the_prior_is_the_one_that_was_given():
    law = Adapted(Cosine()).prior(torch.zeros(N, 2, dtype=F64), CTX)
    assert torch.allclose(law.mean, MEAN.expand(N, 2), atol=1e-4)
    assert torch.allclose(law.std, STD.expand(N, 2), rtol=1e-4)


@pytest.mark.parametrize("time", [0.6, torch.full((N,), 0.6, dtype=F64)])
def test_forward_kernels_compose_and_reverse_kernels_undo_them(time):
    """x_t ~ marginal and x_s ~ transition(x_t, δ(x_0)) leave x_s ~ marginal, by moments in closed form."""
    process, x0 = Adapted(Cosine()), Rng(0).normal(torch.empty(N, 2, dtype=F64))
    s = 0.25 if isinstance(time, float) else torch.full((N,), 0.25, dtype=F64)
    early, late = process.marginal(x0, s, CTX), process.marginal(x0, time, CTX)
    on = process.marginal(early.mean, time, CTX, since=s)
    slope = process.marginal(early.mean + 1, time, CTX, since=s).mean - on.mean
    assert torch.allclose(on.mean, late.mean)
    assert torch.allclose((slope * early.std) ** 2 + on.std**2, (late.std**2).expand(N, 2))
    for eta in (0.0, 0.5, 1.0):
        back = process.transition(late.mean, Dirac(x0), time, s, CTX, eta=eta)
        slope = process.transition(late.mean + 1, Dirac(x0), time, s, CTX, eta=eta).mean - back.mean
        spread = 0.0 if isinstance(back.std, float) else back.std
        assert torch.allclose(back.mean, early.mean)
        assert torch.allclose((slope * late.std) ** 2 + spread**2, (early.std**2).expand(N, 2))


def test_the_flow_gives_the_density_in_units_of_the_data(mixture):
    data = around(mixture)
    x = data.sample(N, Rng(3))
    found = ode_log_prob(data.denoiser(Adapted(Cosine())), x, uniform_times(200), CTX)
    assert torch.allclose(found, data.log_prob(x), atol=0.02)


def test_the_bound_is_the_likelihood_under_the_exact_denoiser(mixture):
    n, data = 1500, around(mixture)
    x = data.sample(n, Rng(4))
    gap = nelbo(data.denoiser(Adapted(Cosine())), x, uniform_times(40), wide(n), rng=Rng(5)) + data.log_prob(x)
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(n) + 1e-3


def test_loss_and_integrand_are_those_of_standardised_data():
    plain, adapted = Gaussian(Cosine()), Adapted(Cosine())
    x0, guess, x_t = Rng(0).normal(torch.empty(3, N, 2, dtype=F64)).unbind()
    y0, u, y_t = ((v - MEAN) / STD for v in (x0, guess, x_t))
    for name in ("loss", "bound"):
        found = getattr(adapted, name)(Normal(guess), x0, x_t, 0.4, CTX)
        assert torch.allclose(found, getattr(plain, name)(Normal(u), y0, y_t, 0.4))
    assert torch.allclose(adapted.score(x_t, Normal(guess), 0.4, CTX) * STD, plain.score(y_t, Normal(u), 0.4))


@pytest.mark.parametrize("pre", [EpsPrediction(), VPrediction()])
def test_networks_see_unit_scales(pre):
    process, x0 = Adapted(Cosine()), Rng(0).normal(torch.empty(N, 2, dtype=F64))
    z = Rng(1).normal(x0)
    c = process.at(0.4)
    y_t = c.a * (x0 - MEAN) / STD + c.g * z
    raw = z if isinstance(pre, EpsPrediction) else c.a * z - c.g * (x0 - MEAN) / STD
    inputs, level = Whitened(pre).inputs(process, MEAN + STD * y_t, 0.4, CTX)
    assert torch.allclose(inputs, y_t) and torch.equal(level, pre.inputs(Gaussian(Cosine()), y_t, 0.4, Context())[1])
    assert torch.allclose(Whitened(pre).posterior(process, raw, MEAN + STD * y_t, 0.4, CTX).mean, x0)


def test_one_entry_is_enough_and_none_is_refused():
    x = torch.zeros(N, 2, dtype=F64)
    only = Context(side={"prior_std": STD.expand(N, 2)})
    assert torch.allclose(Adapted(Cosine()).prior(x, only).mean, x)
    energy = Context(side={"frame_std": torch.linspace(1, 2, N, dtype=F64)})  # one number a sample
    law = Adapted(Cosine(), name="frame").marginal(x, 0.5, energy)
    assert float(law.std[-1] / law.std[0]) == pytest.approx(2)
    assert law.sample(Rng(0)).shape == x.shape
    with pytest.raises(ValueError, match="without a coupling"):
        Adapted(Cosine()).marginal(x, 0.5, CTX.replace(x1=x))
    with pytest.raises(ValueError, match="prior_mean"):
        Adapted(Cosine()).prior(x, Context())
    with pytest.raises(ValueError, match="prior_mean"):
        Adapted(Cosine()).coef(0.5, Context())
    with pytest.raises(TypeError, match="not of Flow"):
        Whitened(VPrediction()).inputs(Flow(), x, 0.5, Context())


# ------------------------------------------------------------------ what it is for


def regression(n, seed):
    """y = sin(3c) + (0.05 + 0.3 |c|) e, standardised; the prior is a polynomial fit."""
    c = 2 * Rng(seed).uniform(torch.empty(n)) - 1
    e = Rng(seed).child("noise").normal(torch.empty(n, dtype=F64))
    y = (torch.sin(3 * c) + (0.05 + 0.3 * c.abs()) * e)[:, None].float()
    return c[:, None].float(), y


def prior_of(c, y, queries):
    """A cubic through the training data, and a quadratic through its squared residuals."""

    def fitted(values, degree):
        powers, asked = (v[:, :1] ** torch.arange(degree + 1) for v in (c, queries))
        weights = torch.linalg.lstsq(powers, values).solution
        return powers @ weights, asked @ weights

    inside, mean = fitted(y, 3)
    _, variance = fitted((y - inside) ** 2, 2)
    return {"prior_mean": mean, "prior_std": variance.clamp_min(1e-2).sqrt()}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.time, self.body = FourierEmbedding(32), MLP(2, 1, width=32, depth=2, cond=32)

    def forward(self, x, level, ctx):
        return self.body(torch.cat([x, ctx.cond["c"]], 1), self.time(level))


def conditional_error(adapted, steps, training, seed=0):
    """Mean 1-Wasserstein distance of the law of y given c to the true one, at 8 values of c."""
    c, y = regression(2000, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net()
    if adapted:
        model = Model(net, Adapted(Cosine()), Whitened(VPrediction()))
    else:
        model = Model(net, Gaussian(Cosine()), VPrediction())
    batches = Batches(y, ctx=Context(cond={"c": c}, side=prior_of(c, y, c)), batch_size=128, seed=seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    Trainer([Phase(Denoising(model, weight=VWeight()), optimiser)], seed=seed, progress=False).fit(batches, training)
    n, errors = 1000, []
    ranks = (torch.arange(n, dtype=F64) + 0.5) / n
    scores = math.sqrt(2) * torch.erfinv(2 * ranks - 1)
    for value in torch.linspace(-0.9, 0.9, 8).tolist():
        q = torch.full((n, 1), value)
        ctx = Context(cond={"c": q}, side=prior_of(c, y, q))
        start = model.process.prior(q, ctx).sample(Rng(seed + 1))
        with torch.no_grad():
            x = sample(model, start, uniform_times(steps), DPMSolverPP(2), ctx)
        truth = math.sin(3 * value) + (0.05 + 0.3 * abs(value)) * scores
        errors.append(float((x[:, 0].double().sort().values - truth).abs().mean()))
    return sum(errors) / len(errors)


def test_a_good_prior_needs_fewer_steps_under_the_exact_denoiser():
    """Data that are the prior have no velocity, so that one step is exact; from the standard prior many are not."""
    data = GaussianMixture(torch.ones(1, dtype=F64), MEAN[None], STD[None])
    n = 4000
    z = Rng(0).normal(torch.empty(n, 2, dtype=F64))
    errors = {}
    for steps in (1, 4):
        for process, ctx in ((Adapted(Cosine()), wide(n)), (Gaussian(Cosine()), Context())):
            start = process.prior(z, ctx).draw(z)
            x = sample(
                data.denoiser(process), start, [1 - i / steps * (1 - 1e-3) for i in range(steps + 1)], Euler(), ctx
            )
            errors[type(process), steps] = float((x - MEAN - STD * z).abs().mean())
    assert errors[Adapted, 1] < 1e-3
    assert errors[Gaussian, 4] > 0.1


@pytest.mark.slow
def test_a_good_prior_learns_faster_and_samples_in_fewer_steps():
    """Same network, budget and seeds; the prior is a polynomial fit."""
    for training, share in ((50, 0.35), (200, 0.65)):
        ours, theirs = (sum(conditional_error(a, 6, training, s) for s in range(3)) / 3 for a in (True, False))
        assert ours < share * theirs, (training, ours, theirs)


def test_a_function_denoiser_may_return_any_law(mixture):
    """The reverse kernel takes the posterior as it comes: a mixture stays a mixture."""
    process, data = Adapted(Cosine()), around(mixture)
    denoiser = FunctionDenoiser(process, lambda x, t, ctx: data.posterior(process, x, t, ctx))
    n = 6000
    start = process.prior(torch.zeros(n, 2, dtype=F64), wide(n)).sample(Rng(0))
    x = sample(denoiser, start, uniform_times(3), Ancestral(), wide(n), rng=Rng(1))
    assert torch.allclose(x.mean(0), data.mean, atol=0.1)
    assert torch.allclose(x.var(0), data.variance, rtol=0.06)
