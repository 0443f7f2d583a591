"""Guidance: denoisers around denoisers, one method a file."""

from polydiff.core.guidance.classifier_free import ClassifierFree
from polydiff.core.guidance.observed import Observed, quantile_levels
from polydiff.core.guidance.precision import Precision, RememberEstimates
from polydiff.core.guidance.told import KnownGuidance

__all__ = [
    "ClassifierFree",
    "KnownGuidance",
    "Observed",
    "Precision",
    "RememberEstimates",
    "quantile_levels",
]
