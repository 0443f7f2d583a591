"""Figures with their floors: what ``evaluate`` of every modality returns."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Figure", "Report"]


@dataclass(frozen=True)
class Figure:
    """One line of a report.

    Attributes:
        name: Which metric.
        value: Its value on generated data.
        floor: The same metric between two halves of the real data at the same sample size: what perfection scores.
        better: ``"lower"`` or ``"higher"``.
        id: Implementation, feature extractor and sample sizes.
        meaning: What it measures, in words.
    """

    name: str
    value: float
    floor: float
    better: str
    id: str
    meaning: str


@dataclass(frozen=True)
class Report:
    """What ``evaluate`` of a generator returns: figures with their floors."""

    figures: tuple[Figure, ...]

    def __getitem__(self, name: str) -> Figure:
        """A figure by name."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(f"no figure {name!r}: there are {', '.join(f.name for f in self.figures)}")

    def __str__(self) -> str:
        """A table."""
        head = f"{'metric':<26}{'value':>10}{'floor':>10}  {'better':<7} id"
        rows = [f"{f.name:<26}{f.value:>10.4f}{f.floor:>10.4f}  {f.better:<7} {f.id}" for f in self.figures]
        return "\n".join([head, *rows])
