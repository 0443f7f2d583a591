"""Self-guidance and refinement against Gaussians, where both are linear and known in closed form."""

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser, Model, VPrediction
from polydiff.core.distributions import Normal
from polydiff.core.guidance.observed import Observed, misfit, quantile_levels
from polydiff.core.inverse import refine
from polydiff.core.processes import Discrete, Gaussian
from polydiff.core.sampling import Ancestral, Chain, Replace, sample
from polydiff.core.schedules import VE, Cosine, RectifiedFlow, VPLinear, uniform_times
from polydiff.core.training import VWeight

SIGMA = torch.tensor([[1.0, 0.8, 0.5], [0.8, 1.0, 0.8], [0.5, 0.8, 1.0]], dtype=torch.float64)
MEAN = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


def exact(process):
    """The denoiser of N(MEAN, SIGMA), spread included."""

    def f(x, t, ctx):
        a, _, g = process.coef(t, ctx)
        gain = a * SIGMA @ torch.linalg.inv(a * a * SIGMA + g * g * torch.eye(3, dtype=torch.float64))
        spread = (SIGMA - a * gain @ SIGMA).diagonal().clamp_min(0).sqrt()
        return Normal(MEAN + (x - a * MEAN) @ gain.T, spread.expand_as(x))

    return FunctionDenoiser(process, f)


def observing(n, value=1.5):
    """The first of three numbers is known."""
    known = torch.tensor([[True, False, False]]).expand(n, 3)
    return Context(known=known, given=torch.tensor([[value, torch.nan, torch.nan]], dtype=torch.float64).expand(n, 3))


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("schedule", [VPLinear, RectifiedFlow, lambda: VE(sigma_max=5.0)])
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "element times"])
def test_the_shift_is_that_of_the_guided_score(schedule, t, own):
    """``x̂_0 + s g²/a J^T (y − x̂_0)`` with J the derivative of the linear denoiser, written out."""
    process, x = Gaussian(schedule()), numbers(0, 4, 3)
    time = torch.full((4, 3), t, dtype=torch.float64) if own else t
    base = exact(process)
    wrapped = FunctionDenoiser(process, lambda u, _, ctx: base(u, t, ctx))
    got = Observed(wrapped, 0.7, limit=1e9)(x, time, observing(4)).mean
    c = process.at(t)
    gain = c.a * SIGMA @ torch.linalg.inv(c.a**2 * SIGMA + c.g**2 * torch.eye(3, dtype=torch.float64))
    mean = MEAN + (x - c.a * MEAN) @ gain.T
    torch.testing.assert_close(got, mean + 0.7 * c.g**2 / c.a * (1.5 - mean[:, :1]) * gain[:1])
    assert t < 0.1 or not torch.allclose(got, mean)


def test_the_quantile_shift_has_the_slope_of_the_pinball_loss():
    process, x = Gaussian(VPLinear()), numbers(0, 4, 3)
    q = quantile_levels(4)
    ctx = observing(4).replace(side={"quantile": q})
    base = exact(process)(x, 0.5, ctx)
    got = Observed(exact(process), 2.0, "quantile")(x, 0.5, ctx)
    c = process.at(0.5)
    gain = c.a * SIGMA @ torch.linalg.inv(c.a**2 * SIGMA + c.g**2 * torch.eye(3, dtype=torch.float64))
    slope = torch.where(base.mean[:, 0] < 1.5, q, q - 1)
    torch.testing.assert_close(got.mean, base.mean + 2.0 * c.g**2 / c.a * slope[:, None] * gain[:1])
    assert torch.equal(got.parts["base"].mean, base.mean)
    assert torch.equal(got.std, base.std)


def test_without_known_entries_it_is_the_model():
    process, x = Gaussian(VPLinear()), numbers(0, 4, 3)
    assert torch.equal(Observed(exact(process), 3.0)(x, 0.5, Context()).mean, exact(process)(x, 0.5, Context()).mean)


def conditional():
    gain = SIGMA[1:, 0] / SIGMA[0, 0]
    return MEAN[1:] + gain * (1.5 - MEAN[0]), SIGMA[1:, 1:] - gain[:, None] * SIGMA[:1, 1:]


