"""Simulated dynamics on small grids: noisy transport, spring chains, Lorenz-96, moving blobs. Seeded, on the spot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blobs", "NoisyTransport", "lorenz96", "moving_blobs", "rk4", "spring_chain"]

Array = NDArray[np.float64]


def rk4(f: Callable[[Array], Array], x: Array, dt: float) -> Array:
    """One step of the classical Runge–Kutta method of order 4 for ``dx/dt = f(x)``."""
    a = f(x)
    b = f(x + 0.5 * dt * a)
    c = f(x + 0.5 * dt * b)
    return x + dt / 6 * (a + 2 * b + 2 * c + f(x + dt * c))


# ------------------------------------------------------------------ a field with a known law


@dataclass(frozen=True)
class NoisyTransport:
    """``du = (−speed ∂u + diffusivity ∂²u − damping u) dt + noise`` on a ring of length 1, stationary with variance 1.

    Every step multiplies Fourier mode k by ``g_k = exp(dt (−2πi k speed − (2πk)² diffusivity − damping))`` and adds Gaussian
    noise that restores its share ``∝ exp(−½ (k / cutoff)²)`` of the variance: all laws are Gaussian and known.

    Attributes:
        sites: Points on the ring.
        speed: Ring lengths a unit of time.
        diffusivity: Ring lengths squared a unit of time.
        damping: Rate at which every mode forgets.
        cutoff: Wave number up to which there is variance.
        dt: Time between two states.
    """

    sites: int = 32
    speed: float = 1.0
    diffusivity: float = 2e-3
    damping: float = 0.3
    cutoff: float = 3.0
    dt: float = 0.05

    def __post_init__(self) -> None:
        if self.sites < 4 or min(self.dt, self.damping, self.cutoff) <= 0 or self.diffusivity < 0:
            raise ValueError(f"{self}: need at least 4 sites, positive dt, damping and cutoff, and diffusivity ≥ 0")

    def _modes(self) -> tuple[NDArray[np.complex128], Array]:
        """Multiplier and stationary variance of every mode of ``rfft(u, norm="ortho")``."""
        k = np.arange(self.sites // 2 + 1)
        turn = np.where(2 * k == self.sites, 0.0, 2 * np.pi * k * self.speed)  # the last mode has no sine to turn into
        g = np.exp(self.dt * (-1j * turn - (2 * np.pi * k) ** 2 * self.diffusivity - self.damping))
        share = np.exp(-0.5 * (k / self.cutoff) ** 2)
        twice = np.where((k == 0) | (2 * k == self.sites), 1, 2)
        return g, share * self.sites / (share * twice).sum()

    def _noise(self, rng: np.random.Generator, n: int, variance: Array) -> NDArray[np.complex128]:
        white = np.fft.rfft(rng.standard_normal((n, self.sites)), norm="ortho")
        return np.asarray(white * np.sqrt(variance))

    def sample(self, n: int, steps: int, seed: int) -> Array:
        """``(n, steps, sites)``, from a stationary start."""
        rng = np.random.default_rng(seed)
        g, variance = self._modes()
        mode = self._noise(rng, n, variance)
        out = np.empty((n, steps, self.sites))
        for step in range(steps):
            out[:, step] = np.fft.irfft(mode, self.sites, norm="ortho")
            mode = g * mode + self._noise(rng, n, variance * (1 - abs(g) ** 2))
        return out

    def law(self, x: Array, steps: int) -> tuple[Array, float]:
        """Mean ``(n, sites)`` and standard deviation of every site, ``steps`` steps after the states x ``(n, sites)``."""
        g, variance = self._modes()
        mean = np.fft.irfft(g**steps * np.fft.rfft(x, norm="ortho"), self.sites, norm="ortho")
        k = np.arange(len(g))
        twice = np.where((k == 0) | (2 * k == self.sites), 1, 2)
        lost = twice * variance * (1 - abs(g) ** (2 * steps))
        return mean, float(np.sqrt(lost.sum() / self.sites))


# ------------------------------------------------------------------ chains and chaos


def spring_chain(
    n: int, steps: int, *, sites: int = 16, stiffening: float = 1.0, kick: float = 0.05, dt: float = 0.5, seed: int = 0
) -> Array:
    """Masses between springs with both ends held: ``q″_i = F(q_{i+1} − q_i) − F(q_i − q_{i−1})``, ``F(r) = r + stiffening r³``.

    Starts are random superpositions of the four slowest modes; after every dt the velocities are kicked by
    ``kick · sqrt(dt) · N(0, 1)``.

    Args:
        n: Trajectories.
        steps: States of each.
        sites: Masses.
        stiffening: Cubic part of the springs; 0 for a harmonic chain.
        kick: Of the noise; 0 for a chain that conserves its energy.
        dt: Time between two states; RK4 with steps of at most 0.05.
        seed: Of starts and kicks.

    Returns:
        ``(n, steps, sites, 2)``: displacements and velocities.
    """
    rng = np.random.default_rng(seed)
    inner = max(1, round(dt / 0.05))
    modes = np.sin(np.pi * np.outer(np.arange(1, 5), np.arange(1, sites + 1)) / (sites + 1))
    start = [rng.standard_normal((n, 4)) / np.arange(1, 5) @ modes * scale for scale in (1.0, 0.3)]
    x = np.stack(start, -1)

    def slope(x: Array) -> Array:
        q = np.pad(x[..., 0], ((0, 0), (1, 1)))
        r = np.diff(q)
        return np.stack([x[..., 1], np.diff(r + stiffening * r**3)], -1)

    out = np.empty((n, steps, sites, 2))
    for step in range(steps):
        out[:, step] = x
        for _ in range(inner):
            x = rk4(slope, x, dt / inner)
        x = x + np.stack([np.zeros((n, sites)), kick * np.sqrt(dt) * rng.standard_normal((n, sites))], -1)
    return out


def lorenz96(
    n: int, steps: int, *, sites: int = 40, forcing: float = 8.0, dt: float = 0.05, spin_up: int = 400, seed: int = 0
) -> Array:
    """``dx_i/dt = (x_{i+1} − x_{i−2}) x_{i−1} − x_i + forcing`` on a ring, after a spin-up: ``(n, steps, sites)``.

    Chaotic at forcing 8, where errors double in 0.42 units of time. dt is the time between two states and of one RK4 step.

    Source: Predictability: a problem partly solved, E. N. Lorenz, 1996.
    """
    rng = np.random.default_rng(seed)
    x = forcing + rng.standard_normal((n, sites))

    def slope(x: Array) -> Array:
        return (np.roll(x, -1, -1) - np.roll(x, 2, -1)) * np.roll(x, 1, -1) - x + forcing

    for _ in range(spin_up):
        x = rk4(slope, x, dt)
    out = np.empty((n, steps, sites))
    for step in range(steps):
        out[:, step] = x
        x = rk4(slope, x, dt)
    return out


# ------------------------------------------------------------------ video


@dataclass(frozen=True, slots=True, eq=False)
class Blobs:
    """Moving blobs.

    Attributes:
        video: ``(n, frames, size, size)``.
        clean: The same without noise.
        noise: Standard deviation of the noise of every pixel, ``(size, size)``.
    """

    video: Array
    clean: Array
    noise: Array


def moving_blobs(
    n: int, frames: int, *, size: int = 16, blobs: int = 2, level: float = 0.6, floor: float = 0.05, seed: int = 0
) -> Blobs:
    """Gaussian blobs that drift over a periodic square, seen through noise that is strong in one known half.

    The noise has standard deviation ``level`` in the columns of the right half, with soft edges, and ``floor`` elsewhere.
    It is fresh in every frame: no forecaster can know it.

    Args:
        n: Videos.
        frames: Of each.
        size: Pixels a side.
        blobs: A video.
        level: Noise in the noisy region.
        floor: Noise elsewhere.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0, size, (n, blobs, 2)), rng.uniform(-1.5, 1.5, (n, blobs, 2))
    grid = np.arange(size)
    clean = np.zeros((n, frames, size, size))
    for frame in range(frames):
        gap = (grid - (place + frame * speed)[..., None] + size / 2) % size - size / 2  # (n, blobs, 2, size)
        bump = np.exp(-0.5 * (gap / (size / 8)) ** 2)
        clean[:, frame] = np.einsum("nby,nbx->nyx", bump[:, :, 0], bump[:, :, 1])
    inside = 1 / (1 + np.exp(-4 * (np.minimum(grid - size / 2, size - 1 - grid) + 0.5)))
    noise = np.broadcast_to(floor + (level - floor) * inside, (size, size)).copy()
    return Blobs(clean + noise * rng.standard_normal(clean.shape), clean, noise)
