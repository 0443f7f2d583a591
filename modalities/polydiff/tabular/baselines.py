"""What a generator of tables must beat: independent columns, the bootstrap, a Gaussian copula, interpolation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable

import numpy as np
import pandas as pd
import torch

from polydiff.core.data import Rng
from polydiff.tabular.coder import Coder, is_categorical

__all__ = ["Baseline", "Bootstrap", "GaussianCopula", "Independent", "Interpolation"]


class Baseline(ABC):
    """Fits a table and samples rows with its columns, order and dtypes."""

    table: pd.DataFrame

    def fit(self, df: pd.DataFrame, target: Hashable | None = None) -> Baseline:
        """Learn from the rows of ``df``; ``target`` names the classes for methods that use them.

        Raises:
            ValueError: For an empty table, duplicate names or an unknown target.
        """
        if len(df) == 0:
            raise ValueError("the table has no rows: need at least one to fit")
        if not df.columns.is_unique:
            raise ValueError(f"column {df.columns[df.columns.duplicated()][0]!r} occurs twice: names must be unique")
        if target is not None and target not in df.columns:
            raise ValueError(f"target={target!r}: the columns are {list(df.columns)}")
        self.table, self.target = df.reset_index(drop=True), target
        return self

    def sample(self, n: int, seed: int = 0) -> pd.DataFrame:
        """``n`` rows."""
        if not hasattr(self, "table"):
            raise RuntimeError(f"{type(self).__name__} is not fitted: call fit first")
        return self._sample(n, Rng(seed)).reset_index(drop=True)

    @abstractmethod
    def _sample(self, n: int, rng: Rng) -> pd.DataFrame: ...


class Bootstrap(Baseline):
    """Rows of the table, drawn with replacement: perfect utility, no privacy."""

    def _sample(self, n: int, rng: Rng) -> pd.DataFrame:
        return self.table.iloc[_below(len(self.table), (n,), rng)]


class Independent(Baseline):
    """Each column drawn with replacement on its own: perfect margins, no dependence."""

    def _sample(self, n: int, rng: Rng) -> pd.DataFrame:
        columns = [self.table[c].iloc[_below(len(self.table), (n,), rng)].reset_index(drop=True) for c in self.table]
        return pd.concat(columns, axis=1)


class GaussianCopula(Baseline):
    """Every column is a monotone function of one coordinate of a correlated normal vector.

    Numbers are read off their empirical quantiles, categories off thresholds at their shares; a missing value is a level,
    and for numbers lies above all others. The correlation of the latent vector is that of the normal scores, each tie at a
    random place within its interval: numbers keep their rank correlations and categories those of their order, by
    frequency, as far as ties allow.

    Source: The Synthetic Data Vault, 2016, IEEE DSAA.
    """

    def fit(self, df: pd.DataFrame, target: Hashable | None = None) -> GaussianCopula:
        """See ``Baseline``."""
        super().fit(df, target)
        from scipy.stats import norm

        coder, n = Coder.of(self.table), len(self.table)
        codes = dict(zip(coder.categorical, coder.codes(self.table).T))
        values = {
            c: codes[c] if c in codes else coder.numbers(self.table)[:, coder.numeric.index(c)] for c in self.table
        }
        jitter = _uniform((n, len(values)), Rng(0).child("ties"))
        orders = [np.lexsort((jitter[:, j], v)) for j, v in enumerate(values.values())]  # NaN last
        self.sorted = [self.table[c].iloc[order].reset_index(drop=True) for c, order in zip(values, orders)]
        ranks = np.stack([np.argsort(order) for order in orders], 1)
        z = norm.ppf((ranks + 0.5) / n)
        self.correlation = np.atleast_2d(np.corrcoef(z.T)) if n > 1 else np.eye(len(values))
        return self

    def _sample(self, n: int, rng: Rng) -> pd.DataFrame:
        from scipy.stats import norm

        weights, axes = np.linalg.eigh(self.correlation)
        white = rng.normal(torch.empty(n, len(weights), dtype=torch.float64)).numpy()
        u = norm.cdf(white @ (axes * np.sqrt(weights.clip(0))).T)
        place = np.minimum((u * len(self.table)).astype(int), len(self.table) - 1)
        return pd.concat([s.iloc[place[:, j]].reset_index(drop=True) for j, s in enumerate(self.sorted)], axis=1)


class Interpolation(Baseline):
    """SMOTE: a point between a random row and one of its k nearest neighbours of the same class.

    ``x + u (y − x)`` with u uniform for numbers, whole ones rounded; categories, and numbers that one of the two lacks, are
    taken from one of the two at random. Neighbours are nearest at the Euclidean distance of standardised numbers and
    indicators. Without a target, or with a numeric one, all rows are of one class.

    Args:
        k: Number of neighbours.

    Source: SMOTE: Synthetic Minority Over-sampling Technique, 2002, arXiv 1106.1813.
    """

    def __init__(self, k: int = 5) -> None:
        if k < 1:
            raise ValueError(f"k={k}: need at least 1 neighbour")
        self.k = k

    def fit(self, df: pd.DataFrame, target: Hashable | None = None) -> Interpolation:
        """See ``Baseline``."""
        super().fit(df, target)
        from sklearn.neighbors import NearestNeighbors

        classes = pd.Series(0, index=self.table.index)
        if target is not None and is_categorical(self.table[target]):
            classes = self.table[target].astype(object).map(str)
        features = Coder.of(self.table).features(self.table)
        self.neighbours = np.repeat(np.arange(len(self.table))[:, None], self.k, 1)
        for rows in classes.groupby(classes).indices.values():
            k = min(self.k, len(rows) - 1)
            if k > 0:
                found = NearestNeighbors(n_neighbors=k).fit(features[rows]).kneighbors(return_distance=False)
                self.neighbours[rows] = rows[found[:, np.arange(self.k) % k]]
        return self

    def _sample(self, n: int, rng: Rng) -> pd.DataFrame:
        first = _below(len(self.table), (n,), rng)
        second = self.neighbours[first, _below(self.k, (n,), rng)]
        share, swap = _uniform((n,), rng), _uniform((n, self.table.shape[1]), rng) < 0.5
        columns = []
        for j, name in enumerate(self.table):
            s = self.table[name]
            a, b = (s.iloc[rows].reset_index(drop=True) for rows in (first, second))
            picked = a.where(~swap[:, j], b).astype(s.dtype)
            columns.append(picked if is_categorical(s) else _between(a, b, share, picked))
        return pd.concat(columns, axis=1)


def _between(a: pd.Series, b: pd.Series, share: np.ndarray, picked: pd.Series) -> pd.Series:
    if not pd.api.types.is_numeric_dtype(a.dtype):  # datetimes and timedeltas
        middle = a + (b - a) * share
        return middle.where(middle.notna(), picked).astype(a.dtype)
    x, y = (s.to_numpy(dtype=np.float64, na_value=np.nan) for s in (a, b))
    value = pd.Series(x + share * (y - x), name=a.name)
    if pd.api.types.is_integer_dtype(a.dtype):
        value = value.round()
    if value.isna().any():
        return value.astype("Float64").where(value.notna(), picked.astype("Float64")).astype(a.dtype)
    return value.astype(a.dtype)


def _uniform(shape: tuple[int, ...], rng: Rng) -> np.ndarray:
    return rng.uniform(torch.empty(shape)).numpy()


def _below(size: int, shape: tuple[int, ...], rng: Rng) -> np.ndarray:
    return (_uniform(shape, rng) * size).astype(int)
