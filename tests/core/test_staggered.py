"""Grids on which one element moves at a time."""

import torch

from polydiff.core.data import Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Normal
from polydiff.core.processes import Gaussian
from polydiff.core.sampling import Ancestral, sample
from polydiff.core.schedules import Cosine, staggered_times


def test_times_of_the_dtype_of_the_data_do_not_widen_it():
    process = Gaussian(Cosine())
    half = FunctionDenoiser(process, lambda x, t, ctx: Normal(0.5 * x))
    x = torch.ones(2, 3)
    for dtype in (torch.float32, torch.float64):
        times = staggered_times([1.0, 0.5, 0.0], 3, dtype=dtype)
        assert times.dtype == dtype
        assert sample(half, x, times.expand(-1, 2, -1), Ancestral(0.0), rng=Rng(0)).dtype == dtype


def test_one_element_moves_at_a_time():
    times = staggered_times([1.0, 0.25, 0.0], 3, dtype=torch.float32)[:, 0]
    moved = times[1:] != times[:-1]
    assert moved.sum(1).tolist() == [1] * 6
    assert moved.int().argmax(1).tolist() == [0, 1, 2, 0, 1, 2]
