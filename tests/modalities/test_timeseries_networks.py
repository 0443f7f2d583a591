"""Networks of time series: what they read, what they must not, and the mathematics of their layers."""

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre
from scipy.signal import cont2discrete

from polydiff.core.data import Context, Rng
from polydiff.timeseries.decomposed import DecomposedTransformer, Grid
from polydiff.timeseries.inputs import Inputs, gaps
from polydiff.timeseries.networks import ConvNet, WindowMLP
from polydiff.timeseries.state_space import StateSpace, StateSpaceNet

L, D = 12, 3
NETWORKS = {
    "mlp": lambda **o: WindowMLP(L, D, width=32, depth=2, **o),
    "conv": lambda **o: ConvNet(D, width=16, depth=3, **o),
    "ssm": lambda **o: StateSpaceNet(D, width=16, depth=2, states=4, **o),
    "transformer": lambda **o: DecomposedTransformer(D, width=16, depth=2, heads=2, **o),
    "plain transformer": lambda **o: DecomposedTransformer(D, width=16, depth=2, heads=2, decompose=False, **o),
}
RAGGED = [k for k in NETWORKS if k != "mlp"]
EVERYTHING = {"features": 2, "static": 2, "classes": 4}


def trained_like(net, scale=0.3):
    """Random weights everywhere, zero initialisations included; those of the state spaces as they come."""
    rng = Rng(0)
    kept = {id(p) for m in net.modules() if isinstance(m, StateSpace) for p in m.parameters()}
    with torch.no_grad():
        for p in net.parameters():
            if id(p) not in kept:
                p.copy_(scale * rng.normal(p))
    return net.double().eval()


def full(name):
    irregular = {} if "transformer" in name else {"irregular": True}
    return trained_like(NETWORKS[name](**EVERYTHING, **irregular))


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def window(n=4, length=L):
    cond = {
        "time": rand(n, length, 2, seed=1),
        "static": rand(n, 2, seed=2),
        "label": torch.arange(n) % 4,
        "at": rand(n, length, seed=3).abs().cumsum(1) + 0.1,
    }
    return rand(n, length, D), rand(n, seed=4), Context(cond=cond)


def single(name):
    """Network, window, level and context in single precision."""
    net, (x, level, ctx) = full(name), window()
    net, ctx = (net if name == "mlp" else trained_like(net, 0.1)).float(), masked(ctx)
    cond = {k: v.float() if v.is_floating_point() else v for k, v in ctx.cond.items()}
    return net, x.float(), level.float(), ctx.replace(cond=cond)


def masked(ctx, n=4, length=L):
    """A third known, a fifth invalid, steps 3 and 4 and the last wholly so."""
    u = rand(n, length, D, seed=5)
    valid = u > -0.8
    valid[:, 3:5] = valid[:, -1] = False
    return ctx.replace(valid=valid, known=(u > 0.5) & valid, given=rand(n, length, D, seed=6))


