"""What the metrics return: small frozen values whose ``id`` states how the number was made.

Implementations of one metric disagree, so a figure is only comparable with another of the same id.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Interval", "Score", "TwoSampleTest"]


@dataclass(frozen=True, slots=True)
class Score:
    """One number.

    Attributes:
        value: The figure, in the units its function states.
        id: Implementation, precision and sample sizes, such as ``"frechet:float64:N=899"``.
    """

    value: float
    id: str

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True, slots=True)
class TwoSampleTest:
    """A test of the hypothesis that two samples have one law.

    Attributes:
        statistic: The observed statistic; larger speaks against the hypothesis.
        p_value: Probability, if the laws are equal, of a statistic at least this large.
        id: Implementation, settings and sample sizes.
    """

    statistic: float
    p_value: float
    id: str

    def __float__(self) -> float:
        return self.statistic


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval around an estimate.

    Attributes:
        estimate: The point estimate.
        low: Lower end.
        high: Upper end.
        level: Nominal coverage in (0, 1).
        id: Method and sample sizes.
    """

    estimate: float
    low: float
    high: float
    level: float
    id: str

    def __float__(self) -> float:
        return self.estimate

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high
