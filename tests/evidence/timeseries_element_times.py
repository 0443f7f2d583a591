"""S238 and S358: a time of its own for each element; given elements at time 0, and a window that rolls.

``python tests/evidence/timeseries_element_times.py [vector|rolling|start]``: each under six CPU-minutes.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ks_2samp
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from record import record

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Model, VPrediction
from polydiff.core.inverse import ToldByTime
from polydiff.core.networks import MLP, FourierEmbedding
from polydiff.core.processes import Gaussian
from polydiff.core.sampling import Ancestral, Chain, Replace
from polydiff.core.sampling.rolling import Rolling
from polydiff.core.schedules import Cosine, uniform_times
from polydiff.core.training import Batches, Denoising, TimeLaw, Uniform, VWeight, adamw, train
from polydiff.core.training.times import RollingTimes, VectorTimes

CPU = torch.device("cpu")
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Budget:
    """Of every network alike."""

    steps: int = 700
    batch_size: int = 256
    lr: float = 2e-3
    warmup: int = 50
    ema: float = 0.99


class Network(nn.Module):
    """A residual network of the whole window, modulated by the levels of all its elements."""

    def __init__(self, length, channels, width=128):
        super().__init__()
        self.level = FourierEmbedding(16, 16)
        self.join = nn.Sequential(nn.Linear(16 * length, 128), nn.SiLU())
        self.body = MLP(length * channels, length * channels, width=width, depth=3, cond=128)

    def forward(self, x, level, ctx):
        level = level[:, None] if level.ndim == 1 else level
        c = self.level(level.expand(x.shape[:2])).flatten(1)
        return self.body(x.flatten(1), self.join(c)).view_as(x)


def fitted(windows, times, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Model(Network(*windows.shape[1:]), Gaussian(Cosine()), VPrediction())
    objective = Denoising(model, times=times, weight=VWeight())
    batches = Batches(windows, batch_size=Budget.batch_size, seed=seed)
    train(objective, adamw(objective, Budget.lr, 1e-4), batches, Budget(), seed=seed, device=CPU, progress=False)
    return model.eval()


def crps(samples, truth):
    """Fair CRPS of an ensemble ``(n, m, ...)`` at ``(n, ...)``, mean over all entries."""
    m = samples.shape[1]
    near = (samples - truth[:, None]).abs().mean(1)
    ordered = samples.sort(1).values
    rank = (2 * torch.arange(1, m + 1) - m - 1).reshape(-1, *(1,) * (truth.ndim - 1))
    return float((near - (rank * ordered).sum(1) / (m * (m - 1))).mean())


# ------------------------------------------------------------------ S238: an AR(2) of 16 elements

PHI, LENGTH = (1.6, -0.9), 16


def covariance():
    r = [1.0, PHI[0] / (1 - PHI[1])]
    while len(r) < LENGTH:
        r.append(PHI[0] * r[-1] + PHI[1] * r[-2])
    place = torch.arange(LENGTH)
    return torch.tensor(r, dtype=torch.float64)[(place[:, None] - place).abs()]


TASKS = {
    "forecast": torch.arange(LENGTH) < 8,
    "interpolation": (torch.arange(LENGTH) < 4) | (torch.arange(LENGTH) >= 12),
}


def conditional(truth, known, m, seed):
    """Exact draws of the free elements, ``(n, m, free)``."""
    sigma = covariance()
    gain = torch.linalg.solve(sigma[known][:, known], sigma[known][:, ~known]).T
    root = torch.linalg.cholesky(sigma[~known][:, ~known] - gain @ sigma[known][:, ~known])
    z = torch.randn(len(truth), m, int((~known).sum()), generator=torch.Generator().manual_seed(seed)).double()
    return (truth[:, known].double() @ gain.T)[:, None] + z @ root.T


def infilled(model, truth, known, m, seed, told):
    """``(n, m, free)`` in 32 ancestral steps."""
    rows = truth.repeat_interleave(m, 0)[..., None]
    ctx = Context(known=known[None, :, None].expand_as(rows), given=rows)
    controls = () if told else [Replace(model.process, Rng(seed + 1, len(rows)))]
    sampler = Chain(uniform_times(32), Ancestral(1.0), controls)
    with torch.no_grad():
        x = sampler(ToldByTime(model) if told else model, rows, ctx, Rng(seed, len(rows)))
    return x[:, ~known, 0].view(len(truth), m, -1)


def frechet(x, sigma):
    x = x.double()
    cov = x.T.cov()
    values = torch.linalg.eigvals(cov @ sigma).real.clamp_min(0).sqrt().sum()
    return float((x.mean(0) ** 2).sum() + cov.trace() + sigma.trace() - 2 * values)


def vector():
    root = torch.linalg.cholesky(covariance())

    def draw(n, seed):
        return (torch.randn(n, LENGTH, generator=torch.Generator().manual_seed(seed)).double() @ root.T).float()

    truth, m, rows = draw(128, 99), 16, {}
    floor = {k: crps(conditional(truth, known, m, 0), truth[:, ~known].double()) for k, known in TASKS.items()}
    print("floor", floor, "frechet", frechet(draw(2048, 7), covariance()))
    for p in (0.0, 0.5, 1.0):
        for seed in SEEDS:
            model = fitted(draw(20_000, seed)[..., None], VectorTimes(p), seed)
            row = {}
            for task, known in TASKS.items():
                for told in (False, True):
                    x = infilled(model, truth, known, m, seed, told)
                    row[task, "time 0" if told else "Replace"] = crps(x, truth[:, ~known])
            with torch.no_grad():
                x = Chain(uniform_times(32), Ancestral(1.0))(
                    model, torch.zeros(2048, LENGTH, 1), Context(), Rng(seed, 2048)
                )
            row["frechet"] = frechet(x[..., 0], covariance())
            rows[p, seed] = row
            print(p, seed, {k: round(v, 4) for k, v in row.items()}, round(time.process_time(), 1), flush=True)

    def mean(p, key):
        return float(np.mean([rows[p, s][key] for s in SEEDS]))

    for task in TASKS:
        value = [rows[0.5, s][task, "time 0"] for s in SEEDS]
        record(
            "timeseries",
            f"element_times_{task}",
            f"fair CRPS ({m} samples, 128 windows, 8 free of 16 elements) of an AR(2) of unit variance; known elements at time 0",
            float(np.mean(value)),
            interval=[min(value), max(value)],
            floor=floor[task],
            baselines={
                "scalar time + Replace": mean(0.0, (task, "Replace")),
                "scalar time, known at time 0": mean(0.0, (task, "time 0")),
                "p=1, known at time 0": mean(1.0, (task, "time 0")),
                "p=0.5 + Replace": mean(0.5, (task, "Replace")),
            },
            bar="below a model of one time with replacement",
            seeds=SEEDS,
            note="p = 0.5; interval: smallest and largest of the seeds; 32 ancestral steps; floor: draws from the exact conditional",
        )
    value = [rows[0.5, s]["frechet"] for s in SEEDS]
    record(
        "timeseries",
        "element_times_frechet",
        "Fréchet distance of 2048 whole windows of 16 elements to the exact law of the AR(2)",
        float(np.mean(value)),
        interval=[min(value), max(value)],
        floor=frechet(draw(2048, 7), covariance()),
        baselines={"scalar time": mean(0.0, "frechet"), "p=1": mean(1.0, "frechet")},
        bar="not worse than one time",
        seeds=SEEDS,
        note="p = 0.5; interval: smallest and largest of the seeds; 32 ancestral steps at one shared time",
    )


# ------------------------------------------------------------------ S358: Lorenz-63 with noise

CONTEXT, PER_ELEMENT, HORIZON = 4, 4, 16


def lorenz(n, length, seed):
    """``(n, length, 3)`` every 0.1 of a stochastic Lorenz-63, standardised by the moments of its long run."""
    g = np.random.default_rng(seed)
    x = g.normal([0, 0, 25], 1, (n, 3))
    out, dt = [], 0.01
    for i in range(10 * (length + 30)):
        v = np.stack(
            [10 * (x[:, 1] - x[:, 0]), x[:, 0] * (28 - x[:, 2]) - x[:, 1], x[:, 0] * x[:, 1] - 8 / 3 * x[:, 2]], 1
        )
        x = x + dt * v + np.sqrt(dt) * 1.0 * g.normal(size=x.shape)
        if i % 10 == 9 and i >= 300:
            out.append(x)
    return torch.tensor((np.stack(out, 1) - [0, 0, 23.6]) / [7.9, 8.9, 8.5], dtype=torch.float32)


@dataclass(frozen=True)
class Behind(TimeLaw):
    """One time for a block behind clean elements: what block-autoregressive diffusion practises."""

    clean: int

    def __call__(self, process, like, rng):
        t = Uniform()(process, like, rng)[:, None].expand(like.shape[:2])
        return torch.where(torch.arange(like.shape[1]) < self.clean, 0.0, t)

    def quantile(self, process, u):
        return u


def roll(model, window, start, length, seed):
    """On from ``start`` ``(n, CONTEXT, 3)`` to ``length`` elements."""
    ctx = prefix(start, length)
    sampler = Rolling(uniform_times(PER_ELEMENT * window), Ancestral(1.0), window, CONTEXT)
    with torch.no_grad():
        return sampler(model, ctx.given, ctx, Rng(seed))


def blocks(model, window, start, length, seed):
    """The same cost an element: block after block, each from the clean elements behind it."""
    sampler, x, rng = Chain(uniform_times(PER_ELEMENT * window), Ancestral(1.0)), start, Rng(seed)
    while x.shape[1] < length:
        ctx = prefix(x[:, -CONTEXT:], CONTEXT + window)
        with torch.no_grad():
            x = torch.cat([x, sampler(ToldByTime(model), ctx.given, ctx, rng)[:, CONTEXT:]], 1)
    return x[:, :length]


def prefix(start, length):
    rest = start.new_zeros(len(start), length - start.shape[1], *start.shape[2:])
    known = (torch.arange(length) < start.shape[1])[None, :, None].expand(len(start), length, start.shape[2])
    return Context(known=known, given=torch.cat([start, rest], 1))


def ks(x, y):
    """Mean over channels of the KS distance of the values."""
    return float(np.mean([ks_2samp(x[..., c].flatten(), y[..., c].flatten()).statistic for c in range(x.shape[-1])]))


def spectrum(x):
    s = torch.fft.rfft(x[:, -64:] - x[:, -64:].mean(1, keepdim=True), dim=1).abs().square().mean(0)
    return s / s.sum(0)


def rolling():
    methods = {"rolling": (roll, RollingTimes), "blocks": (blocks, Behind)}
    data, rows = lorenz(2500, 40, 1), {}
    held = lorenz(192, 220, 2)
    futures = held[:48]
    again = lorenz(192, 220, 3)
    floor = {"ks": ks(held[:, -12:].numpy(), again[:, -12:].numpy())}
    floor["spectrum"] = float((spectrum(again) - spectrum(held)).abs().sum(0).mean())
    print("floor", floor, held.mean((0, 1)), held.std((0, 1)))
    for window in (8, 4, 16):
        length = CONTEXT + window
        starts = range(0, 40 - length + 1, 5)
        windows = torch.cat([data[:, s : s + length] for s in starts])
        for seed in SEEDS if window == 8 else SEEDS[:1]:
            for name, (sampler, law) in methods.items():
                model = fitted(windows, RollingTimes(window) if law is RollingTimes else Behind(CONTEXT), seed)
                total = 10 * length
                x = sampler(model, window, held[:, :CONTEXT], total, seed).clamp(-20, 20)
                tenth = total // 10
                first, last = x[:, CONTEXT : CONTEXT + tenth], x[:, -tenth:]
                # Not of the series that gave the beginnings: the first tenth would be close to them sample by sample.
                real_first, real_last = again[:, CONTEXT : CONTEXT + tenth], again[:, total - tenth : total]
                m = 16
                y = sampler(model, window, futures[:, :CONTEXT].repeat_interleave(m, 0), CONTEXT + HORIZON, seed)
                y = y[:, CONTEXT:].view(48, m, HORIZON, 3)
                row = {
                    "ks first": ks(first.numpy(), real_first.numpy()),
                    "ks last": ks(last.numpy(), real_last.numpy()),
                    "crps": crps(y, futures[:, CONTEXT : CONTEXT + HORIZON]),
                    "spectrum": float((spectrum(x) - spectrum(again)).abs().sum(0).mean()),
                }
                rows[window, name, seed] = row
                shown = {k: round(v, 4) for k, v in row.items()}
                print(window, name, seed, shown, round(time.process_time(), 1), flush=True)

    def mean(window, name, key):
        return float(np.mean([rows[window, name, s][key] for s in SEEDS if (window, name, s) in rows]))

    for key, words in {
        "crps": f"fair CRPS (16 samples, 48 series) of {HORIZON} steps of 0.1 of a stochastic Lorenz-63 from 4 given ones",
        "spectrum": "L1 distance of the normalised power spectra of roll-outs of ten windows and of real series, mean over channels",
    }.items():
        value = [rows[8, "rolling", s][key] for s in SEEDS]
        record(
            "timeseries",
            f"rolling_{key}",
            words + f"; W = 8, {PER_ELEMENT} evaluations a step",
            float(np.mean(value)),
            interval=[min(value), max(value)],
            floor=floor.get(key),
            baselines={f"{n}, W = {w}": mean(w, n, key) for w in (4, 8, 16) for n in methods},
            bar="below block-autoregressive diffusion at equal cost",
            seeds=SEEDS,
            note="interval: smallest and largest of the seeds; W = 4 and 16: one seed",
        )
    value = [rows[8, "rolling", s]["ks last"] / rows[8, "rolling", s]["ks first"] for s in SEEDS]
    record(
        "timeseries",
        "rolling_drift",
        "KS distance to values of other real series of the last tenth over that of the first, roll-outs of ten windows, W = 8",
        float(np.mean(value)),
        interval=[min(value), max(value)],
        baselines={
            f"KS of the {part} tenth, {n}, W = {w}": mean(w, n, f"ks {part}")
            for w in (4, 8, 16)
            for n in methods
            for part in ("first", "last")
        }
        | {"KS, real against real": floor["ks"]},
        bar="at most 1.5",
        seeds=SEEDS,
        note="interval: smallest and largest of the seeds; W = 4 and 16: one seed",
    )


def starts():
    """How much of training should be start-up: chosen by other series than those that are scored, W = 8."""
    window, m, length = 8, 16, CONTEXT + 8
    data, rows = lorenz(2500, 40, 1), {}
    windows = torch.cat([data[:, s : s + length] for s in range(0, 40 - length + 1, 5)])
    again = lorenz(192, 220, 3)
    futures = {"validation": lorenz(48, 220, 4), "test": lorenz(192, 220, 2)[:48]}
    laws = {f"start {s}": RollingTimes(window, s) for s in (0.1, 0.3, 0.5, 0.7)}
    for name, law in {**laws, "blocks": Behind(CONTEXT)}.items():
        for seed in SEEDS:
            model = fitted(windows, law, seed)
            sampler, row = blocks if name == "blocks" else roll, {}
            for part, x in futures.items():
                y = sampler(model, window, x[:, :CONTEXT].repeat_interleave(m, 0), CONTEXT + HORIZON, seed)
                row[part] = crps(y[:, CONTEXT:].view(48, m, HORIZON, 3), x[:, CONTEXT : CONTEXT + HORIZON])
                early = y[:, CONTEXT : CONTEXT + 4].view(48, m, 4, 3)
                row[f"{part}, first 4"] = crps(early, x[:, CONTEXT : CONTEXT + 4])
            x = sampler(model, window, again[:, :CONTEXT], 10 * length, seed).clamp(-20, 20)
            row["KS of the last tenth"] = ks(x[:, -length:].numpy(), futures["validation"][:, -length:].numpy())
            rows[name, seed] = row
            print(name, seed, {k: round(v, 4) for k, v in row.items()}, round(time.process_time(), 1), flush=True)

    def mean(name, key):
        return float(np.mean([rows[name, s][key] for s in SEEDS]))

    best = min(laws, key=lambda name: mean(name, "validation"))
    value = [rows[best, s]["test"] for s in SEEDS]
    record(
        "timeseries",
        "rolling_start",
        f"fair CRPS (16 samples, 48 series) of {HORIZON} steps of 0.1 of a stochastic Lorenz-63 from 4 given ones; W = 8, "
        f"{PER_ELEMENT} evaluations a step, {best} of training",
        float(np.mean(value)),
        interval=[min(value), max(value)],
        baselines={f"{n} {k}": mean(n, k) for n in (*laws, "blocks") for k in rows[n, 0]},
        bar="below block-autoregressive diffusion at equal cost",
        seeds=SEEDS,
        note="the share of start-up in training was chosen by the CRPS of 48 other series; interval: smallest and largest of the seeds",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in sys.argv[1:] or ["vector", "rolling", "start"]:
        {"vector": vector, "rolling": rolling, "start": starts}[part]()
