"""Metrics of tables on cases that can be worked out by hand, their floors, and what the baselines promise."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp, spearmanr
from sklearn.metrics import f1_score, mutual_info_score, r2_score, roc_auc_score

from polydiff.tabular.baselines import Bootstrap, GaussianCopula, Independent, Interpolation
from polydiff.tabular.coder import Coder
from polydiff.tabular.imputers import Imputer
from polydiff.tabular.metrics import (
    alpha_precision,
    closer_to_train,
    closest_record,
    column_shapes,
    detection_auc,
    evaluate,
    imputation_coverage,
    imputation_error,
    machine_learning_efficiency,
    membership_inference,
    mutual_information,
    over_seeds,
    pair_trends,
    wasserstein,
)
from polydiff.tabular.ranking import auc_with_variance
from polydiff.tabular.utility import task_of


def mixed(n, seed):
    """Two dependent numbers, an integer, a category that follows them, a boolean, a date; nothing missing."""
    g = np.random.default_rng(seed)
    a = g.normal(size=n)
    b = 0.8 * a + 0.6 * g.normal(size=n)
    label = np.where(a + 0.3 * g.normal(size=n) > 0.5, "high", np.where(a < -0.5, "low", "middle"))
    return pd.DataFrame(
        {
            "a": a,
            "b": b,
            "count": g.poisson(4, n),
            "label": pd.Categorical(label, ["low", "middle", "high"]),
            "flag": g.random(n) < 0.3,
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(g.integers(0, 365, n), unit="D"),
        }
    )


@pytest.fixture(scope="module")
def tables():
    return mixed(400, 0), mixed(300, 1)


# ------------------------------------------------------------------ shapes and trends


def test_column_shapes_by_hand():
    real = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "c": list("aabb")})
    made = pd.DataFrame({"x": [1.0, 2.0, 9.0, 9.0], "c": list("abcd")})
    shapes = column_shapes(real, made)
    assert shapes["x"] == pytest.approx(0.5)
    assert shapes["c"] == pytest.approx(1 - 0.5 * (0.25 + 0.25 + 0.25 + 0.25))
    assert column_shapes(real, real).tolist() == [1.0, 1.0]


def test_column_shape_of_numbers_is_scipys_statistic(tables):
    train, test = tables
    assert column_shapes(train, test)["a"] == pytest.approx(1 - ks_2samp(train["a"], test["a"]).statistic)


def test_wrong_shares_of_missing_values_show_in_the_shape():
    real = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "c": ["a", "a", "b", "b"]})
    made = pd.DataFrame({"x": [1.0, 2.0, 3.0, np.nan], "c": ["a", "a", "b", None]})
    assert column_shapes(real, made).tolist() == pytest.approx([0.75, 0.75])
    still = pd.DataFrame({"x": [0.0, 0.0, 0.0, 0.0]})
    assert column_shapes(still, still.assign(x=[0.0, 0.0, np.nan, np.nan]))["x"] == pytest.approx(0.5)


def test_pair_trends_by_hand():
    real = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": [0.0, 1.0, 2.0, 3.0], "c": list("aabb"), "d": list("aabb")})
    made = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": [3.0, 2.0, 1.0, 0.0], "c": list("aabb"), "d": list("abab")})
    trends = pair_trends(real, made)
    assert trends["x", "y"] == pytest.approx(0.0)  # correlation 1 against −1
    assert trends["c", "d"] == pytest.approx(0.5)  # half of the mass is on pairs that never occur
    assert trends["x", "c"] == pytest.approx(1.0)
    assert trends["y", "c"] == pytest.approx(0.0)
    assert len(trends) == 6


def test_a_number_beyond_the_real_range_is_in_no_slice_of_it():
    real = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "c": list("aaaa")})
    made = pd.DataFrame({"x": [0.0, 1.0, 2.0, 30.0], "c": list("aaaa")})
    assert pair_trends(real, made)["x", "c"] == pytest.approx(0.75)


def test_a_correlation_that_was_lost_counts_as_zero_and_one_that_never_was_not_at_all():
    real = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 2.0], "z": [1.0, 1.0, 1.0]})
    made = pd.DataFrame({"x": [0.0, 0.0, 0.0], "y": [0.0, 1.0, 2.0], "z": [1.0, 1.0, 1.0]})
    trends = pair_trends(real, made)
    assert trends.to_dict() == {("x", "y"): pytest.approx(0.5)}


def test_the_order_of_synthetic_columns_does_not_matter(tables):
    train, test = tables
    turned = test[test.columns[::-1]]
    pd.testing.assert_series_equal(pair_trends(train, turned), pair_trends(train, test))
    pd.testing.assert_series_equal(column_shapes(train, turned), column_shapes(train, test))


def test_mutual_information_is_scikit_learns(tables):
    train, _ = tables
    found = mutual_information(train)
    assert found["label", "flag"] == pytest.approx(mutual_info_score(train["label"], train["flag"]))
    slices = np.floor((train["a"] - train["a"].min()) / (train["a"].max() - train["a"].min()) * 10).clip(upper=9)
    assert found["a", "label"] == pytest.approx(mutual_info_score(slices, train["label"]))
    assert found["a", "b"] > 5 * found["count", "flag"]


# ------------------------------------------------------------------ utility


def test_tasks_are_told_by_the_values():
    assert task_of(pd.Series(["a", "b"])) == "classification"
    assert task_of(pd.Series([True, False])) == "classification"
    assert task_of(pd.Series([0, 1, 2])) == "classification"
    assert task_of(pd.Series(range(50))) == "regression"
    assert task_of(pd.Series([0.0, 1.0])) == "regression"


@pytest.mark.parametrize("learner", ["boosting", "linear"])
def test_efficiency_of_the_training_table_itself_is_one(tables, learner):
    train, test = tables
    for target in ("label", "b"):
        found = machine_learning_efficiency(train, train, test, target, learner=learner, resamples=10)
        assert found.ratio() == 1.0
        assert next(iter(found.trtr.values())).estimate > 0.5


def test_efficiency_sees_that_independent_columns_are_useless(tables):
    train, test = tables
    made = Independent().fit(train).sample(400, 0)
    assert machine_learning_efficiency(made, train, test, "b", resamples=10).tstr["r2"].estimate < 0.1
    found = machine_learning_efficiency(made, train, test, "label", resamples=10)
    assert found.tstr["auc"].estimate == pytest.approx(0.5, abs=0.1)
    assert found.ratio() < 0.7 and found.ratio("auc") < 0.7


def test_scores_are_scikit_learns():
    from polydiff.tabular.utility import _SCORES

    g = np.random.default_rng(0)
    y, p = g.integers(0, 3, 200), g.dirichlet(np.ones(3), 200)
    table = np.concatenate([y[:, None], p], 1)
    assert _SCORES["classification"]["f1"](table) == pytest.approx(f1_score(y, p.argmax(1), average="macro"))
    assert _SCORES["classification"]["auc"](table) == pytest.approx(roc_auc_score(y, p, multi_class="ovr"))
    pair = g.normal(size=(50, 2))
    assert _SCORES["regression"]["r2"](pair) == pytest.approx(r2_score(pair[:, 0], pair[:, 1]))


@pytest.mark.parametrize("learner", ["boosting", "linear"])
def test_efficiency_takes_missing_values_new_levels_and_lost_classes(tables, learner):
    train, test = (t.copy() for t in tables)
    train.loc[::7, "a"] = np.nan
    train.loc[::11, "label"] = None
    test["flag"] = test["flag"].astype(object)
    test.loc[::5, "flag"] = "perhaps"
    found = machine_learning_efficiency(
        train[train["label"] == "low"], train, test, "label", learner=learner, resamples=5
    )
    assert found.tstr["auc"].estimate == 0.5  # one class was learned: nothing is ranked
    assert found.trtr["auc"].estimate > 0.8


def test_probabilities_of_a_learner_that_never_met_a_class_stay_in_their_places(tables):
    train, test = tables
    most = train["label"].value_counts().index[0]
    made, rest = (t[t["label"] != most] for t in (train, test))
    real = pd.concat([train, *[train[train["label"] == most]] * 4])  # the class it never met has the first place
    found = machine_learning_efficiency(made, real, rest, "label", learner="linear", resamples=5)
    assert found.tstr["auc"].estimate > 0.9 and found.tstr["accuracy"].estimate > 0.9


def test_efficiency_names_an_unknown_target(tables):
    with pytest.raises(ValueError, match="target='nope': the synthetic columns are"):
        machine_learning_efficiency(tables[0], *tables, "nope")


# ------------------------------------------------------------------ detection


def test_auc_and_its_variance():
    g = np.random.default_rng(0)
    value, _ = auc_with_variance(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0]))
    assert value == pytest.approx((1 + 1.5 + 2) / 6)
    draws = [auc_with_variance(g.normal(0.7, 1, 60), g.normal(0, 1, 90)) for _ in range(400)]
    areas, variances = np.array(draws).T
    assert areas.mean() == pytest.approx(0.5 * math.erfc(-0.7 / 2), abs=0.01)
    assert variances.mean() == pytest.approx(areas.var(ddof=1), rel=0.2)


@pytest.mark.parametrize("learner", ["boosting", "linear"])
def test_detection_is_a_coin_for_equal_laws_and_sure_of_a_shift(tables, learner):
    train, test = tables
    same = detection_auc(test, train, learner=learner)
    assert 0.5 in same and abs(same.estimate - 0.5) < 0.08
    moved = train.assign(a=train["a"] + 3)
    assert detection_auc(test, moved, learner=learner).estimate > 0.95


def test_only_trees_see_a_broken_dependence(tables):
    train, test = tables
    made = Independent().fit(train).sample(400, 0)
    assert detection_auc(test, made).estimate > 0.75
    assert detection_auc(test, made, learner="linear").estimate < 0.6


def test_detection_sees_levels_that_only_one_table_has():
    real = pd.DataFrame({"c": ["a", "b"] * 50})
    assert detection_auc(real, pd.DataFrame({"c": ["a", "z"] * 50})).estimate > 0.7


# ------------------------------------------------------------------ distances


def test_gower_distance_by_hand():
    reference = pd.DataFrame({"x": [0.0, 10.0], "c": ["a", "b"], "z": [1.0, np.nan]})
    rows = pd.DataFrame({"x": [1.0, 10.0, 0.0], "c": ["a", "z", "a"], "z": [1.0, np.nan, np.nan]})
    # Third row: to the first one, (0, same, missing against the low end of a constant column: ½ + ½).
    np.testing.assert_allclose(closest_record(rows, reference), [0.1, 1.0, 1.0])


def test_all_levels_are_equally_far_apart():
    reference = pd.DataFrame({"c": ["a"]})
    assert closest_record(pd.DataFrame({"c": [*list("abcd"), None]}), reference).tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]


def test_many_levels_need_no_wide_matrix():
    names = [f"level {i}" for i in range(10_000)]
    table = pd.DataFrame({"c": names, "x": np.linspace(0, 1, 10_000)})
    assert closest_record(table.iloc[:3], table).tolist() == [0.0, 0.0, 0.0]
    assert Coder.of(table).features(table).shape[1] < 60


def test_wasserstein_is_the_exact_cost_also_at_unequal_sizes():
    ot = pytest.importorskip("ot")
    g = np.random.default_rng(0)
    real = pd.DataFrame({"x": g.random(12), "y": g.random(12), "c": g.choice(list("ab"), 12)})
    made = pd.DataFrame({"x": g.random(30), "y": 2 * g.random(30), "c": g.choice(list("abc"), 30)})
    low, high = real[["x", "y"]].min(), real[["x", "y"]].max()
    a, b = (((f[["x", "y"]] - low) / (high - low)).to_numpy() for f in (real, made))
    cost = np.abs(a[:, None] - b[None]).sum(-1) + (real["c"].to_numpy()[:, None] != made["c"].to_numpy())
    exact = ot.emd2(np.full(12, 1 / 12), np.full(30, 1 / 30), cost)
    assert wasserstein(real, made).value == pytest.approx(exact)
    assert wasserstein(real, real).value == 0.0


def test_wasserstein_thins_what_is_too_large(monkeypatch):
    from polydiff.tabular import distances

    monkeypatch.setattr(distances, "_LARGEST", 50)
    for n, m, expected in ((120, 90, "N=50+50"), (20, 90, "N=20+40"), (90, 20, "N=40+20"), (10, 25, "N=10+25")):
        a, b = mixed(n, 0), mixed(m, 1)
        assert wasserstein(a, b).id.endswith(expected)


# ------------------------------------------------------------------ α-precision and β-recall


def synthcity(x, y):
    """Its ``AlphaPrecision.metrics`` at the mean of the real rows, in numpy and scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    alphas = np.linspace(0, 1, 30)
    radii = np.quantile(np.linalg.norm(x - x.mean(0), axis=1), alphas)
    to_center = np.linalg.norm(y - x.mean(0), axis=1)
    own = NearestNeighbors(n_neighbors=2).fit(x).kneighbors(x)[0][:, 1]
    other, nearest = (v[:, 0] for v in NearestNeighbors(n_neighbors=1).fit(y).kneighbors(x))
    depth = np.linalg.norm(y[nearest] - y.mean(0), axis=1)
    depths = np.quantile(depth, alphas)
    precision = [np.mean(to_center <= r) for r in radii]
    recall = [np.mean((other <= own) & (depth <= r)) for r in depths]
    return [1 - np.sum(np.abs(alphas - curve)) / np.sum(alphas) for curve in (precision, recall)]


