"""Clocks: a schedule of its own for every column, frame or token, fixed or learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polydiff.core.data import Time
from polydiff.core.schedules.path import Coefficients, Schedule

__all__ = ["Clock", "Clocked"]


class Clock(nn.Module):
    """The own time of every element: ``u_i(t) = ((r_i + (1 − r_i) t)^{w_i} − low) / (1 − low)`` with ``r_i = low^{1/w_i}``.

    Monotone, with ``u(0) = 0`` and ``u(1) = 1``. Over ``LogLinear`` with ``low = 0`` (``u = t^w``) it is TabDiff's schedule
    of categories, over ``EDM`` with ``low = sigma_min / sigma_max`` its power mean for numbers. A large power keeps an
    element clean for longer, so that sampling settles it early.

    Args:
        powers: ``w > 0``, ``(D,)``; all ones is the shared time.
        low: In [0, 1).
        trainable: Learn the powers, by their logarithm, so that weight decay pulls them to the shared time.

    Raises:
        ValueError: For powers that are no vector of positive finite numbers, or another ``low``.

    Source: TabDiff: a Mixed-type Diffusion Model for Tabular Data Generation, 2024, arXiv 2410.20626.

    >>> Clock([1.0, 2.0])(torch.tensor([0.5]))[0]
    tensor([[0.5000, 0.2500]])
    """

    log_powers: Tensor

    def __init__(self, powers: Tensor | Sequence[float], *, low: float = 0.0, trainable: bool = False) -> None:
        super().__init__()
        w = torch.as_tensor(powers, dtype=torch.get_default_dtype()).detach()
        if w.ndim != 1 or not bool(((w > 0) & w.isfinite()).all()):
            raise ValueError(f"powers={powers}: need a vector of positive finite numbers, one an element")
        if not 0 <= low < 1:
            raise ValueError(f"low={low}: must lie in [0, 1)")
        self.low = low
        if trainable:
            self.log_powers = nn.Parameter(w.log())
        else:
            self.register_buffer("log_powers", w.log())

    @property
    def powers(self) -> Tensor:
        """``w``, ``(D,)``."""
        return self.log_powers.exp()

    @property
    def trainable(self) -> bool:
        """Whether the powers are parameters."""
        return isinstance(self.log_powers, nn.Parameter)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Own times and their derivatives in t, ``(B, D)``; of times ``(B,)`` or, an element, ``(B, D, ...)``."""
        t = t[:, None] if t.ndim == 1 else t
        w = self.powers.to(torch.promote_types(t.dtype, self.log_powers.dtype)).reshape(-1, *(1,) * (t.ndim - 2))
        if self.low == 0.0:
            return t**w, w * t ** (w - 1)
        start = self.low ** (1 / w)
        inside = start + (1 - start) * t
        return (inside**w - self.low) / (1 - self.low), w * (1 - start) * inside ** (w - 1) / (1 - self.low)


class Clocked(Schedule):
    """A schedule read at the own times of the elements along axis 1: coefficients ``(B, D)``, ``(1, D)`` for a shared time.

    Where a process takes a schedule, this gives each element one of its own; steps, losses and bounds follow from the
    coefficients, derivatives by the chain rule included. The network is told the shared time (the level of ``base`` at t).
    Coefficients of float times have the dtype of the clock.

    Args:
        base: What an element follows in its own time.
        clock: The own times, one an element along axis 1 of the data.

    Source: TabDiff: a Mixed-type Diffusion Model for Tabular Data Generation, 2024, arXiv 2410.20626; Diffusion Models With
    Learned Adaptive Noise, 2023, arXiv 2312.13236.

    >>> from polydiff.core.schedules import LogLinear
    >>> Clocked(LogLinear(), Clock([1.0, 2.0])).at(0.5).a
    tensor([[0.5000, 0.7500]])
    """

    def __init__(self, base: Schedule, clock: Clock) -> None:
        super().__init__()
        if isinstance(base, Clocked):
            raise ValueError("a clocked schedule cannot be clocked again: multiply the powers of the clocks")
        self.base, self.clock = base, clock
        self._seen: dict[float, Coefficients] = {}

    @property
    def range(self) -> tuple[float, float]:
        """That of ``base``."""
        return self.base.range

    def natural(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """That of ``base``."""
        return self.base.natural(u)

    def natural_inverse(self, logsnr: Tensor) -> Tensor:
        """That of ``base``."""
        return self.base.natural_inverse(logsnr)

    def own(self, t: Tensor) -> Coefficients:
        """Coefficients with derivatives in the own times, not in t."""
        return self.base.coefficients(self.clock(t)[0])

    def coefficients(self, t: Tensor) -> Coefficients:
        """See ``Path``."""
        own, pace = self.clock(t)
        c = self.base.coefficients(own)
        return Coefficients(c.a, c.b, c.g, c.da * pace, c.db * pace, c.dg * pace)

    def at(self, t: Time) -> Coefficients:
        """See ``Path``; for a float, tensors ``(1, D)``, remembered while the clock is fixed."""
        if isinstance(t, Tensor):
            return self.coefficients(t)
        found = None if self.clock.trainable else self._seen.get(t)
        if found is None or found.a.dtype != self._dtype or found.a.device != self._device:  # type: ignore[union-attr]
            exact = self.coefficients(torch.tensor([t], dtype=torch.float64, device=self._device))
            found = Coefficients(*(torch.as_tensor(c).to(self._dtype) for c in exact))
            if not self.clock.trainable:
                self._seen = {**self._seen, t: found} if len(self._seen) < 1024 else {t: found}
        return found

    @property
    def _dtype(self) -> torch.dtype:
        return self.clock.log_powers.dtype

    @property
    def _device(self) -> torch.device:
        return self.clock.log_powers.device

    def inverse(self, logsnr: Time) -> Time:
        """Refused: elements reach a log-SNR at times of their own."""
        raise TypeError(
            "elements with clocks of their own reach a log-SNR at different times: make the grid from .base"
        )

    def inverse_alpha(self, alpha: Tensor) -> Tensor:
        """Refused: elements reach a value of alpha at times of their own."""
        raise TypeError("elements with clocks of their own reach an alpha at different times: make the grid from .base")
