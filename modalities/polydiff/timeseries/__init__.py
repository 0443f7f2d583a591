"""Time series: one model that forecasts, fills holes, generates and scores."""

from polydiff.timeseries import recipes
from polydiff.timeseries.data import SeriesCodec
from polydiff.timeseries.decomposed import DecomposedTransformer
from polydiff.timeseries.dynamics import DynamicsConfig, DynamicsForecaster
from polydiff.timeseries.erp import ErpConfig, ErpGenerator
from polydiff.timeseries.falda import Falda, FaldaConfig
from polydiff.timeseries.forecast import Forecast, SeriesForecast
from polydiff.timeseries.forms import collect
from polydiff.timeseries.functions import FunctionConfig, FunctionGenerator
from polydiff.timeseries.generator import TimeSeriesGenerator
from polydiff.timeseries.innovations import Innovations
from polydiff.timeseries.networks import ConvNet, WindowMLP
from polydiff.timeseries.recipes import SeriesConfig
from polydiff.timeseries.refining import Descent, Renoising
from polydiff.timeseries.series import Collection, Series
from polydiff.timeseries.spherical import SphericalConv, SphericalTransform
from polydiff.timeseries.state_space import StateSpaceNet

__all__ = [
    "Collection",
    "ConvNet",
    "DecomposedTransformer",
    "Descent",
    "DynamicsConfig",
    "DynamicsForecaster",
    "ErpConfig",
    "ErpGenerator",
    "Falda",
    "FaldaConfig",
    "Forecast",
    "FunctionConfig",
    "FunctionGenerator",
    "Innovations",
    "Renoising",
    "Series",
    "SeriesCodec",
    "SeriesConfig",
    "SeriesForecast",
    "SphericalConv",
    "SphericalTransform",
    "StateSpaceNet",
    "TimeSeriesGenerator",
    "WindowMLP",
    "collect",
    "recipes",
]
