"""S123, S058: dynamics-informed diffusion against Gaussian diffusion, dropout and deterministic networks of equal size.

All methods have one backbone and about equal CPU time of training: about eight CPU-minutes in all, times are CPU times.
``python tests/evidence/timeseries_dynamics.py [S123] [S058] [chain]``; what was run is kept in OUT, so that a run goes on.
"""

import json
import sys
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from record import record

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Karras, Model
from polydiff.core.processes import Gaussian
from polydiff.core.sampling import DPMSolverPP, sample
from polydiff.core.schedules import EDM, karras_times
from polydiff.core.training import Batches, Denoising, Loss, Objective
from polydiff.core.training.standard import adamw, train
from polydiff.core.training.times import LogNormalSigma
from polydiff.core.training.weights import EDMWeight
from polydiff.datasets.dynamics import NoisyTransport, lorenz96, spring_chain
from polydiff.timeseries.dynamics import DynamicsConfig, DynamicsForecaster, field_net
from polydiff.timeseries.field_codec import FieldCodec

SEEDS = range(3)
OUT = Path("/tmp/polydiff-dynamics.json")
CPU = torch.device("cpu")
MORE = 4  # training steps of a baseline for one of each stage of DYffusion, at equal CPU time
CONFIG = DynamicsConfig(
    geometry="circle", horizon=8, width=32, depth=3, dropout=0.15, steps=400, batch_size=32, lr=3e-3, ema=0.99
)


# ------------------------------------------------------------------ baselines


@dataclass(frozen=True)
class Budget:
    steps: int
    warmup: int = 50
    ema: float = 0.99


class Direct(nn.Module):
    """``x_i = x_0 + net(x_0, i / h)``: one call a step, random by dropout."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, first, t, masks=None):
        return first + self.net(first, t, masks)


class DirectObjective(Objective):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch, rng):
        x = batch.x0
        h = x.shape[1] - 1
        i = 1 + (rng.uniform(x.new_empty(len(x), dtype=torch.float64)) * h).long()
        masks = self.network.net.dropout.masks(rng, x)
        error = self.network(x[:, 0], (i / h).to(x.dtype), masks) - x[torch.arange(len(x)), i]
        return Loss.masked(error**2, None, {})


class Window(nn.Module):
    """Denoises all steps of a window at once, given the first state."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, level, ctx):
        return self.net(torch.cat([x, ctx.cond["first"]], -1), 0.2 * level)


class Baseline:
    """Standardising, fitting, rolling out: as DynamicsForecaster does."""

    def __init__(self, config, kind, seed):
        self.config, self.kind, self.seed = config, kind, seed

    def fit(self, trajectories):
        c, states = self.config, torch.as_tensor(trajectories)
        self.codec = FieldCodec.of(states, 1)
        windows = self.codec.encode(states).unfold(1, c.horizon + 1, 1).movedim(-1, 2).flatten(0, 1)
        channels = len(self.codec.mean)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if self.kind == "gaussian":
                net = field_net(c, self.codec, (c.horizon + 1) * channels, c.horizon * channels)
            else:
                net = field_net(c, self.codec, channels, channels, c.dropout if self.kind == "dropout" else 0.0)
        if self.kind == "gaussian":
            self.model = Model(Window(net), Gaussian(EDM(sigma_max=10.0)), Karras())
            objective = Denoising(self.model, times=LogNormalSigma(-0.8, 1.2), weight=EDMWeight())
            ahead = windows[:, 1:].movedim(1, 2).flatten(2)
            batches = Batches(ahead, cond={"first": windows[:, 0]}, batch_size=c.batch_size, seed=self.seed)
        else:
            self.model = Direct(net)
            objective = DirectObjective(self.model)
            batches = Batches(windows, batch_size=c.batch_size, seed=self.seed)
        optimiser = adamw(self.model, c.lr, c.weight_decay)
        train(objective, optimiser, batches, Budget(MORE * c.steps), seed=self.seed, device=CPU, progress=False)
        self.model.eval()
        return self

    @torch.no_grad()
    def forecast(self, x0, horizon, num_samples, seed=0):
        first = self.codec.encode(x0).repeat_interleave(num_samples, 0)
        rng = Rng(seed)
        steps = torch.stack(list(islice(self._roll(first, rng), horizon)), 1)
        return self.codec.decode(steps).unflatten(0, (len(x0), num_samples)).numpy()

    def _roll(self, x, rng):
        h = self.config.horizon
        while True:
            if self.kind == "gaussian":
                process, like = self.model.process, x.repeat(1, 1, h)
                noise = process.prior(like).sample(rng)
                times = karras_times(process.schedule, 20)
                y = sample(self.model, noise, times, DPMSolverPP(2), Context(cond={"first": x}), rng=rng)
                window = y.unflatten(2, (h, -1)).movedim(2, 1)
            else:
                masks = None if self.kind == "deterministic" else self.model.net.dropout.masks(rng, x)
                time_of = [torch.full((len(x),), i / h) for i in range(1, h + 1)]
                window = torch.stack([self.model(x, t, masks) for t in time_of], 1)
            yield from window.unbind(1)
            x = window[:, -1]


