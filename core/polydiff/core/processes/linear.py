"""Linear Gaussian processes: VP, VE, flow, bridge and residual diffusion are one class with other coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, left
from polydiff.core.distributions import Dirac, Distribution, Noise, Normal, White
from polydiff.core.distributions.convolved import with_noise
from polydiff.core.distributions.noise import WHITE
from polydiff.core.processes.base import ContinuousProcess
from polydiff.core.processes.noises import NoiseOf
from polydiff.core.schedules import Coefficients, Path, RectifiedFlow, Schedule

Source = Callable[[Tensor, Context], Distribution]


def _sqrt(x: Time) -> Time:
    return math.sqrt(max(x, 0.0)) if isinstance(x, float) else x.clamp_min(0).sqrt()


class LinearGaussian(ContinuousProcess):
    """``x_t = a_t x_0 + shift_t + g_t z`` with ``shift_t = b_t x_1`` where the source is observed and ``z ~ N(0, Σ)``.

    The reverse kernel follows from one rule. With the forward kernel ``x_t = k x_s + …`` (k = ``keep(t, s)``),
    ``rho² = eta² g_s² (1 − k² g_s² / g_t²)`` and ``x_s = a_s x_0 + shift_s + sqrt(g_s² − rho²) ẑ + rho ξ``, where
    ``ẑ = (x_t − a_t x_0 − shift_t) / g_t``; the posterior's spread is carried along.

    Args:
        path: Coefficients as a function of time.
        source: Law of the source where it is not standard normal, ``source(like, ctx)``; such a process is a flow:
            it has no stochastic steps (eta must be 0).
        observes_source: x_1 is given (``Context.x1``) in training and sampling.
        markov: ``keep = a_t / a_s``, so that the forward kernel forgets x_0; otherwise ``keep = 1``.
        noise: Law of z where it is not white, ``noise(like, ctx)``: functions (``GPNoise``, ``OUNoise``), point clouds
            without translation (``CentredNoise``). Elements that are correlated must share their time wherever noise is
            added.

    Source: Denoising Diffusion Implicit Models, 2020, arXiv 2010.02502 (eta); Stochastic Interpolants, 2023, arXiv
    2303.08797 (the family).
    """

    def __init__(
        self,
        path: Path,
        *,
        source: Source | None = None,
        observes_source: bool = False,
        markov: bool = True,
        noise: NoiseOf | None = None,
    ) -> None:
        super().__init__()
        if source is not None and noise is not None:
            raise ValueError("a flow from another source has its noise from there: give source or noise, not both")
        self.noise = noise
        self.path, self.source, self.observes_source, self.markov = path, source, observes_source, markov
        # Looking a submodule up costs as much as a small tensor operation; an entry of __dict__ is found first, and
        # nn.Module removes it when the attribute is set anew.
        self.__dict__["path"] = path
        #: Coefficients at a time.
        self.at = path.at

    # -------------------------------------------------------------- coefficients

    def coef(self, t: Time, ctx: Context) -> tuple[Time, Time, Time]:
        """``(a, shift, g)`` at ``t``."""
        c = self.at(t)
        return c.a, self._shift(c.b, ctx), c.g

    def _shift(self, b: Time, ctx: Context) -> Time:
        if not self.observes_source:
            return 0.0
        if ctx.x1 is None:
            raise ValueError(f"{type(self).__name__} observes its source: pass it as Context.x1")
        assert isinstance(ctx.x1, Tensor)
        return left(b, ctx.x1) * ctx.x1

    def keep(self, t: Time, s: Time) -> Time:
        """The factor k of the forward kernel ``x_t = k x_s + …``."""
        return self.at(t).a / self.at(s).a if self.markov else 1.0

    def logsnr(self, t: Time) -> Time:
        """``log(a² / g²)``."""
        c = self.at(t)
        if isinstance(c.a, float) and isinstance(c.g, float):
            return math.inf if c.g == 0 else 2 * math.log(c.a / c.g) if c.a > 0 else -math.inf
        return 2 * (torch.as_tensor(c.a).log() - torch.as_tensor(c.g).log())

    def rate(self, t: Time, ctx: Context) -> tuple[Time, Time]:
        """``(f, G)`` of the forward SDE ``dx = f x dt + … + sqrt(G) dw``: ``G = dg²/dt − 2 f g²``."""
        c = self.at(t)
        f = c.da / c.a if self.markov else 0.0 * c.a
        return f, 2 * c.g * (c.dg - f * c.g)

    # -------------------------------------------------------------- laws

    def law(self, like: Tensor, ctx: Context = Context()) -> Noise:
        """The law of z."""
        return WHITE if self.noise is None else self.noise(like, ctx)

    def prior(self, like: Data, ctx: Context = Context()) -> Distribution:
        """``N(shift_1, g_1² Σ)``, or the law of the source."""
        assert isinstance(like, Tensor)
        if self.source is not None:
            return self.source(like, ctx)
        _, shift, g = self.coef(1.0, ctx)
        mean = torch.zeros_like(like) + shift
        return Normal(mean, 0.0 if isinstance(g, float) and g < 1e-12 else g, self.law(like, ctx))

    def marginal(self, x: Data, t: Time, ctx: Context = Context(), *, since: Time | None = None) -> Distribution:
        """See ``Process``. A source that was coupled to the data (``Context.x1``) takes the place of the noise."""
        assert isinstance(x, Tensor)
        a, shift, g = (left(c, x) for c in self.coef(t, ctx))
        if since is None:
            if isinstance(ctx.x1, Tensor) and not self.observes_source:
                return Dirac(a * x + g * ctx.x1)
            if self.source is not None:
                return self.source(x, ctx).affine(g, a * x, 0.0)
            return Normal(a * x + shift, g, self.law(x, ctx))
        if not self.markov:
            raise ValueError("q(x_t | x_s) of a residual process depends on x_0: it has no forward kernel of its own")
        if self.source is not None:
            raise ValueError("a flow from a non-Gaussian source has no forward kernel: its paths are straight lines")
        _, before, h = (left(c, x) for c in self.coef(since, ctx))
        k = left(self.keep(t, since), x)
        law, fresh = self.law(x, ctx), _sqrt(g * g - k * k * h * h)
        _one_time(law, fresh)
        return Normal(k * x + (shift - k * before), fresh, law)

    def transition(
        self, x_t: Data, posterior: Distribution, t: Time, s: Time, ctx: Context = Context(), *, eta: float = 1.0
    ) -> Distribution:
        """See ``Process``."""
        assert isinstance(x_t, Tensor)
        at, to = self.at(t), self.at(s)
        z, rho = self._reverse(at, to, eta)
        if self.noise is not None:
            return self._noisy(x_t, posterior, at, to, z, rho, ctx)
        if isinstance(z, float):
            shift = self._shift(to.b, ctx) - z * self._shift(at.b, ctx) if self.observes_source else 0.0
            return posterior.combine(to.a - z * at.a, x_t, z, shift, rho)
        wide, before, after = left(z, x_t), self._shift(at.b, ctx), self._shift(to.b, ctx)
        scale = left(to.a, x_t) - wide * left(at.a, x_t)
        return posterior.combine(scale, x_t, wide, left(after, x_t) - wide * left(before, x_t), left(rho, x_t))

    def _noisy(
        self,
        x_t: Tensor,
        posterior: Distribution,
        at: Coefficients,
        to: Coefficients,
        z: Time,
        rho: Time,
        ctx: Context,
    ) -> Distribution:
        """The reverse kernel for noise that is not white: the fresh part is of the process's law, not of the posterior's."""
        wide, scale = left(z, x_t), left(to.a, x_t) - left(z, x_t) * left(at.a, x_t)
        before, after = (left(self._shift(b, ctx), x_t) for b in (at.b, to.b))
        shift = after - wide * before if self.observes_source else 0.0
        kernel = posterior.combine(scale, x_t, wide, shift, 0.0)
        if isinstance(rho, float) and rho == 0.0:
            return kernel
        law = self.law(x_t, ctx)
        _one_time(law, rho)
        return with_noise(kernel, rho, law)

    def _reverse(self, at: Coefficients, to: Coefficients, eta: float) -> tuple[Time, Time]:
        """The weight z of ``x_t`` and the fresh noise rho of the reverse kernel."""
        if eta != 0.0:
            if not 0.0 <= eta <= 1.0:
                raise ValueError(f"eta={eta}: must lie in [0, 1]")
            if self.source is not None:
                raise ValueError("eta > 0 needs a Gaussian source; this flow has another one: use eta=0")
        g, h = at.g, to.g
        if isinstance(g, float) and isinstance(h, float) and isinstance(at.a, float) and isinstance(to.a, float):
            if g <= 0.0:
                return 0.0, h  # pinned at a known end: ẑ is 0/0 and its law is N(0, 1)
            if eta == 0.0:
                return h / g, 0.0
            k = at.a / to.a if self.markov else 1.0
            ratio = k * h / g
            if ratio > 1.0 + 1e-9:
                raise ValueError(
                    "eta > 0 draws the reverse kernel, which runs from t down to s < t: use eta=0 to encode"
                )
            rho = eta * h * math.sqrt(max(1.0 - ratio * ratio, 0.0))
            return math.sqrt(max(h * h - rho * rho, 0.0)) / g, rho
        g_t, g_s = torch.as_tensor(g), torch.as_tensor(h)
        if eta == 0.0 and not self.observes_source:
            return g_s / g_t, 0.0
        safe = torch.where(g_t > 0, g_t, 1.0)
        keep = torch.as_tensor(at.a / to.a) if self.markov else torch.ones_like(g_t)
        kept = (keep * g_s / safe).clamp_max(1.0).square()
        fresh = eta * g_s * torch.sqrt(1 - kept)
        # g_s² − rho² would cancel in single precision next to t = 1
        z = torch.where(g_t > 0, g_s / safe * torch.sqrt(1 - eta * eta + eta * eta * kept), 0.0)
        return z, torch.where(g_t > 0, fresh, g_s)

    # -------------------------------------------------------------- fields

    def velocity(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context = Context()) -> Tensor:
        """``a′ x̂_0 + shift′ + g′ ẑ``: the straight-line velocity noise − data for the rectified flow.

        The same for any noise: it is ``f x − ½ G Σ score``, and the score has the factor ``Σ⁻¹``.
        """
        c = self.at(t)
        a, b, g, da, db, dg = (left(u, x_t) for u in c)
        if isinstance(g, float) and g <= 0.0:
            raise ValueError(
                f"the velocity is singular at t={t}, where the state is pinned: leave it by a stochastic step"
            )
        if not self.observes_source:
            ratio = dg / g
            return torch.mul(posterior.mean, da - ratio * a).add_(x_t * ratio)
        x1 = ctx.x1
        assert isinstance(x1, Tensor)
        return da * posterior.mean + db * x1 + (dg / g) * (x_t - a * posterior.mean - b * x1)

    def score(self, x_t: Tensor, posterior: Distribution, t: Time, ctx: Context = Context()) -> Tensor:
        """``Σ⁻¹ (a x̂_0 + shift − x_t) / g²``; with correlated noise, of the elements that are valid and not known."""
        a, shift, g = (left(c, x_t) for c in self.coef(t, ctx))
        if self.noise is None:
            return (a * posterior.mean + shift - x_t) / (g * g)
        return self.law(x_t, ctx).precision((a * posterior.mean + shift - x_t) / g, _scored(ctx)) / g

    # -------------------------------------------------------------- objectives

    def loss(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data:
        """``(x̂_0 − x_0)²`` per element; with noise of covariance ``L Lᵀ`` that of ``L⁻¹ (x̂_0 − x_0)``, as in ``bound``."""
        if self.noise is None:
            return (posterior.mean - x0) ** 2
        assert isinstance(x0, Tensor)
        return self.law(x0, ctx).whiten(posterior.mean - x0, _scored(ctx)) ** 2

    def bound(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data | None:
        """``½ c² / G · (x̂_0 − x_0)²`` with ``c = −a′ − f a + a (g²)′/g²``; for a Markov path ``−½ dSNR/dt``.

        With noise of covariance ``Σ = L Lᵀ`` the error is ``L⁻¹ (x̂_0 − x_0)``, of the elements that are valid and not known.

        Source: Variational Diffusion Models, 2021, arXiv 2107.00630.
        """
        if self.source is not None:
            return None
        assert isinstance(x0, Tensor)
        c = self.at(t)
        f, rate = self.rate(t, ctx)
        slope = -c.da - f * c.a + 2 * c.a * c.dg / c.g
        gap = posterior.mean - x0
        if self.noise is not None:
            law = self.law(x0, ctx)
            _one_time(law, c.g)
            gap = law.whiten(gap, _scored(ctx))
        return 0.5 * left(slope * slope / rate, x0) * gap**2


def _scored(ctx: Context) -> Tensor | None:
    mask = ctx.scored()
    assert mask is None or isinstance(mask, Tensor)
    return mask


def _one_time(law: Noise, spread: Time) -> None:
    """Noise that is added to correlated elements at different times has another covariance at every time."""
    if isinstance(spread, Tensor) and spread.ndim > 1 and spread.shape[1] > 1 and not isinstance(law, White):
        raise ValueError(
            f"times of shape {tuple(spread.shape)}: elements whose noise is correlated must share one time a sample; use eta=0"
        )


class Gaussian(LinearGaussian):
    """Diffusion: ``x_t = alpha_t x_0 + sigma_t z`` by any schedule (VP, VE, sub-VP, EDM, cosine, rectified) and noise."""

    def __init__(self, schedule: Schedule, *, noise: NoiseOf | None = None) -> None:
        super().__init__(schedule, noise=noise)

    @property
    def schedule(self) -> Schedule:
        """The path."""
        return self.path  # type: ignore[return-value]


class Flow(LinearGaussian):
    """Flow matching: straight (or scheduled) paths from any source to the data, with any coupling.

    The source is standard normal unless ``source(like, ctx)`` gives another law (an Empirical of paired data, a
    mixture, uniform …); a training coupling fills ``Context.x1``.

    Source: Flow Matching for Generative Modeling, 2022, arXiv 2210.02747; Improving and generalizing flow-based
    generative models with minibatch optimal transport, 2023, arXiv 2302.00482.
    """

    def __init__(
        self, schedule: Schedule | None = None, source: Source | None = None, *, noise: NoiseOf | None = None
    ) -> None:
        schedule = RectifiedFlow() if schedule is None else schedule
        super().__init__(schedule, source=source, noise=noise)

    @property
    def schedule(self) -> Schedule:
        """The path."""
        return self.path  # type: ignore[return-value]
