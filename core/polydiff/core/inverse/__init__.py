"""Conditioning by a model that was not trained for it: told by time, refinement of what others have made."""

from polydiff.core.inverse.refine import refine
from polydiff.core.inverse.told_by_time import ToldByTime

__all__ = ["ToldByTime", "refine"]
