"""Cold sampling: exact for linear degradations under any estimate, DDIM where the noise is implied."""

import pytest
import torch

from polydiff.core import Context, FunctionDenoiser, Rng
from polydiff.core.distributions import Dirac, Normal
from polydiff.core.processes import Process
from polydiff.core.sampling import Ancestral, sample, trajectory
from polydiff.core.sampling.cold import Cold
from polydiff.core.schedules import uniform_times


class Degradation(Process):
    """``x_t = D(x_0, t)``, nothing random."""

    def __init__(self, degrade):
        super().__init__()
        self.degrade = degrade

    def prior(self, like, ctx):
        return Dirac(like)

    def marginal(self, x, t, ctx, *, since=None):
        return Dirac(self.degrade(x, t))

    def transition(self, x_t, posterior, t, s, ctx, *, eta=1.0):
        return self.marginal(posterior.mean, s, ctx)

    def loss(self, posterior, x0, x_t, t, ctx):
        return (posterior.mean - x0) ** 2


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def states(denoiser, x, step, n=7, **kwargs):
    return [tr.x_s for tr in trajectory(denoiser, x, uniform_times(n), step, **kwargs)]


def test_what_moves_along_a_line_is_restored_by_any_denoiser():
    """``D(x, t) = x + t e``: every iterate is D(x_0, s), although the estimates are nonsense; naive sampling is lost."""
    x0, e = normal(3, 5), normal(3, 5, seed=1)
    process = Degradation(lambda x, t: x + t * e)
    nonsense = FunctionDenoiser(process, lambda x, t, ctx: Dirac(torch.sin(7 * x) - 3 * x))
    found = states(nonsense, x0 + e, Cold())
    for s, x in zip(uniform_times(7)[1:], found):
        torch.testing.assert_close(x, x0 + s * e, atol=1e-12, rtol=0)
    naive = states(nonsense, x0 + e, Ancestral())[-1]
    assert (naive - x0).abs().mean() > 1


def test_a_linear_degradation_is_undone_exactly_by_the_true_estimate_and_to_second_order_by_a_wrong_one():
    """``D(x, t) = exp(−t A) x``: with x̂_0 wrong by ε, one step errs by ``(D_s − D_t) ε``, of first order in the step."""
    x0, a = normal(2, 4), normal(4, 4, seed=2)
    a = a @ a.T / 4
    process = Degradation(lambda x, t: x @ torch.linalg.matrix_exp(-t * a))
    true = FunctionDenoiser(process, lambda x, t, ctx: Dirac(x0))
    for s, x in zip(uniform_times(7)[1:], states(true, process.degrade(x0, 1.0), Cold("fresh"))):
        torch.testing.assert_close(x, process.degrade(x0, s), atol=1e-12, rtol=0)
    off = normal(2, 4, seed=3)
    wrong = FunctionDenoiser(process, lambda x, t, ctx: Dirac(x0 + off))
    x_s = next(trajectory(wrong, process.degrade(x0, 0.6), [0.6, 0.5], Cold())).x_s
    gap = process.degrade(off, 0.5) - process.degrade(off, 0.6)
    torch.testing.assert_close(x_s - process.degrade(x0, 0.5), gap, atol=1e-12, rtol=0)


def test_with_implied_noise_it_is_ddim(unpinned, mixture):
    """For every Gaussian process, path by path."""
    denoiser = mixture.denoiser(unpinned)
    x = unpinned.prior(normal(6, 2)).sample(Rng(0, 6))
    cold = states(denoiser, x, Cold("implied"), n=9)
    for mine, theirs in zip(cold, states(denoiser, x, Ancestral(0.0), n=9)):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)


def test_shared_noise_is_one_draw_and_fresh_noise_two(unpinned):
    """``x_s − x_t = (a_s − a_t) x̂ + (g_s − g_t) z``; with fresh draws ``… + g_s z′ − g_t z``."""
    estimate, x = normal(20_000, 1), normal(20_000, 1, seed=1)
    denoiser = FunctionDenoiser(unpinned, lambda x, t, ctx: Normal(estimate))
    (a_t, _, g_t), (a_s, _, g_s) = (unpinned.coef(t, Context()) for t in (0.6, 0.4))
    for noise, variance in (("shared", (g_s - g_t) ** 2), ("fresh", g_s**2 + g_t**2)):
        tr = Cold(noise)(denoiser, x, 0.6, 0.4, Context(), None, Rng(3))
        gap = tr.x_s - x - (a_s - a_t) * estimate
        assert tr.kernel is None
        assert float(gap.var()) == pytest.approx(variance, rel=0.05, abs=1e-12)
        assert abs(float(gap.mean())) < 5 * (variance / 20_000) ** 0.5 + 1e-9


def test_a_slot_keeps_its_noise_in_any_batch(mixture):
    from polydiff.core import Gaussian
    from polydiff.core.schedules import Cosine

    denoiser = mixture.denoiser(Gaussian(Cosine()))
    x, times = normal(5, 2), uniform_times(4)
    for noise in ("shared", "fresh"):
        whole = sample(denoiser, x, times, Cold(noise), rng=Rng(1, 5))
        alone = sample(denoiser, x[3:4], times, Cold(noise), rng=Rng(1, [3]))
        torch.testing.assert_close(whole[3:4], alone, atol=1e-12, rtol=0)


def test_another_noise_and_a_missing_rng_are_refused(mixture):
    from polydiff.core import Gaussian
    from polydiff.core.schedules import Cosine

    with pytest.raises(ValueError, match="'shared', 'fresh' or 'implied'"):
        Cold("none")
    with pytest.raises(ValueError, match="pass an Rng"):
        sample(mixture.denoiser(Gaussian(Cosine())), normal(2, 2), uniform_times(2), Cold())
