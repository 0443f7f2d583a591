"""Scores of forecasts against double sums, closed forms and scoringrules; scores of windows against what they must be."""

import math

import numpy as np
import pytest
import torch

from polydiff.core.data import Rng
from polydiff.timeseries.context_frechet import ContextEncoder, _Block, context_frechet
from polydiff.timeseries.discriminative import discriminative_score, predictive_score
from polydiff.timeseries.forecast_metrics import (
    LEVELS,
    crps,
    crps_sum,
    energy_score,
    mean_crps,
    mean_quantile_loss,
    quantile_loss,
    sample_quantiles,
)
from polydiff.timeseries.interval_metrics import (
    central_interval,
    coverage,
    interval_coverage,
    interval_score,
    mase,
    msis,
    seasonal_scale,
)
from polydiff.timeseries.scores import (
    autocorrelation_distance,
    correlational_score,
    marginal_distance,
    repeated,
)
from polydiff.timeseries.small_gru import Reader, gru

g = np.random.default_rng(0)
SAMPLES, TRUTH = g.normal(size=(37, 4, 5)) + 1e4, g.normal(size=(4, 5)) + 1e4

# ------------------------------------------------------------------ CRPS and energy score


@pytest.mark.parametrize(("estimator", "pairs"), [("fair", 37 * 36), ("energy", 37 * 37)])
def test_crps_is_the_double_sum(estimator, pairs):
    apart = np.abs(SAMPLES[:, None] - SAMPLES[None]).sum((0, 1)) / (2 * pairs)
    expected = np.abs(SAMPLES - TRUTH).mean(0) - apart
    assert crps(SAMPLES, TRUTH, estimator=estimator) == pytest.approx(expected, abs=1e-12)


def test_the_fair_crps_of_few_draws_is_that_of_their_law():
    """Of N(0, 1) at y: ``y (2 Φ(y) − 1) + 2 φ(y) − 1/√π``; five draws estimate it without bias, the energy form with one."""
    y = 0.7
    phi, cdf = math.exp(-y * y / 2) / math.sqrt(2 * math.pi), (1 + math.erf(y / math.sqrt(2))) / 2
    exact = y * (2 * cdf - 1) + 2 * phi - 1 / math.sqrt(math.pi)
    draws = np.random.default_rng(1).normal(size=(5, 200_000))
    truth = np.full(200_000, y)
    assert crps(draws, truth).mean() == pytest.approx(exact, abs=0.003)
    bias = 1 / (5 * math.sqrt(math.pi))  # ½ E|X − X'| / S
    assert crps(draws, truth, estimator="energy").mean() == pytest.approx(exact + bias, abs=0.003)


def test_crps_and_energy_agree_with_scoringrules():
    sr = pytest.importorskip("scoringrules")
    for ours, theirs in (("fair", "fair"), ("energy", "nrg")):
        found = crps(SAMPLES, TRUTH, estimator=ours)
        expected = sr.crps_ensemble(TRUTH, np.moveaxis(SAMPLES, 0, -1), estimator=theirs, backend="numpy")
        assert found == pytest.approx(expected, abs=1e-8)  # theirs subtracts numbers of 1e4
    vectors = sr.es_ensemble(TRUTH, np.moveaxis(SAMPLES, 0, -2), estimator="fair", backend="numpy")
    assert energy_score(SAMPLES, TRUTH) == pytest.approx(vectors, abs=1e-8)
    low, high = central_interval(SAMPLES, 0.8)
    assert interval_score(low, high, TRUTH, 0.8) == pytest.approx(
        sr.interval_score(TRUTH, low, high, 0.2, backend="numpy")
    )
    z = sample_quantiles(SAMPLES, (0.3,))
    pinball = sr.quantile_score(TRUTH, z[0], 0.3, backend="numpy")
    assert quantile_loss(z, TRUTH, (0.3,))[0] == pytest.approx(2 * pinball.sum() / np.abs(TRUTH).sum())


def test_the_energy_score_is_its_double_sum_and_the_crps_in_one_dimension():
    apart = np.linalg.norm(SAMPLES[:, None] - SAMPLES[None], axis=-1).sum((0, 1)) / (2 * 37 * 36)
    expected = np.linalg.norm(SAMPLES - TRUTH, axis=-1).mean(0) - apart
    assert energy_score(SAMPLES, TRUTH) == pytest.approx(expected, abs=1e-9)
    assert energy_score(SAMPLES[..., :1], TRUTH[..., :1]) == pytest.approx(crps(SAMPLES, TRUTH)[:, 0], abs=1e-9)
    gaps = TRUTH.copy()
    gaps[0], gaps[1, 2:] = np.nan, np.nan
    found = energy_score(SAMPLES, gaps)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(energy_score(SAMPLES[:, 1:2, :2], TRUTH[1:2, :2])[0])


