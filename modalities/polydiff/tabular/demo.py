"""The section of tables in the demo report."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd

from polydiff.core.evaluation import Report
from polydiff.core.report import Number, Passage, Picture, Section
from polydiff.tabular import recipes
from polydiff.tabular.baselines import GaussianCopula, Independent, Interpolation
from polydiff.tabular.generator import TabularGenerator
from polydiff.tabular.imputation import imputation_coverage, imputation_error
from polydiff.tabular.imputers import Imputer
from polydiff.tabular.metrics import evaluate
from polydiff.tabular.plots import heatmaps, imputed, marginals, scatter
from polydiff.tabular.values import Kind, Name

__all__ = ["demo"]

_HOLDOUT = 0.3
_SECONDS = 60.0
_DRAWS = 39
_SCORES = (
    ("shape error %", "shapes", "distance of the margins, mean over columns; lower is better"),
    ("trend error %", "trends", "distance of correlations and contingency tables, mean over pairs; lower is better"),
    ("detection AUC boosting", "detection", "boosted trees tell it from held-out rows; 0.5 means they cannot"),
    ("TSTR f1 boosting", "utility", "macro F1 on held-out rows of trees trained on it"),
    ("wasserstein", "distance", "cost of moving it onto held-out rows, in ranges of a column; lower is better"),
    ("closer to train", "copying", "share nearer to training than to held-out rows; 0.5 means nothing was copied"),
)


def demo(out: Path) -> Section:
    """Train on real travel choices, sample, impute, measure: the section of the report."""
    from polydiff.datasets import travel

    table = travel()
    train, rest = table.split(1 - _HOLDOUT, 0)
    print(f"tabular: training on {len(train)} real rows of {train.shape[1]} columns, {len(rest)} held out")
    begin = time.monotonic()
    few: dict[Name, Kind] = {"income": "category"}  # asked in classes: 24 values, which a density would smear
    generator = TabularGenerator(recipes.small()).fit(train, kinds=few, seconds=_SECONDS, progress=True)
    seconds = time.monotonic() - begin
    generator.save(out / "travel")
    made = generator.sample(len(train), seed=1, progress=True)
    _, model = generator._fitted()
    steps = generator.history.records[-1]["step"] if generator.history else 0
    parameters = sum(p.numel() for p in model.parameters())
    others = {
        "interpolation": Interpolation().fit(train, table.target).sample(len(train), 1),
        "copula": GaussianCopula().fit(train).sample(len(train), 1),
        "independent": Independent().fit(train).sample(len(train), 1),
    }
    print("tabular: measuring it beside three baselines")
    reports = {
        name: evaluate(frame, train, rest, target=table.target, learners=("boosting",), limit=500)
        for name, frame in {"polydiff": made, **others}.items()
    }
    hidden, error, cover = _imputation(generator, train, rest)
    asked = generator.sample(13, where={"mode": "train", "party": 4, "income": (40, None)}, seed=2)
    return Section(
        title="Tables: how people could travel, and what they chose",
        lead=(
            f"A diffusion model of mixed columns with {parameters:,} parameters, trained for {steps:.0f} steps in "
            f"{seconds:.0f} seconds on {len(train)} real rows of statsmodels' travel survey; the other {len(rest)} were kept "
            "for measuring. Numbers are diffused as normal scores, categories by masks; one model samples, holds columns and "
            "fills holes."
        ),
        pictures=[
            Picture(
                "Structure",
                "Every dot is a row: price and duration of a trip by each mode.",
                *_wide(scatter(train, made, "time", "cost", "mode", labels=("minutes of travel", "cost in dollars"))),
            ),
            Picture(
                "Margins",
                "The law of every column: real rows filled, generated ones in blue outline.",
                *_wide(marginals(train, made)),
            ),
            Picture(
                "Associations",
                "Correlation of numbers, Cramér's V of categories, correlation ratio between both.",
                *_wide(heatmaps(train, made)),
            ),
            Picture(
                "Filling in",
                f"Held-out rows with the travel time hidden: {_DRAWS} draws each, given the rest of the row.",
                hidden,
                "svg+xml",
            ),
            _rows("On request", "New rows for where={'mode': 'train', 'party': 4, 'income': (40, None)}.", asked),
            _scores(reports),
        ],
        numbers=_numbers(reports, error, cover),
        code=(
            "from polydiff.datasets import travel\nfrom polydiff.tabular import TabularGenerator\n\n"
            'gen = TabularGenerator().fit(travel().train)\ngen.sample(5, where={"mode": "train", "income": (40, None)})\n'
        ),
    )


# ------------------------------------------------------------------ parts


def _wide(svg: bytes) -> tuple[bytes, str, bool]:
    return svg, "svg+xml", True


def _rows(title: str, caption: str, frame: pd.DataFrame) -> Passage:
    text = frame.rename(columns={"total_cost": "total"}).to_string(index=False)
    return Passage(title, caption, [[(line, False)] for line in text.split("\n")])


def _scores(reports: dict[str, Report]) -> Passage:
    """The score table, the best of each row marked."""
    lines: list[list[tuple[str, bool]]] = [[(" " * 10 + "".join(f"{n:>15}" for n in (*reports, "real rows")), False)]]
    for name, short, _ in _SCORES:
        figures = [r[name] for r in reports.values()]
        off = [abs(f.value - 0.5) if f.better == "near" or "AUC" in name else f.value for f in figures]
        best = (max if figures[0].better == "higher" else min)(off)
        cells = [(f"{f.value:>15.3f}", o == best) for f, o in zip(figures, off)]
        lines.append([(f"{short:<10}", False), *_marked(cells), (f"{figures[0].floor:>15.3f}", False)])
    copied = reports["interpolation"]["closer to train"].value
    caption = (
        f"Best of each line marked; what the lines mean stands below. {copied:.0%} of the interpolated rows lie nearer to "
        "training rows than to held-out ones: half would if nothing were copied."
    )
    return Passage("Beside baselines", caption, lines, wide=True)


def _marked(cells: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The figure alone is marked, not the blanks before it."""
    return [piece for text, best in cells for piece in ((text[: -len(text.strip())], False), (text.strip(), best))]


