"""Tables to tensors and back: dtypes, levels, missing values and numbers survive, or one sentence names the column."""

import datetime
import decimal
import json

import numpy as np
import pytest
import torch

pd = pytest.importorskip("pandas")

from polydiff.datasets import data_folder, tables  # noqa: E402
from polydiff.tabular import Column, NumberTransform, Schema, TableCodec  # noqa: E402
from polydiff.tabular.transforms import find_spikes  # noqa: E402

needs_tables = pytest.mark.skipif(
    not (data_folder() / "tabular").is_dir(), reason=f"no {data_folder() / 'tabular'}; set POLYDIFF_DATA"
)


def rng(seed=0):
    return np.random.default_rng(seed)


def rebuilt(codec):
    """The codec after its way through a file."""
    config = json.loads(json.dumps(dict(codec.config()), allow_nan=False, sort_keys=True))
    return TableCodec.from_config(config, codec.tensors())


def column_of(series, **overrides):
    return Schema.infer(pd.DataFrame({"x": series}), overrides).columns[0]


def same(a, b, exact=True):
    """Equal to the bit where values are promised exactly; types, order, levels and missing values always."""
    assert list(a.columns) == list(b.columns)
    for name in a.columns:
        x, y = a[name], b[name]
        assert x.dtype == y.dtype, (name, x.dtype, y.dtype)
        assert (x.isna().to_numpy() == y.isna().to_numpy()).all(), name
    tolerance = {"check_exact": True} if exact else {"rtol": 1e-5, "atol": 1e-6}
    pd.testing.assert_frame_equal(a, b, check_column_type=False, **tolerance)


# ------------------------------------------------------------------ numbers

TIES = np.repeat([0.0, 1.0, 2.0, 5.0], [3, 2, 4, 1])


def test_scores_are_standardised_normal_quantiles_of_mid_ranks():
    from statistics import NormalDist

    t = NumberTransform.fit(TIES)
    mid = np.array([1.5, 4, 7, 9.5]) / 10
    raw = np.array([NormalDist().inv_cdf(p) for p in mid])
    weights = np.array([3, 2, 4, 1]) / 10
    mean = weights @ raw
    std = np.sqrt(weights @ (raw - mean) ** 2)
    np.testing.assert_allclose(t.scores, (raw - mean) / std, atol=1e-12)
    scores, state = t.encode(TIES)
    assert abs(scores.mean()) < 1e-12 and abs(scores.std() - 1) < 1e-12 and (state == 0).all()


def test_scores_agree_with_scikit_learn_away_from_the_extremes():
    pytest.importorskip("sklearn")
    from sklearn.preprocessing import QuantileTransformer

    x = rng().lognormal(0, 2, 8000)
    ours, _ = NumberTransform.fit(x).encode(x)
    peer = QuantileTransformer(n_quantiles=8000, subsample=None, output_distribution="normal")
    theirs = peer.fit_transform(x[:, None])[:, 0]
    inner = np.abs(theirs) < 2
    assert np.abs(ours - theirs)[inner].max() < 0.01
    assert np.abs(ours).max() < 4.1 < np.abs(theirs).max()


@pytest.mark.parametrize("law", ["lognormal", "ties", "heavy", "one value", "two values"])
def test_the_inverse_is_exact_at_float32_scores_and_clamps(law):
    g = rng(1)
    x = {
        "lognormal": lambda: g.lognormal(0, 2, 5000),
        "ties": lambda: g.integers(0, 90, 5000).astype(float),
        "heavy": lambda: g.standard_cauchy(5000) * 1e6,
        "one value": lambda: np.full(7, 3.5),
        "two values": lambda: np.array([1.0, 1.0, 9.0]),
    }[law]()
    t = NumberTransform.fit(x)
    scores, state = t.encode(x)
    back = t.decode(scores.astype(np.float32).astype(np.float64), state)
    gaps = np.interp(x, t.values, np.append(np.diff(t.values), 1.0)) if len(t.values) > 1 else 1.0
    assert (np.abs(back - x) <= 1e-5 * np.maximum(gaps, np.abs(x))).all()
    wide = t.decode(np.array([-50.0, 50.0]), np.zeros(2, dtype=np.int64))
    np.testing.assert_array_equal(wide, [x.min(), x.max()])


