"""Cells held to sets of levels: drawn first, from their law given the sets, and then held; or left out of a denoiser's law."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polydiff.core.data import Context, Data, Rng, Time, index
from polydiff.core.denoisers import Denoiser, Wrapper
from polydiff.core.distributions import Categorical, Distribution, Gated, Joint
from polydiff.core.processes import Embedded, Process, Product

__all__ = ["Allowed", "draw_levels", "levels_law", "states_of"]

_ROUNDS = 1000


def draw_levels(denoiser: Denoiser, x: Data, ctx: Context, sets: Mapping[int, Tensor], rng: Rng) -> Tensor:
    """Levels of cells of the field ``cat`` from their joint law given that each lies in its set, ``(B, len(sets))``.

    With everything else unknown the denoiser says ``p(c_1)``, and with c_1 held ``p(c_2 | c_1)``, and so on. Each cell is
    drawn from such a law restricted to its set, ``p(c_k | c_<k) / m_k`` with ``m_k`` the mass of the set; accepting the row
    with probability ``m_2 · m_3 ⋯`` leaves ``p(c_1, …) / Z`` on the sets. Restricting the cells while the others are still
    noisy would not: a cell that is settled early never hears of a restriction on its neighbour.

    Args:
        denoiser: Of a product with a field ``cat``, told which cells are known.
        x: Pure noise (B, …), at time 1.
        ctx: What is held besides, as ``known`` and ``given`` of all fields.
        sets: Allowed levels, bool (L,), by entry of ``cat``.
        rng: Noise of the levels.

    Raises:
        ValueError: Where the sets together hold less than about one row in 1,000.
    """
    assert isinstance(x, dict)
    out = x["cat"].new_zeros(len(x["cat"]), len(sets), dtype=torch.long)
    waiting = torch.arange(len(out), device=out.device)
    for _ in range(_ROUNDS):
        u = rng.uniform(x["cat"].new_zeros(len(out), len(sets) + 1, dtype=torch.float64))[waiting]
        codes, weight = _chain(denoiser, index(x, waiting), index(ctx, waiting), sets, u)
        accepted = u[:, -1] < weight
        out[waiting[accepted]] = codes[accepted]
        waiting = waiting[~accepted]
        if len(waiting) == 0:
            return out
    raise ValueError("no row lies in all of the sets at once in 1,000 draws: ask for fewer or for wider sets")


def _chain(
    denoiser: Denoiser, x: dict[str, Tensor], ctx: Context, sets: Mapping[int, Tensor], u: Tensor
) -> tuple[Tensor, Tensor]:
    """One draw of all cells, each given the ones before it, and the mass of the later sets (B,)."""
    codes: list[Tensor] = []
    weight = torch.ones(len(u), dtype=torch.float64, device=u.device)
    for entry, allowed in sets.items():
        law = denoiser(ctx.hold(x), 1.0, ctx)
        assert isinstance(law, Joint)
        p = levels_law(law.fields["cat"]).probs[:, entry].double() * allowed.to(weight.device)
        mass = p.sum(-1)
        # where the set has no mass at all, its levels are as good as one another
        p = torch.where(mass[:, None] > 0, p / mass[:, None], allowed.to(p) / allowed.sum())
        draw = u[:, len(codes), None]
        codes.append(Categorical(p.log()[:, None]).draw(draw)[:, 0])
        if len(codes) > 1:
            weight = weight * mass.clamp(max=1.0)
        ctx = _hold(denoiser.process, ctx, entry, codes[-1])
    return torch.stack(codes, 1), weight


class Allowed(Wrapper):
    """A denoiser of tables whose categories keep to allowed levels: the others lose their mass, the rest is renormalised.

    For rows that are almost always in these sets, such as those without missing values; where a set is a real restriction,
    draw its cells first (``draw_levels``).

    Args:
        denoiser: Of a product with a field ``cat``.
        allowed: Bool ``(Dc, levels)``.
    """

    def __init__(self, denoiser: Denoiser, allowed: Tensor) -> None:
        super().__init__(denoiser)
        self.allowed = allowed

    def forward(self, x_t: Data, t: Time, ctx: Context) -> Distribution:
        """The wrapped law without the levels that are not allowed."""
        law = self.denoiser(x_t, t, ctx)
        assert isinstance(law, Joint)
        cat = law.fields["cat"]
        inner = levels_law(cat)
        left = Categorical(torch.where(self.allowed.to(inner.logits.device), inner.logits, -torch.inf))
        return Joint({**law.fields, "cat": Gated(cat.stay, cat.open, cat.p, left) if isinstance(cat, Gated) else left})


def levels_law(cat: Distribution) -> Categorical:
    """The law of the levels of all cells; of those that show, that of a process without carry-over.

    Raises:
        TypeError: For a law that is none of levels.
    """
    inner = cat.inner if isinstance(cat, Gated) else cat
    if not isinstance(inner, Categorical):
        raise TypeError(f"categories of a law {type(inner).__name__}: sets of levels need a Categorical")
    return inner


def states_of(process: Process, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Data as the states that they are at time 0: levels are points where the process moves points."""
    assert isinstance(process, Product)
    return {k: p.points[v] if isinstance(p := process.fields[k], Embedded) else v for k, v in data.items()}


def _hold(process: Process, ctx: Context, entry: int, codes: Tensor) -> Context:
    """The context with one more cell held."""
    assert isinstance(ctx.known, dict) and isinstance(ctx.given, dict)
    known, given = dict(ctx.known), dict(ctx.given)
    (state,) = states_of(process, {"cat": codes}).values()
    known["cat"], given["cat"] = known["cat"].clone(), given["cat"].clone()
    known["cat"][:, entry], given["cat"][:, entry] = True, state
    return ctx.replace(known=known, given=given)
