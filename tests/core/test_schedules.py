"""Schedules: derivatives, limits, inverses, memo, grids."""

import math

import pytest
import torch
from torch.autograd.functional import jvp

from polydiff.core.schedules import (
    EDM,
    LOGSNR_LIMIT,
    Cosine,
    LogLinear,
    RectifiedFlow,
    VPLinear,
    karras_times,
    logsnr_times,
    quadratic_times,
    uniform_times,
)

T = torch.linspace(0, 1, 41, dtype=torch.float64)


def test_derivatives_are_those_of_autograd(schedule):
    inner = T[1:-1]
    for value, slope in ((0, 3), (2, 5)):
        _, exact = jvp(lambda t, i=value: schedule.coefficients(t)[i], inner, torch.ones_like(inner))
        torch.testing.assert_close(schedule.coefficients(inner)[slope], exact, rtol=1e-9, atol=1e-12)


def test_logsnr_stays_in_its_limits_and_falls(schedule):
    l = schedule.logsnr(T)
    assert bool((l.diff() < 0).all())
    assert float(l.abs().max()) <= LOGSNR_LIMIT + 1e-6
    assert all(math.isfinite(c) for t in (0.0, 1.0) for c in schedule.at(t))


def test_inverse_undoes_logsnr_for_floats_and_tensors(schedule):
    torch.testing.assert_close(schedule.inverse(schedule.logsnr(T)), T, rtol=0, atol=1e-9)
    for t in (0.01, 0.3, 0.97):
        assert schedule.inverse(schedule.logsnr(t)) == pytest.approx(t, abs=1e-9)


def test_float_and_tensor_times_agree(schedule):
    for t in (0.0, 0.2, 1.0):
        exact = schedule.coefficients(torch.tensor([t], dtype=torch.float64))
        assert schedule.at(t) == pytest.approx([float(c) for c in exact], rel=1e-12)


def test_float32_times_lose_no_more_than_rounding(schedule):
    exact, rough = (schedule.coefficients(t) for t in (T.float().double(), T.float()))
    for e, r in zip(exact[:3], rough[:3]):
        torch.testing.assert_close(r.double(), e, rtol=2e-4, atol=2e-6)


def test_variance_preserving_schedules_preserve_variance():
    for s in (VPLinear(), Cosine(), Cosine(0.25)):
        c = s.coefficients(T)
        torch.testing.assert_close(c.a**2 + c.g**2, torch.ones_like(T), rtol=1e-12, atol=0)


def test_closed_forms():
    c = VPLinear(0.1, 20.0).at(1.0)
    assert c.a == pytest.approx(math.exp(-0.5 * (0.1 + 0.5 * 19.9)), rel=1e-9)
    assert RectifiedFlow().at(0.5)[:3] == pytest.approx((0.5, 0, 0.5))
    assert EDM(80.0).at(1.0).g == pytest.approx(80.0)
    assert LogLinear().at(0.3).a == pytest.approx(0.7)
    assert Cosine().logsnr(0.5) == pytest.approx(0.0, abs=1e-9)
    middle = Cosine(0.5).log_ratio(torch.tensor(0.5, dtype=torch.float64))[0]  # of u: t runs over the safe part of it
    assert float(middle) == pytest.approx(2 * math.log(0.5), abs=1e-9)


def test_memo_holds_floats_and_is_skipped_while_trainable():
    s = Cosine()
    assert s.at(0.3) is s.at(0.3)
    s.extra = torch.nn.Parameter(torch.zeros(()))
    s._memo.clear()
    assert s.at(0.3) is not s.at(0.3)
    assert isinstance(s.at(0.3).a, torch.Tensor)


@pytest.mark.parametrize("n", [1, 2, 3, 18, 250, 1000])
def test_grids_descend_from_noise_to_zero(n):
    schedule = EDM()
    grids = [uniform_times(n), quadratic_times(n), karras_times(schedule, n), logsnr_times(schedule, n)]
    for grid in grids:
        assert len(grid) == n + 1
        assert grid[0] == pytest.approx(1.0)
        assert grid[-1] == 0.0
        assert all(a > b for a, b in zip(grid, grid[1:]))


def test_karras_grid_has_the_papers_sigmas():
    schedule, n = EDM(), 18
    sigma = [math.exp(-schedule.logsnr(t) / 2) for t in karras_times(schedule, n)[:-1]]
    exact = [(80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(n)]
    assert sigma == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("n", [0, -3, 2.5, True])
def test_bad_step_counts_are_refused(n):
    with pytest.raises(ValueError, match="steps="):
        uniform_times(n)
