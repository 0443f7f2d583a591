"""Interpolation: great circles, and the exact case where the encoder is the identity."""

import math

import pytest
import torch

from polydiff.core import Gaussian, GaussianMixture
from polydiff.core.sampling import interpolate, slerp
from polydiff.core.schedules import Cosine, uniform_times


def test_slerp_keeps_the_radius_and_the_ends():
    a, b = (torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    way = slerp(a, b, torch.linspace(0, 1, 7))
    torch.testing.assert_close(way[0], a[0])
    torch.testing.assert_close(way[-1], b[0])
    radii = way.flatten(1).norm(dim=1)
    assert bool(((radii >= min(a.norm(), b.norm()) - 1e-4) & (radii <= max(a.norm(), b.norm()) + 1e-4)).all())


def test_between_two_draws_of_a_unit_gaussian_the_way_is_the_great_circle_itself():
    """For unit variance the probability flow stands still; a DDIM step through the angle a shrinks it by cos a."""
    denoiser = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.ones(1)).denoiser(Gaussian(Cosine()))
    a, b = torch.tensor([1.0, -0.5, 0.3]).double(), torch.tensor([0.2, 1.4, -1.0]).double()
    steps = 50
    way = interpolate(denoiser, a, b, 5, uniform_times(steps))
    circle = slerp(a[None], b[None], torch.linspace(0, 1, 5).double())
    torch.testing.assert_close(way, circle * math.cos(math.pi / 2 / steps) ** (2 * steps), atol=1e-4, rtol=0)


def test_one_datum_is_no_way():
    denoiser = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.ones(1)).denoiser(Gaussian(Cosine()))
    with pytest.raises(ValueError, match="two ends"):
        interpolate(denoiser, torch.zeros(3), torch.ones(3), 1, uniform_times(4))
