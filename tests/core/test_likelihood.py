"""Bounds and likelihoods against exact densities."""

import itertools
import math

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Categorical, Dirac, Joint, Normal
from polydiff.core.evaluation.likelihood import nelbo, ode_log_prob
from polydiff.core.oracles import ExactTokens, GaussianMixture
from polydiff.core.processes import Discrete, Gaussian, Product
from polydiff.core.schedules import VE, Cosine, VPLinear, logsnr_times, uniform_times


def test_probability_flow_log_density_is_exact(unpinned, mixture):
    """Within 10⁻² nats of the closed form, for every schedule."""
    schedule = unpinned.path
    if float(schedule.logsnr(1.0)) > -8.5:
        pytest.fail("the prior of this schedule would not match the marginal at t = 1")
    x = mixture.sample(200, Rng(0))
    times = [*logsnr_times(schedule, 120, high=12.0)[:-1], 0.0]
    got = ode_log_prob(mixture.denoiser(unpinned), x, times)
    exact = mixture.noised(unpinned, 0.0, x).log_prob(x)
    assert float((got - exact).abs().max()) < 1e-2
    assert float((got - mixture.log_prob(x)).abs().max()) < 1e-2


def test_hutchinson_estimate_is_unbiased(mixture):
    process = Gaussian(Cosine())
    x = mixture.sample(4, Rng(0))
    times = logsnr_times(process.schedule, 40)
    exact = ode_log_prob(mixture.denoiser(process), x, times)
    rough = ode_log_prob(mixture.denoiser(process), x, times, divergence="hutchinson", probes=400, rng=Rng(1, 4))
    assert float((rough - exact).abs().max()) < 0.15
    with pytest.raises(ValueError, match="pass an Rng"):
        ode_log_prob(mixture.denoiser(process), x, times, divergence="hutchinson")


@pytest.mark.parametrize("steps", [1, 4, 64])
def test_gaussian_bound_with_spread_is_the_entropy_at_any_number_of_steps(steps):
    """Data N(0.7, 0.25): the T-step bound equals the entropy for every T once the posterior's spread is carried."""
    process, n = Gaussian(Cosine()), 20_000
    data = GaussianMixture(torch.ones(1), torch.full((1, 1), 0.7), torch.full((1,), 0.5))
    x0 = data.sample(n, Rng(0)).double()

    def posterior(x, t, ctx):
        c = process.at(t)
        var = c.a**2 * 0.25 + c.g**2
        return Normal(0.7 + c.a * 0.25 / var * (x - c.a * 0.7), math.sqrt(0.25 / var) * c.g)

    got = nelbo(FunctionDenoiser(process, posterior), x0, uniform_times(steps), rng=Rng(1))
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert float(got.mean()) == pytest.approx(entropy, abs=4 * float(got.std()) / math.sqrt(n) + 1e-3)


def test_the_bound_pays_for_a_prior_that_misses():
    """Too little noise: q(x_1 | x_0) = N(3, ¼) is not the prior N(0, ¼), and their divergence of 18 nats counts."""
    process = Gaussian(VE(sigma_max=0.5))
    data = GaussianMixture(torch.ones(1), torch.full((1, 1), 3.0), torch.full((1,), 1e-3))
    x0 = data.sample(200, Rng(0)).double()
    paid = nelbo(data.denoiser(process), x0, uniform_times(64), rng=Rng(1)) + data.log_prob(x0)
    assert float(paid.mean()) == pytest.approx(18.0, rel=0.02)


def test_gaussian_bound_without_spread_lies_above_and_falls_with_the_steps():
    process = Gaussian(Cosine())
    x0 = 0.7 + 0.5 * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def mean(x, t, ctx):
        c = process.at(t)
        return Normal(0.7 + c.a * 0.25 / (c.a**2 * 0.25 + c.g**2) * (x - c.a * 0.7))

    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    times = [logsnr_times(process.schedule, n, high=15.0)[:-1] for n in (8, 64)]
    gaps = [float(nelbo(FunctionDenoiser(process, mean), x0, grid, rng=Rng(1)).mean()) - entropy for grid in times]
    assert gaps[0] > gaps[1] > -0.02


