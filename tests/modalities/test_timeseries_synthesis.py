"""Windows from nothing: what the recipe promises, in seconds; the figures are those of tests/evidence/timeseries_synthesis.py."""

import numpy as np
import pytest
import torch

from polydiff.core.evaluation import memorisation_test
from polydiff.timeseries import TimeSeriesGenerator, recipes
from polydiff.timeseries.scores import autocorrelation_distance, marginal_distance

LENGTH = 12


def waves(n, seed):
    """A wave of random phase and height on two channels, of other levels, a quarter of a turn apart: ``(n, 12, 2)``."""
    g = np.random.default_rng(seed)
    phase, height = g.uniform(0, 2 * np.pi, (n, 1)), g.uniform(0.5, 1.5, (n, 1))
    angle = phase + np.arange(LENGTH) * 2 * np.pi / LENGTH
    return np.stack([40 + height * np.sin(angle), 0.1 * height * np.cos(angle)], 2)


@pytest.fixture(scope="module")
def fitted():
    torch.set_num_threads(1)
    return TimeSeriesGenerator(recipes.synthesis(LENGTH), device="cpu").fit(waves(1000, 0), steps=300, progress=False)


def test_windows_keep_units_length_and_channels(fitted):
    made = fitted.sample(200, seed=1)
    assert made.shape == (200, LENGTH, 2) and made.dtype == np.float64
    real = waves(200, 1)
    assert np.abs(made.mean((0, 1)) - real.mean((0, 1))).max() < 0.2
    assert np.allclose(made.std((0, 1)), real.std((0, 1)), rtol=0.2)


def test_windows_have_the_dependence_of_the_data_and_not_its_margins_alone(fitted):
    """Against windows whose steps are shuffled among windows: the same margins, no dependence."""
    real, made = waves(500, 1), fitted.sample(500, seed=1)
    shuffled = np.random.default_rng(0).permuted(real, axis=0)
    assert autocorrelation_distance(real, made).value < 0.25 * autocorrelation_distance(real, shuffled).value
    assert marginal_distance(real, made).value < 0.2
    # the two channels are a quarter of a turn apart: (x − 40)² + (10 y)² is the squared height, constant in a window
    height = np.sqrt((made[..., 0] - 40) ** 2 + (10 * made[..., 1]) ** 2)
    apart = np.sqrt((shuffled[..., 0] - 40) ** 2 + (10 * shuffled[..., 1]) ** 2)
    assert height.std(1).mean() < 0.5 * apart.std(1).mean()


def test_window_i_depends_on_seed_and_i_alone(fitted):
    whole = fitted.sample(6, seed=3, steps=4)
    assert np.allclose(fitted.sample(4, seed=3, steps=4), whole[:4], atol=1e-6)
    assert np.allclose(fitted.sample(6, seed=3, steps=4, batch_size=2), whole, atol=1e-6)
    assert not np.allclose(fitted.sample(6, seed=4, steps=4), whole, atol=1e-3)


def test_windows_are_no_copies(fitted):
    made = fitted.sample(300, seed=1).reshape(300, -1)
    test = memorisation_test(
        *(torch.as_tensor(x) for x in (waves(1000, 0).reshape(1000, -1), waves(300, 1).reshape(300, -1), made))
    )
    assert test.copies == 0 and test.closer < 0.6


def test_windows_given_one_by_one_are_windows_and_nothing_across_them():
    """Windows that touch in memory are not one series: a model of windows far apart makes no window half here, half there."""
    levels = np.where(np.arange(400) % 2 == 0, -1.0, 1.0)[:, None, None]
    x = levels + 0.01 * np.random.default_rng(0).normal(size=(400, 4, 1))
    made = TimeSeriesGenerator(recipes.synthesis(4), device="cpu").fit(x, steps=300, progress=False).sample(200, seed=0)
    assert (np.sign(made[:, 0]) == np.sign(made[:, -1])).mean() > 0.97
    assert 0.35 < (made.mean((1, 2)) > 0).mean() < 0.65
