"""Time series of the data folder and of statsmodels, with the cuts that published figures use."""

from __future__ import annotations

import io
import tarfile
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from polydiff.datasets.folder import read_checked
from polydiff.datasets.series import Channels, SeriesSet, pandas

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "beijing_pm25",
    "electricity_weekly",
    "embedded",
    "etth1",
    "exchange_rate",
    "m4_hourly",
    "melbourne",
    "stocks",
    "sunspots",
]

# of the uncompressed bytes, except of the archive
_SHA256 = {
    "ETTh1.csv.gz": "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    "beijing_pm25.csv.gz": "892e9559205d16d32623135c127a3951c12e46ea1e0b3093e107ce89a9fd60e2",
    "daily-min-temperatures.csv.gz": "8b9de63ed6789492bf497625e7f9beb96a63d367b4b0a21754006f749fa5e5da",
    "exchange_rate.txt.gz": "0127465b51e3cd3c360f8eb2be30cfd294689a2a55903eb8245aafc396626c7f",
    "monash_tsf.tar.xz": "44a7879271717b4807cee24552ec81e378351a8809f4d4cf0ef5caf52566f473",
    "monthly-sunspots.csv.gz": "c4ec8cc57d9f6fb6ecdb3e1f37f25b6f4badd5124c55931052b0cd2fc3bc71f3",
    "stock_data.csv.gz": "134b8a00eb4eefa3242dd7ae85144082da80dedf75a1a656d5d08f97cd95277a",
}


def exchange_rate() -> SeriesSet:
    """Daily rates of 8 currencies as GluonTS cuts them: 6,071 business days, then 5 test windows of 30; season 5.

    The 1,367 days after the last test window are left out, as there; stamps are GluonTS's too.

    Source: Modeling Long- and Short-Term Temporal Patterns, 2017, arXiv 1703.07015; GluonTS, 2020, JMLR 21:116.
    """
    values = np.loadtxt(io.BytesIO(_read("exchange_rate.txt.gz")), delimiter=",")
    days = int(len(values) * 8 / 10) + 1 + 5 * 30  # GluonTS's slice includes the end of training
    stamps = pandas().date_range("1990-01-01", periods=days, freq="B")
    frame = _long({f"currency_{i}": (stamps, values[:days, i]) for i in range(values.shape[1])})
    return SeriesSet(frame, "B", 5, 30, 5, 0, "exchange_rate", "laiguokun/multivariate-time-series-data")


def etth1() -> SeriesSet:
    """Hourly loads and oil temperature of a transformer: 7 channels, 12/4/4 months, test windows of each of 120 days.

    8,640 + 2,880 + 2,880 hours, the rest of the file is left out, as in every published figure.

    Source: Informer, 2020, arXiv 2012.07436.
    """
    table = pandas().read_csv(io.BytesIO(_read("ETTh1.csv.gz")), parse_dates=["date"]).iloc[: 8640 + 2 * 2880]
    frame = _long({c: (table["date"], table[c]) for c in table.columns[1:]})
    return SeriesSet(frame, "h", 24, 24, 120, 2880, "etth1", "zhouhaoyi/ETDataset")


def m4_hourly() -> SeriesSet:
    """The 414 hourly series of the M4 competition: 700 or 960 hours, then one test window of 48.

    Source: The M4 Competition, 2020, Int. J. Forecasting 36:54; through the Monash archive, 2021, arXiv 2105.06643.
    """
    return _monash("m4_hourly_dataset.tsf", "h", 24, 48, "m4_hourly")


def electricity_weekly() -> SeriesSet:
    """Weekly consumption of 321 clients: 148 weeks, then one test window of 8.

    Source: Monash Time Series Forecasting Archive, 2021, arXiv 2105.06643.
    """
    return _monash("electricity_weekly_dataset.tsf", "W", 52, 8, "electricity_weekly")


def beijing_pm25() -> SeriesSet:
    """Hourly PM2.5 (µg/m³) in Beijing 2010 to 2014, 43,824 hours, 2,067 of them really missing, with the weather.

    Covariates: dew point and temperature (°C), pressure (hPa), wind speed (cumulated m/s), hours of snow and of rain, and
    the wind's direction, a category.

    Source: Assessing Beijing's PM2.5 pollution, 2015, Proc. R. Soc. A 471; through jbrownlee/Datasets.
    """
    table = pandas().read_csv(io.BytesIO(_read("beijing_pm25.csv.gz")), na_values=["NA"])
    names = {"DEWP": "dew_point", "TEMP": "temperature", "PRES": "pressure"}
    names |= {"Iws": "wind_speed", "Is": "snow", "Ir": "rain"}
    frame = _long({"pm2.5": (pandas().to_datetime(table[["year", "month", "day", "hour"]]), table["pm2.5"])})
    weather = table[list(names)].astype(float).rename(columns=names)
    wind = pandas().Categorical(table["cbwd"].replace("cv", "calm"), ["NE", "NW", "SE", "calm"])
    frame = frame.join(weather).assign(wind=wind)
    return SeriesSet(frame, "h", 24, 24, 30, 0, "beijing_pm25", "UCI (jbrownlee/Datasets)")


