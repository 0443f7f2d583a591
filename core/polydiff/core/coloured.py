"""Coloured: any parametrisation in the white coordinates of the noise."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from polydiff.core.data import Context, Time
from polydiff.core.distributions import Distribution
from polydiff.core.preconditioners import Preconditioner
from polydiff.core.processes import LinearGaussian

__all__ = ["Coloured"]


class Coloured(Preconditioner):
    """The network speaks of ``L⁻¹ x`` and is coloured by L: ``posterior(L F(x_t), x_t)`` for noise ``N(0, L Lᵀ)``.

    With ``EpsPrediction`` it predicts the white noise ``L⁻¹ ε``, a target of unit, independent entries however smooth the
    noise is; the estimates are functions as smooth as the noise. The network reads the state itself, not ``L⁻¹ x_t``.

    Args:
        inner: The parametrisation, linear in state and output: every one of linear processes is.

    Source: Modeling Temporal Data as Continuous Functions with Stochastic Process Diffusion, 2022, arXiv 2211.02590.
    """

    def __init__(self, inner: Preconditioner) -> None:
        self.inner = inner

    def inputs(self, process: Any, x_t: Any, t: Time, ctx: Context) -> tuple[Any, Any]:
        """See ``Preconditioner``."""
        return self.inner.inputs(process, x_t, t, ctx)

    def posterior(self, process: LinearGaussian, raw: Tensor, x_t: Tensor, t: Time, ctx: Context) -> Distribution:
        """See ``Preconditioner``."""
        return self.inner.posterior(process, process.law(x_t, ctx).colour(raw), x_t, t, ctx)
