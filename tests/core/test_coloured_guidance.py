"""Self-guidance and refinement under noise that is correlated, against Gaussians where both are linear."""

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import GP, Normal
from polydiff.core.distributions.kernels import RBF
from polydiff.core.guidance.observed import Observed
from polydiff.core.inverse import refine
from polydiff.core.processes import Gaussian
from polydiff.core.processes.noises import GPNoise
from polydiff.core.schedules import VPLinear

EYE = torch.eye(3, dtype=torch.float64)
DATA = torch.tensor([[1.0, 0.8, 0.5], [0.8, 1.0, 0.8], [0.5, 0.8, 1.0]], dtype=torch.float64)
MEAN = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
PLACES = torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64)
T = 0.4


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def setting(n):
    process = Gaussian(VPLinear(), noise=GPNoise(RBF(1.0)))
    ctx = Context(side={"at": PLACES.expand(n, 3)})
    w = EYE.expand(3, 3)
    rows = process.law(w, Context(side={"at": PLACES.expand(3, 3)})).colour(w).T  # L, column by column
    return process, ctx, rows @ rows.T


def exact(process, sigma, times=None):
    """The denoiser of N(MEAN, DATA) under noise of covariance sigma."""

    def f(x, t, ctx):
        c = process.at(t if times is None else times)
        a, g = (torch.as_tensor(v, dtype=torch.float64).expand(3).diag() for v in (c.a, c.g))
        gain = DATA @ a @ torch.linalg.inv(a @ DATA @ a + g @ sigma @ g)
        return Normal(MEAN + (x - MEAN @ a) @ gain.T, 0.5, process.law(x, ctx))

    return FunctionDenoiser(process, f)


def observing(ctx, n):
    known = torch.tensor([[True, False, False]]).expand(n, 3)
    return ctx.replace(known=known, given=torch.tensor([[1.5, torch.nan, torch.nan]], dtype=torch.float64).expand(n, 3))


def test_the_noise_is_correlated_here():
    _, _, sigma = setting(1)
    assert 0.5 < float(sigma[0, 1]) < 0.99


@pytest.mark.parametrize("own", [False, True], ids=["shared", "element times"])
def test_the_shift_of_the_mean_has_the_covariance_of_the_noise(own):
    """``x̂_0 + a⁻¹ g Σ g · s Jᵀ (y − x̂_0)``: Tweedie's formula for the guided score, written out."""
    process, ctx, sigma = setting(4)
    x = numbers(0, 4, 3)
    times = torch.tensor([0.2, 0.4, 0.7], dtype=torch.float64) if own else None
    denoiser = exact(process, sigma, times)
    got = Observed(denoiser, 0.7, limit=1e9)(x, times.expand(4, 3) if own else T, observing(ctx, 4))
    c = process.at(times if own else T)
    a, g = (torch.as_tensor(v, dtype=torch.float64).expand(3).diag() for v in (c.a, c.g))
    gain = DATA @ a @ torch.linalg.inv(a @ DATA @ a + g @ sigma @ g)
    mean = MEAN + (x - MEAN @ a) @ gain.T
    torch.testing.assert_close(
        got.mean, mean + 0.7 * (1.5 - mean[:, :1]) * (torch.linalg.inv(a) @ g @ sigma @ g @ gain[0])
    )


def test_the_guided_law_keeps_the_noise_of_the_posterior():
    process, ctx, sigma = setting(4)
    got = Observed(exact(process, sigma), 0.7)(numbers(0, 4, 3), T, observing(ctx, 4))
    assert isinstance(got.law, GP)
    assert isinstance(got.parts["base"].law, GP)
    assert got.std == 0.5


def test_refinement_judges_by_the_noise_of_the_process():
    """The minimiser of ``½ |L⁻¹ (z − ẑ)|² + ½ s |y − y0|²``: a quadratic form with ``a² g² P Σ P``, P the precision of x_t."""
    process, ctx, sigma = setting(5)
    y0, s = 2 * numbers(0, 5, 3), 0.3
    c = process.at(0.2)
    p = torch.linalg.inv(c.a**2 * DATA + c.g**2 * sigma)
    h = c.a**2 * c.g**2 * p @ sigma @ p
    expected = MEAN + s * (y0 - MEAN) @ torch.linalg.inv(h + s * EYE)
    got = refine(exact(process, sigma), y0, ctx, rng=Rng(0, 5), steps=300, step_size=0.5, strength=s)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_the_noise_of_refinement_is_that_of_the_process():
    process, ctx, sigma = setting(4000)
    seen = []

    def watch(x, t, ctx):
        seen.append(x)
        return Normal(0.0 * x)

    refine(FunctionDenoiser(process, watch), torch.zeros(4000, 3, dtype=torch.float64), ctx, rng=Rng(0), steps=1)
    found = seen[0].T.cov() / process.at(0.2).g ** 2
    torch.testing.assert_close(found, sigma, rtol=0, atol=0.1)
