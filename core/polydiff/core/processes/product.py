"""Products: independent processes per field, coupled only through the denoiser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from polydiff.core.data import Context, Data, Time
from polydiff.core.distributions import Distribution, Joint
from polydiff.core.processes.base import Process


class Product(Process):
    """One process a field of a dict, all at the same time t; different speeds are different schedules.

    >>> from polydiff.core.schedules import Cosine
    >>> from polydiff.core.processes import Discrete, Gaussian
    >>> sorted(Product(pos=Gaussian(Cosine()), atom=Discrete.absorbing(5)).fields)
    ['atom', 'pos']
    """

    def __init__(self, **fields: Process) -> None:
        super().__init__()
        if not fields:
            raise ValueError("a product needs at least one field")
        self._fields = nn.ModuleDict(fields)
        self.observes_source = any(p.observes_source for p in fields.values())

    @property
    def fields(self) -> Mapping[str, Process]:
        """Processes by field."""
        return dict(self._fields.items())  # type: ignore[arg-type]

    def each(self, ctx: Context) -> Iterator[tuple[str, Process, Context]]:
        """(name, process, context) field by field."""
        for name, process in self._fields.items():
            yield name, process, ctx.on(name)  # type: ignore[misc]

    def prior(self, like: Data, ctx: Context = Context()) -> Joint:
        """See ``Process``."""
        return Joint({k: p.prior(like[k], c) for k, p, c in self.each(ctx)})  # type: ignore[index]

    def marginal(self, x: Data, t: Time, ctx: Context = Context(), *, since: Time | None = None) -> Joint:
        """See ``Process``."""
        return Joint({k: p.marginal(x[k], t, c, since=since) for k, p, c in self.each(ctx)})  # type: ignore[index]

    def transition(
        self, x_t: Data, posterior: Distribution, t: Time, s: Time, ctx: Context = Context(), *, eta: float = 1.0
    ) -> Joint:
        """See ``Process``; per-field choices of eta are made by the step ``PerField``."""
        laws = self.laws(posterior)
        return Joint({k: p.transition(x_t[k], laws[k], t, s, c, eta=eta) for k, p, c in self.each(ctx)})  # type: ignore[index]

    def loss(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data:
        """See ``Process``; one entry a field."""
        laws = self.laws(posterior)
        return {k: p.loss(laws[k], x0[k], x_t[k], t, c) for k, p, c in self.each(ctx)}  # type: ignore[index, misc]

    def bound(self, posterior: Distribution, x0: Data, x_t: Data, t: Time, ctx: Context = Context()) -> Data | None:
        """See ``Process``; ``None`` where a field has no bound."""
        laws = self.laws(posterior)
        terms = {k: p.bound(laws[k], x0[k], x_t[k], t, c) for k, p, c in self.each(ctx)}  # type: ignore[index]
        return None if any(v is None for v in terms.values()) else terms  # type: ignore[return-value]

    def readout(self, x: Data, ctx: Context = Context()) -> Data:
        """See ``Process``."""
        return {k: p.readout(x[k], c) for k, p, c in self.each(ctx)}  # type: ignore[index, misc]

    @staticmethod
    def laws(posterior: Distribution) -> dict[str, Distribution]:
        """Posteriors by field."""
        if not isinstance(posterior, Joint):
            raise TypeError(f"a product needs a Joint of laws, one a field, not {type(posterior).__name__}")
        return posterior.fields
