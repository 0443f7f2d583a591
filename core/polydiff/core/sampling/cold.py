"""Cold sampling: the estimate of the clean sample is degraded to both times, and the state moves by the difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from polydiff.core.data import Context, Data, Rng, Time, tree_map
from polydiff.core.denoisers import Denoiser
from polydiff.core.distributions import Dirac, Distribution
from polydiff.core.sampling.step import State, Transition

__all__ = ["Cold"]


@dataclass(frozen=True, slots=True)
class Cold:
    """``x_s = x_t + D(x̂_0, s) − D(x̂_0, t)``, where D(·, t) is a draw from the forward marginal of the process at t.

    Works for every process that can draw ``q(x_t | x_0)``: deterministic degradations (the marginal is a point), Gaussian
    noise, learned interpolators. Where ``D(x, t) = x + t e`` the iterates are ``D(x_0, s)`` whatever the estimate is; what a
    degradation says wrongly of both times cancels. Nothing is asked of a reverse kernel, and none is known: the transition
    has no law, except with implied noise.

    Args:
        noise: Of a random degradation. ``"shared"``: one draw from the Rng serves both times. ``"fresh"``: a draw for each
            (what DYffusion does with the dropout of its interpolator). ``"implied"``: the noise that carries x̂_0 to x_t,
            ``whiten(x_t)``, so that ``x_s = D(x̂_0, s)`` under it; for a Gaussian process this is DDIM with eta = 0.

    Raises:
        ValueError: For another ``noise``, or a random degradation without an Rng.
        TypeError: For ``"implied"`` where the marginal cannot be whitened.

    Source: Cold Diffusion: Inverting Arbitrary Image Transforms Without Noise, 2022, arXiv 2208.09392, algorithm 2; DYffusion:
    A Dynamics-informed Diffusion Model for Spatiotemporal Forecasting, 2023, arXiv 2306.01984.
    """

    noise: Literal["shared", "fresh", "implied"] = "shared"

    def __post_init__(self) -> None:
        if self.noise not in ("shared", "fresh", "implied"):
            raise ValueError(f"noise={self.noise!r}: need 'shared', 'fresh' or 'implied'")

    def __call__(
        self, denoiser: Denoiser, x_t: Data, t: Time, s: Time, ctx: Context, state: State, rng: Rng | None
    ) -> Transition:
        """See ``Step``."""
        posterior = denoiser(x_t, t, ctx)
        estimate, process = posterior.mean, denoiser.process
        here, there = process.marginal(estimate, t, ctx), process.marginal(estimate, s, ctx)
        if self.noise == "implied":
            x_s = there.draw(here.whiten(x_t))
            return Transition(t, s, x_t, x_s, posterior, Dirac(x_s), self, state, None, ctx)
        before, after = self._degraded(here, there, rng)
        x_s = tree_map(_moved, x_t, before, after)
        return Transition(t, s, x_t, x_s, posterior, None, self, state, None, ctx)

    def _degraded(self, here: Distribution, there: Distribution, rng: Rng | None) -> tuple[Any, Any]:
        if self.noise == "fresh" or rng is None:  # a point needs no Rng, and a random law says that it does
            return here.sample(rng), there.sample(rng)
        noise = there.noise(rng)
        return here.draw(noise), there.draw(noise)


def _moved(x: Tensor, before: Tensor, after: Tensor) -> Tensor:
    return x + (after - before)
