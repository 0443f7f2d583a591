"""Simulated event-related potentials: epochs of EEG whose peaks are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["ErpEpochs", "simulated_erp"]


@dataclass(frozen=True, slots=True, eq=False)
class ErpEpochs:
    """Epochs around a stimulus, in the order of their conditions.

    Attributes:
        epochs: ``(N, C, T)``, about microvolts.
        label: ``(N,)``, 1 for a target and 0 for a non-target.
        subject: ``(N,)``.
        session: ``(N,)``.
        times: ``(T,)``, seconds since the stimulus.
        rate: Samples a second.
        amplitude: ``(subjects, sessions, 2)``, height of the mean P300 at the channel where it is largest, of each condition.
        latency: ``(subjects,)``, seconds until its top.
    """

    epochs: np.ndarray
    label: np.ndarray
    subject: np.ndarray
    session: np.ndarray
    times: np.ndarray
    rate: float
    amplitude: np.ndarray
    latency: np.ndarray

    def __len__(self) -> int:
        return len(self.epochs)


def simulated_erp(
    repeats: int,
    *,
    subjects: int = 6,
    sessions: int = 2,
    channels: int = 4,
    steps: int = 64,
    seed: int = 0,
    trials: int = 0,
) -> ErpEpochs:
    """``x_c(t) = w_c (A b((t − τ) / 0.07) − 2 b((t − 0.12) / 0.03)) + noise``, ``b(u) = exp(−u² / 2)``, over one second.

    The P300 is tall for targets and small for others; height A and latency τ are those of a subject, A changes by session, and
    both vary a little from trial to trial. The noise has a spectrum of 1/f, is shared in part by the channels, and has a rhythm
    of 10 Hz of a subject's own size and of random phase. Of a trial the peak is hidden, of an average of fifty it is not.

    Args:
        repeats: Epochs of every condition (subject, session, label).
        subjects: Number of them.
        sessions: Of each.
        channels: C; the weights w fall from 1 with the number of the channel.
        steps: T.
        seed: Of the subjects: the same seed, the same heads.
        trials: Of the epochs: another number, other epochs of the same heads.

    Raises:
        ValueError: For a count below 1, or fewer than 16 steps.
    """
    counts = {"repeats": repeats, "subjects": subjects, "sessions": sessions, "channels": channels}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value}: need at least 1")
    if steps < 16:
        raise ValueError(f"steps={steps}: a bump needs at least 16 steps a second")
    g = np.random.default_rng([seed, 0])
    tall = g.uniform(4.0, 9.0, subjects)
    latency = g.uniform(0.30, 0.48, subjects)
    change = g.uniform(0.8, 1.2, (subjects, sessions))
    alpha = g.uniform(0.5, 2.0, subjects)
    amplitude = tall[:, None, None] * change[..., None] * np.array([0.2, 1.0])

    subject, session, label, _ = (
        a.ravel()
        for a in np.meshgrid(np.arange(subjects), np.arange(sessions), [0, 1], np.arange(repeats), indexing="ij")
    )
    n, t = len(label), np.arange(steps) / steps
    g = np.random.default_rng([seed, 1, trials])
    a = amplitude[subject, session, label] * np.exp(0.15 * g.normal(size=n) - 0.15**2 / 2)  # of mean 1
    tau = latency[subject] + 0.015 * g.normal(size=n)
    wave = a[:, None] * _bump((t - tau[:, None]) / 0.07) - 2 * _bump((t - 0.12) / 0.03)
    weight = 0.8 ** np.arange(channels)
    shared, own = _pink(g, (n, 1, steps)), _pink(g, (n, channels, steps))
    phase = 2 * np.pi * g.uniform(size=(n, 1, 1))
    rhythm = alpha[subject, None, None] * np.sin(2 * np.pi * 10 * t + phase)
    x = weight[:, None] * wave[:, None] + 2.0 * shared + 1.5 * own + rhythm
    # the spread of latencies flattens the mean bump to exp(-u²/2) of variance 0.07² + 0.015²
    flat = 0.07 / np.hypot(0.07, 0.015)
    return ErpEpochs(x, label, subject, session, t, float(steps), amplitude * flat, latency)


def _bump(u: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-(u**2) / 2))


def _pink(g: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian noise of unit variance with power in proportion to 1/f, and no mean."""
    size = shape[-1]
    power = np.r_[0.0, 1 / np.arange(1, size // 2 + 1)]
    twice = np.where(2 * np.arange(size // 2 + 1) == size, 1.0, 2.0)
    x = np.fft.irfft(np.fft.rfft(g.normal(size=shape)) * np.sqrt(power), size)
    return np.asarray(x / np.sqrt((twice * power).sum() / size))
