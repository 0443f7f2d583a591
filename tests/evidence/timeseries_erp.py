"""S178: epochs of EEG by condition, scored by their peaks, bands and what a classifier learns from them.

``python tests/evidence/timeseries_erp.py``; about four CPU-minutes.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from record import record
from timeseries_dynamics import ends

from polydiff.core.data import Rng
from polydiff.core.training import Batches, Loss, Objective
from polydiff.core.training.standard import adamw, train
from polydiff.datasets.erp import simulated_erp
from polydiff.timeseries.erp import ErpConfig, ErpGenerator
from polydiff.timeseries.erp_metrics import band_power_error, grand_averages, peak_errors, train_on_synthetic

SEEDS = range(3)
OUT = Path("/tmp/polydiff-erp.json")
CONFIG = ErpConfig(network="mlp", width=192, depth=3, steps=1000)
REPEATS = 50


class VAE(nn.Module):
    """A perceptron either way, told the condition: ``q(z | x, c) = N(μ, s²)``, ``p(x | z, c) = N(decoder, τ²)`` with learned τ."""

    def __init__(self, size, conditions, latent=16, width=192):
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Linear(size + conditions, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2 * latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent + conditions, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size)
        )
        self.log_tau = nn.Parameter(torch.zeros(()))


class Elbo(Objective):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, batch, rng):
        x, c = batch.x0.flatten(1), batch.ctx.cond["flags"]
        mean, log_s = self.vae.encoder(torch.cat([x, c], 1)).chunk(2, 1)
        z = mean + log_s.exp() * rng.normal(mean)
        y = self.vae.decoder(torch.cat([z, c], 1))
        nats = (0.5 * ((x - y) / self.vae.log_tau.exp()) ** 2 + self.vae.log_tau).sum(1)
        return Loss.masked(nats + 0.5 * (mean**2 + (2 * log_s).exp() - 1 - 2 * log_s).sum(1), None, {})


def flags(cond):
    return torch.cat([torch.eye(3)[cond["label"]][:, :2], cond["static"]], 1)


def vae_epochs(codec, epochs, given, seed):
    x, c = codec.encode(epochs), flags(codec.cond(given, len(epochs)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = VAE(x[0].numel(), c.shape[1])
    batches = Batches(x, cond={"flags": c}, batch_size=CONFIG.batch_size, seed=seed)
    train(
        Elbo(vae),
        adamw(vae, CONFIG.lr, CONFIG.weight_decay),
        batches,
        CONFIG,
        seed=seed,
        device=torch.device("cpu"),
        progress=False,
    )
    rng = Rng(seed)
    with torch.no_grad():
        z = rng.normal(torch.empty(len(x), vae.latent))
        y = vae.decoder(torch.cat([z, c], 1))
        y = y + vae.log_tau.exp() * rng.normal(y)
    return codec.decode(y.view_as(x))


def main():
    torch.set_num_threads(1)
    real, test = simulated_erp(REPEATS, trials=0), simulated_erp(REPEATS, trials=1)
    given = {"label": real.label, "subject": real.subject, "session": real.session}
    condition = np.stack(list(given.values()), 1)
    truth = grand_averages(test.epochs, condition)
    found = {}

    def score(method, epochs, label, which, seconds=0.0):
        high, late = peak_errors(grand_averages(epochs, which), truth, test.times)
        classes = grand_averages(epochs, label), grand_averages(test.epochs, test.label)
        subject = np.mean(
            [
                train_on_synthetic(
                    epochs[real.subject == s],
                    label[real.subject == s],
                    test.epochs[test.subject == s],
                    test.label[test.subject == s],
                )
                for s in range(6)
            ]
        )
        row = {
            "peak amplitude error": high,
            "peak latency error ms": 1e3 * late,
            "grand average rms": float(np.sqrt(((classes[0] - classes[1]) ** 2).mean())),
            "band power error": band_power_error(epochs, test.epochs, test.rate),
            "accuracy": train_on_synthetic(epochs, label, test.epochs, test.label),
            "accuracy within subjects": float(subject),
            "fit CPU s": seconds,
        }
        for k, v in row.items():
            found.setdefault(method, {}).setdefault(k, []).append(v)
        print(method, {k: round(v, 4) for k, v in row.items()}, flush=True)

    score("real training epochs", real.epochs, real.label, condition)
    for seed in SEEDS:
        g = np.random.default_rng(seed)
        begin = time.process_time()
        model = ErpGenerator(CONFIG, seed=seed).fit(real.epochs, *given.values(), progress=False)
        spent = time.process_time() - begin
        for w in (1.0, 1.5, 2.0):
            x = model.sample(len(real), **given, guidance=w, seed=seed)
            score(f"conditional, guidance {w}", x, real.label, condition, spent)
        begin = time.process_time()
        plain = ErpGenerator(ErpConfig(**{**CONFIG.__dict__, "drop": 1.0}), seed=seed).fit(
            real.epochs, *given.values(), progress=False
        )
        x, spent = plain.sample(len(real), seed=seed), time.process_time() - begin
        score("unconditional, labels of a classifier", x, guessed(real, x), condition, spent)
        spread = real.epochs.std((0, 2), keepdims=True)
        score("jitter", real.epochs + 0.3 * spread * g.normal(size=real.epochs.shape), real.label, condition)
        begin = time.process_time()
        x = vae_epochs(model.codec, real.epochs, given, seed)
        score("VAE", x, real.label, condition, time.process_time() - begin)
        OUT.write_text(json.dumps(found, indent=1))
    name = "conditional, guidance 1.0"
    for key, words, bar in (
        ("peak amplitude error", "mean absolute error of the P300 of 24 averages of 50 epochs", "below the others"),
        (
            "peak latency error ms",
            "mean absolute error of the latency of the P300 of 24 averages of 50 epochs, ms",
            "below the others",
        ),
        (
            "accuracy",
            "accuracy on 1200 real epochs of linear discriminants trained on 1200 synthetic ones",
            "above the others",
        ),
        (
            "band power error",
            "mean |log ratio| of the power of four bands in four channels, 1200 epochs",
            "below the others",
        ),
    ):
        value, interval = ends(found[name][key])
        record(
            "timeseries",
            "erp_" + "_".join(key.split()[:2]),
            words + ", simulated ERP of 6 subjects in 2 sessions",
            value,
            interval=interval,
            floor=found["real training epochs"][key][0],
            baselines={f"{m} {k}": float(np.mean(v)) for m, row in found.items() for k, v in row.items()},
            bar=bar + ": unconditional diffusion, jitter, a VAE",
            seeds=list(SEEDS),
            note=f"{CONFIG.steps} training steps; guidance 1; the floor is other real epochs of the same conditions; jitter is these "
            "epochs with white noise of 0.3 standard deviations, so that its averages are theirs; unconditional epochs are put to "
            "conditions at random, and for the classifier labelled by one that was trained on real epochs",
        )


def guessed(real, epochs):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    flat = [x.reshape(*x.shape[:2], -1, 4).mean(-1).reshape(len(x), -1) for x in (real.epochs, epochs)]
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(flat[0], real.label).predict(flat[1])


if __name__ == "__main__":
    main()
