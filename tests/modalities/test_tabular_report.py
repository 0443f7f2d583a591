"""Tables on the command line, the demo's section, its pictures, and the verbs that measure."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from polydiff.cli import Evaluate, Fit, Sample
from polydiff.core.report import write_report
from polydiff.datasets import travel
from polydiff.tabular import TabularGenerator, commands, demo, plots, recipes

CONFIG = dataclasses.replace(recipes.small(), width=32, depth=1, sample_steps=4)


@pytest.fixture(scope="module")
def fitted():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train, rest = travel().split(0.7, 0)
    yield TabularGenerator(CONFIG, device="cpu").fit(train, steps=60, progress=False), train, rest
    torch.set_num_threads(threads)


# ------------------------------------------------------------------ verbs that measure


def test_evaluate_samples_as_many_rows_as_there_were_and_reports_both_parts_of_alpha_precision(fitted):
    gen, train, rest = fitted
    report = gen.evaluate(train, rest, "mode", learners=("linear",), limit=100)
    names = [f.name for f in report.figures]
    assert {"TSTR f1 linear", "α-precision", "β-recall", "closer to train", "detection AUC linear"} <= set(names)
    assert f"S={len(train)}" in report["closer to train"].id
    assert "S=50" in gen.evaluate(train, rest, n=50, learners=(), limit=50)["closer to train"].id
    with pytest.raises(ValueError, match="column 'mode'"):
        gen.evaluate(train.drop(columns="mode"), rest)


@pytest.mark.parametrize("reading", ["neighbours", "time"])
def test_rows_of_another_law_are_anomalies(fitted, reading):
    gen, train, rest = fitted
    g = np.random.default_rng(0)
    odd = pd.concat(
        [rest[c].sample(frac=1, random_state=int(g.integers(99))).reset_index(drop=True) for c in rest], axis=1
    )
    score = gen.anomaly_score(pd.concat([rest, odd], ignore_index=True), train, reading=reading)
    assert roc_auc_score(np.repeat([0, 1], len(rest)), score) > 0.8
    np.testing.assert_allclose(score[:5], gen.anomaly_score(rest.head(5), train, reading=reading), rtol=1e-5)


def test_anomalies_need_no_data_where_the_model_has_learned_the_rows(fitted):
    gen, _, rest = fitted
    far = rest.assign(cost=rest["cost"] + 10_000)
    score = gen.anomaly_score(pd.concat([rest, far], ignore_index=True))
    assert score[: len(rest)].max() < score[len(rest) :].min()
    with pytest.raises(ValueError, match="reading='depth'"):
        gen.anomaly_score(rest, rest, reading="depth")
    with pytest.raises(ValueError, match="column 'mode'"):
        gen.anomaly_score(rest.drop(columns="mode"))


# ------------------------------------------------------------------ the command line


@pytest.fixture
def saved(fitted, tmp_path):
    fitted[0].save(tmp_path / "model")
    (tmp_path / "model.training.json").write_text(json.dumps({"data": "travel", "seed": 0}))
    return tmp_path / "model"


def test_a_csv_is_learned_sampled_and_evaluated(tmp_path, capsys):
    table = travel().train.head(120)
    table.to_csv(tmp_path / "own.csv", index=False)
    commands.fit(Fit("tabular", str(tmp_path / "own.csv"), tmp_path / "m", recipe="small", steps=2))
    assert "96 rows learned, 24 held out" in capsys.readouterr().out
    commands.sample(Sample(tmp_path / "m", tmp_path / "deep" / "new.csv", n=7, steps=2, label="mode=bus"))
    made = pd.read_csv(tmp_path / "deep" / "new.csv")
    assert list(made.columns) == list(table.columns) and len(made) == 7 and (made["mode"] == "bus").all()
    commands.evaluate(Evaluate(tmp_path / "m", steps=2, n=40))
    assert "closer to train" in capsys.readouterr().out


def test_a_label_is_in_the_terms_of_its_column(saved, tmp_path):
    for label, name, value in (("party=2", "party", 2), ("chosen=True", "chosen", True), ("wait=0", "wait", 0)):
        commands.sample(Sample(saved, tmp_path / "out.csv", n=3, steps=2, label=label))
        assert (pd.read_csv(tmp_path / "out.csv")[name] == value).all()


def test_another_file_is_evaluated_as_a_whole(saved, tmp_path, capsys):
    travel().train.head(60).to_csv(tmp_path / "other.csv", index=False)
    commands.evaluate(Evaluate(saved, data=str(tmp_path / "other.csv"), steps=2, n=60))
    assert "N=60" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m, p: commands.fit(Fit("tabular", "nowhere", p)), "data='nowhere': need one of adult, .* or a .csv"),
        (
            lambda m, p: commands.fit(Fit("tabular", "travel", p, recipe="big")),
            "recipe='big': need one of small, medium",
        ),
        (lambda m, p: commands.sample(Sample(m, p / "x.png")), "need a name ending in .csv or .parquet"),
        (lambda m, p: commands.sample(Sample(m, p / "x.csv", prompt="a")), "prompt='a'"),
        (lambda m, p: commands.sample(Sample(m, p / "x.csv", guidance=2.0)), "guidance=2.0"),
        (lambda m, p: commands.sample(Sample(m, p / "x.csv", label="bus")), "label='bus': need column=value"),
        (
            lambda m, p: commands.sample(Sample(m, p / "x.csv", label="cost=much")),
            "column 'cost' is integer and needs a number",
        ),
        (lambda m, p: commands.sample(Sample(m, p / "x.csv", label="mode=ship")), "column 'mode' takes 'air'"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(saved, tmp_path, act, message):
    with pytest.raises(ValueError, match=message) as caught:
        act(saved, tmp_path)
    assert "\n" not in str(caught.value)


def test_official_splits_are_kept():
    from polydiff.datasets import data_folder

    if not (data_folder() / "tabular").is_dir():
        pytest.skip(f"no {data_folder() / 'tabular'}; set POLYDIFF_DATA")
    rows = commands.load("abalone", 3)
    assert (len(rows.train), len(rows.holdout), rows.target) == (2672, 836, "Rings")


def test_tables_are_an_installed_modality():
    import tomllib

    found = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert found["polydiff.modalities"]["tabular"] == "polydiff.tabular.commands"


# ------------------------------------------------------------------ the section


def test_associations_by_hand():
    df = pd.DataFrame(
        {"x": [0.0, 1.0, 2.0, 3.0], "y": [3.0, 2.0, 1.0, 0.0], "c": list("aabb"), "d": list("abab"), "k": [1] * 4}
    )
    table = plots.associations(df)
    assert table.loc["x", "y"] == pytest.approx(-1) and table.loc["c", "c"] == pytest.approx(1)
    assert table.loc["c", "d"] == pytest.approx(0) and table.loc["k", "x"] == 0
    assert table.loc["x", "c"] == table.loc["c", "x"] == pytest.approx(np.sqrt(4 / 5))  # between 4 of 5


def test_pictures_are_drawn_from_tables_with_holes_and_many_levels():
    g = np.random.default_rng(0)
    df = pd.DataFrame(
        {"x": g.normal(size=90), "c": [f"level {i % 30}" for i in range(90)], "few": g.integers(0, 3, 90)}
    )
    holes = df.mask(g.random(df.shape) < 0.2)
    for picture in (plots.marginals(df, holes), plots.heatmaps(df, holes), plots.scatter(df, holes, "x", "few", "c")):
        assert picture.startswith(b"<?xml") and b"NaN" not in picture


@pytest.mark.slow
def test_the_section_tells_what_was_done(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_SECONDS", 5.0)
    section = demo.demo(tmp_path)
    assert write_report(tmp_path / "report.html", [section]).stat().st_size > 100_000
    assert TabularGenerator.load(tmp_path / "travel").sample(2).shape == (2, 8)
    assert [n.name for n in section.numbers][-2:] == ["imputation error", "interval coverage"]


def test_the_table_of_travellers_is_that_of_statsmodels():
    table = travel()
    raw = pytest.importorskip("statsmodels.datasets").modechoice.load_pandas().data
    assert len(table) == len(raw) == 840
    np.testing.assert_array_equal(table.train["mode"].cat.codes + 1, raw["mode"])
    np.testing.assert_array_equal(table.train["time"], raw["invt"])
    assert table.train["chosen"].sum() == 210