def test_a_spike_stands_out_from_its_neighbours():
    def spikes(counts):
        return np.flatnonzero(find_spikes(np.array(counts), 0.05)).tolist()

    assert spikes([900, 2, 1, 3, 1, 2]) == [0]
    assert spikes([40, 90, 150, 180, 160, 110, 60, 20]) == []  # the mode of a short scale
    assert spikes([10] * 20 + [90] + [10] * 20) == [20]
    assert spikes([1] * 5 + [6] + [1] * 5) == []  # six rows are no evidence
    assert spikes([500]) == []
    with pytest.raises(ValueError, match="spike=0"):
        find_spikes(np.array([1, 2]), 0)


def test_spikes_and_missing_values_are_states():
    g = rng(2)
    x = g.exponential(10, 2000)
    x[:800], x[800:1000] = 0.0, np.nan
    t = NumberTransform.fit(x)
    assert t.spikes.tolist() == [0.0] and t.missing == 2 and t.states == 3
    scores, state = t.encode(x)
    assert np.bincount(state).tolist() == [1000, 800, 200]
    assert (scores[state > 0] == 0).all()
    junk = np.where(state > 0, np.nan, scores)
    np.testing.assert_array_equal(np.isnan(t.decode(junk, state)), np.isnan(x))
    assert (t.decode(junk, state)[:800] == 0).all()
    assert NumberTransform.fit(x, spike=2).spikes.size == 0


# ------------------------------------------------------------------ inference


@pytest.mark.parametrize(
    ("values", "kind", "more"),
    [
        ([True, False, True], "boolean", {"dtype": "bool"}),
        (pd.array([True, None, False], dtype="boolean"), "boolean", {"has_missing": True}),
        (np.arange(100), "integer", {"minimum": 0, "maximum": 99, "step": 1}),
        (np.arange(100) * 50 + 7, "integer", {"step": 50, "minimum": 7}),
        ([1, 2, 3] * 40, "category", {"dtype": "int64", "ordered": True, "levels": (1, 2, 3)}),
        ([1, 2, 3] * 2, "integer", {}),
        ([1.5, 2.5] * 40, "category", {"levels": (1.5, 2.5)}),
        ([1.0, np.nan, *range(60)], "integer", {"dtype": "float64", "has_missing": True}),
        (np.arange(25, 325) / 100, "numeric", {"decimals": 2, "grain": 1}),
        (np.arange(15, 315) * 5 / 1000, "numeric", {"decimals": 3, "grain": 5}),
        (0.3 + np.arange(300) * 0.25, "numeric", {"decimals": 2, "grain": 25}),
        (np.sqrt(np.arange(2, 300)), "numeric", {"decimals": None}),
        ((np.arange(300) / 10).astype(np.float32), "numeric", {"decimals": 1, "dtype": "float32"}),
        (["b", "a", "", None], "category", {"levels": ("", "a", "b"), "has_missing": True}),
        (
            pd.Categorical(["lo", "hi"], ["lo", "mid", "hi"], ordered=True),
            "category",
            {"levels": ("lo", "hi"), "ordered": True},
        ),
        (pd.date_range("2020", periods=30, tz="Europe/Paris"), "datetime", {}),
        (pd.to_timedelta(np.arange(30), unit="h"), "datetime", {}),
        ([np.nan] * 4, "constant", {"levels": ()}),
        ([7, 7], "constant", {"levels": (7,)}),
        ([7.0, np.nan], "category", {"levels": (7.0,), "has_missing": True}),
    ],
)
def test_kinds(values, kind, more):
    column = column_of(pd.Series(values))
    assert column.kind == kind
    assert {k: getattr(column, k) for k in more} == more
    assert Column.from_json(json.loads(json.dumps(column.to_json()))) == column


def test_kinds_can_be_overridden():
    x = pd.Series([1, 2, 3] * 40)
    assert column_of(x, x="integer").kind == "integer"
    assert column_of(pd.Series(np.arange(100)), x="category").levels == tuple(range(100))
    assert Schema.infer(pd.DataFrame({"x": x}), few=0).columns[0].kind == "integer"


def test_levels_keep_their_types_in_json():
    values = ["1", 1, 1.0, True, datetime.date(2020, 2, 29), decimal.Decimal("0.10"), "é", None]
    column = column_of(pd.Series(values, dtype=object))
    back = Column.from_json(json.loads(json.dumps(column.to_json())))
    assert [(type(v), v) for v in back.levels] == [(type(v), v) for v in column.levels]
    assert len(column.levels) == 7
    series = back.of_codes(back.codes(pd.Series(values, dtype=object)))
    assert [(type(v), v) for v in series] == [(type(v), v) for v in values]


