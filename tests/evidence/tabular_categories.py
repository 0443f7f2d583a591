"""Evidence: categories by masks, by multinomial noise (TabDDPM's process) and by Gaussian noise on indicators, on one table.

``travel`` (840 rows; mode, whether it was chosen and the size of the party are levels), a fifth held out, the small recipe with
equal steps, weights and sampling steps; only the process of the categories differs. About three CPU-minutes.
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from polydiff.datasets import travel
from polydiff.tabular import TabularGenerator, recipes
from polydiff.tabular.baselines import Bootstrap
from polydiff.tabular.metrics import column_shapes, detection_auc, machine_learning_efficiency, pair_trends

KINDS = ("absorbing", "uniform", "onehot")
SEEDS = (0, 1)
STEPS, DRAWS = 1000, 2
MEANING = {
    "tstr": "macro F1 of boosted trees trained on synthetic over that on real rows (is the mode chosen?)",
    "detection": "AUC of boosted trees that tell synthetic from held-out rows",
    "shape": "error of the margins in per cent (KS, TV), mean over columns, against held-out rows",
    "trend": "error of the pairs in per cent (correlation, contingency), mean, against held-out rows",
}


def measures(drawn, train, test, target, seed):
    """Means over tables of the size of the training data."""
    n = len(train)
    found = []
    for i in range(DRAWS):
        part = drawn.iloc[i * n : (i + 1) * n].reset_index(drop=True)
        efficiency = machine_learning_efficiency(part, train, test, target, resamples=2, seed=seed + i)
        found.append(
            {
                "tstr": efficiency.ratio(),
                "detection": detection_auc(test, part, seed=seed).estimate,
                "shape": 100 * (1 - column_shapes(test, part).mean()),
                "trend": 100 * (1 - pair_trends(test, part).mean()),
            }
        )
    return {k: float(np.mean([f[k] for f in found])) for k in MEANING}


def run(kind, seed):
    """One fit and its figures."""
    table = travel()
    train, test = table.split(0.8, seed)
    target = "chosen"
    begin = time.process_time()
    if kind == "bootstrap":
        drawn = Bootstrap().fit(train).sample(DRAWS * len(train), seed=seed)
    else:
        config = dataclasses.replace(recipes.small(), categories=kind, steps=STEPS)
        gen = TabularGenerator(config, seed=seed).fit(train, progress=False)
        drawn = gen.sample(DRAWS * len(train), seed=100 + seed, progress=False)
    found = measures(drawn, train, test, target, seed) | {"seconds": time.process_time() - begin}
    print(kind, seed, {k: round(v, 4) for k, v in found.items()}, flush=True)
    return found


def main():
    torch.set_num_threads(1)
    found = {k: pd.DataFrame([run(k, s) for s in SEEDS]) for k in (*KINDS, "bootstrap")}
    for key, metric in MEANING.items():
        mean = {k: float(v[key].mean()) for k, v in found.items()}
        record(
            "tabular",
            f"categories-{key}",
            f"travel: {metric}; categories by masks (absorbing)",
            mean["absorbing"],
            floor=mean["bootstrap"],
            baselines={"uniform (multinomial, TabDDPM)": mean["uniform"], "onehot (Gaussian)": mean["onehot"]}
            | {f"{k}, split {s}": float(found[k][key].iloc[i]) for k in KINDS for i, s in enumerate(SEEDS)},
            seeds=SEEDS,
            note=f"{STEPS} steps each, {DRAWS} tables a model; the floor is the bootstrap of the training rows; CPU-s of fit, "
            + "draws and scores "
            + ", ".join(f"{k} {found[k]['seconds'].mean():.0f}" for k in KINDS),
        )


if __name__ == "__main__":
    main()