def gaps(out):
    """Largest errors of the means, and of the standard deviations, of the two free numbers."""
    mean, cov = conditional()
    free = out[:, 1:]
    return float((free.mean(0) - mean).abs().max()), float((free.std(0) - cov.diagonal().sqrt()).abs().max())


def guided(scale, loss="gaussian", steps=64, n=3000):
    process, ctx = Gaussian(VPLinear()), observing(n)
    ctx = ctx.replace(side={"quantile": quantile_levels(n)})
    with torch.no_grad():
        return Chain(uniform_times(steps), Ancestral(1.0))(
            Observed(exact(process), scale, loss), numbers(0, n, 3), ctx, Rng(0)
        )


def test_a_run_ends_with_what_is_known_and_near_the_conditional_law():
    """No fixed scale is exact; the scale that follows the log-SNR comes close, and closer than overwriting does."""
    n, process = 3000, Gaussian(VPLinear())
    out = guided(VWeight())
    assert bool((out[:, 0] == 1.5).all())
    assert bool(torch.isfinite(out).all())
    near = gaps(out)
    assert near[0] < 0.08
    assert near[1] < 0.08
    loose = gaps(guided(0.0))
    assert loose[0] > 0.5
    replaced = sample(
        exact(process), numbers(0, n, 3), uniform_times(64), Ancestral(1.0), observing(n), rng=Rng(0),
        controls=[Replace(process, Rng(1))],
    )  # fmt: skip
    assert gaps(replaced)[0] > 2 * near[0]


def test_the_pull_grows_with_the_scale():
    means = [float((guided(s)[:, 1] - guided(0.0)[:, 1]).mean()) for s in (0.5, 2.0, 8.0)]
    assert 0.02 < means[0] < 0.7 * means[1] < 0.7 * means[2], means


def test_gradients_go_through_a_network_and_stay_out_of_its_weights():
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 3)
    model = Model(lambda x, level, ctx: net(x), Gaussian(Cosine()), VPrediction())
    x = numbers(0, 4, 3).float()
    with torch.no_grad():
        law = Observed(model, 1.0)(x, 1.0, observing(4))
    assert law.mean.dtype == torch.float32
    assert not law.mean.requires_grad
    assert bool(torch.isfinite(law.mean).all())
    assert net.weight.grad is None


def test_the_factor_is_limited_where_all_is_noise():
    """At t = 1 of the cosine schedule g²/a is 2e4: any error of the network's derivative would be blown up."""
    process, x = Gaussian(Cosine()), numbers(0, 4, 3)
    rough = FunctionDenoiser(process, lambda u, t, ctx: Normal(0.1 * u))
    law = Observed(rough, 1.0)(x, 1.0, observing(4))
    torch.testing.assert_close(law.mean[:, 0] - 0.1 * x[:, 0], 20 * 0.1 * (1.5 - 0.1 * x[:, 0]))


def test_padding_is_not_observed():
    process, x = Gaussian(VPLinear()), numbers(0, 4, 3)
    ctx = observing(4)
    ctx = ctx.replace(valid=torch.tensor([[False, True, True]]).expand(4, 3))
    assert torch.equal(Observed(exact(process), 5.0)(x, 0.5, ctx).mean, exact(process)(x, 0.5, ctx).mean)


def test_levels_of_quantiles():
    assert quantile_levels(4).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    x, y = torch.tensor([[0.0], [0.0]]), torch.tensor([[2.0], [-1.0]])
    ctx = Context(side={"quantile": torch.tensor([0.9, 0.9])})
    assert misfit(x, y, "quantile", ctx, None).tolist() == pytest.approx([1.8, 0.1])