def _imputation(
    generator: TabularGenerator, train: pd.DataFrame, rest: pd.DataFrame
) -> tuple[bytes, tuple[float, float], float]:
    """The picture of hidden travel times, the error at random holes beside k-NN's, and the coverage of intervals."""
    holes = rest.assign(time=np.nan)
    draws = generator.impute(holes, draws=_DRAWS, seed=3)
    assert isinstance(draws, list)
    truth = rest["time"].to_numpy(dtype=np.float64)
    picture = imputed(truth, np.stack([d["time"].to_numpy(dtype=np.float64) for d in draws]), label="minutes of travel")
    mask = np.zeros(rest.shape, dtype=bool)
    mask[:, list(rest.columns).index("time")] = True
    cover = imputation_coverage(rest, draws, mask).estimate
    typical = rest.assign(time=np.median([d["time"] for d in draws], 0).round().astype(int))
    both = pd.concat([train, holes], ignore_index=True)
    near = Imputer("neighbours").impute(both).iloc[len(train) :].reset_index(drop=True).astype({"time": int})
    errors = [imputation_error(rest, frame, mask, scale=train).average for frame in (typical, near)]
    return picture, (errors[0], errors[1]), cover


def _numbers(reports: dict[str, Report], error: tuple[float, float], cover: float) -> list[Number]:
    ours = reports["polydiff"]
    numbers = [
        Number(name, f"{ours[key].value:.3f}", f"{ours[key].floor:.3f}", meaning)
        for (key, _, meaning) in _SCORES
        for name in [key.replace(" boosting", "").replace("TSTR", "train on generated,")]
    ]
    return [
        *numbers,
        Number(
            "imputation error",
            f"{error[0]:.3f}",
            f"5-NN {error[1]:.3f}",
            "hidden travel times: mean absolute error of the median draw, in ranges of the column",
        ),
        Number("interval coverage", f"{cover:.0%}", "90%", "hidden travel times inside the central 90 % of the draws"),
    ]
