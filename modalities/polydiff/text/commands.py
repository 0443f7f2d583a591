"""Texts on the command line, and their section of the demo report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polydiff.core.notes import read_note, write_note
from polydiff.core.report import Number, Passage, Picture, Section
from polydiff.core.sampling import Chain, Confident
from polydiff.core.schedules import uniform_times
from polydiff.text import recipes
from polydiff.text.generator import TextGenerator
from polydiff.text.metrics import evaluate as measure
from polydiff.text.ngram import NGram
from polydiff.text.plots import infill_path

if TYPE_CHECKING:
    from polydiff.cli import Evaluate, Fit, Sample

_NAMED = ("python_topics", "tinyshakespeare", "first_names")
_RECIPES = ("names", "shakespeare", "docs")
_HOLDOUT = 0.1  # share of a text that is never trained on


def load(data: str, seed: int) -> tuple[Any, Any, Any]:
    """(training corpus, held-out corpus, labels of the first or None) of a data set by name, a file or a folder of files."""
    import polydiff.datasets as sets

    if data == "tinyshakespeare":
        train, rest = sets.tinyshakespeare()
        return train, rest, None
    if data == "first_names":
        names, labels = sets.first_names()
        order = np.random.default_rng(seed).permutation(len(names))
        kept, out = np.split(order, [int((1 - _HOLDOUT) * len(order))])
        return [names[i] for i in kept], [names[i] for i in out], [labels[i] for i in kept]
    if data == "python_topics":
        text = sets.python_topics()
    else:
        path = Path(data)
        files = sorted(p for p in path.glob("**/*.txt") if p.is_file()) if path.is_dir() else [path]
        if not files or not all(f.is_file() for f in files):
            raise ValueError(f"data={data!r}: need one of {', '.join(_NAMED)}, a text file or a folder of .txt files")
        from polydiff.text.data import read_texts

        text = "".join(read_texts(files)[0])
    cut = int((1 - _HOLDOUT) * len(text))
    return text[:cut], text[cut:], None


def fit(command: Fit) -> None:
    """``polydiff fit text``."""
    if command.recipe is not None and command.recipe not in _RECIPES:
        raise ValueError(f"recipe={command.recipe!r}: need one of {', '.join(_RECIPES)}")
    config = None if command.recipe is None else getattr(recipes, command.recipe)()
    train, _, labels = load(command.data, command.seed)
    generator = TextGenerator(config, seed=command.seed)
    generator.fit(train, labels, steps=command.steps, seconds=command.seconds)
    folder = generator.save(command.out)
    write_note(folder, {"data": command.data, "seed": command.seed})
    print(f"saved {folder}")


def sample(command: Sample) -> None:
    """``polydiff sample`` of texts: a .txt file, samples apart by a line of dashes."""
    if command.out.suffix.lower() != ".txt":
        raise ValueError(f"out={command.out}: need a name ending in .txt")
    generator = TextGenerator.load(command.model)
    texts = generator.sample(
        command.n,
        prompt=command.prompt or "",
        label=command.label,
        steps=command.steps,
        guidance=command.guidance,
        seed=command.seed,
    )
    command.out.parent.mkdir(parents=True, exist_ok=True)
    apart = "\n" if generator.codec and generator.codec.documents else f"\n{'-' * 72}\n"
    command.out.write_text(apart.join(texts) + "\n", encoding="utf-8")
    print(f"wrote {command.n} texts to {command.out}")


def evaluate(command: Evaluate) -> None:
    """``polydiff evaluate`` of texts."""
    generator = TextGenerator.load(command.model)
    found = read_note(command.model)
    data = command.data or found.get("data")
    if data is None:
        raise ValueError(f"{command.model} does not say what it was trained on: pass --data")
    train, rest, _ = load(data, int(found.get("seed", 0)))
    print(measure(generator, rest, train=train, n=command.n or 64, steps=command.steps, seed=command.seed))


def demo(out: Path) -> Section:
    """Train on Python's reference manual, sample, fill in, measure: the section of the report."""
    train, rest, _ = load("python_topics", 0)
    print(f"text: training on {len(train):,} characters of Python's reference manual, {len(rest):,} held out")
    begin = time.monotonic()
    generator = TextGenerator(recipes.docs()).fit(train, seconds=60, progress=True)
    seconds = time.monotonic() - begin
    generator.save(out / "docs")
    _, model = generator._fitted()
    steps = generator.history.records[-1]["step"] if generator.history else 0
    parameters = sum(p.numel() for p in model.parameters())
    pieces: list[Picture | Passage] = []
    for n in (8, 32, 128):
        texts = generator.sample(3, sampler=Chain(uniform_times(n), Confident(temperature=0.7, spread=True)), seed=3)
        lines = [[(line, False)] for text in texts for line in [*text.split("\n"), "─" * 24]]
        pieces.append(
            Passage(
                f"Written in {n} steps",
                "Three samples, the surest letters first, at temperature 0.7; fewer steps draw more letters at once.",
                lines,
            )
        )
    hole = "The [MASK*9] statement is used to [MASK*8] an exception.\nIf the file [MASK*12], an error is raised."
    pieces.append(
        Passage(
            "Filling in", "Marked: what is new in a line. Given text stays.", infill_path(generator, hole), wide=True
        )
    )
    return Section(
        title="Text: Python's reference manual, character by character",
        lead=(
            f"A masked diffusion model of {parameters:,} parameters, trained for {steps:.0f} steps in {seconds:.0f} seconds on "
            f"{len(train):,} characters; the last {len(rest):,} were kept for measuring. A minute teaches spelling and layout, "
            "not sense."
        ),
        pictures=pieces,
        numbers=_numbers(generator, train, rest),
        code=(
            "from polydiff.datasets import python_topics\nfrom polydiff.text import TextGenerator\n\n"
            'gen = TextGenerator().fit(python_topics(), seconds=60)\ngen.infill("The [MASK*9] statement")\n'
        ),
    )


def _numbers(generator: TextGenerator, train: str, rest: str) -> list[Number]:
    codec, _ = generator._fitted()
    held = rest[:20_000]
    report = measure(generator, held, train=train, n=32, steps=128)
    tokens = np.array(codec.tokenizer.encode(held))
    stream = np.array(codec.tokenizer.encode(train))
    five, one = (NGram(stream, codec.vocab, order).bits_per_token(tokens) for order in (5, 1))
    numbers = [
        Number(
            "bits a character",
            f"≤ {report['bits per character'].value:.2f}",
            f"5-gram {five:.2f}, unigram {one:.2f}",
            "cost of held-out text: the model's upper bound, beside counting models of the same text",
        )
    ]
    for name, title in (
        ("5-gram bits", "cost of samples"),
        ("distinct-4", "distinct 4-grams"),
        ("copied 24-grams", "copied from training"),
    ):
        figure = report[name]
        numbers.append(Number(title, f"{figure.value:.2f}", f"{figure.floor:.2f}", figure.meaning))
    return numbers
