"""Time series: the stored values, the published cuts, windows that share nothing."""

import numpy as np
import pytest

from polydiff.datasets import data_folder
from polydiff.datasets import series_files as files
from polydiff.datasets.series import SeriesSet, sines, split_windows, windows

pd = pytest.importorskip("pandas")


def needs(file):
    return pytest.mark.skipif(
        not (data_folder() / "timeseries" / file).is_file(),
        reason=f"no {data_folder() / 'timeseries' / file}; set POLYDIFF_DATA",
    )


def made():
    """Two series of 20 and 13 steps; a value names its series and step."""
    parts = [
        pd.DataFrame(
            {"unique_id": name, "ds": pd.date_range("2020-01-01", periods=n, freq="D"), "y": base + np.arange(n)}
        )
        for name, n, base in (("b", 20, 100.0), ("a", 13, 200.0))
    ]
    return SeriesSet(pd.concat(parts, ignore_index=True), "D", 7, 3, 2, 4, "made", "here")


def test_the_cut_leaves_the_last_steps_of_each_series():
    data = made()
    assert len(data) == 2
    assert data.arrays(data.train)["b"].tolist() == list(range(100, 110))
    assert data.arrays(data.train)["a"].tolist() == [200, 201, 202]
    assert data.arrays(data.test)["b"].tolist() == list(range(114, 120))
    assert list(data.arrays()) == ["b", "a"]


def test_rolling_windows_see_all_that_is_before_them():
    data = made()
    found = [(data.arrays(h)["a"][-1], data.arrays(t)["a"].tolist()) for h, t in data.rolling()]
    assert found == [(206, [207, 208, 209]), (209, [210, 211, 212])]
    for history, truth in data.rolling():
        assert len(history.merge(truth, on=["unique_id", "ds"])) == 0
        assert (history.groupby("unique_id").ds.max() < truth.groupby("unique_id").ds.min()).all()
    truths = pd.concat([t for _, t in data.rolling()]).sort_values(["unique_id", "ds"])
    assert truths.y.tolist() == data.test.sort_values(["unique_id", "ds"]).y.tolist()


def test_wide_keeps_the_order_of_the_series():
    table = made().wide()
    assert list(table) == ["b", "a"] and table.shape == (20, 2)
    assert table["a"].notna().sum() == 13


# ------------------------------------------------------------------ windows


def test_windows_are_slices():
    x = np.arange(40.0).reshape(20, 2)
    found = windows(x, 6, 4)
    assert found.shape == (4, 6, 2)
    assert all((found[i] == x[4 * i : 4 * i + 6]).all() for i in range(4))
    assert windows(x[:, 0], 20).shape == (1, 20, 1)
    found[0] = -1
    assert x.min() == 0
    for length, stride, message in ((21, 1, "no window of 21"), (0, 1, "at least 1"), (3, 0, "at least 1")):
        with pytest.raises(ValueError, match=message):
            windows(x, length, stride)


@pytest.mark.parametrize("stride", [1, 5])
def test_held_out_windows_share_no_step_with_the_others(stride):
    x = np.arange(1003.0)
    train, held = split_windows(x, 12, stride=stride, blocks=20)
    assert not set(train.ravel()) & set(held.ravel())
    assert (np.diff(train[..., 0]) == 1).all() and (np.diff(held[..., 0]) == 1).all()
    assert 0.12 < len(held) / (len(held) + len(train)) < 0.28
    assert (train == split_windows(x, 12, stride=stride, blocks=20)[0]).all()
    assert any(split_windows(x, 12, seed=s)[1][0, 0, 0] != held[0, 0, 0] for s in range(1, 4))
    with pytest.raises(ValueError, match="take fewer blocks"):
        split_windows(x, 60)
    with pytest.raises(ValueError, match="some must be held out"):
        split_windows(x, 5, fraction=0.0)