# ------------------------------------------------------------------ round trips


def moments(g, n):
    return pd.Series(pd.to_datetime("2021-03-01") + pd.to_timedelta(g.integers(0, 10**6, n), unit="s"))


def holes(series, g, share=0.3):
    return series.mask(pd.Series(g.random(len(series)) < share))


MAKERS = {
    "float": lambda g, n: pd.Series(np.round(g.normal(0, 50, n), 3)),
    "float32": lambda g, n: pd.Series(np.round(g.normal(0, 5, n), 1).astype(np.float32)),
    "prices": lambda g, n: pd.Series(np.round(g.lognormal(3, 1, n), 2)),
    "int": lambda g, n: pd.Series(g.integers(-500, 500, n)),
    "int8": lambda g, n: pd.Series(g.integers(-100, 100, n).astype(np.int8)),
    "uint64 beyond int64": lambda g, n: pd.Series(g.integers(0, 900, n).astype(np.uint64) + np.uint64(2**63)),
    "int64 beyond 2**53": lambda g, n: pd.Series(g.integers(0, 900, n) + 2**60),
    "few ints": lambda g, n: pd.Series(g.integers(0, 4, n)),
    "int with NaN": lambda g, n: holes(pd.Series(g.integers(0, 500, n).astype(float)), g),
    "Int64": lambda g, n: holes(pd.Series(g.integers(0, 500, n)).astype("Int64"), g),
    "few Int16": lambda g, n: holes(pd.Series(g.integers(0, 3, n)).astype("Int16"), g),
    "Float64": lambda g, n: holes(pd.Series(np.round(g.normal(0, 1, n), 2)).astype("Float64"), g),
    "bool": lambda g, n: pd.Series(g.random(n) < 0.5),
    "boolean": lambda g, n: holes(pd.Series(g.random(n) < 0.5).astype("boolean"), g),
    "object bool": lambda g, n: pd.Series(g.choice(np.array([True, False, None], dtype=object), n), dtype=object),
    "text": lambda g, n: pd.Series(g.choice(["", "ünï", "漢字", "a b", "NaN", "1"], n)),
    "text with NaN": lambda g, n: holes(pd.Series(g.choice(["", "x"], n)), g),
    "string": lambda g, n: holes(pd.Series(g.choice(["", "x"], n), dtype="string[python]"), g),
    "object None": lambda g, n: pd.Series(g.choice(np.array(["a", "b", None], dtype=object), n), dtype=object),
    "object NaN": lambda g, n: pd.Series(g.choice(np.array(["a", "b", np.nan], dtype=object), n), dtype=object),
    "mixed object": lambda g, n: pd.Series(g.choice(np.array(["a", 1, True, 2.5], dtype=object), n), dtype=object),
    "categorical": lambda g, n: pd.Series(pd.Categorical(g.choice(list("abc"), n), list("dcba"), ordered=True)),
    "categorical ints": lambda g, n: holes(pd.Series(pd.Categorical(g.choice([3, 1, 2], n), [3, 2, 1])), g),
    "intervals": lambda g, n: pd.Series(pd.cut(g.normal(0, 1, n), [-9, -1, 0, 1, 9])),
    "datetime": lambda g, n: moments(g, n),
    "datetime ns": lambda g, n: moments(g, n).dt.round("D").astype("datetime64[ns]"),
    "datetime s": lambda g, n: holes(moments(g, n).astype("datetime64[s]"), g),
    "datetime tz": lambda g, n: holes(moments(g, n).dt.tz_localize("UTC").dt.tz_convert("America/New_York"), g),
    "timedelta": lambda g, n: pd.Series(pd.to_timedelta(g.integers(0, 5000, n), unit="min")),
    "constant": lambda g, n: pd.Series([3] * n),
    "constant text": lambda g, n: pd.Series(["only"] * n),
    "constant categorical": lambda g, n: pd.Series(pd.Categorical(["a"] * n, list("ba"))),
    "constant datetime": lambda g, n: pd.Series(pd.DatetimeIndex(["2020-02-29"] * n, tz="UTC")),
    "all NaN": lambda g, n: pd.Series([np.nan] * n),
    "all None": lambda g, n: pd.Series([None] * n, dtype=object),
    "all NA": lambda g, n: pd.Series([pd.NA] * n, dtype="Int64"),
    "all NaT": lambda g, n: pd.Series([pd.NaT] * n, dtype="datetime64[ns]"),
    "spikes": lambda g, n: pd.Series(np.where(g.random(n) < 0.7, 0, g.integers(1, 90_000, n))),
    "minus zero": lambda g, n: pd.Series(np.where(g.random(n) < 0.5, -0.0, np.round(g.normal(0, 1, n), 2))),
    "negative whole floats": lambda g, n: holes(pd.Series(g.integers(-900, 50, n).astype(float)), g),
    "whole floats": lambda g, n: pd.Series(g.integers(0, 5000, n).astype(float)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_column_of_every_type_comes_back(name):
    g = rng(3)
    df = pd.DataFrame({"x": MAKERS[name](g, 500), "other": np.arange(500)})
    codec = rebuilt(TableCodec.fit(df))
    data = codec.encode(df)
    assert data["num"].dtype == torch.float32
    same(codec.decode(data), df)


NAMES = ["a", "", "num", "cat", "valid", "known", "missing", "ünï", 0, 1, 2, 7, -3, "0", "level 1", "columns"]


@pytest.mark.parametrize("seed", range(40))
def test_generated_tables_come_back_or_are_refused_by_column(seed):
    g = rng(1000 + seed)
    n = int(g.choice([1, 2, 3, 30, 400]))
    chosen = g.choice(list(MAKERS), int(g.integers(1, 12)))
    labels = [NAMES[i] for i in g.permutation(len(NAMES))[: len(chosen)]]
    df = pd.concat([MAKERS[k](g, n) for k in chosen], axis=1, ignore_index=True)
    df.columns = pd.Index(labels, dtype=object)
    df.index = pd.Index(g.permutation(n) + 5)
    if (df.astype(object).map(repr).nunique() <= 1).all():  # a table of constants is refused, and nothing else
        with pytest.raises(ValueError, match="constant") as refused:
            TableCodec.fit(df)
        assert f"column {labels[0]!r} is always" in str(refused.value)
        return
    codec = rebuilt(TableCodec.fit(df))
    data = codec.encode(df)
    same(codec.decode(data), df.reset_index(drop=True))
    for key, value in data.items():
        assert len(value) == n and bool(torch.isfinite(value.double()).all()), key
    if "cat" in data:
        assert (data["cat"] >= 0).all() and (data["cat"] < torch.tensor(codec.sizes)).all()
    reordered = df[[labels[i] for i in g.permutation(len(labels))]]
    again = codec.encode(reordered)
    assert all(torch.equal(again[k], data[k]) for k in data)


def test_numbers_of_full_precision_come_back_to_float32():
    g = rng(4)
    df = pd.DataFrame({"x": g.lognormal(0, 1, 2000), "y": g.normal(0, 1, 2000).astype(np.float32)})
    codec = TableCodec.fit(df)
    same(codec.decode(codec.encode(df)), df, exact=False)


def test_numbers_beyond_the_range_are_clamped():
    prices, counts = column_of(pd.Series(np.arange(25, 325) / 100)), column_of(pd.Series(np.arange(-9, 90)))
    assert prices.of_numbers(np.array([-5.0, 0.254, 99.0])).tolist() == [0.25, 0.25, 3.24]
    assert counts.of_numbers(np.array([-5.0, 2.4, 1e9])).tolist() == [-9, -7, 89]


def test_ten_thousand_levels():
    values = [f"level {i:05d}" for i in range(10_000)]
    df = pd.DataFrame({"x": values, "y": np.arange(10_000)})
    codec = TableCodec.fit(df)
    assert codec.sizes == (10_000,)
    same(codec.decode(codec.encode(df)), df)
    with pytest.raises(ValueError, match="column 'x' has 10000 distinct values and a category takes 500"):
        Schema.infer(df, max_levels=500)


def test_samples_stay_in_range_on_the_lattice_and_in_the_levels():
    g = rng(5)
    n = 600
    frame = {k: MAKERS[k](g, n) for k in ("prices", "int8", "datetime tz", "Int64", "categorical", "spikes", "float32")}
    df = pd.DataFrame(frame)
    codec = TableCodec.fit(df)
    num = torch.from_numpy(g.normal(0, 3, (n, codec.numbers)).astype(np.float32))
    cat = torch.from_numpy(np.stack([g.integers(0, s, n) for s in codec.sizes], 1))
    out = codec.decode({"num": num, "cat": cat})
    assert (out.dtypes == df.dtypes).all()
    for name in df.columns.drop("categorical"):
        assert out[name].min() >= df[name].min() and out[name].max() <= df[name].max()
    assert (out["prices"].round(2) == out["prices"]).all()
    assert set(out["categorical"]) <= set(df["categorical"])
    assert out["Int64"].isna().any() and out["datetime tz"].isna().any() and not out["int8"].isna().any()
    with pytest.raises(ValueError, match="column 'prices' has a score that is not finite"):
        codec.decode({"num": torch.full_like(num, torch.nan), "cat": cat})
    with pytest.raises(ValueError, match=r"has level 99 in row 0"):
        codec.decode({"num": num, "cat": torch.full_like(cat, 99)})
    with pytest.raises(ValueError, match="1 numbers"):
        codec.decode({"num": num[:, :1], "cat": cat})


# ------------------------------------------------------------------ layout


def mixed(n=400, seed=6):
    g = rng(seed)
    df = pd.DataFrame(
        {
            "age": g.integers(17, 90, n),
            "gain": np.where(g.random(n) < 0.8, 0.0, np.round(g.lognormal(8, 1, n), 2)),
            "city": holes(pd.Series(g.choice(["Bern", "Köln", "Oslo"], n)), g),
            "pay": holes(pd.Series(np.round(g.normal(50, 9, n), 1)), g),
            "fixed": "same",
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(g.integers(0, 300, n), unit="D"),
        }
    )
    return df, TableCodec.fit(df)


def test_layout_and_validity():
    df, codec = mixed()
    assert codec.numbers == 4 and codec.sizes == (2, 4, 2) and codec.missing == (None, 3, 1)
    where = {name: (codec.columns_of(name).num, codec.columns_of(name).cat) for name in df}
    assert where == {
        "age": ((0,), ()),
        "gain": ((1,), (0,)),
        "city": ((), (1,)),
        "pay": ((2,), (2,)),
        "fixed": ((), ()),
        "when": ((3,), ()),
    }
    data = codec.encode(df)
    valid = codec.valid(data)["num"].numpy()
    np.testing.assert_array_equal(valid[:, 1], df["gain"] != 0)
    np.testing.assert_array_equal(valid[:, 2], df["pay"].notna())
    assert valid[:, [0, 3]].all() and (data["num"].numpy()[~valid] == 0).all()
    junk = {"num": torch.where(torch.from_numpy(valid), data["num"], 77.0), "cat": data["cat"]}
    same(codec.decode(junk), df)
    plain = pd.DataFrame({"x": np.arange(50)})
    assert TableCodec.fit(plain).valid(TableCodec.fit(plain).encode(plain)) is None
    with pytest.raises(ValueError, match=r"no column 'nope': the columns are 'age', 'gain'"):
        codec.columns_of("nope")


def test_a_key_is_absent_without_its_columns():
    numbers, texts = pd.DataFrame({"x": np.arange(50)}), pd.DataFrame({"x": list("ab" * 25)})
    for df, keys in ((numbers, {"num"}), (texts, {"cat"})):
        codec = TableCodec.fit(df)
        data = codec.encode(df)
        assert set(data) == keys
        same(codec.decode(data), df)
        assert set(codec.given({}, 2)[1]) == keys


# ------------------------------------------------------------------ given values


def test_held_values_are_held():
    df, codec = mixed()
    where = {"age": 33, "gain": 0.0, "city": "Oslo", "fixed": "same", "when": "2020-03-01"}
    data, known = codec.given(where, 5)
    assert known["num"].tolist() == [[True, True, False, True]] * 5
    assert known["cat"].tolist() == [[True, True, False]] * 5
    out = codec.decode(data)
    assert (out["age"] == 33).all() and (out["gain"] == 0).all() and (out["city"] == "Oslo").all()
    assert (out["when"] == pd.Timestamp("2020-03-01")).all()
    assert codec.valid(data)["num"][:, 1].any().item() is False
    gain = float(df["gain"].max())
    data, _ = codec.given({"gain": gain, "pay": None, "city": np.nan}, 2)
    out = codec.decode(data)
    assert (out["gain"] == gain).all() and out["pay"].isna().all() and out["city"].isna().all()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"city": "Rome"}, r"column 'city' takes 'Bern', 'Köln', 'Oslo': row 0 holds 'Rome'"),
        ({"nope": 1}, "no column 'nope': the columns are"),
        ({"age": 200}, "column 'age' runs from 17 to 89: 200 is outside"),
        ({"age": 33.5}, "column 'age' takes values from 17 to 89 in steps of 1: 33.5 lies between"),
        ({"age": "old"}, "column 'age' holds numbers: row 0 is 'old'"),
        ({"age": None}, "column 'age' had no missing values"),
        ({"age": np.inf}, "column 'age' holds numbers"),
        ({"pay": 50.123}, "column 'pay' takes values from .* with 1 decimals: 50.123 lies between"),
        ({"fixed": "other"}, "column 'fixed' is constant 'same'"),
        ({"when": "tomorrowish"}, "column 'when' is of type datetime64.*'tomorrowish' is none"),
        ({"when": "2020-03-01 12:00"}, "column 'when' takes values from .* lies between"),
        ({"city": ["Oslo"]}, "column 'city' takes"),
    ],
)
def test_impossible_conditions_are_refused(where, message):
    _, codec = mixed()
    with pytest.raises(ValueError, match=message):
        codec.given(where, 3)


