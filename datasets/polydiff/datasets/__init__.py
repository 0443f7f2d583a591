"""Data sets, as the arrays they are stored in; imports neither the core nor a modality."""

from polydiff.datasets.cifar import CIFAR10_CLASSES, cifar10_jpeg
from polydiff.datasets.dynamics import NoisyTransport, lorenz96, moving_blobs, spring_chain
from polydiff.datasets.folder import data_folder
from polydiff.datasets.handwritten import digits, mnist
from polydiff.datasets.labelled import LabelledImages
from polydiff.datasets.series import Channels, SeriesSet, sines, split_windows, windows
from polydiff.datasets.series_files import (
    beijing_pm25,
    electricity_weekly,
    embedded,
    etth1,
    exchange_rate,
    m4_hourly,
    melbourne,
    stocks,
    sunspots,
)
from polydiff.datasets.tables import SMALL_TABLES, Table, abalone, adult, buddy, california, house, small, travel
from polydiff.datasets.texts import first_names, python_topics, tinyshakespeare

__all__ = [
    "CIFAR10_CLASSES",
    "SMALL_TABLES",
    "Channels",
    "LabelledImages",
    "NoisyTransport",
    "SeriesSet",
    "Table",
    "abalone",
    "adult",
    "beijing_pm25",
    "buddy",
    "california",
    "cifar10_jpeg",
    "data_folder",
    "digits",
    "electricity_weekly",
    "embedded",
    "etth1",
    "exchange_rate",
    "first_names",
    "house",
    "lorenz96",
    "m4_hourly",
    "melbourne",
    "mnist",
    "moving_blobs",
    "python_topics",
    "sines",
    "small",
    "split_windows",
    "spring_chain",
    "stocks",
    "sunspots",
    "tinyshakespeare",
    "travel",
    "windows",
]