def test_what_is_missing_is_not_scored():
    gaps, bad = TRUTH.copy(), SAMPLES.copy()
    gaps[0, 0], bad[:, 0, 0] = np.nan, np.nan
    there = ~np.isnan(gaps)
    assert np.isnan(crps(bad, gaps)[0, 0]) and np.isfinite(crps(bad, gaps)[there]).all()
    assert mean_crps(bad, gaps).value == pytest.approx(crps(SAMPLES, TRUTH)[there].mean())
    one_by_one = mean_quantile_loss(SAMPLES[:, there], TRUTH[there]).value
    assert mean_quantile_loss(bad, gaps).value == pytest.approx(one_by_one)
    with pytest.raises(ValueError, match="NaN or infinity"):
        crps(bad, TRUTH)
    with pytest.raises(ValueError, match="nothing to score"):
        mean_crps(SAMPLES, np.full_like(TRUTH, np.nan))


# ------------------------------------------------------------------ quantile losses


def test_the_quantile_loss_is_that_of_gluonts():
    """Written out value by value, with its nearest draw for a quantile."""
    samples, truth = SAMPLES[:10] - 1e4, TRUTH - 1e4
    expected = []
    for q in LEVELS:
        total = 0.0
        for i in np.ndindex(*truth.shape):
            z = sorted(samples[(slice(None), *i)])[int(np.round(9 * q))]
            total += 2 * abs((z - truth[i]) * ((truth[i] <= z) - q))
        expected.append(total / np.abs(truth).sum())
    assert quantile_loss(sample_quantiles(samples), truth) == pytest.approx(expected)
    assert mean_quantile_loss(samples, truth).value == pytest.approx(np.mean(expected))
    assert mean_quantile_loss(sample_quantiles(samples), truth, of="quantiles").value == pytest.approx(
        np.mean(expected)
    )


def test_of_a_point_forecast_both_losses_are_the_absolute_error():
    point = TRUTH[None] + 3.0
    assert crps(point, TRUTH, estimator="energy") == pytest.approx(np.full(TRUTH.shape, 3.0))
    assert mean_quantile_loss(point, TRUTH).value == pytest.approx(3.0 * TRUTH.size / np.abs(TRUTH).sum())


def test_many_levels_make_the_crps():
    """``CRPS = 2 ∫ pinball_q dq``."""
    levels = (np.arange(2000) + 0.5) / 2000
    samples, truth = g.normal(size=(4000, 3)), g.normal(size=3)
    loss = mean_quantile_loss(samples, truth, tuple(levels)).value * np.abs(truth).sum()
    assert loss == pytest.approx(crps(samples, truth).sum(), rel=2e-3)


def test_crps_sum_sees_errors_that_go_together():
    truth = np.zeros((200, 4)) + 100
    shared = g.normal(size=(50, 200, 1)) + np.zeros(4) + 100
    alone = g.normal(size=(50, 200, 4)) + 100
    assert crps_sum(shared, truth).value > 1.5 * crps_sum(alone, truth).value
    assert crps_sum(alone, truth).value == pytest.approx(mean_quantile_loss(alone.sum(-1), truth.sum(-1)).value)


# ------------------------------------------------------------------ scaled errors, intervals


def test_mase_and_msis_by_hand():
    history = [np.array([1.0, 2, 4, 7, 11]), np.array([5.0, 5, 5, 6, 8])]
    assert seasonal_scale(history[0]) == 2.5
    assert seasonal_scale(history[0], 2) == pytest.approx((3 + 5 + 7) / 3)
    assert seasonal_scale(history[0], 5) == 2.5  # no longer than a season
    truth, point = np.array([[10.0, np.nan], [8.0, 9.0]]), np.array([[15.0, 0.0], [8.0, 12.0]])
    assert mase(point, truth, history).value == pytest.approx((5 / 2.5 + 1.5 / 0.75) / 2)
    low, high = point - 1, point + 1
    expected = ((2 + 40 * 4) / 2.5 + (2 + (2 + 40 * 2)) / 2 / 0.75) / 2
    assert msis(low, high, truth, history).value == pytest.approx(expected)
    constant = [np.ones(5), history[1]]
    assert mase(point, truth, constant).value == pytest.approx(1.5 / 0.75)
    with pytest.raises(ValueError, match="nothing can be scaled"):
        mase(point, truth, [np.ones(5), np.ones(5)])


