"""Evidence: what guidance by the told cells does to imputation: error and coverage of two small tables at three scales.

The tables, holes and recipe of ``tabular_imputation.py``; one fit a seed, from which every scale draws. About four CPU-minutes.
"""

import sys
import time
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parent))
from record import record
from tabular_imputation import DRAWS, SEEDS, SHARE, punched

from polydiff.datasets.tables import small
from polydiff.tabular import TabularGenerator, recipes
from polydiff.tabular.metrics import imputation_coverage, imputation_error
from polydiff.tabular.pooling import pooled

NAMES = ("wheat-seeds", "wine")
SCALES = (1.0, 1.5, 2.0)


def measure(name, seed, scales=SCALES):
    """``{figure: value}`` of one fit at every scale."""
    df = small(name).train
    table, holes = punched(df, seed)
    gen = TabularGenerator(recipes.imputing(), seed=seed).fit(table, progress=False)
    found = {}
    for scale in scales:
        begin = time.process_time()
        draws = gen.impute(table, draws=DRAWS, guidance=scale, seed=100)
        found[f"seconds {scale:g}"] = time.process_time() - begin
        found[f"error {scale:g}"] = imputation_error(df, pooled(gen.codec.schema, draws), holes).average
        found[f"single draw {scale:g}"] = imputation_error(df, draws, holes).average
        found[f"coverage {scale:g}"] = imputation_coverage(df, draws, holes).estimate
    print(name, seed, {k: round(float(v), 4) for k, v in found.items()}, flush=True)
    return found


def main():
    torch.set_num_threads(1)
    runs = {name: pd.DataFrame([measure(name, s) for s in SEEDS]) for name in NAMES}
    over = sum(runs.values()) / len(NAMES)
    each = {f"{n}: {k}": float(v) for n, found in runs.items() for k, v in found.mean().items()}
    half = student.ppf(0.975, len(SEEDS) - 1) * over.std() / len(SEEDS) ** 0.5
    for key, title in (
        ("error", f"AvgMAE at {SHARE:.0%} of cells missing at random, median and mode of {DRAWS} draws"),
        ("coverage", f"share of numeric holes inside the central 90 % of {DRAWS} draws"),
    ):
        figure = f"{key} {SCALES[1]:g}"
        record(
            "tabular",
            f"guidance-{key}",
            f"{title}, guidance {SCALES[1]:g}, mean over {' and '.join(NAMES)}",
            over[figure].mean(),
            interval=[over[figure].mean() - half[figure], over[figure].mean() + half[figure]],
            baselines={f"guidance {s:g}": float(over[f"{key} {s:g}"].mean()) for s in SCALES}
            | {k: v for k, v in each.items() if key in k or (key == "error" and "single" in k)},
            bar="guidance 1 (none) in the same run",
            seeds=SEEDS,
            note="noised known cells in the untold branch, one noise path a draw; scale 1 is the model's own law; seconds of 19 draws "
            + ", ".join(f"{over[f'seconds {s:g}'].mean():.0f} at {s:g}" for s in SCALES),
        )


if __name__ == "__main__":
    main()
