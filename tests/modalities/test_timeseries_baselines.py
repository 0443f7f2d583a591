"""Forecasting and imputing baselines: exact where there is a closed form, sensible where a person would expect so."""

import numpy as np
import pandas as pd
import pytest

from polydiff.timeseries.baselines import ETS, SeasonalNaive
from polydiff.timeseries.forecast_metrics import LEVELS, mean_crps
from polydiff.timeseries.imputers import KalmanSmoother, LinearInterpolation, NeighboursInTime, calendar
from polydiff.timeseries.linear_quantile import LinearQuantile

DAY = np.sin(2 * np.pi * np.arange(24 * 20) / 24)


def noisy(seed, n=480, noise=0.1):
    return 10 + np.resize(DAY, n) + noise * np.random.default_rng(seed).normal(size=n)


# ------------------------------------------------------------------ seasonal naive


def test_a_periodic_series_is_repeated():
    y = np.tile([1.0, 5.0, 2.0], 7)
    paths = SeasonalNaive(3).forecast([y, y[:-1]], 7, num_samples=5)
    assert paths.shape == (5, 2, 7)
    assert (paths[:, 0] == np.tile([1.0, 5.0, 2.0], 3)[:7]).all()
    assert (paths[:, 1] == np.tile([2.0, 1.0, 5.0], 3)[:7]).all()


@pytest.mark.parametrize("errors", ["bootstrap", "gaussian"])
def test_the_naive_forecast_of_a_random_walk_is_its_law(errors):
    """Mean y_T, variance h."""
    y = np.random.default_rng(0).normal(size=3000).cumsum()
    paths = SeasonalNaive(1, errors).forecast([y], 20, num_samples=20_000)[:, 0]
    assert paths.mean(0) == pytest.approx(np.full(20, y[-1]), abs=0.15)
    scale = np.diff(y).var()
    assert paths.var(0) == pytest.approx(scale * np.arange(1, 21), rel=0.05)


def test_errors_of_a_season_stay_together():
    """Whole days are up or down: the bootstrap keeps that, independent errors do not."""
    days = np.random.default_rng(0).normal(size=200).cumsum()
    y = np.repeat(days, 24)
    kept, lost = (SeasonalNaive(24, e).forecast([y], 24, num_samples=4000)[:, 0] for e in ("bootstrap", "gaussian"))
    assert np.corrcoef(kept[:, 0], kept[:, 1])[0, 1] > 0.9
    assert abs(np.corrcoef(lost[:, 0], lost[:, 1])[0, 1]) < 0.1


def test_draws_belong_to_seed_and_series():
    a, b = noisy(0), noisy(1)
    both = SeasonalNaive(24).forecast([a, b], 5, seed=3)
    assert (both[:, 0] == SeasonalNaive(24).forecast([a], 5, seed=3)[:, 0]).all()
    assert (both != SeasonalNaive(24).forecast([a, b], 5, seed=4)).any()


def test_holes_and_short_histories_are_handled():
    y = noisy(0, 60)
    y[[0, 7, 30, 59]] = np.nan
    for make in (SeasonalNaive(24), SeasonalNaive(100), ETS(24)):
        assert np.isfinite(make.forecast([y, np.array([1.0, 3.0])], 30, num_samples=4)).all()
    with pytest.raises(ValueError, match="series 1 of shape"):
        SeasonalNaive(2).forecast([y, np.array([1.0, np.nan])], 3)
    with pytest.raises(ValueError, match="horizon=0"):
        SeasonalNaive(2).forecast([y], 0)


# ------------------------------------------------------------------ exponential smoothing


def test_ets_finds_the_season():
    y, future = noisy(0, 240), noisy(5, 264)[240:]
    paths = ETS(24).forecast([y], 24)
    assert paths.shape == (100, 1, 24)
    assert np.abs(paths.mean(0)[0] - future).mean() < 0.2
    assert paths.std(0).mean() < 0.3
    assert (
        mean_crps(paths[:, 0], future).value < 0.5 * mean_crps(SeasonalNaive(1).forecast([y], 24)[:, 0], future).value
    )
    assert (paths == ETS(24).forecast([y], 24)).all()