@pytest.mark.parametrize("count", [19, 40, 101])
def test_intervals_of_exchangeable_draws_cover_exactly(count):
    draws = g.normal(size=(count + 1, 10_000)) ** 3
    found = coverage(draws[1:], draws[0], level=0.9)
    assert found.estimate == pytest.approx(0.9, abs=0.012)
    assert found.low < found.estimate < found.high


def test_the_interval_of_a_coverage_allows_for_dependence():
    """Rows of a series that are right or wrong together: the interval is as wide as one value a series."""
    rng = np.random.default_rng(2)
    hits = rng.uniform(size=60) < 0.9
    truth = np.where(hits, 0.0, 2.0)[:, None] + np.zeros((60, 50))
    one = np.ones_like(truth)
    found = interval_coverage(-one, one, truth)
    assert found.estimate == pytest.approx(hits.mean())
    width = 2 * 1.96 * math.sqrt(hits.mean() * (1 - hits.mean()) / 60)
    assert found.high - found.low == pytest.approx(width, rel=0.25)
    rows = interval_coverage(
        -one.reshape(-1), one.reshape(-1), truth.reshape(-1), clusters=np.repeat(np.arange(60), 50)
    )
    assert (rows.low, rows.high) == (found.low, found.high)
    alone = interval_coverage(-one.reshape(-1), one.reshape(-1), truth.reshape(-1))
    assert alone.high - alone.low < 0.3 * width