@pytest.mark.parametrize("name", NETWORKS)
def test_new_networks_say_nothing_and_trained_ones_hear_every_condition(name):
    x, level, ctx = window()
    assert torch.equal(NETWORKS[name](**EVERYTHING)(x, level, ctx), torch.zeros(4, L, D, dtype=torch.float64).float())
    net = full(name)
    out = net(x, level, ctx)
    assert out.shape == (4, L, D)
    for key in ("time", "static", "at"):
        moved = ctx.replace(cond={**ctx.cond, key: ctx.cond[key] * 1.5})
        assert bool((net(x, level, moved) != out).any()), key
    other = ctx.replace(cond={**ctx.cond, "label": (ctx.cond["label"] + 1) % 4})
    null = ctx.replace(cond={**ctx.cond, "label": torch.full((4,), 4)})
    absent = ctx.replace(cond={k: v for k, v in ctx.cond.items() if k != "label"})
    assert bool((net(x, level, other) != out).any()) and bool((net(x, level, null) != out).any())
    assert torch.equal(net(x, level, absent), net(x, level, null))
    for key in ("time", "static"):
        with pytest.raises(ValueError, match=f"cond\\['{key}'\\]"):
            net(x, level, ctx.replace(cond={k: v for k, v in ctx.cond.items() if k != key}))
    with pytest.raises(ValueError, match="2 channels: the network was built for 3"):
        net(x[..., :2], level, ctx)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_masks_are_masks_that_say_so_to_the_bit(name):
    net, (x, level, ctx) = full(name), window()
    no = torch.zeros(4, L, D, dtype=torch.bool)
    out = net(x, level, ctx)
    for some in (
        {"valid": ~no},
        {"known": no, "given": rand(4, L, D, seed=9)},
        {"valid": ~no[..., 0], "known": no[..., 0], "given": torch.full_like(x, torch.nan)},
    ):
        assert torch.equal(net(x, level, ctx.replace(**some)), out)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_invalid_entries_hold_is_never_read(name):
    net, (x, level, ctx) = full(name), window()
    ctx = masked(ctx)
    out = net(x, level, ctx)[ctx.valid]
    both = ctx.replace(known=ctx.known | ~ctx.valid)  # nothing is known of what is not there
    assert torch.equal(net(x, level, both)[ctx.valid], out)
    absent = ~ctx.valid.any(-1)
    for garbage in (torch.nan, 1e30, -torch.inf):
        cond = {**ctx.cond, "time": torch.where(absent[..., None], garbage, ctx.cond["time"])}
        cond["at"] = torch.where(absent, garbage, ctx.cond["at"])
        dirty = ctx.replace(cond=cond, given=torch.where(ctx.known, ctx.given, garbage))
        assert torch.equal(net(torch.where(ctx.scored(), x, garbage), level, dirty)[ctx.valid], out)
    assert bool(net(torch.where(ctx.valid, x, torch.nan), level, ctx).isfinite().all())  # gradients stay finite


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_told_is_heard_and_told_apart(name):
    net, (x, level, ctx) = full(name), window()
    ctx = masked(ctx)
    out = net(x, level, ctx)
    moved = net(x, level, ctx.replace(given=ctx.given + 1))
    assert bool((moved != out)[ctx.scored()].any())
    held = ctx.hold(x)
    as_noise = net(held, level, ctx.replace(known=None, given=None))
    assert bool((as_noise != out)[ctx.scored()].any())  # the same values, not told to be clean


@pytest.mark.parametrize("name", NETWORKS)
def test_levels_may_belong_to_steps(name):
    net, (x, level, ctx) = full(name), window()
    out = net(x, level, ctx)
    torch.testing.assert_close(net(x, level[:, None].expand(-1, L), ctx), out, rtol=1e-10, atol=1e-10)
    steps = rand(4, L, seed=7)
    a = net(x, steps, ctx)
    assert bool((net(x, steps.flip(1), ctx) != a).any())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_window_without_anything_valid_does_no_harm(name):
    net, (x, level, ctx) = full(name), window()
    valid = torch.ones(4, L, D, dtype=torch.bool)
    valid[1] = False
    out = net(torch.where(valid, x, torch.nan), level, ctx.replace(valid=valid))
    out[valid].square().sum().backward()
    assert bool(out.isfinite().all())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision(name):
    net, x, level, ctx = single(name)
    out = net(x, level, ctx)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, level, ctx)
    assert bool(half.isfinite().all())
    assert float(((half - out)[ctx.valid].std() / out[ctx.valid].std()).detach()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_one_graph(name):
    net, x, level, ctx = single(name)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, level, ctx), net(x, level, ctx))


@pytest.mark.parametrize("name", NETWORKS)
def test_absent_steps_at_the_ends_are_no_steps(name):
    """Padding left and right; the perceptron pads itself, on the left, to its length."""
    net, (x, level, ctx) = full(name), window()
    valid = torch.ones(4, L, D, dtype=torch.bool)
    ends = slice(5, None) if name == "mlp" else slice(2, L - 3)
    valid[:, : ends.start] = False
    valid[:, ends.stop if ends.stop else L :] = False
    short = ctx.replace(cond={k: v[:, ends] if k in ("time", "at") else v for k, v in ctx.cond.items()})
    for levels in (level, rand(4, L, seed=7)):
        mine = levels if levels.ndim == 1 else levels[:, ends]
        got = net(x, levels, ctx.replace(valid=valid))[:, ends]
        torch.testing.assert_close(net(x[:, ends], mine, short), got, rtol=1e-9, atol=1e-9)
    if name == "mlp":
        with pytest.raises(ValueError, match="13 steps: the network was built for at most 12"):
            net(rand(4, 13, D), level, ctx)


def test_steps_are_read_as_they_are_documented():
    x, level, ctx = window(1, 4)
    valid = torch.tensor([[[True, True, True], [False, True, True], [False] * 3, [True] * 3]])
    known = torch.tensor([[[True, False, True], [True, True, False], [True] * 3, [False] * 3]])
    given = rand(1, 4, 3, seed=8)
    read = Inputs(3, 8, features=2, irregular=True).double()(
        x, level, ctx.replace(valid=valid, known=known, given=given)
    )
    told, there = known & valid, valid.any(-1)
    at = ctx.cond["at"][0]
    gap = torch.stack([0 * at[0], at[1] - at[0], 0 * at[0], at[3] - at[1]]).log1p()[None, :, None]
    parts = [x * (valid & ~told), given * told, told, valid, ctx.cond["time"] * there[..., None], gap]
    torch.testing.assert_close(read.steps, torch.cat([p.double() for p in parts], -1), rtol=0, atol=1e-15)
    assert torch.equal(read.present, there) and torch.equal(read.level, level.expand(1, 4))


