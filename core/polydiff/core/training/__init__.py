"""Training: objectives, what they practise on, and the trainer."""

from polydiff.core.training.batches import Batch, Batches
from polydiff.core.training.checkpoint import CorruptCheckpoint, read_artifact, write_artifact
from polydiff.core.training.clocks import ClockBound, LearnedClocks
from polydiff.core.training.contrastive import NoiseContrastive, learned_ratio
from polydiff.core.training.couplings import Coupling, Independent, MinibatchOT
from polydiff.core.training.ema import EMA
from polydiff.core.training.fourier import FourierLoss
from polydiff.core.training.loss import Loss, Objective
from polydiff.core.training.muon import Muon
from polydiff.core.training.objective import Denoising
from polydiff.core.training.per_block import PerBlock
from polydiff.core.training.planner import PlannerLoss
from polydiff.core.training.schedule import Constant, WarmupCosine, WarmupLinear
from polydiff.core.training.simple_denoising import LeaveOneOut, SimpleDenoising
from polydiff.core.training.standard import adamw, train
from polydiff.core.training.state_masking import LearnedMasking
from polydiff.core.training.times import LogitNormal, LogNormalSigma, RollingTimes, TimeLaw, Uniform, VectorTimes
from polydiff.core.training.trainer import History, NonFinite, Phase, Trainer
from polydiff.core.training.weights import P2, SNR, EDMWeight, Flat, MinSNR, Sigmoid, VelocityWeight, VWeight, Weight

__all__ = [
    "EMA",
    "P2",
    "SNR",
    "Batch",
    "Batches",
    "ClockBound",
    "Constant",
    "CorruptCheckpoint",
    "Coupling",
    "Denoising",
    "EDMWeight",
    "Flat",
    "FourierLoss",
    "History",
    "Independent",
    "LearnedClocks",
    "LearnedMasking",
    "LeaveOneOut",
    "LogNormalSigma",
    "LogitNormal",
    "Loss",
    "MinSNR",
    "MinibatchOT",
    "Muon",
    "NoiseContrastive",
    "NonFinite",
    "Objective",
    "PerBlock",
    "Phase",
    "PlannerLoss",
    "RollingTimes",
    "Sigmoid",
    "SimpleDenoising",
    "TimeLaw",
    "Trainer",
    "Uniform",
    "VWeight",
    "VectorTimes",
    "VelocityWeight",
    "WarmupCosine",
    "WarmupLinear",
    "Weight",
    "adamw",
    "learned_ratio",
    "read_artifact",
    "train",
    "write_artifact",
]
