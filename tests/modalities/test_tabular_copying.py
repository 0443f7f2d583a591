"""The watch on copying: the share against enumeration, its error against chance, and what it does to a run."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from polydiff.core.data import Rng
from polydiff.core.training import EMA
from polydiff.tabular.copying import Watch, nearer_to_train
from polydiff.tabular.privacy import closer_to_train


def table(n, seed, d=2):
    return pd.DataFrame(np.random.default_rng(seed).normal(size=(n, d)), columns=list("abcdef"[:d]))


def test_the_share_counts_every_choice_of_training_rows():
    """Distances rounded so that there are ties; all C(6, 3) choices by enumeration."""
    train, holdout, made = (table(n, s).round(0) for n, s in ((6, 0), (3, 1), (40, 2)))
    scale = train.max() - train.min()

    def nearest(reference):
        gap = (made.to_numpy()[:, None] - reference.to_numpy()) / scale.to_numpy()
        return np.abs(gap).sum(-1).min(1).round(9)

    held = nearest(holdout)
    wins = losses = 0
    for chosen in itertools.combinations(range(6), 3):
        near = nearest(train.iloc[list(chosen)])
        wins, losses = wins + (near < held).sum(), losses + (near > held).sum()
    assert 0 < wins + losses < 40 * 20
    assert nearer_to_train(made, train, holdout).estimate == pytest.approx(wins / (wins + losses), abs=1e-9)


def test_at_equal_sizes_it_is_the_share_of_the_report():
    train, holdout, made = table(50, 0), table(50, 1), table(300, 2)
    assert nearer_to_train(made, train, holdout).estimate == pytest.approx(
        closer_to_train(made, train, holdout).estimate, abs=1e-9
    )


def test_the_interval_covers_the_draw_of_the_holdout():
    """Samples of the law: the error is the spread over tables, and 95 % of the intervals hold ½; a binomial one misses it."""
    shares, errors, hits = [], [], 0
    for run in range(80):
        train, holdout, made = table(40, 3 * run, 6), table(10, 3 * run + 1, 6), table(400, 3 * run + 2, 6)
        found = nearer_to_train(made, train, holdout, placebos=40)
        shares.append(found.estimate)
        errors.append((found.high - found.low) / 3.92)
        hits += found.low <= 0.5 <= found.high
    assert hits / 80 >= 0.88
    assert np.mean(errors) == pytest.approx(np.std(shares), rel=0.25)
    assert np.mean(np.abs(np.array(shares) - 0.5) <= 1.96 * np.sqrt(0.25 / 400)) < 0.75


def test_copies_are_found():
    train, holdout = table(100, 0), table(100, 1)
    copies = pd.concat([train + 1e-3] * 4, ignore_index=True)
    found = nearer_to_train(copies, train, holdout)
    assert found.estimate > 0.95 and found.low > 0.55


def test_tables_that_tie_say_nothing():
    levels = pd.DataFrame({"a": ["x", "y"] * 20})
    found = nearer_to_train(levels, levels, levels)
    assert (found.estimate, found.low, found.high) == (0.5, 0.0, 1.0)
    with pytest.raises(ValueError, match="held-out"):
        nearer_to_train(levels, levels, levels.head(0))


# ------------------------------------------------------------------ the watch


class Run:
    """What a watch sees of a trainer."""

    def __init__(self):
        self.objective = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.objective.weight)
        self.phases, self.ema, self.stopped = [type("Phase", (), {"objective": self.objective})()], None, False

    def stop(self):
        self.stopped = True


def drawing(train, run):
    """Rows that come nearer to training rows as the weight of the model grows."""

    def draw(n, seed):
        assert not run.objective.training
        weight = run.objective.weight.item()
        noise = Rng(seed).normal(torch.empty(n, 2)).numpy()
        return (train.iloc[np.arange(n) % len(train)] * weight + (1 - weight) * noise).reset_index(drop=True)

    return draw


@pytest.mark.parametrize("action", ["stop", "warn"])
def test_it_acts_once_the_model_copies(action):
    train, holdout, run = table(80, 0), table(60, 1), Run()
    watch = Watch(drawing(train, run), train, holdout, every=10, rows=200, action=action)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in (1, 5, 10, 15, 20):
            watch(run, step, {})
    assert [step for step, _ in watch.looks] == [10, 20]
    nn.init.constant_(run.objective.weight, 0.99)
    with pytest.warns(UserWarning, match=r"step 30: .* nearer to training"):
        watch(run, 30, {})
    assert run.stopped == (action == "stop")
    watch(run, 40, {})
    assert len(watch.looks) == 3  # it has said what there is to say


def test_it_looks_at_the_averaged_weights_and_puts_the_live_ones_back():
    train, holdout, run = table(80, 0), table(60, 1), Run()
    run.ema = EMA(run.objective, decay=0.9)
    nn.init.constant_(run.objective.weight, 0.99)  # live weights copy, the average does not yet
    seen = []
    draw = drawing(train, run)

    def noted(n, seed):
        seen.append(run.objective.weight.item())
        return draw(n, seed)

    watch = Watch(noted, train, holdout, every=1)
    watch(run, 1, {})
    assert seen == [0.0]
    assert run.objective.weight.item() == pytest.approx(0.99)
    assert run.objective.training

    def broken(n, seed):
        raise RuntimeError("no rows")

    with pytest.raises(RuntimeError):
        Watch(broken, train, holdout, every=1)(run, 1, {})
    assert run.objective.weight.item() == pytest.approx(0.99)
    assert run.objective.training


def test_few_held_out_rows_do_not_stop_a_run_by_chance():
    """Ten held-out rows: shares leave 45–55 % in half of the runs of a model that learnt the law, and none is stopped."""
    outside = 0
    for run in range(14):
        train, holdout, made = table(40, 3 * run, 6), table(10, 3 * run + 1, 6), table(200, 3 * run + 2, 6)
        watch = Watch(lambda n, seed, made=made: made, train, holdout, every=1)
        trainer = Run()
        watch(trainer, 1, {})
        outside += not 0.45 <= watch.looks[0][1].estimate <= 0.55
        assert not trainer.stopped
    assert outside >= 4


def test_what_has_no_meaning_is_refused():
    rows = table(5, 0)
    for change, message in (
        ({"band": (0.6, 0.7)}, "must hold 0.5"),
        ({"action": "pause"}, "need 'stop' or 'warn'"),
        ({"every": 0}, "every=0"),
    ):
        with pytest.raises(ValueError, match=message):
            Watch(lambda n, seed: rows, rows, rows, **change)
    with pytest.raises(ValueError, match="columns"):
        Watch(lambda n, seed: rows, rows, rows[["a"]])
