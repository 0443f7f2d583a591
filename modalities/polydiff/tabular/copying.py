"""Stop a fit that begins to copy: samples shall be no nearer to the training rows than to held-out ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.special import gammaln
from torch import Tensor, nn

from polydiff.core.data import Rng
from polydiff.core.evaluation import Interval
from polydiff.core.training import EMA
from polydiff.tabular.coder import Coder
from polydiff.tabular.distances import thinned

__all__ = ["Watch", "nearer_to_train"]

Draw = Callable[[int, int], pd.DataFrame]


def nearer_to_train(
    synthetic: pd.DataFrame,
    train: pd.DataFrame,
    holdout: pd.DataFrame,
    *,
    categorical: Sequence[Hashable] | None = None,
    placebos: int = 200,
    limit: int = 1000,
    seed: int = 0,
) -> Interval:
    """Share of samples nearer to the training rows than to equally many held-out ones, with the draw of both as its error.

    Of N training and n held-out rows (n ≤ N), every choice of n training rows counts: a sample to whose nearest held-out row k
    training rows are strictly nearer, and k′ no farther, wins with ``1 − C(N − k, n) / C(N, n)``, loses with
    ``C(N − k′, n) / C(N, n)``, and the share is ``Σ wins / Σ (wins + losses)``; more held-out rows than training rows are
    thinned. For a generator that learnt the law and not the rows, who was held out is a matter of chance: the standard error is
    the spread of the share over placebos, random choices of n held-out rows from all N + n, around ½. It grows as held-out rows
    become few, and as many samples have the same nearest row, which a binomial error knows nothing of.

    Args:
        synthetic: Generated rows.
        train: The rows that the generator was fitted to.
        holdout: Rows of the same law that it never saw.
        categorical: Columns that are categories; by their dtypes unless given.
        placebos: Random choices.
        limit: Most rows of each table; larger ones are thinned.
        seed: Of placebos and thinning.

    Returns:
        The share in [0, 1] with the interval of ± 1.96 standard errors; [0, 1] where all samples tie.

    Source: Mixed-Type Tabular Data Synthesis with Score-based Diffusion in Latent Space, 2023, arXiv 2310.09656, app. F.6, for
    the share.
    """
    if placebos < 2:
        raise ValueError(f"placebos={placebos}: a spread needs at least 2")
    if min(len(synthetic), len(train), len(holdout)) == 0:
        raise ValueError(
            f"{len(synthetic)} synthetic, {len(train)} training and {len(holdout)} held-out rows: need at least one of each"
        )
    rows, seen = (thinned(f, limit, seed) for f in (synthetic, train))
    held = thinned(holdout, min(limit, len(seen)), seed)
    coder = Coder.of(train, rows, seen, held, categorical=categorical)
    near = _Ranked.of(_gower(coder, rows, pd.concat([seen, held], ignore_index=True)))
    total, n = len(seen) + len(held), len(held)
    mask = torch.arange(total) >= len(seen)
    share = near.share(mask)
    name = f"closer-to-train:gower:placebo:N={len(seen)}+{n}:S={len(rows)}"
    if math.isnan(share):
        return Interval(0.5, 0.0, 1.0, 0.95, name + ":all-ties")
    rng = Rng(seed).child("placebos")
    chosen = [rng.uniform(torch.empty(total)).argsort() < n for _ in range(placebos)]
    spread = np.array([near.share(c) for c in chosen]) - 0.5
    half = 1.96 * float(np.sqrt(np.nanmean(spread**2)))
    return Interval(share, max(share - half, 0.0), min(share + half, 1.0), 0.95, name)


@dataclass(frozen=True)
class _Ranked:
    """All rows by their distance to each sample (S, M), and where rows of the same distance begin and end."""

    order: Tensor
    begin: Tensor
    end: Tensor

    @classmethod
    def of(cls, distance: Tensor) -> _Ranked:
        ordered, order = distance.sort(1)
        sides = (torch.searchsorted(ordered, ordered, right=right) for right in (False, True))
        return cls(order, next(sides), next(sides))

    def share(self, held: Tensor) -> float:
        """The share where the rows ``held`` (M,) are held out; NaN where all samples tie."""
        n, total = int(held.sum()), len(held)
        marks = held[self.order]
        first = marks.byte().argmax(1, keepdim=True)
        begin, end = (v.gather(1, first)[:, 0] for v in (self.begin, self.end))
        before = torch.nn.functional.pad(marks.cumsum(1), (1, 0))
        tied = (before.gather(1, end[:, None]) - before.gather(1, begin[:, None]))[:, 0]
        none = _without(total - n, n)
        wins, losses = (1 - none[begin]).sum(), none[end - tied].sum()
        return float(wins / (wins + losses)) if wins + losses > 1e-9 else math.nan


def _without(rows: int, n: int) -> Tensor:
    """``C(rows − k, n) / C(rows, n)`` for k = 0 … rows: the chance that a choice of n of the rows has none of k."""
    k = np.arange(rows + 1)
    left = np.maximum(rows - k - n, 0)
    logs = gammaln(rows - k + 1) - gammaln(left + 1) - gammaln(rows + 1) + gammaln(rows - n + 1)
    return torch.from_numpy(np.where(rows - k >= n, np.exp(logs), 0.0))


def _gower(coder: Coder, rows: pd.DataFrame, reference: pd.DataFrame) -> Tensor:
    """As in ``closest_record``, every pair ``(S, M)``."""
    a, b = (torch.as_tensor(coder.scaled(f)) for f in (rows, reference))
    c, d = (torch.as_tensor(coder.codes(f)).double() for f in (rows, reference))
    distance = torch.cdist(a, b, p=1.0)
    return distance + torch.cdist(c, d, p=0.0) if c.shape[1] else distance


@dataclass(eq=False)
class Watch:
    """A callback of the trainer that ends a run, or warns, once its samples are nearer to train than to holdout.

    Every so many steps rows are drawn from the averaged weights and ``nearer_to_train`` is measured. It acts when the interval
    lies outside the band, not when the share does: with few held-out rows the share alone is chance. The live weights, the mode
    of the modules and the run's randomness are left as they were.

    Attributes:
        draw: ``draw(n, seed)``: rows by the model that is trained.
        train: The rows it is fitted to.
        holdout: Rows of the same law that it never sees.
        every: Steps between looks.
        rows: Samples a look.
        band: What the share may be.
        action: ``"stop"`` ends the run with the weights of that moment; ``"warn"`` lets it go on.
        categorical: Columns that are categories; by their dtypes unless given.
        seed: Of samples and placebos.
        looks: Steps and intervals so far.
    """

    draw: Draw
    train: pd.DataFrame
    holdout: pd.DataFrame
    every: int = 250
    rows: int = 500
    band: tuple[float, float] = (0.45, 0.55)
    action: Literal["stop", "warn"] = "stop"
    categorical: Sequence[Hashable] | None = None
    seed: int = 0
    looks: list[tuple[int, Interval]] = field(default_factory=list)
    _acted: bool = False

    def __post_init__(self) -> None:
        if self.every < 1 or self.rows < 1:
            raise ValueError(f"every={self.every}, rows={self.rows}: both must be at least 1")
        low, high = self.band
        if not 0 <= low < 0.5 < high <= 1:
            raise ValueError(f"band={self.band}: must hold 0.5 and lie in [0, 1]")
        if self.action not in ("stop", "warn"):
            raise ValueError(f"action={self.action!r}: need 'stop' or 'warn'")
        if list(self.holdout.columns) != list(self.train.columns):
            raise ValueError(f"the holdout has columns {list(self.holdout.columns)}: need {list(self.train.columns)}")

    def __call__(self, trainer: Any, step: int, logs: Mapping[str, float]) -> None:
        """Look if it is time to, and act on what is seen."""
        if self._acted or step // self.every <= (self.looks[-1][0] // self.every if self.looks else 0):
            return
        objectives = [phase.objective for phase in trainer.phases]
        found = _averaged(objectives, trainer.ema, self._share)
        self.looks.append((step, found))
        low, high = self.band
        if found.high < low or found.low > high:
            self._acted = True
            warnings.warn(
                f"step {step}: {found.estimate:.0%} of the samples are nearer to training than to held-out rows "
                f"({found.low:.0%} to {found.high:.0%}): the model copies"
                + ("; the fit is stopped" if self.action == "stop" else "; train for fewer steps, or regularise"),
                stacklevel=2,
            )
            if self.action == "stop":
                trainer.stop()

    def _share(self) -> Interval:
        samples = self.draw(self.rows, self.seed)
        return nearer_to_train(samples, self.train, self.holdout, categorical=self.categorical, seed=self.seed)


def _averaged(modules: Sequence[nn.Module], average: EMA | None, measure: Callable[[], Interval]) -> Interval:
    """What is measured with the averaged weights in evaluation mode; both are put back."""
    modes = [m.training for m in modules]
    for module in modules:
        module.eval()
    if average is not None:
        average.store()
        average.copy_to()
    try:
        return measure()
    finally:
        if average is not None:
            average.restore()
        for module, mode in zip(modules, modes):
            module.train(mode)