def test_ets_of_a_constant_is_the_constant_and_logs_stay_positive():
    assert (ETS(4).forecast([np.full(30, 7.0)], 5) == 7).all()
    y = np.exp(np.random.default_rng(0).normal(size=100))
    assert (ETS(1, log=True).forecast([y], 10) > 0).all()
    assert (ETS(1).forecast([y], 10) <= 0).any()


def test_where_every_fit_fails_the_naive_forecast_stands_in(monkeypatch):
    import statsmodels.tsa.exponential_smoothing.ets as module

    def broken(*args, **kwargs):
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr(module, "ETSModel", broken)
    y = noisy(0)
    assert (ETS(24).forecast([y], 6) == SeasonalNaive(24).forecast([y], 6)).all()


# ------------------------------------------------------------------ linear quantile regression


def test_the_regression_finds_the_quantiles_of_an_ar1():
    """y_{t+1} ~ N(0.5 y_t, 1): exact quantiles, up to the estimate of the window's scale."""
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    y = np.zeros((20, 600))
    for t in range(1, 600):
        y[:, t] = 0.5 * y[:, t - 1] + rng.normal(size=20)
    y += 50  # the window's centre takes it out
    model = LinearQuantile(30, 2, steps=150).fit(list(y[:, :550]))
    found = model.quantiles(list(y[:, :550]))
    assert found.shape == (9, 20, 2) and (np.diff(found, axis=0) >= 0).all()
    exact = 50 + 0.5 * (y[:, 549] - 50) + norm.ppf(LEVELS)[:, None]
    assert np.abs(found[:, :, 0] - exact).mean() < 0.25
    middle = np.abs(found[4, :, 0] - exact[4]).mean()
    assert middle < 0.5 * np.abs(y[:, 549] - exact[4]).mean()
    draws = model.forecast(list(y[:, :550]), num_samples=4000)
    assert np.quantile(draws, LEVELS, axis=0) == pytest.approx(found, abs=0.2)
    spread = found[:, :, 0].std(0)
    scaled = LinearQuantile(30, 2, steps=150).fit(list(1000 * y[:, :550])).quantiles(list(1000 * y[:, :550]))
    assert scaled == pytest.approx(1000 * found, rel=1e-3)
    assert spread.min() > 0.5


def test_the_regression_lowers_the_pinball_loss_of_its_start():
    rng = np.random.default_rng(1)
    y = [np.abs(rng.normal(size=400)).cumsum() % 9 + rng.exponential(size=400) ** 2 for _ in range(4)]

    def loss(steps):
        model = LinearQuantile(12, 3, steps=steps).fit(y)
        rows = np.concatenate([np.lib.stride_tricks.sliding_window_view(s, 15) for s in y])
        error = rows[:, 12:] - model.quantiles(list(rows[:, :12]))
        tau = np.array(LEVELS)[:, None, None]
        return np.maximum(tau * error, (tau - 1) * error).mean()

    assert loss(800) < 0.99 * loss(0)


def test_the_regression_copes_with_constant_and_short_series():
    model = LinearQuantile(8, 4, steps=5).fit([np.ones(40), noisy(0, 100), np.arange(5.0)])
    assert np.isfinite(model.quantiles([np.ones(40), np.array([3.0, 4.0])])).all()
    only = LinearQuantile(8, 4, steps=5).fit([np.ones(40)])
    assert only.quantiles([np.full(40, 7.0)]) == pytest.approx(np.full((9, 1, 4), 7.0))
    with pytest.raises(ValueError, match="no series is as long as 8 lags and 4 steps"):
        LinearQuantile(8, 4).fit([np.ones(11)])
    with pytest.raises(RuntimeError, match="call fit first"):
        LinearQuantile(8, 4).quantiles([np.ones(11)])
    with pytest.raises(ValueError, match="ascending"):
        LinearQuantile(8, 4, (0.5, 0.1))


# ------------------------------------------------------------------ imputers


