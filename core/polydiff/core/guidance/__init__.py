"""Guidance: denoisers around denoisers, one method a file."""

from polydiff.core.guidance.classifier_free import ClassifierFree

__all__ = ["ClassifierFree"]
