"""The step of a product: one evaluation, one kernel a field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polydiff.core.data import Context, Time
from polydiff.core.distributions import Distribution, Joint
from polydiff.core.processes import Process, Product
from polydiff.core.sampling.step import OneCall, State


@dataclass(frozen=True, init=False)
class PerField(OneCall):
    """``PerField(pos=DPMSolverPP(2), atom=Ancestral())``: each field moves by a step of its own."""

    steps: Mapping[str, OneCall]

    def __init__(self, **steps: OneCall) -> None:
        object.__setattr__(self, "steps", steps)

    def kernel(
        self, process: Process, x_t: Any, posterior: Distribution, t: Time, s: Time, ctx: Context, state: State
    ) -> tuple[Distribution, State]:
        """See ``OneCall``; the history is a dict by field."""
        if not isinstance(process, Product):
            raise TypeError("PerField is the step of a Product of processes")
        missing = set(process.fields) ^ set(self.steps)
        if missing:
            raise ValueError(f"PerField needs exactly one step a field; check {sorted(missing)}")
        laws, state = Product.laws(posterior), state or {}
        pairs = {k: self.steps[k].kernel(p, x_t[k], laws[k], t, s, c, state.get(k)) for k, p, c in process.each(ctx)}
        return Joint({k: v[0] for k, v in pairs.items()}), {k: v[1] for k, v in pairs.items()}
