"""Laws whose probabilities are exactly 0 or 1: finite gradients beside the same values."""

import pytest
import torch

from polydiff.core.distributions import Categorical, Dirac, Gated


def gated(p, stay, inner):
    return Gated(stay, stay == 3, p, inner)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_of_categories_has_gradients_where_both_exclude_a_state(dtype):
    first = torch.tensor([[0.2, -torch.inf, 1.0]], dtype=dtype, requires_grad=True)
    second = torch.tensor([[0.0, -torch.inf, 0.3]], dtype=dtype, requires_grad=True)
    law, other = Categorical(first), Categorical(second)
    kl = law.kl_per_element(other)
    inside = [0, 2]
    p, q = (v[:, inside].log_softmax(-1) for v in (first, second))
    expected = (p.exp() * (p - q)).sum(-1)
    torch.testing.assert_close(kl, expected)
    got = torch.autograd.grad(kl.sum(), (first, second))
    wanted = torch.autograd.grad(expected.sum(), (first, second))
    for g, w in zip(got, wanted):
        torch.testing.assert_close(g, w)  # 0 where a state is excluded, autograd through the allowed ones elsewhere


def test_kl_of_categories_has_gradients_where_only_self_excludes_a_state():
    first = torch.tensor([[0.0, -torch.inf]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    kl = Categorical(first).kl_per_element(Categorical(second))
    assert float(kl.detach()) == pytest.approx(float(torch.tensor(1.0).exp().log1p()))
    kl.sum().backward()
    assert first.grad.isfinite().all()
    torch.testing.assert_close(
        second.grad, torch.tensor([[-1.0, 1.0]], dtype=torch.float64) * torch.sigmoid(torch.tensor(1.0).double())
    )


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_gates_have_gradients_at_every_probability(p):
    """Values are those of the definition; a gate that never or always opens is a constant."""
    stay = torch.tensor([[3, 1], [3, 3]])
    gate = torch.full((2, 1), p, dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64).expand(2, 2, 3).clone().requires_grad_()
    law = gated(gate, stay, Categorical(logits))
    moved = torch.tensor([[0, 1], [2, 3]]) if 0 < p < 1 else stay if p == 0 else torch.tensor([[0, 1], [2, 1]])
    got = law.log_prob(moved)
    each = torch.where(
        moved == stay, 1 - gate, gate * Categorical(logits).probs.gather(-1, moved.clamp_max(2)[..., None])[..., 0]
    )
    expected = torch.where(stay == 3, each, 1.0).log().sum(1)
    torch.testing.assert_close(got, expected)
    got.sum().backward()
    assert gate.grad.isfinite().all() and logits.grad.isfinite().all()
    if p == 0.25:
        by_hand = torch.tensor([[1 / p], [1 / p - 1 / (1 - p)]], dtype=torch.float64)
        torch.testing.assert_close(gate.grad, by_hand)


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.0), (0.0, 0.4), (1.0, 1.0), (0.25, 0.4), (0.25, 1.0), (1.0, 0.4)])
@pytest.mark.parametrize("point", [False, True])
def test_kl_of_gates_has_gradients_at_every_probability(p, q, point):
    stay = torch.tensor([[3, 1]])
    mine, theirs = (torch.full((1, 1), v, dtype=torch.float64, requires_grad=True) for v in (p, q))
    one, two = (
        torch.tensor([v] * 2, dtype=torch.float64)[None].requires_grad_() for v in ([0.3, -0.2, 0.9], [1.0, 0.0, -1.0])
    )
    inner = Dirac(torch.tensor([[0, 0]])) if point else Categorical(one)
    kl = gated(mine, stay, inner).kl(gated(theirs, stay, Categorical(two)))
    chosen = torch.eye(3, dtype=torch.float64)[0] if point else one.detach()[0, 0].softmax(-1)
    law = torch.cat([torch.tensor([1 - p], dtype=torch.float64), p * chosen])
    other = torch.cat([torch.tensor([1 - q], dtype=torch.float64), q * two.detach()[0, 0].softmax(-1)])
    expected = torch.where(law > 0, law * (law / other).log(), 0.0).sum()
    torch.testing.assert_close(kl.detach()[0], expected)
    if expected.isfinite():
        kl.sum().backward()
        assert mine.grad.isfinite().all() and theirs.grad.isfinite().all() and two.grad.isfinite().all()
        assert point or one.grad.isfinite().all()
    if 0 < p < 1 and 0 < q < 1:
        nats = (chosen * (chosen.clamp_min(1e-300) / two.detach()[0, 0].softmax(-1)).log()).sum()
        by_hand = torch.tensor(p / q * (1 - q) / (1 - p), dtype=torch.float64).log() + nats
        torch.testing.assert_close(mine.grad[0, 0], by_hand)
        torch.testing.assert_close(theirs.grad[0, 0], torch.tensor((1 - p) / (1 - q) - p / q, dtype=torch.float64))


def test_a_closed_element_gives_no_gradient_however_far_its_law():
    """Where nothing can move the inner law does not matter, not even one that the other law excludes."""
    stay = torch.tensor([[3, 1]])
    gate = torch.full((1, 1), 0.5, dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([[[0.0, 0.0, 0.0], [-torch.inf, 0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    kl = gated(gate, stay, Dirac(torch.tensor([[0, 0]]))).kl(gated(gate, stay, Categorical(logits)))
    assert float(kl.detach()) == pytest.approx(0.5 * float(torch.tensor(3.0).log()))
    kl.sum().backward()
    assert gate.grad.isfinite().all() and logits.grad.isfinite().all()