def test_the_split_of_windows_never_changes():
    held = split_windows(np.arange(1000.0), 12)[1]
    assert sorted({int(v // 50) for v in held[:, 0, 0]}) == SPLIT


SPLIT = [2, 3, 11, 13]


# ------------------------------------------------------------------ sines


def test_sines_are_those_of_the_benchmark():
    x = sines(3000, seed=0)
    assert x.shape == (3000, 24, 5) and x.min() >= 0 and x.max() <= 1
    angle = np.arcsin(2 * x[:, :6] - 1)  # below π/2 for the first six steps
    frequency = np.diff(angle, axis=1)
    assert frequency == pytest.approx(np.broadcast_to(frequency[:, :1], frequency.shape), abs=1e-9)
    for values in (frequency[:, 0], angle[:, 0]):
        assert values.min() + 1e-12 >= 0 and values.max() <= 0.1
        assert np.quantile(values, [0.25, 0.5, 0.75]) == pytest.approx([0.025, 0.05, 0.075], abs=0.002)
    assert np.abs(np.corrcoef(np.concatenate([frequency[:, 0], angle[:, 0]], 1).T) - np.eye(10)).max() < 0.08
    assert (x == sines(3000, seed=0)).all() and (x != sines(3000, seed=1)).any()


# ------------------------------------------------------------------ real sets

CUTS = {
    "exchange_rate": ("exchange_rate.txt.gz", 8, 6071, 30, 5, 0),
    "etth1": ("ETTh1.csv.gz", 7, 8640, 24, 120, 2880),
    "m4_hourly": ("monash_tsf.tar.xz", 414, None, 48, 1, 0),
    "electricity_weekly": ("monash_tsf.tar.xz", 321, 148, 8, 1, 0),
    "beijing_pm25": ("beijing_pm25.csv.gz", 1, 43_824 - 720, 24, 30, 0),
    "melbourne": ("daily-min-temperatures.csv.gz", 1, 3290, 30, 12, 0),
    "sunspots": ("monthly-sunspots.csv.gz", 1, 2700, 24, 5, 0),
}


@pytest.mark.parametrize("name", [pytest.param(k, marks=needs(v[0])) for k, v in CUTS.items()])
def test_the_cuts_of_the_sets(name):
    _, count, train, horizon, rounds, val = CUTS[name]
    data = getattr(files, name)()
    assert (len(data), data.horizon, data.rounds, data.val) == (count, horizon, rounds, val)
    lengths = {len(v) for v in data.arrays(data.train).values()}
    assert lengths == ({700, 960} if train is None else {train})
    assert data.frame["unique_id"].nunique() * horizon * rounds == len(data.test)
    assert list(data.frame)[:3] == ["unique_id", "ds", "y"]
    if name != "melbourne":  # which lacks the last day of leap years
        one = data.frame[data.frame["unique_id"] == data.frame["unique_id"].iloc[-1]]["ds"]
        assert (one.to_numpy() == pd.date_range(one.iloc[0], periods=len(one), freq=data.freq).to_numpy()).all()


@needs("exchange_rate.txt.gz")
def test_exchange_rates_end_where_gluonts_ends_them():
    data = files.exchange_rate()
    assert data.wide().shape == (6221, 8)
    assert data.wide().iloc[0].tolist()[:2] == [0.7855, 1.611]


@needs("beijing_pm25.csv.gz")
def test_beijing_is_really_missing():
    frame = files.beijing_pm25().frame
    assert int(frame["y"].isna().sum()) == 2067
    assert frame.drop(columns="y").notna().all().all()
    assert list(frame["wind"].cat.categories) == ["NE", "NW", "SE", "calm"]
    assert frame.iloc[24][["y", "dew_point", "wind"]].tolist() == [129.0, -16.0, "SE"]


@needs("stock_data.csv.gz")
def test_stocks():
    data = files.stocks()
    assert data.values.shape == (3685, 6) and data.names[0] == "Open"
    assert (data.values[:, 1] >= data.values[:, 2]).all()  # high, low


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    import gzip

    (tmp_path / "timeseries").mkdir()
    (tmp_path / "timeseries" / "stock_data.csv.gz").write_bytes(gzip.compress(b"1,2"))
    monkeypatch.setenv("POLYDIFF_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="is pinned"):
        files.stocks()
    with pytest.raises(FileNotFoundError, match="exchange_rate"):
        files.exchange_rate()


@pytest.mark.parametrize(
    ("name", "count", "length", "missing"),
    [("co2", 1, 2284, 59), ("sunspots", 1, 309, 0), ("elnino", 1, 732, 0), ("macrodata", 12, 203, 0)],
)
def test_embedded_series(name, count, length, missing):
    pytest.importorskip("statsmodels")
    data = files.embedded(name)
    assert (len(data), len(data.frame) // count, int(data.frame["y"].isna().sum())) == (count, length, missing)
    one = data.frame[data.frame["unique_id"] == data.frame["unique_id"].iloc[0]]["ds"]
    assert (one.to_numpy() == pd.date_range(one.iloc[0], periods=length, freq=data.freq).to_numpy()).all()
    with pytest.raises(ValueError, match="no embedded series 'gdp'"):
        files.embedded("gdp")


def test_the_months_of_el_nino_are_in_order():
    pytest.importorskip("statsmodels")
    y = files.embedded("elnino").arrays()["elnino"].reshape(-1, 12)
    assert y[0, :2].tolist() == [23.11, 24.2]
    assert y.mean(0).argmax() in (1, 2) and y.mean(0).argmin() in (7, 8, 9)  # warm in the southern summer
