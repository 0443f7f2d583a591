"""Data sets, as the arrays they are stored in; imports neither the core nor a modality."""

from polydiff.datasets.cifar import CIFAR10_CLASSES, cifar10_jpeg
from polydiff.datasets.folder import data_folder
from polydiff.datasets.handwritten import digits, mnist
from polydiff.datasets.labelled import LabelledImages
from polydiff.datasets.tables import SMALL_TABLES, Table, abalone, adult, buddy, california, house, small, travel
from polydiff.datasets.texts import first_names, python_topics, tinyshakespeare

__all__ = [
    "CIFAR10_CLASSES",
    "SMALL_TABLES",
    "LabelledImages",
    "Table",
    "abalone",
    "adult",
    "buddy",
    "california",
    "cifar10_jpeg",
    "data_folder",
    "digits",
    "first_names",
    "house",
    "mnist",
    "python_topics",
    "small",
    "tinyshakespeare",
    "travel",
]
