"""What travels through the library: data, times, contexts, randomness and codecs.

``Data`` is a tensor ``(B, ...)`` or one flat dict of them; a graph is
``{"atom": (B, N), "bond": (B, N, N), "pos": (B, N, 3)}``. A time is a Python float when the batch shares it and
otherwise a tensor ``(B, ...)`` that broadcasts against the data **from the left**: per sample, frame, token or column.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor

Data = Tensor | dict[str, Tensor]
Time = float | Tensor
T = TypeVar("T")

__all__ = [
    "Codec",
    "Context",
    "Data",
    "Rng",
    "Time",
    "batch_size",
    "index",
    "left",
    "masked_sum",
    "match_time",
    "tree_map",
]


# ------------------------------------------------------------------ trees


def tree_map(f: Callable[..., Any], x: Data, *rest: Any) -> Any:
    """Apply ``f`` to the leaves of ``x``; companions that are dicts are read by field, a missing field is ``None``."""
    if isinstance(x, Tensor):
        return f(x, *rest)
    return {k: f(v, *(r.get(k) if isinstance(r, dict) else r for r in rest)) for k, v in x.items()}


def batch_size(x: Data) -> int:
    """Number of samples in ``x``."""
    return len(x) if isinstance(x, Tensor) else len(next(iter(x.values())))


@overload
def left(c: float, x: Tensor) -> float: ...
@overload
def left(c: Tensor, x: Tensor) -> Tensor: ...
def left(c: Time, x: Tensor) -> Time:
    """Append axes to ``c`` until it broadcasts against ``x`` from the left; floats pass through."""
    if isinstance(c, float) or c.ndim >= x.ndim:
        return c
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim))


def match_time(t: Time, x: Data) -> Tensor:
    """Time as a tensor ``(B, ...)`` on the device of ``x``, in its floating dtype (float32 for tokens).

    A shared time is one number seen B times (stride 0), so that networks may embed it once.
    """
    if isinstance(t, Tensor):
        return t
    leaf = x if isinstance(x, Tensor) else next(iter(x.values()))
    if leaf.is_floating_point():
        return leaf.new_full((1,), t).expand(leaf.shape[:1])
    return torch.full((1,), t, device=leaf.device).expand(leaf.shape[:1])


def masked_sum(x: Tensor, mask: Tensor | None) -> Tensor:
    """Sum over all axes but the first, ``(B,)``; entries where ``mask`` is False count as zero, even NaN."""
    if mask is not None:
        x = torch.where(left(mask, x), x, 0.0)
    return x.flatten(1).sum(1) if x.ndim > 1 else x


def index(tree: T, i: Any) -> T:
    """``tree[i]`` along the batch axis of every tensor in dicts, lists, tuples and dataclasses; the rest is shared."""
    if isinstance(tree, Tensor):
        return tree[i]  # type: ignore[return-value]
    if isinstance(tree, dict):
        return {k: index(v, i) for k, v in tree.items()}  # type: ignore[return-value]
    if isinstance(tree, (list, tuple)):
        return type(tree)(index(v, i) for v in tree)  # type: ignore[return-value, call-arg]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        shared = getattr(tree, "shared", ())
        changed = {f.name: index(getattr(tree, f.name), i) for f in dataclasses.fields(tree) if f.name not in shared}
        return dataclasses.replace(tree, **changed)
    return tree


# ------------------------------------------------------------------ context


@dataclass(frozen=True, slots=True)
class Context:
    """All that travels beside ``(x, t)``, so that new side information changes no signature.

    Every tensor inside is ``(B, ...)``; anything else is shared by the batch.

    Attributes:
        cond: Read by networks only; what guidance replaces by the model's null condition.
        side: Read by processes only (prior mean and scale, locations, schedule inputs); never nulled.
        valid: Bool, True for a real element, False for padding; on the leading axes of its leaf.
        known: Bool, True for a given entry; it is held clean (element time 0) and never scored.
        given: The values of the known entries, shaped like the data.
        x1: The source, where it is observed (bridges) or coupled (training).
        memory: Per-run, batch-first cache, such as features or prefix keys and values.
    """

    cond: dict[str, Any] = field(default_factory=dict)
    side: dict[str, Any] = field(default_factory=dict)
    valid: Data | None = None
    known: Data | None = None
    given: Data | None = None
    x1: Data | None = None
    memory: dict[str, Any] | None = None

    def replace(self, **changes: Any) -> Context:
        """A copy with the named attributes changed."""
        return dataclasses.replace(self, **changes)

    def hold(self, x: Data) -> Data:
        """``x`` with every known entry set to its given value."""
        if self.known is None:
            return x
        if self.given is None:
            raise ValueError("Context.known marks given entries, but Context.given holds no values for them")

        def leaf(v: Tensor, k: Tensor | None, g: Tensor) -> Tensor:
            return v if k is None else torch.where(left(k, v), g.to(v.dtype), v)

        held: Data = tree_map(leaf, x, self.known, self.given)
        return held

    def scored(self) -> Data | None:
        """Mask of the elements that count in losses and likelihoods: valid and not known; ``None`` where all do."""
        if self.known is None:
            return self.valid
        if self.valid is None:
            return tree_map(torch.logical_not, self.known)
        valid, known = self.valid, self.known
        if isinstance(valid, Tensor) and isinstance(known, Tensor):
            return _both(valid, known)
        names = [*dict.fromkeys([*valid, *known])]  # type: ignore[list-item]
        return {
            k: _both(valid.get(k), known.get(k))  # type: ignore[union-attr, misc, arg-type]
            for k in names
        }

    def on(self, name: str) -> Context:
        """The context of one field of a structured sample; ``cond``, ``side`` and ``memory`` are shared."""
        valid, known, given, x1 = (
            v.get(name) if isinstance(v, dict) else v for v in (self.valid, self.known, self.given, self.x1)
        )
        return Context(self.cond, self.side, valid, known, given, x1, self.memory)


def _both(valid: Tensor | None, known: Tensor | None) -> Tensor | None:
    if valid is None:
        return None if known is None else ~known
    if known is None:
        return valid
    n = max(valid.ndim, known.ndim)
    widen = [m.reshape(m.shape + (1,) * (n - m.ndim)) for m in (valid, known)]
    return widen[0] & ~widen[1]


# ------------------------------------------------------------------ randomness

_BLOCK = 4096  # numbers drawn at once from a stream, to amortise the call


class Rng:
    """Random numbers by sample slot: the noise of sample ``i`` does not depend on batch size, rank or order.

    Slot ``i`` owns the stream of ``(seed, i)``. ``Rng(seed)`` without slots is one stream for the whole batch, which
    training uses: there only replay matters, and thousands of short streams would cost more than the network. No
    global generator is read or advanced.

    Args:
        seed: Any integer.
        slots: A number of samples ``n`` (slots ``0 … n-1``), the slots themselves, or ``None`` for one shared stream.
        device: Where the numbers are drawn. The default, CPU, gives the same noise on every machine; ``"cuda"`` is
            faster for large samples and reproducible on one kind of device only.

    >>> a, b = Rng(0, 3), Rng(0, [2])
    >>> bool((a.normal(torch.zeros(3, 5))[2] == b.normal(torch.zeros(1, 5))[0]).all())
    True
    """

    def __init__(self, seed: int, slots: int | Sequence[int] | None = None, device: str | torch.device = "cpu") -> None:
        self.seed, self.device = int(seed), torch.device(device)
        self.slots = (
            list(range(slots)) if isinstance(slots, int) else None if slots is None else [int(i) for i in slots]
        )
        self._generators: dict[str, list[torch.Generator]] = {}
        self._ahead: dict[tuple[str, torch.Size], list[Tensor]] = {}  # batches drawn ahead, the next one last

    def child(self, *names: int | str) -> Rng:
        """An independent Rng with the same slots, named by ``names``: for a control, a corrector or a training step."""
        return Rng(_hash(self.seed, "child", *names), self.slots, self.device)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers shaped like ``like``; float64 for float64, float32 otherwise."""
        if like.dtype == torch.float64:
            return self._draw("normal64", like, torch.float64, torch.randn)
        return self._draw("normal", like, torch.float32, torch.randn)

    def uniform(self, like: Tensor) -> Tensor:
        """Float64 uniform numbers in [0, 1) shaped like ``like``."""
        return self._draw("uniform", like, torch.float64, torch.rand)

    def _draw(self, kind: str, like: Tensor, dtype: torch.dtype, draw: Callable[..., Tensor]) -> Tensor:
        shape = like.shape
        if self.slots is None:
            out = draw(shape, generator=self._streams(kind, 1)[0], dtype=dtype, device=self.device)
        else:
            ahead = self._ahead.get((kind, shape))
            if not ahead:
                ahead = self._ahead[kind, shape] = self._refill(kind, shape, dtype, draw)
            out = ahead.pop()
        return out if out.device == like.device else out.to(like.device)

    def _refill(self, kind: str, shape: torch.Size, dtype: torch.dtype, draw: Callable[..., Tensor]) -> list[Tensor]:
        """Several batches at once: a call a stream for thousands of numbers, not for a handful.

        How many depends on the size of one sample alone, never on the batch.
        """
        count = math.prod(shape[1:])
        turns = max(1, _BLOCK // max(count, 1))
        streams = self._streams(f"{kind} {count}", shape[0])
        rows = [draw(turns, *shape[1:], generator=g, dtype=dtype, device=self.device) for g in streams]
        if not rows:
            return [torch.empty(shape, dtype=dtype, device=self.device)]
        return list(torch.stack(rows, 1).unbind(0))[::-1]

    def _streams(self, kind: str, size: int) -> list[torch.Generator]:
        """One generator a row. Rows past the slots (particles, branches) get streams of their own."""
        streams = self._generators.setdefault(kind, [])
        for row in range(len(streams), size):
            if self.slots is None:
                name: tuple[int | str, ...] = ("batch",)
            elif row < len(self.slots):
                name = ("slot", self.slots[row])
            else:
                name = ("extra", row, *self.slots[:1])
            streams.append(torch.Generator(self.device).manual_seed(_hash(self.seed, kind, *name)))
        return streams[:size]


def _hash(*parts: int | str) -> int:
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


# ------------------------------------------------------------------ codecs


class Codec(Protocol):
    """Natural objects to ``Data`` and back; always saved with the model, never optional."""

    def encode(self, natural: Any) -> Data:
        """Standardised data (B, ...) from natural objects; refuses bad input in one sentence."""
        ...

    def decode(self, data: Any) -> Any:
        """Natural objects from standardised data."""
        ...

    def config(self) -> Mapping[str, Any]:
        """JSON-serialisable settings, from which the class can be rebuilt together with ``tensors``."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Fitted statistics."""
        ...
