"""GluonTS, darts and sktime by fakes that have exactly the attributes that are used; none of the three is needed."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from polydiff.timeseries import TimeSeriesGenerator, recipes
from polydiff.timeseries.adapters import DartsModel, GluonEstimator, GluonPredictor
from polydiff.timeseries.sktime_forecaster import SktimeForecaster

TINY = dataclasses.replace(recipes.forecasting(8, 3), width=8, depth=1, sample_steps=2, batch_size=8)
WAVES = np.stack([np.sin(np.arange(30) / 3 + k) + 5 * k for k in range(2)])
HOURS = pd.date_range("2024-03-01", periods=30, freq="h")


def generator():
    return TimeSeriesGenerator(TINY)


@pytest.fixture(scope="module")
def fitted():
    frame = pd.concat([pd.DataFrame({"unique_id": k, "ds": HOURS, "y": v}) for k, v in enumerate(WAVES)])
    return generator().fit(frame, steps=1, progress=False)


# ------------------------------------------------------------------ GluonTS


def entries(start=None):
    first = pd.Period("2024-03-01", freq="h") if start is None else start
    return [{"start": first, "target": v, "item_id": f"shop {k}"} for k, v in enumerate(WAVES)]


def test_a_forecast_an_entry(fitted):
    made = list(GluonPredictor(fitted, prediction_length=4, num_samples=7).predict(iter(entries())))
    direct = fitted.forecast({k: pd.Series(v, HOURS) for k, v in enumerate(WAVES)}, 4, 7, progress=False)
    for k, one in enumerate(made):
        assert one.item_id == f"shop {k}"
        assert one.samples.shape == (7, 4)
        assert one.start_date == pd.Period("2024-03-02 06:00", freq="h")
        assert one.prediction_length == len(one.index) == 4
        assert np.array_equal(one.samples, direct.samples[k, :, :, 0])
        assert np.allclose(one.mean, one.samples.mean(0))
        assert np.allclose(one.quantile("0.5"), one.median)
        assert (one.quantile(0.1) <= one.quantile(0.9)).all()


def test_rolling_windows_of_one_item_are_entries_of_their_own(fitted):
    whole = entries()[0]
    rolled = [{**whole, "target": whole["target"][:n]} for n in (20, 25, 30)]
    made = list(GluonPredictor(fitted, 2).predict(rolled, num_samples=3))
    assert [f.item_id for f in made] == ["shop 0"] * 3
    assert [f.start_date.hour for f in made] == [20, 1, 6]
    assert made[0].samples.shape == (3, 2)


def test_stamps_take_the_frequency_of_the_model(fitted):
    made = next(GluonPredictor(fitted).predict(entries(pd.Timestamp("2024-03-01"))[:1]))
    assert made.start_date == HOURS[-1] + pd.Timedelta(hours=1)
    assert made.prediction_length == TINY.horizon


def test_several_channels_are_the_first_axis():
    many = [{"start": pd.Period("2024-03-01", freq="D"), "target": WAVES, "item_id": 1}]
    predictor = GluonEstimator(generator(), prediction_length=5, num_samples=6, steps=1).train(many)
    made = next(iter(predictor.predict(many)))
    assert made.samples.shape == (6, 5, 2)
    assert abs(made.samples[..., 1].mean() - 5) < 3


def test_entries_without_start_or_frequency_are_refused(fitted):
    with pytest.raises(ValueError, match="need 'start' and 'target'"):
        list(GluonPredictor(fitted).predict([{"target": WAVES[0]}]))
    with pytest.raises(ValueError, match="has no frequency"):
        GluonEstimator(generator(), steps=1).train(entries(pd.Timestamp("2024-03-01")))
    with pytest.raises(ValueError, match="no entry"):
        GluonEstimator(generator(), steps=1).train([])
    assert list(GluonPredictor(fitted).predict([])) == []


# ------------------------------------------------------------------ darts


class FakeSeries:
    """What is used of darts' ``TimeSeries``."""

    def __init__(self, times, values, columns):
        self.time_index, self._values, self.components = times, values, columns

    def values(self):
        return self._values[:, :, 0]

    def all_values(self):
        return self._values

    @classmethod
    def from_times_and_values(cls, times, values, columns=None):
        return cls(times, values, columns)


class OldSeries:
    """What was used of it before: a frame alone."""

    def __init__(self, frame):
        self.frame = frame

    def pd_dataframe(self):
        return self.frame


class NewSeries(OldSeries):
    pd_dataframe = None

    def to_dataframe(self):
        return self.frame


def darts_series(channels=1, index=HOURS):
    values = np.stack([WAVES[k] for k in range(channels)], 1)[:, :, None]
    return FakeSeries(index, values, pd.Index([f"c{k}" for k in range(channels)]))


def test_a_series_in_and_out():
    series = darts_series(2)
    model = DartsModel(generator(), steps=1)
    assert model.fit(series) is model
    made = model.predict(4, num_samples=5)
    assert made.all_values().shape == (4, 2, 5)
    assert list(made.components) == ["c0", "c1"]
    assert made.time_index.equals(pd.date_range(HOURS[-1], periods=5, freq="h")[1:])
    middle = model.predict(4).all_values()
    assert middle.shape == (4, 2, 1)
    direct = model.predict(4, num_samples=100)
    assert np.allclose(middle[..., 0], np.median(direct.all_values(), -1))


def test_sequences_and_other_series():
    model = DartsModel(generator(), steps=1).fit([darts_series(), darts_series()])
    both = model.predict(3, num_samples=2)
    assert isinstance(both, list) and len(both) == 2
    other = model.predict(3, series=darts_series(), num_samples=2)
    assert np.array_equal(other.all_values(), both[0].all_values())


