"""The transformer of tables: columns as tokens, told apart and mixed."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.tabular import TabularGenerator, recipes
from polydiff.tabular.transformer import TableTransformer


def trained_like(net):
    """Random weights everywhere, zero initialisations included."""
    rng = Rng(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * rng.normal(p))
    return net.double().eval()


def inputs(n=5, numbers=3, sizes=(2, 4)):
    rng = np.random.default_rng(0)
    x = {
        "num": torch.from_numpy(rng.normal(size=(n, numbers))),
        "cat": torch.from_numpy(rng.integers(0, sizes, (n, len(sizes)))),
    }
    return x, {k: torch.from_numpy(rng.normal(size=n)) for k in x}


def test_levels_that_a_column_lacks_are_impossible_and_the_mask_is_its_own():
    net = trained_like(TableTransformer(3, (2, 4), width=16, depth=2, heads=2))
    x, level = inputs()
    out = net(x, level, Context())
    assert out["num"].shape == (5, 3) and out["cat"].shape == (5, 2, 4)
    assert bool((out["cat"][:, 0, 2:] == -torch.inf).all()) and bool(out["cat"][:, 1].isfinite().all())
    masked = {**x, "cat": torch.full_like(x["cat"], 4)}  # the shared mask state, beyond the first column's two levels
    assert net.states.weight[[2, 7]].ne(net.states.weight[[0, 3]]).all()
    assert bool(net(masked, level, Context())["num"].isfinite().all())


def test_every_column_hears_of_every_other_and_of_what_is_told():
    net = trained_like(TableTransformer(3, (2, 4), width=16, depth=2, heads=2))
    x, level = inputs()
    base = net(x, level, Context())
    for field, column in (("num", 0), ("num", 2), ("cat", 1)):
        moved = {k: v.clone() for k, v in x.items()}
        moved[field][:, column] = (moved[field][:, column] + 1) % 4
        out = net(moved, level, Context())
        assert bool((out["num"] != base["num"]).all())
        assert bool((out["cat"][:, 0, :2] != base["cat"][:, 0, :2]).all())
    known = {k: torch.zeros(v.shape, dtype=torch.bool) for k, v in x.items()}
    same = net(x, level, Context(known=known, given=x))
    assert torch.equal(same["num"], base["num"])
    for field in known:
        told = {**known, field: torch.ones_like(known[field])}
        assert bool((net(x, level, Context(known=told, given=x))["num"] != base["num"]).all())


@pytest.mark.parametrize("part", ["num", "cat"])
def test_tables_of_one_kind(part):
    numbers, sizes = (2, ()) if part == "num" else (0, (3, 2))
    net = TableTransformer(numbers, sizes, width=16, depth=1, heads=2)
    x, level = inputs(4, numbers, sizes)
    one, level = {part: x[part] if part == "cat" else x[part].float()}, {part: level[part].float()}
    assert set(net(one, level, Context())) == {part}
    with pytest.raises(ValueError, match="at least one column"):
        TableTransformer(0, ())
    with pytest.raises(ValueError, match="multiple of heads"):
        dataclasses.replace(recipes.small(), heads=3)


@pytest.mark.slow
def test_it_learns_a_law_that_columns_share(tmp_path):
    rng = np.random.default_rng(0)
    up = rng.uniform(size=2000) < 0.3
    x = np.where(up, 2.0, -1.0) + 0.3 * rng.normal(size=2000)
    df = pd.DataFrame({"up": np.where(up, "yes", "no"), "x": x, "y": x**2 + 0.2 * rng.normal(size=2000)})
    config = dataclasses.replace(
        recipes.small(), network="transformer", width=64, dropout=0.0, frequencies=4, scale=1.0, steps=500, lr=2e-3
    )
    gen = TabularGenerator(config).fit(df, progress=False)
    made = gen.sample(4000, seed=1)
    assert abs((made["up"] == "yes").mean() - up.mean()) < 0.05
    assert ((made["x"] > 0.5) == (made["up"] == "yes")).mean() > 0.97
    assert np.corrcoef(made["x"] ** 2, made["y"])[0, 1] > 0.93
    gen.save(tmp_path / "m")
    pd.testing.assert_frame_equal(TabularGenerator.load(tmp_path / "m").sample(5), gen.sample(5))
