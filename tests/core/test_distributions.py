"""Laws: densities and divergences against torch.distributions, blends, replay, rare states."""

import math

import pytest
import torch

from polydiff.core.data import Rng, index
from polydiff.core.distributions import (
    Categorical,
    Dirac,
    Empirical,
    Gated,
    Implicit,
    Joint,
    Mixture,
    Normal,
    Predicted,
    ZeroSum,
)

G = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


KINDS = ["normal", "normal/float", "mixture", "categorical", "dirac", "joint"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_the_draw_of_its_noise(laws, kind):
    law = laws[kind](6)
    a, b = law.sample(Rng(3, 6)), law.draw(law.noise(Rng(3, 6)))
    flat = (
        (a, b)
        if not isinstance(a, dict)
        else (
            torch.cat([v.double().flatten() for v in a.values()]),
            torch.cat([v.double().flatten() for v in b.values()]),
        )
    )
    assert torch.equal(*flat)


@pytest.mark.parametrize("kind", ["normal", "normal/float", "categorical"])
def test_whitening_undoes_drawing(laws, kind):
    law = laws[kind](6)
    x = law.sample(Rng(0, 6))
    torch.testing.assert_close(law.draw(law.whiten(x)).double(), x.double())
    if kind != "categorical":
        z = law.noise(Rng(0, 6))
        torch.testing.assert_close(law.whiten(law.draw(z)), z)


@pytest.mark.parametrize("kind", ["normal", "normal/float", "categorical", "dirac", "joint"])
def test_divergence_from_itself_is_zero(laws, kind):
    law = laws[kind](6)
    assert torch.equal(law.kl(law), torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_blend_at_one_is_the_law_itself(laws, kind):
    a, b = laws[kind](6), laws[kind](6)
    assert a.lerp(b, 1.0) is a


@pytest.mark.parametrize("kind", KINDS)
def test_rows_can_be_picked(laws, kind):
    law = laws[kind](6)
    x = law.sample(Rng(0, 6))
    rows = torch.tensor([4, 1])
    if kind != "dirac":
        torch.testing.assert_close(index(law, rows).log_prob(index(x, rows)), law.log_prob(x)[rows])
    assert torch.equal(
        index(Dirac(x), rows).sample(None)["a"] if kind == "joint" else index(Dirac(x), rows).sample(None),
        index(x, rows)["a"] if kind == "joint" else x[rows],
    )


def test_normal_agrees_with_torch():
    a, b = Normal(rand(5, 3), rand(5, 3).abs() + 0.1), Normal(rand(5, 3), 0.8)
    ta = torch.distributions.Normal(a.mean, a.std)
    tb = torch.distributions.Normal(b.mean, 0.8)
    x = rand(5, 3)
    torch.testing.assert_close(a.log_prob(x), ta.log_prob(x).sum(1))
    torch.testing.assert_close(a.kl(b), torch.distributions.kl_divergence(ta, tb).sum(1))
    torch.testing.assert_close(a.expect(torch.exp), (a.mean + a.std**2 / 2).exp(), rtol=1e-8, atol=0)


def test_normal_blend_is_that_of_natural_parameters():
    a, b, w = Normal(rand(4, 2), 0.5), Normal(rand(4, 2), 0.9), 0.3
    got = a.lerp(b, w)
    precision = w / 0.25 + (1 - w) / 0.81
    torch.testing.assert_close(got.std, torch.full((4, 2), precision**-0.5, dtype=torch.float64))
    torch.testing.assert_close(got.mean, (w * a.mean / 0.25 + (1 - w) * b.mean / 0.81) / precision)
    per_sample = a.lerp(b, torch.tensor([1.0, 0.3, 0.0, 0.3], dtype=torch.float64))
    torch.testing.assert_close(per_sample.mean[0], a.mean[0], rtol=0, atol=0)
    torch.testing.assert_close(per_sample.mean[1], got.mean[1])
    torch.testing.assert_close(per_sample.mean[2], b.mean[2])


def test_affine_images_of_every_real_law_have_the_right_moments():
    n = 100_000
    wide = [v.expand(n, *v.shape[1:]) for v in (rand(1, 3), rand(1, 3, 2), rand(1, 3).abs() + 0.2)]
    laws = [
        Normal(rand(1, 2).expand(n, 2), 0.4),
        Mixture(*wide),
        Empirical(wide[0], rand(3, 2)),
        Dirac(rand(1, 2).expand(n, 2)),
    ]
    shift = rand(1, 2).expand(n, 2)
    for law in laws:
        image = law.affine(0.7, shift, 0.3)
        x = law.sample(Rng(0))
        y = image.sample(Rng(1))
        torch.testing.assert_close(y.mean(0), (0.7 * x + shift).mean(0), rtol=0, atol=0.02)
        torch.testing.assert_close(y.var(0), 0.49 * x.var(0) + 0.09, rtol=0.04, atol=0.0)
        torch.testing.assert_close(image.mean[0], 0.7 * law.mean[0] + shift[0])


def test_a_law_known_by_samples_alone_can_be_moved():
    law = Implicit(lambda rng: rng.normal(torch.zeros(50_000, 1))).affine(2.0, 1.0, 0.0)
    x = law.sample(Rng(0))
    assert float(x.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(x.std()) == pytest.approx(2.0, rel=0.02)


def test_mean_only_laws_refuse_to_be_sampled_or_scored():
    for law in (Normal(torch.zeros(2, 3)), Predicted(torch.zeros(2, 3), torch.ones(2, 3), 1.0, 0.5)):
        with pytest.raises(ValueError, match="only the mean"):
            law.sample(Rng(0, 2))
        with pytest.raises(ValueError, match="only the mean"):
            law.log_prob(torch.zeros(2, 3))


def test_predictions_are_their_formed_means():
    x, raw, other = rand(4, 3), rand(4, 3), rand(4, 3)
    for p, q in ((0.7, -0.4), (3.0, 1.0), (0.0, 1.0), (rand(4, 1), rand(4, 1))):
        a, b = Predicted(x, raw, p, q), Predicted(x, other, p, q)
        mean = p * x + q * raw
        torch.testing.assert_close(a.mean, mean)
        torch.testing.assert_close(a.combine(0.3, x, 0.9, 0.0, 0.1).mean, 0.3 * mean + 0.9 * x)
        torch.testing.assert_close(a.combine(0.3, other, 0.9, 0.0, 0.1).mean, 0.3 * mean + 0.9 * other)
        for w in (2.5, torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)):
            wide = w if isinstance(w, float) else w[:, None]
            torch.testing.assert_close(a.lerp(b, w).mean, wide * mean + (1 - wide) * b.mean)
        torch.testing.assert_close(a.lerp(Normal(other), 1.5).mean, 1.5 * mean - 0.5 * other)


def test_categorical_agrees_with_torch():
    a, b = Categorical(rand(5, 2, 4)), Categorical(rand(5, 2, 4))
    ta, tb = (torch.distributions.Categorical(logits=c.logits) for c in (a, b))
    x = ta.sample()
    torch.testing.assert_close(a.log_prob(x), ta.log_prob(x).sum(1))
    torch.testing.assert_close(a.kl(b), torch.distributions.kl_divergence(ta, tb).sum(1))
    torch.testing.assert_close(a.expect(lambda k: k.double() ** 2), (a.probs * torch.arange(4.0).double() ** 2).sum(-1))


def test_blend_at_scale_one_ignores_what_the_other_excludes():
    """0 · ∞ = 0: guidance at scale 1 is the identity where the unconditional law has zeros."""
    c = Categorical(torch.tensor([[0.5, 0.5, 0.0]]).log())
    u = Categorical(torch.tensor([[1.0, 0.0, 0.0]]).log())
    for w in (1.0, torch.ones(1)):
        torch.testing.assert_close(c.lerp(u, w).probs, torch.tensor([[0.5, 0.5, 0.0]]))
    for w in (0.0, torch.zeros(1)):
        torch.testing.assert_close(c.lerp(u, w).probs, torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(c.lerp(u, 0.5).probs, torch.tensor([[1.0, 0.0, 0.0]]))
    guided = c.lerp(u, 3.0).probs
    assert bool(torch.isfinite(guided).all())
    assert float(guided[0, 2]) == 0


def test_rare_states_are_drawn_at_their_rate():
    """χ² over a law with probabilities down to 10⁻⁶ (float32 uniforms would still pass here, not below 10⁻⁷)."""
    p = torch.tensor([1e-6, 1e-5, 1e-3, 0.3, 1.0], dtype=torch.float64)
    p[-1] = 1 - p[:-1].sum()
    n, counts = 4_000_000, torch.zeros(5, dtype=torch.float64)
    law = Categorical(p.log().expand(n, 5))
    for seed in range(2):
        counts += torch.bincount(law.sample(Rng(seed)), minlength=5)
    chi2 = ((counts - 2 * n * p) ** 2 / (2 * n * p)).sum()
    assert float(chi2) < 23  # the 99.99 % point of four degrees of freedom


def test_states_without_mass_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    law = Categorical(logits.expand(3, 5))
    edge = torch.tensor([0.0, 1 - 2**-53, 0.5], dtype=torch.float64)
    assert set(law.draw(edge).tolist()) <= {1, 3}


def test_uniforms_keep_their_last_bits():
    """Near 1 a float32 has steps of 6e-8: rounding the uniform would give the middle state's mass to its neighbours."""
    law = Categorical(torch.tensor([[1 - 2e-9, 1e-9, 1e-9]], dtype=torch.float64).log())
    assert law.draw(torch.tensor([1 - 1.5e-9], dtype=torch.float64)).tolist() == [1]


def test_the_largest_uniform_draws_the_last_state_with_mass():
    """Totals of the cumulative sum differ from 1 by rounding: states without mass at the end must stay out of reach."""
    logits = torch.randn(2000, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[:, 250:] = -torch.inf
    u = torch.full((2000,), 1 - 2.0**-53, dtype=torch.float64)
    assert Categorical(logits).draw(u).tolist() == [249] * 2000


def test_gated_law_is_that_of_its_dense_form():
    stay = torch.tensor([[3, 1, 3]])
    inner = Categorical(rand(1, 3, 3))
    law = Gated(stay, stay == 3, 0.4, inner)
    dense = torch.cat([0.4 * inner.probs, torch.full((1, 3, 1), 0.6, dtype=torch.float64)], -1)
    dense[0, 1] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    for x in (torch.tensor([[3, 1, 0]]), torch.tensor([[2, 1, 3]]), torch.tensor([[2, 0, 3]])):
        torch.testing.assert_close(law.log_prob(x), Categorical(dense.log()).log_prob(x))
    n = 100_000
    many = Gated(stay.expand(n, 3), (stay == 3).expand(n, 3), 0.4, Categorical(inner.logits.expand(n, 3, 3)))
    x = many.sample(Rng(0))
    assert bool((x[:, 1] == 1).all())
    rates = torch.bincount(x[:, 0], minlength=4).double() / n
    torch.testing.assert_close(rates, dense[0, 0], rtol=0, atol=0.006)
    other = Gated(stay, stay == 3, 0.7, Categorical(rand(1, 3, 3)))
    wide = torch.cat([0.7 * other.inner.probs, torch.full((1, 3, 1), 0.3, dtype=torch.float64)], -1)
    wide[0, 1] = dense[0, 1]
    torch.testing.assert_close(law.kl(other), Categorical(dense.log()).kl(Categorical(wide.log())))


def test_gated_draw_turns_only_the_revealed_rows_into_probabilities(monkeypatch):
    rows = []
    whole = Categorical.draw
    monkeypatch.setattr(Categorical, "draw", lambda self, u: (rows.append(len(self.logits)), whole(self, u))[1])
    stay = torch.full((4, 100), 7)
    stay[:, :90] = 1
    Gated(stay, stay == 7, 0.5, Categorical(torch.zeros(4, 100, 7))).sample(Rng(0, 4))
    assert rows[0] < 40


def test_zero_sum_noise_lives_on_its_subspace_with_the_right_density():
    valid = torch.tensor([[True] * 4 + [False], [True] * 5])
    law = Normal(torch.zeros(2, 5, 3, dtype=torch.float64), 0.7, ZeroSum(valid))
    x = law.sample(Rng(0, 2))
    assert float(x.sum(1).abs().max()) < 1e-12
    assert float(x[0, 4].abs().max()) == 0
    for row, n in ((0, 4), (1, 5)):
        # An orthonormal basis of the subspace turns the law into (n − 1) · 3 independent normals.
        basis = torch.linalg.svd(torch.ones(1, n, dtype=torch.float64))[2][1:]
        flat = (basis @ x[row, :n]).flatten()
        exact = torch.distributions.Normal(flat * 0, torch.full_like(flat, 0.7)).log_prob(flat).sum()
        assert float(law.log_prob(x)[row]) == pytest.approx(float(exact), rel=1e-12)
    many = Normal(torch.zeros(50_000, 5, 3), 1.0, ZeroSum(torch.ones(50_000, 5, dtype=torch.bool))).sample(Rng(1))
    assert float((many**2).sum((1, 2)).mean()) == pytest.approx(12, rel=0.02)


def test_mixture_density_agrees_with_torch():
    law = Mixture(rand(4, 3), rand(4, 3, 2), rand(4, 3).abs() + 0.3)
    torch_law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=law.logits),
        torch.distributions.Independent(torch.distributions.Normal(law.means, law.stds[..., None].expand(4, 3, 2)), 1),
    )
    x = rand(4, 2)
    torch.testing.assert_close(law.log_prob(x), torch_law.log_prob(x))
    torch.testing.assert_close(law.mean, torch_law.mean)


def test_masked_elements_do_not_count_even_if_they_are_nan(laws):
    mask = torch.tensor([[True, False, True]] * 6)
    law = laws["normal"](6)
    x = law.sample(Rng(0, 6))
    broken = x.clone()
    broken[:, 1] = math.nan
    assert torch.equal(law.log_prob(broken, mask), law.log_prob(x, mask))


def test_joint_reads_masks_by_field():
    law = Joint({"a": Normal(torch.zeros(2, 3), 1.0), "b": Normal(torch.zeros(2, 2), 1.0)})
    x = {"a": torch.ones(2, 3), "b": torch.ones(2, 2)}
    half = law.log_prob(x, {"a": torch.tensor([[True, False, False]] * 2)})
    assert float(half[0]) == pytest.approx(3 * (-0.5 - 0.5 * math.log(2 * math.pi)))


def test_what_a_law_cannot_say_it_refuses():
    with pytest.raises(TypeError, match="has no mean"):
        _ = Categorical(torch.zeros(1, 2)).mean
    with pytest.raises(TypeError, match="real vectors"):
        Categorical(torch.zeros(1, 2)).affine(1.0, 0.0, 0.0)
    with pytest.raises(TypeError, match="no closed form"):
        Mixture(torch.zeros(1, 2), torch.zeros(1, 2, 1), torch.ones(1, 2)).kl(Normal(torch.zeros(1, 1), 1.0))
