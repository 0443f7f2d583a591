"""A table that ships with statsmodels, learned in a minute: worth more than a copula, not copied, hard to tell."""

import pytest

from polydiff.datasets import tables
from polydiff.tabular import TabularGenerator, recipes
from polydiff.tabular.baselines import GaussianCopula, Independent
from polydiff.tabular.metrics import closer_to_train, detection_auc, machine_learning_efficiency


@pytest.mark.slow
def test_a_minute_of_training_beats_the_copula_without_copying(record_property):
    """Travel choices: 840 rows of prices, times and modes, 588 to learn from; the recipe of small tables."""
    table = tables.travel()
    train, test = table.split(0.7, 0)
    made = TabularGenerator(recipes.small()).fit(train, progress=False).sample(len(train), seed=1)
    frames = {
        "ours": made,
        "copula": GaussianCopula().fit(train).sample(len(train), 1),
        "independent": Independent().fit(train).sample(len(train), 1),
    }
    worth = {
        k: machine_learning_efficiency(f, train, test, table.target, resamples=2).ratio() for k, f in frames.items()
    }
    told = {k: detection_auc(test, f).estimate for k, f in frames.items()}
    share = closer_to_train(made, train, test)
    for key in frames:
        record_property(f"worth_{key}", worth[key])
        record_property(f"told_{key}", told[key])
    assert worth["ours"] > max(worth["copula"], worth["independent"])
    assert told["ours"] < 0.75 and told["ours"] < min(told["copula"], told["independent"])
    assert share.low < 0.55 and share.high > 0.45
