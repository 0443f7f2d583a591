"""Evidence: masked diffusion beside a left-to-right model on Shakespeare's lines. Run by ``make evidence-text``.

The same transformer, windows, optimiser and number of steps for both, one thread each: ``train masked`` and ``train left``
may run side by side; ``train early`` is the left-to-right model before it overfits; ``report`` measures all three. ``test_text.py`` beside it is the minute-long version.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from polydiff.core.sampling import Ancestral, Chain, Confident, FirstHitting, Lazy
from polydiff.core.schedules import uniform_times
from polydiff.core.training import read_artifact, write_artifact
from polydiff.datasets import tinyshakespeare
from polydiff.text import AutoregressiveLM, NGram, TextGenerator, distinct, recipes, token_entropy
from polydiff.text.build import network_of
from polydiff.text.data import TextCodec

FOLDER = Path("/tmp/polydiff-text")
SAMPLES, HOLES = 64, (2, 4, 8)
EARLY = 4000  # steps of the left-to-right model that is stopped before it overfits
BLOCK, BLOCK_STEPS = 4, 6000  # a step over clean and noisy windows costs twice as much: equal time


def train(kind, folder=FOLDER, **changes):
    """Train one of the two and save it with its cost."""
    torch.set_num_threads(1)
    text, _ = tinyshakespeare()
    config = dataclasses.replace(recipes.shakespeare(), **changes)
    begin, cpu = time.monotonic(), time.process_time()
    if kind == "early":
        config = dataclasses.replace(config, steps=EARLY)
    if kind == "blocks":
        config = dataclasses.replace(config, steps=BLOCK_STEPS, block=BLOCK)
    if kind in ("masked", "blocks"):
        model = TextGenerator(config).fit(text, run_dir=folder / f"run-{kind}")
        model.save(folder / kind)
    else:
        model = AutoregressiveLM(config).fit(text, run_dir=folder / f"run-{kind}")
        weights = dict(model.network.state_dict())
        write_artifact(folder / kind, {"codec.json": dict(model.codec.config()), "model.safetensors": weights})
    cost = {"seconds": time.monotonic() - begin, "cpu_seconds": time.process_time() - cpu, "steps": config.steps}
    (folder / f"{kind}.json").write_text(json.dumps(cost | {"changes": changes}))
    print(kind, cost, flush=True)


def load(folder=FOLDER):
    """(generator, left-to-right model, the same stopped early, cost of each)."""
    costs = {k: json.loads((folder / f"{k}.json").read_text()) for k in ("masked", "left", "early")}
    gen = TextGenerator.load(folder / "masked")
    return gen, load_left(folder / "left", gen.config), load_left(folder / "early", gen.config), costs


def load_left(folder, config):
    files = read_artifact(folder)
    left = AutoregressiveLM(config)
    left.codec = TextCodec.from_config(files.json("codec.json"))
    left.network = network_of(config, left.codec, seed=0, causal=True).eval()
    left.network.load_state_dict(files.tensors("model.safetensors"))
    return left


def likelihoods(gen, left, rest, draws=4):
    """Bits a character of held-out text: masked bound, left-to-right, 5-gram."""
    text, _ = tinyshakespeare()
    score = gen.score(rest, draws=draws)
    exact, error = left.bits_per_character(rest)
    encode = gen.codec.tokenizer.encode
    gram = NGram(np.array(encode(text)), gen.codec.vocab).bits_per_token(np.array(encode(rest)))
    return {
        "masked": score.bits_per_character,
        "masked_error": score.standard_error,
        "left": exact,
        "left_error": error,
        "5-gram": gram,
        "ratio": score.bits_per_character / exact,
    }


def samplers():
    plain = {f"ancestral-{n}": Chain(uniform_times(n), Ancestral()) for n in (16, 64, 128, 256, 512)}
    return plain | {
        "first-hitting": Chain([1.0, 0.0], FirstHitting()),
        "first-hitting-4": Chain([1.0, 0.0], FirstHitting(tokens=4)),
        "confidence-32": Chain(uniform_times(32), Confident()),
        "spread-32": Chain(uniform_times(32), Confident(spread=True)),
        "spread-32-cool": Chain(uniform_times(32), Confident(temperature=0.7, spread=True)),
    }


def quality(gen, left, rest, n=SAMPLES, names=None):
    """What a left-to-right judge and a 5-gram model say of samples, with their variety and seconds; held-out text last."""
    text, _ = tinyshakespeare()
    encode = gen.codec.tokenizer.encode
    gram = NGram(np.array(encode(text)), gen.codec.vocab)
    rows = gen.codec.encode(rest)[np.linspace(0, len(rest) - 129, n).astype(int)]
    out = {}
    for name, sampler in samplers().items():
        if names is not None and name not in names:
            continue
        begin = time.perf_counter()
        texts = gen.sample(n, sampler=sampler, seed=1)
        out[name] = measures(left, gram, torch.tensor([encode(t) for t in texts]))
        out[name]["seconds"] = time.perf_counter() - begin
    out["left-to-right"] = measures(left, gram, torch.tensor([encode(t) for t in left.sample(n, seed=1)]))
    out["held-out"] = measures(left, gram, rows)
    return out


def measures(left, gram, rows):
    values = -left.log_prob(rows).double().mean(1) / np.log(2)
    return {
        "judge_bits": float(values.mean()),
        "judge_error": float(values.std() / len(values) ** 0.5),
        "5-gram_bits": float(np.mean([gram.bits_per_token(r.numpy()) for r in rows])),
        "entropy": token_entropy(rows.tolist()),
        "distinct-4": distinct(rows.tolist(), 4),
    }


def infilling(gen, left, rest, hole, n=400):
    """Holes of eight characters in held-out windows: filled by the masked model, or continued by the other from the left."""
    width, place = 96, 44
    windows = [rest[i : i + width] for i in np.linspace(0, len(rest) - width - 1, n).astype(int)]
    truth = [w[place : place + hole] for w in windows]
    holes = [f"{w[:place]}[MASK*{hole}]{w[place + hole :]}" for w in windows]
    best = Chain(uniform_times(width), Lazy(Confident(temperature=0)))
    out = {}
    for name, sampler, temperature in (("mode", best, 0.0), ("draw", None, 1.0)):
        filled = gen.infill(holes, seed=3, sampler=sampler)
        masked = [t[place : place + hole] for t in filled]
        begun = [w[:place] for w in windows]
        prefix = [t[place:] for t in left.sample(n, place + hole, prompt=begun, temperature=temperature, seed=3)]
        out[name] = paired(masked, prefix, truth)
    return out


def paired(masked, prefix, truth):
    """Share of wrong characters and of texts that are right to the letter, and the paired gain of the first."""

    def wrong(made):
        return np.array([np.mean([a != b for a, b in zip(x, y)]) for x, y in zip(made, truth)])

    a, b = wrong(masked), wrong(prefix)
    return {
        "masked": float(a.mean()),
        "left": float(b.mean()),
        "gain": float((b - a).mean()),
        "gain_error": float((b - a).std() / len(a) ** 0.5),
        "masked_exact": float((a == 0).mean()),
        "left_exact": float((b == 0).mean()),
    }


def record_infill(name, what, found):
    """Both models at their most probable fill ("mode"), or one draw of each ("draw")."""
    print(name, found, flush=True)
    record(
        "text",
        name,
        f"wrong characters of the left-to-right model, which sees the prefix, less those of the masked one: {what}",
        found["gain"],
        interval=[found["gain"] - 1.96 * found["gain_error"], found["gain"] + 1.96 * found["gain_error"]],
        baselines={k: v for k, v in found.items() if not k.startswith("gain")},
        bar="> 0",
        seeds=[3],
    )


def report(folder=FOLDER):
    """Measure everything and write it down."""
    torch.set_num_threads(2)
    gen, left, early, costs = load(folder)
    _, rest = tinyshakespeare()
    size = sum(p.numel() for p in gen.model.parameters())
    note = (
        f"{size:,} parameters, {costs['masked']['steps']} steps of 8 windows of 128 characters each; masked "
        f"{costs['masked']['cpu_seconds'] / 60:.1f}, left-to-right {costs['left']['cpu_seconds'] / 60:.1f} minutes of CPU time"
    )
    bits = likelihoods(gen, left, rest)
    best, _ = early.bits_per_character(rest)
    print(bits, best, flush=True)
    record(
        "text",
        "shakespeare-bits",
        "NELBO of tiny Shakespeare's held-out 10 % in bits a character, windows of 128, order-agnostic estimate with 4 masks each",
        bits["masked"],
        interval=[bits["masked"] - 1.96 * bits["masked_error"], bits["masked"] + 1.96 * bits["masked_error"]],
        baselines={
            "left-to-right, same transformer and steps": bits["left"],
            f"left-to-right after {EARLY} steps": best,
            "5-gram": bits["5-gram"],
        },
        bar="≤ 1.20 × left-to-right, both below the 5-gram",
        seeds=[0],
        note=note,
    )
    record(
        "text",
        "shakespeare-ratio",
        "NELBO of the masked model over the cross-entropy of the left-to-right one, equal steps",
        bits["ratio"],
        baselines={
            f"over the left-to-right model stopped after {EARLY} steps, before it overfits": bits["masked"] / best
        },
        bar="≤ 1.20, aim 1.10",
        seeds=[0],
        note=note,
    )
    found = quality(gen, left, rest)
    for name, values in found.items():
        print(name, values, flush=True)
        if name == "held-out":
            continue
        record(
            "text",
            f"shakespeare-samples-{name}",
            f"bits a character of {SAMPLES} samples under the left-to-right judge",
            values["judge_bits"],
            interval=[
                values["judge_bits"] - 1.96 * values["judge_error"],
                values["judge_bits"] + 1.96 * values["judge_error"],
            ],
            floor=found["held-out"]["judge_bits"],
            baselines={k: v for k, v in values.items() if not k.startswith("judge")},
            seeds=[1],
            note=f"entropy of held-out text {found['held-out']['entropy']:.3f}, distinct-4 {found['held-out']['distinct-4']:.3f}",
        )
    record(
        "text",
        "shakespeare-speed",
        f"seconds of {SAMPLES} texts of 128 characters by 512 ancestral steps over those of first hitting, the same law",
        found["ancestral-512"]["seconds"] / found["first-hitting"]["seconds"],
        baselines={f"seconds, {k}": v["seconds"] for k, v in found.items() if "seconds" in v},
        bar="≥ 3",
        seeds=[1],
    )
    for hole in HOLES:
        for name, found in infilling(gen, left, rest, hole).items():
            what = f"holes of {hole} characters in 400 held-out windows of 96"
            record_infill(f"shakespeare-infill-{hole}-{name}", what, found)
    print(gen.sample(2, steps=0, seed=5)[0])


def blocks(folder=FOLDER):
    """The bound of block diffusion: masks inside a block of four characters, behind the clean ones before it."""
    torch.set_num_threads(2)
    _, rest = tinyshakespeare()
    gen = TextGenerator.load(folder / "blocks")
    cost = json.loads((folder / "blocks.json").read_text())
    score = gen.score(rest, draws=4)
    print(score, flush=True)
    record(
        "text",
        "shakespeare-blocks",
        f"NELBO of block diffusion, {BLOCK} characters a block, of the same held-out text in bits a character",
        score.bits_per_character,
        interval=[
            score.bits_per_character - 1.96 * score.standard_error,
            score.bits_per_character + 1.96 * score.standard_error,
        ],
        seeds=[0],
        note=f"{cost['steps']} steps of 8 windows, {cost['cpu_seconds'] / 60:.1f} minutes of CPU time",
    )


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    match sys.argv[1:]:
        case ["train", kind]:
            train(kind)
        case ["report"]:
            report()
        case ["blocks"]:
            blocks()
        case _:
            for kind in ("masked", "left", "early", "blocks"):
                train(kind)
            report()
            blocks()


if __name__ == "__main__":
    main()
