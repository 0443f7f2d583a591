"""Evidence: series ten times as long as a training window keep their marginals. Run by ``make evidence-timeseries``.

The KS distance between generated values and real ones over the last tenth of the generated series, against that over the
first; real values are those of other years than the training ones, three seeds.
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ks_2samp

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from polydiff.datasets import etth1, melbourne
from polydiff.timeseries import SeriesConfig, TimeSeriesGenerator

SEEDS, SERIES = (0, 1, 2), 200


def real():
    """By name: training values and held-out ones of a series that goes on alike: temperatures by year, oil by days."""
    days = melbourne().frame["y"].to_numpy()
    hours = np.stack([v[: 8640 + 2880] for v in etth1().arrays().values()], 1)[:, 2]
    return {"melbourne": (days[: 8 * 365], days[8 * 365 :], 73), "etth1-MUFL": (hours[:8640], hours[8640:], 48)}


def main():
    torch.set_num_threads(1)
    for name, (train, rest, half) in real().items():
        config = SeriesConfig(
            context=half, horizon=half, scaling="global", base="linear", forecast=0.5, points=0, blocks=0, nothing=0.5,
            steps=2000, dropout=0.1,
        )  # fmt: skip
        ratios, firsts, lasts, floor = [], [], [], ks_2samp(train, rest).statistic
        for seed in SEEDS:
            begin = time.process_time()
            gen = TimeSeriesGenerator(dataclasses.replace(config), seed=seed).fit(train[None], progress=False)
            made = gen.sample(SERIES, 10 * 2 * half, seed=seed)[..., 0]
            ends = [ks_2samp(part.ravel(), train).statistic for part in (made[:, : 2 * half], made[:, -2 * half :])]
            firsts.append(ends[0])
            lasts.append(ends[1])
            ratios.append(ends[1] / ends[0])
            print(name, seed, ends, ratios[-1], floor, f"{time.process_time() - begin:.0f} s", flush=True)
        record(
            "timeseries",
            f"long-{name}",
            f"KS distance to real values of the last tenth of {SERIES} generated series of {20 * half} steps, ten windows, over "
            "that of the first tenth; mean over seeds",
            float(np.mean(ratios)),
            interval=[min(ratios), max(ratios)],
            baselines={
                "first tenth": float(np.mean(firsts)),
                "last tenth": float(np.mean(lasts)),
                "held-out years": floor,
            },
            bar="≤ 1.5",
            seeds=list(SEEDS),
        )


if __name__ == "__main__":
    main()
