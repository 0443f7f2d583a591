"""Corruption processes, one family a file."""

from polydiff.core.processes.base import ContinuousProcess, Process
from polydiff.core.processes.blackout import Blackout
from polydiff.core.processes.bridge import Bridge, Brownian, Residual
from polydiff.core.processes.discrete import Discrete
from polydiff.core.processes.embedded import Embedded
from polydiff.core.processes.indicators import Indicators
from polydiff.core.processes.linear import Flow, Gaussian, LinearGaussian
from polydiff.core.processes.noises import CentredNoise, GPNoise, OUNoise
from polydiff.core.processes.product import Product
from polydiff.core.processes.rates import RateDiscrete, unit_gap
from polydiff.core.processes.soft_mask import SoftMask
from polydiff.core.processes.sphere import SphereTokens
from polydiff.core.processes.state_masking import StateMasking

__all__ = [
    "Blackout",
    "Bridge",
    "Brownian",
    "CentredNoise",
    "ContinuousProcess",
    "Discrete",
    "Embedded",
    "Flow",
    "GPNoise",
    "Gaussian",
    "Indicators",
    "LinearGaussian",
    "OUNoise",
    "Process",
    "Product",
    "RateDiscrete",
    "Residual",
    "SoftMask",
    "SphereTokens",
    "StateMasking",
    "unit_gap",
]
