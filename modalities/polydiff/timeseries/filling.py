"""Holes of series from a fitted model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polydiff.timeseries.drawing import Drawing
from polydiff.timeseries.forms import collect
from polydiff.timeseries.reading import holes
from polydiff.timeseries.series import Collection, Series, rebuild

__all__ = ["Filling"]


class Filling(Drawing):
    """Fills holes of series and finds values between their stamps."""

    def impute(
        self,
        data: Any,
        *,
        draws: int = 1,
        pool: bool = False,
        steps: int | None = None,
        seed: int = 0,
        batch_size: int = 4096,
        progress: bool | None = None,
    ) -> Any:
        """The series with every missing value drawn from its law given what is there.

        Args:
            data: As for ``fit``; missing stamps of a grid count as missing values.
            draws: Multiple imputation: so many completed copies, in a list, when above 1.
            pool: One copy instead with the median of the draws: the best single guess.
            steps: Sampling steps.
            seed: Of the draws.
            batch_size: Windows at a time.
            progress: Show a bar; by default only on a terminal.
        """
        if draws < 1:
            raise ValueError(f"draws={draws}: need at least 1")
        found = self._collected(data)
        filled = self._fill(found, draws, steps=steps, seed=seed, batch_size=batch_size, progress=progress)
        if pool:
            filled = np.median(filled, 0, keepdims=True)
        out = [self._natural(found, copy) for copy in filled]
        return out[0] if draws == 1 or pool else out

    def _fill(self, found: Collection, draws: int, missing: Tensor | None = None, **run: Any) -> np.ndarray:
        """Values ``(S, T, D)`` of all series one after the other, in their units, with missing entries drawn."""
        codec, _ = self._fitted()
        store = codec.store(found)
        gone = store.values.isnan() if missing is None else missing
        values = np.concatenate([s.values for s in found.series])
        out = np.broadcast_to(values, (draws, *values.shape)).copy()  # what is there comes back to the bit
        asked = holes(self._windows(store), gone)
        if asked is not None:
            windows, row, take = asked
            made = self._draw(windows, draws, **run).transpose(0, 1)
            at = row[..., None].expand_as(take)[take], torch.arange(codec.width).expand_as(take)[take]
            whole = torch.zeros(draws, *store.values.shape, dtype=torch.float64)
            whole[:, at[0], at[1]] = made[:, take]
            out = np.where(gone.numpy(), codec.decode(whole), out)
        return out

    def interpolate(self, data: Any, stamps: Any, *, draws: int = 1, steps: int | None = None, seed: int = 0) -> Any:
        """Values at new stamps, drawn given the rest: series like ``data`` at these stamps alone.

        Args:
            data: Series as for ``fit``.
            stamps: Any between or around those of the data; of a model of regular steps, stamps of its grid.
            draws: As for ``impute``.
            steps: Sampling steps.
            seed: Of the draws.
        """
        codec, _ = self._fitted()
        found = self._collected(data)
        new = pd.Index(stamps)
        parts = []
        for s in found.series:
            union = s.stamps.union(new)
            if codec.grid.regular and len(codec.grid.between(union[0], union[-1])) < len(union):
                raise ValueError(
                    f"stamps between those of the grid ({codec.grid.freq or codec.grid.step}): this model knows no values "
                    "there; fit one with network='transformer' on irregular stamps"
                )
            at = union.get_indexer(s.stamps)
            values = np.full((len(union), s.values.shape[1]), np.nan)
            features = np.full((len(union), s.features.shape[1]), np.nan)
            values[at], features[at] = s.values, s.features
            parts.append(dataclasses.replace(s, stamps=union, values=values, features=features))
        wider = dataclasses.replace(found, series=tuple(parts))
        filled = self._fill(wider, draws, steps=steps, seed=seed)
        chosen = [s.stamps.get_indexer(new) for s in parts]
        out = []
        for copy in filled:
            rows = [v[c] for v, c in zip(_apart(parts, copy), chosen)]
            out.append(rebuild(found.form, codec.channels, [s.name for s in parts], [new] * len(parts), rows))
        return out[0] if draws == 1 else out

    # -------------------------------------------------------------- parts

    def _collected(self, data: Any) -> Collection:
        codec, _ = self._fitted()
        found = collect(data, freq=codec.grid.freq or None, **codec.columns)
        codec.check(found)
        return dataclasses.replace(found, grid=codec.grid)

    def _natural(self, found: Collection, values: np.ndarray) -> Any:
        """Values ``(T, D)`` of all series one after the other, in the form in which they came."""
        codec, _ = self._fitted()
        rows = _apart(found.series, values)
        return rebuild(
            found.form, codec.channels, [s.name for s in found.series], [s.stamps for s in found.series], rows
        )


def _apart(series: Sequence[Series], values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum([len(s) for s in series])[:-1])