def test_alpha_precision_is_that_of_synthcity(tables):
    train, test = (t[["a", "b", "label"]].iloc[:300] for t in tables)
    made = Independent().fit(train).sample(300, 0)

    def plain(df):
        numbers = (df[["a", "b"]] - test[["a", "b"]].min()) / (test[["a", "b"]].max() - test[["a", "b"]].min())
        return np.column_stack([numbers, *(df["label"] == v for v in train["label"].cat.categories)]).astype(float)

    for frame in (train, made):
        found = alpha_precision(test, frame)
        assert [found.precision, found.recall] == pytest.approx(synthcity(plain(test), plain(frame)), abs=1e-9)


def test_a_table_covers_itself_and_typical_rows_alone_do_not_cover(tables):
    train, test = (t.iloc[:300] for t in tables)
    itself = alpha_precision(test, test)
    assert itself.precision == pytest.approx(1, abs=0.01) and itself.recall == pytest.approx(1, abs=0.01)
    fresh = alpha_precision(test, train)
    assert fresh.precision > 0.9 and 0.3 < fresh.recall < 0.7
    middle = train.assign(a=0.0, b=0.0, count=4)
    assert alpha_precision(test, middle).recall < 0.5 * fresh.recall
    with pytest.raises(ValueError, match="both need at least two"):
        alpha_precision(test.head(1), test)


