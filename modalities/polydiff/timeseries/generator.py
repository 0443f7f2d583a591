"""TimeSeriesGenerator: fit it on series; forecast, impute, generate, score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from polydiff.core.data import Rng
from polydiff.core.denoisers import Model
from polydiff.core.evaluation import Report
from polydiff.core.sampling import Sampler
from polydiff.core.training import adamw, train
from polydiff.timeseries.build import model_of, objective_of, settled, tasks_of
from polydiff.timeseries.data import SeriesCodec
from polydiff.timeseries.drawing import Asked
from polydiff.timeseries.forecast import Forecast
from polydiff.timeseries.forms import collect
from polydiff.timeseries.lengths import fitting
from polydiff.timeseries.reading import continued, extended
from polydiff.timeseries.recipes import SeriesConfig, mixed
from polydiff.timeseries.scoring import Scoring
from polydiff.timeseries.series import Collection
from polydiff.timeseries.windows import examples_of, places, training_windows

if TYPE_CHECKING:
    from polydiff.timeseries.refining import Refinement

__all__ = ["TimeSeriesGenerator"]


class TimeSeriesGenerator(Scoring):
    """Learns the law of windows of series: one model forecasts, fills holes, generates and scores.

    Args:
        config: A recipe (``recipes.mixed()``, ``forecasting(context, horizon)``, ``imputing(length)``, ``synthesis(length)``)
            or your own ``SeriesConfig``; lengths it leaves open are chosen by the data.
        seed: Of weights, data order and training noise.
        device: Where to run; the best one at hand if left out.

    >>> import numpy as np
    >>> from polydiff.timeseries import TimeSeriesGenerator
    >>> waves = {k: np.sin(np.arange(90) / 3 + k) for k in range(4)}
    >>> TimeSeriesGenerator().fit(waves, steps=2).forecast(waves, 5, num_samples=3).samples.shape
    (4, 3, 5, 1)
    """

    modality: ClassVar[str] = "timeseries"
    config_class: ClassVar[type] = SeriesConfig

    def __init__(
        self, config: SeriesConfig | None = None, *, seed: int = 0, device: str | torch.device | None = None
    ) -> None:
        super().__init__(config, seed=seed, device=device)
        self._asked = config

    @classmethod
    def _codec_from(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SeriesCodec:
        return SeriesCodec.from_config(config, tensors)

    def _model_from(self, codec: SeriesCodec) -> Model:
        return model_of(self.config, codec, self.seed, self.device)

    # -------------------------------------------------------------- fitting

    def fit(
        self,
        data: Any,
        *,
        freq: str | None = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target: str | Sequence[str] | None = None,
        known: Sequence[str] = (),
        static: Sequence[str] = (),
        joint: bool = True,
        steps: int | None = None,
        seconds: float | None = None,
        run_dir: str | Path | None = None,
        callbacks: Iterable[Callable[..., None]] = (),
        progress: bool | None = None,
    ) -> Self:
        """Learn from series of any lengths, with holes and, for the transformer, stamps on no grid.

        Args:
            data: A long frame (``unique_id, ds, y``), a wide frame (stamps in its index), a dict or list of arrays, or an array
                ``(N, L)`` or ``(N, L, D)``; NaN is missing.
            freq: Of dates, as pandas writes it; inferred if left out.
            id_col: Name of the series in a long frame.
            time_col: Stamps in a long frame.
            target: Value columns; ``"y"``, or every one that is nothing else.
            known: Columns that are known of the future too: prices, holidays, plans.
            static: Columns of a long frame that belong to a series as a whole: numbers or texts.
            joint: The columns of a wide frame are channels of one series, not series of their own.
            steps: Training steps; those of the recipe if left out.
            seconds: Stop after this time if it comes first.
            run_dir: Folder of log and checkpoints; a run that was interrupted goes on from the last checkpoint there.
            callbacks: ``callback(trainer, step, logs)``.
            progress: Show a bar; by default only on a terminal.

        Raises:
            ValueError: For bad data, before anything is trained or written.
        """
        columns: dict[str, Any] = {
            "id_col": id_col, "time_col": time_col, "target": target, "known": known, "static": static, "joint": joint
        }  # fmt: skip
        found = collect(data, freq=freq, **columns)
        config = fitting(self._asked or mixed(), found)
        codec = SeriesCodec.fit(found, dates=config.dates, standardise=config.scaling == "global")
        codec.columns = columns
        self.config, windows = settled(config, codec, codec.store(found))
        config, self.codec = self.config, codec
        model = self._model_from(codec)
        batches = training_windows(
            windows,
            tasks_of(config),
            shortest=config.horizon + 1 if config.told else self.length,
            batch_size=config.batch_size,
            seed=self.seed,
            base=codec.base,
        )
        codec.remember(*examples_of(windows, places(windows, self.length)))
        self.history = train(
            objective_of(config, model),
            adamw(model, config.lr, config.weight_decay),
            batches,
            config,
            seed=self.seed,
            device=self.device,
            steps=steps,
            seconds=seconds,
            run_dir=run_dir,
            callbacks=callbacks,
            progress=progress,
        )
        self.model = model.eval()
        return self

    # -------------------------------------------------------------- the future

    def forecast(
        self,
        context: Any,
        horizon: int | None = None,
        num_samples: int = 100,
        *,
        future: Any = None,
        steps: int | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        batch_size: int = 4096,
        progress: bool | None = None,
    ) -> Forecast:
        """Samples of what follows series.

        Args:
            context: Series in any form that ``fit`` takes, those of training or others; the last steps are what counts.
            horizon: Steps to predict, any number: beyond that of the model, each sample goes on from itself.
            num_samples: Of each series.
            future: Rows of the steps to come, with the covariates that are known; needed if the model was fitted with any.
            steps: Sampling steps (evaluations of the network).
            seed: Draw k of series i depends on the seed and its place, ``i · num_samples + k``, alone.
            sampler: In place of DPM-Solver++(2M).
            batch_size: Windows at a time: memory, not results.
            progress: Show a bar; by default only on a terminal.

        Raises:
            ValueError: For a horizon or number of samples below 1, a series without any value in its context, and covariates
                that are missing.
        """
        codec, _ = self._fitted()
        h = self.config.horizon if horizon is None else horizon
        for name, value in (("horizon", h), ("num_samples", num_samples)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name}={value!r}: need an integer of at least 1")
        found = self._collected(context)
        for s in found.series:
            if np.isnan(s.values[-self.config.context :]).all():
                raise ValueError(
                    f"series {s.name!r} has no value in its last {self.config.context} steps: there is nothing to go on"
                )
        made = self._continue(
            found, int(h), int(num_samples), self._future(future), sampler=sampler, steps=steps, seed=seed,
            batch_size=batch_size, progress=progress,
        )  # fmt: skip
        stamps = tuple(codec.grid.after(s.stamps[-1], int(h)) for s in found.series)
        return Forecast(tuple(s.name for s in found.series), codec.channels, stamps, made, found.form)

    def _continue(
        self, found: Collection, horizon: int, repeats: int, future: Collection | None, *, seed: int, **run: Any
    ) -> np.ndarray:
        """``(N, S, H, D)`` in the units of the data."""
        codec, _ = self._fitted()
        context, stride = self.config.context, self.config.horizon
        blocks = -(-horizon // stride)
        store = codec.store(extended(found, blocks * stride + self.length, future, horizon))
        windows, last = self._windows(store), torch.tensor([len(s) for s in found.series])
        made: Tensor | None = None
        for block in range(blocks):
            asked = continued(windows, last + block * stride, made, context, repeats)
            drawn = self._draw(asked, repeats if made is None else 1, seed=_seed(seed, block), **run)
            new = drawn.flatten(0, 1)[:, -stride:]
            made = new if made is None else torch.cat([made, new], 1)
        assert made is not None
        return codec.decode(made[:, :horizon].unflatten(0, (len(found.series), repeats)))

    # -------------------------------------------------------------- from nothing

    def sample(
        self,
        n: int,
        length: int | None = None,
        *,
        steps: int | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        batch_size: int = 4096,
        progress: bool | None = None,
    ) -> np.ndarray:
        """New series ``(n, length, D)`` in the units of the data.

        Args:
            n: How many.
            length: Steps of each, that of a training window if left out; longer ones go on from themselves.
            steps: Sampling steps.
            seed: Series i depends on seed and i alone.
            sampler: In place of DPM-Solver++(2M).
            batch_size: Windows at a time: memory, not results.
            progress: Show a bar; by default only on a terminal.

        Raises:
            ValueError: For n or a length below 1, and for a model that was never trained to be told nothing.
        """
        codec, _ = self._fitted()
        want = self.length if length is None else length
        if isinstance(want, bool) or not isinstance(want, (int, np.integer)) or want < 1:
            raise ValueError(f"length={length!r}: need an integer of at least 1")
        if self.config.nothing <= 0:
            raise ValueError("this model was trained to be told something: fit with a share of 'nothing' to generate")
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"n={n!r}: the number of samples must be an integer of at least 1")
        run: dict[str, Any] = {"sampler": sampler, "steps": steps, "batch_size": batch_size, "progress": progress}
        asked = self._blank(int(n), seed, self._conditions(int(n), 0, seed))
        made = self._draw(asked, seed=seed, **run)[:, 0]
        seen, stride, block = self.config.context, self.config.horizon, 1
        while made.shape[1] < want:
            x = torch.cat([made[:, -seen:], torch.zeros(len(made), stride, codec.width, dtype=torch.float64)], 1)
            cond = self._conditions(int(n), made.shape[1] - seen, seed)
            behind = (torch.arange(self.length) >= seen)[None, :, None].expand_as(x)
            asked = Asked(x, ~behind, behind, cond)
            made = torch.cat([made, self._draw(asked, seed=_seed(seed, block), **run)[:, 0, -stride:]], 1)
            block += 1
        return codec.decode(made[:, : int(want)])

    # -------------------------------------------------------------- beside others

    def refine(
        self,
        forecast: Any,
        context: Any,
        *,
        by: Refinement | None = None,
        num_samples: int | None = None,
        future: Any = None,
        seed: int = 0,
    ) -> Forecast:
        """Another model's forecast moved towards what this one finds likely: see ``polydiff.timeseries.refining``.

        Args:
            forecast: Points or samples: an object with ``.samples``, a frame like the data, or an array.
            context: What it was made from.
            by: ``Renoising()`` (noise it and denoise given the context) or ``Descent()`` (down the energy).
            num_samples: Of each series, from a forecast of points.
            future: As for ``forecast``.
            seed: Of the draws.
        """
        from polydiff.timeseries.refining import Renoising, refine

        return refine(self, forecast, context, by=by or Renoising(), num_samples=num_samples, future=future, seed=seed)

    def evaluate(
        self,
        train: Any,
        holdout: Any,
        horizon: int | None = None,
        *,
        num_samples: int = 100,
        rounds: int | None = None,
        seed: int = 0,
    ) -> Report:
        """Forecasts of what follows ``train``, and windows from nothing, against ``holdout``: see ``metrics.evaluate``."""
        from polydiff.timeseries.metrics import evaluate

        return evaluate(self, train, holdout, horizon, num_samples=num_samples, rounds=rounds, seed=seed)

    # -------------------------------------------------------------- parts

    def _conditions(self, n: int, start: int, seed: int) -> dict[str, Tensor]:
        """Features of steps and series for windows from nothing: those of training windows drawn at random."""
        codec, _ = self._fitted()
        cond: dict[str, Tensor] = {}
        if codec.examples:
            u = Rng(seed, n).child("conditions").uniform(torch.empty(n, dtype=torch.float64))
            rows = (u * len(next(iter(codec.examples.values())))).long()
            cond = {k: v[rows] for k, v in codec.examples.items()}
        if start and "time" in cond:
            raise ValueError("a model with features of steps generates windows of its length: ask for no longer ones")
        return cond

    def _future(self, future: Any) -> Collection | None:
        codec, _ = self._fitted()
        if not codec.features:
            return None
        if future is None:
            raise ValueError(f"this model knows the future of {list(codec.features)}: pass it as future=")
        frame = future.copy()
        for channel in codec.channels:
            if channel not in frame.columns:
                frame[channel] = 0.0  # not read
        return collect(frame, freq=codec.grid.freq or None, **codec.columns)


def _seed(seed: int, block: int) -> int:
    """Of a later block: another stream for each."""
    return seed if block == 0 else seed + 1_000_003 * block
