"""Guidance of conditions and imputation: 1 changes nothing, more heeds the told cells more, whatever the processes."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from polydiff.tabular import BoostedConfig, BoostedGenerator, TabularGenerator, recipes

COMBINATIONS = [*itertools.product(("gaussian", "flow"), ("absorbing", "uniform", "onehot"), ("none",))]
COMBINATIONS += [("gaussian", kind, "learned") for kind in ("absorbing", "uniform", "onehot")]


def config(numbers, categories, clocks, **changes):
    base = dataclasses.replace(recipes.small(), width=64, depth=2, sample_steps=8, dropout=0.0)
    return dataclasses.replace(base, numbers=numbers, categories=categories, clocks=clocks, **changes)


def table(n, seed=0):
    """``second`` is yes for nine of ten a, one of five b; ``number`` follows both."""
    rng = np.random.default_rng(seed)
    first = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    second = (rng.uniform(size=n) < np.array([0.9, 0.2, 0.5])[first]).astype(int)
    return pd.DataFrame(
        {
            "first": pd.Categorical(np.array(["a", "b", "c"])[first]),
            "second": np.array(["no", "yes"])[second],
            "number": 2.0 * second - first + 0.3 * rng.normal(size=n),
        }
    )


@pytest.fixture(scope="module")
def fitted():
    return TabularGenerator(config("gaussian", "absorbing", "none", share=0.5)).fit(
        table(400), steps=120, progress=False
    )


def holes(n=60):
    df = table(n, seed=3)
    df.loc[::2, "number"] = np.nan
    df.loc[::3, "second"] = None
    return df


def test_scale_one_is_what_it_was(fitted):
    where = {"first": "c", "second": ["no", "yes"]}
    assert fitted.sample(40, where=where, seed=2, guidance=1.0).equals(fitted.sample(40, where=where, seed=2))
    assert fitted.impute(holes(), seed=2, guidance=1).equals(fitted.impute(holes(), seed=2))


def test_more_guidance_moves_the_rest_further_from_the_margins(fitted):
    """``first`` pulls ``second`` (.9 and .2 of yes) and ``number``: a guided row follows it more than the data do."""
    made = {s: fitted.sample(400, where={"first": "a"}, seed=1, guidance=s) for s in (1.0, 3.0)}
    assert all((m["first"] == "a").all() for m in made.values())
    yes = {s: float((m["second"] == "yes").mean()) for s, m in made.items()}
    assert yes[3.0] > yes[1.0] + 0.02
    assert made[3.0]["number"].mean() > made[1.0]["number"].mean()
    sets = fitted.sample(200, where={"first": {"a", "b"}}, guidance=2.0)
    assert set(sets["first"]) <= {"a", "b"}


def test_rows_without_a_told_cell_are_left_as_they_are(fitted):
    df = holes(20)
    df.iloc[:5] = [[None, None, np.nan]] * 5
    plain, guided = (fitted.impute(df, seed=4, guidance=s) for s in (1.0, 3.0))
    assert plain.head(5)[["first", "second"]].equals(guided.head(5)[["first", "second"]])
    np.testing.assert_allclose(plain["number"].head(5), guided["number"].head(5), atol=1e-4)
    assert not np.allclose(plain["number"].tail(15), guided["number"].tail(15), atol=1e-2)


def test_a_guided_row_does_not_depend_on_the_batch(fitted):
    whole, parts = (fitted.impute(holes(), seed=5, guidance=2.0, batch_size=b) for b in (1000, 7))
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("numbers", "categories", "clocks"), COMBINATIONS)
def test_every_combination_can_be_guided(numbers, categories, clocks):
    gen = TabularGenerator(config(numbers, categories, clocks)).fit(table(200), steps=4, progress=False)
    held = gen.sample(9, where={"first": "c", "number": 0.5}, guidance=2.0)
    assert (held["first"] == "c").all() and np.allclose(held["number"], 0.5)
    whole = gen.impute(holes(), guidance=1.5)
    there = holes().notna()
    assert not whole.isna().any().any() and (whole["second"] == holes()["second"])[there["second"]].all()


def test_trees_can_be_guided():
    gen = BoostedGenerator(BoostedConfig(levels=2, duplicates=2, trees=2)).fit(table(200), progress=False)
    assert (gen.sample(9, where={"first": "c"}, guidance=2.0)["first"] == "c").all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.sample(3, guidance=2.0), "guidance=2.0: where=None holds no cell"),
        (lambda g: g.sample(3, where={"number": (0.0, None)}, guidance=2.0), "holds no cell that could guide"),
        (lambda g: g.sample(3, where={"first": "a"}, guidance=np.nan), "guidance=nan: need a finite number"),
        (lambda g: g.impute(holes(), guidance="much"), "guidance='much': need a finite number"),
    ],
)
def test_refusals(fitted, call, message):
    with pytest.raises(ValueError, match=message):
        call(fitted)
