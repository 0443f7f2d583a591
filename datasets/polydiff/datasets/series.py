"""Real and generated time series: collections as long frames with their official cuts, windows of channels as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Channels", "SeriesSet", "sines", "split_windows", "windows"]


@dataclass(frozen=True, slots=True, eq=False)
class SeriesSet:
    """A collection of series, and where it is cut for forecasting.

    The last ``rounds · horizon`` steps of every series are its test windows, one behind the other, the ``val`` steps before
    them official validation. A forecast of window k may use everything before it.

    Attributes:
        frame: Rows ``unique_id, ds, y`` sorted by series and time, further columns are covariates; NaN where missing.
        freq: Step between stamps, a pandas alias.
        season: Length of the main season in steps.
        horizon: Steps in a test window.
        rounds: Test windows a series.
        val: Validation steps before the first test window.
        name: Of the data set.
        source: Where the data come from.
    """

    frame: pd.DataFrame
    freq: str
    season: int
    horizon: int
    rounds: int
    val: int
    name: str
    source: str

    def __len__(self) -> int:
        return int(self.frame["unique_id"].nunique())

    @property
    def train(self) -> pd.DataFrame:
        """Rows before validation and test."""
        return self._until(self.rounds * self.horizon + self.val)

    @property
    def test(self) -> pd.DataFrame:
        """Rows of all test windows."""
        return self.frame[self._left() < self.rounds * self.horizon].reset_index(drop=True)

    def rolling(self) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        """Of each test window in turn: all rows before it, and its own ``horizon`` rows a series."""
        left = self._left()
        for k in range(self.rounds):
            after = (self.rounds - k) * self.horizon
            truth = self.frame[(left < after) & (left >= after - self.horizon)].reset_index(drop=True)
            yield self.frame[left >= after].reset_index(drop=True), truth

    def wide(self) -> pd.DataFrame:
        """One column of ``y`` a series, one row a stamp."""
        names = self.frame["unique_id"].unique()
        return self.frame.pivot(index="ds", columns="unique_id", values="y")[names]

    def arrays(self, frame: pd.DataFrame | None = None) -> dict[str, np.ndarray]:
        """Values of ``y`` by series, in order of time; of the whole frame unless given another."""
        rows = self.frame if frame is None else frame
        return {str(k): v.to_numpy(dtype=np.float64) for k, v in rows.groupby("unique_id", sort=False)["y"]}

    def _left(self) -> np.ndarray:
        """Rows of the same series that follow each row."""
        return np.asarray(self.frame.groupby("unique_id", sort=False).cumcount(ascending=False))

    def _until(self, steps: int) -> pd.DataFrame:
        return self.frame[self._left() >= steps].reset_index(drop=True)


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """Several channels that run together.

    Attributes:
        values: Array (T, D), float64.
        names: Of the D channels.
        name: Of the data set.
        source: Where the data come from.
    """

    values: np.ndarray
    names: tuple[str, ...]
    name: str
    source: str

    def __len__(self) -> int:
        return len(self.values)


def windows(values: np.ndarray, length: int, stride: int = 1) -> np.ndarray:
    """Windows of a run of steps, ``out[i] = values[i · stride : i · stride + length]``.

    Args:
        values: Array (T,) or (T, D).
        length: Steps in a window.
        stride: Steps from one window to the next.

    Returns:
        A copy (N, length, D) with N = (T − length) // stride + 1.

    Raises:
        ValueError: If the series is shorter than a window, or a number is below 1.
    """
    x = np.asarray(values)
    x = x[:, None] if x.ndim == 1 else x
    if length < 1 or stride < 1:
        raise ValueError(f"length={length}, stride={stride}: both must be at least 1")
    if len(x) < length:
        raise ValueError(f"a series of {len(x)} steps has no window of {length}; take shorter ones")
    return np.lib.stride_tricks.sliding_window_view(x, length, axis=0)[::stride].swapaxes(1, 2).copy()


def split_windows(
    values: np.ndarray, length: int, *, stride: int = 1, fraction: float = 0.2, blocks: int = 20, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Windows to learn from and held-out ones that share no step with them.

    The series is cut into ``blocks`` stretches, ``round(fraction · blocks)`` of which are held out at random; windows that
    cross a cut between the two kinds are left out. Random stretches rather than the end, so that both have one law even
    where the series drifts. The same seed gives the same split on every machine.

    Args:
        values: Array (T,) or (T, D).
        length: Steps in a window.
        stride: Steps from one window to the next, in each run of stretches of one kind.
        fraction: Of the stretches, held out.
        blocks: Number of stretches.
        seed: Names the split.

    Returns:
        Training windows (N, length, D) and held-out windows (M, length, D).

    Raises:
        ValueError: If a stretch is shorter than a window, or nothing would be held out or kept.
    """
    x = np.asarray(values)
    held = round(fraction * blocks)
    if not 0 < held < blocks:
        raise ValueError(f"fraction={fraction} of {blocks} blocks is {held}; some must be held out and some kept")
    if len(x) // blocks < length:
        raise ValueError(f"{blocks} blocks of {len(x)} steps are shorter than a window of {length}; take fewer blocks")
    order = np.argsort(np.random.PCG64(seed).random_raw(blocks), kind="stable")
    kind = np.repeat(np.isin(np.arange(blocks), order[:held]), np.diff(np.linspace(0, len(x), blocks + 1).astype(int)))
    runs = np.split(np.arange(len(x)), np.nonzero(np.diff(kind))[0] + 1)
    parts = [np.concatenate([windows(x[r], length, stride) for r in runs if kind[r[0]] == k]) for k in (False, True)]
    return parts[0], parts[1]


def sines(n: int, length: int = 24, channels: int = 5, seed: int = 0) -> np.ndarray:
    """The sines of TimeGAN's benchmark, ``x_t = (sin(f t + p) + 1) / 2`` at t = 0 … length − 1.

    Frequency f (radians a step) and phase p are uniform on [0, 0.1], drawn anew for every window and channel, as in the code
    that the published scores come from (the paper's text names wider ranges).

    Args:
        n: Number of windows.
        length: Steps in a window.
        channels: Independent channels.
        seed: Of numpy's default generator.

    Returns:
        Array (n, length, channels), float64 in [0, 1].

    Source: Time-series Generative Adversarial Networks, 2019, NeurIPS; its repository, data_loading.py.
    """
    frequency, phase = np.random.default_rng(seed).uniform(0, 0.1, (2, n, 1, channels))
    return np.asarray((np.sin(frequency * np.arange(length)[:, None] + phase) + 1) / 2)


def pandas() -> Any:
    """The library, or a sentence that says how to get it."""
    try:
        import pandas as found
    except Exception as broken:
        raise ImportError("series need pandas: pip install 'polydiff[timeseries]'") from broken
    return found
