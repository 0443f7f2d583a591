"""Evidence: rows a second of training and sampling beside TabDDPM's own architecture, and trees beside scikit-learn's fit.

TabDDPM's network and loop are written plainly after its published configuration for california: ReLU layers of 512, 256, 256,
256, 256, 128 on a projection of the row plus an embedding of the step, batches of 4,096 in float32, 1,000 ancestral steps.
Everything in one process, one thread, alternately; the median of three rounds. Run it on a quiet machine.
"""

import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from polydiff.datasets import tables
from polydiff.tabular import BoostedGenerator, TabularGenerator, recipes

LAYERS, EMBEDDED, LEVELS, BATCH = (512, 256, 256, 256, 256, 128), 128, 1000, 4096
ROWS, STEPS, ROUNDS = 2048, 40, 3


class Plain(nn.Module):
    """TabDDPM's network for D numbers."""

    def __init__(self, numbers):
        super().__init__()
        self.enter = nn.Linear(numbers, EMBEDDED)
        self.time = nn.Sequential(nn.Linear(EMBEDDED, EMBEDDED), nn.SiLU(), nn.Linear(EMBEDDED, EMBEDDED))
        sizes = (EMBEDDED, *LAYERS)
        hidden = [part for a, b in zip(sizes, sizes[1:]) for part in (nn.Linear(a, b), nn.ReLU())]
        self.body = nn.Sequential(*hidden, nn.Linear(LAYERS[-1], numbers))

    def forward(self, x, step):
        omega = torch.exp(-math.log(10_000) * torch.arange(EMBEDDED // 2) / (EMBEDDED // 2))
        angle = step[:, None].float() * omega
        return self.body(self.enter(x) + self.time(torch.cat([angle.cos(), angle.sin()], 1)))


def plain_training(net, data):
    """Rows a second of noise prediction."""
    kept = _kept()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1.3e-3)
    begin = time.perf_counter()
    for _ in range(STEPS // 4):
        x = data[torch.randint(len(data), (BATCH,))]
        step, noise = torch.randint(LEVELS, (BATCH,)), torch.randn_like(x)
        a = kept[step][:, None]
        loss = ((net(a.sqrt() * x + (1 - a).sqrt() * noise, step) - noise) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return STEPS // 4 * BATCH / (time.perf_counter() - begin)


@torch.no_grad()
def plain_sampling(net, numbers):
    """Rows a second of ancestral sampling."""
    kept = _kept()
    before = torch.cat([torch.ones(1), kept[:-1]])
    beta = 1 - kept / before
    x = torch.randn(ROWS, numbers)
    begin = time.perf_counter()
    for i in range(LEVELS - 1, -1, -1):
        noise = net(x, torch.full((ROWS,), i))
        mean = (x - beta[i] / (1 - kept[i]).sqrt() * noise) / (1 - beta[i]).sqrt()
        spread = (beta[i] * (1 - before[i]) / (1 - kept[i])).sqrt()
        x = mean + spread * torch.randn_like(x)
    return ROWS / (time.perf_counter() - begin)


def _kept():
    t = (torch.arange(LEVELS + 1) / LEVELS + 0.008) / 1.008
    curve = torch.cos(t * math.pi / 2) ** 2
    beta = (1 - curve[1:] / curve[:-1]).clamp_max(0.999)
    return torch.cumprod(1 - beta, 0)


def trees():
    """Seconds of a boosted fit over those inside scikit-learn's own ``fit``, on iris."""
    inside = 0.0

    def timed(kind):
        original = kind.fit

        def fit(self, *args, **kwargs):
            nonlocal inside
            begin = time.perf_counter()
            try:
                return original(self, *args, **kwargs)
            finally:
                inside += time.perf_counter() - begin

        kind.fit = fit
        return kind, original

    patched = [timed(k) for k in (HistGradientBoostingClassifier, HistGradientBoostingRegressor)]
    try:
        begin = time.perf_counter()
        BoostedGenerator().fit(tables.small("iris").train)
        return (time.perf_counter() - begin) / inside, inside
    finally:
        for kind, original in patched:
            kind.fit = original


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = tables.california()
    config = recipes.large()
    ours = TabularGenerator(config).fit(table.train, steps=2, progress=False)
    data = ours.codec.encode(table.train)["num"]
    net = Plain(data.shape[1])
    rounds = []
    for _ in range(ROUNDS):
        history = TabularGenerator(config).fit(table.train, steps=STEPS, progress=False).history.records
        training = (history[-1]["samples"] - history[0]["samples"]) / (history[-1]["seconds"] - history[0]["seconds"])
        begin = time.perf_counter()
        ours.sample(ROWS, progress=False)
        sampling = ROWS / (time.perf_counter() - begin)
        rounds.append((training, plain_training(net, data), sampling, plain_sampling(net, data.shape[1])))
        print([round(v, 1) for v in rounds[-1]], flush=True)
    values = np.array(rounds)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (ours.model, net)]
    for name, (a, b), what in (
        ("speed-training", (0, 1), f"training rows a second, batches of {config.batch_size}"),
        ("speed-sampling", (2, 3), f"sampled rows a second, {config.sample_steps} steps against {LEVELS}, {ROWS} rows"),
    ):
        ratios = values[:, a] / values[:, b]
        record(
            "tabular",
            name,
            f"{what}, over those of TabDDPM's architecture and loop written plainly, one thread",
            float(np.median(ratios)),
            interval=[float(ratios.min()), float(ratios.max())],
            baselines={"rows a second, ours": np.median(values[:, a]), "rows a second, plain": np.median(values[:, b])},
            bar="≥ 1.5",
            seeds=[0],
            note=f"{sizes[0]:,} and {sizes[1]:,} parameters; TabDDPM trains on {30_000 * BATCH:,} rows, this recipe on "
            f"{config.steps * config.batch_size:,}",
        )
    ratio, inside = trees()
    record(
        "tabular",
        "speed-boosted",
        "seconds of BoostedGenerator.fit over those inside scikit-learn's own fit of the same trees, iris",
        ratio,
        baselines={"seconds inside scikit-learn": inside},
        seeds=[0],
    )


if __name__ == "__main__":
    main()
