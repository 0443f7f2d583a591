"""Rolling: a window of rising noise slides over a sequence of any length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng
from polydiff.core.denoisers import Denoiser
from polydiff.core.processes import Process
from polydiff.core.sampling.loop import trajectory
from polydiff.core.sampling.step import Step
from polydiff.core.schedules.per_element import rolling_times, whole

__all__ = ["Rolling"]


@dataclass(frozen=True)
class Rolling:
    """Sequences of any length by a denoiser of windows that takes a time an element, as a Sampler.

    The window holds ``context`` clean elements and W that are under way, the nearest one almost done and the last one
    noise. A run of the loop takes every one of them 1/W of its way; the first then is done, the window moves on by it and
    noise comes in at the end. An element costs N / W evaluations for a grid of N steps, and N come on top for the start-up:
    ``N + N / W · (T − 1)`` for T elements.

    A Markov chain of order p is exact at ``context ≥ p`` as the steps grow: elements behind tell nothing then, and those
    ahead are noise. With less, the law of long sequences is that of a chain with the memory of the window.

    A leading run of elements marked in ``ctx.known`` is given (of the same length in all samples). What of ``ctx.cond`` belongs
    to elements is cut along, and where it ends before the last window does, its last value is repeated. A step with a history
    (``DPMSolverPP``) starts anew with every move.

    Args:
        times: The way of an element: a multiple of W steps from 1 to 0, or a function that makes them from the process.
        step: The step.
        window: W.
        context: Clean elements that the denoiser sees in front of the window; windows of training have
            ``context + window`` elements (``RollingTimes(window)``).
        along: Keys of ``ctx.cond`` that are ``(B, T, ...)``.

    Raises:
        ValueError: For a grid that is no multiple of W, or known elements elsewhere than in front.
        TypeError: For structured samples, which have no one axis to slide along.

    Source: Rolling Diffusion Models, 2024, arXiv 2402.09470.
    """

    times: Sequence[float] | Callable[[Process], Sequence[float]]
    step: Step
    window: int
    context: int = 0
    along: tuple[str, ...] = ("time", "at")

    def __post_init__(self) -> None:
        if self.window < 1 or self.context < 0:
            raise ValueError(
                f"window={self.window}, context={self.context}: need a window of 1 or more, context of 0 or more"
            )

    def __call__(self, denoiser: Denoiser, like: Data, ctx: Context, rng: Rng) -> Data:
        """See ``Sampler``; ``like`` is ``(B, T, ...)``."""
        if not isinstance(like, Tensor):
            raise TypeError(
                f"Rolling slides along one sequence, not the fields {list(like)}: give a tensor (B, T, ...)"
            )
        process, total, length = denoiser.process, like.shape[1], self.context + self.window
        times = self.times(process) if callable(self.times) else self.times
        done = _given(ctx, like)
        count = done.shape[1]
        if count >= total:
            return process.readout(done, ctx)
        kept = min(count, self.context)
        start = count - kept
        dtype = like.dtype if like.is_floating_point() else torch.float64
        grids = [
            rolling_times(times, self.window, length, given=kept, rolling=rolling, dtype=dtype).to(like.device)
            for rolling in (False, True)
        ]
        blank = like[:, :1].expand(len(like), length, *like.shape[2:])
        fresh = process.prior(blank, self._seen(ctx, start, length)).sample(rng)
        x = torch.cat([done[:, start:], fresh[:, kept:]], 1)
        parts, grid, first = [done], grids[0], kept
        while count < total:
            inside = self._seen(ctx, start, length)
            x = _run(denoiser, x, grid.expand(-1, len(x), -1), self.step, inside, rng)
            parts.append(x[:, first : self.context + 1])
            count += self.context + 1 - first
            start, grid, first = start + 1, grids[1], self.context
            last = self._seen(ctx, start + length - 1, 1)
            x = torch.cat([x[:, 1:], process.prior(blank[:, :1], last).sample(rng)], 1)
        return process.readout(torch.cat(parts, 1)[:, :total], ctx)

    def _seen(self, ctx: Context, start: int, length: int) -> Context:
        """The part of a context that a window sees; what is given it reads off the times."""

        def cut(v: Tensor) -> Tensor:
            rows = torch.arange(start, start + length, device=v.device).clamp_max(v.shape[1] - 1)
            return v[:, rows]

        cond = {k: cut(v) if k in self.along else v for k, v in ctx.cond.items()}
        valid, x1 = (cut(v) if isinstance(v, Tensor) else v for v in (ctx.valid, ctx.x1))
        return ctx.replace(cond=cond, valid=valid, x1=x1, known=None, given=None)


def _run(denoiser: Denoiser, x: Tensor, times: Tensor, step: Step, ctx: Context, rng: Rng) -> Tensor:
    """The last state of the loop, not yet read out."""
    for tr in trajectory(denoiser, x, times, step, ctx, rng=rng):
        x = tr.x_s  # type: ignore[assignment]
    return x


def _given(ctx: Context, like: Tensor) -> Tensor:
    """Values of the elements in front that are given, ``(B, C, ...)``."""
    if ctx.known is None:
        return like[:, :0]
    assert isinstance(ctx.known, Tensor)
    known = whole(ctx.known)
    count = int(known[0].sum())
    if not bool((known == (torch.arange(known.shape[1], device=known.device) < count)).all()):
        raise ValueError(
            "Rolling goes on from what is in front: known must mark the same leading elements in all samples"
        )
    held = ctx.hold(like)
    assert isinstance(held, Tensor)
    return held[:, :count]
