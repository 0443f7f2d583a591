"""Imputation of Beijing's PM2.5: the generator against a CSDI-style model, lines, neighbours and a Kalman smoother.

Trained on 2010 to 2013 with their 1,968 really missing hours left missing; measured on hours of 2014 that are there and were
removed: single ones, or whole days. Neighbours and the smoother get 2013 as well as the rest of 2014, and the weather
(neighbours). Ten CPU-minutes; ``python tests/evidence/timeseries_imputation.py [method … | record]``.
"""

import dataclasses
import json
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))

from record import record

from polydiff.datasets import beijing_pm25
from polydiff.timeseries import TimeSeriesGenerator, build, data, recipes, windows
from polydiff.timeseries.imputers import CovariateRegression, KalmanSmoother, LinearInterpolation, NeighboursInTime
from polydiff.timeseries.innovations import Innovations
from polydiff.timeseries.interval_metrics import central_interval

OUT = Path("/tmp/polydiff-imputation")
SEEDS = range(3)
SETTINGS = {f"{kind} {share}": (kind, share / 100) for kind in ("points", "blocks") for share in (10, 50, 90)}
TRAINED, DRAWS, STEPS, OFFSET = 1000, 79, 12, 10.0
KNOWN = ["dew_point", "temperature", "pressure", "wind_speed", "snow", "rain", "NE", "NW", "SE", "calm"]


def hours():
    """The long frame with numbers for covariates; the logarithms of what is skewed."""
    frame = beijing_pm25().frame
    frame = frame.assign(**{c: np.log1p(frame[c]) for c in ("wind_speed", "snow", "rain")})
    frame = frame.drop(columns="wind").join(pd.get_dummies(frame["wind"]).astype(float))
    train = frame["ds"].dt.year < 2014
    values = logarithm(frame)["y"].where(train).to_numpy()
    return frame.assign(weather=CovariateRegression().predict(frame.set_index("ds")[KNOWN], values))


def split(frame):
    """Training rows, and those of 2014."""
    test = frame["ds"].dt.year == 2014
    return frame[~test].reset_index(drop=True), frame[test].reset_index(drop=True)


def removed(there, setting, seed):
    """Which of the hours that are there are taken away: single ones, or days from a random hour on."""
    kind, share = SETTINGS[setting]
    rng = np.random.default_rng([seed, sum(map(ord, setting))])
    if kind == "points":
        return there & (rng.random(len(there)) < share)
    day = (np.arange(len(there)) + rng.integers(24)) // 24
    return there & np.isin(day, rng.permutation(day[-1] + 1)[: round(share * (day[-1] + 1))])


def logarithm(frame):
    return frame.assign(y=np.log(frame["y"] + OFFSET))


def back(values):
    """From the logarithm; concentrations are not negative."""
    return np.maximum(np.exp(values) - OFFSET, 0.0)


# ------------------------------------------------------------------ imputers: (frame with holes) -> median, low, high


class FittedOnce(KalmanSmoother):
    """Its parameters come from the hours of 2013 with the fewest holes, the same for every pattern of holes in 2014."""

    params = None

    def _model(self, y):
        model = super()._model(y)
        if self.params is not None:
            model.fit = lambda **_: SimpleNamespace(params=self.params)
            return model
        fit = model.fit

        def kept(**options):
            found = fit(**options)
            self.params = found.params
            return found

        model.fit = kept
        return model


def conventional(train, name):
    """A baseline over 2013 and the frame."""
    before = train[train["ds"].dt.year == 2013]
    columns = ["y", *KNOWN] if name == "neighbours" else ["y"]
    log = name.endswith("logarithms")
    method = {"lines": LinearInterpolation(), "neighbours": NeighboursInTime(10)}.get(name, FittedOnce(24))

    def impute(holed):
        both = pd.concat([before, holed]).set_index("ds")[columns]
        both = logarithm(both) if log else both
        if not isinstance(method, KalmanSmoother):
            return method.impute(both)["y"].to_numpy()[len(before) :], None, None
        mean, std = (f["y"].to_numpy()[len(before) :] for f in method.smooth(both))
        ends = [mean, mean - 1.6449 * std, mean + 1.6449 * std]
        return [back(e) for e in ends] if log else ends

    return impute


class Beside(Innovations):
    """The Gaussian model of windows of a series and, as second channel, of what the weather says of it, always told.

    Conditioning on a channel that is always told is the same for every pattern: it moves the mean by ``Σ_yw Σ_ww⁻¹ (w − μ_w)``
    and leaves a Gaussian model of the first channel alone.
    """

    def __init__(self, mean, cov):
        super().__init__(mean, cov)
        y, w = slice(0, None, 2), slice(1, None, 2)
        self.gain = torch.linalg.solve(self.cov[w, w], self.cov[w, y]).T
        self.middle = self.mean[w]
        self.own = Innovations(self.mean[y], self.cov[y, y] - self.gain @ self.cov[w, y])

    def _shift(self, z):
        return ((z[..., 1].double() - self.middle) @ self.gain.T)[..., None]

    def encode(self, z, known, open_):
        u = self.own.encode(z[..., :1] - self._shift(z), known[..., :1], open_[..., :1])
        return torch.cat([torch.where(open_[..., :1], u, z[..., :1]).to(z.dtype), z[..., 1:]], -1)

    def decode(self, u, known, open_, repeats=1):
        shift, told = self._shift(u), known[..., :1].repeat_interleave(repeats, 0)
        z = self.own.decode(torch.where(told, u[..., :1] - shift, u[..., :1]), known[..., :1], open_[..., :1], repeats)
        return torch.cat([z + shift, u[..., 1:]], -1).to(u.dtype)


