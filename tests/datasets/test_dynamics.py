"""Simulators: orders of convergence, conserved energies, and a field whose law is known."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from polydiff.datasets.dynamics import NoisyTransport, lorenz96, moving_blobs, rk4, spring_chain


def test_rk4_is_of_order_four():
    """A rotation: the error at a fixed time falls 16-fold when the step is halved."""
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    errors = []
    for steps in (10, 20, 40):
        x = np.array([[1.0, 0.0]])
        for _ in range(steps):
            x = rk4(lambda v: v @ turn.T, x, 1.0 / steps)
        errors.append(np.abs(x - [[np.cos(1), np.sin(1)]]).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 3.8).all() and (orders < 4.3).all()


def test_a_chain_without_kicks_keeps_its_energy_and_one_with_kicks_gains_what_they_bring():
    def energy(x, cubic):
        r = np.diff(np.pad(x[..., 0], ((0, 0), (0, 0), (1, 1))))
        return (0.5 * x[..., 1] ** 2).sum(-1) + (0.5 * r**2 + 0.25 * cubic * r**4).sum(-1)

    still = energy(spring_chain(20, 40, kick=0.0, seed=3), 1.0)
    np.testing.assert_allclose(still, still[:, :1] * np.ones(40), rtol=1e-4)
    kicked = energy(spring_chain(400, 11, kick=0.2, seed=3), 1.0)
    gain = (kicked[:, 10] - kicked[:, 0]).mean()
    assert gain == pytest.approx(16 * 0.5 * 0.2**2 * 0.5 * 10, rel=0.1)  # sites · ½ kick² dt a step


def test_a_harmonic_chain_turns_every_mode_at_its_own_frequency():
    x = spring_chain(5, 9, sites=7, stiffening=0.0, kick=0.0, dt=0.3, seed=0)
    modes = np.sqrt(2 / 8) * np.sin(np.pi * np.outer(np.arange(1, 8), np.arange(1, 8)) / 8)
    omega = 2 * np.sin(np.pi * np.arange(1, 8) / 16)
    q, v = x[..., 0] @ modes.T, x[..., 1] @ modes.T
    time = 0.3 * np.arange(9)[None, :, None]
    np.testing.assert_allclose(q, q[:, :1] * np.cos(omega * time) + v[:, :1] * np.sin(omega * time) / omega, atol=1e-5)


def test_lorenz_96_rests_at_its_forcing_and_has_its_known_climate():
    slow = lorenz96(2, 5, sites=8, forcing=0.0, spin_up=400, seed=1)
    assert np.abs(slow).max() < 1e-6  # without forcing everything decays
    x = lorenz96(50, 200, seed=0)
    assert x.mean() == pytest.approx(2.34, abs=0.1) and x.std() == pytest.approx(3.64, abs=0.1)


def test_lorenz_96_follows_its_equation():
    """Against an adaptive solver and the equation written site by site."""
    x = lorenz96(1, 11, sites=9, seed=0)[0]

    def slope(_, v):
        return [(v[(i + 1) % 9] - v[i - 2]) * v[i - 1] - v[i] + 8.0 for i in range(9)]

    exact = solve_ivp(slope, (0, 0.5), x[0], rtol=1e-10, atol=1e-10).y[:, -1]
    np.testing.assert_allclose(x[10], exact, atol=1e-2)


def test_noisy_transport_has_the_law_it_says():
    """Stationary with variance 1; after 6 steps mean and spread are those of ``law``; without noise it is a shift."""
    field = NoisyTransport(sites=12, dt=0.1)
    x = field.sample(20_000, 7, seed=0)
    np.testing.assert_allclose(x.var((0, 2)), 1.0, atol=0.03)
    mean, std = field.law(x[:, 0], 6)
    gap = (x[:, 6] - mean) / std
    assert np.abs(gap.mean(0)).max() < 0.03 and np.abs(gap.var(0) - 1).max() < 0.06
    assert np.abs((gap * x[:, 0]).mean(0)).max() < 0.03  # nothing more can be told from the start
    still = NoisyTransport(sites=12, speed=1.0, diffusivity=0.0, damping=1e-12, dt=1 / 12, cutoff=2.0)
    smooth = np.cos(2 * np.pi * np.arange(12) / 12)[None]
    mean, std = still.law(smooth, 3)
    np.testing.assert_allclose(mean, np.roll(smooth, 3, 1), atol=1e-9)
    assert std < 1e-4


def test_blobs_move_at_constant_speed_and_are_noisy_where_it_is_said():
    found = moving_blobs(600, 4, seed=0)
    residual = (found.video - found.clean).std((0, 1))
    np.testing.assert_allclose(residual, found.noise, rtol=0.1)
    assert found.noise[:, :6].max() < 0.06 and found.noise[:, 10:14].min() > 0.55
    one = moving_blobs(5, 3, blobs=1, seed=2).clean
    for axis in (1, 2):  # the phase of the first Fourier mode advances evenly
        phase = np.angle(np.fft.fft(one.sum(3 - axis + 1), axis=-1)[..., 1])
        steps = np.angle(np.exp(1j * np.diff(phase, axis=1)))
        np.testing.assert_allclose(steps[:, 0], steps[:, 1], atol=1e-3)


def test_a_seed_is_a_data_set():
    for make in (
        lambda seed: lorenz96(2, 3, seed=seed),
        lambda seed: spring_chain(2, 3, seed=seed),
        lambda seed: NoisyTransport().sample(2, 3, seed),
        lambda seed: moving_blobs(2, 3, seed=seed).video,
    ):
        np.testing.assert_array_equal(make(1), make(1))
        assert np.abs(make(1) - make(2)).max() > 0.1


def test_a_field_without_damping_is_refused():
    with pytest.raises(ValueError, match="positive dt"):
        NoisyTransport(damping=0.0)