def frame(n=600, holes=0.2, seed=0, columns=2):
    rng = np.random.default_rng(seed)
    index = pd.date_range("2020-01-01", periods=n, freq="h")
    day = np.sin(2 * np.pi * np.arange(n) / 24)
    full = pd.DataFrame({f"c{j}": (j + 1) * day + 0.1 * rng.normal(size=n) for j in range(columns)}, index)
    return full, full.mask(rng.uniform(size=full.shape) < holes)


IMPUTERS = (LinearInterpolation(), NeighboursInTime(window=300), KalmanSmoother(fit_length=200))


@pytest.mark.parametrize("imputer", IMPUTERS, ids=lambda i: type(i).__name__)
def test_only_holes_are_filled(imputer):
    full, gaps = frame()
    before = gaps.copy()
    done = imputer.impute(gaps)
    pd.testing.assert_frame_equal(gaps, before)
    assert done.notna().all().all() and done.index.equals(gaps.index) and list(done) == list(gaps)
    there = gaps.notna().to_numpy()
    assert (done.to_numpy()[there] == gaps.to_numpy()[there]).all()
    assert np.abs((done - full).to_numpy()[~there]).mean() < 0.25
    pd.testing.assert_frame_equal(done, imputer.impute(gaps))


@pytest.mark.parametrize("imputer", IMPUTERS[1:], ids=lambda i: type(i).__name__)
def test_a_missing_day_is_not_a_straight_line(imputer):
    full, gaps = frame(columns=1, holes=0.0)
    gaps = gaps.copy()
    gaps.iloc[250:280] = np.nan
    line, done = (np.abs((i.impute(gaps) - full).iloc[250:280]).mean().item() for i in (IMPUTERS[0], imputer))
    assert done < 0.5 * line


def test_the_band_of_the_smoother_holds_the_truth():
    full, gaps = frame(columns=1, holes=0.5)
    mean, std = KalmanSmoother(fit_length=600).smooth(gaps)
    missing = gaps.isna().to_numpy()
    assert (std.to_numpy()[~missing] == 0).all()
    z = ((full - mean).to_numpy() / np.where(missing, std, 1))[missing]
    assert 0.85 < (np.abs(z) < 1.645).mean() < 0.95


def test_the_smoother_of_a_walk_is_the_brownian_bridge():
    """Between two sides of a gap: the straight line, and variance rising to the middle as i (g − i) / g."""
    y = np.random.default_rng(0).normal(size=1000).cumsum()
    gaps = pd.DataFrame({"y": y}, pd.date_range("2020-01-01", periods=1000, freq="h"))
    gaps.iloc[500:519] = np.nan
    mean, std = KalmanSmoother(0, autoregression=False, fit_length=1000).smooth(gaps)
    line = LinearInterpolation().impute(gaps)
    assert mean["y"].to_numpy() == pytest.approx(line["y"].to_numpy(), abs=0.2)
    i = np.arange(1, 20)
    bridge = np.diff(y).std() * np.sqrt(i * (20 - i) / 20)
    assert std["y"].to_numpy()[500:519] == pytest.approx(bridge, rel=0.1)


@pytest.mark.parametrize("imputer", IMPUTERS, ids=lambda i: type(i).__name__)
def test_what_imputers_refuse(imputer):
    _, gaps = frame(60)
    for wrong, message in (
        (gaps.reset_index(drop=True), "sorted DatetimeIndex"),
        (gaps.assign(c0="a"), "'c0' is not numeric"),
        (gaps.assign(c1=np.nan), "'c1' holds no value"),
    ):
        with pytest.raises(ValueError, match=message):
            imputer.impute(wrong)
    constant = gaps.assign(c0=np.where(gaps["c0"].isna(), np.nan, 4.0))
    assert (imputer.impute(constant)["c0"] == 4).all()


def test_the_calendar_turns_once_a_period():
    stamps = pd.to_datetime(["2024-01-01 00:00", "2024-01-01 06:00", "2024-01-08 00:00"])
    found = calendar(stamps)
    assert found[0, :2] == pytest.approx([0, 0]) and found[0, 3:5] == pytest.approx([1, 1])
    assert found[1, 0] == pytest.approx(1) and found[2, 1] == pytest.approx(0)
