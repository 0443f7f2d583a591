"""Innovations, masks, windows, lengths and stamps of time series: exact where a closed form exists."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from polydiff.core.data import Rng
from polydiff.timeseries import SeriesConfig, TimeSeriesGenerator, recipes
from polydiff.timeseries.choosing import best_linear
from polydiff.timeseries.data import SeriesCodec
from polydiff.timeseries.forms import collect
from polydiff.timeseries.innovations import Innovations, spectrum_of
from polydiff.timeseries.lengths import fitting, season_of
from polydiff.timeseries.masks import Tasks
from polydiff.timeseries.reading import continued, covering, extended, holes
from polydiff.timeseries.stamps import calendar, grid_of
from polydiff.timeseries.windows import Scaling, Windows, places, training_windows, window_spectrum

# ------------------------------------------------------------------ innovations


def moments(z, valid, ridge=0.0):
    found = spectrum_of(z, valid)
    return found.mean, found.cov(ridge)


def base_of(w):
    found = window_spectrum(w)
    return Innovations(found.mean, found.cov(1e-3))


def gaussian(n, seed=0):
    """A mean and a well-conditioned covariance of n entries."""
    g = np.random.default_rng(seed)
    a = g.normal(size=(n, n))
    return torch.as_tensor(g.normal(size=n)), torch.as_tensor(a @ a.T / n + 0.1 * np.eye(n))


def patterns(n, count=6, seed=0):
    """Entries as told, open or neither, ``(count, n)`` each: at random, all open, all told but one."""
    kind = np.random.default_rng(seed).integers(0, 3, (count, n))
    kind[0], kind[1] = 2, 1
    kind[:, 3] = 2
    return torch.as_tensor(kind == 1), torch.as_tensor(kind == 2)


def test_decode_undoes_encode_whatever_is_told():
    mean, cov = gaussian(12)
    told, asked = (p.view(6, 6, 2) for p in patterns(12))
    z = torch.as_tensor(np.random.default_rng(1).normal(size=(6, 6, 2)))
    law = Innovations(mean, cov)
    u = law.encode(z, told, asked)
    assert torch.equal(u[~asked], z[~asked])
    assert (law.decode(u, told, asked) - z).abs().max() < 1e-10
    assert (u - z)[asked].abs().min() > 1e-6


def test_repeats_share_their_masks():
    mean, cov = gaussian(8)
    told, asked = (p.view(4, 8, 1) for p in patterns(8, 4))
    u = torch.as_tensor(np.random.default_rng(1).normal(size=(4, 3, 8, 1)))
    law = Innovations(mean, cov)
    whole = law.decode(u.flatten(0, 1), told, asked, 3).view(4, 3, 8, 1)
    for k in range(3):
        assert torch.allclose(whole[:, k], law.decode(u[:, k], told, asked), atol=1e-12)


def test_surprises_of_the_law_itself_are_white():
    """The encoding is affine, so that its Jacobian J gives the covariance exactly: J Σ Jᵀ = 1 on the open entries."""
    n = 9
    mean, cov = gaussian(n)
    law = Innovations(mean, cov)
    for told, asked in zip(*patterns(n)):
        assert asked.any()
        one = [m.view(1, n, 1) for m in (told, asked)]

        def encode(z, one=one):
            return law.encode(z.view(1, n, 1), *one).flatten()

        jacobian = torch.stack([encode(mean + e) - encode(mean) for e in torch.eye(n, dtype=torch.float64)], 1)
        some = asked.nonzero()[:, 0]
        rest = (told | asked).nonzero()[:, 0]
        kept = jacobian[some][:, rest]
        white = kept @ cov[rest][:, rest] @ kept.T
        assert torch.allclose(white, torch.eye(len(some), dtype=torch.float64), atol=1e-9)
        assert encode(mean)[some].abs().max() < 1e-9
        # and nothing of them is left in what is told
        if told.any():
            mixed = kept @ cov[rest][:, told.nonzero()[:, 0]]
            assert mixed.abs().max() < 1e-9
        assert jacobian[some][:, (~told & ~asked).nonzero()[:, 0]].abs().sum() == 0


def test_a_surprise_depends_on_earlier_steps_alone():
    mean, cov = gaussian(7)
    law, asked = Innovations(mean, cov), torch.ones(1, 7, 1, dtype=torch.bool)
    z = mean.view(1, 7, 1).clone()
    before = law.encode(z, ~asked, asked)
    z[0, 4] += 1.0
    after = law.encode(z, ~asked, asked)
    assert torch.equal(before[0, :4], after[0, :4])
    assert (before - after)[0, 4].abs() > 0


def test_log_det_is_the_density_of_the_open_given_the_told():
    n = 8
    mean, cov = gaussian(n)
    told, asked = patterns(n)
    z = torch.as_tensor(np.random.default_rng(2).normal(size=(6, n)))
    law = Innovations(mean, cov)
    u = law.encode(z.view(6, n, 1), told.view(6, n, 1), asked.view(6, n, 1)).flatten(1)
    standard = torch.where(asked, -0.5 * u**2 - 0.5 * np.log(2 * np.pi), 0.0).sum(1)
    got = standard - law.log_det(told.view(6, n, 1), asked.view(6, n, 1))
    for i in range(6):
        both = told[i] | asked[i]

        def density(keep, i=i):
            if not keep.any():
                return 0.0
            k = keep.nonzero()[:, 0]
            return torch.distributions.MultivariateNormal(mean[k], cov[k][:, k]).log_prob(z[i, k])

        assert float(got[i]) == pytest.approx(float(density(both) - density(told[i])), abs=1e-9)


def test_a_wrong_covariance_is_refused():
    with pytest.raises(ValueError, match="mean of 3"):
        Innovations(torch.zeros(3), torch.eye(4))


def test_moments_are_those_of_the_entries_that_are_there():
    g = np.random.default_rng(0)
    mean, cov = gaussian(5)
    z = torch.as_tensor(g.multivariate_normal(mean, cov, 60_000)).view(-1, 5, 1)
    valid = torch.as_tensor(g.uniform(size=z.shape) < 0.7)
    got = moments(torch.where(valid, z, 1e6), valid)
    assert torch.allclose(got[0], mean, atol=0.04)
    assert torch.allclose(got[1], cov, atol=0.06)
    whole = moments(z, torch.ones_like(valid))
    assert torch.allclose(whole[1], torch.cov(z.flatten(1).T, correction=0), atol=1e-9)


def test_moments_of_few_windows_are_still_a_covariance():
    z = torch.as_tensor(np.random.default_rng(0).normal(size=(4, 9, 1)))
    _, cov = moments(z, torch.ones_like(z, dtype=torch.bool))
    assert torch.linalg.eigvalsh(cov).min() > 0


# ------------------------------------------------------------------ an untrained generator is linear regression

PHI = (0.6, 0.3)


def autoregression(n=6000, seed=0):
    """AR(2) with unit innovations, burnt in."""
    e, y = np.random.default_rng(seed).normal(size=n + 200), np.zeros(n + 200)
    for t in range(2, n + 200):
        y[t] = PHI[0] * y[t - 1] + PHI[1] * y[t - 2] + e[t]
    return y[200:]


def exact(past, horizon):
    """Mean ``(H,)`` and covariance of what follows."""
    last, mean = list(past[-2:]), []
    for _ in range(horizon):
        last.append(PHI[0] * last[-1] + PHI[1] * last[-2])
        mean.append(last[-1])
    psi = [1.0, PHI[0]]
    while len(psi) < horizon:
        psi.append(PHI[0] * psi[-1] + PHI[1] * psi[-2])
    lower = np.array([[psi[i - j] if i >= j else 0.0 for j in range(horizon)] for i in range(horizon)])
    return np.array(mean), lower @ lower.T


@pytest.fixture(scope="module")
def linear():
    """A generator of AR(2) whose network has learned nothing."""
    y = autoregression(30_000)
    config = dataclasses.replace(
        recipes.forecasting(12, 5), scaling="global", base="linear", lr=1e-30, width=8, depth=1
    )
    return TimeSeriesGenerator(config).fit([y], steps=1, progress=False)


def test_an_untrained_generator_draws_from_the_exact_conditional(linear):
    past, count = autoregression(60, seed=9), 20_000
    draws = linear.forecast([past], 5, num_samples=count, steps=32).samples[0, :, :, 0]
    mean, cov = exact(past, 5)
    deviation = np.sqrt(np.diag(cov))
    # five standard errors of the draws, and the error of coefficients estimated from 30,000 steps with a ridge
    room = 5 * deviation / np.sqrt(count) + 0.04
    assert (np.abs(draws.mean(0) - mean) < room).all()
    assert np.abs(np.cov(draws.T) / np.sqrt(np.outer(np.diag(cov), np.diag(cov))) - _correlation(cov)).max() < 0.05
    assert draws.std(0) == pytest.approx(deviation, rel=0.03)


def _correlation(cov):
    d = np.sqrt(np.diag(cov))
    return cov / np.outer(d, d)


@pytest.mark.slow
def test_its_likelihood_is_a_bound_that_is_nearly_exact(linear):
    """The bound is per block of five steps behind twelve, so over 12 + 100 steps it is 20 blocks."""
    ours, theirs = [], []
    for seed in range(20):
        y = autoregression(112, seed=100 + seed)
        theirs.append(
            -0.5 * sum((y[t] - PHI[0] * y[t - 1] - PHI[1] * y[t - 2]) ** 2 + np.log(2 * np.pi) for t in range(12, 112))
        )
        ours.append(linear.log_likelihood([y], seed=seed)[0])
    gap = np.array(theirs) - np.array(ours)
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    assert gap.mean() > -3 * error
    # a bound by 128 steps and a last noise of 0.05 loses about a hundredth of a nat a step
    assert gap.mean() < 0.03 * 100 + 3 * error


def test_likelihood_follows_the_units(linear):
    y = autoregression(112, seed=5)
    config = dataclasses.replace(linear.config)
    scaled = TimeSeriesGenerator(config).fit([10.0 * autoregression(30_000)], steps=1, progress=False)
    difference = linear.log_likelihood([y])[0] - scaled.log_likelihood([10.0 * y])[0]
    assert difference == pytest.approx(100 * np.log(10.0), abs=0.1)


# ------------------------------------------------------------------ masks


def told(tasks, n=4000, length=10, channels=2, seed=0):
    return tasks(torch.ones(n, length, channels, dtype=torch.bool), Rng(seed))


def test_tasks_come_by_their_shares():
    length, horizon = 10, 4
    mask = told(Tasks(2.0, 0.0, 0.0, 2.0, horizon), length=length)
    nothing = ~mask.flatten(1).any(1)
    assert nothing.double().mean() == pytest.approx(0.5, abs=0.04)  # four standard errors are 0.032
    rest = mask[~nothing]
    assert torch.equal(rest, rest[:, :1, :1] & (rest.all(2, keepdim=True).expand_as(rest)))
    ahead = length - rest[:, :, 0].sum(1)
    shares = [(ahead == k).double().mean() for k in range(1, 5)]
    assert [float(s) for s in shares] == pytest.approx([0.125, 0.125, 0.125, 0.625], abs=0.04)
    assert torch.equal(rest[:, :, 0].long(), (torch.arange(length) < (length - ahead)[:, None]).long())


def test_points_have_a_rate_of_their_window():
    mask = told(Tasks(0.0, 1.0, 0.0, 0.0, 4, patterns=4000), length=50)
    rate = mask.flatten(1).double().mean(1)
    assert float(rate.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(rate.std()) == pytest.approx(np.sqrt(1 / 12 + 1 / 600), abs=0.015)


def test_blocks_hide_one_run_of_steps():
    hidden = ~told(Tasks(0.0, 0.0, 1.0, 0.0, 4), length=12)
    assert hidden.flatten(1).any(1).all()
    run = hidden.any(2)
    starts = (run[:, 1:] & ~run[:, :-1]).sum(1) + run[:, 0]
    assert (starts == 1).all()
    whole = hidden.all(2).any(1).double().mean()
    assert 0.4 < float(whole) < 1.0
    assert float((hidden[:, :, 0] == hidden[:, :, 1]).all(1).double().mean()) < 0.95


def test_missing_entries_are_never_told():
    valid = torch.rand(500, 8, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    mask = Tasks(1.0, 1.0, 1.0, 1.0, 3)(valid, Rng(0))
    assert not (mask & ~valid).any()
    assert torch.equal(mask, Tasks(1.0, 1.0, 1.0, 1.0, 3)(valid, Rng(0)))


def test_a_horizon_beyond_the_window_leaves_a_step_of_context():
    assert told(Tasks(1.0, 0.0, 0.0, 0.0, 99), length=6)[:, 0].all()


@pytest.mark.parametrize("shares", [(-1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)])
def test_wrong_shares_are_refused(shares):
    with pytest.raises(ValueError, match="at least 0"):
        Tasks(*shares, horizon=3)


# ------------------------------------------------------------------ windows


def windows_of(series, length, scaling=None, **kind):
    found = collect(series, **kind)
    codec = SeriesCodec.fit(found, standardise=False)
    return Windows(codec.store(found), length, scaling or Scaling(False, length))


def test_windows_at_the_ends_hold_nothing_outside():
    w = windows_of([np.arange(1.0, 6.0), np.arange(10.0, 13.0)], 4)
    x, valid, _ = w.cut(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([-2, 3, 0, -4, 3]))
    assert x[..., 0].tolist() == [[0, 0, 1, 2], [4, 5, 0, 0], [10, 11, 12, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert valid[..., 0].tolist() == (x[..., 0] != 0).tolist()


def test_garbage_of_a_neighbour_never_shows():
    a = windows_of([np.arange(1.0, 6.0), np.full(5, 1e9)], 4).cut(torch.tensor([0]), torch.tensor([3]))
    b = windows_of([np.arange(1.0, 6.0), np.zeros(5)], 4).cut(torch.tensor([0]), torch.tensor([3]))
    assert torch.equal(a[0], b[0])


def test_missing_values_are_zero_and_invalid():
    w = windows_of([np.array([1.0, np.nan, 3.0, 4.0])], 4)
    x, valid, _ = w.cut(torch.tensor([0]), torch.tensor([0]))
    assert x[0, :, 0].tolist() == [1, 0, 3, 4]
    assert valid[0, :, 0].tolist() == [True, False, True, True]


def test_places_are_all_windows_with_enough_of_their_series():
    w = windows_of([np.arange(6.0), np.arange(2.0)], 4)
    assert places(w, 4).tolist() == [[0, 0], [0, 1], [0, 2], [1, -2]]
    assert places(w, 3).tolist() == [[0, -1], [0, 0], [0, 1], [0, 2], [1, -2]]


def test_scaling_reads_only_what_is_told():
    x = torch.tensor([[1.0, 3.0, 5.0, 1e6]], dtype=torch.float64)[..., None]
    there, known = torch.ones_like(x, dtype=torch.bool), torch.tensor([[True, True, True, False]])[..., None]
    loc, scale = Scaling(True, 3).of(x, there, known)
    assert float(loc) == 3.0
    assert float(scale) == pytest.approx(np.std([1, 3, 5]))
    loc, scale = Scaling(True, 3, last=True).of(x, there, known)
    assert float(loc) == 5.0
    assert float(scale) == pytest.approx(np.sqrt(4 * 4.0))
    loc, scale = Scaling(False, 3).of(x, there, known)
    assert (float(loc), float(scale)) == (0.0, 1.0)


def test_a_constant_context_has_a_scale():
    x = torch.full((1, 4, 1), 7.0, dtype=torch.float64)
    for last in (False, True):
        loc, scale = Scaling(True, 4, last).of(x, torch.ones_like(x, dtype=torch.bool), None)
        assert float(loc) == 7.0
        assert float(scale) == pytest.approx(7e-3)


def test_wanderers_are_told_from_series_with_a_level():
    g = np.random.default_rng(0)
    walk, noise = g.normal(size=(3, 400)).cumsum(1), g.normal(size=(3, 400))
    assert best_linear(windows_of(walk, 24, Scaling(True, 18)), ("context", "last"))[0] == "last"
    assert best_linear(windows_of(noise, 24, Scaling(True, 18)), ("context", "last"))[0] == "context"


def test_training_windows_hide_what_is_not_told_from_the_given():
    w = windows_of([autoregression(300)], 10)
    batches = training_windows(w, Tasks(1.0, 0.0, 0.0, 0.0, 3), shortest=4, batch_size=32, seed=0)
    batch = batches.batch(0)
    valid, known = batch.ctx.valid, batch.ctx.known
    assert not (known & ~valid).any()
    assert (batch.x0[~valid] == 0).all()
    assert known.any() and (valid & ~known).any()


def test_the_base_of_training_windows_is_white():
    w = windows_of([autoregression(4000)], 8)
    base = base_of(w)
    batches = training_windows(w, Tasks(1.0, 0.0, 0.0, 0.0, 3), shortest=8, batch_size=4000, seed=0, base=base)
    batch = batches.batch(0)
    scored = (batch.ctx.valid & ~batch.ctx.known)[..., 0]
    assert float(batch.x0[..., 0][scored].var()) == pytest.approx(1.0, abs=0.06)


# ------------------------------------------------------------------ reading


def test_a_series_is_continued_from_its_end():
    found = collect([np.arange(1.0, 6.0), np.arange(11.0, 13.0)])
    codec = SeriesCodec.fit(found, standardise=False)
    w = Windows(codec.store(extended(found, 4)), 5, Scaling(False, 3))
    asked = continued(w, torch.tensor([5, 2]), None, 3, 2)
    assert asked.x[..., 0].tolist() == [[3, 4, 5, 0, 0], [0, 11, 12, 0, 0]]
    assert asked.known[..., 0].tolist() == [[True] * 3 + [False] * 2, [False, True, True, False, False]]
    assert asked.open[..., 0].tolist() == [[False] * 3 + [True] * 2] * 2
    made = torch.arange(8.0, dtype=torch.float64).view(4, 2, 1) + 100
    later = continued(w, torch.tensor([7, 4]), made, 3, 2)
    assert later.x[..., 0].tolist() == [
        [5, 100, 101, 0, 0], [5, 102, 103, 0, 0], [12, 104, 105, 0, 0], [12, 106, 107, 0, 0]
    ]  # fmt: skip


def test_every_hole_is_taken_once_from_a_window_that_holds_it():
    y = np.arange(40.0)
    y[[0, 3, 17, 18, 39]] = np.nan
    short = np.array([1.0, np.nan, 3.0])
    found = collect([y, short])
    codec = SeriesCodec.fit(found, standardise=False)
    store = codec.store(found)
    asked, row, take = holes(Windows(store, 8, Scaling(True, 4)), store.values.isnan())
    taken = row[..., None].expand_as(take)[take]
    assert sorted(taken.tolist()) == [0, 3, 17, 18, 39, 41]
    assert (asked.open | ~take).all()
    assert not (asked.known & asked.open).any()
    assert holes(Windows(store, 8, Scaling(True, 4)), torch.zeros_like(store.values, dtype=torch.bool)) is None


def test_two_phases_cover_every_step():
    found = collect([np.arange(7.0), np.arange(4.0)])
    store = SeriesCodec.fit(found).store(found)
    a, b = (covering(store, 3, p) for p in (0, 1))
    assert torch.equal(a, ~b)
    assert a.tolist() == [True] * 3 + [False] * 3 + [True] + [True] * 3 + [False]


# ------------------------------------------------------------------ lengths and stamps


@pytest.mark.parametrize(
    ("freq", "season"),
    [
        ("h", 24),
        ("15min", 96),
        ("D", 7),
        ("B", 5),
        ("W-WED", 52),
        ("MS", 12),
        ("ME", 12),
        ("QS", 4),
        ("QE", 4),
        ("YS", 1),
    ],
)
def test_frequencies_and_their_seasons(freq, season):
    stamps = pd.date_range("2020-01-15", periods=60, freq=freq)
    grid = grid_of([stamps])
    assert grid.regular
    assert season_of(grid) == season
    again = pd.date_range(stamps[-1], periods=4, freq=freq)[1:]
    assert (grid.after(stamps[-1], 3) == again).all()
    holey = stamps[[i for i in range(60) if i % 7 != 3]]
    assert (grid_of([holey]).between(stamps[0], stamps[-1]) == stamps).all()


def test_year_ends_and_numbers():
    years = pd.date_range("1990", periods=20, freq="YE")
    assert (grid_of([years]).after(years[-1], 2) == pd.date_range(years[-1], periods=3, freq="YE")[1:]).all()
    grid = grid_of([pd.Index([0, 5, 10, 25])])
    assert (grid.kind, grid.step) == ("number", 5.0)
    assert grid.after(25, 2).tolist() == [30, 35]


def test_stamps_on_no_grid_are_irregular():
    g = np.random.default_rng(0)
    assert not grid_of([pd.Index(np.sort(g.uniform(0, 50, 40)))]).regular
    dates = pd.DatetimeIndex(pd.Timestamp("2024") + pd.to_timedelta(np.sort(g.uniform(0, 1e6, 40)), unit="s"))
    assert not grid_of([dates]).regular


def test_a_wrong_frequency_is_refused():
    with pytest.raises(ValueError, match="do not lie on that grid"):
        grid_of([pd.date_range("2024-01-01 00:30", periods=9, freq="h")], "D")


def test_the_calendar_tells_what_the_step_can():
    hours, months = pd.date_range("2024", periods=30, freq="h"), pd.date_range("2024", periods=30, freq="MS")
    assert calendar(hours, 1 / 24).shape == (30, 6)
    assert calendar(months, 30.4).shape == (30, 2)
    assert calendar(pd.RangeIndex(5), 1.0).shape == (5, 0)
    assert calendar(hours, 1 / 24)[24] == pytest.approx(calendar(hours, 1 / 24)[0], abs=0.8)
    assert np.allclose(calendar(hours, 1 / 24)[24, [0, 3]], calendar(hours, 1 / 24)[0, [0, 3]])


def test_lengths_follow_season_and_series():
    found = collect({k: pd.Series(np.arange(200.0), pd.date_range("2024", periods=200, freq="h")) for k in "ab"})
    config = fitting(SeriesConfig(), found)
    assert (config.horizon, config.context) == (24, 72)
    short = fitting(SeriesConfig(), collect(np.zeros((3, 20))))
    assert short.horizon == 5
    assert short.context <= 15
    assert fitting(SeriesConfig(context=7, horizon=3), found).horizon == 3
    with pytest.raises(ValueError, match="longest series has 20 steps"):
        fitting(SeriesConfig(horizon=20), collect(np.zeros((3, 20))))