# ------------------------------------------------------------------ privacy


def test_copying_is_looked_for_in_as_many_rows_as_it_takes(tables):
    train, test = tables
    fresh = mixed(900, 7)
    assert "S=200:" in closer_to_train(fresh, train, test, limit=200).id
    assert "S=900:" in closer_to_train(fresh, train, test).id
    assert closer_to_train(train.iloc[:300], train.iloc[:300], test, limit=100).estimate == 1.0


def test_new_rows_are_as_near_to_training_as_to_held_out_rows(tables):
    train, test = tables
    fresh = mixed(2000, 7)
    share = closer_to_train(fresh, train, test)
    assert abs(share.estimate - 0.5) < 0.04 and share.high - share.low < 0.06
    assert abs(membership_inference(fresh, train, test).estimate - 0.5) < 0.06


def test_copies_are_found_out(tables):
    train, test = tables
    copies = train.sample(2000, replace=True, random_state=0)
    assert closer_to_train(copies, train.iloc[:300], test).estimate > 0.7
    every = closer_to_train(train.iloc[:300], train.iloc[:300], test)
    assert every.estimate == 1.0 and every.low > 0.98
    assert membership_inference(copies, train, test).estimate > 0.95


def test_ties_are_left_out():
    table = pd.DataFrame({"c": ["a", "b"] * 10})
    tied = closer_to_train(table, table, table)
    assert (tied.estimate, tied.low, tied.high) == (0.5, 0.0, 1.0)
    train, holdout = pd.DataFrame({"c": ["a", "b"]}), pd.DataFrame({"c": ["a", "z"]})
    found = closer_to_train(pd.DataFrame({"c": ["a", "a", "b", "z", "b"]}), train, holdout)
    assert found.estimate == pytest.approx(2 / 3) and "ties=2" in found.id


