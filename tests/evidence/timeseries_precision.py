"""S136: precision-weighted guidance against uniform guidance, on moving blobs seen through noise that is strong in one half.

The next frame is forecast from two. ``python tests/evidence/timeseries_precision.py``; about four CPU-minutes.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from record import record
from timeseries_dynamics import crps, ends, spread_skill

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Model, VPrediction
from polydiff.core.guidance import ClassifierFree
from polydiff.core.guidance.precision import Precision, RememberEstimates, uncertainty
from polydiff.core.networks import FourierEmbedding, ResBlock, conv, zero_init
from polydiff.core.processes import Gaussian
from polydiff.core.sampling import Ancestral, trajectory
from polydiff.core.schedules import Cosine, uniform_times
from polydiff.core.training import Batches, Denoising
from polydiff.core.training.standard import adamw, train
from polydiff.core.training.weights import VWeight
from polydiff.datasets.dynamics import moving_blobs

SEEDS = range(3)
OUT = Path("/tmp/polydiff-precision.json")
VIDEOS, MEMBERS, STEPS = 24, 8, 20


@dataclass(frozen=True)
class Budget:
    steps: int = 400
    warmup: int = 50
    ema: float = 0.99


class Frames(nn.Module):
    """Residual convolutions; the past is two more channels."""

    def __init__(self, width=16, depth=3):
        super().__init__()
        self.level = FourierEmbedding(32)
        self.enter = conv(2, 3, width)
        self.blocks = nn.ModuleList([ResBlock(width, width, 32) for _ in range(depth)])
        self.leave = zero_init(conv(2, width, 1))

    def forward(self, x, level, ctx):
        h, c = self.enter(torch.cat([x, ctx.cond["past"]], 1)), self.level(level)
        for block in self.blocks:
            h = block(h, c)
        return self.leave(h)


def fitted(seed):
    data = moving_blobs(2000, 3, seed=100 + seed).video.astype(np.float32)
    data = torch.as_tensor((data - data.mean()) / data.std())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Frames()
    model = Model(network, Gaussian(Cosine()), VPrediction(), null={"past": 0.0})
    batches = Batches(data[:, 2:], cond={"past": data[:, :2]}, batch_size=32, seed=seed)
    objective = Denoising(model, weight=VWeight(), drop=0.15)
    train(objective, adamw(model, 2e-3, 1e-4), batches, Budget(), seed=seed, device=torch.device("cpu"), progress=False)
    return model.eval()


@torch.no_grad()
def forecast(denoiser, past, seed):
    """Members ``(N, M, 16, 16)``, and the mean over steps of the variance of neighbouring estimates, ``(16, 16)``."""
    ctx = Context(cond={"past": past.repeat_interleave(MEMBERS, 0)})
    rng = Rng(seed)
    x, seen = rng.normal(ctx.cond["past"][:, :1]), []
    for tr in trajectory(denoiser, x, uniform_times(STEPS), Ancestral(), ctx, controls=[RememberEstimates()], rng=rng):
        u = uncertainty(tr.posterior.parts.get("cond", tr.posterior).mean, tr.ctx)
        seen.append(u.mean((0, 1)))
    return tr.x_s[:, 0].unflatten(0, (-1, MEMBERS)).double().numpy(), torch.stack(seen).mean(0).double().numpy()


def rules(model):
    scalars = {f"uniform {w}": ClassifierFree(model, w) for w in (0.8, 0.9, 1.1, 1.25, 1.5)}
    weighted = {
        f"precision [{a}, {b}]": Precision(model, a, b) for a, b in ((0.8, 1.0), (0.8, 1.25), (1.0, 1.25), (1.0, 1.5))
    }
    grouped = {"members [1.0, 1.25]": Precision(model, 1.0, 1.25, members=MEMBERS)}
    return {"unguided": model} | scalars | weighted | grouped


def compare():
    test = moving_blobs(VIDEOS, 3, seed=1)
    reference = moving_blobs(2000, 3, seed=100).video
    frames = (test.video - reference.mean()) / reference.std()
    past, truth = torch.as_tensor(frames[:, :2], dtype=torch.float32), frames[:, 2]
    variance, found = (test.noise / reference.std()) ** 2, {}
    for seed in SEEDS:
        begin = time.process_time()
        model = fitted(seed)
        print(f"fit {time.process_time() - begin:.0f} CPU s", flush=True)
        for name, denoiser in rules(model).items():
            y, u = forecast(denoiser, past, seed)
            figures = {
                "crps": crps(y, truth),
                "mse": ((y.mean(1) - truth) ** 2).mean(),
                "ssr": spread_skill(y, truth),
                "correlation of U and true variance": np.corrcoef(u.ravel(), variance.ravel())[0, 1],
                "rank correlation": spearmanr(u.ravel(), variance.ravel()).statistic,
            }
            for k, v in figures.items():
                found.setdefault(name, {}).setdefault(k, []).append(float(v))
            print(seed, name, {k: round(float(v), 4) for k, v in figures.items()}, flush=True)
    return found, float((np.sqrt(variance) / np.sqrt(np.pi)).mean())


def main():
    torch.set_num_threads(1)
    found, floor = compare()
    OUT.write_text(json.dumps(found, indent=1))
    best = min((k for k in found if k.startswith("precision")), key=lambda k: np.mean(found[k]["crps"]))
    value, interval = ends(found[best]["crps"])
    record(
        "timeseries",
        "precision_guidance",
        f"fair CRPS of the next 16 × 16 frame, {MEMBERS} members of {VIDEOS} videos, standard deviations, {best}",
        value,
        interval=interval,
        floor=floor,
        baselines={f"{k} {n}": float(np.mean(v)) for k, rows in found.items() for n, v in rows.items()},
        bar="correlation of U with the true predictive variance; CRPS and MSE beside uniform guidance at its best and none",
        seeds=list(SEEDS),
        note=f"{Budget.steps} training steps; {STEPS} ancestral steps; all weights were chosen on the frames that are scored; "
        "the floor is the CRPS of the law of the known noise around the clean frame",
    )


if __name__ == "__main__":
    main()
