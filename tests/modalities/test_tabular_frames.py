"""Any frame: every verb gives back columns, types, levels and missing values, or one sentence that names the column."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polydiff.tabular import TableCodec, TabularGenerator, recipes

CONFIG = dataclasses.replace(recipes.small(), width=16, depth=1, sample_steps=2, batch_size=64)


def holes(series, g, share=0.3):
    return series.mask(pd.Series(g.random(len(series)) < share))


COLUMNS = {
    "float": lambda g, n: pd.Series(np.round(g.normal(0, 50, n), 3)),
    "float32": lambda g, n: pd.Series(g.normal(0, 5, n).astype(np.float32)),
    "int": lambda g, n: pd.Series(g.integers(-500, 500, n)),
    "int8": lambda g, n: pd.Series(g.integers(-9, 9, n).astype(np.int8)),
    "int with NaN": lambda g, n: holes(pd.Series(g.integers(0, 500, n).astype(float)), g),
    "Int64": lambda g, n: holes(pd.Series(g.integers(0, 500, n)).astype("Int64"), g),
    "bool": lambda g, n: pd.Series(g.random(n) < 0.5),
    "boolean": lambda g, n: holes(pd.Series(g.random(n) < 0.5).astype("boolean"), g),
    "text": lambda g, n: pd.Series(g.choice(["", "ünï", "a b", "NaN"], n)),
    "text with None": lambda g, n: pd.Series(g.choice(np.array(["a", "b", None], dtype=object), n), dtype=object),
    "string": lambda g, n: holes(pd.Series(g.choice(["", "x"], n), dtype="string[python]"), g),
    "mixed": lambda g, n: pd.Series(g.choice(np.array(["a", 1, True, 2.5], dtype=object), n), dtype=object),
    "categorical": lambda g, n: holes(
        pd.Series(pd.Categorical(g.choice(list("abc"), n), list("dcba"), ordered=True)), g
    ),
    "datetime": lambda g, n: pd.Series(
        pd.to_datetime("2021-03-01") + pd.to_timedelta(g.integers(0, 10**6, n), unit="s")
    ),
    "datetime tz": lambda g, n: holes(COLUMNS["datetime"](g, n).dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"), g),
    "timedelta": lambda g, n: pd.Series(pd.to_timedelta(g.integers(0, 5000, n), unit="min")),
    "spikes": lambda g, n: pd.Series(np.where(g.random(n) < 0.7, 0, g.integers(1, 90_000, n))),
    "constant": lambda g, n: pd.Series([3] * n),
    "all NaN": lambda g, n: pd.Series([np.nan] * n),
    "all None": lambda g, n: pd.Series([None] * n, dtype=object),
    "all NA": lambda g, n: pd.Series([pd.NA] * n, dtype="Int64"),
}
NAMES = ["a", "", "num", "cat", "known", 0, 7, -3, "0", "ünï"]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@st.composite
def frames(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=5))
    names = draw(st.permutations(NAMES))[: len(kinds)]
    n, g = draw(st.sampled_from([1, 2, 3, 40])), np.random.default_rng(draw(st.integers(0, 10**6)))
    df = pd.concat([COLUMNS[k](g, n) for k in kinds], axis=1, ignore_index=True)
    df.columns = pd.Index(names, dtype=object)
    df.index = pd.Index(g.permutation(n) + 5)
    return df


def alike(made, df):
    """Columns, order, types and levels; nothing missing where nothing was."""
    assert list(made.columns) == list(df.columns)
    for name in df:
        assert made[name].dtype == df[name].dtype, name
        there, known = made[name].dropna(), df[name].dropna()
        if not df[name].isna().any():
            assert not made[name].isna().any(), name
        if df[name].isna().all():
            assert made[name].isna().all(), name
        if not pd.api.types.is_numeric_dtype(df[name]) or pd.api.types.is_bool_dtype(df[name]):
            if df[name].dtype.kind not in "mM":
                assert set(map(repr, there.astype(object))) <= set(map(repr, known.astype(object))), name
        elif len(there):
            assert known.min() <= there.min() and there.max() <= known.max(), name


@given(frames())
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_verb_gives_the_table_back_in_kind(df):
    if (df.astype(object).map(repr).nunique() <= 1).all():
        with pytest.raises(ValueError, match=r"every column is constant \(column"):
            TabularGenerator(CONFIG, device="cpu").fit(df, steps=1, progress=False)
        return
    codec = TableCodec.fit(df)
    back = codec.decode(codec.encode(df))
    alike(back, df)
    assert (back.isna().to_numpy() == df.isna().to_numpy()).all()
    gen = TabularGenerator(CONFIG, device="cpu").fit(df, steps=1, progress=False)
    alike(gen.sample(5), df)
    row = df.iloc[0]
    held = gen.sample(3, where={name: row[name] for name in df if not isinstance(row[name], (list, tuple))})
    alike(held, df)
    whole = gen.impute(df)
    alike(whole, df)
    assert whole.index.equals(df.index)
    for name in df:
        assert (whole[name].isna() == df[name].isna().all()).all(), name
        there = df[name].notna()
        assert (whole.loc[there, name] == df.loc[there, name]).all(), name
    assert gen.score_samples(df).shape == (len(df),)
    assert np.isfinite(gen.score_samples(df)).all()
    assert np.isfinite(gen.anomaly_score(df, gen.sample(30))).all()
    if len(df) >= 3:
        name = next(n for n in df if df[n].nunique() > 1)
        level = df[name].dropna()
        if level.nunique() <= 5:
            assert gen.balance(df, name)[name].value_counts().nunique() == 1


def test_ten_thousand_levels_go_through_every_verb():
    df = pd.DataFrame({"x": [f"level {i:05d}" for i in range(10_000)], "y": np.arange(10_000)})
    gen = TabularGenerator(CONFIG, device="cpu").fit(df, steps=1, progress=False)
    alike(gen.sample(20), df)
    assert (gen.sample(4, where={"x": "level 00042"})["x"] == "level 00042").all()
    assert gen.impute(df.head(3).assign(x=None))["x"].notna().all()
    with pytest.raises(ValueError, match=r"column 'x' takes .*… \(10000 in all\): row 0 holds 'w'"):
        gen.sample(2, where={"x": "w"})


def whole(**changes):
    base = {"x": [0.5, 1.0], "city": ["Bern", "Oslo"], "colour": ["red", None], "same": [7, 7]}
    return pd.DataFrame(base | changes)


BAD = [
    (pd.DataFrame, "no columns"),
    (lambda: whole().head(0), "columns 'x', 'city', 'colour', 'same' but 0 rows"),
    (lambda: pd.concat([whole(), whole()[["x"]]], axis=1), "column 'x' occurs 2 times"),
    (
        lambda: whole().set_axis(pd.MultiIndex.from_product([["a"], list("bcde")]), axis=1),
        r"column \('a', 'b'\) is named by a tuple",
    ),
    (lambda: whole(x=[1.0, np.inf]), "column 'x' holds.* row 1"),
    (lambda: whole(x=[1.0, "two"]), "column 'x' "),
    (lambda: whole(city=["Bern", ["Oslo"]]), "column 'city' .*"),
    (lambda: whole().drop(columns="colour"), "column 'colour'"),
    (lambda: whole(extra=1), "column 'extra' is unknown"),
]


@pytest.fixture(scope="module")
def fitted():
    g = np.random.default_rng(0)
    df = pd.DataFrame(
        {
            "x": g.normal(size=200),
            "city": g.choice(["Bern", "Oslo"], 200),
            "colour": g.choice(np.array(["red", "blue", None], dtype=object), 200),
            "same": 7,
        }
    )
    return TabularGenerator(CONFIG, device="cpu").fit(df, steps=1, progress=False), df


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_frames_are_refused_by_every_verb(fitted, make, message):
    gen, df = fitted
    verbs = {
        "fit": lambda bad: TabularGenerator(CONFIG, device="cpu").fit(bad, steps=1, progress=False),
        "impute": gen.impute,
        "score_samples": gen.score_samples,
        "anomaly_score": gen.anomaly_score,
        "evaluate's train": lambda bad: gen.evaluate(bad, df),
        "evaluate's holdout": lambda bad: gen.evaluate(df, bad),
        "balance": lambda bad: gen.balance(bad, "city"),
    }
    fine = {"fit": ("colour", "extra"), "impute": ("colour",)}  # other tables may be fitted, columns left out
    for name, verb in verbs.items():
        if any(word in message for word in fine.get(name, ())) or (name == "fit" and message == "column 'x' "):
            continue
        with pytest.raises(ValueError, match=message) as caught:
            verb(make())
        assert "\n" not in str(caught.value), name


def test_infinite_numbers_are_refused_where_they_are_scored(fitted):
    gen, df = fitted
    for verb in (gen.impute, gen.score_samples, gen.anomaly_score):
        with pytest.raises(ValueError, match="column 'x' holds numbers: row 1 is inf"):
            verb(df.head(3).assign(x=[0.0, np.inf, 1.0]))


# ------------------------------------------------------------------ unseen categories


def test_an_unseen_category_is_refused_by_column_value_and_row(fitted):
    gen, df = fitted
    strange = df.head(4).assign(city=["Bern", "Oslo", "Rome", "Bern"])
    for verb in (gen.impute, gen.score_samples, gen.codec.encode):
        with pytest.raises(ValueError, match="column 'city' takes 'Bern', 'Oslo': row 2 holds 'Rome'"):
            verb(strange)
    with pytest.raises(ValueError, match="unseen='ignore'"):
        gen.impute(strange, unseen="ignore")


def test_an_unseen_category_can_be_taken_for_missing(fitted):
    gen, df = fitted
    strange = df.head(6).assign(
        city=["Bern", "Oslo", "Rome", None, "Oslo", "Oslo"], colour=["green", None, *["red"] * 4]
    )
    blank = strange.assign(city=strange["city"].where(strange["city"] != "Rome"), colour=[None, None, *["red"] * 4])
    pd.testing.assert_frame_equal(gen.impute(strange, unseen="missing"), gen.impute(blank))
    assert gen.impute(strange, unseen="missing")["city"].isin(["Bern", "Oslo"]).all()
    np.testing.assert_array_equal(gen.score_samples(strange, unseen="missing"), gen.score_samples(blank))
    encoded = gen.codec.encode(strange[["x", "city", "colour", "same"]].assign(city="Bern"), unseen="missing")
    assert encoded["cat"][:, 1].tolist() == [2, 2, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="column 'city' has no value in row 2"):
        gen.codec.encode(strange, unseen="missing")  # the training data had none missing: no level says so
    other = df.head(2).assign(same=[7, 8])
    assert (gen.impute(other, unseen="missing")["same"] == 7).all()


def test_an_unseen_category_is_an_anomaly(fitted):
    gen, df = fitted
    rows = pd.concat([df.head(20), df.head(1).assign(city="Rome")], ignore_index=True)
    score = gen.anomaly_score(rows, df)
    assert score.argmax() == 20


@pytest.mark.slow
def test_the_score_of_a_row_with_a_hole_is_near_that_of_what_is_there():
    """x and y are equal in law to a model of x alone: log p(x) with y hidden, against log p(x, y) − log p(y | x)."""
    g = np.random.default_rng(1)
    df = pd.DataFrame({"city": g.choice(["Bern", "Oslo"], 400, p=[0.8, 0.2]), "x": g.normal(size=400)})
    gen = TabularGenerator(dataclasses.replace(CONFIG, width=32, lr=3e-3), device="cpu").fit(
        df, steps=300, progress=False
    )
    hidden = pd.DataFrame({"city": ["Bern"] * 50 + ["Oslo"] * 50, "x": [np.nan] * 100})
    score = gen.score_samples(hidden, draws=4)
    assert score[:50].mean() == pytest.approx(np.log(0.8), abs=0.25)
    assert score[50:].mean() == pytest.approx(np.log(0.2), abs=0.4)
