"""FALDA: what its parts split off, what its losses teach, and what its forecasts are made of."""

import numpy as np
import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.training import Batch
from polydiff.timeseries.falda import Falda, FaldaConfig, _Values
from polydiff.timeseries.falda_networks import FaldaNet, ResidualDiffusion, moving_average, strongest_modes

SMALL = FaldaConfig(context=12, horizon=4, modes=2, kernel=3, hidden=8, width=8, depth=1, steps=2, batch_size=8)


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small_model(seed=0):
    return Falda(SMALL, seed=seed)._model_from(_Values(1, True))


def series(n=6, length=40):
    return [np.sin(np.arange(length) / 3 + k) + k for k in range(n)]


@pytest.mark.parametrize("length", [12, 13])
def test_the_strongest_modes_are_those_of_largest_amplitude(length):
    t = torch.arange(length, dtype=torch.float64)
    waves = torch.stack([a * torch.cos(2 * torch.pi * k * t / length + 0.3) for k, a in ((1, 2.0), (3, 1.0), (4, 0.2))])
    x = waves.sum(0)[None, :, None]
    torch.testing.assert_close(strongest_modes(x, 2)[0, :, 0], waves[:2].sum(0))
    torch.testing.assert_close(strongest_modes(x, 3), x)
    torch.testing.assert_close(strongest_modes(numbers(0, 2, length, 3), 99), numbers(0, 2, length, 3))


def test_modes_are_chosen_for_each_window_and_channel():
    x = numbers(0, 3, 16, 2)
    whole = strongest_modes(x, 3)
    for b in range(3):
        for d in range(2):
            torch.testing.assert_close(strongest_modes(x[b : b + 1, :, d : d + 1], 3)[0, :, 0], whole[b, :, d])
    assert float((whole * (x - whole)).sum(1).abs().max()) < 1e-9  # a projection


def test_moving_averages_repeat_the_ends():
    x = numbers(1, 2, 9, 1)
    padded = np.pad(x[0, :, 0].numpy(), 2, mode="edge")
    np.testing.assert_allclose(moving_average(x, 5)[0, :, 0].numpy(), np.convolve(padded, np.ones(5) / 5, "valid"))
    assert torch.equal(moving_average(x, 1), x)


def test_modes_trend_and_noise_make_up_the_context():
    point, x = small_model().network.point.double(), numbers(2, 3, 12, 1)
    modes = strongest_modes(x, 2)
    torch.testing.assert_close(point(x).noise, (x - modes) - moving_average(x - modes, 3))


def test_no_gradient_of_the_diffusion_reaches_the_point_model():
    model = small_model()
    for w in model.network.denoise.parameters():  # zero-initialised ends would hide a gradient
        torch.nn.init.normal_(w, std=0.3)
    batch = Batch(numbers(0, 8, 4, 1).float(), Context(cond={"history": numbers(1, 8, 12, 1).float()}))
    loss = ResidualDiffusion(model)(batch, Rng(0))
    assert set(loss.terms) == {"point", "modes", "loss"}
    loss.terms["loss"][0].backward(retain_graph=True)
    assert all(p.grad is None for p in model.network.point.parameters())
    assert any(float(p.grad.abs().sum()) > 0 for p in model.network.denoise.parameters() if p.grad is not None)
    model.zero_grad()
    (loss.terms["point"][0] + loss.terms["modes"][0]).backward()
    assert all(p.grad is None for p in model.network.denoise.parameters())
    assert all(float(p.grad.abs().sum()) > 0 for p in model.network.point.parameters())


def test_the_losses_of_the_point_model_are_its_squared_errors():
    model = small_model()
    y, history = numbers(0, 8, 4, 1).float(), numbers(1, 8, 12, 1).float()
    found = model.network.point(history)
    loss = ResidualDiffusion(model)(Batch(y, Context(cond={"history": history})), Rng(0)).report()
    assert float(loss["point"]) == pytest.approx(float(((y - found.mean) ** 2).mean()))
    assert float(loss["modes"]) == pytest.approx(float(((found.modes - strongest_modes(y, 2)) ** 2).mean()))


def test_the_diffusion_is_of_standardised_residuals():
    model, seen = small_model(), []
    objective = ResidualDiffusion(model)
    objective.denoising.forward = lambda batch, rng: (
        seen.append(batch) or objective.denoising.__class__.forward(objective.denoising, batch, rng)
    )
    y, history = 3 * numbers(0, 400, 4, 1).float(), numbers(1, 400, 12, 1).float()
    objective(Batch(y, Context(cond={"history": history})), Rng(0))
    found = model.network.point(history)
    torch.testing.assert_close(seen[0].x0.square().mean(0), torch.ones(4, 1))
    torch.testing.assert_close(seen[0].x0 * model.network.spread, y - found.mean)
    assert torch.equal(seen[0].ctx.cond["noise"], found.noise)
    assert set(seen[0].ctx.cond) == {"noise"}


