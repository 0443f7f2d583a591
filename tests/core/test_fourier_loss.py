"""The Fourier term of the denoising loss: Parseval, the formula, and what its minimiser is."""

import numpy as np
import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser, Model, VPrediction
from polydiff.core.distributions import Normal
from polydiff.core.processes import Discrete, Gaussian
from polydiff.core.schedules import Cosine
from polydiff.core.training import Batch, Denoising, Flat, Loss, MinSNR, PerBlock, Uniform, VWeight
from polydiff.core.training.fourier import FourierLoss


def shrink(x, t, ctx):
    return Normal(0.7 * x + 0.1 * x.roll(1, 1))


def denoising(**options):
    return Denoising(FunctionDenoiser(Gaussian(Cosine()), shrink, sees_known=True), **options)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks():
    u = rand(5, 9, 3, seed=1)
    return Context(valid=u > -1.0, known=u > 0.8, given=rand(5, 9, 3))


@pytest.mark.parametrize("ctx", [Context(), masks()], ids=["all", "masked"])
@pytest.mark.parametrize("times", [Uniform(), PerBlock(Uniform(), 2)], ids=["rows", "steps"])
def test_squares_of_all_frequencies_are_the_plain_loss_again(ctx, times):
    batch = Batch(rand(5, 9, 3), ctx)
    base = denoising(weight=VWeight(), times=times)
    plain = base(batch, Rng(0)).value
    for axis in (1, 2, -1):
        got = FourierLoss(base, 0.5, p=2, axis=axis)(batch, Rng(0)).value
        torch.testing.assert_close(got, 1.5 * plain, rtol=1e-12, atol=0)
    assert torch.equal(FourierLoss(base, 0.0)(batch, Rng(0)).value, plain)


@pytest.mark.parametrize("p", [1, 2])
def test_the_second_term_is_its_formula(p):
    x0, x_t, ctx, t = rand(5, 9, 3), rand(5, 9, 3, seed=2), masks(), torch.linspace(0.2, 0.9, 5).double()
    base = denoising(weight=MinSNR(3.0))
    law = base.model(x_t, t, ctx)
    plain = base.error(law, x0, x_t, t, ctx)
    total = Loss.masked(
        FourierLoss(base, 0.3, p=p, band=lambda f: 1 + f.abs()).error(law, x0, x_t, t, ctx), ctx.scored(), {}
    )
    w = np.sqrt(np.minimum(np.exp(base.model.process.logsnr(t).numpy()), 3.0))[:, None, None]
    e = np.where(ctx.scored().numpy(), w * (law.mean - x0).numpy(), 0.0)
    k = np.arange(9)
    waves = np.einsum("kl,bld->bkd", np.exp(-2j * np.pi * np.outer(k, k) / 9) / 3, e)
    f = np.minimum(k, 9 - k) / 9
    want = (1 + f)[:, None] * (np.abs(waves.real) ** p + np.abs(waves.imag) ** p)
    counted = ctx.scored().any(1, keepdim=True).numpy()
    first = float(plain[ctx.scored()].sum())
    np.testing.assert_allclose(float(total.terms["loss"][0]), first + 0.3 * (want * counted).sum(), rtol=1e-10)
    assert int(total.terms["loss"][1]) == int(ctx.scored().sum())


def test_a_band_keeps_the_mean_and_absolute_errors_do_not():
    """Gradients at the mean of a skewed law of x_0 given x_t."""
    x0 = rand(400, 6, 1).exp()
    mean = x0.mean(0, keepdim=True)
    t, x_t = torch.full((400,), 0.5, dtype=torch.float64), torch.zeros_like(x0)
    base = denoising(weight=Flat())
    gradients = {}
    for name, loss in {
        "band": FourierLoss(base, 5.0, p=2, band=lambda f: (f.abs() < 0.2).to(f)),
        "absolute": FourierLoss(base, 5.0, p=1),
    }.items():
        guess = mean.clone().requires_grad_()
        loss.error(Normal(guess.expand_as(x0)), x0, x_t, t, Context()).sum(2).mean(0).sum().backward()
        gradients[name] = float(guess.grad.abs().max())
    assert gradients["band"] < 1e-12
    assert gradients["absolute"] > 0.1


def test_bands_choose_frequencies():
    x0 = torch.zeros(1, 8, 1, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * 2 * torch.arange(8) / 8).double()[None, :, None]
    t = torch.tensor([0.5], dtype=torch.float64)
    base = denoising(weight=Flat())
    for low, high, want in ((0.2, 0.3, 4.0), (0.0, 0.2, 0.0), (0.3, 0.6, 0.0)):
        loss = FourierLoss(base, 1.0, p=2, band=lambda f, a=low, b=high: ((f.abs() >= a) & (f.abs() < b)).to(f))
        more = loss.error(Normal(wave), x0, x0, t, Context()) - base.error(Normal(wave), x0, x0, t, Context())
        assert float(more.sum()) == pytest.approx(want, abs=1e-12)  # Σ cos² = 4


def test_training_through_it_is_finite_where_the_error_is_nothing():
    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, level, ctx):
            return self.w * x

    net = Scale()
    model = Model(net, Gaussian(Cosine()), VPrediction(), sees_known=True)
    known = torch.zeros(4, 6, 1, dtype=torch.bool)
    known[0] = True  # a series with nothing to score
    x0 = torch.randn(4, 6, 1, generator=torch.Generator().manual_seed(0))
    objective, ctx = FourierLoss(Denoising(model, weight=VWeight()), 0.2), Context(known=known, given=x0)
    loss = objective(Batch(x0, ctx), Rng(0))
    loss.value.backward()
    t = torch.full((4,), 0.5)
    assert bool(torch.as_tensor(objective.error(model(x0, t, ctx), x0, x0, t, ctx)).isfinite().all())
    assert bool(loss.value.isfinite()) and bool(net.w.grad.isfinite()) and float(net.w.grad.abs()) > 0


def test_what_it_refuses():
    class Own(Denoising):
        pass

    base = denoising()
    with pytest.raises(TypeError, match="Own has an error of its own"):
        FourierLoss(Own(base.model))
    with pytest.raises(ValueError, match="'bound'"):
        FourierLoss(denoising(weight="bound"))
    tokens = FunctionDenoiser(Discrete.absorbing(3), lambda x, t, ctx: None)
    with pytest.raises(TypeError, match="need a LinearGaussian"):
        FourierLoss(Denoising(tokens))
    for options, match in (({"weight": -1.0}, "weight=-1.0"), ({"p": 3}, "p=3"), ({"axis": 0}, "axis=0")):
        with pytest.raises(ValueError, match=match):
            FourierLoss(base, **options)
