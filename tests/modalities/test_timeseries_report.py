"""Time series on the command line, the demo's section and its pictures."""

import dataclasses
import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from polydiff.cli import Evaluate, Fit, Sample
from polydiff.core.report import write_report
from polydiff.datasets import embedded
from polydiff.timeseries import SeriesForecast, TimeSeriesGenerator, commands, comparison, demo, plots, recipes
from polydiff.timeseries.forecast_metrics import mean_quantile_loss


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "model"
    small = dataclasses.replace(recipes.mixed(24, 12), width=16, depth=1, sample_steps=4)
    TimeSeriesGenerator(small, device="cpu").fit(commands.load("elnino").train, steps=2, progress=False).save(folder)
    (folder.parent / "model.training.json").write_text(json.dumps({"data": "elnino", "seed": 0}))
    return folder


def shapes(n):
    return 10 + np.sin(np.arange(n) / 2) + np.arange(n) / n


# ------------------------------------------------------------------ the command line


def test_data_by_name_holds_out_its_last_horizon():
    loaded = commands.load("elnino")
    frame = embedded("elnino").frame
    assert (loaded.horizon, loaded.season) == (12, 12)
    np.testing.assert_array_equal(loaded.train.series[0].values[:, 0], frame["y"][:-12])
    np.testing.assert_array_equal(loaded.holdout.series[0].values[:, 0], frame["y"][-12:])
    assert len(commands.load("macrodata").train.series) == 12


@pytest.mark.parametrize("form", ["long", "wide", "plain"])
def test_files_of_each_form_are_read(tmp_path, form):
    stamps = pd.date_range("2020-01-01", periods=60, freq="D")
    path = tmp_path / "own.csv"
    if form == "long":
        rows = [pd.DataFrame({"unique_id": k, "ds": stamps, "y": shapes(60) + i}) for i, k in enumerate("ab")]
        pd.concat(rows).to_csv(path, index=False)
    elif form == "wide":
        pd.DataFrame({"date": stamps, "a": shapes(60), "b": shapes(60) + 1}).to_csv(path, index=False)
    else:
        pd.DataFrame({"a": shapes(60), "b": shapes(60) + 1}).to_csv(path, index=False)
    found = commands.load(str(path)).found
    values = np.concatenate([s.values for s in found.series], 1)
    np.testing.assert_allclose(values, np.stack([shapes(60), shapes(60) + 1], 1))
    assert found.grid.freq == ("" if form == "plain" else "D")
    assert (len(found.series), len(found.channels)) == ((2, 1) if form == "long" else (1, 2))


def test_short_series_are_learned_whole_and_nothing_of_them_is_held_out(tmp_path):
    stamps = pd.date_range("2020-01-01", periods=80, freq="D")
    long = pd.DataFrame({"unique_id": "long", "ds": stamps, "y": shapes(80)})
    short = pd.DataFrame({"unique_id": "short", "ds": stamps[:5], "y": 1.0 * np.arange(5)})
    other = long.assign(unique_id="other")
    pd.concat([long, short, other]).to_csv(tmp_path / "s.csv", index=False)
    loaded = commands.load(str(tmp_path / "s.csv"))
    assert loaded.horizon == 7
    assert [len(s) for s in loaded.train.series] == [73, 5, 73]
    assert [s.name for s in loaded.holdout.series] == ["long", "other"]


def test_a_csv_is_learned_continued_and_evaluated(tmp_path, capsys):
    stamps = pd.date_range("2020-01-01", periods=80, freq="D")
    rows = [pd.DataFrame({"unique_id": k, "ds": stamps, "y": shapes(80) + i}) for i, k in enumerate("ab")]
    pd.concat(rows).to_csv(tmp_path / "own.csv", index=False)
    commands.fit(Fit("timeseries", str(tmp_path / "own.csv"), tmp_path / "m", recipe="forecasting", steps=1))
    assert "2 series with 146 steps learned, windows of 21 + 7 steps" in capsys.readouterr().out
    commands.sample(Sample(tmp_path / "m", tmp_path / "deep" / "ahead.csv", n=20, steps=2))
    ahead = pd.read_csv(tmp_path / "deep" / "ahead.csv", parse_dates=["ds"])
    assert list(ahead.columns) == ["unique_id", "ds", "mean", "q0.05", "q0.25", "q0.5", "q0.75", "q0.95"]
    assert len(ahead) == 14 and ahead["ds"].min() == stamps[-1] + pd.Timedelta(1, "D")
    bands = ahead.filter(like="q0").to_numpy()
    assert (np.diff(bands, axis=1) >= 0).all() and (bands[:, 0] < bands[:, -1]).all()
    commands.evaluate(Evaluate(tmp_path / "m", steps=2, n=39))
    assert "coverage 90 %" in capsys.readouterr().out


def test_other_series_are_continued_by_prompt(saved, tmp_path):
    months = pd.date_range("2001-01-01", periods=48, freq="MS")
    pd.DataFrame({"unique_id": "mine", "ds": months, "y": 20 + shapes(48)}).to_csv(tmp_path / "m.csv", index=False)
    commands.sample(Sample(saved, tmp_path / "out.csv", n=3, steps=2, prompt=str(tmp_path / "m.csv")))
    ahead = pd.read_csv(tmp_path / "out.csv")
    assert set(ahead["unique_id"]) == {"mine"} and ahead["ds"][0].startswith("2005-01-01")


def test_a_model_that_is_told_nothing_writes_new_series(tmp_path, capsys):
    commands.fit(Fit("timeseries", "elnino", tmp_path / "m", recipe="synthesis", steps=1))
    commands.sample(Sample(tmp_path / "m", tmp_path / "new.csv", n=3, steps=2))
    new = pd.read_csv(tmp_path / "new.csv")
    assert new.groupby("unique_id").size().tolist() == [48, 48, 48] and new["y"].notna().all()
    assert "3 new series of 48 steps" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mixed", "forecasting", "imputing", "synthesis", "unconditional"])