# ------------------------------------------------------------------ imputation


def test_imputation_error_by_hand():
    truth = pd.DataFrame({"x": [0.0, 5.0, 10.0], "c": ["a", "b", "a"]})
    holes = np.array([[True, True], [True, False], [False, True]])
    first = pd.DataFrame({"x": [1.0, 5.0, 10.0], "c": ["a", "b", "b"]})
    second = pd.DataFrame({"x": [0.0, 7.0, 10.0], "c": ["b", "b", "a"]})
    one = imputation_error(truth, first, holes)
    assert (one.average, one.least) == pytest.approx(((0.1 + 1) / 4, (0.1 + 1) / 4))
    both = imputation_error(truth, [first, second], holes)
    assert both.average == pytest.approx((0.1 + 1 + 0.2 + 1) / 8)
    assert both.least == pytest.approx((0.1 + 0 + 0) / 4)  # rows: 0.1 or 1; 0 or .2; 1 or 0
    assert both.numeric == pytest.approx(0.3 / 4)
    assert both.categorical == pytest.approx(2 / 4)


def test_an_open_hole_is_named():
    truth = pd.DataFrame({"x": [0.0, 1.0], "c": ["a", "b"]})
    holes = np.array([[True, False], [False, True]])
    with pytest.raises(ValueError, match="draw 0 has left a hole of column 'x' open"):
        imputation_error(truth, truth.assign(x=[np.nan, 1.0]), holes)
    with pytest.raises(ValueError, match="draw 0 has left a hole of column 'c' open"):
        imputation_error(truth, truth.assign(c=["a", None]), holes)
    with pytest.raises(ValueError, match=r"holes of shape \(2, 1\)"):
        imputation_error(truth, truth, holes[:, :1])