def test_at_most_ten_levels_are_listed():
    df = pd.DataFrame({"x": [f"v{i:02d}" for i in range(50)], "y": range(50)})
    with pytest.raises(ValueError, match=r"'v09', … \(50 in all\): row 0 holds 'w'") as caught:
        TableCodec.fit(df).given({"x": "w"}, 1)
    assert "v10" not in str(caught.value)
    with pytest.raises(ValueError, match="n=0"):
        TableCodec.fit(df).given({"y": 1}, 0)


def test_holes_are_unknown_and_the_rest_is_given():
    df, codec = mixed()
    part = df.head(60).copy()
    part["age"] = part["age"].astype(float)
    part.loc[part.index[:20], "age"] = np.nan
    part.loc[part.index[10:30], "city"] = None
    data, known = codec.given_frame(part)
    np.testing.assert_array_equal(known["num"][:, 0], part["age"].notna())
    np.testing.assert_array_equal(known["cat"][:, 1], part["city"].notna())
    np.testing.assert_array_equal(known["num"][:, 2], part["pay"].notna())
    np.testing.assert_array_equal(known["cat"][:, 2], part["pay"].notna())
    assert known["num"][:, 1].all() and known["cat"][:, 0].all()
    out = codec.decode(data)
    full = part["age"].notna()
    assert (out["age"][full] == part["age"][full]).all()

    _, known = codec.given_frame(part.drop(columns="age"), missing="value")
    assert not known["num"][:, 0].any() and known["cat"].all()
    with pytest.raises(ValueError, match="column 'age' has no value in row 0"):
        codec.given_frame(part, missing="value")
    with pytest.raises(ValueError, match="missing='maybe'"):
        codec.given_frame(part, missing="maybe")