def test_the_spread_is_a_running_mean_that_stands_still_in_use():
    net = small_model().network
    assert isinstance(net, FaldaNet)
    for value in (1.0, 3.0):
        net.observe(torch.full((5, 4, 1), value))
    torch.testing.assert_close(net.spread, torch.full((4, 1), 5.0**0.5))
    net.eval().observe(torch.full((5, 4, 1), 100.0))
    torch.testing.assert_close(net.spread, torch.full((4, 1), 5.0**0.5))


class Constant:
    def __init__(self, value):
        self.value = value

    def __call__(self, denoiser, like, ctx, rng):
        return torch.full_like(like, self.value)


def test_a_forecast_is_the_point_plus_the_spread_in_the_units_of_the_context():
    falda = Falda(SMALL).fit(series(), progress=False)
    x = np.stack(series())[:, :20]
    mean, std = x[:, -12:].mean(1, keepdims=True), x[:, -12:].std(1, keepdims=True)
    net = falda.model.network
    with torch.no_grad():
        point = net.point(torch.tensor((x[:, -12:] - mean) / std)[..., None].float()).mean[..., 0].numpy()
    for r in (0.0, 2.0):
        got = falda.forecast(x, 3, sampler=Constant(r))
        expected = mean + std * (point + r * net.spread[:, 0].numpy())
        np.testing.assert_allclose(got, np.repeat(expected[:, None], 3, 1), rtol=1e-5)


def test_draws_depend_on_seed_series_and_number_alone():
    falda = Falda(SMALL).fit(series(), progress=False)
    x = np.stack(series())[:, :20]
    whole = falda.forecast(x, 4, seed=1)
    np.testing.assert_allclose(falda.forecast(x, 2, seed=1, batch_size=3), whole[:, :2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(falda.forecast(x[:2], 4, seed=1), whole[:2], rtol=1e-5, atol=1e-5)
    assert not np.allclose(falda.forecast(x, 4, seed=2), whole)
    np.testing.assert_allclose(falda.forecast(10 * x + 3, 4, seed=1), 10 * whole + 3, rtol=1e-4, atol=1e-3)


def test_channels_and_saving(tmp_path):
    pairs = [np.stack([s, -s], 1) for s in series()]
    falda = Falda(SMALL).fit(pairs, progress=False)
    x = np.stack(pairs)[:, :20]
    out = falda.forecast(x, 3, seed=4)
    assert out.shape == (6, 3, 4, 2)
    np.testing.assert_array_equal(Falda.load(falda.save(tmp_path / "falda")).forecast(x, 3, seed=4), out)


def test_refusals():
    with pytest.raises(ValueError, match="kernel=4"):
        FaldaConfig(kernel=4)
    with pytest.raises(ValueError, match="context=1"):
        FaldaConfig(context=1)
    with pytest.raises(ValueError, match="16 steps of a window"):
        Falda(SMALL).fit([np.arange(15.0)])
    with pytest.raises(ValueError, match="not finite"):
        Falda(SMALL).fit([np.full(30, np.nan)])
    with pytest.raises(ValueError, match="call fit"):
        Falda(SMALL).forecast(np.zeros((1, 12)))
    falda = Falda(SMALL).fit(series(), progress=False)
    with pytest.raises(ValueError, match="at least 12 steps"):
        falda.forecast(np.zeros((1, 11)))
    with pytest.raises(ValueError, match="num_samples=0"):
        falda.forecast(np.zeros((1, 12)), 0)


@pytest.mark.slow
def test_it_learns_how_large_the_noise_is():
    """Noise that keeps its size over a series: bands of loud series are wide, those of quiet ones narrow."""
    g = np.random.default_rng(0)
    size = np.exp(g.uniform(-1.5, 0.5, 80))[:, None]
    x = np.sin(np.arange(120) / 3) * 2 + size * g.normal(size=(80, 120))
    config = FaldaConfig(context=24, horizon=6, kernel=5, width=48, steps=1000, ema=0.99)
    out = Falda(config).fit(list(x[:, :90]), progress=False).forecast(x[:, :114], 64)
    bands = out.std(1).mean(1)
    assert np.corrcoef(np.log(bands), np.log(size[:, 0]))[0, 1] > 0.8
    low, high = np.quantile(out, [0.05, 0.95], 1)
    assert 0.8 < ((x[:, 114:] >= low) & (x[:, 114:] <= high)).mean() < 0.97
