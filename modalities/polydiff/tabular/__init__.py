"""Tables: mixed columns, missing values, constraints."""

from polydiff.tabular import recipes
from polydiff.tabular.boosted import BoostedConfig, BoostedGenerator
from polydiff.tabular.columns import Column
from polydiff.tabular.copying import Watch, nearer_to_train
from polydiff.tabular.data import Entries, TableCodec
from polydiff.tabular.generator import TabularGenerator
from polydiff.tabular.networks import TableMLP
from polydiff.tabular.recipes import TableConfig
from polydiff.tabular.schema import Schema
from polydiff.tabular.transforms import NumberTransform

__all__ = [
    "BoostedConfig",
    "BoostedGenerator",
    "Column",
    "Entries",
    "NumberTransform",
    "Schema",
    "TableCodec",
    "TableConfig",
    "TableMLP",
    "TabularGenerator",
    "Watch",
    "nearer_to_train",
    "recipes",
]
