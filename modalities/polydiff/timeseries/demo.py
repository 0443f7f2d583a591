"""The section of time series in the demo report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from polydiff.core.report import Number, Passage, Picture, Section
from polydiff.datasets import SeriesSet, embedded
from polydiff.timeseries import recipes
from polydiff.timeseries.comparison import Scores, beside, scored
from polydiff.timeseries.forecast import SeriesForecast
from polydiff.timeseries.generator import TimeSeriesGenerator
from polydiff.timeseries.imputers import LinearInterpolation
from polydiff.timeseries.interval_metrics import coverage
from polydiff.timeseries.plots import anomalies, calibration, fans, filled, gallery
from polydiff.timeseries.scores import autocorrelation_distance

__all__ = ["demo"]

_SECONDS = 50.0
_CONTEXT = 104  # two years
_DRAWS = 100
_COPIES = 39  # of every hole: the 95 % of the draws have an end of their own
_HOLE = 26  # weeks hidden together
_UNIT = "CO₂ in ppm"


def demo(out: Path) -> Section:
    """Train on weekly CO₂, forecast, fill in, generate, measure: the section of the report."""
    co2 = embedded("co2")
    train = co2.train
    missing = int(co2.frame["y"].isna().sum())
    print(f"timeseries: training on {len(train)} weeks of CO₂, the last {co2.rounds * co2.horizon} held out")
    begin = time.monotonic()
    generator = TimeSeriesGenerator(recipes.mixed(_CONTEXT, co2.horizon)).fit(train, seconds=_SECONDS, progress=True)
    seconds = time.monotonic() - begin
    generator.save(out / "co2")
    _, model = generator._fitted()
    steps = generator.history.records[-1]["step"] if generator.history else 0
    parameters = sum(p.numel() for p in model.parameters())
    print("timeseries: forecasting five years, each from the years before it, beside three baselines")
    fan, draws, truth, scores = _forecasts(generator, co2)
    hidden, error, cover = _imputation(generator, co2)
    made, floor, generated = _from_nothing(generator, co2)
    return Section(
        title="Time series: carbon dioxide on Mauna Loa",
        lead=(
            f"A diffusion model of windows of three years with {parameters:,} parameters, trained for {steps:.0f} steps in "
            f"{seconds:.0f} seconds on the weeks of 1958 to {train['ds'].max():%Y} ({missing} of all weeks were really never "
            f"measured); the last {co2.rounds} years were kept for measuring. One model forecasts, fills holes, finds what is "
            "strange and makes series from nothing."
        ),
        pictures=[
            Picture(
                "A year ahead, five times",
                f"{_DRAWS} draws of 52 weeks from the end of each year of the held-out ones: bands hold 50, 80 and 95 % of the "
                "draws, dots are what was measured afterwards. The model was not trained again in between.",
                *_wide(fan),
            ),
            Picture(
                "Holes",
                f"{_COPIES} draws of every missing week given the weeks on both sides. On the left {_HOLE} held-out weeks were "
                "hidden; on the right nobody knows: the instrument stood still.",
                *_wide(hidden),
            ),
            Picture(
                "From nothing",
                "Three years each, without any context: the season's shape, the climb and the weather of single weeks are the "
                "model's own.",
                *_wide(generated),
            ),
            Picture(
                "Kept promises",
                "Share of the held-out weeks inside central intervals of each width; the diagonal is perfect.",
                calibration(draws, truth),
                "svg+xml",
            ),
            Picture(
                "What is strange",
                "Two held-out years with a week raised by 2 ppm and four weeks of a stuck instrument, in orange. Each block of "
                "weeks is drawn again from the others; 1 is an ordinary distance.",
                _strange(generator, co2),
                "svg+xml",
            ),
            _table(scores),
        ],
        numbers=_numbers(scores, error, cover, (made, floor)),
        code=(
            "from polydiff.datasets import embedded\nfrom polydiff.timeseries import TimeSeriesGenerator\n\n"
            'co2 = embedded("co2").frame  # unique_id, ds, y; NaN is missing\n'
            "gen = TimeSeriesGenerator().fit(co2, seconds=60)\n"
            "gen.forecast(co2, horizon=52).to_frame()  # or gen.impute(co2), gen.sample(8), gen.anomaly_score(co2)\n"
        ),
    )


# ------------------------------------------------------------------ parts


def _wide(svg: bytes) -> tuple[bytes, str, bool]:
    return svg, "svg+xml", True


def _forecasts(
    generator: TimeSeriesGenerator, co2: SeriesSet
) -> tuple[bytes, Mapping[str, np.ndarray], np.ndarray, Mapping[str, Scores]]:
    """The picture of the fans; draws (S, rounds, H) by name, the truth (rounds, H), and scores by name."""
    found: list[SeriesForecast] = []
    truths, histories = [], []
    for k, (past, ahead) in enumerate(co2.rolling()):
        found += generator.forecast(past, co2.horizon, _DRAWS, seed=k, progress=False)
        truths.append(ahead["y"].to_numpy())
        histories.append(past["y"].to_numpy())
    truth = np.stack(truths)
    others = beside(histories, co2.horizon, co2.season, learned=[co2.train["y"].to_numpy()], num_samples=_DRAWS)
    draws = {"polydiff": np.stack([f.samples for f in found], 1), **others}
    scores = {name: scored(some, truth, histories, co2.season) for name, some in draws.items()}
    return fans(_values(co2.frame)[-6 * co2.horizon :], found, label=_UNIT), draws, truth, scores


def _imputation(generator: TimeSeriesGenerator, co2: SeriesSet) -> tuple[bytes, tuple[float, float], float]:
    """The picture; mean absolute errors of the median draw and of straight lines; coverage of the central 90 %."""
    rest = _values(co2.frame)[-(co2.rounds + 1) * co2.horizon :]
    begins = range(co2.horizon, len(rest) - _HOLE - 8, _HOLE + 5)
    given = {str(b): rest.mask(np.isin(np.arange(len(rest)), b + np.arange(_HOLE))) for b in begins}
    made = generator.impute(_long(given), draws=_COPIES, seed=1, progress=False)
    copies = {name: pd.DataFrame({k: _values(m[m["unique_id"] == name]) for k, m in enumerate(made)}) for name in given}
    holes = {name: y.isna() & rest.notna() for name, y in given.items()}
    draws = np.concatenate([copies[n][holes[n]].to_numpy() for n in given]).T
    truth = np.concatenate([rest[holes[n]].to_numpy() for n in given])
    lines = np.concatenate(
        [LinearInterpolation().impute(y.to_frame())[holes[n]].to_numpy()[:, 0] for n, y in given.items()]
    )
    errors = [float(np.abs(guess - truth).mean()) for guess in (np.median(draws, 0), lines)]
    old = _values(co2.frame)["1962-07":"1966-06"]  # type: ignore[misc]
    again = generator.impute(_long({"co2": old}), draws=_COPIES, seed=2, progress=False)
    shown = list(given)[2]
    part = slice(int(shown) - 52, int(shown) + _HOLE + 52)
    picture = filled(
        [
            ("hidden", given[shown][part], copies[shown][part], rest[part]),
            ("never measured", old, pd.DataFrame({k: _values(m) for k, m in enumerate(again)}), None),
        ],
        label=_UNIT,
    )
    return picture, (errors[0], errors[1]), coverage(draws, truth).estimate


def _from_nothing(generator: TimeSeriesGenerator, co2: SeriesSet) -> tuple[float, float, bytes]:
    """Distance of the autocorrelations of new and of training windows from held-out ones, and the picture."""
    length = generator.length
    made = generator.sample(64, seed=4, progress=False)[..., 0]
    real = co2.train["y"].interpolate().to_numpy()
    g = np.random.default_rng(0)
    windows = np.stack([real[b : b + length] for b in g.integers(0, len(real) - length, 64)])
    rest = _values(co2.frame).interpolate().to_numpy()[-co2.rounds * co2.horizon - length // 2 :]
    held = np.stack([rest[b : b + length] for b in range(0, len(rest) - length, 4)])
    flat = [x - x.mean(1, keepdims=True) for x in (held, made, windows)]
    distances = [autocorrelation_distance(flat[0], x).value for x in flat[1:]]
    return distances[0], distances[1], gallery(windows[:4], made[:4], step=1 / 52, unit="years")


def _strange(generator: TimeSeriesGenerator, co2: SeriesSet) -> bytes:
    rest = _values(co2.frame)[-4 * co2.horizon :].copy()
    n = len(rest)
    rest.iloc[n - 30] += 2.0
    rest.iloc[n - 74 : n - 70] = rest.iloc[n - 75]
    score = _values(generator.anomaly_score(_long({"co2": rest}), block=4, seed=5))
    spoiled = rest.index[[n - 30, *range(n - 74, n - 70)]]
    return anomalies(rest[-104:], score[-104:], list(spoiled), label=_UNIT)


def _values(frame: pd.DataFrame) -> pd.Series:
    return pd.Series(frame["y"].to_numpy(), pd.DatetimeIndex(frame["ds"]))


def _long(series: Mapping[str, pd.Series]) -> pd.DataFrame:
    parts = [pd.DataFrame({"unique_id": k, "ds": y.index, "y": y.to_numpy()}) for k, y in series.items()]
    return pd.concat(parts, ignore_index=True)


def _table(scores: Mapping[str, Scores]) -> Passage:
    """The scores side by side, the best of each line marked."""
    lines: list[list[tuple[str, bool]]] = [[(" " * 20 + "".join(f"{n:>18}" for n in scores), False)]]
    for title, name, digits in (("quantile loss", "loss", 5), ("inside 90 %", "coverage", 3), ("MASE", "mase", 3)):
        values = [float(getattr(s, name)) for s in scores.values()]
        off = [abs(v - 0.9) if name == "coverage" else v for v in values]
        line: list[tuple[str, bool]] = [(f"{title:<20}", False)]
        for value, o in zip(values, off):
            text = f"{value:.{digits}f}"
            line += [(" " * (18 - len(text)), False), (text, o == min(off))]
        lines.append(line)
    caption = (
        "Five forecasts of 52 held-out weeks each, the best of each line marked. Quantile loss is GluonTS's mean weighted one, "
        "MASE the error of the median over that of last year's values; lower is better for both. The linear regression of "
        "quantiles forecasts and does nothing else."
    )
    return Passage("Beside baselines", caption, lines, wide=True)


def _numbers(
    scores: Mapping[str, Scores], error: tuple[float, float], cover: float, nothing: tuple[float, float]
) -> list[Number]:
    ours, naive, ets = scores["polydiff"], scores["seasonal naive"], scores["ETS"]
    return [
        Number(
            "quantile loss",
            f"{ours.loss:.5f}",
            f"naive {naive.loss:.5f}, ETS {ets.loss:.5f}",
            "forecasts of a year: mean weighted loss of nine quantiles; lower is better",
        ),
        Number(
            "forecast coverage", f"{ours.coverage:.0%}", "90%", "held-out weeks inside the central 90 % of the draws"
        ),
        Number(
            "error in holes",
            f"{error[0]:.2f} ppm",
            f"straight line {error[1]:.2f}",
            f"mean absolute error of the median draw in hidden stretches of {_HOLE} weeks",
        ),
        Number("coverage in holes", f"{cover:.0%}", "90%", "hidden weeks inside the central 90 % of the draws"),
        Number(
            "autocorrelation",
            f"{nothing[0]:.3f}",
            f"{nothing[1]:.3f}",
            "distance of the autocorrelations of new series from held-out ones; beside it that of training series",
        ),
    ]
