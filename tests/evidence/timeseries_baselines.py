"""What a forecaster must beat on four sets: seasonal naive, exponential smoothing, linear quantile regression.

Every test window is forecast from all that lies before it; the regression is fitted once, before the first test window (with
the validation steps). About four CPU-minutes. ``python tests/evidence/timeseries_baselines.py [set …]``
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from record import record

from polydiff.datasets import series_files
from polydiff.timeseries.baselines import ETS, SeasonalNaive
from polydiff.timeseries.forecast_metrics import LEVELS, mean_quantile_loss, sample_quantiles
from polydiff.timeseries.interval_metrics import central_interval, interval_coverage, mase
from polydiff.timeseries.linear_quantile import LinearQuantile

WIDE = (0.05, *LEVELS, 0.95)
SEEDS = range(3)
# steps that exponential smoothing sees (a fit on all of them is slow and no better); lags and centre of the regression
SETTINGS = {
    "exchange_rate": (500, 60, "last"),
    "etth1": (504, 168, "mean"),
    "m4_hourly": (504, 168, "mean"),
    "electricity_weekly": (None, 60, "mean"),
}


def sampled(make, histories, horizon, seed):
    """Nine quantiles and the ends of the 90 % interval, (9, N, H) and two (N, H)."""
    draws = make.forecast(histories, horizon, num_samples=100, seed=seed)
    return sample_quantiles(draws), *central_interval(draws, 0.9)


def regression(data, seed, lags, centre):
    """A fitted linear quantile regression."""
    first, _ = next(data.rolling())
    model = LinearQuantile(lags, data.horizon, WIDE, centre=centre, seed=seed)
    return model.fit(list(data.arrays(first).values()))


def predict(data, forecaster):
    """Quantiles (9, N, K, H), ends and truths (N, K, H) over the K test windows."""
    parts = []
    for history, truth in data.rolling():
        found = forecaster(list(data.arrays(history).values()))
        parts.append((*found, np.stack(list(data.arrays(truth).values()))))
    return [np.stack(p, -2) for p in zip(*parts)]


def scores(data, forecaster, histories):
    """Mean weighted quantile loss, coverage of 90 % intervals with its own interval, and MASE of the median."""
    begin = time.process_time()
    quantiles, low, high, truth = predict(data, forecaster)
    seconds = time.process_time() - begin
    cover = interval_coverage(low, high, truth)
    flat = truth.shape[0], -1
    point = mase(quantiles[4].reshape(flat), truth.reshape(flat), histories, data.season).value
    loss = mean_quantile_loss(quantiles, truth, of="quantiles").value
    return np.array([loss, cover.estimate, cover.low, cover.high, point, seconds])


def compare(name):
    """``{baseline: mean over its seeds of the scores}``."""
    data = getattr(series_files, name)()
    window, lags, centre = SETTINGS[name]
    histories = list(data.arrays(next(data.rolling())[0]).values())

    def drawing(make, seed):
        return lambda h: sampled(make, h, data.horizon, seed)

    def linear(seed):
        begin = time.process_time()
        model = regression(data, seed, lags, centre)
        seconds = time.process_time() - begin

        def forecast(h):
            q = model.quantiles(h)
            return q[1:-1], q[0], q[-1]

        found = scores(data, forecast, histories)
        found[-1] += seconds
        return found

    found = {
        "seasonal naive": [scores(data, drawing(SeasonalNaive(data.season), s), histories) for s in SEEDS],
        "naive": [scores(data, drawing(SeasonalNaive(1), s), histories) for s in SEEDS],
        "ETS": [scores(data, drawing(ETS(data.season, window=window), 0), histories)],
        "ETS of logarithms": [scores(data, drawing(ETS(data.season, window=window, log=True), 0), histories)],
        "linear quantile regression": [linear(s) for s in SEEDS],
    }
    return data, {k: np.mean(v, axis=0) for k, v in found.items()}


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or SETTINGS:
        data, found = compare(name)
        best = min(found, key=lambda k: found[k][0])
        for k, v in found.items():
            print(
                f"{name:<20}{k:<28} mwQL {v[0]:.5f}  90 % coverage {v[1]:.3f} [{v[2]:.3f}, {v[3]:.3f}]  MASE {v[4]:.3f}  {v[5]:.1f} s",
                flush=True,
            )
        window, lags, centre = SETTINGS[name]
        record(
            "timeseries",
            f"baseline-{name}",
            f"mean weighted quantile loss of GluonTS, levels 0.1 … 0.9, {len(data)} series × {data.rounds} windows of {data.horizon}",
            found[best][0],
            baselines={f"{k} {metric}": float(v[i]) for k, v in found.items() for i, metric in METRICS},
            bar="what issue 5 asks a generator to beat",
            seeds=list(SEEDS),
            note=f"the value is that of the best, {best}; 100 draws; ETS on the last {window or 'all'} steps, one seed; "
            f"regression on {lags} lags centred at the {centre}, fitted once; coverage clustered by series",
        )


METRICS = ((0, "mwQL"), (1, "90 % coverage"), (4, "MASE"), (5, "CPU seconds"))

if __name__ == "__main__":
    main()