def test_whole_numbers_as_time_index():
    series = darts_series(index=pd.RangeIndex(10, 40))
    made = DartsModel(generator(), steps=1).fit(series).predict(3)
    assert made.time_index.tolist() == [40, 41, 42]
    assert made.time_index.dtype.kind == "i"


@pytest.mark.parametrize("kind", [OldSeries, NewSeries])
def test_frames_alone_are_enough(kind):
    frame = pd.DataFrame({"a": WAVES[0]}, HOURS)
    made = DartsModel(generator(), steps=1).fit(kind(frame)).predict(3)
    assert made.shape == (3, 1)


def test_what_is_no_series_is_refused():
    with pytest.raises(ValueError, match="need time_index and values"):
        DartsModel(generator(), steps=1).fit(object())
    with pytest.raises(ValueError, match="none was fitted"):
        DartsModel(generator()).predict(3)


# ------------------------------------------------------------------ sktime


class Relative:
    """What is used of sktime's ``ForecastingHorizon``."""

    def __init__(self, steps):
        self.steps = steps

    def to_relative(self, cutoff):
        assert len(cutoff) == 1
        return self

    def to_numpy(self):
        return np.asarray(self.steps)


@pytest.fixture(scope="module")
def forecaster():
    return SktimeForecaster(generator(), steps=1, num_samples=40).fit(pd.Series(WAVES[0], HOURS, name="sales"))


@pytest.mark.parametrize(
    "fh", [[1, 3], np.array([1, 3]), Relative([1, 3]), pd.DatetimeIndex(["2024-03-02 06:00", "2024-03-02 08:00"])]
)
def test_steps_ahead_in_every_form(forecaster, fh):
    made = forecaster.predict(fh)
    assert made.index.tolist() == [HOURS[-1] + pd.Timedelta(hours=h) for h in (1, 3)]
    assert made.name == "sales"
    assert np.array_equal(made, forecaster.predict([1, 2, 3]).iloc[[0, 2]])


def test_quantiles_and_intervals_have_their_columns(forecaster):
    q = forecaster.predict_quantiles([1, 2], alpha=[0.05, 0.5, 0.95])
    assert q.columns.tolist() == [("sales", 0.05), ("sales", 0.5), ("sales", 0.95)]
    assert np.allclose(q[("sales", 0.5)], forecaster.predict([1, 2]))
    band = forecaster.predict_interval([1, 2], coverage=[0.9, 0.5])
    assert band.columns.tolist() == [("sales", c, side) for c in (0.9, 0.5) for side in ("lower", "upper")]
    assert np.allclose(band[("sales", 0.9, "lower")], q[("sales", 0.05)])
    assert np.allclose(band[("sales", 0.9, "upper")], q[("sales", 0.95)])
    assert (band[("sales", 0.9, "lower")] <= band[("sales", 0.5, "lower")]).all()
    assert forecaster.predict_quantiles(1).shape == (1, 2)


def test_horizon_of_fit_and_nameless_series():
    y = pd.Series(WAVES[0], HOURS)
    made = SktimeForecaster(generator(), steps=1, num_samples=20).fit(y, fh=[2])
    assert made.predict().index.tolist() == [HOURS[-1] + pd.Timedelta(hours=2)]
    assert made.predict_interval().columns.tolist() == [(0, 0.9, "lower"), (0, 0.9, "upper")]
    assert made.predict().name is None
    assert made.cutoff.equals(HOURS[-1:])


@pytest.mark.parametrize(
    "index", [pd.period_range("2020-01", periods=30, freq="M"), pd.RangeIndex(30), pd.Index(range(5, 35))]
)
def test_the_index_comes_back_as_it_was(index):
    made = SktimeForecaster(generator(), steps=1, num_samples=20).fit(pd.Series(WAVES[0], index)).predict([1, 2])
    assert made.index.tolist() == [index[-1] + 1, index[-1] + 2]
    assert made.index.dtype == index.dtype


def test_absolute_periods_far_ahead():
    index = pd.period_range("2020-01", periods=30, freq="M")
    model = SktimeForecaster(generator(), steps=1, num_samples=20).fit(pd.Series(WAVES[0], index))
    far = pd.PeriodIndex([index[-1] + 2, index[-1] + 7])
    assert model.predict(far).index.tolist() == far.tolist()


def test_frames_of_several_channels():
    model = SktimeForecaster(generator(), steps=1, num_samples=20).fit(pd.DataFrame(WAVES.T, HOURS, ["a", "b"]))
    assert model.predict([1, 2]).columns.tolist() == ["a", "b"]
    q = model.predict_quantiles([1, 2], alpha=[0.1, 0.9])
    assert q.columns.tolist() == [("a", 0.1), ("a", 0.9), ("b", 0.1), ("b", 0.9)]
    assert (q[("a", 0.1)] <= q[("a", 0.9)]).all()
    assert q[("b", 0.1)].mean() > q[("a", 0.9)].mean()


def test_wrong_horizons_are_refused(forecaster):
    for fh in ([0, 1], [-1], [1.5], [], pd.DatetimeIndex(["2024-03-01"])):
        with pytest.raises(ValueError, match="steps after the end of y"):
            forecaster.predict(fh)
    with pytest.raises(ValueError, match="fh is missing"):
        forecaster.predict()
    with pytest.raises(ValueError, match="no series yet"):
        SktimeForecaster(generator()).predict([1])
    with pytest.raises(ValueError, match="X is given"):
        forecaster.predict([1], X=pd.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match="y is a ndarray"):
        SktimeForecaster(generator()).fit(WAVES[0])
