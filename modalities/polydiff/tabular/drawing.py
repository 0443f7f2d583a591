"""Rows from a fitted model: what is given to it, how it is sampled, what comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng
from polydiff.core.denoisers import Denoiser
from polydiff.core.guidance.told import KnownGuidance
from polydiff.core.sampling import Chain, Sampler
from polydiff.core.schedules import uniform_times
from polydiff.tabular.build import steps_of
from polydiff.tabular.conditions import Conditions
from polydiff.tabular.data import TableCodec
from polydiff.tabular.estimator import Estimator
from polydiff.tabular.frames import matched
from polydiff.tabular.limits import Allowed, draw_levels, states_of

__all__ = ["Drawing"]


class Drawing(Estimator):
    """A generator whose model is a denoiser of rows as ``TableCodec`` lays them out."""

    codec: TableCodec | None = None

    def _held(
        self, asked: Conditions, n: int, seed: int, batch_size: int, scale: float = 1.0
    ) -> tuple[dict[str, Tensor] | None, dict[str, Tensor] | None]:
        """Data of n rows that hold what was asked, and masks of the entries that they hold."""
        codec, model = self._fitted()
        if not asked.held and not asked.sets:
            return None, None
        given, known = codec.given(asked.held, n)
        table = codec.allowed(asked.sets)
        entries = [e for name in asked.sets for e in codec.columns_of(name).cat]
        for start in range(0, n if entries and table is not None else 0, batch_size):
            at = slice(start, min(start + batch_size, n))
            rng = Rng(seed, range(at.start, at.stop)).child("sets")
            ctx = self._context(given, known, at, seed, scale)
            x = model.process.prior(self._like(at.stop - at.start), ctx).sample(rng)
            with torch.no_grad():
                codes = draw_levels(_guide(model, scale), x, ctx, {e: table[e] for e in entries}, rng)
            given["cat"][at, entries] = codes.to(given["cat"])
        if entries:
            known["cat"][:, entries] = True
        return given, known

    def _check(self, df: pd.DataFrame) -> None:
        """Refuse a table with other columns, or with values that its columns could not hold; categories may be new."""
        codec, _ = self._fitted()
        matched(codec.schema.columns, df, partial=False)
        codec.given_frame(df, unseen="missing")

    def _like(self, n: int) -> Data:
        codec, _ = self._fitted()
        fields = {"num": (codec.numbers, torch.float32), "cat": (codec.categories, torch.long)}
        return {k: torch.zeros(n, d, dtype=t, device=self.device) for k, (d, t) in fields.items() if d}

    def _context(
        self, given: Mapping[str, Tensor], known: Mapping[str, Tensor], rows: slice, seed: int, scale: float
    ) -> Context:
        _, model = self._fitted()
        values, told = ({k: v[rows].to(self.device) for k, v in part.items()} for part in (given, known))
        ctx = Context(known=told, given=states_of(model.process, values))
        if scale == 1.0:
            return ctx
        return KnownGuidance.prepare(model.process, ctx, Rng(seed, range(rows.start, rows.stop)).child("guidance"))

    def _draw(
        self,
        n: int,
        given: dict[str, Tensor] | None,
        known: dict[str, Tensor] | None,
        allowed: Tensor | None,
        sampler: Sampler,
        seed: int,
        batch_size: int,
        progress: bool | None,
        scale: float = 1.0,
    ) -> dict[str, Tensor]:
        """Cells of n rows with everything unknown drawn."""

        def context(rows: slice) -> Context:
            return Context() if known is None or given is None else self._context(given, known, rows, seed, scale)

        def wrap(denoiser: Denoiser) -> Denoiser:
            guided = _guide(denoiser, scale)
            return guided if allowed is None else Allowed(guided, allowed)

        batches = list(
            self._generate(
                n, self._like, context, sampler, seed=seed, batch_size=batch_size, wrap=wrap, progress=progress
            )
        )
        return {k: torch.cat([b[k] for b in batches]) for k in batches[0]}  # type: ignore[call-overload, index]

    @staticmethod
    def _guided(guidance: float) -> float:
        """The scale of guidance, if it is one."""
        if isinstance(guidance, bool) or not isinstance(guidance, (int, float)) or not math.isfinite(guidance):
            raise ValueError(f"guidance={guidance!r}: need a finite number; 1 is none")
        return float(guidance)

    def _sampler(self, steps: int | None) -> Sampler:
        _, model = self._fitted()
        n = self.config.sample_steps if steps is None else steps
        if n < 1:
            raise ValueError(f"steps={n}: sampling needs at least 1 step")
        return Chain(uniform_times(n), steps_of(model))

    def _card(self) -> str:
        codec, model = self._fitted()
        columns = ", ".join(f"{c.name} ({c.kind})" for c in codec.schema)
        return f"Rows of {len(codec.schema)} columns; {sum(p.numel() for p in model.parameters()):,} parameters.\n\n{columns}\n"


def _guide(denoiser: Denoiser, scale: float) -> Denoiser:
    return denoiser if scale == 1.0 else KnownGuidance(denoiser, scale)
