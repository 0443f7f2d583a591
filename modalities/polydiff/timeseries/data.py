"""SeriesCodec: what a model remembers of the series it learned from, and series to flat storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polydiff.timeseries.innovations import Innovations
from polydiff.timeseries.series import Collection, Series
from polydiff.timeseries.stamps import Grid, calendar, positions

__all__ = ["SeriesCodec", "Store"]


@dataclass(frozen=True)
class Store:
    """Series one after the other, standardised.

    Attributes:
        values: ``(T, D)`` float64, NaN where missing.
        features: ``(T, F)`` float32: calendar and covariates.
        at: ``(T,)`` float64: stamps in typical steps since the first of the series.
        first: ``(N,)`` where each series begins.
        length: ``(N,)`` steps of each.
        static: ``(N, S)`` float32.
    """

    values: Tensor
    features: Tensor
    at: Tensor
    first: Tensor
    length: Tensor
    static: Tensor

    def levels(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each series and channel, ``(N, D)``; NaN where it has no value."""
        parts = [self.values[f : f + n] for f, n in zip(self.first.tolist(), self.length.tolist())]
        mean = torch.stack([p.nanmean(0) for p in parts])
        return mean, torch.stack([(p - m).square().nanmean(0).sqrt() for p, m in zip(parts, mean)])


