"""Network parts and the image networks."""

import pytest
import torch
from torch import nn

from polydiff.core.data import Context
from polydiff.core.networks import (
    MLP,
    Attention,
    FourierEmbedding,
    LabelEmbedding,
    ResBlock,
    TransformerBlock,
    grid_positions,
    rotary_angles,
    rotate,
)
from polydiff.images import DiT, UNet

NETWORKS = {
    "unet": lambda c=1, s=(8, 8), **k: UNet(c, width=16, multipliers=(1, 2), blocks=1, attention=(1,), **k),
    "unet/patch": lambda c=1, s=(8, 8), **k: UNet(c, patch=2, width=16, multipliers=(1, 2), blocks=1, **k),
    "dit": lambda c=1, s=(8, 8), **k: DiT(c, s, patch=2, width=32, depth=2, heads=2, **k),
}


@pytest.fixture(params=sorted(NETWORKS))
def make(request):
    return NETWORKS[request.param]


def wake(net):
    """Move every parameter off its (often zero) start."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return net.eval()


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_keeps_its_shape_and_starts_at_zero(make, channels, size):
    net = make(channels, size)
    x = torch.randn(2, channels, *size)
    out = net(x, torch.zeros(2), Context())
    assert out.shape == x.shape
    assert out.abs().max().item() == 0
    assert wake(net)(x, torch.zeros(2), Context()).std().item() > 0


def test_gradient_reaches_every_parameter(make):
    net = wake(make(num_classes=3, known_mask=True)).train()
    ctx = Context(cond={"label": torch.tensor([0, 3])}, known=torch.rand(2, 1, 8, 8) < 0.5)
    net(torch.randn(2, 1, 8, 8), torch.tensor([0.5, -2.0]), ctx).square().sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or float(p.grad.abs().sum()) == 0]
    # Of the labels only the two rows that were used can have a gradient; a norm forgets biases before it.
    assert not [n for n in silent if not n.endswith("bias")]


def test_labels_levels_and_known_masks_are_read(make):
    net = wake(make(num_classes=3, known_mask=True))
    x, level = torch.randn(1, 1, 8, 8), torch.zeros(1)
    base = Context(cond={"label": torch.tensor([0])})
    others = [
        (level, Context(cond={"label": torch.tensor([3])})),
        (level + 1, base),
        (level, base.replace(known=torch.ones(1, 1, 8, 8, dtype=torch.bool))),
    ]
    with torch.no_grad():
        reference = net(x, level, base)
        assert all(float((net(x, *o) - reference).abs().max()) > 1e-4 for o in others)
        none = net(x, level, base.replace(known=torch.zeros(1, 1, 8, 8, dtype=torch.bool)))
    assert torch.equal(none, reference)
    with pytest.raises(ValueError, match="label"):
        net(x, level, Context())


def test_samples_do_not_see_each_other(make):
    net = wake(make())
    x, level = torch.randn(6, 1, 8, 8), torch.linspace(-4, 4, 6)
    with torch.no_grad():
        whole = net(x, level, Context())
        alone = torch.cat([net(x[i : i + 1], level[i : i + 1], Context()) for i in range(6)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


def test_bf16_autocast_is_finite(make):
    net = wake(make())
    with torch.autocast("cpu", torch.bfloat16):
        assert bool(net(torch.randn(2, 1, 8, 8), torch.zeros(2), Context()).isfinite().all())


@pytest.mark.slow
def test_networks_compile_without_graph_breaks(make):
    net = wake(make(num_classes=3, known_mask=True))
    ctx = Context(cond={"label": torch.tensor([0, 1])}, known=torch.zeros(2, 1, 8, 8, dtype=torch.bool))
    x, level = torch.randn(2, 1, 8, 8), torch.zeros(2)
    fast = torch.compile(lambda a, b, c, d: net(a, b, Context(cond={"label": c}, known=d)), fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(
            fast(x, level, ctx.cond["label"], ctx.known), net(x, level, ctx), rtol=1e-3, atol=1e-4
        )


def test_attention_is_permutation_equivariant_and_blind_to_padding():
    net = wake(Attention(16, 4)).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    p = torch.randperm(5)
    torch.testing.assert_close(net(x)[:, p], net(x[:, p]))
    valid = torch.tensor([[True, True, True, False, False]] * 2)
    junk = torch.where(valid[..., None], x, torch.nan)
    torch.testing.assert_close(net(x, valid)[:, :3], net(x[:, :3]))
    assert torch.equal(net(junk, valid)[:, :3], net(x, valid)[:, :3])


def test_transformer_block_starts_as_the_identity():
    block = TransformerBlock(16, 4, 8)
    x = torch.randn(2, 5, 16)
    assert torch.equal(block(x, torch.randn(2, 8)), x)
    assert block(x, torch.randn(2, 5, 8)).shape == x.shape


@pytest.mark.parametrize("dimension", [1, 2])
def test_residual_block_runs_on_sequences_and_images(dimension):
    block = ResBlock(8, 16, 4, dimension=dimension)
    x = torch.randn(2, 8, *(6,) * dimension)
    assert block(x, torch.randn(2, 4)).shape == (2, 16, *(6,) * dimension)


def test_mlp_and_embeddings():
    mlp = MLP(3, 2, width=16, depth=2, cond=8)
    assert mlp(torch.randn(4, 7, 3), torch.randn(4, 7, 8)).abs().max().item() == 0
    embed = FourierEmbedding(8)
    assert embed(torch.zeros(3, 5)).shape == (3, 5, 8)
    near, far = ((embed(torch.tensor([0.0])) - embed(torch.tensor([d]))).norm().item() for d in (0.01, 2.0))
    assert near < far
    assert LabelEmbedding(3, 8)(torch.tensor([3])).shape == (1, 8)
    positions = grid_positions(3, 4, 8)
    assert positions.shape == (12, 8)
    assert len(positions.unique(dim=0)) == 12
    with pytest.raises(ValueError, match="multiple of 4"):
        grid_positions(2, 2, 6)
    with pytest.raises(ValueError, match="multiple of heads"):
        Attention(10, 3)
    assert isinstance(mlp, nn.Module)


def test_rotary_products_depend_on_the_distance_alone():
    q, k = (torch.randn(8, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1))
    angles = rotary_angles(12, 8).double()
    turned = lambda v: rotate(v.expand(12, 8), angles)  # noqa: E731
    products = turned(q) @ turned(k).T
    for distance in range(-4, 5):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products[0, 1] != pytest.approx(products[1, 0])
    torch.testing.assert_close(turned(q).norm(dim=1), q.norm().expand(12))
    with pytest.raises(ValueError, match="even"):
        rotary_angles(4, 5)


def test_a_block_without_conditioning_starts_as_the_identity_and_trains():
    block = TransformerBlock(16, 2)
    x = torch.randn(2, 5, 16)
    assert torch.equal(block(x), x)
    block(x).square().mean().backward()
    assert block.attention.out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("masked", [False, True])
def test_causal_attention_does_not_look_ahead(masked):
    attention = Attention(16, 2)
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    y[:, 3:] += 1
    valid = torch.ones(1, 6, dtype=torch.bool) if masked else None
    before, after = (attention(z, valid, causal=True)[:, :3] for z in (x, y))
    torch.testing.assert_close(before, after)
    torch.testing.assert_close(attention(x, None, causal=True), attention(x, torch.ones(1, 6).bool(), causal=True))
