"""Irregular times: forecasts and interpolations of held-out Gaussian processes against the exact conditional.

Two families on [0, 96): ``"one"``, Matérn-3/2 (length 12) + ½ periodic (period 24), and ``"many"``, Matérn-3/2 whose length
is log-uniform in [4, 32], a scale of its own for each series; noise of standard deviation 0.1 on both. ``grid``: stamps on a
grid of 96 steps of which half were dropped at random, in training and in the test; the model predicts the last 24 steps from
those kept of the first 72. ``free``: 48 stamps uniform on the interval, on no grid; the last 12 from the first 36. The exact
conditional of ``"many"`` is the mixture over 33 lengths by their likelihood.
About ten CPU-minutes. ``python tests/evidence/timeseries_irregular.py``
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))

from record import record

from polydiff.core.distributions.kernels import Matern, Periodic
from polydiff.timeseries import TimeSeriesGenerator, recipes
from polydiff.timeseries.forecast_metrics import crps

OUT = Path("/tmp/polydiff-irregular.json")
SEEDS = range(3)
LENGTH, AHEAD, DRAWS, STEPS = 96, 24, 100, 32
LENGTHS = np.geomspace(4.0, 32.0, 33)
NOISE = 0.1
TRAIN, TEST = 2000, 200


def kernels(family):
    """Members of a family, equally likely."""
    if family == "one":
        return [Matern(1.5, 12.0) + 0.5 * Periodic(24.0, 1.0)]
    return [Matern(1.5, float(a)) for a in LENGTHS]


def covariance(kernel, at):
    x = torch.as_tensor(at, dtype=torch.float64)[..., None]
    return (kernel(x, x) + NOISE**2 * torch.eye(len(at), dtype=torch.float64)).numpy()


def draws(family, at, rng):
    """A member's function with noise at stamps."""
    members = kernels(family)
    factor = np.linalg.cholesky(covariance(members[rng.integers(len(members))], at))
    return factor @ rng.standard_normal(len(at))


def exact(family, at, values, to, number, rng):
    """Draws ``(S, M)`` of the values at stamps ``to`` given those at others, members weighted by their likelihood."""
    k, both = len(at), np.concatenate([at, to])
    weights, means, factors = [], [], []
    for kernel in kernels(family):
        cov = covariance(kernel, both)
        factor = np.linalg.cholesky(cov)
        white = np.linalg.solve(factor[:k, :k], values)
        weights.append(-0.5 * white @ white - np.log(np.diag(factor[:k, :k])).sum())
        means.append(factor[k:, :k] @ white)
        factors.append(factor[k:, k:])
    p = np.exp(np.array(weights) - max(weights))
    which = rng.choice(len(p), number, p=p / p.sum())
    noise = rng.standard_normal((number, len(to)))
    return np.stack([means[i] + factors[i] @ e for i, e in zip(which, noise)])


def grid_series(family, n, rng):
    """Complete series on the grid ``(n, L)`` and which half of their stamps are kept."""
    at = np.arange(float(LENGTH))
    whole = np.stack([draws(family, at, rng) for _ in range(n)])
    return whole, rng.random((n, LENGTH)) < 0.5


def long(values, kept, stamps):
    """A frame of the rows that are kept, the others absent."""
    parts = [
        pd.DataFrame({"unique_id": i, "ds": stamps[i][k], "y": v[k]}) for i, (v, k) in enumerate(zip(values, kept))
    ]
    return pd.concat(parts, ignore_index=True)


def ratio(made, truth, best):
    """Fair CRPS of draws ``(S, K)``, that of the exact conditional, and their ratio."""
    mine, least = float(np.mean(crps(made, truth))), float(np.mean(crps(best, truth)))
    return [mine, least, mine / least]


# ------------------------------------------------------------------ a grid with dropped stamps