def test_mixture_bound_is_never_below_the_entropy(mixture):
    process, n = Gaussian(VPLinear()), 4000
    x0 = mixture.sample(n, Rng(0))
    gap = nelbo(mixture.denoiser(process), x0, uniform_times(10), rng=Rng(1)) + mixture.log_prob(x0)
    assert float(gap.mean()) == pytest.approx(0, abs=5 * float(gap.std()) / math.sqrt(n) + 2e-2)


@pytest.mark.parametrize("make", [Discrete.absorbing, Discrete.uniform], ids=["absorbing", "uniform"])
def test_token_bound_is_above_the_entropy_and_tight_for_one_token(table, make):
    n = 20_000
    for p, tight in ((table.sum(1), True), (table, False)):
        process = make(3)
        oracle = ExactTokens(p, process)
        cells = list(itertools.product(range(3), repeat=p.ndim))
        picks = torch.multinomial(p.flatten(), n, replacement=True, generator=torch.Generator().manual_seed(0))
        x0 = torch.tensor(cells)[picks]
        gaps = []
        for steps in (2, 32):
            bound = nelbo(oracle, x0, uniform_times(steps), rng=Rng(1))
            gaps.append(float(bound.mean()) - oracle.entropy())
        noise = 5 * float(bound.std()) / math.sqrt(n)
        assert min(gaps) > -noise
        if tight:
            assert max(gaps) < noise
        else:
            assert gaps[1] < gaps[0]


def test_product_bound_is_the_sum_over_its_fields():
    process = Product(pos=Gaussian(Cosine()), kind=Discrete.absorbing(2))
    p = torch.tensor([0.3, 0.7], dtype=torch.float64)
    n = 5000
    kind = (torch.rand(n, 1, generator=torch.Generator().manual_seed(0)) < 0.7).long()
    pos = 0.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def f(x, t, ctx):
        c = process.fields["pos"].at(t)
        var = c.a**2 * 0.25 + c.g**2
        law = Normal(c.a * 0.25 / var * x["pos"], 0.5 * c.g / math.sqrt(var))
        return Joint({"pos": law, "kind": Categorical(p.log().expand(n, 1, 2))})

    got = nelbo(FunctionDenoiser(process, f), {"pos": pos, "kind": kind}, uniform_times(8), rng=Rng(0))
    exact = 0.5 * math.log(2 * math.pi * math.e * 0.25) - float((p * p.log()).sum())
    assert float(got.mean()) == pytest.approx(exact, abs=5 * float(got.std()) / math.sqrt(n))


def test_known_and_padded_elements_are_left_out(mixture):
    process = Gaussian(Cosine())
    x0 = mixture.sample(50, Rng(0))
    law = FunctionDenoiser(process, lambda x, t, ctx: Normal(torch.zeros_like(x), 1.0), sees_known=True)
    valid = torch.tensor([[True, False]]).expand(50, 2)
    half = [
        nelbo(law, torch.where(valid, x0, g), uniform_times(4), Context(valid=valid), rng=Rng(1)) for g in (0.0, 1e6)
    ]
    assert torch.equal(*half)
    ctx = Context(known=~valid, given=x0)
    torch.testing.assert_close(nelbo(law, x0, uniform_times(4), ctx, rng=Rng(1)), half[0])


def test_tokens_have_no_probability_flow(table):
    with pytest.raises(TypeError, match="use nelbo"):
        ode_log_prob(ExactTokens(table, Discrete.absorbing(3)), torch.zeros(1, 2), [1.0, 0.0])
    assert Dirac(torch.zeros(1)).log_prob(torch.zeros(1)) == 0