def test_gaps_skip_what_is_absent():
    at = torch.tensor([[9.0, 1.0, 2.0, 99.0, 5.0]])
    present = torch.tensor([[False, True, True, False, True]])
    assert torch.equal(gaps(at, present), torch.tensor([[0.0, 0.0, 1.0, 0.0, 3.0]]).log1p())
    with pytest.raises(ValueError, match="at least 1 channel"):
        Inputs(0, 8)


# ------------------------------------------------------------------ convolutions


def test_convolutions_reach_as_far_as_their_dilations_say_both_ways():
    net = trained_like(ConvNet(D, width=8, depth=4, cycle=3))  # 1 + 2 + 4 + 1
    x, level = rand(1, 40, D), rand(1)
    moved = x.clone()
    moved[:, 20] += 1
    changed = (net(moved, level, Context()) != net(x, level, Context())).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == list(range(12, 29))
    for wrong in ({"kernel": 4}, {"cycle": 0}, {"depth": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ConvNet(D, **wrong)


# ------------------------------------------------------------------ state spaces


@pytest.mark.parametrize("init", ["lin", "real"])
def test_state_spaces_are_their_recurrence_both_ways(init):
    torch.manual_seed(0)
    layer = StateSpace(5, states=3, init=init, least=0.05, most=0.5).double()
    u = rand(2, 17, 5)
    with torch.no_grad():
        got = layer(u).numpy()
        rate = torch.complex(-layer.log_decay.exp(), layer.angle).numpy()
        mix = torch.view_as_complex(layer.mix.detach()).numpy()
        step, through, x = layer.log_step.exp().numpy(), layer.through.numpy(), u.numpy()
    want = through * x
    for w in range(5):
        # the discretisation, by scipy, of the real system of dimension 2 N
        a = np.kron(np.diag(rate[w].real), np.eye(2)) + np.kron(np.diag(rate[w].imag), [[0, -1], [1, 0]])
        b = np.tile([1.0, 0.0], 3)[:, None]
        forward, backward = (2 * np.stack([mix[i, w].real, -mix[i, w].imag], 1).reshape(1, -1) for i in (0, 1))
        turn, enter, *_ = cont2discrete((a, b, forward, np.zeros((1, 1))), step[w], "zoh")
        for row in range(2):
            h = np.zeros((6, 1))
            for l in range(17):
                h = turn @ h + enter * x[row, l, w]
                want[row, l, w] += (forward @ h).item()
            h = np.zeros((6, 1))  # after step l + 1, seen from l: h_{l+1} advanced once
            for l in range(16, -1, -1):
                want[row, l, w] += (backward @ turn @ h).item()
                h = turn @ h + enter * x[row, l, w]
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_state_spaces_begin_where_the_paper_has_them():
    lin, real = StateSpace(2, states=3), StateSpace(2, states=3, init="real")
    torch.testing.assert_close(lin.angle[0], torch.pi * torch.arange(3.0))
    torch.testing.assert_close(-lin.log_decay[1].exp(), torch.full((3,), -0.5))
    torch.testing.assert_close(-real.log_decay[1].exp(), torch.tensor([-1.0, -2.0, -3.0]))
    assert bool((real.angle == 0).all())
    for wrong, match in (({"init": "legs"}, "init='legs'"), ({"states": 0}, "states=0")):
        with pytest.raises(ValueError, match=match):
            StateSpace(2, **wrong)


# ------------------------------------------------------------------ the decomposition


def regular(n, length, harmonics):
    at = torch.arange(length, dtype=torch.float64).expand(n, -1) + 7
    return Grid(at, torch.ones(n, length, dtype=torch.bool), harmonics)


@pytest.mark.parametrize("length", [11, 24])
def test_waves_are_those_of_the_dft(length):
    v = rand(3, length, 2)
    grid = regular(3, length, 40)  # more than there are: those beyond are left out
    spectrum = torch.fft.rfft(v, dim=1)
    spectrum[:, 0] = 0
    if length % 2 == 0:
        spectrum[:, -1] = 0
    torch.testing.assert_close(grid.season(v, 40), torch.fft.irfft(spectrum, n=length, dim=1))
    least = spectrum.abs().topk(3, dim=1).values[:, -1:]
    kept = torch.where(spectrum.abs() >= least, spectrum, 0)
    torch.testing.assert_close(grid.season(v, 3), torch.fft.irfft(kept, n=length, dim=1))


def test_trends_are_legendre_moments_at_present_steps():
    at = torch.tensor([[0.0, 0.5, 2.0, 7.0, 3.0, 3.5, 4.0]], dtype=torch.float64)
    present = torch.tensor([[True, True, True, False, True, True, True]])
    v = rand(1, 7, 2)
    got = Grid(at, present, 4).trend(v)[0, present[0]].numpy()
    basis = legendre.legvander(at[0, present[0]].numpy() / 2 - 1, 3)
    want = basis @ np.diag([1, 3, 5, 7]) @ basis.T @ v[0, present[0]].numpy() / 6
    np.testing.assert_allclose(got, want)


def test_parts_are_what_they_are_called_and_sum_to_the_output():
    net = trained_like(DecomposedTransformer(D, width=16, depth=2, heads=2, top=2))
    x, level = rand(4, 24, D), rand(4)
    parts = net.parts(x, level, Context())
    torch.testing.assert_close(sum(parts.values()), net(x, level, Context()))
    assert all(float(p.detach().std()) > 0.01 for p in parts.values())
    torch.testing.assert_close(parts["trend"].diff(n=4, dim=1), torch.zeros(4, 20, D).double(), atol=1e-9, rtol=0)
    assert float(parts["trend"].diff(n=3, dim=1).abs().max()) > 1e-6
    waves = torch.fft.rfft(parts["season"], dim=1).abs()
    assert 2 <= int((waves > 1e-9).sum(1).max()) <= 2 * 2  # two a block
    torch.testing.assert_close(parts["residual"].mean(1), torch.zeros(4, D).double())
    bare = DecomposedTransformer(D, width=16, depth=2, heads=2, decompose=False).double().eval()
    bare.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("read.")})
    with torch.no_grad():
        for p in net.read.parameters():
            p.zero_()
    torch.testing.assert_close(
        net(x, level, Context()), bare(x, level, Context())
    )  # its mean goes to the trend, not away
    plain = bare.parts(x, level, Context())
    assert not plain["trend"].any() and not plain["season"].any()
    for wrong in ({"top": 0}, {"harmonics": 0}, {"width": 12, "heads": 4}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DecomposedTransformer(D, **wrong)


@pytest.mark.parametrize("name", ["transformer", "plain transformer"])
def test_attention_lives_in_continuous_time(name):
    net, (x, level, ctx) = full(name), window()
    ctx = masked(ctx)
    out = net(x, level, ctx)

    shifted = ctx.replace(cond={**ctx.cond, "at": ctx.cond["at"] + 1000.0})
    torch.testing.assert_close(net(x, level, shifted)[ctx.valid], out[ctx.valid], rtol=1e-8, atol=1e-8)

    stay = ctx.valid.any(-1).all(0)  # the same steps in every window
    assert 0 < int((~stay).sum()) < L
    absent = ctx.replace(valid=ctx.valid & stay[:, None], known=ctx.known & stay[:, None])
    cut = ctx.replace(
        cond={k: v[:, stay] if k in ("time", "at") else v for k, v in ctx.cond.items()},
        **{k: getattr(ctx, k)[:, stay] for k in ("valid", "known", "given")},
    )
    want = net(x, level, absent)[:, stay]
    torch.testing.assert_close(net(x[:, stay], level, cut), want, rtol=1e-9, atol=1e-9)

    order = torch.tensor([3, 0, 11, 7, 2, 9, 4, 1, 10, 8, 6, 5])  # stamps say where steps are, not their row
    shuffled = ctx.replace(
        cond={k: v[:, order] if k in ("time", "at") else v for k, v in ctx.cond.items()},
        **{k: getattr(ctx, k)[:, order] for k in ("valid", "known", "given")},
    )
    there = net(x[:, order], level, shuffled)[shuffled.valid]
    torch.testing.assert_close(there, out[:, order][shuffled.valid], rtol=1e-9, atol=1e-9)

    units = ctx.replace(cond={**ctx.cond, "at": torch.arange(L).expand(4, -1)})
    none = ctx.replace(cond={k: v for k, v in ctx.cond.items() if k != "at"})
    torch.testing.assert_close(net(x, level, none)[ctx.valid], net(x, level, units)[ctx.valid], rtol=1e-9, atol=1e-9)
