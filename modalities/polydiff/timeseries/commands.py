"""Time series on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from polydiff.core.frames import ENDINGS, read_frame, write_frame
from polydiff.core.notes import read_note, write_note
from polydiff.timeseries import recipes
from polydiff.timeseries.demo import demo
from polydiff.timeseries.forms import collect
from polydiff.timeseries.generator import TimeSeriesGenerator
from polydiff.timeseries.lengths import fitting, season_of
from polydiff.timeseries.metrics import evaluate as measure
from polydiff.timeseries.recipes import SeriesConfig
from polydiff.timeseries.series import Collection, Series

if TYPE_CHECKING:
    from polydiff.cli import Evaluate, Fit, Sample

__all__ = ["Loaded", "demo", "evaluate", "fit", "load", "read_series", "sample"]

_EMBEDDED = ("co2", "sunspots", "elnino", "macrodata")
_FOLDER = ("exchange_rate", "etth1", "m4_hourly", "electricity_weekly", "beijing_pm25", "melbourne")
_RECIPES = ("mixed", "forecasting", "imputing", "synthesis", "unconditional")
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_DATE = r"\d{4}-\d{2}-\d{2}.*"


@dataclass(frozen=True)
class Loaded:
    """Series to work with.

    Attributes:
        found: The series.
        horizon: Steps that are forecast, and held out for measuring.
        season: Steps of the main season.
    """

    found: Collection
    horizon: int
    season: int

    @property
    def train(self) -> Collection:
        """All but the last horizon; series that are no longer than one are learned whole."""
        h = self.horizon
        return _of(self.found, [s.part(0, len(s) - h) if len(s) > h else s for s in self.found.series])

    @property
    def holdout(self) -> Collection:
        """The last horizon of the others.

        Raises:
            ValueError: Where there are none.
        """
        parts = [s.part(len(s) - self.horizon, len(s)) for s in self.found.series if len(s) > self.horizon]
        if not parts:
            raise ValueError(
                f"every series is shorter than a horizon of {self.horizon} steps: there is nothing to measure"
            )
        return _of(self.found, parts)


def load(data: str) -> Loaded:
    """A data set by name, or a .csv or .parquet file, long (``unique_id, ds, y``) or wide (dates and a column a channel).

    Raises:
        ValueError: For another name, a file that is not there, and series that cannot be read.
    """
    if data in _EMBEDDED or data in _FOLDER:
        import polydiff.datasets as sets

        one = sets.embedded(data) if data in _EMBEDDED else getattr(sets, data)()  # type: ignore[arg-type]
        return Loaded(collect(one.frame, freq=one.freq), one.horizon, one.season)
    path = Path(data)
    if path.suffix.lower() not in ENDINGS or not path.is_file():
        names = ", ".join((*_EMBEDDED, *_FOLDER))
        raise ValueError(f"data={data!r}: need one of {names}, or a .csv or .parquet file")
    found = collect(read_series(path))
    return Loaded(found, fitting(recipes.mixed(), found).horizon, season_of(found.grid))


def read_series(path: Path) -> pd.DataFrame:
    """The frame of a file: as it is where it has a column ``ds``, else with its first column of dates as the index.

    Raises:
        ValueError: For parquet without pyarrow.
    """
    frame: pd.DataFrame = read_frame(path)
    if "ds" in frame.columns or isinstance(frame.index, pd.DatetimeIndex):
        return frame
    for name in frame.columns:
        column = frame[name]
        if pd.api.types.is_datetime64_any_dtype(column.dtype):
            return frame.set_index(name)
        if not pd.api.types.is_numeric_dtype(column.dtype):
            if bool(column.astype(str).str.fullmatch(_DATE).all()):
                return frame.assign(**{str(name): pd.to_datetime(column)}).set_index(name)
            break  # texts that are no dates: `collect` says what is wrong with them
    return frame


def fit(command: Fit) -> None:
    """``polydiff fit timeseries``."""
    if command.recipe is not None and command.recipe not in _RECIPES:
        raise ValueError(f"recipe={command.recipe!r}: need one of {', '.join(_RECIPES)}")
    loaded = load(command.data)
    train = loaded.train
    config = _config(command.recipe or "mixed", fitting(recipes.mixed(0, loaded.horizon), train))
    generator = TimeSeriesGenerator(config, seed=command.seed)
    generator.fit(train, steps=command.steps, seconds=command.seconds)
    folder = generator.save(command.out)
    write_note(folder, {"data": command.data, "seed": command.seed})
    steps = sum(map(len, train.series))
    print(
        f"saved {folder}: {len(train.series)} series with {steps:,} steps learned, windows of {config.context} + "
        f"{config.horizon} steps, the last {loaded.horizon} of each series held out"
    )


def sample(command: Sample) -> None:
    """``polydiff sample`` of series to a file.

    Quantiles of what follows the data of training, or the series of ``--prompt``; from a model that is told nothing, without
    a prompt, new series.
    """
    if command.out.suffix.lower() not in ENDINGS:
        raise ValueError(f"out={command.out}: need a name ending in .csv or .parquet")
    for name in ("label", "guidance"):
        if getattr(command, name) is not None:
            raise ValueError(f"{name}={getattr(command, name)!r}: series have none; --prompt says what to continue")
    generator = TimeSeriesGenerator.load(command.model)
    if command.prompt is None and not generator.config.told:
        made = generator.sample(command.n, steps=command.steps, seed=command.seed)
        write_frame(_as_frame(generator, made), command.out)
        print(f"wrote {command.n} new series of {made.shape[1]} steps to {command.out}")
        return
    data = command.prompt or read_note(command.model).get("data")
    if data is None:
        raise ValueError(
            f"{command.model} does not say what it was trained on: pass --prompt with the series to continue"
        )
    loaded = load(data)
    ahead = generator.forecast(loaded.found, loaded.horizon, command.n, steps=command.steps, seed=command.seed)
    write_frame(ahead.to_frame(_LEVELS), command.out)
    print(
        f"wrote quantiles of {command.n} draws of the {loaded.horizon} steps after {len(ahead)} series to {command.out}"
    )


def evaluate(command: Evaluate) -> None:
    """``polydiff evaluate`` of series: the last horizon of each, forecast from all that lies before it."""
    if command.guidance is not None:
        raise ValueError(f"guidance={command.guidance!r}: series have none")
    generator = TimeSeriesGenerator.load(command.model)
    data = command.data or read_note(command.model).get("data")
    if data is None:
        raise ValueError(f"{command.model} does not say what it was trained on: pass --data")
    loaded = load(data)
    count = 100 if command.n is None else command.n
    run: dict[str, Any] = {"num_samples": count, "season": loaded.season, "steps": command.steps, "seed": command.seed}
    print(measure(generator, loaded.train, loaded.holdout, loaded.horizon, rounds=1, **run))


# ------------------------------------------------------------------ parts


def _config(name: str, lengths: SeriesConfig) -> SeriesConfig:
    """A recipe by name; those of one length take that of the whole window."""
    build = getattr(recipes, name)
    context, horizon = lengths.context, lengths.horizon
    made: SeriesConfig = build(context + horizon) if name in ("imputing", "synthesis") else build(context, horizon)
    return made


def _of(found: Collection, series: Sequence[Series]) -> Collection:
    return dataclasses.replace(found, series=tuple(series))


def _as_frame(generator: TimeSeriesGenerator, made: np.ndarray) -> pd.DataFrame:
    codec, _ = generator._fitted()
    n, length = made.shape[:2]
    rows = {"unique_id": np.repeat(np.arange(n), length), "ds": np.tile(np.arange(length), n)}
    return pd.DataFrame(rows | {name: made[..., d].ravel() for d, name in enumerate(codec.channels)})
