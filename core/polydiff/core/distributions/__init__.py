"""Laws: what denoisers return, what steps draw from, what objectives score."""

from polydiff.core.distributions.base import Distribution
from polydiff.core.distributions.categorical import Categorical, Gated, Intensities
from polydiff.core.distributions.correlated import GP
from polydiff.core.distributions.joint import Joint
from polydiff.core.distributions.kernels import RBF, Matern, Periodic
from polydiff.core.distributions.mixture import Empirical, Implicit, Mixture
from polydiff.core.distributions.noise import Noise, White, ZeroSum
from polydiff.core.distributions.normal import Dirac, Normal
from polydiff.core.distributions.ornstein_uhlenbeck import OU
from polydiff.core.distributions.predicted import Predicted
from polydiff.core.distributions.signed import Signed
from polydiff.core.distributions.where import Where

__all__ = [
    "GP",
    "OU",
    "RBF",
    "Categorical",
    "Dirac",
    "Distribution",
    "Empirical",
    "Gated",
    "Implicit",
    "Intensities",
    "Joint",
    "Matern",
    "Mixture",
    "Noise",
    "Normal",
    "Periodic",
    "Predicted",
    "Signed",
    "Where",
    "White",
    "ZeroSum",
]
