"""Scores of event-related potentials: peaks of averages, power of bands, and what a classifier learns from copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["band_power", "band_power_error", "grand_averages", "peak", "peak_errors", "train_on_synthetic"]

BANDS: Mapping[str, tuple[float, float]] = {
    "delta": (0.5, 4.0), "theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 30.0)
}  # fmt: skip


def grand_averages(epochs: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """Mean epoch of each condition, ``(K, C, T)``, in the order of ``np.unique``.

    Args:
        epochs: ``(N, C, T)``.
        condition: ``(N,)`` or ``(N, F)``: rows that are equal are one condition.

    Raises:
        ValueError: For conditions of another number than epochs.
    """
    if epochs.ndim != 3 or len(condition) != len(epochs):
        raise ValueError(
            f"epochs of shape {epochs.shape} with {len(condition)} conditions: need (N, C, T) and N of them"
        )
    _, member = np.unique(condition, axis=0, return_inverse=True)
    member = member.ravel()
    total = np.zeros((member.max() + 1, *epochs.shape[1:]))
    np.add.at(total, member, epochs)
    return np.asarray(total / np.bincount(member)[:, None, None])


def peak(
    waves: np.ndarray, times: np.ndarray, window: tuple[float, float] = (0.25, 0.55)
) -> tuple[np.ndarray, np.ndarray]:
    """Height and time of the highest point in a window, by the parabola through it and its neighbours.

    Args:
        waves: ``(..., T)``.
        times: ``(T,)``, seconds at equal steps.
        window: In which to look, seconds.

    Raises:
        ValueError: For a window without three steps.
    """
    inside = np.flatnonzero((times >= window[0]) & (times <= window[1]))
    if len(inside) < 3:
        raise ValueError(f"window={window} holds {len(inside)} steps: a peak needs at least 3")
    x = waves[..., inside]
    top = np.clip(x.argmax(-1), 1, len(inside) - 2)
    before, at, after = (np.take_along_axis(x, (top + k)[..., None], -1)[..., 0] for k in (-1, 0, 1))
    bend = before - 2 * at + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1.0), 0.0).clip(-1, 1)
    step = times[1] - times[0]
    return at - 0.25 * (before - after) * shift, times[inside][top] + shift * step


def peak_errors(
    synthetic: np.ndarray, real: np.ndarray, times: np.ndarray, window: tuple[float, float] = (0.25, 0.55)
) -> tuple[float, float]:
    """Mean absolute differences of height and of time of peaks between two sets of averages ``(K, C, T)``, first channel.

    Source: Synthesizing EEG Signals from Event-Related Potential Paradigms with Conditional Diffusion Models, 2024, arXiv
    2403.18486.
    """
    (a, t), (b, u) = (peak(np.asarray(w)[:, 0], times, window) for w in (synthetic, real))
    return float(np.abs(a - b).mean()), float(np.abs(t - u).mean())


def band_power(
    epochs: np.ndarray, rate: float, bands: Mapping[str, tuple[float, float]] = BANDS
) -> dict[str, np.ndarray]:
    """Mean one-sided power density of each channel in each band ``[low, high)`` Hz, ``{band: (C,)}``, of epochs ``(N, C, T)``.

    In squared units a hertz, of periodograms with a Hann window: a sine of amplitude a has ``a²/2`` in all.

    Raises:
        ValueError: For a band that no frequency of the epochs lies in.
    """
    size = epochs.shape[-1]
    window = np.hanning(size)
    spectrum = np.abs(np.fft.rfft((epochs - epochs.mean(-1, keepdims=True)) * window)) ** 2
    spectrum = 2 * spectrum / (rate * (window**2).sum())
    at = np.fft.rfftfreq(size, 1 / rate)
    out = {}
    for name, (low, high) in bands.items():
        inside = (at >= low) & (at < high)
        if not inside.any():
            raise ValueError(
                f"band {name!r} of {low} to {high} Hz: epochs of {size} steps at {rate:g} Hz have nothing there"
            )
        out[name] = spectrum[..., inside].mean((0, 2))
    return out


def band_power_error(
    synthetic: np.ndarray, real: np.ndarray, rate: float, bands: Mapping[str, tuple[float, float]] = BANDS
) -> float:
    """Mean over bands and channels of ``|log P − log P_real|``."""
    p, q = band_power(synthetic, rate, bands), band_power(real, rate, bands)
    return float(np.mean([np.abs(np.log(p[k]) - np.log(q[k])).mean() for k in bands]))


def train_on_synthetic(
    synthetic: np.ndarray, label: np.ndarray, real: np.ndarray, real_label: np.ndarray, *, means: Sequence[int] = (4,)
) -> float:
    """Accuracy on real epochs of a classifier that has seen the others alone: shrunken linear discriminants.

    Args:
        synthetic: ``(N, C, T)``.
        label: ``(N,)``.
        real: ``(M, C, T)``.
        real_label: ``(M,)``.
        means: Neighbouring steps that one feature averages.

    Raises:
        ImportError: Without scikit-learn.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    def features(x: np.ndarray) -> np.ndarray:
        parts = [x[..., : x.shape[-1] // k * k].reshape(*x.shape[:-1], -1, k).mean(-1) for k in means]
        return np.concatenate(parts, -1).reshape(len(x), -1)

    found = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features(synthetic), label)
    return float(found.score(features(real), real_label))
