"""Sampling: the one loop, and one family of steps a file."""

from polydiff.core.sampling.ancestral import Ancestral
from polydiff.core.sampling.blocks import Blocks
from polydiff.core.sampling.churn import Churn
from polydiff.core.sampling.cold import Cold
from polydiff.core.sampling.confidence import Confident
from polydiff.core.sampling.controls import Replace
from polydiff.core.sampling.corrected import Corrected
from polydiff.core.sampling.critic import Corrector, Critic, CriticLoss
from polydiff.core.sampling.energy import LogRatio, Reweighted, residual
from polydiff.core.sampling.first_hitting import FirstHitting
from polydiff.core.sampling.glauber import GlauberChain, HeatBath, NoiseClassification, NoiseClassifier, glauber_sample
from polydiff.core.sampling.interpolate import interpolate, slerp
from polydiff.core.sampling.lazy import Lazy
from polydiff.core.sampling.leaping import EulerJumps, TauLeaping
from polydiff.core.sampling.loop import sample, systematic, trajectory
from polydiff.core.sampling.multistep import DPMSolverPP
from polydiff.core.sampling.ode import Euler, Heun
from polydiff.core.sampling.per_field import PerField
from polydiff.core.sampling.planned import Planned, planner_of
from polydiff.core.sampling.remask import Remask
from polydiff.core.sampling.replay import path_log_prob
from polydiff.core.sampling.rolling import Rolling
from polydiff.core.sampling.sampler import Chain, Sampler
from polydiff.core.sampling.step import Control, OneCall, Step, Transition
from polydiff.core.sampling.trapezoid import Trapezoidal

__all__ = [
    "Ancestral",
    "Blocks",
    "Chain",
    "Churn",
    "Cold",
    "Confident",
    "Control",
    "Corrected",
    "Corrector",
    "Critic",
    "CriticLoss",
    "DPMSolverPP",
    "Euler",
    "EulerJumps",
    "FirstHitting",
    "GlauberChain",
    "HeatBath",
    "Heun",
    "Lazy",
    "LogRatio",
    "NoiseClassification",
    "NoiseClassifier",
    "OneCall",
    "PerField",
    "Planned",
    "Remask",
    "Replace",
    "Reweighted",
    "Rolling",
    "Sampler",
    "Step",
    "TauLeaping",
    "Transition",
    "Trapezoidal",
    "glauber_sample",
    "interpolate",
    "path_log_prob",
    "planner_of",
    "residual",
    "sample",
    "slerp",
    "systematic",
    "trajectory",
]
