"""Corruption processes, one family a file."""

from polydiff.core.processes.base import ContinuousProcess, Process
from polydiff.core.processes.bridge import Bridge, Brownian, Residual
from polydiff.core.processes.discrete import Discrete
from polydiff.core.processes.linear import Flow, Gaussian, LinearGaussian
from polydiff.core.processes.product import Product

__all__ = [
    "Bridge",
    "Brownian",
    "ContinuousProcess",
    "Discrete",
    "Flow",
    "Gaussian",
    "LinearGaussian",
    "Process",
    "Product",
    "Residual",
]
