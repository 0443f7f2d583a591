"""S361: residual diffusion behind a point model against diffusion of the values, with and without a linear base.

``python tests/evidence/timeseries_falda.py [synthetic|co2]``; what was run is kept in OUT. About four CPU-minutes.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from record import record
from timeseries_dynamics import ends

from polydiff.datasets import embedded
from polydiff.timeseries import TimeSeriesGenerator
from polydiff.timeseries.falda import Falda, FaldaConfig
from polydiff.timeseries.forecast_metrics import crps
from polydiff.timeseries.interval_metrics import coverage
from polydiff.timeseries.recipes import forecasting

SEEDS, DRAWS = range(3), 100
OUT = Path("/tmp/polydiff-falda.json")


def synthetic(n, length, seed):
    """``(n, length)``: a trend that bends, a season of 24 whose size and phase drift, noise whose size is a slow AR(1).

    With them the size of the noise ``(n, length)``: who knows all but the noise itself has the CRPS ``σ / √π``.
    """
    g = np.random.default_rng(seed)
    t = np.arange(length)

    def drift(step, start=0.0):
        return start + (step * g.normal(size=(n, length))).cumsum(1)

    trend = drift(0.01).cumsum(1) * 0.05 + 0.01 * g.normal(size=(n, 1)) * t
    season = np.exp(drift(0.01)) * np.sin(2 * np.pi * t / 24 + drift(0.02, 2 * np.pi * g.uniform(size=(n, 1))))
    log, logs = 0.6 * g.normal(size=n), []
    for _ in t:
        log = 0.95 * log + 0.6 * np.sqrt(1 - 0.95**2) * g.normal(size=n)
        logs.append(log)
    size = 0.35 * np.exp(np.stack(logs, 1))
    return trend + season + size * g.normal(size=(n, length)), size


def co2():
    found = embedded("co2")
    y = found.frame["y"].interpolate().to_numpy()
    return y


def tasks():
    """By name: training series, histories ``(N, C)``, truths ``(N, H)``, context, horizon, floor or None."""
    y, size = synthetic(130, 400, 0)
    out = {
        "synthetic": (
            list(y[:50]),
            y[50:, 120:168],
            y[50:, 168:192],
            48,
            24,
            float(size[50:, 168:192].mean()) / np.pi**0.5,
        )
    }
    c, h, rounds = 104, 52, 40
    y = co2()
    first = len(y) - 10 * 52  # ten years are held back; windows of them begin every 12 weeks
    begins = range(first, len(y) - h + 1, 12)
    out["co2"] = (
        [y[:first]],
        np.stack([y[b - c : b] for b in begins])[:rounds],
        np.stack([y[b : b + h] for b in begins])[:rounds],
        c,
        h,
        None,
    )
    return out


def parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


class Gaussianly:
    """In place of the diffusion: independent normal residuals of the spread of each lead."""

    def __call__(self, denoiser, like, ctx, rng):
        return rng.normal(like)


def falda(task, seed, steps):
    train, _, _, c, h, _ = task
    return Falda(FaldaConfig(context=c, horizon=h, modes=4, kernel=9, width=96, steps=steps), seed=seed).fit(
        train, progress=False
    )


def generator(task, seed, steps, base, width):
    train, _, _, c, h, _ = task
    config = replace(forecasting(c, h), base=base, scaling="context", width=width, depth=3, steps=steps, ema=0.995)
    return TimeSeriesGenerator(config, seed=seed).fit(dict(enumerate(train)), progress=False)


def drawn(model, histories, seed):
    """``(draws, N, H)``."""
    made = model.forecast(dict(enumerate(histories)), num_samples=DRAWS, seed=seed, progress=False)
    return made.samples[..., 0].swapaxes(0, 1)


def run(name, task, steps=1000):
    _, histories, truth, _, _, floor = task
    kept = json.loads(OUT.read_text()) if OUT.exists() else {}
    unit = float(np.abs(np.diff(truth)).mean()) if floor is None else 1.0

    def note(method, seed, samples, seconds, size):
        row = {
            "crps": float(crps(samples, truth).mean()) / unit,
            "mse": float(((samples.mean(0) - truth) ** 2).mean()) / unit**2,
            "coverage": coverage(samples, truth).estimate,
            "fit CPU s": seconds,
            "parameters": size,
        }
        kept[f"{name}/{method}/{seed}"] = row
        OUT.write_text(json.dumps(kept, indent=1))
        print(name, method, seed, {k: round(v, 4) for k, v in row.items()}, flush=True)

    for seed in SEEDS:
        if f"{name}/linear base/{seed}" in kept:
            continue
        begin = time.process_time()
        model = falda(task, seed, steps)
        spent, size = time.process_time() - begin, parameters(model.model)
        note("FALDA", seed, model.forecast(histories, DRAWS, seed=seed).swapaxes(0, 1), spent, size)
        plain = model.forecast(histories, DRAWS, seed=seed, sampler=Gaussianly())
        note("point + Gaussian residual", seed, plain.swapaxes(0, 1), spent, parameters(model.model.network.point))
        for base in ("none", "linear"):
            begin = time.process_time()
            other = generator(task, seed, steps, base, 96 if name == "synthetic" else 112)
            spent, size = time.process_time() - begin, parameters(other.model)
            method = "direct" if base == "none" else "linear base"
            note(method, seed, drawn(other, histories, seed), spent, size)
    methods = ("FALDA", "direct", "linear base", "point + Gaussian residual")
    found = {m: {k: [kept[f"{name}/{m}/{s}"][k] for s in SEEDS] for k in kept[f"{name}/{m}/0"]} for m in methods}
    value, interval = ends(found["FALDA"]["crps"])
    words = "synthetic trend, drifting season and noise of drifting size" if floor else "weekly CO₂, last ten years"
    record(
        "timeseries",
        f"falda_{name}",
        f"fair CRPS of {truth.shape[1]} steps, {DRAWS} draws of {len(truth)} windows, {words}"
        + ("" if floor else ", in mean absolute weekly changes"),
        value,
        interval=interval,
        floor=floor,
        baselines={f"{m} {k}": float(np.mean(v)) for m, row in found.items() for k, v in row.items()},
        bar="CRPS, MSE and 90 % coverage beside direct diffusion of equal size and a point model with Gaussian residuals",
        seeds=list(SEEDS),
        note=f"{steps} training steps of 128 windows each; 32 sampling steps; one split of the data for all seeds"
        + ("; the floor knows trend, season and the size of the noise, but not the noise" if floor else ""),
    )


def main():
    torch.set_num_threads(1)
    every = tasks()
    for name in sys.argv[1:] or list(every):
        run(name, every[name])


if __name__ == "__main__":
    main()
