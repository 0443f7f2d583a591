"""Tables in files: a .csv with dates comes back with dates; what only looks like one stays a text."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polydiff.cli import Fit, Sample
from polydiff.core.frames import write_frame
from polydiff.tabular import commands
from polydiff.tabular.files import read_table, with_dates

PYARROW = importlib.util.find_spec("pyarrow") is not None


def days(n=60):
    g = np.random.default_rng(0)
    start = pd.Timestamp("2024-01-01")
    return pd.DataFrame(
        {
            "day": start + pd.to_timedelta(g.integers(0, 300, n), unit="D"),
            "moment": start + pd.to_timedelta(g.integers(0, 10**7, n), unit="s"),
            "kind": g.choice(["a", "b"], n),
            "size": g.normal(size=n).round(3),
        }
    )


def test_dates_of_a_csv_come_back_as_dates(tmp_path):
    df = days()
    df.loc[3, "moment"] = pd.NaT
    write_frame(df, tmp_path / "deep" / "a.csv")
    back = read_table(tmp_path / "deep" / "a.csv")
    assert list(back.columns) == list(df.columns)
    for name in ("day", "moment"):
        assert pd.api.types.is_datetime64_dtype(back[name].dtype)
        assert ((back[name] == df[name]) | (back[name].isna() & df[name].isna())).all()
    assert back["kind"].tolist() == df["kind"].tolist() and back["size"].equals(df["size"])


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        (["2024-03-01", None, "2023-12-31"], pd.Timestamp("2024-03-01")),
        (["2024-03-01 12:30", "2024-03-01T12:30:15.25"], pd.Timestamp("2024-03-01 12:30")),
        (["2024-03-01T12:00:00Z", "2024-03-02T12:00:00Z"], pd.Timestamp("2024-03-01 12:00", tz="UTC")),
        (["2024-01-01T12:00:00+01:00", "2024-07-01T12:00:00+02:00"], pd.Timestamp("2024-01-01 11:00", tz="UTC")),
    ],
)
def test_iso_dates_are_moments(texts, first):
    found = with_dates(pd.DataFrame({"x": texts, "other": "b"}))
    assert found["x"].iloc[0] == first and found["other"].tolist() == ["b"] * len(texts)
    assert found["x"].isna().tolist() == [t is None for t in texts]


@pytest.mark.parametrize(
    "texts",
    [
        ["2024-03-01", "unknown"],
        ["2024-13-45", "2024-01-01"],
        ["2024-03", "2024-04"],
        ["12/03/2024", "01/02/2024"],
        ["20240301", "20240302"],
        [None, None],
        ["2024-03-01-a", "2024-03-02-b"],
    ],
)
def test_what_only_looks_like_a_date_stays_a_text(texts):
    df = pd.DataFrame({"x": pd.Series(texts, dtype=object)})
    assert with_dates(df)["x"].equals(df["x"])


def test_the_argument_is_left_alone():
    df = pd.DataFrame({"x": ["2024-03-01"]})
    assert with_dates(df)["x"].iloc[0] == pd.Timestamp("2024-03-01") and df["x"].iloc[0] == "2024-03-01"


def test_a_csv_with_dates_is_learned_and_sampled(tmp_path):
    days().to_csv(tmp_path / "own.csv", index=False)
    commands.fit(Fit("tabular", str(tmp_path / "own.csv"), tmp_path / "m", recipe="small", steps=2))
    commands.sample(Sample(tmp_path / "m", tmp_path / "new.csv", n=9, steps=2, label="kind=b", guidance=1.5))
    made = read_table(tmp_path / "new.csv")
    assert made.dtypes.drop("kind").equals(read_table(tmp_path / "own.csv").dtypes.drop("kind"))
    assert (made["kind"] == "b").all() and made["day"].between("2024-01-01", "2024-12-31").all()
    first = str(days()["day"].min().date())
    commands.sample(Sample(tmp_path / "m", tmp_path / "held.csv", n=4, steps=2, label=f"day={first}"))
    assert (read_table(tmp_path / "held.csv")["day"] == first).all()


@pytest.mark.skipif(not PYARROW, reason="pyarrow is not installed: there is nothing that reads parquet")
def test_parquet_comes_back_as_it_was(tmp_path):
    write_frame(days(), tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "a.parquet"), days())


def test_parquet_without_pyarrow_is_refused_in_one_sentence(tmp_path, monkeypatch):
    def absent(*args, **kwargs):
        raise ImportError("no engine")

    if PYARROW:
        monkeypatch.setattr(pd, "read_parquet", absent)
        monkeypatch.setattr(pd.DataFrame, "to_parquet", absent)
    path = tmp_path / "a.parquet"
    with pytest.raises(ValueError, match=r"out=.*a\.parquet: parquet needs pyarrow; \.csv needs nothing"):
        write_frame(days(), path)
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"data=.*a\.parquet': parquet needs pyarrow; \.csv needs nothing"):
        commands.fit(Fit("tabular", str(path), tmp_path / "m", recipe="small", steps=2))


def test_another_ending_is_refused():
    with pytest.raises(ValueError, match=r"out=a\.txt: need a name ending in \.csv or \.parquet"):
        write_frame(days(), Path("a.txt"))
