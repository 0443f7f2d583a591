"""Small denoisers around denoisers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from polydiff.core.data import Context, Data, Time
from polydiff.core.denoisers import Denoiser, Wrapper
from polydiff.core.distributions import Distribution
from polydiff.core.processes import Process

__all__ = ["NFE", "ByTime"]


class NFE(Wrapper):
    """Counts evaluations in ``count``, so that samplers can be compared at equal cost.

    A guided model that doubles its batch counts once a call where it is wrapped: wrap the innermost model to count
    network calls, the outermost to count solver calls.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.count = 0

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The wrapped law."""
        self.count += 1
        return self.denoiser(x_t, t, ctx)


class ByTime(Denoiser):
    """Another denoiser for each interval of time: experts, guidance in an interval, a student for the last steps.

    Args:
        parts: Denoisers by (low, high]; the intervals must cover (0, 1] without overlap. All share one process.
    """

    def __init__(self, parts: Mapping[tuple[float, float], Denoiser]) -> None:
        super().__init__()
        edges = sorted(parts)
        if (
            not edges
            or edges[0][0] != 0.0
            or edges[-1][1] != 1.0
            or any(a[1] != b[0] for a, b in zip(edges, edges[1:]))
        ):
            raise ValueError(f"intervals {edges}: must cover (0, 1] without gap or overlap")
        self.edges = edges
        self.parts = nn.ModuleList([parts[e] for e in edges])
        self.sees_known = all(d.sees_known for d in parts.values())

    @property
    def process(self) -> Process:  # type: ignore[override]
        """The process of the parts."""
        return self._at(1.0).process

    def _at(self, t: float) -> Denoiser:
        found = next((i for i, (_, high) in enumerate(self.edges) if t <= high), len(self.edges) - 1)
        part = self.parts[found]
        assert isinstance(part, Denoiser)
        return part

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The law of the denoiser in charge at ``t``."""
        if isinstance(t, torch.Tensor):
            raise TypeError("ByTime needs one time for the whole batch: it picks one denoiser a call")
        return self._at(t)(x_t, t, ctx)

    def nullify(self, ctx: Context) -> Context:
        """See ``Denoiser``."""
        return self._at(1.0).nullify(ctx)
