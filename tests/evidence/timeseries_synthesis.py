"""Windows from nothing: TimeGAN's sines, stocks and ETTh1 at length 24, scored on windows held out from training.

``python tests/evidence/timeseries_synthesis.py [train|score] [run …]``. Both parts by default; what is trained or scored is kept
under ``/tmp``, so that a run that was stopped goes on. Minutes of CPU time a training, all within ten.
"""

import dataclasses
import io
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from record import record

from polydiff.core.evaluation import frechet_distance, memorisation_test
from polydiff.datasets import series_files
from polydiff.datasets.series import sines, split_windows, windows
from polydiff.timeseries import TimeSeriesGenerator, recipes
from polydiff.timeseries.context_frechet import ContextEncoder
from polydiff.timeseries.discriminative import discriminative_score, predictive_score
from polydiff.timeseries.scores import (
    autocorrelation_distance,
    correlational_score,
    marginal_distance,
    repeated,
    unit_range,
)

LENGTH = 24
SEEDS = range(5)  # of the trained scores
READERS = range(2)  # of the predictive score, two trainings of 5000 steps each
KEPT = Path("/tmp/polydiff-synthesis")
BARS = {"sines": (0.02, 0.01), "stocks": (0.07, 0.15), "etth1": (0.06, 0.12)}
PUBLISHED = {"sines": (0.006, 0.006), "stocks": (0.067, 0.147), "etth1": (0.061, 0.116)}


@dataclass(frozen=True)
class Run:
    """One training a seed.

    ``apart``: held-out windows share no step with training; otherwise they are a random fifth of all, as in the field.
    """

    name: str
    apart: bool
    steps: int
    seeds: tuple[int, ...] = (0,)

    @property
    def key(self):
        return f"{self.name}-apart" if self.apart else self.name


RUNS = (
    Run("sines", False, 12_000),
    Run("stocks", False, 3000, (0, 1, 2)),
    Run("etth1", False, 3000),
    Run("stocks", True, 3000),
    Run("etth1", True, 3000),
)


# ------------------------------------------------------------------ data


def values(name):
    """All steps of all channels, each channel on [0, 1] over the whole series, as in the published code."""
    if name == "stocks":
        x = series_files.stocks().values
    else:  # the published figures use all 17,420 hours, the forecasting split leaves the last out
        import pandas as pd

        x = pd.read_csv(io.BytesIO(series_files._read("ETTh1.csv.gz"))).iloc[:, 1:].to_numpy(dtype=np.float64)
    return (x - x.min(0)) / (x.max(0) - x.min(0))


def split(run):
    """Windows to learn from and held-out ones; those of sines are drawn anew, so that nothing overlaps."""
    if run.name == "sines":
        return sines(10_000, LENGTH, seed=0), sines(10_000, LENGTH, seed=1)
    x = values(run.name)
    if run.apart:
        return split_windows(x, LENGTH)
    x = windows(x, LENGTH)
    order = np.random.default_rng(0).permutation(len(x))
    held = len(x) // 5
    return x[order[held:]], x[order[:held]]


def config():
    return dataclasses.replace(recipes.synthesis(LENGTH), process="flow")


def made(run, seed):
    """As many windows as there are to learn from, by a model trained for the occasion, and what they cost."""
    file = KEPT / f"{run.key}-{run.steps}-{seed}.npz"
    if file.exists():
        kept = np.load(file)
        return kept["x"], {"train": float(kept["train"]), "sample": float(kept["sample"])}
    x, _ = split(run)
    begin = time.process_time()
    model = TimeSeriesGenerator(config(), seed=seed, device="cpu").fit(x, steps=run.steps, progress=False)
    middle = time.process_time()
    drawn = model.sample(len(x), seed=100 + seed)
    spent = {"train": middle - begin, "sample": time.process_time() - middle}
    KEPT.mkdir(exist_ok=True)
    np.savez(file, x=drawn, **spent)
    print(f"{run.key:<14} seed {seed}: {run.steps} steps, CPU seconds {spent}", flush=True)
    return drawn, spent


# ------------------------------------------------------------------ scores


def scored(run):
    """Every score of made and of training windows against held-out ones, by arm."""
    return {arm: kept(run, arm) for arm in (*(f"seed {s}" for s in run.seeds), "floor")}