def test_refusals():
    process, x, ctx = Gaussian(VPLinear()), numbers(0, 4, 3), observing(4)
    with pytest.raises(ValueError, match="loss="):
        Observed(exact(process), 1.0, "huber")
    with pytest.raises(ValueError, match="level of each sample"):
        Observed(exact(process), 1.0, "quantile")(x, 0.5, ctx)
    tokens = FunctionDenoiser(Discrete.absorbing(3), lambda x, t, ctx: Normal(x))
    with pytest.raises(TypeError, match="linear Gaussian"):
        Observed(tokens, 1.0)(x, 0.5, ctx)
    with pytest.raises(ValueError, match="is told"):
        Observed(FunctionDenoiser(process, lambda x, t, ctx: Normal(x), sees_known=True), 1.0)
    with pytest.raises(ValueError, match="step_size=0"):
        refine(exact(process), x, rng=Rng(0), step_size=0.0)
    with pytest.raises(ValueError, match="samples=0"):
        quantile_levels(0)


# ------------------------------------------------------------------ refinement


def curvature(process, t):
    """Of ``½ E|z − ẑ|²``: ``a² g² P²`` with P the precision of x_t."""
    c = process.at(t)
    p = torch.linalg.inv(c.a**2 * SIGMA + c.g**2 * torch.eye(3, dtype=torch.float64))
    return c.a**2 * c.g**2 * p @ p


@pytest.mark.parametrize("times", [(0.2,), (0.1, 0.3, 0.6)])
@pytest.mark.parametrize("strength", [0.05, 1.0])
def test_descent_ends_at_the_minimiser(times, strength):
    process, y0 = Gaussian(VPLinear()), 2 * numbers(0, 5, 3)
    h = sum(curvature(process, t) for t in times) / len(times)
    expected = MEAN + strength * (y0 - MEAN) @ torch.linalg.inv(h + strength * torch.eye(3, dtype=torch.float64))
    got = refine(exact(process), y0, rng=Rng(0, 5), steps=300, step_size=0.5, strength=strength, times=times)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_what_is_known_is_held_and_the_rest_goes_with_it():
    """The minimiser over the free entries: their block of the curvature, pulled by the known one."""
    process, ctx, s = Gaussian(VPLinear()), observing(5), 0.1
    y0 = numbers(0, 5, 3)
    h = curvature(process, 0.2)
    pull = s * (y0[:, 1:] - MEAN[1:]) - (1.5 - MEAN[0]) * h[1:, 0]
    expected = MEAN[1:] + pull @ torch.linalg.inv(h[1:, 1:] + s * torch.eye(2, dtype=torch.float64))
    got = refine(exact(process), y0, ctx, rng=Rng(0), steps=300, step_size=0.5, strength=s)
    assert bool((got[:, 0] == 1.5).all())
    torch.testing.assert_close(got[:, 1:], expected, rtol=1e-6, atol=1e-6)


def test_langevin_draws_from_the_energy():
    process, s, n = Gaussian(VPLinear()), 0.5, 4000
    y0 = torch.zeros(n, 3, dtype=torch.float64)
    got = refine(exact(process), y0, rng=Rng(0), steps=150, step_size=0.05, strength=s, temperature=0.3)
    h = curvature(process, 0.2) + s * torch.eye(3, dtype=torch.float64)
    # The chain with step e has the covariance T (h (1 − e h / 2))^-1 exactly.
    cov = 0.3 * torch.linalg.inv(h @ (torch.eye(3, dtype=torch.float64) - 0.025 * h))
    torch.testing.assert_close(got.T.cov(), cov, rtol=0, atol=5 * 2**0.5 * float(cov.diagonal().max()) / n**0.5)


def test_pinball_refinement_lets_go_only_where_the_model_pulls_harder():
    """With a subgradient of at most q the base forecast stays where the slope of the model is smaller."""
    process, y0 = Gaussian(VPLinear()), MEAN + 0.05 * numbers(0, 4, 3)
    ctx = Context(side={"quantile": quantile_levels(4)})
    got = refine(exact(process), y0, ctx, rng=Rng(0), steps=100, step_size=0.01, strength=2.0, loss="quantile")
    torch.testing.assert_close(got, y0, rtol=0, atol=0.04)
    far = MEAN + 20 * numbers(0, 4, 3)
    moved = refine(exact(process), far, ctx, rng=Rng(0), steps=100, step_size=0.1, strength=0.1, loss="quantile")
    assert float((moved - MEAN).norm()) < 0.7 * float((far - MEAN).norm())
