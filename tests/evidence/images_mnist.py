"""Evidence: MNIST by the recipe, in under twenty minutes on two cores. Run by ``make evidence-images``."""

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from record import ROOT, record

from polydiff.core.evaluation import frechet_distance, memorisation_test, wilson_interval
from polydiff.datasets import mnist
from polydiff.images import ImageGenerator, SmallConvFeatures, grid, recipes

torch.set_num_threads(2)
SAMPLES = 2000


def main():
    train, test = mnist("train"), mnist("test")
    begin, cpu = time.monotonic(), time.process_time()
    gen = ImageGenerator(recipes.mnist(), seed=0).fit(
        train.images, train.labels, maximum=255, run_dir="/tmp/polydiff-mnist", progress=True
    )
    minutes, cpu_minutes = (time.monotonic() - begin) / 60, (time.process_time() - cpu) / 60
    gen.save(Path(sys.argv[1]) if len(sys.argv) > 1 else "/tmp/polydiff-mnist-model")
    codec = gen.codec
    x, y = codec.encode(train.images), codec.class_numbers(train.labels, len(train.labels))
    judge = SmallConvFeatures(x, y, epochs=3)
    real = codec.encode(test.images)
    accuracy = float((judge.predict(real) == codec.class_numbers(test.labels, len(real))).float().mean())
    asked = np.arange(SAMPLES) % 10
    budget = f"{minutes:.1f} minutes of wall time ({cpu_minutes:.1f} of CPU time) on 2 cores, {sum(p.numel() for p in gen.model.parameters()):,} parameters"
    for guidance in (1.0, 1.5):
        made = gen.sample(SAMPLES, label=asked, guidance=guidance, seed=1, output="torch")
        z = (made - codec.mean) / codec.std
        hits = int((judge.predict(z).numpy() == asked).sum())
        interval = wilson_interval(hits, SAMPLES)
        record(
            "images",
            f"mnist-agreement-g{guidance}",
            f"share of {SAMPLES} samples that a conv classifier trained on real MNIST reads as the asked digit, 20 steps, guidance {guidance}",
            hits / SAMPLES,
            interval=(interval.low, interval.high),
            floor=accuracy,
            bar="≥ 0.97 in ≤ 20 minutes on 2 cores",
            seeds=[0, 1],
            note=budget,
        )
        half = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))]
        a, b = judge(half[:SAMPLES]), judge(half[SAMPLES : 2 * SAMPLES])
        value, floor = frechet_distance(a, judge(z)), frechet_distance(a, b)
        record(
            "images",
            f"mnist-frechet-g{guidance}",
            f"{value.id}:{judge.id}, guidance {guidance}",
            float(value),
            floor=float(floor),
            seeds=[0, 1],
            note=budget,
        )
        if guidance == 1.0:
            test_ = memorisation_test(x[:10000].flatten(1), real[:SAMPLES].flatten(1), z.flatten(1))
            record(
                "images",
                "mnist-memorisation",
                f"probability that a sample is closer to training data than held-out data, {test_.id}",
                test_.closer,
                floor=0.5,
                seeds=[0, 1],
                note=f"one-sided p = {test_.p_value:.3f}",
            )
    sheet = grid(gen.sample(80, label=np.arange(80) % 10, seed=3, output="pil"), columns=10, scale=3)
    (ROOT / "docs" / "pictures").mkdir(exist_ok=True)
    sheet.save(ROOT / "docs" / "pictures" / "mnist.png", optimize=True)


if __name__ == "__main__":
    main()
