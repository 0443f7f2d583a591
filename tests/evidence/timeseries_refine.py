"""S013, SDEdit: does a fitted model improve the forecasts of others? Seasonal naive and linear quantile regression on two sets.

By renoising (``polydiff.timeseries.Renoising``) with a model of forecasts, three seeds. Five CPU-minutes.
``python tests/evidence/timeseries_refine.py [set …]``
"""

import dataclasses
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from record import record

from polydiff.datasets import series_files
from polydiff.timeseries import TimeSeriesGenerator, recipes
from polydiff.timeseries.baselines import SeasonalNaive
from polydiff.timeseries.forecast_metrics import LEVELS, crps, mean_quantile_loss
from polydiff.timeseries.linear_quantile import LinearQuantile
from polydiff.timeseries.refining import Renoising, refine

DRAWS, SEEDS = 60, (0, 1, 2)
SETTINGS = {
    "electricity_weekly": (60, 60, 2000),
    "m4_hourly": (168, 168, 1500),
}  # context, lags of the regression, steps
TIMES = (0.3, 0.5, 0.7, 0.9)


def scores(draws, truth):
    """Mean weighted quantile loss, and the summed CRPS of each series, of draws (N, S, H)."""
    x = draws.swapaxes(0, 1)
    return mean_quantile_loss(x, truth).value, crps(x, truth).sum(1)


def gain(ours, base, seed=0):
    """Share by which the summed CRPS falls, with a bootstrap interval over series."""
    rows = np.random.default_rng(seed).integers(0, len(base), (2000, len(base)))
    share = 1 - ours[rows].mean(1) / base[rows].mean(1)
    return 1 - ours.mean() / base.mean(), *np.quantile(share, [0.025, 0.975])


def bases_of(data, past, lags):
    """Draws ``(N, S, H)`` of both baselines behind the last step of ``past``."""
    histories = list(data.arrays(past).values())
    linear = LinearQuantile(lags, data.horizon, (0.05, *LEVELS, 0.95)).fit(histories)
    found = {
        "seasonal naive": SeasonalNaive(data.season).forecast(histories, data.horizon, num_samples=DRAWS),
        "linear": linear.forecast(histories, num_samples=DRAWS),
    }
    return {k: v.swapaxes(0, 1) for k, v in found.items()}


def measure(name, seed):
    """Of each baseline: losses before and after, the fall of the CRPS with its interval, and the time that was chosen.

    The model never sees the horizon before the test window: there the time is chosen.
    """
    context, lags, steps = SETTINGS[name]
    data = getattr(series_files, name)()
    past, ahead = next(data.rolling())
    left = past.groupby("unique_id", sort=False).cumcount(ascending=False)
    before, val = past[left >= data.horizon].reset_index(drop=True), past[left < data.horizon]
    config = dataclasses.replace(recipes.forecasting(context, data.horizon), steps=steps, dropout=0.1)
    gen = TimeSeriesGenerator(config, seed=seed).fit(before, progress=False)
    truths = [np.stack(list(data.arrays(part).values())) for part in (val, ahead)]
    early, late = bases_of(data, before, lags), bases_of(data, past, lags)
    found = {}
    for base in late:
        tried = {
            time: scores(
                refine(gen, early[base], before, by=Renoising(time, 12), seed=seed).samples[..., 0], truths[0]
            )[0]
            for time in TIMES
        }
        best = min(tried, key=tried.get)
        made = refine(gen, late[base], past, by=Renoising(best, 12), seed=seed).samples[..., 0]
        old, new = scores(late[base], truths[1]), scores(made, truths[1])
        found[base] = (old[0], new[0], *gain(new[1], old[1]), best)
        print(name, seed, base, found[base], tried, flush=True)
    return found


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or SETTINGS:
        runs = [measure(name, seed) for seed in SEEDS]
        for base in runs[0]:
            rows = [r[base] for r in runs]
            record(
                "timeseries",
                f"refine-{name}-{base.replace(' ', '-')}",
                f"share by which refining lowers the CRPS of all series together of {base}; {DRAWS} "
                "draws; renoised to a time chosen on the horizon before",
                float(np.mean([r[2] for r in rows])),
                interval=[min(r[3] for r in rows), max(r[4] for r in rows)],
                baselines={
                    "mwQL before": float(np.mean([r[0] for r in rows])),
                    "mwQL after": float(np.mean([r[1] for r in rows])),
                },
                bar="> 0",
                seeds=list(SEEDS),
                note=f"times {[r[5] for r in rows]}; the interval is the widest of those of the seeds, over series",
            )


if __name__ == "__main__":
    main()