def on_grid(family, seed, steps):
    """Forecasts of the last steps, and of dropped ones among the first, scored at every stamp of the grid."""
    rng = np.random.default_rng([seed, len(family)])
    at, seen = np.arange(float(LENGTH)), LENGTH - AHEAD
    span = np.arange(3.0 * LENGTH)
    train = np.stack([draws(family, span, rng) for _ in range(TRAIN // 3)])
    stamps = [span] * len(train)
    config = dataclasses.replace(
        recipes.mixed(seen, AHEAD), scaling="global", nothing=0.0, steps=steps, batch_size=128, base="linear"
    )
    begin = time.process_time()
    model = TimeSeriesGenerator(config, seed=seed, device="cpu")
    model.fit(long(train, rng.random(train.shape) < 0.5, stamps), progress=False)
    seconds = time.process_time() - begin
    whole, kept = grid_series(family, TEST, rng)
    told = kept[:, :seen]
    rows = [(np.where(k, v[:seen], np.nan), at[:seen]) for k, v in zip(told, whole)]
    frame = pd.concat([pd.DataFrame({"unique_id": i, "ds": s, "y": v}) for i, (v, s) in enumerate(rows)])
    made = model.forecast(frame, AHEAD, DRAWS, steps=STEPS, seed=seed, progress=False).samples[..., 0]  # (N, S, H)
    best = [exact(family, at[:seen][k], v[:seen][k], at[seen:], DRAWS, rng) for k, v in zip(told, whole)]
    found = {"forecast": ratio(made.transpose(1, 0, 2), whole[:, seen:], np.stack(best, 1)), "seconds": seconds}
    copies = model.impute(frame, draws=DRAWS, steps=STEPS, seed=seed, progress=False)
    filled = np.stack([c["y"].to_numpy().reshape(TEST, seen) for c in copies])
    best = [exact(family, at[:seen][k], v[:seen][k], at[:seen][~k], DRAWS, rng) for k, v in zip(told, whole)]
    found["interpolation"] = ratio(filled[:, ~told], whole[:, :seen][~told], np.concatenate(best, 1))
    return found


# ------------------------------------------------------------------ stamps on no grid

FREE, FREE_AHEAD = 48, 12


def free_frame(family, n, rng):
    stamps = [np.sort(rng.uniform(0, LENGTH, FREE)) for _ in range(n)]
    values = [draws(family, s, rng) for s in stamps]
    return stamps, values


def off_grid(family, seed, steps):
    """Forecasts at given later stamps, and interpolations at a quarter of the earlier ones, by a transformer."""
    rng = np.random.default_rng([seed, len(family), 1])
    stamps, values = free_frame(family, TRAIN, rng)
    config = dataclasses.replace(
        recipes.mixed(FREE - FREE_AHEAD, FREE_AHEAD),
        scaling="global", nothing=0.0, blocks=0.0, points=0.5, steps=steps, batch_size=64, network="transformer",
        width=64, depth=2, base="none",
    )  # fmt: skip
    begin = time.process_time()
    model = TimeSeriesGenerator(config, seed=seed, device="cpu")
    model.fit(long(values, [np.ones(FREE, bool)] * TRAIN, stamps), progress=False)
    found: dict[str, object] = {"seconds": time.process_time() - begin}
    stamps, values = free_frame(family, TEST, rng)
    late = np.broadcast_to(np.arange(FREE) >= FREE - FREE_AHEAD, (TEST, FREE))
    among = np.stack([np.isin(np.arange(FREE), rng.permutation(FREE)[:FREE_AHEAD]) for _ in range(TEST)])
    truth = np.stack(values)
    for name, gone in (("forecast", late), ("interpolation", among)):
        frame = long(np.where(gone, np.nan, truth), np.ones((TEST, FREE), bool), stamps)
        copies = model.impute(frame, draws=DRAWS, steps=STEPS, seed=seed, progress=False)
        made = np.stack([c["y"].to_numpy().reshape(TEST, FREE) for c in copies])[:, gone]
        best = [exact(family, s[~g], v[~g], s[g], DRAWS, rng) for s, v, g in zip(stamps, values, gone)]
        found[name] = ratio(made, truth[gone], np.concatenate(best, 1))
    return found


CASES = {"grid": (on_grid, 600), "free": (off_grid, 800)}


def report(found):
    """One record a case, family and task."""
    for key in sorted({k.rsplit(" ", 1)[0] for k in found}):
        runs = [found[f"{key} {s}"] for s in SEEDS if f"{key} {s}" in found]
        for task in ("forecast", "interpolation"):
            ratios = [r[task][2] for r in runs]
            record(
                "timeseries",
                f"irregular-{key.replace(' ', '-')}-{task}",
                f"fair CRPS of {DRAWS} draws over that of the exact conditional, {TEST} held-out series, {STEPS} sampling steps",
                np.mean(ratios),
                interval=(min(ratios), max(ratios)),
                floor=1.0,
                baselines={
                    "CRPS of the model": float(np.mean([r[task][0] for r in runs])),
                    "CRPS of the exact conditional": float(np.mean([r[task][1] for r in runs])),
                    "CPU seconds of training": float(np.mean([r["seconds"] for r in runs])),
                },
                bar="within 10 % of the exact conditional",
                seeds=range(len(runs)),
                note="the interval is the range over seeds of training and data",
            )


def main():
    torch.set_num_threads(1)
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    for case in sys.argv[1:] or ("grid many", "grid one", "free many"):
        kind, family = case.split()
        run, steps = CASES[kind]
        for seed in SEEDS:
            if f"{case} {seed}" in found:
                continue
            found[f"{case} {seed}"] = run(family, seed, steps)
            print(case, seed, found[f"{case} {seed}"], flush=True)
            OUT.write_text(json.dumps(found))
    report(found)


if __name__ == "__main__":
    main()
