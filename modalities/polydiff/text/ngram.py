"""An interpolated n-gram model: the floor that a language model must beat, and a judge that cannot be flattered by it."""

from __future__ import annotations

import numpy as np

__all__ = ["NGram"]


class NGram:
    """Witten–Bell interpolation: ``p(w | h) = (c(h w) + D(h) p(w | h′)) / (c(h) + D(h))``.

    h′ is the history h without its first token, c counts and D(h) is the number of distinct tokens seen after h; the
    unigram level is mixed with the uniform law in the same way.

    Args:
        tokens: Training stream ``(N,)`` of integers in ``0 … vocab − 1``.
        vocab: Number of tokens.
        order: Longest n-gram.

    Source: An Empirical Study of Smoothing Techniques for Language Modeling, 1998 (Chen and Goodman).
    """

    def __init__(self, tokens: np.ndarray, vocab: int, order: int = 5) -> None:
        tokens = np.asarray(tokens, np.int64)
        if len(tokens) <= order:
            raise ValueError(f"{len(tokens)} tokens: an n-gram model of order {order} needs more")
        if order * np.log2(vocab) > 62:
            raise ValueError(f"order={order} with {vocab} tokens: n-grams do not fit 64 bits; lower the order")
        self.vocab, self.order = vocab, order
        self._grams: list[tuple[np.ndarray, np.ndarray]] = []
        self._histories: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for n in range(1, order + 1):
            codes, counts = np.unique(_codes(tokens, n, vocab), return_counts=True)
            histories, start = np.unique(codes // vocab, return_index=True)
            self._grams.append((codes, counts))
            self._histories.append((histories, np.add.reduceat(counts, start), np.diff([*start, len(codes)])))

    def log_prob(self, tokens: np.ndarray) -> np.ndarray:
        """``log p(w_i | w_{i−n+1} … w_{i−1})`` in nats of every token of a stream ``(N,)``."""
        tokens = np.asarray(tokens, np.int64)
        p = np.full(len(tokens), 1.0 / self.vocab)
        for n in range(1, min(self.order, len(tokens)) + 1):
            codes = _codes(tokens, n, self.vocab)
            seen = _lookup(*self._grams[n - 1], codes)
            histories, total, kinds = self._histories[n - 1]
            c, d = (_lookup(histories, values, codes // self.vocab) for values in (total, kinds))
            known, lower = c > 0, p[n - 1 :]
            p[n - 1 :] = np.where(known, (seen + d * lower) / np.maximum(c + d, 1), lower)
        return np.log(p)

    def bits_per_token(self, tokens: np.ndarray) -> float:
        """Mean cost of a token of a stream."""
        return float(-self.log_prob(tokens).mean() / np.log(2))


def _codes(tokens: np.ndarray, n: int, vocab: int) -> np.ndarray:
    """Every n-gram as one integer, the last token in the lowest place."""
    codes = np.zeros(len(tokens) - n + 1, np.int64)
    for i in range(n):
        codes = codes * vocab + tokens[i : len(tokens) - n + 1 + i]
    return codes


def _lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
