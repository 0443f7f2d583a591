"""The denoising loss with a term on the Fourier transform of the error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Time, left
from polydiff.core.distributions import Distribution
from polydiff.core.processes import LinearGaussian
from polydiff.core.training.objective import Denoising

__all__ = ["FourierLoss"]

Band = Callable[[Tensor], Tensor]


class FourierLoss(Denoising):
    """``Σ_l w e_l² + weight · Σ_k b(f_k) (|Re ê_k|^p + |Im ê_k|^p)`` with ``ê = FFT(sqrt(w) e)``, ``e = x̂_0 − x_0``, unitary.

    The FFT runs over one axis, scaled by ``1/sqrt(L)``, so that both sums have the same size (Parseval): **for p = 2 without a
    band the second is the first**, and the loss the plain one times ``1 + weight``, whatever paper writes it. It differs

    - with a ``band`` b(f), which weights frequencies and leaves the minimiser what it is, the mean of x_0 given x_t: it moves
      what the network spends its capacity on;
    - for p = 1, as the authors' code has it: few large errors in frequency count less than many small ones. The minimiser is
      then no longer the mean but, in part, the median of each coefficient, so that samplers are right for laws of x_0 given
      x_t symmetric about their mean, and only about right for others.

    ``sqrt(w)`` under the transform makes both terms errors of the same quantity (v for ``VWeight``). Entries that do not count
    (known or invalid) enter as zeros. Authors' numbers, in these units: λ₂ = sqrt(L)/5 times an FFT scaled by 1/L is a
    ``weight`` of 1/5 for p = 1 (with an absolute error in time too, where this has squares).

    Args:
        denoising: What the loss is added to, with a ``Weight``.
        weight: Of the second term, relative to the first.
        p: 1 or 2.
        band: Factor b(f) ≥ 0 by frequency in cycles a step, −1/2 ≤ f < 1/2, even in f: a function of a tensor ``(L,)``.
        axis: Of the data ``(B, ...)``, not 0.

    Raises:
        TypeError: For a process that is not linear and Gaussian, and for a ``denoising`` that changes the error on its own.
        ValueError: For ``weight="bound"``, a negative ``weight``, another p, axis 0.

    Source: Diffusion-TS: Interpretable Diffusion for General Time Series Generation, 2024, arXiv 2403.01742, and its code.
    """

    def __init__(
        self,
        denoising: Denoising,
        weight: float = 0.2,
        *,
        p: Literal[1, 2] = 1,
        band: Band | None = None,
        axis: int = 1,
    ) -> None:
        if type(denoising) is not Denoising:
            raise TypeError(
                f"FourierLoss adds to a plain Denoising: {type(denoising).__name__} has an error of its own"
            )
        super().__init__(
            denoising.model,
            times=denoising.times,
            weight=denoising.weight,
            coupling=denoising.coupling,
            drop=denoising.drop,
            known=denoising.known,
            coef=denoising.coef,
        )
        if not isinstance(self.model.process, LinearGaussian):
            raise TypeError(
                f"the error of a {type(self.model.process).__name__} has no Fourier transform: need a LinearGaussian"
            )
        if isinstance(self.weight, str):
            raise ValueError(f"weight={self.weight!r} of the denoising: FourierLoss needs a Weight, such as VWeight()")
        if weight < 0:
            raise ValueError(f"weight={weight}: must be at least 0")
        if p not in (1, 2):
            raise ValueError(f"p={p}: must be 1 or 2")
        if axis == 0:
            raise ValueError("axis=0 is the batch: need an axis of the data")
        self.share, self.p, self.band, self.axis = weight, p, band, axis

    def error(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data:
        """Both terms; the second, a sum over frequencies, is dealt out evenly to the entries of its series that count."""
        plain = super().error(posterior, x0, x_t, t, ctx)
        process = self.model.process
        assert isinstance(x0, Tensor) and isinstance(plain, Tensor) and isinstance(process, LinearGaussian)
        assert not isinstance(self.weight, str)
        logsnr = torch.as_tensor(process.logsnr(t), device=x0.device)
        root = left(self.weight(logsnr).sqrt().to(x0.dtype), x0)
        mean = posterior.mean
        assert isinstance(mean, Tensor)
        scored = ctx.scored()
        counts = torch.ones_like(x0, dtype=torch.bool) if scored is None else left(scored, x0).expand_as(x0)  # type: ignore[arg-type]
        error = root * torch.where(counts, mean - x0, 0.0)
        waves = torch.view_as_real(torch.fft.fft(error, dim=self.axis, norm="ortho"))
        size = (waves.abs() if self.p == 1 else waves.square()).sum(-1)
        if self.band is not None:
            shape = [1] * x0.ndim
            shape[self.axis] = -1
            size = size * self.band(torch.fft.fftfreq(x0.shape[self.axis], device=x0.device, dtype=x0.dtype)).view(
                shape
            )
        each = size.sum(self.axis, keepdim=True) / counts.sum(self.axis, keepdim=True).clamp_min(1)
        return plain + self.share * each
