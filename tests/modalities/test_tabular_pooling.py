"""One table from several draws, and the fit that stops when it copies."""

import numpy as np
import pandas as pd
import pytest

from polydiff.tabular import Schema, TableConfig, TabularGenerator
from polydiff.tabular.pooling import pooled


def draws():
    first = pd.DataFrame(
        {
            "x": [1.0, 2.0, 3.0],
            "n": [1, 2, 30],
            "level": pd.Categorical(["a", "b", "a"], categories=["a", "b", "c"]),
            "day": pd.to_datetime(["2020-01-01", "2020-01-05", "2020-01-09"], utc=True),
            "one": [7, 7, 7],
        }
    )
    second = first.assign(x=[2.0, 2.0, 1.0], n=[5, 2, 1], level=first["level"].to_numpy()[[1, 1, 0]])
    second["level"] = pd.Categorical(["b", "b", "a"], categories=["a", "b", "c"])
    third = first.assign(x=[3.0, 1.0, 2.0], n=[9, 30, 2], day=first["day"].to_numpy()[[0, 2, 0]])
    third["day"] = third["day"].dt.tz_localize("UTC") if third["day"].dt.tz is None else third["day"]
    return [first, second, third]


def test_numbers_take_the_median_and_levels_the_vote():
    tables = draws()
    schema = Schema.infer(tables[0], {"level": "category"})
    got = pooled(schema, tables)
    assert got["x"].tolist() == [2.0, 2.0, 2.0]
    assert got["n"].tolist() == [5, 2, 2]
    assert got["level"].tolist() == ["a", "b", "a"]
    assert got["day"].tolist() == [tables[0]["day"][i] for i in (0, 1, 2)]
    assert got["one"].tolist() == [7, 7, 7]
    assert got.dtypes.tolist() == tables[0].dtypes.tolist()
    with pytest.raises(ValueError, match="no draw"):
        pooled(schema, [])


def test_a_pooled_imputation_keeps_what_was_there_and_errs_less():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    df = pd.DataFrame({"x": x, "y": x + 0.5 * rng.normal(size=400), "up": np.where(x > 0, "yes", "no")})
    gen = TabularGenerator(TableConfig(width=64, depth=2, frequencies=0, steps=200, batch_size=128)).fit(df)
    holes = df.copy()
    holes.loc[::2, "y"] = np.nan
    holes.loc[1::2, "up"] = None
    one, many = gen.impute(holes, seed=1), gen.impute(holes, draws=15, pool=True, seed=1)
    assert isinstance(one, pd.DataFrame) and isinstance(many, pd.DataFrame)
    pd.testing.assert_frame_equal(many.where(holes.notna()), holes.where(holes.notna()), check_dtype=False)
    errors = [(f["y"] - df["y"])[::2].abs().mean() for f in (one, many)]
    assert errors[1] < 0.85 * errors[0]
    assert (many["up"] == df["up"])[1::2].mean() >= (one["up"] == df["up"])[1::2].mean()


@pytest.mark.slow
def test_a_fit_with_a_holdout_stops_when_it_copies():
    """Sixty rows, a network that can learn them by heart, and no regularisation."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(260, 4)), columns=list("abcd"))
    config = TableConfig(width=256, depth=3, steps=6000, batch_size=60, share=0.0)
    gen = TabularGenerator(config)
    with pytest.warns(UserWarning, match="the model copies"):
        gen.fit(rows.head(60), holdout=rows.tail(200).reset_index(drop=True), progress=False)
    assert gen.history is not None
    assert gen.history.records[-1]["step"] < 6000