def diffusion(train, config, seed, steps=None, seconds=None):
    told = build.Tasks.__call__

    def all_but_the_weather(self, valid, rng):
        known = told(self, valid, rng)
        known[..., 1:] |= valid[..., 1:]
        return known

    model = TimeSeriesGenerator(config, seed=seed, device="cpu")
    target = ["y", "weather"]
    with (
        mock.patch.object(data, "Innovations", Beside),
        mock.patch.object(windows, "Innovations", Beside),
        mock.patch.object(build.Tasks, "__call__", all_but_the_weather),
    ):
        model.fit(logarithm(train), target=target, known=KNOWN, freq="h", steps=steps, seconds=seconds, progress=False)

    def impute(holed):
        copies = model.impute(logarithm(holed), draws=DRAWS, steps=STEPS, seed=seed, progress=False)
        made = np.stack([back(c["y"].to_numpy()) for c in copies])
        return np.median(made, 0), *central_interval(made, 0.9)

    return impute, model


def ours(length=72, steps=TRAINED):
    return dataclasses.replace(recipes.imputing(length), base="linear", steps=steps, ema=0.99)


def csdi(length=72, steps=TRAINED):
    """Told values beside the noisy ones, random masks, dilated convolutions: no linear model."""
    return dataclasses.replace(ours(length, steps), base="none", network="conv", width=32, depth=5)


# ------------------------------------------------------------------ scores


def scores(test, setting, seed, impute):
    """MAE, share inside the 90 % band (NaN without one), mean width of the band, CPU seconds."""
    y = test["y"].to_numpy()
    gone = removed(~np.isnan(y), setting, seed)
    begin = time.process_time()
    middle, low, high = impute(test.assign(y=np.where(gone, np.nan, y)))
    seconds = time.process_time() - begin
    inside = np.nan if low is None else float(np.mean((low <= y)[gone] & (y <= high)[gone]))
    width = np.nan if low is None else float(np.mean((high - low)[gone]))
    return [float(np.abs(middle - y)[gone].mean()), inside, width, seconds]


def measured(name, train, test, seed, settings):
    """Scores by setting; those that were measured before are read."""
    path = OUT / f"{name} {seed}.json".replace(" ", "_")
    found = json.loads(path.read_text()) if path.exists() else {}
    left = [s for s in settings if s not in found]
    if not left:
        return found
    begin = time.process_time()
    impute = METHODS[name](train, seed)
    trained = time.process_time() - begin
    for setting in left:
        found[setting] = [*scores(test, setting, seed, impute), trained]
        print(f"{name:<28}{setting:<10} seed {seed}  " + "  ".join(f"{v:.3f}" for v in found[setting]), flush=True)
        OUT.mkdir(exist_ok=True)
        path.write_text(json.dumps(found))
    return found


METHODS = {
    "generator": lambda train, seed: diffusion(train, ours(), seed)[0],
    "linear model alone": lambda train, seed: diffusion(train, ours(), seed, steps=1)[0],
    "CSDI-style": lambda train, seed: diffusion(train, csdi(), seed)[0],
    "the same without linear model": lambda train, seed: diffusion(
        train, dataclasses.replace(ours(), base="none"), seed
    )[0],
    **{
        name: lambda train, seed, name=name: conventional(train, name)
        for name in ("lines", "neighbours", "smoother", "smoother of logarithms")
    },
}


def report(found):
    """One record a setting: mean MAE of the generator beside all others, over its seeds; others with as many."""
    for setting in SETTINGS:
        runs = {k: {s: f[setting] for s, f in v.items() if setting in f} for k, v in found.items()}
        runs = {k: v for k, v in runs.items() if v}
        seeds = sorted(runs.get("generator", {}))
        runs = {k: v for k, v in runs.items() if set(seeds) <= set(v)}
        if "generator" not in runs or not seeds:
            continue
        mean = {k: np.mean([v[s] for s in seeds], 0) for k, v in runs.items()}
        mine = [runs["generator"][s][0] for s in seeds]
        record(
            "timeseries",
            f"imputation-{setting.replace(' ', '-')}",
            f"MAE (µg/m³) of the median of {DRAWS} draws at the removed hours of 2014, {STEPS} sampling steps",
            np.mean(mine),
            interval=(min(mine), max(mine)) if len(mine) > 1 else None,
            baselines={f"{k} MAE": float(v[0]) for k, v in mean.items()}
            | {f"{k} share in 90 % band": float(v[1]) for k, v in mean.items() if not np.isnan(v[1])}
            | {f"{k} CPU seconds of training": float(v[4]) for k, v in mean.items() if v[4] > 1},
            bar="below linear interpolation, k-NN and a Kalman smoother at 50 %; 85 to 95 % inside the 90 % band",
            seeds=seeds,
            note=f"{setting} % removed; masks and training differ by seed, an interval is the range over seeds; the regression "
            "on the weather and the linear model that reads it do nearly all of the work; the channel of that regression is made by "
            "this script (`Beside`), not by the public generator",
        )


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train, test = split(hours())
    names = [n for n in sys.argv[1:] if n != "record"] or list(METHODS)
    for name in names if sys.argv[1:] != ["record"] else []:
        for seed in SEEDS:
            measured(name, train, test, seed, SETTINGS if seed == 0 else ("points 50", "blocks 50"))
    found = {n: {} for n in METHODS}
    for name in METHODS:
        for path in OUT.glob(f"{name} ?.json".replace(" ", "_")):
            found[name][int(path.stem[-1])] = json.loads(path.read_text())
    report(found)


if __name__ == "__main__":
    main()