def test_coverage_of_exchangeable_draws_is_the_level():
    g = np.random.default_rng(0)
    draws = g.normal(size=(21, 4000))
    truth, *tables = (pd.DataFrame({"x": d}) for d in draws)
    holes = np.ones((4000, 1), bool)
    assert 0.9 in imputation_coverage(truth, tables, holes)
    narrow = [t * 0.5 for t in tables]
    assert imputation_coverage(truth, narrow, holes).high < 0.75
    with pytest.raises(ValueError, match="18 draws: intervals of 90% need at least 19"):
        imputation_coverage(truth, tables[:18], holes)
    assert 0.9 in imputation_coverage(truth, tables[:19], holes)


@pytest.mark.parametrize("method", ["mean", "neighbours", "forest"])
def test_imputers_fill_holes_alone_and_beat_the_mean_where_columns_depend(method):
    truth = mixed(200, 3)
    holes = np.random.default_rng(0).random(truth.shape) < 0.2
    table = truth.astype({"count": "Int64", "flag": "boolean"}).mask(holes)
    filled = Imputer(method, trees=8, rounds=2).impute(table)
    assert filled.dtypes.to_dict() == table.dtypes.to_dict()
    assert not filled.isna().any().any()
    kept = ~holes
    assert (filled.astype(object).to_numpy()[kept] == table.astype(object).to_numpy()[kept]).all()
    error = imputation_error(truth, filled.astype({"count": "int64", "flag": bool}), holes)
    plain = Imputer("mean").impute(table).astype({"count": "int64", "flag": bool})
    assert method == "mean" or error.average < 0.97 * imputation_error(truth, plain, holes).average


def test_a_column_without_values_cannot_be_imputed():
    with pytest.raises(ValueError, match="column 'x' has no value at all"):
        Imputer().impute(pd.DataFrame({"x": [np.nan, np.nan], "y": [1.0, 2.0]}))


# ------------------------------------------------------------------ baselines


BASELINES = [Bootstrap, Independent, GaussianCopula, Interpolation]


@pytest.mark.parametrize("make", BASELINES)
def test_baselines_give_the_table_back_in_kind(make):
    table = mixed(80, 0).astype({"count": "Int64"})
    table.loc[::9, "count"] = pd.NA
    table.loc[::8, "a"] = np.nan
    fitted = make().fit(table, "label")
    made = fitted.sample(300, 5)
    assert made.dtypes.to_dict() == table.dtypes.to_dict()
    assert list(made.columns) == list(table.columns) and len(made) == 300 and made.index.tolist() == list(range(300))
    pd.testing.assert_frame_equal(made, fitted.sample(300, 5))
    assert not made.equals(fitted.sample(300, 6))
    assert made["a"].isna().mean() == pytest.approx(1 / 8, abs=0.08)
    assert len(fitted.sample(0)) == 0


@pytest.mark.parametrize("make", [Bootstrap, Independent, GaussianCopula])
def test_baselines_keep_the_margins(make):
    table = mixed(500, 0)
    assert column_shapes(table, make().fit(table).sample(4000, 1)).min() > 0.95


