"""Evidence: the medium recipe on california, abalone, buddy and adult beside what any generator must beat.

``train TABLE SEED`` fits one model on one thread (two may run side by side); ``score TABLE`` measures all its seeds and
the baselines with the same number of rows, draws and learners; without arguments everything runs in turn.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from polydiff.datasets import tables
from polydiff.tabular import TabularGenerator, recipes
from polydiff.tabular.baselines import Bootstrap, GaussianCopula, Independent, Interpolation
from polydiff.tabular.metrics import (
    closer_to_train,
    column_shapes,
    detection_auc,
    machine_learning_efficiency,
    pair_trends,
)

FOLDER = Path("/tmp/polydiff-tabular")
NAMES = ("california", "abalone", "buddy", "adult")
SEEDS = (0, 1, 2)
STEPS = {"buddy": 6000, "adult": 6000}  # half of the recipe's: their trees are easier to please than california's
DRAWS = 3  # tables drawn from each model; a single one moves the score of a small table by several points
LARGER = 4  # rows of the larger synthetic table, in training tables
PUBLISHED = {"california": 0.8362 / 0.8568, "abalone": 0.5499 / 0.5562, "buddy": 0.9057 / 0.9063}  # TabDDPM, CatBoost


def train(name, seed):
    """Fit one model and save it with its cost."""
    torch.set_num_threads(1)
    table = getattr(tables, name)()
    begin, cpu = time.monotonic(), time.process_time()
    config = recipes.default(len(table.train))
    model = TabularGenerator(config, seed=seed).fit(table.train, steps=STEPS.get(name), progress=False)
    cost = {
        "seconds": time.monotonic() - begin,
        "cpu_seconds": time.process_time() - cpu,
        "steps": STEPS.get(name, config.steps),
    }
    model.save(FOLDER / f"{name}-{seed}")
    (FOLDER / f"{name}-{seed}.json").write_text(json.dumps(cost))
    print(name, seed, cost, flush=True)


def measures(drawn, table, seed):
    """Scores of synthetic rows, LARGER times as many as the training rows; the first part is a table of equal size."""
    n = len(table.train)
    parts = [drawn.iloc[i * n : (i + 1) * n].reset_index(drop=True) for i in range(DRAWS)]

    def efficiency(frame, learner, seed):
        found = machine_learning_efficiency(
            frame, table.train, table.test, table.target, learner=learner, resamples=2, seed=seed
        )
        return found.ratio()

    return {
        "tstr": np.mean([efficiency(p, "boosting", seed + i) for i, p in enumerate(parts)]),
        "tstr-linear": efficiency(parts[0], "linear", seed),
        "tstr-larger": efficiency(drawn.iloc[: LARGER * n].reset_index(drop=True), "boosting", seed),
        "detection": detection_auc(table.test, parts[0], seed=seed).estimate,
        "closer": closer_to_train(parts[0], table.train, table.test, seed=seed).estimate,
        "shape": 100 * (1 - column_shapes(table.test, parts[0]).mean()),
        "trend": 100 * (1 - pair_trends(table.test, parts[0]).mean()),
    }


def fresh(table, draws=5):
    """The score of real rows that are not the training rows: what a perfect generator gets, and how far chance goes."""
    val = table.val.reset_index(drop=True)
    parts = [table.train.sample(len(val), random_state=s).reset_index(drop=True) for s in range(draws)]
    found = [
        machine_learning_efficiency(val, p, table.test, table.target, resamples=2, seed=s).ratio()
        for s, p in enumerate(parts)
    ]
    return float(np.mean(found))


MEANING = {
    "tstr": ("R² (regression) or macro F1 of boosted trees trained on synthetic over that on real rows", "≥ 0.97"),
    "tstr-linear": ("the same with a linear model", None),
    "tstr-larger": (f"the same with boosted trees and {LARGER} times as many synthetic as training rows", None),
    "detection": ("AUC of boosted trees that tell synthetic from held-out rows", "≤ 0.75"),
    "closer": ("share of synthetic rows nearer to a training row than to one of an equal-sized holdout", "0.50 ± 0.03"),
    "shape": ("error of the margins in per cent (KS, TV), mean over columns, against held-out rows", None),
    "trend": ("error of the pairs in per cent (correlation, contingency), mean, against held-out rows", None),
}


def score(name):
    """Measure every seed of one table, and the baselines, and write the figures down."""
    torch.set_num_threads(1)
    table = getattr(tables, name)()
    rows = max(LARGER, DRAWS) * len(table.train)
    found = {"ours": [], "Gaussian copula": [], "independent": [], "interpolation": [], "bootstrap": []}
    seconds = []
    for seed in SEEDS:
        model = TabularGenerator.load(FOLDER / f"{name}-{seed}")
        begin = time.monotonic()
        drawn = model.sample(rows, seed=100 + seed, progress=False)
        seconds.append((time.monotonic() - begin) / rows)
        found["ours"].append(measures(drawn, table, seed))
        print(name, seed, {k: round(float(v), 4) for k, v in found["ours"][-1].items()}, flush=True)
        kinds = {"Gaussian copula": GaussianCopula, "independent": Independent, "interpolation": Interpolation}
        for label, kind in {**kinds, "bootstrap": Bootstrap}.items():
            found[label].append(measures(kind().fit(table.train).sample(rows, seed=seed), table, seed))
    costs = [json.loads((FOLDER / f"{name}-{s}.json").read_text()) for s in SEEDS]
    note = (
        f"{len(table.train):,} training rows, {len(table.test):,} held out; {DRAWS} tables a model; "
        f"{costs[0]['steps']:,} steps, {np.mean([c['cpu_seconds'] for c in costs]):.0f} s of CPU a fit, {1e3 * np.mean(seconds):.2f} ms a sampled row"
    )
    for key, (metric, bar) in MEANING.items():
        values = pd.DataFrame({label: [float(v[key]) for v in runs] for label, runs in found.items()})
        ours, floor = values.pop("ours"), values.pop("bootstrap")
        half = student.ppf(0.975, len(ours) - 1) * ours.std() / len(ours) ** 0.5
        baselines = values.mean().to_dict()
        if key == "tstr" and name in PUBLISHED:
            baselines["TabDDPM, published, CatBoost"] = PUBLISHED[name]
        if key == "tstr" and table.val is not None:
            baselines["fresh real rows (validation over as many training rows)"] = fresh(table)
        record(
            "tabular",
            f"{name}-{key}",
            f"{name}: {metric}",
            ours.mean(),
            interval=[ours.mean() - half, ours.mean() + half],
            floor=floor.mean(),
            baselines=baselines,
            bar=bar,
            seeds=SEEDS,
            note=f"{note}; sd {ours.std():.4f}; the floor is the bootstrap of the training rows",
        )


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    match sys.argv[1:]:
        case ["train", name, seed]:
            train(name, int(seed))
        case ["score", name]:
            score(name)
        case _:
            for name in NAMES:
                for seed in SEEDS:
                    train(name, seed)
                score(name)


if __name__ == "__main__":
    main()
