"""Conditions: every row meets them, and the law of the rest of the row is the exact one, for an exact model of a known law."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare, ks_2samp, norm

from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Categorical, Joint, Mixture
from polydiff.core.evaluation import mmd_permutation_test
from polydiff.core.processes import Discrete, Gaussian, Product
from polydiff.core.processes.tokens import carry_over
from polydiff.core.schedules import Cosine
from polydiff.tabular import NumberTransform, Schema, TableCodec, TabularGenerator, recipes

# c in {a, b, z}, y in {u, v, missing}; z goes with v almost always: a set on c must be heard by y
TABLE = np.array([[0.20, 0.05, 0.05], [0.05, 0.15, 0.10], [0.01, 0.37, 0.02]])
MEAN = np.array(
    [[[-1.0, 0.5], [-0.5, 0.0], [0.0, 1.0]], [[0.5, -1.0], [1.0, 0.0], [0.0, 0.0]], [[2.0, 2.0], [1.5, -2.0], [0, 2]]]
)
STD = np.array([[0.5, 0.8], [0.7, 0.4], [0.6, 0.6]])[:, None] * np.ones((1, 3, 1))
C, Y = np.array(["a", "b", "z"], dtype=object), np.array(["u", "v", None], dtype=object)


def exact_rows(n, seed=0):
    g = np.random.default_rng(seed)
    z = g.choice(9, n, p=TABLE.ravel())
    c, y = np.divmod(z, 3)
    x = MEAN[c, y] + STD[c, y] * g.normal(size=(n, 2))
    return pd.DataFrame({"c": C[c], "x1": x[:, 0], "y": Y[y], "x2": x[:, 1]})


def exact_law(x_t, t, ctx):
    """Posterior of the mixture of nine cells, with given entries free of noise."""
    num, cat = x_t["num"].double(), x_t["cat"]
    at = Gaussian(Cosine()).at(t)
    told = torch.zeros_like(num, dtype=torch.bool) if ctx.known is None else ctx.known["num"]
    a, g = torch.where(told, 1.0, float(at.a)).double()[:, None], torch.where(told, 0.0, float(at.g)).double()[:, None]
    mean, std = (torch.as_tensor(v.reshape(9, 2)) for v in (MEAN, STD))
    var = (a * std) ** 2 + g**2
    gap = num[:, None] - a * mean
    logits = torch.as_tensor(TABLE.ravel()).log() - (0.5 * gap**2 / var + 0.5 * var.log()).sum(2)
    levels = torch.stack([torch.arange(9) // 3, torch.arange(9) % 3], 1)
    fits = ((cat[:, None] == levels) | (cat[:, None] == 3)).all(2)
    logits = torch.where(fits, logits, -torch.inf)
    p = logits.softmax(1).view(-1, 3, 3)
    law = Categorical(torch.stack([p.sum(2), p.sum(1)], 1).log())
    numbers = Mixture(logits, mean + a * std**2 / var * gap, std * g * var**-0.5)
    return Joint({"num": numbers, "cat": carry_over(cat, law, 3)})


@pytest.fixture(scope="module")
def exact():
    df = exact_rows(4000)
    found = Schema.infer(df)
    wide = [
        dataclasses.replace(c, minimum=-9.0, maximum=9.0, decimals=None) if c.continuous else c for c in found.columns
    ]
    ends = np.array([-9.0, 9.0])
    identity = NumberTransform(ends, ends, np.zeros(0), False)
    gen = TabularGenerator(recipes.small(), device="cpu")
    gen.codec = TableCodec(Schema(tuple(wide)), {1: identity, 3: identity})
    process = Product(num=Gaussian(Cosine()), cat=Discrete.absorbing(3))
    gen.model = FunctionDenoiser(process, exact_law, sees_known=True)
    return gen


def cells(df):
    """Counts of the nine cells."""
    y = df["y"].fillna("none")
    return np.array([[((df["c"] == c) & (y == (v or "none"))).sum() for v in Y] for c in C])


def agrees(counts, p):
    """Chi-squared test of counts against probabilities, those of no mass left out."""
    p = np.asarray(p, dtype=np.float64).ravel() / np.sum(p)
    counts = np.ravel(counts)
    assert counts[p == 0].sum() == 0
    return chisquare(counts[p > 0], counts.sum() * p[p > 0]).pvalue > 1e-3


def test_the_model_is_exact_without_conditions(exact):
    made = exact.sample(3000, steps=60)
    assert agrees(cells(made), TABLE)
    assert ks_2samp(made["x1"], exact_rows(20_000, 1)["x1"]).pvalue > 1e-3


def test_a_held_level_leaves_the_law_of_the_rest(exact):
    made = exact.sample(3000, where={"c": "a"}, steps=60)
    assert (made["c"] == "a").all()
    assert agrees(cells(made)[0], TABLE[0])


def test_a_held_missing_value_is_missing_and_moves_the_rest(exact):
    made = exact.sample(3000, where={"y": None}, steps=60)
    assert made["y"].isna().all()
    assert agrees(cells(made)[:, 2], TABLE[:, 2])


def test_a_held_number_moves_the_levels_by_bayes(exact):
    made = exact.sample(4000, where={"x1": 0.75}, steps=60)
    assert np.allclose(made["x1"], 0.75, atol=1e-5)
    assert agrees(cells(made), TABLE * norm.pdf(0.75, MEAN[..., 0], STD[..., 0]))


@pytest.mark.parametrize(
    ("where", "keep"),
    [
        ({"c": {"a", "b"}}, np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0]])),
        ({"y": ["u", None]}, np.array([[1, 0, 1]] * 3)),
        ({"c": {"b", "z"}, "y": {"u", None}}, np.array([[0, 0, 0], [1, 0, 1], [1, 0, 1]])),
    ],
)
def test_sets_leave_the_law_of_the_rest(exact, where, keep):
    """Levels that were restricted one by one while the rest is noisy would leave y with the v of z."""
    made = exact.sample(4000, where=where, steps=60)
    assert agrees(cells(made), TABLE * keep)
    truth = exact_rows(60_000, 2)
    truth = truth[truth["c"].isin(C[keep.any(1)]) & truth["y"].isin(Y[keep.any(0)])]
    assert ks_2samp(made["x2"], truth["x2"]).pvalue > 1e-3


def test_sets_go_with_held_values_and_do_not_depend_on_the_batch(exact):
    where = {"c": {"a", "z"}, "y": {"u", "v"}, "x1": 1.0}
    made = exact.sample(50, where=where, steps=10)
    assert made["c"].isin(["a", "z"]).all() and made["y"].isin(["u", "v"]).all() and np.allclose(made["x1"], 1.0)
    pd.testing.assert_frame_equal(made, exact.sample(50, where=where, steps=10, batch_size=7))


@pytest.mark.slow
@pytest.mark.parametrize("held", [{}, {"c": {"a", "b"}}])
def test_the_law_within_a_range_is_that_of_the_filtered_rows(exact, held):
    low, high = 0.2, 1.4
    made = exact.sample(1200, where={"x1": (low, high), **held}, steps=60)
    assert made["x1"].between(low, high).all()
    mass = norm.cdf(high, MEAN[..., 0], STD[..., 0]) - norm.cdf(low, MEAN[..., 0], STD[..., 0])
    weights = TABLE * mass * (np.array([[1], [1], [0]]) if held else 1)
    assert agrees(cells(made), weights)
    share = weights.sum() / (TABLE * (np.array([[1], [1], [0]]) if held else 1)).sum()
    assert made.attrs["accepted"] == pytest.approx(share, abs=0.05)

    everyone = exact_rows(20_000, 3)
    everyone = everyone[everyone["c"] != "z"] if held else everyone
    real = everyone[everyone["x1"].between(low, high)].head(1200)
    assert mmd_permutation_test(features(real), features(made), permutations=200).p_value > 0.01
    assert mmd_permutation_test(features(everyone.head(1200)), features(made), permutations=200).p_value < 0.01


def features(df):
    y = df["y"].fillna("none")
    return np.column_stack([df["x1"], df["x2"], *(df["c"] == c for c in C), *(y == (v or "none") for v in Y)]).astype(
        float
    )


@pytest.mark.parametrize(
    ("where", "word"),
    [
        ({"x1": (1.0, 0.0)}, "column 'x1' is held to"),
        ({"x1": (None, None)}, "column 'x1' is held to"),
        ({"x1": ("low", None)}, "column 'x1' is numeric: 'low' is no end"),
        ({"c": ("a", "b")}, "column 'c' has no order"),
        ({"c": {"q"}}, "column 'c' takes 'a', 'b', 'z'"),
        ({"c": {None}}, "column 'c' had no missing values"),
        ({"nope": (0, 1)}, "no column 'nope'"),
    ],
)
def test_conditions_that_make_no_sense_name_the_column(exact, where, word):
    with pytest.raises(ValueError, match=word):
        exact.sample(2, where=where)


def test_sets_that_never_meet_are_given_up(exact, monkeypatch):
    from polydiff.tabular import limits

    monkeypatch.setattr(limits, "_ROUNDS", 3)
    with pytest.raises(ValueError, match="no row lies in all of the sets"):
        exact.sample(400, where={"c": {"z"}, "y": {"u"}}, steps=2)


def test_ranges_of_ordered_levels_are_sets_and_times_may_be_texts():
    g = np.random.default_rng(0)
    df = pd.DataFrame(
        {
            "grade": g.integers(1, 6, 200),
            "size": pd.Categorical(g.choice(["s", "m", "l"], 200), ["s", "m", "l"], ordered=True),
            "when": pd.Timestamp("2024-01-01", tz="Europe/Paris") + pd.to_timedelta(g.integers(0, 300, 200), unit="D"),
        }
    )
    gen = TabularGenerator(dataclasses.replace(recipes.small(), width=32, depth=1)).fit(df, steps=2, progress=False)
    made = gen.sample(40, where={"grade": (2, 4), "size": ("m", None)}, steps=4)
    assert made["grade"].between(2, 4).all() and set(made["size"]) <= {"m", "l"} and "accepted" not in made.attrs
    late = gen.sample(20, where={"when": ("2024-03-01", None)}, steps=4)
    assert (late["when"] >= pd.Timestamp("2024-03-01", tz="Europe/Paris")).all()
    with pytest.raises(ValueError, match="column 'when' is of type"):
        gen.sample(2, where={"when": ("soon", None)})
    with pytest.raises(ValueError, match="column 'grade' has no level within"):
        gen.sample(2, where={"grade": (9, None)})
