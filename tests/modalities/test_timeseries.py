"""TimeSeriesGenerator: verbs, promises, refinement and reports, on small made series."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from polydiff.timeseries import TimeSeriesGenerator, recipes
from polydiff.timeseries.foreign import draws_of
from polydiff.timeseries.metrics import evaluate
from polydiff.timeseries.refining import Descent, Renoising, refine

CONFIG = dataclasses.replace(recipes.mixed(12, 4), width=32, depth=2, sample_steps=6, batch_size=32)
HOURS = pd.date_range("2024-03-01", periods=120, freq="h")


def waves(n=4, steps=120, seed=0):
    g = np.random.default_rng(seed)
    t = np.arange(steps)
    return np.stack([np.sin(2 * np.pi * (t + 5 * k) / 24) + 10 * k + 0.1 * g.normal(size=steps) for k in range(n)])


def frame(values=None, steps=120):
    values = waves(steps=steps) if values is None else values
    parts = [
        pd.DataFrame({"unique_id": f"s{i}", "ds": HOURS[: len(v)], "y": v}) for i, v in enumerate(values)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def fitted():
    return TimeSeriesGenerator(CONFIG).fit(frame(), steps=60, progress=False)


# ------------------------------------------------------------------ seeds


def test_a_draw_depends_on_seed_series_and_number_alone(fitted):
    whole = fitted.forecast(frame(), 4, 6, seed=3, progress=False).samples
    again = fitted.forecast(frame(), 4, 6, seed=3, batch_size=5, progress=False).samples
    assert np.allclose(whole, again, atol=1e-5)
    first = fitted.forecast(frame(waves()[:2]), 4, 6, seed=3, progress=False).samples
    assert np.allclose(whole[:2], first, atol=1e-5)
    other = fitted.forecast(frame(), 4, 6, seed=4, progress=False).samples
    assert np.abs(whole - other).min() > 0


def test_samples_and_holes_depend_on_their_seed_alone(fitted):
    whole = fitted.sample(6, seed=1, progress=False)
    assert np.allclose(whole, fitted.sample(6, seed=1, batch_size=4, progress=False), atol=1e-5)
    assert not np.allclose(whole, fitted.sample(6, seed=2, progress=False))
    holed = frame()
    holed.loc[::5, "y"] = np.nan
    a, b, c = (
        fitted.impute(holed, seed=s, batch_size=n, progress=False)["y"] for s, n in ((1, 4096), (1, 3), (2, 4096))
    )
    assert np.allclose(a, b, atol=1e-5)
    assert not np.allclose(a, c)


def test_no_global_generator_is_touched(fitted):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    TimeSeriesGenerator(CONFIG).fit(frame(), steps=2, progress=False)
    fitted.forecast(frame(), 4, 2, progress=False)
    fitted.sample(2, progress=False)
    fitted.anomaly_score(frame(), draws=3)
    fitted.log_likelihood(frame(), steps=2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_what_is_handed_in_stays_as_it_was(fitted):
    data = frame()
    data.loc[::7, "y"] = np.nan
    kept = data.copy()
    TimeSeriesGenerator(CONFIG).fit(data, steps=1, progress=False)
    fitted.impute(data, progress=False)
    fitted.forecast(data, 3, 2, progress=False)
    fitted.anomaly_score(data, draws=3)
    pd.testing.assert_frame_equal(data, kept)


# ------------------------------------------------------------------ saving and going on


def test_saved_and_loaded_models_agree_to_the_bit(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    back = TimeSeriesGenerator.load(tmp_path / "model")
    ask = {"seed": 5, "progress": False}
    assert np.array_equal(fitted.forecast(frame(), 9, 4, **ask).samples, back.forecast(frame(), 9, 4, **ask).samples)
    assert np.array_equal(fitted.sample(3, **ask), back.sample(3, **ask))
    holed = frame()
    holed.loc[::5, "y"] = np.nan
    pd.testing.assert_frame_equal(fitted.impute(holed, **ask), back.impute(holed, **ask))
    assert np.array_equal(fitted.log_likelihood(frame(), steps=4), back.log_likelihood(frame(), steps=4))


def test_two_fits_of_a_seed_agree_and_interrupted_ones_go_on(tmp_path):
    def interrupt(trainer, step, logs):
        if step >= 10:
            trainer.stop()

    config = dataclasses.replace(CONFIG, steps=20)
    whole = TimeSeriesGenerator(config, seed=1).fit(frame(), progress=False)
    again = TimeSeriesGenerator(config, seed=1).fit(frame(), progress=False)
    other = TimeSeriesGenerator(config, seed=2).fit(frame(), progress=False)
    a, b, c = (g.forecast(frame(), 4, 2, progress=False).samples for g in (whole, again, other))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    halted = TimeSeriesGenerator(config, seed=1)
    halted.fit(frame(), progress=False, run_dir=tmp_path, callbacks=[interrupt])
    assert halted.history.records[-1]["step"] < 20
    resumed = TimeSeriesGenerator(config, seed=1).fit(frame(), progress=False, run_dir=tmp_path)
    assert np.allclose(a, resumed.forecast(frame(), 4, 2, progress=False).samples, atol=1e-5)


# ------------------------------------------------------------------ known and absent entries


def test_known_entries_are_untouched(fitted):
    data = frame()
    data.loc[[3, 50, 51, 52, 200], "y"] = np.nan
    made = fitted.impute(data, progress=False)
    there = data["y"].notna()
    assert np.allclose(made.loc[there, "y"], data.loc[there, "y"], rtol=1e-12)
    assert made["y"].notna().all()
    many = fitted.impute(data, draws=3, progress=False)
    assert np.ptp([m.loc[51, "y"] for m in many]) > 0
    pooled = fitted.impute(data, draws=3, pool=True, progress=False)
    assert pooled.loc[51, "y"] == pytest.approx(np.median([m.loc[51, "y"] for m in many]))


def test_what_lies_before_the_context_changes_nothing():
    """Of a model without dates."""
    seen = waves()[:, -30:]
    far = np.concatenate([np.full((4, 50), 1e6), seen], 1)
    config = dataclasses.replace(CONFIG, dates=False)
    timeless = TimeSeriesGenerator(config).fit(frame(), steps=3, progress=False)
    a, b = (timeless.forecast(frame(v), 4, 3, progress=False).samples for v in (seen, far))
    assert np.allclose(a, b, atol=1e-5)


def test_a_short_series_does_not_depend_on_its_neighbours(fitted):
    data = frame([waves()[0], waves()[1][:5]])
    other = frame([waves()[0] * 100 - 7, waves()[1][:5]])
    a, b = (fitted.forecast(d, 4, 3, progress=False).samples[1] for d in (data, other))
    assert np.array_equal(a, b)


def test_levels_of_the_data_come_back(fitted):
    made = fitted.forecast(frame(), 8, 30, progress=False)
    assert np.abs(np.median(made.samples, (1, 2, 3)) - 10 * np.arange(4)).max() < 2
    shifted = fitted.forecast(frame(waves() * 3 + 50), 8, 30, progress=False)
    assert np.allclose(shifted.samples, made.samples * 3 + 50, atol=1e-3)


def test_a_forecast_reads_as_one(fitted):
    made = fitted.forecast(frame(), 5, 40, progress=False)
    table = made.to_frame([0.1, 0.9])
    assert list(table.columns) == ["unique_id", "ds", "mean", "q0.1", "q0.9"]
    assert np.allclose(table["mean"], made.samples.mean(1).ravel())
    one = made["s2"]
    assert one.samples.shape == (40, 5)
    assert np.allclose(one.quantile(0.9), np.quantile(made.samples[2, :, :, 0], 0.9, axis=0))
    assert [f.item_id for f in made] == ["s0", "s1", "s2", "s3"]
    with pytest.raises(KeyError, match="no series 'x'"):
        made["x"]
    with pytest.raises(ValueError, match="q=1.5"):
        made.quantile(1.5)


def test_strange_steps_stand_out(fitted):
    y = waves(1)
    y[0, 60] += 5
    score = fitted.anomaly_score(frame(y))["y"].to_numpy()
    assert score.argmax() == 60
    assert len(score) == 120
    likely = fitted.log_likelihood(frame(waves(1)), steps=8)[0]
    assert fitted.log_likelihood(frame(y), steps=8)[0] < likely


def test_interpolation_gives_the_stamps_that_were_asked(fitted):
    gaps = frame(waves(2)).iloc[[i for i in range(240) if i % 120 not in (40, 41)]]
    made = fitted.interpolate(gaps, HOURS[[39, 40, 41]])
    assert made["ds"].tolist() == HOURS[[39, 40, 41]].tolist() * 2
    assert made["y"].iloc[0] == pytest.approx(waves(2)[0, 39])
    with pytest.raises(ValueError, match="stamps between those of the grid"):
        fitted.interpolate(gaps, [HOURS[40] + pd.Timedelta(minutes=20)])


def test_new_series_go_on_beyond_a_window():
    gen = TimeSeriesGenerator(dataclasses.replace(CONFIG, dates=False)).fit(frame(), steps=10, progress=False)
    made = gen.sample(5, 40, progress=False)
    assert made.shape == (5, 40, 1)
    assert np.isfinite(made).all()
    assert np.allclose(made[:, :16], gen.sample(5, 16, progress=False))
    with pytest.raises(ValueError, match="share of 'nothing'"):
        TimeSeriesGenerator(recipes.forecasting(8, 3)).fit(frame(), steps=1, progress=False).sample(2)


# ------------------------------------------------------------------ refinement

PHI = 0.8


def autoregression(n, seed):
    e, y = np.random.default_rng(seed).normal(size=n + 100), np.zeros(n + 100)
    for t in range(1, n + 100):
        y[t] = PHI * y[t - 1] + e[t]
    return y[100:]


@pytest.fixture(scope="module", params=["told", "unconditional"])
def linear(request):
    """AR(1), by a network that has learned nothing: the conditional law is exact."""
    make = recipes.forecasting if request.param == "told" else recipes.unconditional
    config = dataclasses.replace(make(10, 4), scaling="global", base="linear", lr=1e-30, width=8, depth=1, steps=1)
    return TimeSeriesGenerator(config).fit([autoregression(20_000, 0)], progress=False)


def exact(last):
    """Mean and deviation of the next four steps."""
    h = np.arange(1, 5)
    return last * PHI**h, np.sqrt(np.cumsum(PHI ** (2 * (h - 1))))


def test_renoising_moves_a_wrong_forecast_to_the_law(linear):
    y = autoregression(60, 3)
    mean, deviation = exact(y[-1])
    wrong = np.tile(mean + 6 * deviation, (1, 1))
    gaps = []
    for time in (0.05, 0.5, 0.8, 1.0):
        made = refine(linear, wrong, [y], by=Renoising(time, 40), num_samples=1500, progress=False).samples[0, :, :, 0]
        gaps.append(float(np.abs((made.mean(0) - mean) / deviation).mean()))
    assert gaps[0] == pytest.approx(6, abs=0.5)
    assert gaps == sorted(gaps, reverse=True)
    if linear.model.sees_known:
        assert gaps[-1] < 0.15
        assert made.std(0) == pytest.approx(deviation, rel=0.15)


def test_descent_pulls_towards_the_model(linear):
    y = autoregression(60, 3)
    mean, deviation = exact(y[-1])
    wrong = (mean + 4 * deviation)[None]
    by = Descent(steps=30, step_size=0.2, strength=0.5, times=(0.5,))
    made = refine(linear, wrong, [y], by=by, num_samples=20, progress=False).samples[0, :, :, 0]
    assert (np.abs(made.mean(0) - mean) < 0.9 * 4 * deviation).all()
    kept = refine(linear, wrong, [y], by=dataclasses.replace(by, strength=100.0, step_size=0.005), progress=False)
    assert np.allclose(kept.samples, wrong[:, None, :, None], atol=0.3)


def test_quantile_descent_spreads_points(linear):
    y = autoregression(60, 3)
    mean, deviation = exact(y[-1])
    by = Descent(steps=60, step_size=0.1, strength=2.0, times=(0.5,), loss="quantile")
    made = refine(linear, (mean + 3 * deviation)[None], [y], by=by, num_samples=19, progress=False).samples[0, :, :, 0]
    assert made[-1].mean() > made[0].mean() + 0.2


def test_refinement_has_the_horizon_of_the_base_and_its_seed(linear):
    y = [autoregression(60, 3), autoregression(50, 4)]
    base = np.random.default_rng(0).normal(size=(2, 5, 11))
    made = refine(linear, base, y, by=Renoising(0.5, 3), progress=False)
    assert made.samples.shape == (2, 5, 11, 1)
    again = refine(linear, base, y, by=Renoising(0.5, 3), batch_size=3, progress=False)
    assert np.allclose(made.samples, again.samples, atol=1e-5)
    assert not np.allclose(made.samples, refine(linear, base, y, by=Renoising(0.5, 3), seed=1, progress=False).samples)
    short = refine(linear, base[..., :2], y, by=Renoising(0.5, 3), progress=False)
    assert short.samples.shape == (2, 5, 2, 1)
    assert [len(s) for s in made.stamps] == [11, 11]
    assert refine(linear, base, y, num_samples=7, progress=False).samples.shape[1] == 7


class Drawn:
    def __init__(self, samples):
        self.samples = samples


def test_forecasts_of_every_form_are_read():
    x = np.arange(24.0).reshape(2, 3, 4)
    for form in (x, x[..., None], Drawn(x[..., None]), [Drawn(v) for v in x]):
        assert np.array_equal(draws_of(form, ["a", "b"], ["y"])[..., 0], x)
    points = pd.DataFrame({"unique_id": ["b"] * 4 + ["a"] * 4, "ds": [*range(4)] * 2, "y": np.arange(8.0)})
    assert draws_of(points, ["a", "b"], ["y"])[:, 0, :, 0].tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert draws_of(x[:, 0], ["a", "b"], ["y"]).shape == (2, 1, 4, 1)


@pytest.mark.parametrize(
    ("forecast", "message"),
    [
        (np.zeros((3, 4)), r"forecast of shape \(3, 4\) for 2 series"),
        (np.zeros((2, 3, 4, 2)), "2 series of 1 channels"),
        (np.full((2, 4), np.nan), "series 'a' holds values that are missing"),
        (pd.DataFrame({"unique_id": ["a"], "y": [1.0]}), "no rows of series 'b'"),
        (pd.DataFrame({"unique_id": ["a"], "z": [1.0]}), "column 'y' is not in the forecast"),
        (pd.DataFrame({"unique_id": ["a", "b", "b"], "y": 1.0}), r"\[1, 2\] rows a series"),
    ],
)
def test_wrong_forecasts_are_refused(forecast, message):
    with pytest.raises(ValueError, match=message):
        draws_of(forecast, ["a", "b"], ["y"])


def test_wrong_refinements_are_refused():
    for time, steps in ((0.0, 4), (1.5, 4), (0.5, 0)):
        with pytest.raises(ValueError, match="need a time in"):
            Renoising(time, steps)


# ------------------------------------------------------------------ reports


def test_a_report_of_forecasts_and_windows(fitted):
    past, ahead = frame(waves()[:, :72]), frame()
    ahead = ahead[ahead["ds"] >= HOURS[72]]
    report = evaluate(fitted, past, ahead, num_samples=40, iterations=3, seed=0)
    assert {"quantile loss", "coverage 90 %", "MASE", "MSIS", "discriminative", "context-Fréchet"} <= {
        f.name for f in report.figures
    }
    assert report["coverage 90 %"].floor == 0.9
    assert 0 <= report["coverage 90 %"].value <= 1
    assert "N=192" in report["quantile loss"].id  # 4 series × 12 rounds of 4 steps
    assert "seasonal naive" in report["MASE"].meaning
    assert "training windows" in report["predictive"].meaning
    assert all(np.isfinite([f.value, f.floor]).all() for f in report.figures)
    again = evaluate(fitted, past, ahead, num_samples=40, iterations=3, seed=0)
    assert str(again) == str(report)
    fewer = evaluate(fitted, past, ahead, 8, rounds=2, num_samples=40, iterations=3)
    assert "N=64" in fewer["quantile loss"].id


def test_a_report_scores_the_right_steps(fitted, monkeypatch):
    """A generator that knows the future has no loss."""
    truth = waves()

    def oracle(found, horizon, repeats, future, **run):
        return np.stack([np.repeat(s.values[None], repeats, 0) for s in future.series])

    monkeypatch.setattr(fitted, "_continue", oracle)
    past, ahead = frame(truth[:, :96]), frame(truth)
    report = evaluate(fitted, past, ahead[ahead["ds"] >= HOURS[96]], num_samples=40, iterations=3)
    assert report["quantile loss"].value == report["MASE"].value == report["MSIS"].value == 0
    assert report["coverage 90 %"].value == 1
    assert report["quantile loss"].floor > 0


def test_held_out_series_of_their_own(fitted):
    others = {f"new {k}": pd.Series(v, HOURS) for k, v in enumerate(waves(seed=9))}
    report = evaluate(fitted, frame(), others, rounds=2, num_samples=40, iterations=3)
    assert "N=32" in report["quantile loss"].id


def test_reports_refuse_what_cannot_be_scored(fitted):
    past = frame(waves()[:, :96])
    ahead = frame()
    ahead = ahead[(ahead["ds"] >= HOURS[96]) & (ahead["ds"] < HOURS[99])]
    with pytest.raises(ValueError, match="no held-out series has a forecast of horizon=4"):
        evaluate(fitted, past, ahead, num_samples=40)
    with pytest.raises(ValueError, match="horizon=0"):
        evaluate(fitted, past, ahead, 0)
    with pytest.raises(ValueError, match="need at least 39"):
        evaluate(fitted, past, ahead, 2, num_samples=20)
