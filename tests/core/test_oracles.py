"""Exact denoisers under schedules of each element's own."""

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.oracles import GaussianMixture, IdealDenoiser
from polydiff.core.processes import Gaussian
from polydiff.core.schedules import Clock, Clocked, Cosine

POWERS = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
MEANS = torch.tensor([[-1.0, 0.5, 2.0], [0.7, 1.5, -0.5]], dtype=torch.float64)
STDS = torch.tensor([[0.3, 0.6, 0.2], [0.5, 0.1, 0.4]], dtype=torch.float64)


def clocked():
    return Gaussian(Clocked(Cosine(), Clock(POWERS)))


def by_hand(x, a, g):
    """Posterior mean of the mixture, one component and one row after the other."""
    out = torch.zeros_like(x)
    for i, row in enumerate(x):
        w, means = [], []
        for k in range(2):
            var = (a * STDS[k]) ** 2 + g**2
            gap = row - a * MEANS[k]
            w.append(torch.tensor([0.3, 0.7])[k].double().log() - (0.5 * gap**2 / var + 0.5 * var.log()).sum())
            means.append(MEANS[k] + a * STDS[k] ** 2 / var * gap)
        out[i] = (torch.stack(w).softmax(0)[:, None] * torch.stack(means)).sum(0)
    return out


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("shared", [True, False])
def test_a_mixture_is_exact_where_columns_have_clocks_of_their_own(n, shared):
    mixture, process = GaussianMixture(torch.tensor([0.3, 0.7]).double(), MEANS, STDS), clocked()
    x = Rng(0).normal(torch.zeros(n, 3, dtype=torch.float64))
    t = 0.6 if shared else torch.full((n,), 0.6, dtype=torch.float64)
    own = Cosine().coefficients(torch.tensor(0.6, dtype=torch.float64) ** POWERS)
    found = mixture.denoiser(process)(x, t, Context())
    torch.testing.assert_close(found.mean, by_hand(x, own.a, own.g), rtol=1e-6, atol=1e-6)
    noised = mixture.noised(process, t, x)
    torch.testing.assert_close(noised.means[0], own.a * MEANS, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [1, 3, 4])
@pytest.mark.parametrize("shared", [True, False])
def test_the_ideal_denoiser_reads_every_column_at_its_own_time(n, shared):
    data = torch.cat([MEANS, STDS])
    x = Rng(1).normal(torch.zeros(n, 3, dtype=torch.float64))
    t = 0.6 if shared else torch.full((n,), 0.6, dtype=torch.float64)
    own = Cosine().coefficients(torch.tensor(0.6, dtype=torch.float64) ** POWERS)
    weight = (-0.5 * ((x[:, None] - own.a * data) / own.g) ** 2).sum(2).softmax(1)
    found = IdealDenoiser(data, clocked())(x, t, Context()).mean
    torch.testing.assert_close(found, weight @ data, rtol=1e-6, atol=1e-6)
