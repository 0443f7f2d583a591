"""What is known of a corruption process without any network."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from polydiff.core.data import Context, Data, Time
from polydiff.core.distributions import Distribution


class Process(nn.Module, ABC):
    """A corruption that carries data (t = 0) to a source (t = 1), and its exact reverse given the law of x_0.

    ``observes_source`` says whether sampling may read ``Context.x1`` (bridges do; a coupling in training does not).
    """

    observes_source: bool = False

    @abstractmethod
    def prior(self, like: Data, ctx: Context) -> Distribution:
        """Law of x_1, shaped like ``like``."""

    @abstractmethod
    def marginal(self, x: Data, t: Time, ctx: Context, *, since: Time | None = None) -> Distribution:
        """``q(x_t | x_0 = x [, x_1])``; with ``since=s`` the forward kernel ``q(x_t | x_s = x)``."""

    @abstractmethod
    def transition(
        self, x_t: Data, posterior: Distribution, t: Time, s: Time, ctx: Context, *, eta: float = 1.0
    ) -> Distribution:
        """``E_{x_0 ~ posterior} q(x_s | x_t, x_0)``; ``eta`` = 1 is the Markov posterior (DDPM), 0 the ODE-like one (DDIM)."""

    @abstractmethod
    def loss(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context) -> Data:
        """Unweighted error per element: squared standard deviations, or nats for categories."""

    def bound(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context) -> Data | None:
        """Integrand over t ∈ [0, 1] of the negative ELBO in nats per element; ``None`` where there is none."""
        return None

    def readout(self, x: Data, ctx: Context) -> Data:
        """Data from a state, where they differ (phase space, simplex, latents)."""
        return x


class ContinuousProcess(Process):
    """A process on real vectors: it has a velocity and a score, and states move along tangents."""

    @abstractmethod
    def velocity(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context) -> Tensor:
        """``dx/dt`` of the probability-flow ODE."""

    @abstractmethod
    def score(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context) -> Tensor:
        """``∇ log p_t(x_t)``."""

    def move(self, x: Tensor, tangent: Tensor) -> Tensor:
        """``x`` moved along a tangent: addition in flat space, the exponential map on a manifold."""
        return x + tangent
