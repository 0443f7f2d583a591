"""S014: noise that is a function of time against white noise, same network and budget. S151: a neural diffusion process.

Usage: ``timeseries_functions.py [paths|meta]``. Short on purpose: the differences are large, the trainings are not.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from record import record

from polydiff.core.coloured import Coloured
from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Model, VPrediction
from polydiff.core.distributions.correlated import GP
from polydiff.core.distributions.kernels import RBF, Matern, regression
from polydiff.core.distributions.ornstein_uhlenbeck import OU
from polydiff.core.evaluation.classifier import classifier_two_sample_test
from polydiff.core.processes import Gaussian
from polydiff.core.processes.noises import GPNoise, OUNoise
from polydiff.core.sampling import DPMSolverPP, sample
from polydiff.core.schedules import Cosine, uniform_times
from polydiff.core.training import Batches, Denoising, VWeight, adamw, train
from polydiff.timeseries.function_networks import PointNet
from polydiff.timeseries.functions import FunctionConfig, FunctionGenerator, context_masks

CPU, F64, SPAN, POINTS = torch.device("cpu"), torch.float64, 10.0, 16
SEEDS = range(3)


@dataclass(frozen=True)
class Budget:
    """Of every noise alike."""

    steps: int = 250
    warmup: int = 30
    ema: float = 0.99
    batch_size: int = 64


# ------------------------------------------------------------------ paths at random times


def times(n, seed, points=POINTS):
    return Rng(seed).uniform(torch.empty(n, points)).sort(1).values * SPAN


def ou_paths(at, rng):
    return OU(2.0, at).sample(rng, at[..., None])


def sines(at, rng):
    phase, rate = (rng.child(i).uniform(at[:, :1]) for i in "ab")
    return (2**0.5 * torch.sin((0.5 + rate) * at + 6.2832 * phase))[..., None]


def cir(at, rng):
    """``dx = κ (1 − x) dt + s sqrt(x) dw`` by exact transitions (non-central χ²), stationary start, standardised."""
    kappa, s = 0.5, 0.7
    g = np.random.default_rng(rng.seed % 2**63)
    df = 4 * kappa / s**2
    x = g.gamma(df / 2, s**2 / (2 * kappa), len(at))
    out = [x]
    for gap in (at[:, 1:] - at[:, :-1]).T.numpy():
        c = s**2 * -np.expm1(-kappa * gap) / (4 * kappa)
        x = c * g.noncentral_chisquare(df, x * np.exp(-kappa * gap) / c)
        out.append(x)
    return (torch.tensor(np.stack(out, 1))[..., None] - 1) / (s / (2 * kappa) ** 0.5)


DATA = {"ou": ou_paths, "sines": sines, "cir": cir}
NOISES = {"white": None, "ou": OUNoise(2.0), "gp": GPNoise(Matern(1.5, 2.0), jitter=1e-3)}


def fitted(make, noise, seed):
    at = times(4000, 10 + seed)
    x = make(at, Rng(seed).child("paths"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PointNet(1)
    process = Gaussian(Cosine(), noise=noise)
    model = Model(net, process, VPrediction() if noise is None else Coloured(VPrediction()), sees_known=True)
    ctx = Context(cond={"at": at.float()}, side={"at": at})
    batches = Batches(x.float(), ctx=ctx, batch_size=Budget.batch_size, seed=seed)
    objective = Denoising(model, weight=VWeight(), known=context_masks)
    train(objective, adamw(net, 3e-3, 0.0), batches, Budget(), seed=seed, device=CPU, progress=False)
    return model.eval()


def drawn(model, at, seed, known=None, given=None):
    like = torch.zeros(*at.shape, 1)
    ctx = Context(cond={"at": at.float()}, side={"at": at}, known=known, given=given)
    rng = Rng(seed)
    with torch.no_grad():
        start = model.process.prior(like, ctx).sample(rng)
        return sample(model, start, uniform_times(16), DPMSolverPP(2), ctx, rng=rng).double()


def roughness(x, at):
    """Mean of ``|x_i − x_{i−1}| / sqrt(t_i − t_{i−1})``."""
    return float(((x[:, 1:] - x[:, :-1])[..., 0].abs() / (at[:, 1:] - at[:, :-1] + 1e-3).sqrt()).mean())


def told_apart(x, at, y, other):
    """Held-out accuracy of boosted trees on values and scaled increments."""

    def features(v, t):
        return torch.cat([v[..., 0], (v[:, 1:] - v[:, :-1])[..., 0] / (t[:, 1:] - t[:, :-1] + 1e-2).sqrt()], 1)

    trees = HistGradientBoostingClassifier(max_iter=40, random_state=0)
    return classifier_two_sample_test(features(x, at), features(y, other), classifier=trees).statistic


def correlation_error(x, at, rho):
    """Mean error of the covariance of pairs, by lag in 8 bins, against the known one."""
    lag = (at[:, :, None] - at[:, None, :]).abs()
    product, bins = x * x.mT, torch.linspace(0, 4, 9)
    errors = []
    for low, high in zip(bins, bins[1:]):
        inside = (lag > low) & (lag <= high)
        errors.append((product[inside].mean() - rho(lag[inside]).mean()).abs())
    return float(torch.stack(errors).mean())


RHO = {
    "ou": lambda d: (-d / 2).exp(),
    "sines": lambda d: (torch.sin(1.5 * d) - torch.sin(0.5 * d)) / d,
    "cir": lambda d: (-d / 2).exp(),
}


def crps(draws, truth):
    """``E|X − y| − ½ E|X − X′|`` with the unbiased mean over pairs; draws ``(S, ...)``."""
    n = len(draws)
    order = draws.sort(0).values
    weight = (2 * torch.arange(1, n + 1) - n - 1).to(draws).reshape(-1, *[1] * (draws.ndim - 1))
    pairs = (weight * order).sum(0) * 2 / (n * (n - 1))
    return float(((draws - truth).abs().mean(0) - 0.5 * pairs).mean())


def imputed(model, seed, n=40, draws=32):
    """CRPS and RMSE of the missing half of OU paths, and those of exact regression."""
    at = times(n, 900 + seed)
    x = ou_paths(at, Rng(seed).child("hidden"))
    known = Rng(seed).child("told").uniform(at) < 0.5
    rows = torch.arange(n).repeat_interleave(draws)
    y = drawn(model, at[rows], 5, known[rows], x[rows].float()).unflatten(0, (n, draws)).transpose(0, 1)
    exact = []
    for i in range(n):
        k = known[i]
        mean, cov = regression(Matern(0.5, 2.0), at[i, k, None], x[i, k], at[i, :, None], noise=1e-9)
        root = torch.linalg.cholesky(cov + 1e-7 * torch.eye(POINTS, dtype=F64))
        exact.append((mean + root @ Rng(i).normal(torch.empty(POINTS, draws, dtype=F64))).T)
    exact = torch.stack(exact, 1)[..., None]
    free = ~known[..., None]

    def scores(d):
        return crps(d[:, free], x[free]), float((d.mean(0) - x)[free].square().mean().sqrt())

    return scores(y), scores(exact)


def paths():
    found = {}
    for name, make in DATA.items():
        for seed in SEEDS:
            fresh, twice = times(1000, 500 + seed), times(1000, 700 + seed, 2 * POINTS)
            real = make(fresh, Rng(99 + seed))
            floor = make(times(1000, 600 + seed), Rng(199 + seed))
            entry = found.setdefault((name, "floor"), {"c2st": [], "rough": [], "dense": []})
            entry["c2st"].append(told_apart(floor, times(1000, 600 + seed), real, fresh))
            entry["rough"].append(roughness(real, fresh))
            entry["dense"].append(correlation_error(make(twice, Rng(3 + seed)), twice, RHO[name]))
            for kind, noise in NOISES.items():
                model = fitted(make, noise, seed)
                y, dense = drawn(model, fresh, 1), drawn(model, twice, 2)
                entry = found.setdefault((name, kind), {"c2st": [], "rough": [], "dense": []})
                entry["c2st"].append(told_apart(real, fresh, y, fresh))
                entry["rough"].append(roughness(y, fresh))
                entry["dense"].append(correlation_error(dense, twice, RHO[name]))
                if name == "ou":
                    ours, exact = imputed(model, seed)
                    for key, value in zip(("crps", "rmse"), ours):
                        entry.setdefault(key, []).append(value)
                    for key, value in zip(("crps", "rmse"), exact):
                        base = found[name, "floor"].setdefault(key, [])
                        if len(base) <= seed:
                            base.append(value)
                print(name, kind, seed, {k: round(v[-1], 3) for k, v in entry.items()}, flush=True)
    flat = {f"{n} {k} {m}": float(np.mean(v)) for (n, k), e in found.items() for m, v in e.items()}
    values = np.array(found["ou", "ou"]["c2st"])
    spread = 4.303 * values.std(ddof=1) / len(values) ** 0.5
    record(
        "timeseries",
        "function_noise",
        "two-sample accuracy of boosted trees, OU noise on irregular OU paths (16 random times), 1,000 against 1,000",
        values.mean(),
        interval=(values.mean() - spread, values.mean() + spread),
        floor=flat["ou floor c2st"],
        baselines=flat,
        bar="GP/OU noise below white noise of the same net and budget; covariances on a twice denser grid; imputation near GP regression",
        seeds=list(SEEDS),
        note=f"{Budget.steps} steps each, 16 DPM-Solver++ steps; rough: mean |dx|/sqrt(dt); dense: mean covariance error on 32 times",
    )
    for (n, k), e in found.items():
        print(f"{n:<6} {k:<6}", {m: f"{np.mean(v):.3f} ± {np.std(v, ddof=1):.3f}" for m, v in e.items()})


# ------------------------------------------------------------------ a law over functions

META = FunctionConfig(width=32, depth=2, steps=400, batch_size=64, lr=3e-3, warmup=30, ema=0.99, sample_steps=20)


def gp_functions(kernel):
    def make(n, seed):
        g, out = np.random.default_rng(seed), []
        x = torch.tensor(g.uniform(-2, 2, (n, 20, 1)))
        y = GP(kernel, x, jitter=1e-4).colour(torch.tensor(g.normal(size=(n, 20, 1))))
        for i, count in enumerate(g.integers(8, 21, n)):
            out.append((x[i, :count].numpy(), y[i, :count].numpy()))
        return out

    return make


def step_functions(n, seed):
    """0 before a uniform place, 1 after it."""
    g = np.random.default_rng(seed)
    return [((x := g.uniform(-1, 1, (g.integers(8, 21), 1))), (x > g.uniform(-1, 1)).astype(float)) for _ in range(n)]


class ConditionalNeuralProcess(nn.Module):
    """Mean of encoded context points, then independent normal laws of the targets; as many weights as the attention net."""

    def __init__(self, width=80):
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(2, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.decode = nn.Sequential(
            nn.Linear(width + 1, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
        )
        self.out = nn.Linear(width, 2)

    def forward(self, at, y, known):
        inside = known[..., None].to(y.dtype)
        r = (self.encode(torch.cat([at, y], 2)) * inside).sum(1) / inside.sum(1).clamp_min(1)
        h = self.decode(torch.cat([at, r[:, None].expand(-1, at.shape[1], -1)], 2))
        mean, raw = self.out(h).chunk(2, 2)
        return mean, 0.01 + nn.functional.softplus(raw)


def cnp(codec, functions, seed, steps):
    values, places, valid = codec.pack(functions)
    torch.manual_seed(seed)
    net = ConditionalNeuralProcess()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    batches = Batches(values, ctx=Context(cond={"at": places}, valid=valid), batch_size=64, seed=seed)
    for step in range(steps):
        batch, rng = batches.batch(step), Rng(seed).child(step)
        known = context_masks(batch.x0, rng) & batch.ctx.valid
        mean, std = net(batch.ctx.cond["at"], batch.x0, known)
        target = batch.ctx.valid & ~known
        loss = (0.5 * ((batch.x0 - mean) / std) ** 2 + std.log())[target].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


def meta():
    import time

    grid, results = np.linspace(-1.9, 1.9, 20)[:, None], {}
    for name, kernel in {"rbf": RBF(0.6), "matern": Matern(1.5, 0.8)}.items():
        make = gp_functions(kernel)
        for seed in SEEDS:
            data = make(5000, seed)
            begin = time.process_time()
            model = FunctionGenerator(META, seed=seed).fit(data, progress=False)
            spent = time.process_time() - begin
            codec = model.codec
            other = cnp(codec, data, seed, 4 * META.steps)  # four times the steps: about equal time
            size = [sum(p.numel() for p in net.parameters()) for net in (model.model, other)]
            scores = {k: [] for k in ("ndp", "cnp", "exact", "ndp mean", "cnp mean", "ndp cov", "cnp cov", "prior cov")}
            g = np.random.default_rng(777)
            for _ in range(12):
                x = g.uniform(-2, 2, (5, 1))
                both = torch.tensor(np.concatenate([x, grid]))
                f = (
                    torch.linalg.cholesky(kernel(both, both) + 1e-6 * torch.eye(25))
                    @ torch.tensor(g.normal(size=(25, 1)))
                ).double()
                mean, cov = regression(kernel, both[:5], f[:5], both[5:], noise=1e-4)
                draws = torch.tensor(model.condition(x, f[:5].numpy(), grid, n=64, seed=1))[..., 0]
                at = torch.cat([codec.places(x), codec.places(grid)])[None]
                values = torch.cat([codec.values(f[:5]), torch.zeros(20, 1)])[None]
                with torch.no_grad():
                    m, s = other(at, values, (torch.arange(25) < 5)[None])
                m, s = (m[0, 5:] * codec.std + codec.mean)[:, 0], (s[0, 5:] * codec.std)[:, 0]
                z = torch.randn(64, 20, generator=torch.Generator().manual_seed(2), dtype=F64)
                truth = f[5:, 0]
                root = torch.linalg.cholesky(cov + 1e-8 * torch.eye(20))
                scores["exact"].append(crps(mean[:, 0] + z @ root.T, truth))
                scores["ndp"].append(crps(draws, truth))
                scores["cnp"].append(crps(m + s * z, truth))
                scores["ndp mean"].append(float((draws.mean(0) - mean[:, 0]).square().mean().sqrt()))
                scores["cnp mean"].append(float((m - mean[:, 0]).square().mean().sqrt()))
                scores["ndp cov"].append(float((torch.cov(draws.T) - cov).square().mean().sqrt()))
                scores["cnp cov"].append(float(((s**2).diag() - cov).square().mean().sqrt()))
                scores["prior cov"].append(float(cov.square().mean().sqrt()))
            for k, v in scores.items():
                results.setdefault(f"{name} {k}", []).append(float(np.mean(v)))
            print(
                name,
                seed,
                round(spent, 1),
                "s",
                size,
                {k: round(float(np.mean(v)), 3) for k, v in scores.items()},
                flush=True,
            )
    bimodal = step_prior()
    ratio = np.array(
        [np.mean([results[f"{n} ndp"][i] / results[f"{n} exact"][i] for n in ("rbf", "matern")]) for i in SEEDS]
    )
    spread = 4.303 * ratio.std(ddof=1) / len(ratio) ** 0.5
    record(
        "timeseries",
        "functions_meta",
        "CRPS of 20 targets given 5 points over that of the exact posterior, 1-D GP functions (RBF, Matern), 12 tasks",
        ratio.mean(),
        interval=(ratio.mean() - spread, ratio.mean() + spread),
        floor=1.0,
        baselines={k: float(np.mean(v)) for k, v in results.items()} | bimodal,
        bar="near the exact GP, better than a conditional neural process of equal size",
        seeds=list(SEEDS),
        note=f"{META.steps} training steps; the conditional neural process takes four times as many",
    )
    print({k: round(float(np.mean(v)), 3) for k, v in results.items()}, bimodal)


def step_prior():
    """Given f(−½) = 0 and f(½) = 1 the jump is uniform between: draws must be 0 or 1, jump once, and at uniform places."""
    model = FunctionGenerator(META).fit(step_functions(5000, 0), progress=False)
    x = np.linspace(-0.475, 0.475, 20)[:, None]
    y = model.condition([[-0.5], [0.5]], [0.0, 1.0], x, n=200, seed=1)[..., 0]
    return {
        "step within 0.1 of 0 or 1": float((np.minimum(abs(y), abs(y - 1)) < 0.1).mean()),
        "step monotone": float((np.diff(y > 0.5, axis=1).astype(int).sum(1) <= 1).mean()),
        "step mean error": float(np.abs((y > 0.5).mean(0) - (x[:, 0] + 0.5)).mean()),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in sys.argv[1:] or ["paths", "meta"]:
        {"paths": paths, "meta": meta}[part]()
