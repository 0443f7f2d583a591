"""Imputation: draws follow the exact Gaussian conditional of every pattern of holes; what covariates say is not copied."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from polydiff.core.distributions.kernels import Matern
from polydiff.timeseries import TimeSeriesGenerator, recipes
from polydiff.timeseries.forecast_metrics import crps
from polydiff.timeseries.imputers import CovariateRegression
from polydiff.timeseries.innovations import Innovations

F64 = torch.float64


def covariance(n, length=6.0, noise=0.05):
    at = torch.arange(n, dtype=F64)[:, None]
    return Matern(1.5, length)(at, at) + noise * torch.eye(n, dtype=F64)


def conditional(mean, cov, values, told, asked):
    """By the textbook: mean and covariance of the asked entries given the told ones."""
    gain = np.linalg.solve(cov[np.ix_(told, told)], cov[np.ix_(told, asked)]).T
    return mean[asked] + gain @ (values[told] - mean[told]), cov[np.ix_(asked, asked)] - gain @ cov[np.ix_(told, asked)]


# ------------------------------------------------------------------ surprises of any pattern


@pytest.mark.parametrize("shared", [False, True])
def test_surprises_of_any_pattern_are_those_of_the_exact_conditional(shared):
    g = torch.Generator().manual_seed(3)
    n, d, rows, repeats = 5, 2, 12, 3
    root = torch.randn(n * d, n * d, generator=g, dtype=F64)
    mean, cov = torch.randn(n * d, generator=g, dtype=F64), root @ root.T + 0.1 * torch.eye(n * d, dtype=F64)
    z, state = torch.randn(rows, n, d, generator=g, dtype=F64), torch.randint(0, 3, (rows, n, d), generator=g)
    state[0], state[1], state[2] = 0, 1, 2  # all told, all asked for, all padding
    if shared:
        state[3:] = state[3].clone()
    known, open_ = state == 0, state == 1
    base = Innovations(mean, cov)
    surprises, volumes = base.encode(z, known, open_), base.log_det(known, open_)
    again = base.decode(surprises.repeat_interleave(repeats, 0), known, open_, repeats)
    torch.testing.assert_close(again, z.repeat_interleave(repeats, 0))
    for i in range(rows):
        values = z[i].flatten().numpy()
        told, asked = (m[i].flatten().numpy().nonzero()[0] for m in (known, open_))
        middle, spread = conditional(mean.numpy(), cov.numpy(), values, told, asked)
        lower = np.linalg.cholesky(spread)
        np.testing.assert_allclose(
            surprises[i].flatten().numpy()[asked], np.linalg.solve(lower, values[asked] - middle)
        )
        np.testing.assert_allclose(volumes[i], np.log(np.diag(lower)).sum())
        rest = ~open_[i]
        assert torch.equal(surprises[i][rest], z[i][rest])


# ------------------------------------------------------------------ draws of an untrained generator


@pytest.fixture(scope="module")
def fitted():
    """A generator that took one step on many short functions: its law is that of its linear model."""
    n = 24
    factor = torch.linalg.cholesky(covariance(n)).numpy()
    rows = np.random.default_rng(0).standard_normal((6000, n)) @ factor.T
    config = dataclasses.replace(recipes.imputing(n), base="linear", steps=1, width=8, depth=1, lr=1e-9)
    return TimeSeriesGenerator(config, device="cpu").fit(rows, progress=False), rows


@pytest.mark.parametrize("kind", ["points", "block"])
def test_draws_are_those_of_the_exact_conditional(fitted, kind):
    model, rows = fitted
    rng = np.random.default_rng(1)
    gone = rng.random(24) < 0.5 if kind == "points" else (np.arange(24) > 8) & (np.arange(24) < 16)
    row = rows[0].copy()
    row[gone] = np.nan
    copies = np.stack(model.impute(row[None], draws=2000, progress=False))[:, 0]
    np.testing.assert_allclose(copies[:, ~gone], np.broadcast_to(row[~gone], copies[:, ~gone].shape), rtol=1e-12)
    told, asked = np.flatnonzero(~gone), np.flatnonzero(gone)
    middle, spread = conditional(np.zeros(24), covariance(24).numpy(), row, told, asked)
    std = np.sqrt(np.diag(spread))
    assert np.abs((copies[:, asked].mean(0) - middle) / std).max() < 0.15
    assert np.abs(copies[:, asked].std(0) / std - 1).max() < 0.1
    found = np.corrcoef(copies[:, asked].T)
    assert np.abs(found - spread / np.outer(std, std)).max() < 0.15


def test_values_that_are_there_come_back_as_they_were(fitted):
    model, rows = fitted
    holed = rows[:20].copy()
    holed[:, 9:16] = np.nan
    there = ~np.isnan(holed)
    assert (model.impute(holed, progress=False)[there] == holed[there]).all()


def test_a_pooled_imputation_is_the_median_of_the_draws(fitted):
    model, rows = fitted
    holed = rows[:2].copy()
    holed[:, 5:9] = np.nan
    copies = model.impute(holed, draws=5, progress=False)
    np.testing.assert_array_equal(model.impute(holed, draws=5, pool=True, progress=False), np.median(copies, 0))


def test_half_of_the_stamps_missing_leave_the_moments(fitted):
    """Covariances come from pairs: forecasts after stamps were dropped are nearly those of the exact conditional."""
    model, rows = fitted
    rng = np.random.default_rng(4)
    holed = np.where(np.random.default_rng(2).random(rows.shape) < 0.5, np.nan, rows)
    again = TimeSeriesGenerator(model.config, device="cpu").fit(holed, progress=False)
    cov = again.codec.base.cov * again.codec.moments["std"] ** 2
    assert float((cov - covariance(24)).abs().max()) < 0.12
    seen = np.where(rng.random((150, 12)) < 0.5, np.nan, rows[:150, :12])
    seen[:, 3] = rows[:150, 3]
    made = again.forecast(seen, 12, 60, steps=16, progress=False).samples[..., 0]
    best = []
    for row in seen:
        told = np.flatnonzero(~np.isnan(row))
        middle, spread = conditional(
            np.zeros(24), covariance(24).numpy(), np.append(row, np.zeros(12)), told, np.arange(12, 24)
        )
        best.append(middle + rng.standard_normal((60, 12)) @ np.linalg.cholesky(spread).T)
    scores = [crps(x.swapaxes(0, 1), rows[:150, 12:]).mean() for x in (made, np.stack(best))]
    blind = crps(rows[1000:1060, None, 12:].repeat(150, 1), rows[:150, 12:]).mean()
    assert scores[0] < 1.05 * scores[1] < 0.9 * blind


# ------------------------------------------------------------------ what covariates say


def weather(n, seed=0):
    rng = np.random.default_rng(seed)
    x = pd.DataFrame(rng.normal(size=(n, 2)), pd.date_range("2020-01-01", periods=n, freq="h"), ["a", "b"])
    return x, rng


def test_the_regression_finds_effects_of_earlier_and_later_steps():
    x, rng = weather(2000)
    y = 3 + 2 * x["a"].shift(6, fill_value=0) - x["b"].shift(-3, fill_value=0)
    y = y.to_numpy() + 0.1 * rng.normal(size=2000)
    truth = y.copy()
    y[1500:] = np.nan
    made = CovariateRegression((-3, 0, 6), ridge=1e-3).predict(x, y)
    assert np.abs(made - truth)[20:-20].mean() < 0.1
    blind = CovariateRegression((0,), ridge=1e-3).predict(x, y)
    assert np.abs(blind - truth)[20:-20].mean() > 1


def test_the_prediction_of_a_step_does_not_know_its_value():
    x, _ = weather(400)
    y = x["a"].to_numpy().copy()
    method = CovariateRegression((0,), ridge=1.0, folds=4)
    other = y.copy()
    other[10] += 1000
    before, after = method.predict(x, y), method.predict(x, other)
    assert (before[:100] == after[:100]).all()  # its whole fold
    assert (before[100:] != after[100:]).all()


def test_missing_covariates_say_the_mean_and_what_is_refused():
    x, rng = weather(300)
    y = rng.normal(size=300)
    x.iloc[5, 0] = np.nan
    assert np.isfinite(CovariateRegression((0, 1)).predict(x, y)).all()
    with pytest.raises(ValueError, match="values of shape"):
        CovariateRegression().predict(x, y[:-1])
    with pytest.raises(ValueError, match="0 values"):
        CovariateRegression().predict(x, np.full(300, np.nan))
    with pytest.raises(ValueError, match="DatetimeIndex"):
        CovariateRegression().predict(x.reset_index(drop=True), y)
    with pytest.raises(ValueError, match="ridge=0"):
        CovariateRegression(ridge=0)
    with pytest.raises(ValueError, match="at least 1 lag"):
        CovariateRegression(())
