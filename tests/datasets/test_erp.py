"""Simulated event-related potentials: their averages are the waves they were made from."""

import numpy as np
import pytest

from polydiff.datasets.erp import simulated_erp


def test_shapes_and_counts():
    found = simulated_erp(3, subjects=2, sessions=2, channels=5, steps=32)
    assert found.epochs.shape == (24, 5, 32)
    assert len(found) == 24
    rows = np.stack([found.subject, found.session, found.label], 1)
    assert set(np.unique(rows, axis=0, return_counts=True)[1]) == {3}
    assert found.amplitude.shape == (2, 2, 2)
    assert found.times[1] == 1 / 32


def test_averages_have_the_peaks_that_were_asked_for():
    found = simulated_erp(1500, subjects=2, sessions=1, channels=2, steps=64, seed=3)
    for s in range(2):
        for k in range(2):
            mean = found.epochs[(found.subject == s) & (found.label == k), 0].mean(0)
            at = np.argmin(np.abs(found.times - found.latency[s]))
            assert mean[at] == pytest.approx(found.amplitude[s, 0, k], abs=0.35)
    tall = found.epochs[found.label == 1][:, 0].mean(0)
    assert tall.max() > 3 * found.epochs[found.label == 0][:, 0].mean(0).max()


def test_noise_is_coloured_and_shared_by_channels():
    found = simulated_erp(400, subjects=1, sessions=1, steps=64)
    rest = found.epochs[found.label == 0]
    rest = rest - rest.mean(0)
    power = (np.abs(np.fft.rfft(rest[:, 0])) ** 2).mean(0)
    assert power[1:4].mean() > 4 * power[20:30].mean()
    assert power[10] > 1.5 * (power[8] + power[12]) / 2  # the rhythm
    assert np.corrcoef(rest[:, 0].ravel(), rest[:, 3].ravel())[0, 1] > 0.4


def test_trials_are_new_and_heads_are_the_same():
    a, b, other = simulated_erp(2, trials=0), simulated_erp(2, trials=1), simulated_erp(2, seed=1)
    np.testing.assert_array_equal(a.latency, b.latency)
    np.testing.assert_array_equal(a.amplitude, b.amplitude)
    assert not np.allclose(a.epochs, b.epochs)
    assert not np.allclose(a.latency, other.latency)
    np.testing.assert_array_equal(a.epochs, simulated_erp(2).epochs)


def test_refusals():
    with pytest.raises(ValueError, match="repeats=0"):
        simulated_erp(0)
    with pytest.raises(ValueError, match="steps=8"):
        simulated_erp(1, steps=8)
