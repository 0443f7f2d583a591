"""Real tables with mixed columns, as DataFrames: official splits where there are, targets and their tasks."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polydiff.datasets.folder import read_checked
from polydiff.datasets.table_columns import ADULT, SMALL, Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SMALL_TABLES", "Table", "abalone", "adult", "buddy", "california", "house", "small", "travel"]

# of the uncompressed bytes
_SHA256 = {
    "abalone.csv": "eb2de13be807e9bb9ec4128b9c89b98ab23d7739121cfd17b7dde69b46ba7bf6",
    "adult-test.csv": "72567b94f5c1a6f8501377dd80f93892c3848ff071cf91ba47e00b0785a28074",
    "adult-train.csv": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "auto_imports.csv": "bf76211fc32da0a927334e690e8f59e42c6b11ee281f9bed8a6ecdfe4bd70f31",
    "banknote_authentication.csv": "d0539aaed2139ba7a587b3e34fb345ce503ff7d5d33dbf9912d8e195ce425cb9",
    "breast-cancer.csv": "4523656d14e91168a602301490a8c89674a9b14384c29a5f652ba1a2bec844a9",
    "horse-colic.csv": "6ea4b4e9819f56dd021bea06d4a56c711825d0e6e33bc0cfc183f054fc4256d6",
    "iris.csv": "f5d0c11e5c78a69a20dbb80baf2b24703f59a6687595752abb397d23732647c5",
    "pima-indians-diabetes.csv": "6bfe5d0f379d17a0e0819b996407e3c09bf80febd4287f2ed212190dfff154af",
    "wheat-seeds.csv": "8dbd1853a4439afc113cfe07f290422c7ce3fe48745d71f3f7eaa027cd38fd6e",
    "wine.csv": "e9c16b779f9194945067f65118da6afb317ef60c6515879c50124dc4f6cdd756",
    "tabddpm/abalone.npz": "01b5836e5f33b0b3715dd814519e834dbe0ad4b530fa637b3eedae63e6dc6d1f",
    "tabddpm/buddy.npz": "3171ae514e9a1839b4127a40590db02d660032d07c55bb821d319cf7456a5a7e",
    "tabddpm/california.npz": "5329000fe422c59db49a287778b888465a298722f1cf0b59ede0705b039a192b",
    "tabddpm/house.npz": "bb630838b688fbc46f7be38ebb108ccd7edbbad2a93c91e67982a3eaaa76d2f0",
}

_SKLEARN: dict[str, tuple[str, Task]] = {
    "sklearn-wine": ("load_wine", "multiclass"),
    "sklearn-breast-cancer": ("load_breast_cancer", "binary"),
    "sklearn-diabetes": ("load_diabetes", "regression"),
}
_STATSMODELS: dict[str, tuple[str, Task]] = {
    "fair": ("affairs", "regression"),
    "anes96": ("PID", "multiclass"),
    "modechoice": ("choice", "binary"),
}
SMALL_TABLES = (*SMALL, *_SKLEARN, *_STATSMODELS)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table and what is predicted from it.

    Attributes:
        train: Rows to learn from; all rows where there is no official split.
        val: Official validation rows, if any.
        test: Official test rows, if any.
        target: Name of the column to predict.
        task: ``"regression"``, ``"binary"`` or ``"multiclass"``.
        name: Of the data set.
        source: Where the data come from.
    """

    train: pd.DataFrame
    val: pd.DataFrame | None
    test: pd.DataFrame | None
    target: str
    task: Task
    name: str
    source: str

    def __len__(self) -> int:
        return len(self.train)

    def split(self, fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Disjoint parts of ``train``, the first with ``round(fraction · N)`` rows; both keep the order of the rows.

        The same seed gives the same split on every machine and numpy version.

        Raises:
            ValueError: If ``fraction`` is not in (0, 1).
        """
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"the fraction of a split of {self.name} is {fraction}; it must lie in (0, 1)")
        order = np.argsort(np.random.PCG64(seed).random_raw(len(self.train)), kind="stable")
        first = np.zeros(len(self.train), dtype=bool)
        first[order[: round(fraction * len(self.train))]] = True
        return self.train[first].reset_index(drop=True), self.train[~first].reset_index(drop=True)


def adult() -> Table:
    """Census income, the official split: 32,561 + 16,281 rows of 6 numbers, 8 categories with gaps, and the income.

    Source: Scaling Up the Accuracy of Naive-Bayes Classifiers, 1996, KDD; through jbrownlee/Datasets.
    """
    train, test = (_csv(f"adult-{part}", ADULT) for part in ("train", "test"))
    test["income"] = test["income"].str.rstrip(".")  # the official test file ends its labels with a dot
    return Table(train, None, test, "income", "binary", "adult", "UCI Adult (jbrownlee/Datasets)")


def california() -> Table:
    """California housing in TabDDPM's split: 13,209 + 3,303 + 4,128 rows of 8 float32 numbers and the price.

    Source: Sparse Spatial Autoregressions, 1997, Statistics & Probability Letters 33:291; TabDDPM, 2022, arXiv 2209.15421.
    """
    columns = ["MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup", "Latitude", "Longitude"]
    return _tabddpm("california", columns, [], "MedHouseVal")


def abalone() -> Table:
    """Abalone in TabDDPM's split: 2,672 + 669 + 836 rows of 7 numbers, the sex, and the age in rings.

    Source: The Population Biology of Abalone, 1994, Tasmania Sea Fisheries 48; TabDDPM, 2022, arXiv 2209.15421.
    """
    columns = ["Length", "Diameter", "Height", "Whole weight", "Shucked weight", "Viscera weight", "Shell weight"]
    return _tabddpm("abalone", columns, ["Sex"], "Rings")


def buddy() -> Table:
    """Pet adoption in TabDDPM's split: 12,053 + 3,014 + 3,767 rows of 4 numbers, 5 categories and one of three classes.

    The file names no columns. Its dates are seconds since 1970, one category of validation and test is not in train.

    Source: TabDDPM, 2022, arXiv 2209.15421.
    """
    return _tabddpm("buddy", [f"num_{i}" for i in range(4)], [f"cat_{i}" for i in range(5)], "class")


def house() -> Table:
    """House prices from census data (House 16H) in TabDDPM's split: 14,581 + 3,646 + 4,557 rows of 16 float32 numbers.

    The file names no columns.

    Source: TabDDPM, 2022, arXiv 2209.15421.
    """
    return _tabddpm("house", [f"num_{i}" for i in range(16)], [], "price")


def small(name: str) -> Table:
    """A small table without an official split, one of ``SMALL_TABLES``.

    Those named ``sklearn-…`` ship with scikit-learn, ``fair``, ``anes96`` and ``modechoice`` with statsmodels; the others are
    read from the data folder.

    Raises:
        FileNotFoundError: If the file is absent.
        ImportError: If the library that ships it is not installed.
        ValueError: If there is no such table, or its bytes are not the pinned ones.
    """
    if name in SMALL:
        file, columns, target, task = SMALL[name]
        return Table(_csv(file, columns), None, None, target, task, name, "UCI (jbrownlee/Datasets)")
    if name in _SKLEARN:
        return _sklearn(name)
    if name in _STATSMODELS:
        return _statsmodels(name)
    raise ValueError(f"there is no small table {name!r}; {', '.join(SMALL_TABLES)} are there")


def travel() -> Table:
    """How 210 Australians could have travelled: 840 rows, four ways each, with times, costs, income and what they chose.

    ``small("modechoice")`` with named columns and levels and without the number of the person. Times are in minutes, costs
    in dollars, the income in thousands a year.

    Source: Econometric Analysis, 2003, example 21.8; through statsmodels.
    """
    pandas = _pandas()
    raw = _statsmodels("modechoice").train
    modes = ["air", "train", "bus", "car"]
    frame = pandas.DataFrame(
        {
            "mode": pandas.Categorical([modes[int(m) - 1] for m in raw["mode"]], modes),
            "chosen": raw["choice"] == 1,
            "wait": raw["ttme"].astype(int),
            "cost": raw["invc"].astype(int),
            "time": raw["invt"].astype(int),
            "total_cost": raw["gc"].astype(int),
            "income": raw["hinc"].astype(int),
            "party": raw["psize"].astype(int),
        }
    )
    return Table(frame, None, None, "mode", "multiclass", "travel", "statsmodels.datasets.modechoice")


def _csv(file: str, columns: list[str]) -> pd.DataFrame:
    pandas = _pandas()
    raw = read_checked(f"tabular/{file}.csv.gz", _SHA256[f"{file}.csv"])
    quote = "'" if file == "breast-cancer" else '"'
    read = pandas.read_csv(
        io.BytesIO(raw), header=None, names=columns, na_values="?", skipinitialspace=True, quotechar=quote
    )
    assert isinstance(read, pandas.DataFrame)
    return read


def _tabddpm(name: str, numbers: list[str], categories: list[str], target: str) -> Table:
    pandas = _pandas()
    file = f"tabddpm/{name}.npz"
    with np.load(io.BytesIO(read_checked(f"tabular/{file}", _SHA256[file])), allow_pickle=False) as stored:
        arrays = dict(stored)

    def frame(part: str) -> pd.DataFrame:
        columns: dict[str, np.ndarray] = dict(zip(numbers, arrays[f"X_num_{part}"].T))
        if categories:
            columns |= dict(zip(categories, arrays[f"X_cat_{part}"].astype(object).T))
        return pandas.DataFrame(columns | {target: arrays[f"y_{part}"]})

    task: Task = "regression" if json.loads(str(arrays["info"]))["task_type"] == "regression" else "multiclass"
    source = "TabDDPM's split (ruheyun/tab-ddpm-dp)"
    return Table(frame("train"), frame("val"), frame("test"), target, task, name, source)


def _sklearn(name: str) -> Table:
    pandas = _pandas()
    try:
        import sklearn.datasets
    except Exception as broken:
        raise ImportError(f"{name} is read from scikit-learn: pip install 'polydiff[tabular]'") from broken
    loader, task = _SKLEARN[name]
    found = getattr(sklearn.datasets, loader)()
    frame = pandas.DataFrame(found.data, columns=[str(c) for c in found.feature_names])
    values = found.target if task == "regression" else np.asarray(found.target_names).astype(object)[found.target]
    frame["target"] = values
    return Table(frame, None, None, "target", task, name, f"scikit-learn's {loader}")


def _statsmodels(name: str) -> Table:
    try:
        import statsmodels.datasets
    except Exception as broken:
        raise ImportError(f"{name} is read from statsmodels: pip install statsmodels") from broken
    target, task = _STATSMODELS[name]
    frame = getattr(statsmodels.datasets, name).load_pandas().data.reset_index(drop=True)
    return Table(frame, None, None, target, task, name, f"statsmodels.datasets.{name}")


def _pandas() -> Any:
    try:
        import pandas
    except Exception as broken:
        raise ImportError("tables need pandas: pip install 'polydiff[tabular]'") from broken
    return pandas
