"""Boosted trees as a denoiser: tensors against scikit-learn, the law against its optimum, verbs, saving."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FieldPreconditioners, VelocityPrediction
from polydiff.core.distributions import Joint
from polydiff.tabular.boosted import BoostedConfig, BoostedGenerator, boosted_model, fit_trees
from polydiff.tabular.trees import TreeEnsemble

SETTINGS = {"max_iter": 12, "max_leaf_nodes": 9, "max_depth": 5, "early_stopping": False}
CONFIG = BoostedConfig(levels=6, duplicates=10, trees=15, leaves=8, depth=4, rate=0.3)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows(n=400, holes=0.2, seed=0):
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, 4)).astype(np.float32)
    y = np.sin(3 * x[:, 0]) + x[:, 1] * (x[:, 2] > 0)
    x[g.uniform(size=x.shape) < holes] = np.nan
    return x, y


def frame(n=150, seed=0):
    g = np.random.default_rng(seed)
    x = g.normal(size=n)
    level = np.where(x > 0.5, "high", np.where(x < -0.5, "low", "middle"))
    return pd.DataFrame(
        {
            "x": x,
            "y": np.where(g.uniform(size=n) < 0.2, np.nan, 2 * x + 0.1 * g.normal(size=n)),
            "level": pd.Categorical(level),
            "flag": x > 0,
        }
    )


@pytest.fixture(scope="module")
def fitted():
    return BoostedGenerator(CONFIG).fit(frame())


# ------------------------------------------------------------------ trees


@pytest.mark.parametrize("holes", [0.0, 0.2])
def test_trees_predict_what_scikit_learn_predicts(holes):
    x, y = rows(holes=holes)
    classes = (y > -0.5).astype(int) + (y > 0.5)
    number = HistGradientBoostingRegressor(**SETTINGS).fit(x, y)
    three = HistGradientBoostingClassifier(**SETTINGS).fit(x, classes)
    two = HistGradientBoostingClassifier(**SETTINGS).fit(x, classes > 0)
    trees = TreeEnsemble(2, 5, 12, 9, 5)
    trees.put(1, [4], number)
    trees.put(1, [0, 3, 2], three)
    trees.put(1, [1], two)
    new, _ = rows(3000, holes, seed=1)
    out = trees(torch.from_numpy(new), torch.ones(len(new), dtype=torch.long)).numpy()
    np.testing.assert_allclose(out[:, 4], number.predict(new), atol=3e-6)
    np.testing.assert_allclose(out[:, [0, 3, 2]], three.decision_function(new), atol=3e-6)
    np.testing.assert_allclose(out[:, 1], two.decision_function(new), atol=3e-6)


def test_inputs_on_a_threshold_go_left():
    """Float32 inputs beside a float64 threshold: rounding it to the nearest would send some to the other side."""
    g = np.random.default_rng(0)
    x = (1 + 1e-6 * g.uniform(size=(500, 1))).astype(np.float32)  # a dozen neighbouring float32 numbers
    y = g.normal(size=500) + 100 * (x[:, 0] > np.median(x))
    fitted = HistGradientBoostingRegressor(**SETTINGS, min_samples_leaf=1).fit(x, y)
    trees = TreeEnsemble(1, 1, 12, 9, 5)
    trees.put(0, [0], fitted)
    edge = np.nextafter(x, np.float32(0))
    for points in (x, edge):
        out = trees(torch.from_numpy(points), torch.zeros(500, dtype=torch.long))[:, 0]
        np.testing.assert_allclose(out.numpy(), fitted.predict(points), atol=1e-4)


def test_each_row_takes_the_trees_of_its_group():
    x, y = rows(holes=0.0)
    trees = TreeEnsemble(3, 1, 12, 9, 5)
    made = [HistGradientBoostingRegressor(**SETTINGS).fit(x, (k + 1) * y) for k in range(3)]
    for k, fitted in enumerate(made):
        trees.put(k, [0], fitted)
    group = torch.arange(len(x)) % 3
    wanted = np.stack([f.predict(x) for f in made])[group.numpy(), np.arange(len(x))]
    np.testing.assert_allclose(trees(torch.from_numpy(x), group)[:, 0].numpy(), wanted, atol=1e-5)
    assert trees(torch.from_numpy(x[:0]), group[:0]).shape == (0, 1)


def test_trees_that_do_not_fit_are_refused():
    x, y = rows(holes=0.0)
    fitted = HistGradientBoostingRegressor(**SETTINGS).fit(x, y)
    with pytest.raises(ValueError, match="at most 11"):
        TreeEnsemble(1, 1, 11, 9, 5).put(0, [0], fitted)
    with pytest.raises(ValueError, match="depth"):
        TreeEnsemble(1, 1, 12, 9, 2).put(0, [0], fitted)
    sets = HistGradientBoostingRegressor(**SETTINGS, categorical_features=[3]).fit(
        np.c_[x[:, :3], np.arange(400) % 7], y
    )
    sets_used = any(t[0].nodes["is_categorical"].any() for t in sets._predictors)
    strong = HistGradientBoostingRegressor(**SETTINGS, categorical_features=[0]).fit(
        (np.arange(400) % 7)[:, None], np.arange(400) % 7 % 2
    )
    assert sets_used or strong._predictors[0][0].nodes["is_categorical"].any()
    with pytest.raises(ValueError, match="sets of categories"):
        TreeEnsemble(1, 1, 12, 9, 5).put(0, [0], strong)


# ------------------------------------------------------------------ the law


def law(model, x_t, t, ctx=Context()):
    with torch.no_grad():
        found = model(x_t, t, ctx)
    assert isinstance(found, Joint)
    return found.fields


@pytest.mark.parametrize("numbers", ["flow", "gaussian"])
def test_the_estimate_is_the_best_one_of_a_known_law(numbers):
    """Two correlated normal numbers: E[x_0 | x_t] is linear with known coefficients."""
    g = np.random.default_rng(0)
    cov = np.array([[1.0, 0.8], [0.8, 1.0]])
    x0 = torch.tensor(g.multivariate_normal([0, 0], cov, 3000), dtype=torch.float32)
    config = BoostedConfig(numbers=numbers, levels=3, duplicates=6, trees=60, share=0.0)
    model = boosted_model(config, 2, [])
    fit_trees(model, {"num": x0}, config)
    for t in (1 / 3, 2 / 3):
        process = model.process.fields["num"]
        a, _, s = (float(c) for c in process.coef(t, Context()))
        x_t = process.marginal(x0, t).sample(Rng(1))
        gain = a * cov @ np.linalg.inv(a * a * cov + s * s * np.eye(2))
        exact = x_t.double().numpy() @ gain.T
        found = law(model, {"num": x_t}, t)["num"].mean.numpy()
        inside = (np.abs(exact) < 2).all(1)
        error = ((found - exact)[inside] ** 2).mean()
        spread = (exact[inside] ** 2).mean()
        assert error < 0.03 * spread
    other = boosted_model(config, 2, [])  # the targets follow the preconditioner, whatever it is
    if numbers == "flow":
        other.preconditioner = FieldPreconditioners(num=VelocityPrediction())
        fit_trees(other, {"num": x0}, config)
        again = law(other, {"num": x_t}, t)["num"].mean.numpy()
        assert ((again - exact)[inside] ** 2).mean() < 0.06 * spread


def test_the_posterior_of_levels_is_that_of_the_table():
    """Two cells of 3 and 2 levels: masked alone, a cell has its conditional frequencies; masked together, its margin."""
    g = np.random.default_rng(1)
    joint = np.array([[0.3, 0.1], [0.05, 0.25], [0.1, 0.2]])
    pick = g.choice(6, 4000, p=joint.ravel())
    data = {"cat": torch.tensor(np.stack([pick // 2, pick % 2], 1))}
    config = BoostedConfig(levels=4, duplicates=3, trees=40, share=0.0)
    model = boosted_model(config, 0, [3, 2])
    fit_trees(model, data, config)
    real = np.zeros((3, 2))
    np.add.at(real, (pick // 2, pick % 2), 1 / len(pick))
    hidden = torch.tensor([[3, 0], [3, 1], [0, 3], [1, 3], [2, 3], [3, 3]])
    probs = law(model, {"cat": hidden}, 0.5)["cat"].inner.probs.numpy()
    assert probs.shape == (6, 2, 3)
    np.testing.assert_allclose(probs[:2, 0], (real / real.sum(0)).T, atol=0.03)
    np.testing.assert_allclose(probs[2:5, 1, :2], real / real.sum(1, keepdims=True), atol=0.03)
    np.testing.assert_allclose(probs[5, 0], real.sum(1), atol=0.03)
    assert (probs[:, 1, 2] == 0).all()  # the second cell has no third level


def test_every_copy_teaches_a_level():
    """At the last time one row in twenty is masked; its cell is learned from all rows none the less."""
    first = torch.arange(60) % 3
    data = {"cat": torch.stack([first, (first + 1) % 3], 1)}
    config = BoostedConfig(levels=20, duplicates=1, trees=40, leaf_rows=1, share=0.0)
    model = boosted_model(config, 0, [3, 3])
    fit_trees(model, data, config)
    probs = law(model, {"cat": torch.tensor([[0, 3], [1, 3], [2, 3]])}, 0.05)["cat"].inner.probs[:, 1]
    assert (probs[range(3), [1, 2, 0]] > 0.9).all()


def test_given_cells_are_read_and_their_noisy_values_are_not():
    g = np.random.default_rng(0)
    x = torch.tensor(g.normal(size=(500, 1)), dtype=torch.float32)
    data = {"num": torch.cat([x, x], 1)}  # the second number is the first
    config = BoostedConfig(levels=4, duplicates=10, trees=60, share=1.0)
    model = boosted_model(config, 2, [])
    fit_trees(model, data, config, groups={"num": torch.tensor([0, 1])})
    known = torch.tensor([[True, False]]).expand(500, 2)
    noise = Rng(3).normal(torch.empty(500, 2))
    ctx = Context(known={"num": known}, given=data)
    found = law(model, {"num": noise}, 1.0, ctx)["num"].mean
    assert float((found[:, 1] - x[:, 0]).pow(2).mean()) < 0.1
    untold = law(model, {"num": noise}, 1.0)["num"].mean
    assert float((untold[:, 1] - x[:, 0]).pow(2).mean()) > 0.7
    noise[:, 0] = 9.0
    assert torch.equal(law(model, {"num": noise}, 1.0, ctx)["num"].mean[:, 1], found[:, 1])


# ------------------------------------------------------------------ verbs


def test_samples_conditions_and_holes(fitted):
    df = frame()
    made = fitted.sample(60, seed=3)
    assert made.dtypes.equals(df.dtypes)
    pd.testing.assert_frame_equal(made, fitted.sample(60, seed=3, batch_size=17))
    high = fitted.sample(60, where={"level": "high"})
    assert (high["level"] == "high").all()
    assert high["x"].mean() > 0.6
    assert (fitted.sample(30, where={"level": {"low", "high"}})["level"] != "middle").all()
    holes = df.head(40).assign(x=np.nan)
    whole = fitted.impute(holes)
    there = df["y"].head(40).notna()
    assert np.corrcoef(whole["x"][there], df["x"].head(40)[there])[0, 1] > 0.8
    pd.testing.assert_series_equal(whole["flag"], df["flag"].head(40))
    assert np.isfinite(fitted.score_samples(df.head(10))).all()


def test_a_saved_generator_samples_the_same_rows(fitted, tmp_path):
    folder = fitted.save(tmp_path / "model")
    again = BoostedGenerator.load(folder)
    assert again.config == CONFIG
    pd.testing.assert_frame_equal(again.sample(30), fitted.sample(30))


def test_fits_are_reproducible_and_change_with_the_seed(fitted):
    again = BoostedGenerator(CONFIG).fit(frame())
    for key, value in fitted.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])
    assert [r["time"] for r in again.history.records] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_what_has_no_meaning_is_refused():
    df = frame(30)
    with pytest.raises(ValueError, match="steps=5"):
        BoostedGenerator(CONFIG).fit(df, steps=5)
    with pytest.raises(ValueError, match="callbacks"):
        BoostedGenerator(CONFIG).fit(df, callbacks=[print])
    with pytest.raises(ValueError, match="trees=0"):
        BoostedConfig(trees=0)
    with pytest.raises(ValueError, match="100 levels"):
        boosted_model(CONFIG, 1, [100])


def test_parameters_are_those_of_scikit_learn(fitted):
    from sklearn.base import clone

    copy = clone(fitted)
    assert copy.model is None and copy.config == CONFIG
    assert BoostedGenerator().config == BoostedConfig()
    assert copy.set_params(seed=4).config == CONFIG


def test_rare_levels_are_kept_apart():
    """Levels of a classifier that sees one, two or all of a column's levels."""
    config = BoostedConfig(levels=1, duplicates=4, trees=5, leaf_rows=1, share=0.0)
    for shown in ([1], [0, 2], [0, 1, 2]):
        data = {"cat": torch.tensor(shown * 6)[:, None]}
        model = boosted_model(config, 0, [3])
        fit_trees(model, data, config)
        probs = law(model, {"cat": torch.tensor([[3]])}, 1.0)["cat"].inner.probs[0, 0]
        assert probs[shown].sum() > 0.999
        assert probs[shown] == pytest.approx(torch.full((len(shown),), 1 / len(shown)), abs=1e-3)
    for shown in (0, 1):  # a binary cell of one value
        model = boosted_model(config, 0, [2])
        fit_trees(model, {"cat": torch.full((6, 1), shown)}, config)
        assert law(model, {"cat": torch.tensor([[2]])}, 1.0)["cat"].inner.probs[0, 0, shown] > 0.999
