"""Evidence: forecasts of four sets beside the baselines, and of one unconditional model. Run by ``make evidence-timeseries``.

``python tests/evidence/timeseries_forecast.py [set …]``; three seeds, one thread. The baselines are those that
``timeseries_baselines.py`` has recorded. ``test_timeseries.py`` beside it is the minute-long version.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from record import ROOT, record

from polydiff.datasets import series_files
from polydiff.timeseries import TimeSeriesGenerator, recipes
from polydiff.timeseries.forecast_metrics import LEVELS, crps, mean_quantile_loss
from polydiff.timeseries.interval_metrics import coverage, mase

SEEDS, DRAWS = (0, 1, 2), 100
SETTINGS = {  # context, changes of the recipe; steps and calendar by the last training days, where more learn noise
    "exchange_rate": (60, {"steps": 400, "dropout": 0.1}),
    "etth1": (168, {"steps": 2000, "dropout": 0.1, "dates": False}),
    "m4_hourly": (168, {"steps": 2000, "dropout": 0.1}),
    "electricity_weekly": (60, {"steps": 3000, "dropout": 0.1}),
}
BASELINES = ("seasonal naive", "naive", "ETS", "ETS of logarithms", "linear quantile regression")


def config_of(name, data, kind="conditional"):
    context, changes = SETTINGS[name]
    recipe = {"conditional": recipes.forecasting, "unconditional": recipes.unconditional}[kind]
    return dataclasses.replace(recipe(context, data.horizon), **changes)


def scores(generator, data, draws=DRAWS, rounds=None):
    """Mean weighted quantile loss, its fair CRPS relative to the mean level, 90 % coverage with its interval, MASE."""
    samples, truths, names, histories = [], [], [], data.arrays(next(data.rolling())[0])
    for k, (context, future) in enumerate(data.rolling()):
        if rounds is not None and k not in rounds:
            continue
        made = generator.forecast(context, data.horizon, draws, seed=k)
        truth = data.arrays(future)
        samples.append(made.samples[..., 0].transpose(1, 0, 2))
        truths.append(np.stack([truth[str(n)] for n in made.names]))
        names += made.names
    x, y = np.concatenate(samples, 1), np.concatenate(truths)
    held = coverage(x, y, level=0.9, clusters=np.array([str(n) for n in names]))
    past = [histories[str(n)] for n in names]
    return {
        "mwQL": float(mean_quantile_loss(x, y, LEVELS)),
        "CRPS": float(crps(x, y).sum() / np.abs(y).sum()),
        "coverage": held,
        "MASE": float(mase(np.median(x, 0), y, past, data.season)),
    }


def fitted(name, data, seed, kind="conditional"):
    begin = time.process_time()
    gen = TimeSeriesGenerator(config_of(name, data, kind), seed=seed)
    gen.fit(next(data.rolling())[0], progress=False)
    gen.config = dataclasses.replace(gen.config, sample_steps=20)
    return gen, time.process_time() - begin


def main(names):
    torch.set_num_threads(1)
    for name in names or SETTINGS:  # one after the other
        data = getattr(series_files, name)()
        found = {"conditional": [], "unconditional": []}
        for kind, rows in found.items():
            for seed in SEEDS:
                gen, seconds = fitted(name, data, seed, kind)
                begin = time.process_time()
                rows.append(scores(gen, data) | {"train": seconds, "forecast": time.process_time() - begin})
                print(name, kind, seed, {k: str(v)[:60] for k, v in rows[-1].items()}, flush=True)
        write(name, data, found)


def write(name, data, found):
    base = json.loads((ROOT / f"docs/evidence/timeseries/baseline-{name}.json").read_text())["baselines"]
    baselines = {b: base[f"{b} mwQL"] for b in BASELINES}
    best = min(baselines.values())
    for kind, rows in found.items():
        values = [r["mwQL"] for r in rows]
        held = np.mean([float(r["coverage"]) for r in rows])
        others = (
            baselines if kind == "conditional" else {"conditional": np.mean([r["mwQL"] for r in found["conditional"]])}
        )
        record(
            "timeseries",
            f"forecast-{name}" + ("" if kind == "conditional" else "-unconditional"),
            f"mean weighted quantile loss of GluonTS, levels 0.1 … 0.9, {len(data)} series × {data.rounds} windows of "
            f"{data.horizon}, {DRAWS} draws",
            float(np.mean(values)),
            interval=[min(values), max(values)],
            baselines=others,
            bar="below seasonal naive, ETS and linear quantile regression on three of four, never above 1.05 × the best"
            if kind == "conditional"
            else "within 10 % of the conditional model",
            seeds=list(SEEDS),
            note=f"{np.mean(values) / best:.3f} × the best baseline; 90 % intervals hold {held:.1%} "
            f"({min(float(r['coverage']) for r in rows):.1%}–{max(float(r['coverage']) for r in rows):.1%}); MASE "
            f"{np.mean([r['MASE'] for r in rows]):.3f}; CRPS {np.mean([r['CRPS'] for r in rows]):.5f}; training "
            f"{np.mean([r['train'] for r in rows]):.0f} CPU-s, forecasts {np.mean([r['forecast'] for r in rows]):.0f}; the "
            "interval is the range over seeds",
        )


if __name__ == "__main__":
    main(sys.argv[1:])
