"""Small tables: the small recipe and boosted trees against ForestFlow, a Gaussian copula and interpolation.

Iris, wheat seeds and wine, 80 % to learn from, the same three splits for all: the 1-Wasserstein distance to the held-out fifth,
machine-learning efficiency, and the share of samples nearer to training than to held-out rows. About five CPU-minutes without
ForestFlow, whose rows are read from ``FOREST / "<table>-<seed>-out.npz"`` or made there (80 to 700 CPU-s each; with 20 times and 20
copies of a row instead of its 50 and 100, ``-20-20-out.npz``, 70 to 210) by ForestDiffusion 1.0.6 in an environment of its own: ``python -m venv /tmp/forest-env && /tmp/forest-env/bin/pip install ForestDiffusion==1.0.6``.

``update METHOD`` measures one method more beside the figures of the last run, and writes all down anew.
"""

import dataclasses
import functools
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))

from record import record

from polydiff.datasets.tables import small
from polydiff.tabular import TabularGenerator, recipes
from polydiff.tabular.baselines import GaussianCopula, Interpolation
from polydiff.tabular.boosted import BoostedConfig, BoostedGenerator
from polydiff.tabular.copying import nearer_to_train
from polydiff.tabular.metrics import machine_learning_efficiency, wasserstein

SEEDS = (0, 1, 2)
TABLES = ("iris", "wheat-seeds", "wine")
DRAWS = {"iris": 10, "wheat-seeds": 10, "wine": 2}  # training tables' worth of samples that a distance is the mean of
FOREST, PYTHON = Path("/tmp/forest"), Path("/tmp/forest-env/bin/python")
OUT = Path("/tmp/polydiff-tabular-small.json")

FORESTFLOW = """
import sys, time
import numpy as np
from ForestDiffusion import ForestDiffusionModel
d = np.load(sys.argv[1])
begin = time.process_time()
model = ForestDiffusionModel(d["x"], label_y=d["y"], n_t=int(sys.argv[3]), duplicate_K=int(sys.argv[4]), diffusion_type="flow", n_jobs=1,
                             bin_indexes=[], cat_indexes=[], int_indexes=[], seed=int(d["seed"]), nthread=1)
made = model.generate(batch_size=int(d["n"]))
np.savez(sys.argv[2], made=made, cpu=time.process_time() - begin)
"""


def config():
    """The small recipe."""
    return recipes.small()


@functools.lru_cache(maxsize=1)
def trained(name, seed):
    """The network on a split, and the CPU-s of its fit."""
    train, _, target = split(name, seed)
    begin = time.process_time()
    fitted = TabularGenerator(config(), seed=seed).fit(train, kinds={target: "category"}, progress=False)
    return fitted, time.process_time() - begin


# ------------------------------------------------------------------ methods: (train, target, n, name, seed) -> rows, CPU-s of fit


def network(steps):
    def draw(train, target, n, name, seed):
        fitted, seconds = trained(name, seed)
        return fitted.sample(n, seed=seed, steps=steps, progress=False), seconds

    return draw


def boosted(train, target, n, name, seed):
    begin = time.process_time()
    fitted = BoostedGenerator(BoostedConfig(), seed=seed).fit(train, kinds={target: "category"}, progress=False)
    return fitted.sample(n, seed=seed, progress=False), time.process_time() - begin


def forestflow(times, copies, splits, suffix=""):
    """A model a class; ``None`` on splits where it was never run."""

    def draw(train, target, n, name, seed):
        inputs, outputs = (FOREST / f"{name}-{seed}{part}.npz" for part in ("-in", f"{suffix}-out"))
        levels, codes = np.unique(train[target], return_inverse=True)
        if not outputs.exists():
            if not PYTHON.exists() or (name, seed) not in splits:
                return None
            FOREST.mkdir(exist_ok=True)
            np.savez(inputs, x=train.drop(columns=[target]).to_numpy(float), y=codes, n=5 * len(train), seed=seed)
            command = [str(PYTHON), "-c", FORESTFLOW, str(inputs), str(outputs), str(times), str(copies)]
            subprocess.run(command, check=True, env={"OMP_NUM_THREADS": "1"})
        found = np.load(outputs)
        rows = pd.DataFrame(found["made"][:, :-1], columns=[c for c in train if c != target])
        rows[target] = levels[found["made"][:, -1].astype(int)]
        return rows[list(train.columns)].iloc[:n], float(found["cpu"])

    return draw


def baseline(make):
    def draw(train, target, n, name, seed):
        begin = time.process_time()
        text = train.assign(**{target: train[target].astype(str)})
        rows = make().fit(text, target=target).sample(n, seed)
        return rows.assign(**{target: rows[target].astype(train[target].dtype)}), time.process_time() - begin

    return draw


WITH_FOREST = {
    ("iris", 0),
    ("iris", 1),
    ("iris", 2),
    ("wheat-seeds", 0),
}  # 8 CPU-minutes; wine would take 12 more a split
REDUCED = {("wheat-seeds", 0), ("wine", 0)}
METHODS = {
    "small recipe": network(None),
    "small recipe, 12 steps": network(12),
    "boosted trees": boosted,
    "ForestFlow": forestflow(50, 100, WITH_FOREST),
    "ForestFlow, 20 times and 20 copies": forestflow(20, 20, REDUCED, "-20-20"),
    "Gaussian copula": baseline(GaussianCopula),
    "interpolation": baseline(Interpolation),
}