def test_recipes_by_name_keep_the_window(name):
    lengths = recipes.mixed(36, 12)
    made = commands._config(name, lengths)
    assert made.context + made.horizon == 48
    assert made.told == (name not in ("synthesis", "unconditional"))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda m, p: commands.fit(Fit("timeseries", "nowhere", p)),
            "data='nowhere': need one of co2, .* or a .csv",
        ),
        (
            lambda m, p: commands.fit(Fit("timeseries", "co2", p, recipe="big")),
            "recipe='big': need one of mixed, forecasting",
        ),
        (lambda m, p: commands.sample(Sample(m, p / "x.png")), "need a name ending in .csv or .parquet"),
        (lambda m, p: commands.sample(Sample(m, p / "x.csv", label="a")), "label='a'"),
        (lambda m, p: commands.sample(Sample(m, p / "x.csv", guidance=2.0)), "guidance=2.0"),
        (lambda m, p: commands.sample(Sample(m, p / "x.csv", prompt="gone.csv")), "data='gone.csv'"),
        (lambda m, p: commands.evaluate(Evaluate(m, n=5)), "num_samples=5"),
        (lambda m, p: commands.evaluate(Evaluate(m, guidance=2.0)), "guidance=2.0"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(saved, tmp_path, act, message):
    with pytest.raises(ValueError, match=message) as caught:
        act(saved, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_without_its_note_asks_for_data(saved, tmp_path):
    TimeSeriesGenerator.load(saved).save(tmp_path / "bare")
    with pytest.raises(ValueError, match="pass --prompt"):
        commands.sample(Sample(tmp_path / "bare", tmp_path / "x.csv"))
    with pytest.raises(ValueError, match="pass --data"):
        commands.evaluate(Evaluate(tmp_path / "bare"))


def test_series_are_an_installed_modality():
    found = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert found["polydiff.modalities"]["timeseries"] == "polydiff.timeseries.commands"


# ------------------------------------------------------------------ the section


def test_scores_beside_baselines_are_those_of_the_metrics():
    g = np.random.default_rng(0)
    histories = [10 + np.tile([0.0, 3.0, 1.0, 2.0], 30) + 0.1 * g.normal(size=120) for _ in range(3)]
    truth = np.stack([h[:8] for h in histories])
    draws = comparison.beside(histories, 8, 4, num_samples=40)
    assert list(draws) == ["seasonal naive", "ETS", "linear quantiles"]
    for some in draws.values():
        found = comparison.scored(some, truth, histories, 4)
        assert some.shape == (40, 3, 8)
        assert found.loss == mean_quantile_loss(some, truth).value < 0.02
        assert found.mase < 2
    assert np.isnan(comparison.scored(draws["ETS"][:5], truth, histories, 4).coverage)
    assert "linear quantiles" not in comparison.beside([h[:12] for h in histories], 8, 4, num_samples=5)


def test_promised_shares_of_draws_from_the_law_of_the_truth_are_kept():
    g = np.random.default_rng(0)
    levels = np.array([0.2, 0.5, 0.9])
    truth = np.where(g.random(6000) < 0.1, np.nan, g.normal(size=6000))
    exact = plots.observed_shares(g.normal(size=(99, 6000)), truth, levels)
    np.testing.assert_allclose(exact, levels, atol=0.02)
    narrow = plots.observed_shares(0.5 * g.normal(size=(99, 6000)), truth, levels)
    assert narrow[2] == pytest.approx(0.589, abs=0.02)  # P(|z| < 1.645 / 2)


def test_pictures_are_drawn_from_series_with_holes():
    g = np.random.default_rng(0)
    stamps = pd.date_range("2020-01-06", periods=120, freq="W-MON")
    y = pd.Series(g.normal(size=120), stamps)
    holes = y.mask(np.isin(np.arange(120), [3, 40, 41, 42, 119]))
    draws = pd.DataFrame(g.normal(size=(120, 9)), stamps)
    ahead = [SeriesForecast("a", stamps[k : k + 20], g.normal(size=(30, 20))) for k in (80, 100)]
    windows = g.normal(size=(4, 30))
    for picture in (
        plots.fans(holes[60:], ahead, label="y"),
        plots.filled([("one", holes, draws, y), ("two", holes, draws, None)], label="y"),
        plots.gallery(windows, windows, step=0.1, unit="years"),
        plots.calibration({"a": g.normal(size=(39, 50)), "b": g.normal(size=(39, 50))}, g.normal(size=50)),
        plots.anomalies(holes, y.abs(), [stamps[5]], label="y"),
    ):
        assert picture.startswith(b"<?xml") and b"NaN" not in picture


def test_the_best_of_each_line_is_marked():
    scores = {"polydiff": comparison.Scores(0.5, 0.95, 1.0), "naive": comparison.Scores(0.4, 0.70, 1.2)}
    marked = [[text for text, mark in line if mark] for line in demo._table(scores).lines]
    assert marked == [[], ["0.40000"], ["0.950"], ["1.000"]]


@pytest.mark.slow
def test_the_section_tells_what_was_done(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_SECONDS", 3.0)
    section = demo.demo(tmp_path)
    assert write_report(tmp_path / "report.html", [section]).stat().st_size > 100_000
    assert TimeSeriesGenerator.load(tmp_path / "co2").sample(2).shape == (2, 156, 1)
    assert [n.name for n in section.numbers] == [
        "quantile loss", "forecast coverage", "error in holes", "coverage in holes", "autocorrelation"
    ]  # fmt: skip
