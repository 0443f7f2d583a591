"""Every form of series in and out, and bad input in one sentence."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from polydiff.timeseries import TimeSeriesGenerator, recipes
from polydiff.timeseries.data import SeriesCodec
from polydiff.timeseries.forms import collect
from polydiff.timeseries.series import rebuild

TINY = dataclasses.replace(recipes.mixed(8, 3), width=8, depth=1, sample_steps=2, batch_size=8)
WAVES = np.stack([np.sin(np.arange(30) / 3 + k) + 5 * k for k in range(3)])
HOURS = pd.date_range("2024-03-01", periods=30, freq="h")


def long(values=WAVES, stamps=HOURS):
    parts = [pd.DataFrame({"unique_id": f"s{i}", "ds": stamps, "y": v}) for i, v in enumerate(values)]
    return pd.concat(parts, ignore_index=True)


def fitted(data, config=TINY, steps=1, **kind):
    return TimeSeriesGenerator(config).fit(data, steps=steps, progress=False, **kind)


@pytest.fixture(scope="module")
def plain():
    return fitted(long())


def values_of(found):
    return np.stack([s.values[:, 0] for s in found.series])


# ------------------------------------------------------------------ forms

FORMS = {
    "long": lambda: long(),
    "wide, apart": lambda: pd.DataFrame(WAVES.T, HOURS, ["a", "b", "c"]),
    "dict": lambda: {f"s{i}": v for i, v in enumerate(WAVES)},
    "dict of pandas": lambda: {f"s{i}": pd.Series(v, HOURS) for i, v in enumerate(WAVES)},
    "dict of torch": lambda: {f"s{i}": torch.as_tensor(v) for i, v in enumerate(WAVES)},
    "list": lambda: list(WAVES),
    "list of lists": lambda: WAVES.tolist(),
    "array": lambda: WAVES,
    "array of three axes": lambda: WAVES[..., None],
    "torch": lambda: torch.as_tensor(WAVES),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_the_same_values(form):
    data = FORMS[form]()
    kept = data.copy() if isinstance(data, (pd.DataFrame, np.ndarray)) else None
    found = collect(data, joint=False)
    assert np.array_equal(values_of(found), WAVES)
    if kept is not None:
        assert kept.equals(data) if isinstance(data, pd.DataFrame) else np.array_equal(kept, data)


def test_columns_are_channels_or_series():
    wide = pd.DataFrame(WAVES.T, HOURS, ["a", "b", "c"])
    together = collect(wide)
    assert (len(together.series), together.channels) == (1, ("a", "b", "c"))
    assert np.array_equal(together.series[0].values, WAVES.T)
    apart = collect(wide, joint=False)
    assert [s.name for s in apart.series] == ["a", "b", "c"]
    assert collect(pd.Series(WAVES[0], HOURS, name="flow")).channels == ("flow",)


def test_channels_of_arrays_and_long_frames():
    assert collect(np.zeros((2, 9, 3)) + np.arange(9)[:, None]).channels == ("y0", "y1", "y2")
    frame = long().assign(z=1.0, price=2.0)
    assert collect(frame).channels == ("y",)
    both = collect(frame, target=["y", "z"], known=["price"])
    assert (both.channels, both.features) == (("y", "z"), ("price",))
    one = collect(long()[["ds", "y"]].head(30))
    assert len(one.series) == 1


def test_other_names_of_columns():
    frame = long().rename(columns={"unique_id": "shop", "ds": "day", "y": "sales"})
    found = collect(frame, id_col="shop", time_col="day")
    assert found.channels == ("sales",)
    assert [s.name for s in found.series] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("form", [f for f in FORMS if f != "torch"])
def test_what_comes_back_has_the_form_of_what_went_in(form):
    data = FORMS[form]()
    gen = fitted(data, joint=False)
    back = gen.impute(data, progress=False)
    if isinstance(data, pd.DataFrame):
        assert list(back.columns) == list(data.columns)
        pd.testing.assert_frame_equal(back, data, check_freq=False, check_dtype=False)
    elif isinstance(data, np.ndarray):
        assert np.allclose(back, data.reshape(back.shape))
    else:
        names = data if isinstance(data, dict) else range(3)
        assert all(np.allclose(back[n], WAVES[i]) for i, n in enumerate(names))
    mean = gen.forecast(data, 4, 3, progress=False).mean
    assert np.asarray(mean if not isinstance(mean, dict) else list(mean.values())).shape[0] in (3, 4, 12)


def test_ragged_series_are_padded():
    data = {"long": WAVES[0], "short": WAVES[1, :5], "one": WAVES[2, :1]}
    gen = fitted(data)
    made = gen.forecast(data, 4, 5, progress=False)
    assert made.samples.shape == (3, 5, 4, 1)
    assert np.isfinite(made.samples).all()
    back = gen.impute(data, progress=False)
    assert [len(back[k]) for k in data] == [30, 5, 1]


def test_missing_stamps_become_missing_rows():
    frame = long(WAVES[:1]).drop(index=[4, 5, 20])
    found = collect(frame)
    assert len(found.series[0]) == 30
    assert np.flatnonzero(np.isnan(found.series[0].values[:, 0])).tolist() == [4, 5, 20]
    back = fitted(long(), steps=1).impute(frame, progress=False)
    assert back["ds"].tolist() == HOURS.tolist()
    assert np.isfinite(back["y"]).all()
    there = ~np.isin(np.arange(30), [4, 5, 20])
    assert np.allclose(back["y"][there], WAVES[0][there], rtol=1e-12)


# ------------------------------------------------------------------ stamps


@pytest.mark.parametrize(
    "freq", ["h", "15min", "D", "B", "W-SUN", "W-WED", "MS", "ME", "QS", "QE", "YS", "YE", "2h", "s"]
)
def test_forecasts_follow_on_the_grid(freq):
    stamps = pd.date_range("2019-01-31", periods=31, freq=freq)
    made = fitted(long(WAVES, stamps[:30])).forecast(long(WAVES, stamps[:30]), 4, 2, progress=False)
    expected = pd.date_range(stamps[29], periods=5, freq=freq)[1:]
    assert made.stamps[0].equals(expected)
    frame = made.to_frame()
    assert frame["ds"].dtype.kind == "M"
    assert frame.groupby("unique_id").size().tolist() == [4, 4, 4]


def test_numbers_as_stamps():
    stamps = np.arange(100, 400, 10)
    found = collect(long(WAVES, stamps))
    assert (found.grid.kind, found.grid.step) == ("number", 10.0)
    made = fitted(long(WAVES, stamps)).forecast(long(WAVES, stamps), 3, 2, progress=False)
    assert made.stamps[0].tolist() == [400, 410, 420]


def test_whole_numbers_stay_whole():
    frame = long(WAVES, np.arange(30))
    made = fitted(frame).forecast(frame, 3, 2, progress=False)
    assert made.to_frame()["ds"].dtype.kind == "i"


def test_dates_as_text_and_as_objects():
    for column in (HOURS.astype(str), HOURS.to_pydatetime(), [t.date() for t in pd.date_range("2024", periods=30)]):
        frame = long(WAVES, pd.Index(column, dtype=object))
        assert collect(frame).grid.dated


def test_periods_as_stamps():
    months = pd.period_range("2020-01", periods=30, freq="M")
    found = collect(pd.DataFrame(WAVES.T, months), joint=False)
    assert found.grid.freq == "MS"
    assert found.series[0].stamps[0] == pd.Timestamp("2020-01-01")


def test_zones_come_back():
    aware = HOURS.tz_localize("Europe/Berlin")
    frame = long(WAVES, aware)
    gen = fitted(frame)
    made = gen.forecast(frame, 3, 2, progress=False).to_frame()
    assert str(made["ds"].dt.tz) == "Europe/Berlin"
    assert made["ds"].iloc[0] == aware[-1] + pd.Timedelta(hours=1)
    back = gen.impute(frame, progress=False)
    assert (back["ds"] == frame["ds"]).all()


@pytest.mark.parametrize("night", ["2024-03-30", "2024-10-26"])
def test_hours_go_on_through_a_change_of_clocks(night):
    aware = pd.date_range(night, periods=60, freq="h", tz="Europe/Berlin")
    series = np.sin(np.arange(60) / 3)[None]
    frame = long(series, aware)
    found = collect(frame)
    assert len(found.series[0]) == 60
    assert not np.isnan(found.series[0].values).any()
    back = fitted(frame).impute(frame, progress=False)
    assert (back["ds"] == frame["ds"]).all()


def test_irregular_stamps_need_the_transformer():
    g = np.random.default_rng(0)
    stamps = np.sort(g.uniform(0, 30, 30))
    frame = long(WAVES, stamps)
    with pytest.raises(ValueError, match="use network='transformer'"):
        fitted(frame)
    gen = fitted(frame, dataclasses.replace(TINY, network="transformer", heads=2))
    made = gen.forecast(frame, 3, 2, progress=False)
    assert (np.diff(made.stamps[0]) > 0).all()
    assert made.stamps[0][0] > stamps[-1]


def test_irregular_dates():
    g = np.random.default_rng(0)
    stamps = pd.Timestamp("2024") + pd.to_timedelta(np.sort(g.uniform(0, 1e6, 30)), unit="s")
    gen = fitted(long(WAVES, stamps), dataclasses.replace(TINY, network="transformer", heads=2))
    made = gen.forecast(long(WAVES, stamps), 3, 2, progress=False)
    assert made.stamps[0][0] > stamps[-1]


# ------------------------------------------------------------------ handled, not refused


def test_a_constant_is_forecast_as_a_constant():
    gen = fitted({"wave": WAVES[0], "flat": np.full(30, 7.0)}, steps=30)
    made = gen.forecast({"flat": np.full(30, 7.0)}, 5, 20, progress=False).samples
    assert np.abs(made - 7.0).max() < 0.1
    zero = gen.forecast({"flat": np.zeros(30)}, 5, 20, progress=False).samples
    assert np.abs(zero).max() < 0.1
    lonely = fitted([np.full(30, 7.0)]).forecast([np.full(30, 7.0)], 5, 20, progress=False).samples
    assert np.abs(lonely - 7.0).max() < 0.1


def test_a_constant_channel_beside_others():
    x = np.stack([WAVES[0], np.full(30, 3.0)], 1)[None]
    made = fitted(x).forecast(x, 5, 10, progress=False).samples
    assert np.abs(made[..., 1] - 3.0).max() < 0.1


def test_a_series_shorter_than_the_context_is_continued():
    gen = fitted(long())
    for n in (1, 2, 7):
        made = gen.forecast([WAVES[0, :n]] if False else long(WAVES[:1, :n], HOURS[:n]), 3, 4, progress=False)
        assert np.isfinite(made.samples).all()


def test_holes_in_the_context_are_handled():
    y = WAVES.copy()
    y[0, [20, 25, 29]] = np.nan
    gen = fitted(long(y))
    assert np.isfinite(gen.forecast(long(y), 3, 4, progress=False).samples).all()
    assert np.isfinite(gen.impute(long(y), progress=False)["y"]).all()


def test_horizons_beyond_the_model_go_on(plain):
    made = plain.forecast(long(), 11, 4, progress=False)
    assert made.samples.shape == (3, 4, 11, 1)
    assert np.isfinite(made.samples).all()
    assert np.allclose(made.samples[:, :, :3], plain.forecast(long(), 3, 4, progress=False).samples)
    assert np.allclose(made.samples[:, :, :2], plain.forecast(long(), 2, 4, progress=False).samples)


def test_numpy_integers_are_integers(plain):
    assert plain.forecast(long(), np.int64(2), np.int32(3), progress=False).samples.shape == (3, 3, 2, 1)


# ------------------------------------------------------------------ refused in one sentence


def _two(column, value, row=7):
    frame = long().astype({"y": object} if isinstance(value, str) else {})
    frame.loc[row, column] = value
    return frame


BAD = {
    "unsorted": (lambda: long(WAVES[:1]).iloc[[0, 2, 1, *range(3, 30)]], "'s0' is out of order at step 2"),
    "twice": (lambda: long(WAVES[:1]).iloc[[0, 1, 1, *range(2, 30)]], "'s0' has the stamp .* more than once"),
    "no stamp": (lambda: _two("ds", pd.NaT), "'s0' has a missing stamp at step 7"),
    "all missing": (lambda: long(np.full((2, 30), np.nan)), "every value is missing"),
    "no number": (lambda: _two("y", "much"), "column 'y' of series 's0' holds values that are no numbers"),
    "infinite": (lambda: _two("y", np.inf), "'s0' holds infinite values: mark missing ones as NaN"),
    "infinite in an array": (lambda: np.where(WAVES > 6, np.inf, WAVES), "infinite"),
    "empty": (lambda: long().head(0), "there is no series in the data"),
    "empty dict": (dict, "there is no series in the data"),
    "empty list": (list, "there is no series in the data"),
    "empty series": (lambda: {"a": np.zeros(0)}, "'a' has no step"),
    "no values": (lambda: long()[["unique_id", "ds"]], "no value column"),
    "one axis": (lambda: WAVES[0], r"array of shape \(30,\): need \(N, L\)"),
    "four axes": (lambda: WAVES[None, None], "need"),
    "text": (lambda: "sales.csv", "data of type str"),
    "number": (lambda: 3, "data of type int"),
    "text in a list": (lambda: [["a", "b"]], "holds values that are no numbers"),
    "unequal channels": (lambda: {"a": np.zeros((9, 2)), "b": np.zeros((9, 3))}, r"\[2, 3\] channels"),
    "stamps of no kind": (lambda: long().assign(ds="soon"), "'soon' .* is neither a date nor a number"),
    "booleans": (lambda: long().assign(ds=True), "booleans"),
    "one channel missing": (
        lambda: pd.DataFrame({"a": WAVES[0], "b": np.nan}, HOURS),
        "channel 'b' has no value at all",
    ),
    "too short": (lambda: [np.arange(3.0)], "longest series has 3 steps"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_series_are_refused(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        fitted(make())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.forecast(long(), 0), "horizon=0: need an integer of at least 1"),
        (lambda g: g.forecast(long(), 2.5), "horizon=2.5"),
        (lambda g: g.forecast(long(), 3, 0), "num_samples=0: need an integer of at least 1"),
        (lambda g: g.forecast(long(), 3, -2), "num_samples=-2"),
        (lambda g: g.forecast(long(), 3, 2, steps=0), "steps=0"),
        (lambda g: g.forecast(long(), 3, 2, batch_size=0), "batch_size=0"),
        (lambda g: g.forecast(long(np.where(np.arange(30) > 15, np.nan, WAVES))), "'s0' has no value in its last 8"),
        (lambda g: g.forecast(pd.DataFrame(WAVES.T, HOURS)), "channels .* was fitted to"),
        (lambda g: g.forecast(long(WAVES, np.arange(30))), "stamps are numbers: this model was fitted to dates"),
        (lambda g: g.impute(long(), draws=0), "draws=0"),
        (lambda g: g.sample(0), "n=0"),
        (lambda g: g.sample(2, 0), "length=0"),
        (lambda g: g.forecast(long().head(0), 3), "there is no series"),
    ],
)
def test_bad_questions_are_refused(plain, call, message):
    with pytest.raises(ValueError, match=message):
        call(plain)


def test_an_unfitted_generator_says_so():
    with pytest.raises(ValueError, match="call fit"):
        TimeSeriesGenerator().forecast(long())


def test_a_wrong_frequency_is_refused():
    with pytest.raises(ValueError, match="freq='D'"):
        fitted(long(), freq="D")


# ------------------------------------------------------------------ covariates


def covered(n=30):
    frame = long(WAVES[:, :n], HOURS[:n])
    return frame.assign(price=np.tile(np.arange(n) % 4, 3).astype(float), region=frame["unique_id"])


@pytest.fixture(scope="module")
def informed():
    return fitted(covered(27), known=["price"], static=["region"])


def test_covariates_of_the_future_are_read(informed):
    whole, past = covered(), covered(27)
    future = whole[whole["ds"] >= HOURS[27]].drop(columns="y")
    made = informed.forecast(past, 3, 4, future=future, progress=False)
    assert np.isfinite(made.samples).all()
    kept = future.copy()
    informed.forecast(past, 3, 4, future=future.assign(price=9.0), progress=False)
    pd.testing.assert_frame_equal(future, kept)


def test_missing_covariates_are_named(informed):
    with pytest.raises(ValueError, match=r"\['price'\]: pass it as future="):
        informed.forecast(covered(27), 3, 4, progress=False)
    whole = covered()
    future = whole[(whole["ds"] >= HOURS[27]) & (whole["unique_id"] != "s1")]
    with pytest.raises(ValueError, match="future has no rows of series 's1'"):
        informed.forecast(covered(27), 3, 4, future=future, progress=False)
    with pytest.raises(ValueError, match="future .*'s0'.* 2024-03-02 04"):
        informed.forecast(covered(27), 3, 4, future=whole[whole["ds"] == HOURS[27]], progress=False)


def test_other_levels_are_refused(informed):
    with pytest.raises(ValueError, match="'region' has the level 'moon'"):
        informed.forecast(covered(27).assign(region="moon"), 3, 4, future=covered(), progress=False)


def test_a_changing_static_column_is_refused():
    frame = covered()
    with pytest.raises(ValueError, match="static column 'price' changes"):
        fitted(frame, static=["price"])


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="column 'rain' is not in the frame"):
        fitted(long(), known=["rain"])


def test_loaded_models_remember_their_columns(informed, tmp_path):
    informed.save(tmp_path / "model")
    back = TimeSeriesGenerator.load(tmp_path / "model")
    ask = {"future": covered(), "seed": 2, "progress": False}
    assert np.array_equal(
        back.forecast(covered(27), 3, 4, **ask).samples, informed.forecast(covered(27), 3, 4, **ask).samples
    )


# ------------------------------------------------------------------ the codec


def test_the_codec_returns_to_the_units():
    found = collect(long())
    codec = SeriesCodec.fit(found)
    assert codec.decode(codec.encode(found))[..., 0] == pytest.approx(WAVES, abs=1e-12)
    again = SeriesCodec.from_config(codec.config(), codec.tensors())
    assert torch.equal(again.encode(found), codec.encode(found))


def test_rebuild_of_ragged_arrays_is_a_dict():
    back = rebuild("array", ["y"], [0, 1], [pd.RangeIndex(2), pd.RangeIndex(3)], [np.zeros((2, 1)), np.ones((3, 1))])
    assert {k: len(v) for k, v in back.items()} == {0: 2, 1: 3}
