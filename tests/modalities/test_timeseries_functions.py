"""Networks over points and the generator of functions: symmetries to rounding, padding, told points, a small fit."""

import numpy as np
import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.timeseries.function_data import FunctionCodec
from polydiff.timeseries.function_networks import BiDimensionalNet, PointNet
from polydiff.timeseries.functions import FunctionConfig, FunctionGenerator, context_masks

F64 = torch.float64


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def scattered(net):
    """Weights away from their start, where the output is zero and every symmetry holds."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in net.double().parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=g, dtype=F64))
    return net.eval().requires_grad_(False)


def inputs(dims):
    x, at, level = rand(2, 6, 2), rand(2, 6, dims, seed=1), rand(2, seed=2)
    known = torch.tensor([[True, False] * 3, [False] * 4 + [True] * 2])
    valid = torch.tensor([[True] * 6, [True, True, False, True, True, True]])
    return x, level, Context(cond={"at": at}, known=known, valid=valid)


def test_the_order_of_the_points_does_not_matter():
    net, (x, level, ctx) = scattered(BiDimensionalNet(2, width=16)), inputs(3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = Context(cond={"at": ctx.cond["at"][:, order]}, known=ctx.known[:, order], valid=ctx.valid[:, order])
    out = net(x, level, ctx)
    assert float((net(x[:, order], level, moved) - out[:, order]).abs().max()) < 1e-10
    assert float((net(x[:, order], level, ctx) - out[:, order]).abs().max()) > 1e-3  # the places must move along


def test_the_order_of_the_dimensions_does_not_matter():
    net, (x, level, ctx) = scattered(BiDimensionalNet(2, width=16)), inputs(3)
    turned = ctx.replace(cond={"at": ctx.cond["at"][..., [2, 0, 1]]})
    out = net(x, level, ctx)
    assert float((net(x, level, turned) - out).abs().max()) < 1e-10
    one = ctx.cond["at"].clone()
    one[:, :, 0] = one[:, [1, 0, 2, 3, 4, 5], 0]  # a change within one dimension is another function
    assert float((net(x, level, ctx.replace(cond={"at": one})) - out).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["points", "bi-dimensional"])
def test_padding_does_not_matter_and_told_points_do(kind):
    x, level, ctx = inputs(1)
    if kind == "points":
        net, ctx = PointNet(2, width=16), ctx.replace(cond={"at": ctx.cond["at"][..., 0]})
    else:
        net = BiDimensionalNet(2, width=16)
    out = scattered(net)(x, level, ctx)
    dirty, at = x.clone(), ctx.cond["at"].clone()
    dirty[1, 2], at[1, 2] = torch.nan, torch.nan
    again = net(dirty, level, ctx.replace(cond={"at": at}))
    inside = ctx.valid
    torch.testing.assert_close(again[inside], out[inside])
    untold = net(x, level, ctx.replace(known=None))
    assert float((untold - out)[inside].abs().max()) > 1e-3


def test_masks_of_training_leave_some_functions_untold():
    known = context_masks(torch.zeros(4000, 12, 2), Rng(0))
    assert known.shape == (4000, 12)
    shares = known.float().mean(1)
    assert float((shares == 0).float().mean()) == pytest.approx(0.2 + 0.8 / 13, abs=0.03)
    assert float(shares.mean()) == pytest.approx(0.4, abs=0.02)


def test_codec_pads_and_goes_back():
    functions = [(np.arange(3.0), np.arange(3.0) * 2), (np.arange(5.0), np.ones(5))]
    codec = FunctionCodec.fit(functions)
    values, places, valid = codec.pack(functions)
    assert values.shape == (2, 5, 1) and places.shape == (2, 5, 1)
    assert valid.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    np.testing.assert_allclose(codec.decode(values)[0, :3, 0], [0, 2, 4], atol=1e-6)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([], "at least one set"),
        ([([0.0, 1.0], [0.0])], "function 0 has 2 places and 1 values"),
        ([([0.0], [np.nan])], "y of function 0"),
        ([([], [])], "at least one"),
    ],
)
def test_bad_functions_are_refused(functions, message):
    with pytest.raises(ValueError, match=message):
        FunctionGenerator().fit(functions, steps=1, progress=False)


def lines(n, seed=0):
    g = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        x = g.uniform(-1, 1, g.integers(4, 9))
        out.append((x, g.normal() * x + g.normal()))
    return out


@pytest.fixture(scope="module")
def fitted():
    config = FunctionConfig(width=16, depth=1, steps=20, batch_size=32, sample_steps=8)
    return FunctionGenerator(config).fit(lines(300), progress=False)


def test_draws_are_seeded_row_by_row_and_saved(fitted, tmp_path):
    x = np.linspace(-1, 1, 7)
    draws = fitted.condition([0.0, 0.5], [1.0, 1.5], x, n=5)
    assert draws.shape == (5, 7, 1) and np.isfinite(draws).all()
    np.testing.assert_allclose(fitted.condition([0.0, 0.5], [1.0, 1.5], x, n=2), draws[:2], atol=1e-5)
    assert not np.allclose(fitted.condition([0.0, 0.5], [1.0, 1.5], x, n=5, seed=1), draws)
    again = FunctionGenerator.load(fitted.save(tmp_path / "model"))
    np.testing.assert_allclose(again.condition([0.0, 0.5], [1.0, 1.5], x, n=5), draws, atol=1e-6)
    assert fitted.sample(x, n=3).shape == (3, 7, 1)


def test_wrong_places_are_refused(fitted):
    with pytest.raises(ValueError, match="2 columns"):
        fitted.sample(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="one observation a place"):
        fitted.condition([0.0], [1.0, 2.0], [0.5])
    with pytest.raises(ValueError, match="knows no data"):
        FunctionGenerator().sample([0.0])


@pytest.mark.slow
def test_two_points_of_a_line_tell_the_rest():
    """Functions are lines: given two points the others follow, to a fifth of the spread without them."""
    config = FunctionConfig(width=32, depth=2, steps=1500, batch_size=32, sample_steps=16)
    model = FunctionGenerator(config).fit(lines(3000), progress=False)
    x, errors, spreads = np.linspace(-0.9, 0.9, 6), [], []
    for i, (slope, level) in enumerate(np.random.default_rng(1).normal(size=(20, 2))):
        known = np.array([-0.6, 0.5])
        draws = model.condition(known, slope * known + level, x, n=20, seed=i)[..., 0]
        errors.append(np.abs(draws.mean(0) - slope * x - level).mean())
        spreads.append(draws.std(0).mean())
    assert np.mean(errors) < 0.2 and np.mean(spreads) < 0.3
