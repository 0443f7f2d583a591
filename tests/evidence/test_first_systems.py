"""What the first systems of the ledger must show, on exactly solvable problems."""

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Normal
from polydiff.core.evaluation import mmd, mmd_permutation_test
from polydiff.core.processes import Gaussian
from polydiff.core.sampling import Ancestral, sample
from polydiff.core.schedules import Cosine, VPLinear, logsnr_times, uniform_times


def mean_only(mixture, process):
    """What a perfect regression network knows."""
    exact = mixture.denoiser(process)
    return FunctionDenoiser(process, lambda x, t, ctx: Normal(exact(x, t, ctx).mean))


@pytest.mark.slow
def test_ddim_beats_ddpm_at_few_steps_and_inverts_better_with_more(mixture, record_property):
    """S111: MMD at 10, 20, 50 steps with shared starts; round-trip error falls with the steps, at order one."""
    process, n = Gaussian(VPLinear()), 4000
    denoiser, real = mean_only(mixture, process), mixture.sample(n, Rng(7))
    gaps = {}
    for steps in (10, 20, 50):
        for eta in (0.0, 1.0):
            values = []
            for seed in range(3):
                x = process.prior(torch.zeros(n, 2, dtype=torch.float64)).sample(Rng(seed))
                out = sample(denoiser, x, uniform_times(steps), Ancestral(eta), rng=Rng(seed + 10))
                values.append(float(mmd(real, out)))
            gaps[steps, eta] = sum(values) / 3
            record_property(f"mmd2 at {steps} steps, eta {eta}", gaps[steps, eta])
    assert all(gaps[steps, 0.0] < gaps[steps, 1.0] for steps in (10, 20, 50)), gaps
    assert gaps[10, 0.0] > gaps[20, 0.0] > gaps[50, 0.0]
    x0, errors = mixture.sample(200, Rng(3)), []
    for steps in (25, 50, 100, 200):
        grid = logsnr_times(process.schedule, steps, high=8.0)[:-1]
        back = sample(denoiser, sample(denoiser, x0, grid[::-1], Ancestral(0.0)), grid, Ancestral(0.0))
        errors.append(float((back - x0).norm(dim=1).mean()))
        record_property(f"round trip at {steps} steps", errors[-1])
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[2] / errors[3] == pytest.approx(2, abs=0.4)


@pytest.mark.slow
def test_reverse_sde_and_probability_flow_have_the_same_marginals(mixture):
    """S001 (c): MMD between DDPM and DDIM ends lies below its permutation level."""
    process, n = Gaussian(VPLinear()), 1500
    denoiser = mixture.denoiser(process)
    x = process.prior(torch.zeros(n, 2, dtype=torch.float64)).sample(Rng(0))
    sde = sample(denoiser, x, uniform_times(30), Ancestral(1.0), rng=Rng(1))
    y = process.prior(torch.zeros(n, 2, dtype=torch.float64)).sample(Rng(2))
    ode = sample(denoiser, y, [t**2 for t in uniform_times(300)], Ancestral(0.0))
    assert mmd_permutation_test(sde, ode, permutations=200).p_value > 0.05
    far = sample(denoiser, y, uniform_times(5), Ancestral(0.0))
    assert mmd_permutation_test(sde, far, permutations=200).p_value < 0.05


def test_tweedie_mean_is_the_posterior_mean(mixture):
    """S062: E[x_0 | x_t] = (x_t + sigma² ∇ log p_t(x_t)) / alpha, by automatic differentiation of the exact density."""
    for schedule in (Cosine(), VPLinear()):
        process = Gaussian(schedule)
        x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
        for t in (0.05, 0.4, 0.9):
            (score,) = torch.autograd.grad(mixture.noised(process, t, x).log_prob(x).sum(), x)
            c = process.at(t)
            tweedie = (x + c.g**2 * score) / c.a
            torch.testing.assert_close(tweedie, mixture.posterior(process, x, t).mean, rtol=1e-9, atol=1e-9)


def test_bound_in_terms_of_the_snr_is_the_sum_of_divergences():
    """S062: KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) = ½ (SNR_s − SNR_t) (x_0 − x̂_0)², exactly, for any two times."""
    process = Gaussian(Cosine())
    x0, guess = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[-0.3]], dtype=torch.float64)
    for t, s in ((0.9, 0.7), (0.5, 0.1), (0.3, 0.29)):
        x_t = process.marginal(x0, t).mean + 0.2
        true, model = (process.transition(x_t, Normal(v), t, s, Context()) for v in (x0, guess))
        snr = [(process.at(u).a / process.at(u).g) ** 2 for u in (s, t)]
        exact = 0.5 * (snr[0] - snr[1]) * float((x0 - guess) ** 2)
        assert float(true.kl(model)) == pytest.approx(exact, rel=1e-6)