def melbourne() -> SeriesSet:
    """Daily minimum temperature (°C) in Melbourne 1981 to 1990: 3,650 days; leap years lack their last day."""
    table = pandas().read_csv(io.BytesIO(_read("daily-min-temperatures.csv.gz")), parse_dates=["Date"])
    frame = _long({"temperature": (table["Date"], table["Temp"])})
    return SeriesSet(frame, "D", 365, 30, 12, 0, "melbourne", "jbrownlee/Datasets")


def sunspots() -> SeriesSet:
    """Monthly mean number of sunspots 1749 to 1983: 2,820 months with a cycle of about 11 years."""
    table = pandas().read_csv(io.BytesIO(_read("monthly-sunspots.csv.gz")), parse_dates=["Month"])
    frame = _long({"sunspots": (table["Month"], table["Sunspots"])})
    return SeriesSet(frame, "MS", 132, 24, 5, 0, "sunspots", "jbrownlee/Datasets")


def stocks() -> Channels:
    """Google's stock 2004 to 2019, 3,685 days: open, high, low, close, adjusted close, volume.

    Source: Time-series Generative Adversarial Networks, 2019, NeurIPS; jsyoon0823/TimeGAN.
    """
    table = pandas().read_csv(io.BytesIO(_read("stock_data.csv.gz")))
    return Channels(
        table.to_numpy(dtype=np.float64), tuple(str(c) for c in table.columns), "stocks", "jsyoon0823/TimeGAN"
    )


def embedded(name: Literal["co2", "sunspots", "elnino", "macrodata"]) -> SeriesSet:
    """A series that ships with statsmodels, so that it is there without the data folder.

    ``"co2"``: weekly CO₂ (ppm) on Mauna Loa 1958 to 2001, 59 weeks really missing. ``"sunspots"``: yearly, 1700 to 2008.
    ``"elnino"``: monthly sea surface temperature (°C), 1950 to 2010. ``"macrodata"``: 12 quarterly series of the USA, 1959
    to 2009.

    Raises:
        ImportError: If statsmodels is not installed.
        ValueError: If there is no such series.
    """
    known = ("co2", "sunspots", "elnino", "macrodata")
    if name not in known:
        raise ValueError(f"there is no embedded series {name!r}; {', '.join(known)} are there")
    try:
        import statsmodels.datasets
    except Exception as broken:
        raise ImportError(f"{name} is read from statsmodels: pip install 'polydiff[timeseries]'") from broken
    table = getattr(statsmodels.datasets, name).load_pandas().data
    source = f"statsmodels.datasets.{name}"
    if name == "co2":
        return SeriesSet(_long({"co2": (table.index, table["co2"])}), "W-SAT", 52, 52, 5, 0, name, source)
    if name == "sunspots":
        stamps = pandas().date_range("1700-01-01", periods=len(table), freq="YS")
        return SeriesSet(_long({"sunspots": (stamps, table["SUNACTIVITY"])}), "YS", 11, 11, 5, 0, name, source)
    if name == "elnino":
        values = table.drop(columns="YEAR").to_numpy().ravel()
        stamps = pandas().date_range("1950-01-01", periods=len(values), freq="MS")
        return SeriesSet(_long({"elnino": (stamps, values)}), "MS", 12, 12, 5, 0, name, source)
    stamps = pandas().date_range("1959-01-01", periods=len(table), freq="QS")
    columns = table.columns[2:]
    return SeriesSet(_long({c: (stamps, table[c]) for c in columns}), "QS", 4, 4, 5, 0, name, source)


def _read(file: str) -> bytes:
    return read_checked(f"timeseries/{file}", _SHA256[file])


def _long(series: dict[str, tuple[pd.Series | pd.DatetimeIndex, np.ndarray | pd.Series]]) -> pd.DataFrame:
    parts = [
        pandas().DataFrame({"unique_id": name, "ds": np.asarray(ds), "y": np.asarray(y, dtype=np.float64)})
        for name, (ds, y) in series.items()
    ]
    joined: pd.DataFrame = pandas().concat(parts, ignore_index=True)
    return joined


def _monash(file: str, freq: str, season: int, horizon: int, name: str) -> SeriesSet:
    lines = _archive()[file].decode("latin1").split("@data")[1].split("\n")
    series = {}
    for line in filter(None, (row.strip() for row in lines)):
        key, start, values = line.split(":")
        day, time = start.split(" ")
        y = np.array(values.split(","), dtype=np.float64)
        series[key] = pandas().date_range(f"{day} {time.replace('-', ':')}", periods=len(y), freq=freq), y
    return SeriesSet(_long(series), freq, season, horizon, 1, 0, name, "Monash archive (naymatkhaana/llm4cast)")


@lru_cache(maxsize=1)
def _archive() -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(_read("monash_tsf.tar.xz")), mode="r:xz") as archive:
        files = {m.name: archive.extractfile(m) for m in archive.getmembers()}
        return {name: opened.read() for name, opened in files.items() if opened is not None}
