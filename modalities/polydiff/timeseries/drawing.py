"""Windows with open entries from a fitted model: what it is told, how it is sampled, what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng
from polydiff.core.denoisers import Denoiser
from polydiff.core.generator import Generator
from polydiff.core.guidance import Observed
from polydiff.core.sampling import Chain, DPMSolverPP, Sampler
from polydiff.core.schedules import uniform_times
from polydiff.core.training.weights import VWeight
from polydiff.timeseries.data import SeriesCodec, Store
from polydiff.timeseries.windows import Scaling, Windows

__all__ = ["Asked", "Drawing"]


@dataclass(frozen=True)
class Asked:
    """Windows of which some entries are given and some are asked for; the rest is padding.

    Attributes:
        x: ``(N, L, D)`` float64, in the units of the codec.
        known: Given entries.
        open: Entries asked for.
        cond: Features of steps and series.
        loc: Location ``(N, 1, D)`` of the windows where they do not say it themselves; ``scale`` likewise.
        scale: See ``loc``.
    """

    x: Tensor
    known: Tensor
    open: Tensor
    cond: Mapping[str, Tensor]
    loc: Tensor | None = None
    scale: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


class Drawing(Generator):
    """A generator whose model is a denoiser of windows."""

    codec: SeriesCodec | None = None

    @property
    def length(self) -> int:
        """Steps of a window."""
        return int(self.config.context + self.config.horizon)

    def _scaling(self) -> Scaling:
        return Scaling(self.config.scaling != "global", self.config.context, self.config.scaling == "last")

    def _windows(self, store: Store) -> Windows:
        codec, _ = self._fitted()
        return Windows(store, self.length, self._scaling(), irregular=not codec.grid.regular)

    def _units(self, asked: Asked) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled windows, their location and their scale."""
        if asked.loc is not None and asked.scale is not None:
            loc, scale = asked.loc, asked.scale
        else:
            loc, scale = self._scaling().of(asked.x, asked.known, asked.known)
        return torch.where(asked.known, (asked.x - loc) / scale, 0.0).float(), loc, scale

    def _draw(
        self,
        asked: Asked,
        repeats: int = 1,
        *,
        sampler: Sampler | None = None,
        steps: int | None = None,
        seed: int = 0,
        batch_size: int = 4096,
        progress: bool | None = False,
    ) -> Tensor:
        """Windows with every open entry drawn, ``(N, repeats, L, D)`` float64, in the units of the codec."""
        _, model = self._fitted()
        z, loc, scale = self._units(asked)
        tell = bool(asked.known.any())
        base = self.codec.base if self.codec is not None else None
        told, open_ = asked.known, asked.open
        if base is not None and tell and not model.sees_known:
            # Surprises are causal: those of a beginning are known where its values are, and guidance speaks of them.
            told, open_ = torch.zeros_like(told), told | open_
            z = torch.where(asked.known, base.encode(z, told, _beginning(asked)), 0.0)

        def context(rows: slice) -> Context:
            return self._context(asked, z, torch.arange(rows.start, rows.stop) // repeats, tell)

        def like(n: int) -> Data:
            return torch.zeros(n, *asked.x.shape[1:], device=self.device)

        def wrap(denoiser: Denoiser) -> Denoiser:
            return Observed(denoiser, self._strength) if tell and not denoiser.sees_known else denoiser

        run = self._sampler(steps) if sampler is None else sampler
        batches = self._generate(
            len(asked) * repeats, like, context, run, seed=seed, batch_size=batch_size, wrap=wrap, progress=progress
        )
        made = torch.cat(list(batches)).double()  # type: ignore[arg-type]
        if base is not None:
            made = base.decode(made, told, open_, repeats)
        made = made.unflatten(0, (len(asked), repeats))
        made = made * scale[:, None] + loc[:, None]
        return torch.where(asked.known[:, None], asked.x[:, None], made)

    def _context(self, asked: Asked, z: Tensor, rows: Tensor, tell: bool) -> Context:
        """Of some windows, on the device: what is there, its conditions and, if they are told, the given entries."""

        def here(x: Tensor) -> Tensor:
            return x[rows].to(self.device)

        return Context(
            cond={k: here(v) for k, v in asked.cond.items()},
            valid=here(asked.known) | here(asked.open),
            known=here(asked.known) if tell else None,
            given=here(z) if tell else None,
        )

    def _strength(self, logsnr: Tensor) -> Tensor:
        """Of self-guidance: the precision of white data grows with the signal."""
        return float(self.config.guidance) * VWeight()(logsnr)

    def _sampler(self, steps: int | None) -> Sampler:
        n = self.config.sample_steps if steps is None else steps
        if n < 1:
            raise ValueError(f"steps={n}: sampling needs at least 1 step")
        return Chain(uniform_times(n), DPMSolverPP(order=2))

    def _levels(self, n: int, seed: int) -> tuple[Tensor | None, Tensor | None]:
        """Locations and scales ``(n, 1, D)`` of training windows drawn at random; ``None`` where all share one."""
        codec, _ = self._fitted()
        if not len(codec.scales):
            return None, None
        u = Rng(seed, n).child("scales").uniform(torch.empty(n, dtype=torch.float64))
        pairs = codec.scales[(u * len(codec.scales)).long()].double()
        return pairs[:, None, :, 0], pairs[:, None, :, 1]

    def _blank(self, n: int, seed: int, cond: Mapping[str, Tensor] | None = None) -> Asked:
        """n windows of which everything is asked for."""
        codec, _ = self._fitted()
        x = torch.zeros(n, self.length, codec.width, dtype=torch.float64)
        nothing = torch.zeros_like(x, dtype=torch.bool)
        return Asked(x, nothing, ~nothing, cond or {}, *self._levels(n, seed))


def _beginning(asked: Asked) -> Tensor:
    """The known entries, which must come before all open ones.

    Raises:
        ValueError: Where an entry is open before a known one.
    """
    step = torch.arange(asked.x.shape[1])[:, None].expand_as(asked.x)
    last = torch.where(asked.known, step, -1).flatten(1).amax(1)
    first = torch.where(asked.open, step, asked.x.shape[1]).flatten(1).amin(1)
    if bool((last >= first).any()):
        raise ValueError(
            "an unconditional model of surprises (base='linear') goes on from a beginning without holes; fit with base='none', "
            "or a share of windows that are told something, to fill holes"
        )
    return asked.known