class SeriesCodec:
    """Channels, grid, covariates and their standardisation, learned from training series.

    Args:
        channels: Names.
        features: Names of the covariates that are known ahead.
        statics: Of each static covariate its name and levels; no levels for a number.
        grid: Of the stamps.
        form: What the training series came as.
        dates: Whether calendar features are used.
        moments: By name (``mean``, ``std`` of channels, ``feature_mean``, ``static_std``, …).
        scales: ``(M, D, 2)``: location and scale of training windows that were scaled by their own context; empty otherwise.
        examples: Conditions of the same windows, by name ``(M, ...)``.
        base: Mean and covariance of the linear model of windows, if there is one.
        columns: Which columns of frames are what, as ``collect`` takes them.
    """

    classes: tuple[Any, ...] = ()

    def __init__(
        self,
        channels: Sequence[str],
        features: Sequence[str],
        statics: Sequence[tuple[str, tuple[str, ...]]],
        grid: Grid,
        form: str,
        dates: bool,
        moments: Mapping[str, Tensor],
        scales: Tensor | None = None,
        examples: Mapping[str, Tensor] | None = None,
        base: tuple[Tensor, Tensor] | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> None:
        self.channels, self.features, self.statics = tuple(channels), tuple(features), tuple(statics)
        self.grid, self.form, self.dates, self.moments = grid, form, dates, dict(moments)
        self.scales = torch.zeros(0, len(self.channels), 2) if scales is None else scales
        self.examples = dict(examples or {})
        self.base = None if base is None else Innovations(*base)
        self.columns = dict(columns or {})

    # -------------------------------------------------------------- fitting

    @classmethod
    def fit(cls, found: Collection, *, dates: bool = True, standardise: bool = True) -> SeriesCodec:
        """Learn from series.

        Args:
            found: Training series.
            dates: Use the calendar where stamps are dates.
            standardise: Channels by their mean and standard deviation over everything; otherwise values stay as they are.
        """
        values = np.concatenate([s.values for s in found.series])
        empty = np.isnan(values).all(0)
        if empty.any():
            raise ValueError(f"channel {found.channels[int(empty.argmax())]!r} has no value at all")
        d = len(found.channels)
        mean, std = (np.nanmean(values, 0), _spread(values)) if standardise else (np.zeros(d), np.ones(d))
        known = np.concatenate([s.features for s in found.series])
        statics = tuple((name, _levels([s.static[k] for s in found.series])) for k, name in enumerate(found.statics))
        moments = {"mean": torch.as_tensor(mean), "std": torch.as_tensor(std)}
        if known.shape[1]:
            if np.isnan(known).all(0).any():
                raise ValueError(
                    f"covariate {found.features[int(np.isnan(known).all(0).argmax())]!r} has no value at all"
                )
            moments |= {
                "feature_mean": torch.as_tensor(np.nanmean(known, 0)),
                "feature_std": torch.as_tensor(_spread(known)),
            }
        self = cls(found.channels, found.features, statics, found.grid, found.form, dates and found.grid.dated, moments)
        if statics:
            raw = self._raw_static(found.series)
            moments |= {"static_mean": torch.as_tensor(raw.mean(0)), "static_std": torch.as_tensor(_spread(raw))}
            self.moments = moments
        return self

    @property
    def width(self) -> int:
        """Number of channels D."""
        return len(self.channels)

    @property
    def known_features(self) -> int:
        """Number of features of a step, F: calendar and covariates."""
        stamps = self.grid.after("2000-01-01", 1) if self.dates else None
        return len(self.features) + (0 if stamps is None else calendar(stamps, self.grid.step).shape[1])

    @property
    def static_features(self) -> int:
        """Number of static features, S."""
        return sum(max(len(levels), 1) for _, levels in self.statics)

    # -------------------------------------------------------------- to storage

    def store(self, found: Collection) -> Store:
        """Series as the model sees them.

        Raises:
            ValueError: For other channels or covariates than those of training, or stamps of another kind.
        """
        self.check(found)
        lengths = torch.tensor([len(s) for s in found.series])
        values = torch.as_tensor(np.concatenate([s.values for s in found.series]))
        return Store(
            (values - self.moments["mean"]) / self.moments["std"],
            torch.cat([self.features_of(s) for s in found.series]),
            torch.as_tensor(np.concatenate([positions(s.stamps, self.grid.step) for s in found.series])),
            lengths.cumsum(0) - lengths,
            lengths,
            self._static(found.series),
        )

    def check(self, found: Collection) -> None:
        """Refuse series that are not like those of training."""
        for what, mine, theirs in (
            ("channels", self.channels, found.channels),
            ("covariates", self.features, found.features),
            ("static covariates", tuple(n for n, _ in self.statics), found.statics),
        ):
            if mine != theirs:
                raise ValueError(f"{what} {list(theirs)}: this model was fitted to {list(mine)}")
        if self.grid.dated != found.grid.dated:
            kinds = {True: "dates", False: "numbers"}
            raise ValueError(f"stamps are {kinds[found.grid.dated]}: this model was fitted to {kinds[self.grid.dated]}")

    def features_of(self, s: Series) -> Tensor:
        """Calendar and covariates of the steps of a series, ``(T, F)`` float32."""
        parts = [torch.as_tensor(calendar(s.stamps, self.grid.step))] if self.dates else []
        if self.features:
            known = (torch.as_tensor(s.features) - self.moments["feature_mean"]) / self.moments["feature_std"]
            parts.append(known.nan_to_num(0.0))
        return torch.cat(parts, 1).float() if parts else torch.zeros(len(s), 0)

    def _static(self, series: Sequence[Series]) -> Tensor:
        if not self.statics:
            return torch.zeros(len(series), 0)
        raw = torch.as_tensor(self._raw_static(series))
        return ((raw - self.moments["static_mean"]) / self.moments["static_std"]).float()

    def _raw_static(self, series: Sequence[Series]) -> np.ndarray:
        columns = []
        for k, (name, levels) in enumerate(self.statics):
            given = [s.static[k] for s in series]
            if not levels:
                columns.append(np.asarray(given, dtype=np.float64)[:, None])
                continue
            for value in given:
                if str(value) not in levels:
                    raise ValueError(
                        f"static covariate {name!r} has the level {value!r}: training had {', '.join(levels)}"
                    )
            columns.append(np.array([[float(str(v) == level) for level in levels] for v in given]))
        return np.concatenate(columns, 1)

    # -------------------------------------------------------------- back

    def encode(self, natural: Collection) -> Tensor:
        """Standardised values of series of equal length, ``(N, L, D)``."""
        store = self.store(natural)
        if len(set(store.length.tolist())) > 1:
            raise ValueError("series of different lengths do not stack: cut windows of them")
        return store.values.reshape(len(store.length), -1, self.width)

    def decode(self, data: Tensor) -> np.ndarray:
        """Values ``(..., D)`` in their own units."""
        return (data.double() * self.moments["std"] + self.moments["mean"]).numpy()

    def config(self) -> dict[str, Any]:
        """See ``Codec``."""
        return {
            "channels": list(self.channels),
            "features": list(self.features),
            "statics": [[name, list(levels)] for name, levels in self.statics],
            "grid": dataclasses.asdict(self.grid),
            "form": self.form,
            "dates": self.dates,
            "columns": {k: list(v) if isinstance(v, tuple) else v for k, v in self.columns.items()},
        }

    def tensors(self) -> dict[str, Tensor]:
        """See ``Codec``."""
        examples = {f"example_{k}": v for k, v in self.examples.items()}
        base = {} if self.base is None else {"base_mean": self.base.mean, "base_cov": self.base.cov}
        return {**self.moments, "scales": self.scales, **examples, **base}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SeriesCodec:
        """The codec from its saved form."""
        examples = {k.removeprefix("example_"): v for k, v in tensors.items() if k.startswith("example_")}
        base = (tensors["base_mean"], tensors["base_cov"]) if "base_cov" in tensors else None
        moments = {k: v for k, v in tensors.items() if k != "scales" and not k.startswith(("example_", "base_"))}
        return cls(
            config["channels"],
            config["features"],
            [(name, tuple(levels)) for name, levels in config["statics"]],
            Grid(**config["grid"]),
            config["form"],
            config["dates"],
            moments,
            tensors["scales"],
            examples,
            base,
            config.get("columns"),
        )

    def remember(self, scales: Tensor, examples: Mapping[str, Tensor]) -> None:
        """Keep scales and conditions of training windows, for windows from nothing."""
        self.scales, self.examples = scales, dict(examples)


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviations of columns; 1 for a constant."""
    std = np.nanstd(values, 0)
    return np.where(std > 1e-12 * np.maximum(np.abs(np.nanmean(values, 0)), 1e-300), std, 1.0)


def _levels(values: Sequence[Any]) -> tuple[str, ...]:
    """The distinct texts; none for numbers."""
    numeric = all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in values)
    return () if numeric else tuple(sorted({str(v) for v in values}))
