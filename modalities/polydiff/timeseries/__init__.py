"""Time series: one model that forecasts, fills holes, generates and scores."""

from polydiff.timeseries import recipes
from polydiff.timeseries.forecast import Forecast, SeriesForecast
from polydiff.timeseries.generator import TimeSeriesGenerator
from polydiff.timeseries.recipes import SeriesConfig

__all__ = ["Forecast", "SeriesConfig", "SeriesForecast", "TimeSeriesGenerator", "recipes"]