def test_sets_and_forbidden_missing_values():
    _, codec = mixed()
    assert codec.allowed({}) is None
    table = codec.allowed({"city": ["Oslo", "Bern"]})
    assert table.tolist() == [[True, True, False, False], [True, False, True, False], [True, True, False, False]]
    assert codec.allowed({"city": {None}})[1].tolist() == [False, False, False, True]
    present = codec.allowed({}, missing=False)
    assert present.tolist() == [[True, True, False, False], [True, True, True, False], [True, False, False, False]]
    for values, message in (
        ({"city": ["Rome"]}, "column 'city' takes"),
        ({"city": []}, "column 'city' is held to an empty set"),
        ({"age": [30, 40]}, "column 'age' is integer and takes one value or a range"),
        ({"fixed": ["else"]}, "column 'fixed' is constant"),
        ({"nope": ["x"]}, "no column 'nope'"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.allowed(values)
    assert {k: v.tolist() for k, v in codec.groups.items()} == {"num": [0, 1, 3, 5], "cat": [1, 2, 3]}


def test_filling_keeps_what_was_given():
    df, codec = mixed()
    part = df.head(50).copy()
    part["age"] = part["age"].astype(float)
    part.loc[part.index[:20], "age"] = np.nan
    part["gain"] = part["gain"] + 0.001  # finer than the column's decimals
    part.index = part.index + 1000
    data, known = codec.given_frame(part)
    drawn = codec.decode({k: torch.where(known[k], v, torch.zeros_like(v)) for k, v in data.items()})
    out = codec.fill(part, drawn)
    assert out.dtypes.equals(df.dtypes) and out.index.equals(part.index)
    assert not out.isna().any().any()
    there = part["age"].notna()
    assert (out["age"][there] == part["age"][there]).all() and (out["gain"] == part["gain"]).all()
    assert (out["city"][part["city"].notna()] == part["city"][part["city"].notna()]).all()


# ------------------------------------------------------------------ refusals

BAD = [
    (lambda: [1, 2], "data of type list: need a pandas DataFrame"),
    (lambda: pd.DataFrame(), "no columns"),
    (lambda: pd.DataFrame({"x": []}), "columns 'x' but 0 rows"),
    (lambda: pd.DataFrame([[1, 2], [3, 4]], columns=["x", "x"]), "column 'x' occurs 2 times"),
    (lambda: pd.DataFrame({("a", "b"): [1]}), r"column \('a', 'b'\) is named by a tuple"),
    (lambda: pd.DataFrame({True: [1, 2]}), "column True is named by a bool"),
    (lambda: pd.DataFrame({"x": [1.0, np.inf]}), "column 'x' holds inf in row 1"),
    (lambda: pd.DataFrame({"x": [1.0, 1e305]}), "column 'x' holds 1e[+]?305 in row 1"),
    (lambda: pd.DataFrame({"x": [[1], [2]]}), "column 'x' holds a value of type list in row 0"),
    (lambda: pd.DataFrame({"x": ["a", {"b": 1}]}), "column 'x' holds a value of type dict in row 1"),
    (lambda: pd.DataFrame({"x": [1 + 2j, 3]}), "column 'x' is of type complex128"),
    (lambda: pd.DataFrame({"x": pd.period_range("2020", periods=3, freq="M")}), "column 'x' is of type period"),
    (lambda: pd.DataFrame({"x": pd.arrays.SparseArray([1.0, 2.0])}), "column 'x' is of type Sparse"),
    (
        lambda: pd.DataFrame({"x": [1, 2**62 + 1, *range(5, 50)]}),
        r"column 'x' runs from 1 to \d+ in steps of 1.*2\*\*53",
    ),
    (lambda: pd.DataFrame({"x": [3, 3], "y": ["a", "a"]}), "column 'x' is always 3.*nothing to learn"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_tables_are_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        TableCodec.fit(make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"nope": "category"}, "overrides name column 'nope'"),
        ({"x": "text"}, r"overrides\['x'\]='text': need one of numeric"),
        ({"x": "numeric"}, "column 'x' of type .* cannot be numeric: need category"),
        ({"x": "constant"}, "column 'x' of type .* cannot be constant"),
        ({"y": "datetime"}, "column 'y' of type int64 cannot be datetime: need category or integer or numeric"),
    ],
)
def test_impossible_overrides_are_refused(overrides, message):
    df = pd.DataFrame({"x": ["a", "b"], "y": [1, 2]})
    with pytest.raises(ValueError, match=message):
        Schema.infer(df, overrides)


def test_other_tables_are_refused():
    df, codec = mixed()
    with pytest.raises(ValueError, match="no column 'age' in the table"):
        codec.encode(df.drop(columns="age"))
    with pytest.raises(ValueError, match="column 'extra' is unknown"):
        codec.encode(df.assign(extra=1))
    with pytest.raises(ValueError, match="column 'city' takes"):
        codec.encode(df.assign(city="Rome"))
    with pytest.raises(ValueError, match="column 'fixed' is constant 'same'"):
        codec.encode(df.assign(fixed="else"))
    with pytest.raises(ValueError, match="column 'age' has no value in row 0"):
        codec.encode(df.assign(age=np.nan))
    with pytest.raises(ValueError, match="column 'when'"):
        codec.encode(df.assign(when=df["when"].dt.tz_localize("UTC")))
    wide = codec.decode(codec.encode(df.assign(age=500)))
    assert (wide["age"] == df["age"].max()).all()  # numbers are clamped


def test_saved_codecs_are_whole():
    _, codec = mixed()
    config = codec.schema.to_json()
    config[0]["surprise"] = 1
    with pytest.raises(ValueError, match="surprise"):
        Schema.from_json(config)
    with pytest.raises(ValueError, match="a level of type 'python/object'"):
        Column.from_json({**codec.schema.columns[2].to_json(), "levels": [{"python/object": "os.system"}]})


# ------------------------------------------------------------------ real tables


OFFICIAL = {"adult": (32_561, 16_281), "california": (13_209, 4_128), "abalone": (2_672, 836), "buddy": (12_053, 3_767)}
OFFICIAL["house"] = (14_581, 4_557)
SIZES = {"iris": 150, "wine": 178, "wheat-seeds": 210, "banknote": 1372, "pima": 768, "horse-colic": 300}
SIZES |= {"auto-imports": 201, "breast-cancer": 286}


@needs_tables
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_tables_come_back(name):
    table = getattr(tables, name)()
    assert (len(table.train), len(table.test)) == OFFICIAL[name]
    assert table.target == table.train.columns[-1]
    codec = rebuilt(TableCodec.fit(table.train))
    same(codec.decode(codec.encode(table.train)), table.train, exact=name not in ("california", "house"))
    assert (table.train.dtypes == table.test.dtypes).all()
    for scores in codec.encode(table.train)["num"].T:
        assert scores.abs().max() < 6
    if name == "adult":
        assert codec.transforms[10].spikes.tolist() == [0] and codec.transforms[11].spikes.tolist() == [0]
        assert codec.schema.columns[4].kind == "category" and codec.schema.columns[0].kind == "integer"
        assert set(table.train["income"]) == set(table.test["income"]) == {"<=50K", ">50K"}
        assert int(table.train.isna().sum().sum() + table.test.isna().sum().sum()) == 6_465


@needs_tables
@pytest.mark.parametrize("name", SIZES)
def test_small_tables_come_back(name):
    table = tables.small(name)
    assert len(table) == SIZES[name] and table.target in table.train and table.train[table.target].notna().sum() > 100
    codec = rebuilt(TableCodec.fit(table.train))
    same(codec.decode(codec.encode(table.train)), table.train, exact=name != "banknote")  # up to eight decimals


@pytest.mark.parametrize("name", ["sklearn-wine", "sklearn-breast-cancer", "sklearn-diabetes"])
def test_tables_of_scikit_learn_come_back(name):
    pytest.importorskip("sklearn")
    table = tables.small(name)
    codec = TableCodec.fit(table.train)
    same(codec.decode(codec.encode(table.train)), table.train, exact=False)


@pytest.mark.parametrize("name", ["fair", "anes96", "modechoice"])
def test_tables_of_statsmodels_come_back(name):
    pytest.importorskip("statsmodels")
    table = tables.small(name)
    assert table.target in table.train
    codec = TableCodec.fit(table.train)
    same(codec.decode(codec.encode(table.train)), table.train, exact=False)


@needs_tables
def test_splits_are_disjoint_and_named_by_their_seed():
    table = tables.small("iris")
    first, rest = table.split(0.7, seed=0)
    assert (len(first), len(rest)) == (105, 45)
    joined = pd.concat([first, rest]).sort_values(list(table.train.columns)).reset_index(drop=True)
    same(joined, table.train.sort_values(list(table.train.columns)).reset_index(drop=True))
    assert table.split(0.7, seed=0)[0].equals(first) and not table.split(0.7, seed=1)[0].equals(first)
    with pytest.raises(ValueError, match="fraction"):
        table.split(1.0, 0)
    with pytest.raises(ValueError, match="no small table 'titanic'"):
        tables.small("titanic")


def test_numbers_come_back_in_the_grain_they_were_measured_in():
    """Half centimetres from 7.5: nothing between, whatever the scores; and no such number can be held."""
    lengths = 0.075 + 0.005 * np.random.default_rng(0).integers(0, 140, 500)
    codec = TableCodec.fit(pd.DataFrame({"length": lengths.round(3)}))
    scores = {"num": torch.linspace(-3, 3, 400)[:, None]}
    made = codec.decode(scores)["length"].to_numpy()
    units = (made - 0.075) / 0.005
    assert np.abs(units - units.round()).max() < 1e-9
    assert made.min() == lengths.round(3).min() and made.max() == lengths.round(3).max()
    with pytest.raises(ValueError, match="in steps of 0.005: 0.1234 lies between"):
        codec.given({"length": 0.1234}, 1)