def test_too_few_draws_have_no_interval():
    with pytest.raises(ValueError, match="18 draws: intervals of 90% need at least 19"):
        central_interval(np.zeros((18, 3)), 0.9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crps(SAMPLES[:, :2], TRUTH), "forecasts of shape"),
        (lambda: crps(SAMPLES[:1], TRUTH), "at least 2 draws"),
        (lambda: quantile_loss(SAMPLES[:2], TRUTH, (0.5,)), "one level a quantile"),
        (lambda: quantile_loss(SAMPLES[:1], TRUTH, (1.0,)), "must lie in"),
        (lambda: quantile_loss(SAMPLES[:1], 0 * TRUTH, (0.5,)), "0 throughout"),
        (lambda: interval_score(TRUTH, TRUTH - 1, TRUTH), "ends below its beginning"),
        (lambda: interval_coverage(TRUTH, TRUTH, TRUTH[:2]), "need one shape"),
        (lambda: interval_coverage(TRUTH, TRUTH, TRUTH, clusters=[1]), "one number for each of 4 rows"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------ sets of windows


def waves(n, seed, noise=0.3, phase=2 * np.pi):
    rng = np.random.default_rng(seed)
    t = np.arange(16)[:, None]
    x = np.sin(0.5 * t + rng.uniform(0, phase, (n, 1, 3)))
    return x + noise * rng.normal(size=x.shape)


def test_correlational_score_is_that_of_the_published_code():
    """Σ_{i ≥ j} |Δρ| / 10 of numpy's correlations."""
    a, b = waves(40, 0), waves(50, 1)
    b[..., 1] += b[..., 0]
    apart = np.corrcoef(a.reshape(-1, 3).T) - np.corrcoef(b.reshape(-1, 3).T)
    assert correlational_score(a, b).value == pytest.approx(np.abs(np.tril(apart)).sum() / 10)
    assert correlational_score(a, b).value > 0.05
    assert correlational_score(a, 5 * a + 3).value == pytest.approx(0, abs=1e-12)


def test_autocorrelation_distance_of_white_noise_and_an_ar1():
    """ρ_k = φ^k against 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 6, 1))
    y = x.copy()
    for t in range(1, 6):
        y[:, t] = 0.6 * y[:, t - 1] + 0.8 * x[:, t]
    assert autocorrelation_distance(y, x, lags=3).value == pytest.approx(np.mean([0.6, 0.36, 0.216]), abs=0.01)
    assert autocorrelation_distance(y, y).value == 0
    with pytest.raises(ValueError, match="1 to 5 are there"):
        autocorrelation_distance(x, x, lags=6)


def test_marginal_distance_of_a_shift_is_the_shift():
    x = waves(100, 0)
    std = x.reshape(-1, 3).std(0, ddof=1)
    assert marginal_distance(x, x + 0.2 * std).value == pytest.approx(0.2)


def test_a_constant_channel_is_named():
    x = waves(10, 0)
    x[..., 2] = 4.0
    with pytest.raises(ValueError, match="channel 2 of the real windows is constant"):
        correlational_score(x, x)


def test_repeated_is_students_interval():
    values = [0.1, 0.25, 0.2, 0.3]
    found = repeated(lambda s: values[s], range(4))
    half = 3.182446 * np.std(values, ddof=1) / 2
    assert (found.estimate, found.low, found.high) == pytest.approx((0.2125, 0.2125 - half, 0.2125 + half))
    with pytest.raises(ValueError, match="at least 2"):
        repeated(lambda s: 0.0, [1])


def test_the_reader_tells_large_from_small_waves_and_nothing_from_nothing():
    one, other = waves(300, 0), waves(300, 1)
    state = torch.get_rng_state()
    same = discriminative_score(one, other, iterations=80, hidden=8)
    assert same.value < 0.12
    assert discriminative_score(one, 3 * one, iterations=300, hidden=8).value > 0.3
    assert discriminative_score(one, other, iterations=80, hidden=8) == same
    assert discriminative_score(one, other, iterations=80, hidden=8, seed=1) != same
    assert (torch.get_rng_state() == state).all()


def test_the_predictor_learns_from_windows_what_holds_in_real_ones():
    """The last channel is a copy of the first, a step later."""

    def copies(n, seed):
        x = waves(n, seed, noise=0)
        x[:, 1:, 2] = x[:, :-1, 0]
        return x

    real = copies(300, 0)
    good = predictive_score(real, copies(300, 1), iterations=400, hidden=8)
    bad = predictive_score(real, waves(300, 1, noise=0), iterations=400, hidden=8)
    assert good.value < 0.7 * bad.value
    assert predictive_score(real[..., :1], copies(50, 1)[..., :1], iterations=3).value > 0


def test_the_recurrent_unit_is_its_equations_and_has_their_gradient():
    torch.manual_seed(0)
    x, h = torch.randn(3, 5, 2, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    sizes = ((6, 8), (8,), (6, 4), (4,))
    p = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in sizes]
    for t in range(5):
        r, u = (torch.cat([x[:, t], h], 1) @ p[0] + p[1]).sigmoid().chunk(2, 1)
        c = (torch.cat([x[:, t], r * h], 1) @ p[2] + p[3]).tanh()
        h = u * h + (1 - u) * c
        assert torch.allclose(gru(x, *p)[:, t], h)
    assert torch.autograd.gradcheck(lambda *q: gru(x, *q), p)


def test_the_reader_starts_as_the_published_one():
    reader = Reader(40, 30, Rng(0))
    assert reader.gates.abs().max().item() == pytest.approx(math.sqrt(6 / (70 + 60)), rel=0.01)
    assert reader.candidate.abs().max().item() == pytest.approx(math.sqrt(6 / (70 + 30)), rel=0.01)
    assert reader.gate_bias.eq(1).all() and reader.bias.eq(0).all()


# ------------------------------------------------------------------ context-Fréchet distance


def test_a_block_that_reaches_past_the_window_skips_only_padding():
    torch.manual_seed(0)
    block, x = _Block(4, 6, 16).double(), torch.randn(2, 4, 10, dtype=torch.float64)
    gelu, conv = torch.nn.functional.gelu, torch.nn.functional.conv1d
    h = conv(gelu(x), block.first.weight, block.first.bias, padding=16, dilation=16)
    h = conv(gelu(h), block.second.weight, block.second.bias, padding=16, dilation=16)
    assert torch.allclose(block(x), h + block.skip(x))


def test_the_encoder_is_seeded_and_ranks_windows():
    train, real = waves(200, 0), waves(200, 1)
    state = torch.get_rng_state()
    encoder = ContextEncoder(train, iterations=12)
    assert encoder(real).shape == (200, 320)
    assert (torch.get_rng_state() == state).all()
    assert (ContextEncoder(train, iterations=12)(real) == encoder(real)).all()
    assert torch.allclose(ContextEncoder(10 * train + 3, iterations=12)(10 * real + 3), encoder(real), atol=1e-4)
    floor = context_frechet(real, waves(200, 2), train=train, iterations=12).value
    off = context_frechet(real, waves(200, 2, noise=0.6), train=train, iterations=12).value
    assert floor < 0.5 * off


def test_windows_that_cannot_be_scored():
    x = waves(10, 0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        discriminative_score(np.where(x > 1, np.nan, x), x)
    with pytest.raises(ValueError, match="at least 5 of each"):
        discriminative_score(x[:4], x)
    with pytest.raises(ValueError, match="windows \\(N, L, D\\)"):
        correlational_score(x[0, 0], x)
    with pytest.raises(ValueError, match="trained on 3"):
        ContextEncoder(x, iterations=1)(x[..., :2])