def test_independent_columns_forget_and_the_copula_keeps_rank_correlations():
    table = mixed(800, 0).assign(b=lambda d: np.exp(d["b"]))
    rho = spearmanr(table["a"], table["b"]).statistic
    lost, kept = (m().fit(table).sample(4000, 0) for m in (Independent, GaussianCopula))
    assert abs(spearmanr(lost["a"], lost["b"]).statistic) < 0.06
    assert spearmanr(kept["a"], kept["b"]).statistic == pytest.approx(rho, abs=0.04)
    assert rho > 0.7


def test_smote_rows_lie_between_neighbours_of_their_class():
    table = pd.DataFrame({"x": [0.0, 1.0, 2.0, 10.0, 11.0, 12.0], "c": list("aaabbb")})
    made = Interpolation(k=2).fit(table, "c").sample(500, 0)
    for name, low, high in (("a", 0, 2), ("b", 10, 12)):
        x = made.loc[made["c"] == name, "x"]
        assert len(x) > 200 and x.between(low, high).all()
    assert made["x"].nunique() > 400
    alone = Interpolation(k=2).fit(table.iloc[[0, 3]], "c").sample(20, 0)  # a class of one row repeats it
    assert set(alone["x"]) == {0.0, 10.0}


def test_smote_without_a_class_still_stays_near():
    table = pd.DataFrame({"x": [0, 1, 100, 101], "c": list("abab")})
    made = Interpolation(k=1).fit(table).sample(200, 0)
    assert made["x"].dtype == table["x"].dtype
    assert set(made["x"]) <= {0, 1, 100, 101}


@pytest.mark.parametrize("make", BASELINES)
def test_baselines_refuse_what_they_cannot_use(make):
    with pytest.raises(ValueError, match="no rows"):
        make().fit(pd.DataFrame({"x": []}))
    with pytest.raises(ValueError, match="target='z'"):
        make().fit(pd.DataFrame({"x": [1.0]}), "z")
    with pytest.raises(RuntimeError, match="call fit first"):
        make().sample(1)
    assert make().fit(pd.DataFrame({"x": [1.0]})).sample(3)["x"].tolist() == [1.0] * 3


# ------------------------------------------------------------------ the report


def test_the_report_of_new_rows_is_its_floor_and_that_of_copies_warns(tables):
    train, test = tables
    report = evaluate(mixed(600, 9), train, test, target="label", learners=["linear"], limit=300)
    assert report["TSTR f1 linear"].value == pytest.approx(report["TSTR f1 linear"].floor, abs=0.08)
    assert report["detection AUC linear"].value == pytest.approx(0.5, abs=0.08)
    assert report["shape error %"].value == pytest.approx(report["shape error %"].floor, rel=0.6)
    assert report["wasserstein"].value == pytest.approx(report["wasserstein"].floor, rel=0.15)
    assert report["coverage"].value > 0.9
    assert report["closer to train"].value == pytest.approx(0.5, abs=0.08)
    copies = evaluate(train, train, test, target="label", learners=["boosting"], limit=200)
    assert copies["closer to train"].value > 0.75
    assert copies["TSTR f1 boosting"].value == copies["TSTR f1 boosting"].floor
    assert "95 % interval" in copies["membership AUC"].meaning


def test_over_seeds_is_a_mean_with_its_interval(tables):
    train, test = tables
    reports = [evaluate(mixed(200, s), train, test, learners=[], limit=100) for s in (1, 2, 3)]
    table = over_seeds(reports)
    values = [r["wasserstein"].value for r in reports]
    row = table.loc["wasserstein"]
    assert row["mean"] == pytest.approx(np.mean(values)) and row["runs"] == 3
    assert row["high"] - row["mean"] == pytest.approx(4.302653 * np.std(values, ddof=1) / math.sqrt(3))


def test_metrics_name_what_is_wrong(tables):
    train, test = tables
    with pytest.raises(ValueError, match="need .* in every frame"):
        evaluate(train.drop(columns="a"), train, test)
    twice = pd.DataFrame([[1.0, 2.0]], columns=["x", "x"])
    with pytest.raises(ValueError, match="column 'x' occurs twice"):
        column_shapes(twice, twice)
    with pytest.raises(ValueError, match="categorical='q'"):
        column_shapes(train, test, categorical=["q"])
