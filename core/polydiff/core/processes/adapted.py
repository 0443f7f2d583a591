"""Data-dependent priors: a Gaussian process whose noise has, element by element, the mean and scale that a condition tells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, left
from polydiff.core.distributions import Distribution, Normal
from polydiff.core.preconditioners import Preconditioner
from polydiff.core.processes.linear import Gaussian, LinearGaussian
from polydiff.core.schedules import Schedule

__all__ = ["Adapted", "Whitened"]


class Adapted(LinearGaussian):
    """``x_t = a_t x_0 + (1 − a_t) m + g_t s z``: what ``Gaussian`` makes of ``(x − m) / s``, in the units of the data.

    The prior is ``N(m, s²)`` (to ``a_1 ≈ 0``) with ``m = side["prior_mean"]`` and ``s = side["prior_std"]`` of the context,
    both ``(B, ...)`` and broadcast from the left: a first estimate and its error, the energy of a frame, the mean and spread
    of a class. The better they are, the less is left to learn and the fewer steps it takes. The loss is the squared error in
    units of s, so that every step, solver, bound and known entry means what it means without a prior.

    Args:
        schedule: Variance preserving, so that ``(x − m) / s`` of variance 1 keeps it.
        name: Of the entries: ``{name}_mean``, 0 if it is missing, and ``{name}_std``, 1 if it is missing; one is needed.

    Attributes:
        plain: The process of ``(x − m) / s``.

    Raises:
        ValueError: For a context with neither entry.

    Source: PriorGrad: Improving Conditional Denoising Diffusion Models with Data-Dependent Adaptive Prior, 2021, arXiv
    2106.06406 (its Algorithms 1 and 2 are the change of variables; the mean is taken off the data and added back).
    """

    plain: Gaussian

    def __init__(self, schedule: Schedule, *, name: str = "prior") -> None:
        super().__init__(schedule)
        self.name = name
        self.__dict__["plain"] = Gaussian(
            schedule
        )  # of the standardised data; not a module, as its path is here already

    @property
    def schedule(self) -> Schedule:
        """The path."""
        return self.path  # type: ignore[return-value]

    def scales(self, like: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """``(m, s)``, broadcastable against ``like``."""
        mean, std = (ctx.side.get(f"{self.name}_{k}") for k in ("mean", "std"))
        if mean is None and std is None:
            raise ValueError(
                f'an adapted prior needs Context.side["{self.name}_mean"] or ["{self.name}_std"]: there is neither'
            )
        m = torch.zeros_like(like) if mean is None else left(mean, like).to(like)
        return m, torch.ones_like(like) if std is None else left(std, like).to(like)

    def whiten(self, x: Tensor, ctx: Context) -> Tensor:
        """``(x − m) / s``."""
        m, s = self.scales(x, ctx)
        return (x - m) / s

    # -------------------------------------------------------------- laws

    def prior(self, like: Data, ctx: Context = Context()) -> Distribution:
        """``N((1 − a_1) m, g_1² s²)``, with a_1 next to 0."""
        assert isinstance(like, Tensor)
        m, s = self.scales(like, ctx)
        c = self.at(1.0)
        return Normal(torch.zeros_like(like) + (1 - left(c.a, like)) * m, left(c.g, like) * s)

    def marginal(self, x: Data, t: Time, ctx: Context = Context(), *, since: Time | None = None) -> Distribution:
        """See ``Process``.

        Raises:
            ValueError: For a coupled source: the prior is the source.
        """
        if ctx.x1 is not None:
            raise ValueError("an adapted prior is the source itself: train it without a coupling (Context.x1)")
        return super().marginal(x, t, ctx, since=since)

    def transition(
        self, x_t: Data, posterior: Distribution, t: Time, s: Time, ctx: Context = Context(), *, eta: float = 1.0
    ) -> Distribution:
        """See ``Process``: ``combine`` in the units of the data, so that any posterior will do."""
        assert isinstance(x_t, Tensor)
        mean, std = self.scales(x_t, ctx)
        at, to = self.at(t), self.at(s)
        z, rho = (left(u, x_t) for u in self._reverse(at, to, eta))
        scale = left(to.a, x_t) - z * left(at.a, x_t)
        return posterior.combine(
            scale, x_t, z, (1 - scale - z) * mean, 0.0 if isinstance(rho, float) and rho == 0.0 else rho * std
        )

    def coef(self, t: Time, ctx: Context) -> tuple[Time, Time, Time]:
        """``(a, (1 − a) m, g s)``."""
        c = self.at(t)
        mean = ctx.side.get(f"{self.name}_mean")
        std = ctx.side.get(f"{self.name}_std")
        like = mean if mean is not None else std
        if like is None:
            self.scales(torch.empty(0), ctx)  # says what is missing
        assert isinstance(like, Tensor)
        a, g = left(c.a, like), left(c.g, like)
        return c.a, 0.0 if mean is None else (1 - a) * mean, c.g if std is None else g * std

    # -------------------------------------------------------------- fields

    def velocity(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context = Context()) -> Tensor:
        """See ``ContinuousProcess``."""
        m, s = self.scales(x_t, ctx)
        return s * super().velocity((x_t - m) / s, _seen(posterior, m, s), t, ctx)

    def score(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context = Context()) -> Tensor:
        """See ``ContinuousProcess``."""
        m, s = self.scales(x_t, ctx)
        c = self.at(t)
        a, g = left(c.a, x_t), left(c.g, x_t)
        return (a * posterior.mean + (1 - a) * m - x_t) / (g * s) ** 2

    # -------------------------------------------------------------- objectives

    def loss(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data:
        """``(x̂_0 − x_0)² / s²`` per element."""
        assert isinstance(x0, Tensor)
        return ((posterior.mean - x0) / self.scales(x0, ctx)[1]) ** 2

    def bound(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data | None:
        """See ``LinearGaussian``, on ``(x − m) / s``."""
        assert isinstance(x0, Tensor) and isinstance(x_t, Tensor)
        m, s = self.scales(x0, ctx)
        return super().bound(_seen(posterior, m, s), (x0 - m) / s, (x_t - m) / s, t, ctx)


def _seen(posterior: Distribution, m: Tensor, s: Tensor) -> Distribution:
    """The mean of the posterior after the change of variables."""
    return Normal((posterior.mean - m) / s)


class Whitened(Preconditioner):
    """Any parametrisation, of ``(x − m) / s``: a network of unit scales for an ``Adapted`` process.

    Args:
        inner: The parametrisation (``EpsPrediction`` is the paper's).

    Raises:
        TypeError: For another process.
    """

    def __init__(self, inner: Preconditioner) -> None:
        self.inner = inner

    def inputs(self, process: Any, x_t: Any, t: Time, ctx: Context) -> tuple[Any, Any]:
        """See ``Preconditioner``."""
        given = None if ctx.given is None else _adapted(process).whiten(ctx.given, ctx)  # type: ignore[arg-type]
        return self.inner.inputs(
            _adapted(process).plain, _adapted(process).whiten(x_t, ctx), t, ctx.replace(given=given)
        )

    def posterior(self, process: Any, raw: Any, x_t: Any, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        m, s = _adapted(process).scales(x_t, ctx)
        return self.inner.posterior(_adapted(process).plain, raw, (x_t - m) / s, t, ctx).affine(s, m, 0.0)


def _adapted(process: Any) -> Adapted:
    if not isinstance(process, Adapted):
        raise TypeError(f"Whitened speaks of an Adapted process, not of {type(process).__name__}")
    return process