def fitted(config, kind, seed, trajectories):
    begin = time.process_time()
    if kind.startswith("DYffusion"):
        model = DynamicsForecaster(config, seed=seed).fit(trajectories, progress=False)
    else:
        model = Baseline(config, kind, seed).fit(trajectories)
    return model, time.process_time() - begin


# ------------------------------------------------------------------ figures


def crps(members, truth):
    """Fair: members (N, M, ...), truth (N, ...). One member: the absolute error."""
    m = members.shape[1]
    first = np.abs(members - truth[:, None]).mean()
    if m == 1:
        return first
    x = np.sort(members, 1)
    weights = (2 * np.arange(1, m + 1) - m - 1).reshape(1, m, *[1] * (x.ndim - 2))
    return first - (weights * x).sum(1).mean() / (m * (m - 1))


def spread_skill(members, truth):
    m = members.shape[1]
    if m == 1:
        return 0.0
    spread = np.sqrt((m + 1) / m * members.var(1, ddof=1).mean())
    return spread / np.sqrt(((members.mean(1) - truth) ** 2).mean())


def scored(members, truth, scale):
    return {"crps": float(crps(members / scale, truth / scale)), "ssr": float(spread_skill(members, truth))}


def compare(title, config, kinds, train_set, test_set, leads, members=20, rollout=0):
    """``{kind: {figure: [a value a seed]}}``; CRPS in standard deviations of the data. Goes on where a run was cut short."""
    scale = train_set.std((0, 1, 2))
    kept = json.loads(OUT.read_text()) if OUT.exists() else {}
    for seed in SEEDS:
        for kind in kinds:
            key, row = f"{title}/{kind}/{seed}", {}
            if key in kept:
                continue

            def add(name, value, row=row):
                row[name] = float(value)

            model, spent = fitted(config, kind, seed, train_set)
            add("fit CPU s", spent)
            count = 1 if kind == "deterministic" else members
            begin = time.process_time()
            y = model.forecast(test_set[:, 0], max(leads), count, seed=seed)
            add("CPU ms a member and step", 1e3 * (time.process_time() - begin) / (len(y) * count * max(leads)))
            for lead in leads:
                for name, value in scored(y[:, :, lead - 1], test_set[:, lead], scale).items():
                    add(f"{name}@{lead}", value)
            if rollout:
                z = model.forecast(test_set[:20, 0], rollout, 1, seed=seed)[:, 0, rollout // 3 :]
                ok = np.isfinite(z).all() and np.abs(z).max() < 1e3
                add("climate mean error", abs(z.mean() - train_set.mean()) / scale.mean() if ok else np.inf)
                add("climate variance ratio", z.var() / train_set.var() if ok else np.inf)
            kept[key] = row
            OUT.write_text(json.dumps(kept, indent=1))
            print(key, {k: round(v, 4) for k, v in row.items()}, flush=True)
    names = {kind: kept[f"{title}/{kind}/0"] for kind in kinds}
    return {kind: {n: [kept[f"{title}/{kind}/{s}"][n] for s in SEEDS] for n in row} for kind, row in names.items()}


def ends(values):
    """Mean and a 95 % interval over the seeds."""
    v = np.asarray(values)
    half = 4.303 * v.std(ddof=1) / np.sqrt(len(v))
    return v.mean(), (v.mean() - half, v.mean() + half)


def flat(found):
    return {f"{k} {n}": float(np.mean(v)) for k, rows in found.items() for n, v in rows.items() if np.isfinite(v).all()}


def forecasts():
    """S123."""
    kinds = ("DYffusion", "gaussian", "dropout")
    field = NoisyTransport()
    x, y = field.sample(100, 40, 0), field.sample(100, 17, 1)
    transport = compare("transport", CONFIG, kinds, x, y, (1, 4, 8, 16))
    floor = {lead: field.law(y[:, 0], lead)[1] / np.sqrt(np.pi) / x.std() for lead in (1, 4, 8, 16)}
    value, interval = ends(transport["DYffusion"]["crps@8"])
    record(
        "timeseries",
        "dyffusion",
        "fair CRPS at 8 steps in standard deviations, 20 members of 100 starts, noisy transport on 32 sites",
        value,
        interval=interval,
        floor=floor[8],
        baselines=flat(transport) | {f"exact law crps@{lead}": v for lead, v in floor.items()},
        bar="CRPS, spread-skill ratio and time at horizon h beside Gaussian diffusion and dropout of equal size",
        seeds=list(SEEDS),
        note=f"one backbone; {CONFIG.steps} + {CONFIG.steps} training steps against {MORE * CONFIG.steps} of the baselines; Gaussian "
        "diffusion samples by DPM-Solver++(2M) in 20 steps; spectral convolutions, so that one call sees the whole circle",
    )


def chain():
    """S123 on a nonlinear chain: displacements and velocities of 16 masses."""
    config, kinds = replace(CONFIG, geometry="line"), ("DYffusion", "gaussian", "dropout")
    found = compare("chain", config, kinds, spring_chain(100, 40, seed=0), spring_chain(100, 17, seed=1), (1, 4, 8, 16))
    value, interval = ends(found["DYffusion"]["crps@8"])
    record(
        "timeseries",
        "dyffusion_chain",
        "fair CRPS at 8 steps (4 units of time) in standard deviations, 20 members of 100 starts, kicked chain of 16 masses",
        value,
        interval=interval,
        baselines=flat(found),
        bar="CRPS, spread-skill ratio and time at horizon h beside Gaussian diffusion and dropout of equal size",
        seeds=list(SEEDS),
    )


def climate():
    """S058."""
    config = replace(CONFIG, geometry="circle", horizon=6)
    x, y = lorenz96(60, 100, seed=0), lorenz96(60, 25, seed=1)
    kinds = ("DYffusion", "gaussian", "dropout", "deterministic")
    found = compare("lorenz", config, kinds, x, y, (6, 12, 24), members=10, rollout=300)
    value, interval = ends(found["DYffusion"]["crps@6"])
    record(
        "timeseries",
        "spherical_dyffusion",
        "fair CRPS at 6 steps (0.3 units of time) in standard deviations, 10 members of 60 starts, Lorenz-96 on 40 sites",
        value,
        interval=interval,
        baselines=flat(found),
        bar="climate, CRPS and spread-skill beside a deterministic net, MC dropout and Gaussian diffusion at equal training",
        seeds=list(SEEDS),
        note="spectral convolutions on the circle of sites; climate of 200 steps after 100, 20 starts; the error of a deterministic "
        "forecast is its CRPS; figures that are not finite are left out",
    )


JOBS = {"S123": forecasts, "S058": climate, "chain": chain}


def main():
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or list(JOBS)
    for job in wanted:
        JOBS[job]()


if __name__ == "__main__":
    main()
