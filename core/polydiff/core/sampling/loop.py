"""The one loop: every sampler of every modality runs here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng, Time, batch_size, index, left, tree_map
from polydiff.core.denoisers import Denoiser
from polydiff.core.sampling.step import Control, State, Step, Transition

MAX_EXTRA_STEPS = 100_000

Times = Sequence[float] | Tensor


def trajectory(
    denoiser: Denoiser,
    x: Data,
    times: Times,
    step: Step,
    ctx: Context = Context(),
    *,
    controls: Sequence[Control] = (),
    rng: Rng | None = None,
    state: State = None,
    carry: dict[str, Any] | None = None,
) -> Iterator[Transition]:
    """Transitions from the first to the last time: the grid proposes, the step disposes.

    The next time is the one that the step reached (per sample if it says so); the run ends when every element has
    reached the last time of the grid. Elements with t == s keep their state bit-equal. Nothing here is hidden from
    autograd.

    Args:
        denoiser: The law of x_0 given x_t.
        x: Initial state at ``times[0]``.
        times: Floats, or a tensor ``(N + 1, B, ...)`` of times per sample or element; descending to sample, ascending to
            encode. A one-dimensional tensor is read as floats.
        step: How to get from one time to the next.
        ctx: Side information. ``known`` entries are held at their values, for a denoiser that is told of them.
        controls: Called in order after each step.
        rng: Noise; may be ``None`` for deterministic steps.
        state: History of the step, to continue a run.
        carry: Memory of the controls, to continue a run.

    Raises:
        ValueError: For a grid of fewer than two times, or known entries that nobody handles.
    """
    grid: list[Any] = times.tolist() if isinstance(times, Tensor) and times.ndim == 1 else list(times)
    if len(grid) < 2:
        raise ValueError(f"a grid of {len(grid)} time(s) has no step: give at least a first and a last time")
    told = _told(denoiser, step, ctx, controls)
    if told:
        x = ctx.hold(x)
    t, end, log_w = grid[0], grid[-1], None
    for s in itertools.chain(grid[1:], itertools.repeat(end, MAX_EXTRA_STEPS)):
        tr = step(denoiser, x, t, s, ctx, state, rng)
        if log_w is not None:
            tr.log_w = log_w if tr.log_w is None else log_w + tr.log_w
        tr.carry = carry
        for control in controls:
            tr = control(tr)
        if isinstance(tr.s, Tensor):
            tr.x_s = _freeze(tr)
        if told:
            tr.x_s = tr.ctx.hold(tr.x_s)
        x, t, state, ctx, log_w, carry = tr.x_s, tr.s, tr.next_state, tr.ctx, tr.log_w, tr.carry
        yield tr
        if t is end or _reached(t, end):
            return
    raise RuntimeError(f"{type(step).__name__} did not reach the last time of the grid in {MAX_EXTRA_STEPS} more steps")


def sample(
    denoiser: Denoiser,
    x: Data,
    times: Times,
    step: Step,
    ctx: Context = Context(),
    *,
    controls: Sequence[Control] = (),
    rng: Rng | None = None,
    particles: int | None = None,
) -> Data:
    """The last state of ``trajectory``, read out as data.

    Where the run carried importance weights, the last ones are applied by resampling, within groups of ``particles``
    consecutive rows (the whole batch by default).
    """
    last: Transition | None = None
    for last in trajectory(denoiser, x, times, step, ctx, controls=controls, rng=rng):  # noqa: B007
        pass
    assert last is not None
    x, ctx = last.x_s, last.ctx
    if ctx.known is not None:
        x = ctx.hold(x)
    if last.log_w is not None:
        if rng is None:
            raise ValueError("weighted samples are resampled at the end: pass an Rng")
        rows = systematic(last.log_w, rng.child("final weights"), particles or batch_size(x))
        x, ctx = index(x, rows), index(ctx, rows)
    return denoiser.process.readout(x, ctx)


def systematic(log_w: Tensor, rng: Rng, particles: int) -> Tensor:
    """Rows drawn by systematic resampling within groups of ``particles`` consecutive rows, ``(B,)``."""
    w = log_w.double().reshape(-1, particles).softmax(-1)
    u = rng.uniform(w[:, :1])
    points = (torch.arange(particles, device=w.device) + u) / particles
    cdf = w.cumsum(-1)
    picks = torch.searchsorted(cdf / cdf[:, -1:], points, right=True).clamp_max(particles - 1)
    return (picks + particles * torch.arange(len(w), device=w.device)[:, None]).flatten()


def _reached(t: Time, end: Any) -> bool:
    """All elements are at the last time. Reads the device only where the step moved time itself."""
    if isinstance(t, Tensor) or isinstance(end, Tensor):
        return bool((torch.as_tensor(t) == torch.as_tensor(end)).all())
    return t == end


def _freeze(tr: Transition) -> Data:
    t, x_t = tr.t, tr.x_t
    if tr.ancestor is not None:  # a control resampled: what a row was before is what its ancestor was
        t, x_t = t if isinstance(t, float) else t[tr.ancestor], index(x_t, tr.ancestor)
    elif batch_size(x_t) != batch_size(tr.x_s):
        return tr.x_s  # a control branched: rows no longer correspond

    def leaf(after: Tensor, before: Tensor) -> Tensor:
        still = left(torch.as_tensor(t == tr.s, device=after.device), after)
        return torch.where(still, before, after)

    return tree_map(leaf, tr.x_s, x_t)


def _told(denoiser: Denoiser, step: Step, ctx: Context, controls: Sequence[Control]) -> bool:
    if ctx.known is None:
        return False
    if denoiser.sees_known:
        return True
    parts: list[Any] = [denoiser, step, *controls]
    if any(getattr(part, "handles_known", False) for part in parts):
        return False
    raise ValueError(
        "the context marks known entries, but this denoiser was not trained to be told of them: holding them clean would "
        "give wrong samples; train it with known masks, or pass the control Replace(process)"
    )
