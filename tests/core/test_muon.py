"""Muon against the singular value decomposition, torch's own Muon and AdamW, and through a checkpoint."""

import pytest
import torch
from torch import nn

from polydiff.core.training import Muon
from polydiff.core.training.muon import orthogonalise


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7)])
def test_singular_values_move_to_one_and_singular_vectors_stay(shape):
    m = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = orthogonalise(m)
    u, _, v = torch.linalg.svd(m, full_matrices=False)
    core = u.mT @ out @ v.mT
    off = core - torch.diag_embed(core.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max().item() < 1e-8
    values = core.diagonal(dim1=-2, dim2=-1)
    assert 0.3 < values.min().item() <= values.max().item() < 1.3
    assert values[:, 0].min().item() > 0.65


def test_agrees_with_torch():
    """The same update rule as torch.optim.Muon (bfloat16 inside) for matrices, AdamW's for the rest."""
    g = torch.Generator().manual_seed(0)
    start, bias = torch.randn(12, 8, generator=g), torch.randn(8, generator=g)
    grads = [(torch.randn(12, 8, generator=g), torch.randn(8, generator=g)) for _ in range(4)]
    w, b, w2, b2 = (nn.Parameter(v.clone()) for v in (start, bias, start, bias))
    ours = Muon([w], [b], lr=0.02, adam_lr=1e-2, weight_decay=0.1)
    theirs = torch.optim.Muon([w2], lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    adam = torch.optim.AdamW([b2], lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
    for dw, db in grads:
        w.grad, b.grad, w2.grad, b2.grad = dw.clone(), db.clone(), dw.clone(), db.clone()
        for optimiser in (ours, theirs, adam):
            optimiser.step()
    torch.testing.assert_close(b, b2)
    moved = (w2 - start).norm()
    assert ((w - w2).norm() / moved).item() < 0.02


def test_matrices_are_told_from_the_rest():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.Linear(6, 5))
    optimiser = Muon.of(net, skip=[net[2]])
    matrices, others = (g["params"] for g in optimiser.param_groups)
    assert [p.shape for p in matrices] == [(6, 4)]
    assert len(others) == 4
    with pytest.raises(ValueError, match="matrices only"):
        Muon([nn.Parameter(torch.zeros(3))], [])


def test_fits_a_linear_map():
    g = torch.Generator().manual_seed(0)
    x, target = torch.randn(64, 6, generator=g), torch.randn(6, 6, generator=g)
    layer = nn.Linear(6, 6)
    optimiser = Muon.of(layer, lr=0.2, adam_lr=0.01, weight_decay=0.0)
    for k in range(200):
        for group in optimiser.param_groups:
            group["lr"] *= 0.98
        optimiser.zero_grad()
        loss = (layer(x) - x @ target).square().mean()
        loss.backward()
        optimiser.step()
        if k == 0:
            first = loss.item()
    assert loss.item() < 0.02 * first
