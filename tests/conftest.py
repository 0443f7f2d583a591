"""Shared by all tests: quiet threads, and the lists that property tests run over.

A new process, schedule, step or law joins its list here and inherits every property test of its kind.
"""

import math

import pytest
import torch

from polydiff.core.distributions import Categorical, Dirac, Joint, Mixture, Normal
from polydiff.core.oracles import GaussianMixture
from polydiff.core.processes import Bridge, Brownian, Discrete, Flow, Gaussian, Product, Residual
from polydiff.core.schedules import EDM, VE, Cosine, LogLinear, RectifiedFlow, SubVP, VPLinear

torch.set_num_threads(1)

SCHEDULES = {
    "vp-linear": VPLinear,
    "cosine": Cosine,
    "shifted-cosine": lambda: Cosine(shift=0.5),
    "sub-vp": SubVP,
    "ve": VE,
    "edm": EDM,
    "rectified": RectifiedFlow,
}
LINEAR = {f"gaussian/{k}": (lambda make=v: Gaussian(make())) for k, v in SCHEDULES.items()} | {
    "flow": Flow,
    "bridge/brownian": lambda: Bridge(Brownian(0.8)),
    "bridge/vp": lambda: Bridge(VPLinear()),
    "bridge/ve": lambda: Bridge(VE(sigma_max=2.0)),
    "residual": lambda: Residual(kappa=1.3),
}
MARKOV = [k for k in LINEAR if k != "residual"]
DISCRETE = {
    "absorbing": lambda: Discrete.absorbing(3, LogLinear()),
    "uniform": lambda: Discrete.uniform(3, LogLinear()),
    "marginal": lambda: Discrete.marginal_prior(torch.tensor([0.5, 0.3, 0.2]), LogLinear()),
    "absorbing/cosine": lambda: Discrete.absorbing(3, Cosine()),
}


@pytest.fixture(params=sorted(SCHEDULES))
def schedule(request):
    return SCHEDULES[request.param]()


@pytest.fixture(params=sorted(LINEAR))
def linear(request):
    return LINEAR[request.param]()


@pytest.fixture(params=MARKOV)
def markov(request):
    return LINEAR[request.param]()


@pytest.fixture(params=[k for k in MARKOV if not k.startswith("bridge")])
def unpinned(request):
    """Markov processes whose source is not observed."""
    return LINEAR[request.param]()


@pytest.fixture(params=sorted(DISCRETE))
def discrete(request):
    return DISCRETE[request.param]()


@pytest.fixture
def mixture():
    """Three modes in two dimensions, standardised to about unit variance."""
    return GaussianMixture(
        torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64),
        torch.tensor([[-1.2, 0.4], [0.6, -1.0], [1.1, 1.3]], dtype=torch.float64),
        torch.tensor([[0.3, 0.2], [0.25, 0.4], [0.35, 0.3]], dtype=torch.float64),
    )


@pytest.fixture
def table():
    """Joint probabilities of two dependent tokens over three states, one of them rare."""
    return torch.tensor([[0.29, 0.05, 0.05], [0.01, 0.2, 0.05], [0.05, 0.0099, 0.2901]], dtype=torch.float64)


@pytest.fixture
def product():
    return Product(pos=Gaussian(Cosine()), atom=Discrete.absorbing(4), kind=Discrete.uniform(3))


@pytest.fixture
def laws():
    """One law of every kind with its sample shape, as makers that take a batch size."""
    g = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    base = {
        "normal": lambda n: Normal(rand(n, 3), rand(n, 3).abs() + 0.2),
        "normal/float": lambda n: Normal(rand(n, 2, 2), 0.7),
        "mixture": lambda n: Mixture(rand(n, 4), rand(n, 4, 3), rand(n, 4).abs() + 0.1),
        "categorical": lambda n: Categorical(rand(n, 3, 5)),
        "dirac": lambda n: Dirac(rand(n, 3)),
    }
    base["joint"] = lambda n: Joint({"a": base["normal"](n), "b": base["categorical"](n)})
    return base


def log2_slopes(errors):
    """Observed orders of convergence between successive halvings."""
    return [math.log2(a / b) for a, b in zip(errors, errors[1:])]


@pytest.fixture
def slopes():
    return log2_slopes