def kept(run, arm):
    """The scores of one arm, each of which is taken once."""
    file = KEPT / f"{run.key}-{run.steps}-{arm.replace(' ', '-')}.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    train, held = split(run)
    x = train[np.random.default_rng(2).permutation(len(train))] if arm == "floor" else made(run, int(arm[5:]))[0]
    equal = x[: len(held)]  # both discriminative score and Fréchet distance depend on the number of windows

    def distance():
        encoder = encoder_of(run, train)
        return frechet_distance(encoder(held), encoder(equal)).value

    wanted = {
        "context-Fréchet": distance,
        "correlational": lambda: correlational_score(held, x).value,
        "autocorrelation": lambda: autocorrelation_distance(held, x).value,
        "marginal": lambda: marginal_distance(held, x).value,
    }
    if arm != "floor":
        wanted["CPU seconds"] = lambda: made(run, int(arm[5:]))[1]["train"]
        wanted["nearer to training than held out"] = lambda: copies(train, held, equal).closer
        wanted["within the nearest 5 %"] = lambda: copies(train, held, equal).share
    for s in SEEDS:
        wanted[f"discriminative {s}"] = lambda s=s: discriminative_score(held, equal, seed=s).value
    if arm in ("floor", f"seed {run.seeds[0]}"):
        for s in READERS:
            wanted[f"predictive {s}"] = lambda s=s: predictive_score(held, x, seed=s).value
    for name in [w for w in wanted if w not in found]:
        found[name] = float(wanted[name]())
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False))
        print(f"{run.key:<14} {arm:<8} {name:<34} {found[name]:.4f}", flush=True)
    return found


def encoder_of(run, train):
    """Fitted to the training windows once; seeded, so that keeping it only saves time."""
    file = KEPT / f"{run.key}-encoder.pt"
    if not file.exists():
        torch.save(ContextEncoder(train), file)
    return torch.load(file, weights_only=False)


def copies(train, held, x):
    """Are made windows nearer to training windows than held-out ones are? Channels on [0, 1]; 0.5 and 0.05 are ideal."""
    reference, *rest = (v.flatten(1) for v in unit_range(*(torch.as_tensor(v) for v in (train, train, held, x))))
    return memorisation_test(reference, rest[0], rest[1])


# ------------------------------------------------------------------ figures


def mean(found, name):
    """Of the scores of one name over its seeds, and over arms."""
    arms = found if isinstance(found, list) else [found]
    return float(np.mean([v for a in arms for k, v in a.items() if k == name or k.rstrip("0123456789 ") == name]))


def report(run):
    """Two figures a run: discriminative score and context-Fréchet distance; everything else beside the first."""
    found, settings = scored(run), dataclasses.asdict(config())
    floor, arms = found["floor"], [found[f"seed {s}"] for s in run.seeds]
    bars, theirs = BARS[run.name], PUBLISHED[run.name]
    how = "share no step with training" if run.apart else "a random fifth of all, which overlap training windows"
    how = "drawn anew" if run.name == "sines" else how
    chosen = ", ".join(f"{k}={settings[k]}" for k in ("process", "base", "width", "depth", "batch_size", "lr"))
    told = repeated(lambda s: np.mean([a[f"discriminative {s}"] for a in arms]), SEEDS)
    distances = [a["context-Fréchet"] for a in arms]
    worth = mean(arms[:1], "predictive") / mean(floor, "predictive")
    reached = {
        "discriminative": told.estimate <= bars[0],
        "context-Fréchet": np.mean(distances) <= bars[1],
        "predictive": worth <= 1.03,
    }
    common = {
        "note": f"held-out windows: {how}; {run.steps} steps, {max(a['CPU seconds'] for a in arms):.0f} CPU seconds; {chosen}; "
        f"training seeds {list(run.seeds)}; "
        + ", ".join(f"{k} {'reached' if ok else 'not reached'}" for k, ok in reached.items()),
    }
    names = ("context-Fréchet", "correlational", "autocorrelation", "marginal", "predictive")
    also = ("nearer to training than held out", "within the nearest 5 %")
    record(
        "timeseries",
        f"synthesis-{run.key}-discriminative",
        f"discriminative score of {run.key} at length {LENGTH}, |accuracy − ½| of TimeGAN's GRU, mean of {len(SEEDS)} readers",
        told.estimate,
        interval=(told.low, told.high),
        floor=mean(floor, "discriminative"),
        baselines={"Diffusion-TS, on its training windows": theirs[0]}
        | {k: mean(arms, k) for k in (*names, *also)}
        | {f"{k}, floor": mean(floor, k) for k in names}
        | {"predictive, over that of training on real windows": worth},
        bar=f"≤ {bars[0]}, predictive score within 3 % of training on real windows",
        seeds=list(SEEDS),
        **common,
    )
    record(
        "timeseries",
        f"synthesis-{run.key}-frechet",
        f"context-Fréchet distance of {run.key} at length {LENGTH}, TS2Vec fitted to training windows",
        float(np.mean(distances)),
        interval=(min(distances), max(distances)) if len(distances) > 1 else None,
        floor=floor["context-Fréchet"],
        baselines={"Diffusion-TS, on its training windows": theirs[1]},
        bar=f"≤ {bars[1]}",
        seeds=list(run.seeds),
        **common,
    )


def main():
    torch.set_num_threads(1)
    words = sys.argv[1:]
    parts = [w for w in words if w in ("train", "score")] or ["train", "score"]
    for run in RUNS:
        if set(words) - set(parts) and run.key not in words:
            continue
        if "train" in parts:
            for seed in run.seeds:
                made(run, seed)
        if "score" in parts:
            report(run)


if __name__ == "__main__":
    main()
