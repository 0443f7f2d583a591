"""Noise schedules and time grids.

A schedule maps time t ∈ [0, 1] (0 = data, 1 = noise) to the coefficients of ``x_t = alpha_t x_0 + sigma_t z`` for data of
variance 1. Every continuous schedule keeps ``logsnr = log(alpha² / sigma²)`` inside [−20, 20], so that neither end is
singular: its natural parameter u runs over the part of its range where that holds.
"""

from polydiff.core.schedules.clock import Clock, Clocked
from polydiff.core.schedules.grids import karras_times, logsnr_times, quadratic_times, uniform_times
from polydiff.core.schedules.named import EDM, VE, VP, Cosine, LogLinear, RectifiedFlow, SubVP, VPLinear
from polydiff.core.schedules.path import LOGSNR_LIMIT, Coefficients, Path, Schedule
from polydiff.core.schedules.per_element import known_times, rolling_times
from polydiff.core.schedules.staggered import staggered_times

__all__ = [
    "EDM",
    "LOGSNR_LIMIT",
    "VE",
    "VP",
    "Clock",
    "Clocked",
    "Coefficients",
    "Cosine",
    "LogLinear",
    "Path",
    "RectifiedFlow",
    "Schedule",
    "SubVP",
    "VPLinear",
    "karras_times",
    "known_times",
    "logsnr_times",
    "quadratic_times",
    "rolling_times",
    "staggered_times",
    "uniform_times",
]
