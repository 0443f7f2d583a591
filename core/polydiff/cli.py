"""The command line: ``polydiff fit | sample | evaluate | demo``.

It lives beside the core, not in it, so that ``--help`` never waits for torch; modalities are found through the entry
points ``polydiff.modalities``, each a module of commands.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Fit:
    """Train a generator and save it.

    Attributes:
        modality: Which package: images, text, tabular, timeseries, …
        data: A data set by name (images: digits, mnist, cifar10_jpeg; text: python_topics, tinyshakespeare, first_names;
            tabular: travel, adult, california, …; timeseries: co2, sunspots, elnino, macrodata, etth1, …), or a file or
            folder of your own (tabular, timeseries: .csv, .parquet).
        out: Folder of the saved generator.
        recipe: Configuration by name; chosen by the data if left out.
        steps: Training steps; those of the recipe if left out.
        seconds: Stop after this many seconds if that comes first.
        seed: Of weights, data order and noise.
    """

    modality: Annotated[str, tyro.conf.Positional]
    data: str
    out: Path
    recipe: str | None = None
    steps: int | None = None
    seconds: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """Sample a saved generator.

    Attributes:
        model: Folder of a saved generator.
        n: How many samples; of series, draws of each forecast.
        out: Where to write them; the ending says how (images: .png for a grid, .npy for an array; text: .txt; tabular and
            timeseries: .csv, .parquet).
        label: Class of all samples, where the generator has classes; column=value for a column of a table.
        prompt: Beginning of all samples (text); the series to continue, by name or file (timeseries).
        steps: Sampling steps.
        guidance: Guidance scale; 1 is none.
        seed: Sample i depends on seed and i alone.
    """

    model: Annotated[Path, tyro.conf.Positional]
    out: Path
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 16
    label: str | None = None
    prompt: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Evaluate:
    """Compare samples of a saved generator with real data.

    Attributes:
        model: Folder of a saved generator.
        data: Real data as for fit; the part held out from training if left out.
        n: Samples a side, half of the real ones if left out; of series, draws of each forecast, 100 if left out.
        steps: Sampling steps.
        guidance: Guidance scale.
        seed: Of samples and halves.
    """

    model: Annotated[Path, tyro.conf.Positional]
    data: str | None = None
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Demo:
    """Train small generators on real data and write a report of what they made.

    Attributes:
        out: Folder of report.html.
        only: Modalities to show; all that are installed if left out.
    """

    out: Path = Path("demo")
    only: tuple[str, ...] = ()


def modalities() -> dict[str, str]:
    """Installed modalities: name to module of commands."""
    return {e.name: e.value for e in entry_points(group="polydiff.modalities")}


def commands(modality: str) -> ModuleType:
    """The commands of a modality; a sentence where it is unknown or its libraries are missing."""
    import importlib

    found = modalities()
    if modality not in found:
        raise SystemExit(f"polydiff: {modality!r} is no installed modality: there are {', '.join(sorted(found))}")
    try:
        return importlib.import_module(found[modality])
    except ImportError as error:
        raise SystemExit(f"polydiff: {modality} needs {error.name}: pip install 'polydiff[{modality}]'") from None


def modality_of(folder: Path) -> str:
    """The modality of a saved generator."""
    from polydiff.core.training import read_artifact

    return str(read_artifact(folder).json("config.json").get("modality"))


def run(command: Fit | Sample | Evaluate | Demo) -> None:
    """Carry out a command."""
    match command:
        case Fit():
            commands(command.modality).fit(command)
        case Sample():
            commands(modality_of(command.model)).sample(command)
        case Evaluate():
            commands(modality_of(command.model)).evaluate(command)
        case Demo():
            from polydiff.core.report import write_report

            names = command.only or tuple(sorted(modalities()))
            sections = [commands(name).demo(command.out) for name in names]
            print(f"wrote {write_report(command.out / 'report.html', sections)}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script ``polydiff``."""
    chosen = tyro.extras.subcommand_cli_from_dict(
        {"fit": Fit, "sample": Sample, "evaluate": Evaluate, "demo": Demo},
        prog="polydiff",
        description="Diffusion models of images, text, tables and time series, and soon of four other modalities, on one core.",
        args=arguments,
    )
    try:
        run(chosen)
    except (ValueError, TypeError, OSError) as error:
        # Errors of polydiff are sentences for the person at the keyboard; a traceback would hide them.
        print(f"polydiff: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