# ------------------------------------------------------------------ the comparison


def split(name, seed):
    table = small(name)
    return (*table.split(0.8, seed), table.target)


def score(rows, train, test, target):
    """W1 to test (mean over draws), TSTR macro-F1 (mean over two learners), share nearer to training."""
    parts = [rows.iloc[i : i + len(train)] for i in range(0, len(rows), len(train))]
    distance = [wasserstein(test, p, scale=train, categorical=[target]).value for p in parts]
    found = [
        machine_learning_efficiency(
            p, train, test, target, task="classification", learner=learner, categorical=[target], resamples=10
        )
        for p in parts[:1]
        for learner in ("boosting", "linear")
    ]
    share = nearer_to_train(rows, train, test, categorical=[target])
    return {
        "W1": float(np.mean(distance)),
        "TSTR": float(np.mean([f.tstr["f1"].estimate for f in found])),
        "TRTR": float(np.mean([f.trtr["f1"].estimate for f in found])),
        "share": share.estimate,
        "share low": share.low,
        "share high": share.high,
    }


def compare(tables=TABLES, seeds=SEEDS, methods=METHODS):
    """``{table: {seed: {method: scores}}}``, with the training rows themselves as the floor."""
    found = {}
    for name in tables:
        found[name] = {}
        for seed in seeds:
            train, test, target = split(name, seed)
            floor = wasserstein(test, train, scale=train, categorical=[target]).value
            entry = found[name][seed] = {"floor": {"W1": floor}}
            for method, make in methods.items():
                made = make(train, target, DRAWS[name] * len(train), name, seed)
                if made is None:
                    continue
                entry[method] = score(made[0], train, test, target) | {"CPU-s": made[1]}
                print(
                    name,
                    seed,
                    method,
                    {k: round(v, 3) for k, v in entry[method].items()},
                    f"floor {floor:.3f}",
                    flush=True,
                )
            OUT.write_text(json.dumps(found, indent=1))
    return found


def updated(method):
    """The figures of the last run with those of one method anew."""
    found = {n: {int(s): v for s, v in runs.items()} for n, runs in json.loads(OUT.read_text()).items()}
    for name, runs in found.items():
        for seed, entry in runs.items():
            train, test, target = split(name, seed)
            made = METHODS[method](train, target, DRAWS[name] * len(train), name, seed)
            if made is not None:
                entry[method] = score(made[0], train, test, target) | {"CPU-s": made[1]}
                print(name, seed, method, {k: round(v, 3) for k, v in entry[method].items()}, flush=True)
    OUT.write_text(json.dumps(found, indent=1))
    return found


def mean(found, name, method, key, seeds=SEEDS):
    return float(np.mean([found[name][s][method][key] for s in seeds if method in found[name][s]]))


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    again = sys.argv[2] if sys.argv[1:2] == ["update"] else None
    found = compare() if again is None else updated(again)
    for name in TABLES:
        entries = found[name]
        if again is not None and not any(again in entries[s] for s in SEEDS):
            continue
        forests = {m: [s for s in SEEDS if m in entries[s]] for m in METHODS if m.startswith("ForestFlow")}
        ours = np.array([entries[s]["small recipe"]["W1"] for s in SEEDS])
        half = 4.303 * ours.std(ddof=1) / np.sqrt(len(ours))
        baselines = {
            f"{m} {k}": mean(found, name, m, k)
            for m in METHODS
            for k in ("W1", "TSTR", "TRTR", "share", "CPU-s")
            if any(m in entries[s] for s in SEEDS)
        } | {
            f"{m} {k}, splits of {forest}": mean(found, name, m, k, splits)
            for forest, splits in forests.items()
            for m in ("small recipe", "boosted trees", "ForestFlow")
            for k in ("W1", "TSTR", "share")
            if any(m in entries[s] for s in splits)
        }
        record(
            "tabular",
            f"small-{name}",
            "1-Wasserstein distance to held-out rows (min-max scaled L1 and indicators of the class, halved), small recipe",
            ours.mean(),
            interval=(ours.mean() - half, ours.mean() + half),
            floor=float(np.mean([entries[s]["floor"]["W1"] for s in SEEDS])),
            baselines=baselines,
            bar="W1 and TSTR no worse than ForestFlow's within 120 CPU-s, share nearer to training 45 to 55 %",
            seeds=list(SEEDS),
            note=f"80/20 splits; mean of {DRAWS[name]} samples of the size of the training table; ForestFlow (ForestDiffusion 1.0.6, a model a class) on splits "
            + "; ".join(f"{splits} ({m})" for m, splits in forests.items())
            + f" only; configuration {dataclasses.asdict(config())}"
            + ("" if again is None else f"; all but {again} from the run before, of 491 s of CPU"),
        )


if __name__ == "__main__":
    main()
