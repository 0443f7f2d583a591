"""Speed of forecasts, as a ratio in one run."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from polydiff.timeseries import TimeSeriesGenerator, recipes


@pytest.mark.slow
def test_a_hundred_series_are_three_times_as_fast_as_a_loop_over_them():
    """100 series × 100 samples of one network, in CPU time; the better of two runs of each, taken in turn."""
    torch.set_num_threads(1)
    series = [np.sin(np.arange(120) / 4 + k) + 0.1 * k for k in range(100)]
    config = dataclasses.replace(recipes.forecasting(24, 8), sample_steps=16)
    gen = TimeSeriesGenerator(config).fit(series, steps=5, progress=False)

    def together():
        return gen.forecast(series, 8, 100, progress=False).samples

    def one_by_one():
        return np.concatenate([gen.forecast([s], 8, 100, progress=False).samples for s in series])

    def seconds(work):
        begin = time.process_time()
        out = work()
        return time.process_time() - begin, out

    fast, loop = [], []
    for _ in range(2):
        fast.append(seconds(together))
        loop.append(seconds(one_by_one))
    ratio = min(s for s, _ in loop) / min(s for s, _ in fast)
    print(
        f"together {min(s for s, _ in fast):.2f} s, a loop over series {min(s for s, _ in loop):.2f} s, ratio {ratio:.1f}"
    )
    assert np.allclose(fast[0][1][0], loop[0][1][0], atol=1e-4)
    assert ratio >= 3
