"""Images on the command line, and their section of the demo report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polydiff.core.notes import read_note, write_note
from polydiff.core.report import Number, Picture, Section
from polydiff.images import recipes
from polydiff.images.data import grid
from polydiff.images.generator import ImageGenerator
from polydiff.images.plots import path_strip, training_curve

if TYPE_CHECKING:
    from polydiff.cli import Evaluate, Fit, Sample
    from polydiff.datasets import LabelledImages

_NAMED = ("digits", "mnist", "cifar10_jpeg")
_RECIPES = ("digits", "mnist", "cifar10", "dit_s")
_HOLDOUT = 0.3  # share of the digits that is never trained on
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def load(data: str) -> tuple[LabelledImages | None, Any]:
    """A data set by name as (data set, None), or (None, images) from an .npy file or a folder of pictures."""
    if data in _NAMED:
        import polydiff.datasets as sets

        return getattr(sets, data)(), None
    path = Path(data)
    if path.suffix == ".npy" and path.is_file():
        return None, np.load(path, allow_pickle=False)
    if path.is_dir():
        from PIL import Image

        files = sorted(p for p in path.iterdir() if p.suffix.lower() in _ENDINGS)
        if not files:
            raise ValueError(f"{path} holds no pictures: need files ending in {', '.join(_ENDINGS)}")
        pictures = [Image.open(p) for p in files]
        mode = "L" if all(p.mode == "L" for p in pictures) else "RGB"
        return None, [np.asarray(p.convert(mode)) for p in pictures]
    raise ValueError(f"data={data!r}: need one of {', '.join(_NAMED)}, an .npy file or a folder of pictures")


def fit(command: Fit) -> None:
    """``polydiff fit images``."""
    if command.recipe is not None and command.recipe not in _RECIPES:
        raise ValueError(f"recipe={command.recipe!r}: need one of {', '.join(_RECIPES)}")
    config = None if command.recipe is None else getattr(recipes, command.recipe)()
    generator = ImageGenerator(config, seed=command.seed)
    named, own = load(command.data)
    images, labels, maximum = own, None, None
    if named is not None:
        part = named.split(1 - _HOLDOUT, command.seed)[0] if command.data == "digits" else named
        images, labels, maximum = part.images, part.labels, float(part.maximum)
    generator.fit(images, labels, maximum=maximum, steps=command.steps, seconds=command.seconds)
    folder = generator.save(command.out)
    note = {
        "data": command.data,
        "seed": command.seed,
        "records": generator.history.records if generator.history else [],
    }
    write_note(folder, note)
    print(f"saved {folder}")


def sample(command: Sample) -> None:
    """``polydiff sample`` of images: a .png grid or an .npy array."""
    generator = ImageGenerator.load(command.model)
    ending = command.out.suffix.lower()
    if ending not in (".png", ".npy"):
        raise ValueError(f"out={command.out}: need a name ending in .png (a grid) or .npy (an array)")
    if command.prompt is not None:
        raise ValueError(f"prompt={command.prompt!r}: images have no beginning; inpaint takes given pixels")
    codec, _ = generator._fitted()
    label: Any = command.label
    if label is not None and all(isinstance(c, int) for c in codec.classes) and label.lstrip("-").isdigit():
        label = int(label)
    images = generator.sample(
        command.n,
        label=label,
        steps=command.steps,
        guidance=command.guidance,
        seed=command.seed,
        output="pil" if ending == ".png" else "numpy",
    )
    command.out.parent.mkdir(parents=True, exist_ok=True)
    if ending == ".png":
        grid(images, columns=max(1, round(command.n**0.5)), scale=max(1, 64 // codec.height)).save(command.out)
    else:
        np.save(command.out, images, allow_pickle=False)
    print(f"wrote {command.n} images to {command.out}")


def evaluate(command: Evaluate) -> None:
    """``polydiff evaluate`` of images."""
    generator = ImageGenerator.load(command.model)
    found = read_note(command.model)
    trained_on, seed = found.get("data"), int(found.get("seed", 0))
    data = command.data or trained_on
    if data is None:
        raise ValueError(f"{command.model} does not say what it was trained on: pass --data")
    named, own = load(data)
    images, labels, train = own, None, None
    if named is not None:
        rest = named
        if data == "digits" and trained_on == "digits":
            kept, rest = named.split(1 - _HOLDOUT, seed)
            train = kept.images
        elif data == "mnist":
            from polydiff.datasets import mnist

            rest = mnist("test")
        images, labels = rest.images, rest.labels
    report = generator.evaluate(
        images, labels, train=train, n=command.n, steps=command.steps, guidance=command.guidance, seed=command.seed
    )
    print(report)


def demo(out: Path) -> Section:
    """Train on the digits of scikit-learn, sample, measure: the section of the report."""
    from polydiff.datasets import digits

    data = digits()
    train, rest = data.split(1 - _HOLDOUT, 0)
    print(f"images: training on {len(train)} real digits, {len(rest)} held out")
    begin = time.monotonic()
    generator = ImageGenerator(recipes.digits()).fit(
        train.images, train.labels, maximum=float(data.maximum), seconds=60, progress=True
    )
    seconds = time.monotonic() - begin
    generator.save(out / "digits")
    columns = 10
    asked = np.repeat(np.arange(10), columns)
    made = generator.sample(len(asked), label=asked, seed=1, output="pil", progress=True)
    codec, model = generator._fitted()
    real = [train.images[train.labels == k][:columns] for k in range(10)]
    shown = codec.decode(codec.encode(np.concatenate(real)), "pil")
    holes = rest.images[:columns]
    known = np.zeros((8, 8), bool)
    known[:, :4] = True
    filled = generator.inpaint(holes, known, seed=2, output="pil")
    hidden = codec.decode(codec.encode(np.where(known, holes, 0).astype(holes.dtype)), "pil")
    whole = codec.decode(codec.encode(holes), "pil")
    between = generator.interpolate(
        rest.images[rest.labels == 3][0], rest.images[rest.labels == 8][0], 12, output="pil"
    )
    steps = generator.history.records[-1]["step"] if generator.history else 0
    parameters = sum(p.numel() for p in model.parameters())
    return Section(
        title="Images: handwritten digits, 8×8",
        lead=(
            f"A class-conditional U-Net of {parameters:,} parameters, trained for {steps:.0f} steps in {seconds:.0f} seconds "
            f"on {len(train)} of scikit-learn's 1,797 real digits; the other {len(rest)} were kept for measuring. Samples take "
            f"{generator.config.sample_steps} steps of DPM-Solver++(2M) with guidance {generator.config.guidance}."
        ),
        pictures=[
            Picture.of("Generated", "One row a requested digit.", grid(made, columns, 6)),
            Picture.of("Real", "Training digits, in the same order, for comparison.", grid(shown, columns, 6)),
            Picture.of(
                "From noise to digit",
                "Each row follows one sample from pure noise (left) to a digit (right).",
                path_strip(generator, [0, 2, 5, 8], seed=4),
                wide=True,
            ),
            Picture.of(
                "Filling in",
                "Top: held-out digits. Middle: the right half hidden. Bottom: filled in by the same model.",
                grid([*whole, *hidden, *filled], columns, 6),
            ),
            Picture.of(
                "Between two digits",
                "A held-out 3 and a held-out 8, encoded to noise; the great circle between them, decoded.",
                grid(between, 6, 10),
            ),
            Picture(
                "Training",
                "Weighted error of the predicted clean image.",
                training_curve(generator.history),
                "svg+xml",
                True,
            )
            if generator.history
            else Picture.of("Training", "", made[0]),
        ],
        numbers=_numbers(generator, train, rest),
        code=(
            "from polydiff.datasets import digits\nfrom polydiff.images import ImageGenerator\n\ndata = digits()\n"
            "gen = ImageGenerator().fit(data.images, data.labels)\ngen.sample(100, label=7)\n"
        ),
    )


def _numbers(generator: ImageGenerator, train: LabelledImages, rest: LabelledImages) -> list[Number]:
    from sklearn.svm import SVC

    flat = lambda images: np.asarray(images, np.float64).reshape(len(images), -1)  # noqa: E731
    judge = SVC(gamma=0.001).fit(flat(train.images), train.labels)
    asked = np.arange(1000) % 10
    made = generator.sample(1000, label=asked, seed=5, progress=True)
    student = SVC(gamma=0.001).fit(flat(made), asked)
    plain = generator.evaluate(rest.images, rest.labels, train=train.images, guidance=1.0)
    numbers = [
        Number(
            "label agreement",
            f"{(judge.predict(flat(made)) == asked).mean():.1%}",
            f"{judge.score(flat(rest.images), rest.labels):.1%}",
            "a support-vector machine trained on real digits reads 1,000 generated ones as what was asked for",
        ),
        Number(
            "train on generated",
            f"{student.score(flat(rest.images), rest.labels):.1%}",
            f"{judge.score(flat(rest.images), rest.labels):.1%}",
            "accuracy on held-out real digits of the same classifier trained on generated digits alone",
        ),
    ]
    titles = {"frechet": "Fréchet distance", "classifier two-sample": "two-sample classifier"}
    for name in ("frechet", "precision", "recall", "classifier two-sample", "memorisation p-value"):
        figure = plain[name]
        numbers.append(Number(titles.get(name, name), f"{figure.value:.3f}", f"{figure.floor:.3f}", figure.meaning))
    return numbers
