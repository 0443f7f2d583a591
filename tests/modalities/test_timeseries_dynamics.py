"""Dynamics-informed diffusion: ends, masks, exact cold roll-out; spherical transforms and what they commute with."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y

from polydiff.core import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Dirac
from polydiff.core.sampling import Ancestral, trajectory
from polydiff.core.sampling.cold import Cold
from polydiff.core.training import Batch, Denoising
from polydiff.datasets.dynamics import NoisyTransport
from polydiff.timeseries.dynamics import DynamicsConfig, DynamicsForecaster, field_net
from polydiff.timeseries.dynamics_networks import EndForecaster, FieldNet, Interpolator, LocalMix, SeededDropout
from polydiff.timeseries.evolution import Evolution, Forecasting, Interpolation, step_times
from polydiff.timeseries.field_codec import FieldCodec
from polydiff.timeseries.spherical import CircularMix, SphericalConv, SphericalMix, SphericalTransform, legendre

SMALL = DynamicsConfig(horizon=4, width=8, depth=2, steps=3, batch_size=8)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def awake(module, seed=0):
    """A network as if trained: no layer is zero."""
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return module.double()


def ring_net(inputs=2, outputs=1, dropout=0.3):
    return awake(FieldNet(inputs, outputs, [LocalMix(8, 3, ring=True) for _ in range(2)], width=8, dropout=dropout))


# ------------------------------------------------------------------ the process


def test_the_grid_has_every_step_of_the_system_and_the_extra_times_before_the_first():
    assert step_times(4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert step_times(2, extra=3) == (1.0, 0.875, 0.75, 0.625, 0.5, 0.0)
    with pytest.raises(ValueError, match="at least 2"):
        step_times(1)


def test_the_forward_process_is_the_interpolator_and_ends_in_the_two_states():
    process = Evolution(Interpolator(ring_net()))
    first, last = normal(3, 6, 1), normal(3, 6, 1, seed=1)
    ctx = Context(x1=first)
    assert bool((process.marginal(last, 0.0, ctx).sample(Rng(0, 3)) == last).all())
    assert bool((process.marginal(last, 1.0, ctx).sample(Rng(0, 3)) == first).all())
    t = torch.tensor([0.25, 0.0, 1.0], dtype=torch.float64)
    law = process.marginal(last, t, ctx)
    masks = law.noise(Rng(0, 3))
    inside = 0.75 * last + 0.25 * first + process.interpolator.net(torch.cat([first, last], -1), t, masks)
    torch.testing.assert_close(law.draw(masks)[0], inside[0])
    assert bool((law.draw(masks)[1:] == torch.stack([last[1], first[2]])).all())
    with pytest.raises(ValueError, match="no forward kernel"):
        process.marginal(last, 0.5, ctx, since=0.2)
    with pytest.raises(ValueError, match=r"Context\.x1"):
        process.prior(last, Context())


def test_masks_come_from_the_rng_slot_by_slot_and_drop_at_their_rate():
    dropout, like = SeededDropout(0.3, (3, 500)), torch.zeros(40, 1, 1)
    state = torch.get_rng_state()
    masks = dropout.masks(Rng(5, 40), like)
    assert bool((torch.get_rng_state() == state).all())
    assert masks.shape == (40, 3, 500)
    assert bool((masks[7:8] == dropout.masks(Rng(5, [7]), like[:1])).all())
    assert sorted(masks.unique().tolist()) == pytest.approx([0.0, 1 / 0.7])
    assert float((masks == 0).double().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(masks.mean()) == pytest.approx(1.0, abs=0.01)
    with pytest.raises(ValueError, match=r"dropout=1\.0"):
        SeededDropout(1.0, (1,))


def test_masks_act_on_the_network_and_ones_are_no_masks():
    net, x, t = ring_net(), normal(2, 6, 2), torch.tensor([0.2, 0.7]).double()
    plain = net(x, t)
    torch.testing.assert_close(net(x, t, torch.ones(2, 2, 8).double()), plain)
    assert (net(x, t, net.dropout.masks(Rng(0, 2), x)) - plain).abs().max() > 1e-3


def test_cold_sampling_follows_the_papers_recursion_written_out():
    """``s_{n+1} = s_n + I(x_0, F(s_n), i_{n+1}) − I(x_0, F(s_n), i_n)`` with fresh masks, against a plain loop."""
    interpolator, forecaster = Interpolator(ring_net()), EndForecaster(ring_net(dropout=0.0))
    process, first = Evolution(interpolator), normal(3, 6, 1)
    ctx = Context(x1=first)
    model = FunctionDenoiser(process, lambda x, t, c: Dirac(forecaster(x, torch.full((3,), t).double(), c)))
    found = [tr.x_s for tr in trajectory(model, first, step_times(4), Cold("fresh"), ctx, rng=Rng(2, 3))]
    rng, s, out = Rng(2, 3), first, []
    for n in range(4):
        last = forecaster(s, torch.full((3,), 1 - n / 4).double(), ctx)

        def at(i, last=last):
            masks = interpolator.net.dropout.masks(rng, first)
            return last if i == 4 else interpolator(first, last, torch.full((3,), 1 - i / 4).double(), masks)

        before = at(n)
        s = s - (first if n == 0 else before) + at(n + 1)
        out.append(s)
    torch.testing.assert_close(torch.stack(found), torch.stack(out), atol=1e-12, rtol=0)


def test_with_perfect_networks_every_step_of_a_deterministic_system_is_exact():
    """A rotation of the plane: I and F in closed form."""
    h, angle = 5, 0.4

    def turned(x, steps):
        c, s = math.cos(angle * steps), math.sin(angle * steps)
        return x @ torch.tensor([[c, s], [-s, c]], dtype=torch.float64)

    class Exact(Evolution):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def marginal(self, x, t, ctx, *, since=None):
            return Dirac(turned(x, -t * h))

    first = normal(4, 1, 2)
    model = FunctionDenoiser(Exact(), lambda x, t, ctx: Dirac(turned(x, t * h)))
    for step in (Cold(), Ancestral()):
        path = trajectory(model, first, step_times(h), step, Context(x1=first))
        for i, tr in enumerate(path, 1):
            torch.testing.assert_close(tr.x_s, turned(first, i), atol=1e-12, rtol=0)


# ------------------------------------------------------------------ training


def test_stage_one_is_the_mean_error_of_the_states_between():
    """Without dropout and with the zero network: the error of the straight line, by enumeration of the steps."""
    net = FieldNet(2, 1, [LocalMix(4, 3, ring=True)], width=4).double()
    x = normal(4000, 4, 1, 1)
    loss = Interpolation(Interpolator(net))(Batch(x), Rng(0))
    lines = [((1 - i / 3) * x[:, 0] + i / 3 * x[:, 3] - x[:, i]) ** 2 for i in (1, 2)]
    assert float(loss.value.detach()) == pytest.approx(float(torch.stack(lines).mean()), rel=0.05)


def test_stage_two_without_a_look_ahead_is_the_denoising_objective():
    """In expectation over times and masks; the look-ahead term is the error of a second call, without t = 0."""
    process = Evolution(Interpolator(ring_net()))
    network = EndForecaster(ring_net(dropout=0.0))
    from polydiff.core.denoisers import Model, X0Prediction
    from polydiff.core.training import TimeLaw

    class Steps(TimeLaw):
        def quantile(self, process, u):
            return 1 - (u * 4).floor() / 4

    model, x = Model(network, process, X0Prediction()), normal(3000, 5, 6, 1)
    with torch.no_grad():
        mine = Forecasting(model, step_times(4), ahead=0.0)(Batch(x), Rng(0)).value
        theirs = Denoising(model, times=Steps())(Batch(x[:, -1], Context(x1=x[:, 0])), Rng(1)).value
        assert float(mine) == pytest.approx(float(theirs), rel=0.05)
        both = Forecasting(model, step_times(4), ahead=0.4)(Batch(x), Rng(0))
    total, count = both.terms["ahead"]
    assert float(count) == pytest.approx(0.75 * 3000 * 6, rel=0.05)
    assert float(both.value) == pytest.approx(0.6 * float(mine) + 0.4 * float(total / count), rel=1e-9)
    with pytest.raises(ValueError, match="ahead=2"):
        Forecasting(model, step_times(4), ahead=2)


def test_stage_two_leaves_the_interpolator_alone_but_learns_through_it():
    from polydiff.core.denoisers import Model, X0Prediction

    process, network = Evolution(Interpolator(ring_net())), EndForecaster(ring_net(dropout=0.0))
    Forecasting(Model(network, process, X0Prediction()), step_times(4), ahead=1.0)(
        Batch(normal(8, 5, 6, 1)), Rng(0)
    ).value.backward()
    assert all(p.grad is None for p in process.interpolator.parameters())
    assert all(p.grad is not None for p in network.parameters())


# ------------------------------------------------------------------ the forecaster


def test_members_belong_to_their_start_and_the_rollout_goes_on():
    x = NoisyTransport(sites=8).sample(6, 8, 0)
    forecaster = DynamicsForecaster(SMALL, seed=1).fit(x, progress=False)
    forecaster.model.process.interpolator.net.leave.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    y = forecaster.forecast(x[:3, -1], 10, 4, seed=2)
    assert y.shape == (3, 4, 10, 8) and np.isfinite(y).all()
    np.testing.assert_allclose(y[:, :2, :6], forecaster.forecast(x[:3, -1], 6, 2, seed=2, batch_size=5), atol=1e-5)
    assert np.abs(y[:, 0] - y[:, 1]).max() > 1e-3  # dropout tells members apart
    assert np.abs(y - forecaster.forecast(x[:3, -1], 10, 4, seed=3)).max() > 1e-3


def test_a_rollout_starts_anew_where_the_window_ended():
    """Without dropout a forecast is a map: the second window is the first one of the state at its end."""
    x = NoisyTransport(sites=8).sample(6, 8, 0)
    config = replace(SMALL, dropout=0.0, extra=2)
    forecaster = DynamicsForecaster(config).fit(x, progress=False)
    for net in (forecaster.model.process.interpolator.net, forecaster.model.network.net):
        net.leave.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    y = forecaster.forecast(x[:3, 0], 7)[:, 0]
    np.testing.assert_allclose(y[:, 4:], forecaster.forecast(y[:, 3], 3)[:, 0], atol=1e-4)
    assert np.abs(y[:, 4] - y[:, 0]).max() > 0.1


def test_a_saved_forecaster_is_the_same(tmp_path):
    x = NoisyTransport(sites=8).sample(6, 8, 0)[..., None] * 3 + 5
    forecaster = DynamicsForecaster(SMALL).fit(x, progress=False)
    loaded = DynamicsForecaster.load(forecaster.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.forecast(x[:2, 0], 5, 2), forecaster.forecast(x[:2, 0], 5, 2))


def test_training_is_a_function_of_its_seed():
    x = NoisyTransport(sites=8).sample(6, 8, 0)
    torch.manual_seed(0)
    a = DynamicsForecaster(SMALL, seed=3).fit(x, progress=False).forecast(x[:2, 0], 3)
    torch.manual_seed(1)
    b = DynamicsForecaster(SMALL, seed=3).fit(x, progress=False).forecast(x[:2, 0], 3)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("geometry", "shape"), [("ring", (8,)), ("line", (8, 2)), ("circle", (8,)), ("sphere", (4, 8))]
)
def test_every_geometry_forecasts(geometry, shape):
    x = np.random.default_rng(0).standard_normal((3, 6, *shape))
    config = DynamicsConfig(horizon=3, geometry=geometry, width=4, depth=1, steps=2, batch_size=4)
    assert DynamicsForecaster(config).fit(x, progress=False).forecast(x[:, 0], 4, 2).shape == (3, 2, 4, *shape)


def test_the_codec_is_inverted_and_refuses_other_shapes():
    x = normal(3, 4, 5, 2).numpy() * [2.0, 0.5] + [1.0, -3.0]
    codec = FieldCodec.of(torch.as_tensor(x), 1)
    z = codec.encode(x)
    np.testing.assert_allclose(codec.decode(z).numpy(), x, atol=1e-5)
    assert z.mean((0, 1, 2)).abs().max() < 1e-5 and (z.flatten(0, 2).std(0) - 1).abs().max() < 1e-5
    with pytest.raises(ValueError, match="as in the training data"):
        codec.encode(x[..., :4, :])
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(np.where(x > 0, np.nan, x))


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="more than horizon=4"):
        DynamicsForecaster(SMALL).fit(np.zeros((2, 4, 8)))
    with pytest.raises(ValueError, match="call fit"):
        DynamicsForecaster(SMALL).forecast(np.zeros((2, 8)), 3)
    with pytest.raises(ValueError, match="geometry='torus'"):
        DynamicsConfig(geometry="torus")


@pytest.mark.slow
def test_a_linear_field_is_forecast_near_its_exact_mean():
    field = NoisyTransport(sites=16, dt=0.05)
    config = DynamicsConfig(horizon=4, width=24, depth=2, steps=400, batch_size=32, lr=2e-3)
    forecaster = DynamicsForecaster(config).fit(field.sample(100, 30, 0), progress=False)
    x = field.sample(60, 5, 1)
    y = forecaster.forecast(x[:, 0], 4, 10)
    mean, std = field.law(x[:, 0], 4)
    assert np.sqrt(((y[:, :, 3].mean(1) - mean) ** 2).mean()) < 0.6 * std  # persistence is at 1.6 std
    assert y[:, :, 3].std(1, ddof=1).mean() > 0.2 * std


# ------------------------------------------------------------------ rings and spheres


def test_a_ring_knows_no_first_site_and_a_line_does():
    x, t = normal(2, 7, 2), torch.tensor([0.2, 0.7]).double()
    for mix in (lambda: LocalMix(8, 3, ring=True), lambda: CircularMix(8, 7), lambda: CircularMix(8, 7, 2)):
        net = awake(FieldNet(2, 1, [mix(), mix()], width=8))
        torch.testing.assert_close(net(x.roll(3, 1), t), net(x, t).roll(3, 1), atol=1e-10, rtol=0)
    line = awake(FieldNet(2, 1, [LocalMix(8, 3, ring=False)], width=8))
    assert (line(x.roll(3, 1), t) - line(x, t).roll(3, 1)).abs().max() > 1e-3


def test_a_circular_filter_is_a_circular_convolution():
    """In every mode: the impulse response, convolved directly."""
    mix = awake(CircularMix(1, 9))
    mix.point.bias.data.zero_()
    x = normal(1, 1, 9)
    impulse = torch.zeros(1, 1, 9).double()
    impulse[..., 0] = 1
    kernel = mix(impulse)[0, 0]
    direct = sum(x[0, 0, j] * kernel.roll(j) for j in range(9))
    torch.testing.assert_close(mix(x)[0, 0], direct, atol=1e-12, rtol=0)


def test_legendre_functions_are_those_of_scipy():
    theta = np.linspace(0.1, 3.0, 7)
    p = legendre(24, np.cos(theta))
    for m in range(24):
        for n in range(24):
            want = (-1) ** m * sph_harm_y(n, m, theta, 0.0).real if n >= m else np.zeros(7)
            np.testing.assert_allclose(p[m, :, n], want, atol=1e-12)


def fields(transform, n, seed=0):
    """Band-limited random fields and their coefficients."""
    d = transform.degrees
    a = torch.complex(normal(n, d, d, seed=seed), normal(n, d, d, seed=seed + 1)) * torch.ones(d, d).triu()
    a[:, 0] = a[:, 0].real.to(a.dtype)
    return transform.inverse(a), a


@pytest.mark.parametrize(
    ("grid", "shape"),
    [("gauss", (8, 16)), ("gauss", (9, 17)), ("gauss", (12, 10)), ("equiangular", (8, 16)), ("equiangular", (9, 12))],
)
def test_a_band_limited_field_makes_the_round_trip(grid, shape):
    transform = SphericalTransform(*shape, grid)
    x, a = fields(transform, 3)
    torch.testing.assert_close(transform(x), a, atol=1e-10, rtol=0)
    torch.testing.assert_close(transform.inverse(transform(x)), x, atol=1e-10, rtol=0)
    energy = (a.abs() ** 2 * torch.tensor([1.0] + [2.0] * (transform.degrees - 1))[:, None]).sum((1, 2))
    weights = transform.analysis[0, :, 0] * math.sqrt(4 * math.pi)  # 2π w_j
    if grid == "gauss":  # Parseval: the product has twice the band-limit
        torch.testing.assert_close((x**2).mean(2) @ weights, energy, atol=1e-9, rtol=1e-10)


@pytest.mark.parametrize("filters", ["zonal", "polar"])
def test_spherical_convolutions_commute_with_rotations_about_the_pole(filters):
    transform = SphericalTransform(8, 16)
    conv = awake(SphericalConv(2, 3, transform, filters))
    x = normal(4, 2, 8, 16)
    torch.testing.assert_close(conv(x.roll(5, -1)), conv(x).roll(5, -1), atol=1e-10, rtol=0)
    net = awake(FieldNet(2, 1, [SphericalMix(8, (8, 16), filters)], width=8))
    flat, t = x.flatten(2).transpose(1, 2), torch.full((4,), 0.3).double()
    turned = net(x.roll(5, -1).flatten(2).transpose(1, 2), t).unflatten(1, (8, 16))
    torch.testing.assert_close(turned, net(flat, t).unflatten(1, (8, 16)).roll(5, 2), atol=1e-10, rtol=0)


def rotated(transform, a, turn):
    """A band-limited field evaluated at rotated points of the grid: ``f(R⁻¹ n)`` by direct summation."""
    theta = torch.arccos(
        transform.synthesis.new_tensor(np.polynomial.legendre.leggauss(transform.latitudes)[0][::-1].copy())
    )
    phi = 2 * math.pi * torch.arange(transform.longitudes).double() / transform.longitudes
    theta, phi = torch.meshgrid(theta, phi, indexing="ij")
    n = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1) @ turn
    p = torch.as_tensor(legendre(transform.degrees, n[..., 2].clamp(-1, 1).flatten().numpy()))
    wave = torch.exp(1j * torch.arange(transform.degrees)[:, None] * torch.atan2(n[..., 1], n[..., 0]).flatten())
    twice = torch.tensor([1.0] + [2.0] * (transform.degrees - 1)).double()
    values = torch.einsum("bml,mpl,mp,m->bp", a, p.to(a.dtype), wave, twice.to(a.dtype)).real
    return values.unflatten(1, theta.shape)


def test_zonal_filters_commute_with_every_rotation_and_polar_ones_do_not():
    transform = SphericalTransform(8, 16)
    x, a = fields(transform, 2)
    turn = torch.linalg.qr(normal(3, 3))[0]
    turn = turn * turn.det().sign()
    torch.testing.assert_close(rotated(transform, a, torch.eye(3).double()), x, atol=1e-10, rtol=0)
    y = rotated(transform, a, turn)
    for filters, commutes in (("zonal", True), ("polar", False)):
        conv = awake(SphericalConv(1, 1, transform, filters))
        filtered = rotated(transform, transform(conv(x[:, None])[:, 0]), turn)
        gap = (conv(y[:, None])[:, 0] - filtered).abs().max()
        assert (gap < 1e-10) if commutes else (gap > 1e-2)


def test_wrong_grids_and_filters_are_refused():
    with pytest.raises(ValueError, match="1 × 8"):
        SphericalTransform(1, 8)
    with pytest.raises(ValueError, match="grid='healpix'"):
        SphericalTransform(4, 8, "healpix")
    with pytest.raises(ValueError, match="filters='any'"):
        SphericalConv(1, 1, SphericalTransform(4, 8), "any")
    with pytest.raises(ValueError, match="modes=9"):
        CircularMix(2, 8, 9)
    with pytest.raises(ValueError, match="kernel=4"):
        LocalMix(2, 4, ring=True)


def test_a_configuration_names_its_network():
    codec = FieldCodec((4, 8), 2, torch.zeros(1), torch.ones(1))
    net = field_net(DynamicsConfig(geometry="sphere", width=4, depth=2), codec, 2, 1)
    assert isinstance(net.blocks[0].mix, SphericalMix) and len(net.blocks) == 2
