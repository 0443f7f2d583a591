"""Boosted trees as tensors: what scikit-learn fits, torch evaluates, safetensors saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["TreeEnsemble"]

_UNSEEN = -30.0  # logit of a level that never occurred
_AT_ONCE = 1 << 18  # nodes visited together: they fit into a cache


class TreeEnsemble(nn.Module):
    """``f_m(x) = base_m + Σ_j value of the leaf of tree j that x falls into``; groups of M such sums, one group a row.

    A node sends a row to its left child where ``x[feature] ≤ threshold``, and a missing (NaN) entry where
    ``missing_left`` says. All trees descend together, ``depth`` times; a leaf is its own child. Thresholds are rounded
    down to float32, which decides every float32 input as the float64 threshold does. The sizes are known before the
    fit, so that an empty ensemble can take a saved state.

    Args:
        groups: Number of groups, such as levels of noise.
        outputs: Sums of a group, M.
        trees: Of a sum; fewer are filled up with zeros.
        leaves: Most leaves of a tree.
        depth: Longest path of a tree.
    """

    feature: Tensor
    threshold: Tensor
    missing_left: Tensor
    child: Tensor
    value: Tensor
    base: Tensor

    def __init__(self, groups: int, outputs: int, trees: int, leaves: int, depth: int) -> None:
        super().__init__()
        for name, size in (("groups", groups), ("outputs", outputs), ("trees", trees), ("leaves", leaves)):
            if size < 1:
                raise ValueError(f"{name}={size}: an ensemble needs at least 1")
        self.nodes, self.depth = 2 * leaves - 1, depth
        if self.nodes > np.iinfo(np.int16).max:
            raise ValueError(f"leaves={leaves}: a tree has at most {(np.iinfo(np.int16).max + 1) // 2} leaves")
        shape = (groups, outputs, trees, self.nodes)
        self.register_buffer("feature", torch.zeros(shape, dtype=torch.int16))
        self.register_buffer("threshold", torch.zeros(shape))
        self.register_buffer("missing_left", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("child", torch.zeros(*shape, 2, dtype=torch.int16))
        self.register_buffer("value", torch.zeros(shape))
        self.register_buffer("base", torch.zeros(groups, outputs))

    # -------------------------------------------------------------- fitting

    def regress(self, group: int, output: int, x: np.ndarray, y: np.ndarray, settings: Mapping[str, Any]) -> None:
        """Boost one sum towards numbers ``y`` (N,) of rows ``x`` (N, D); ``settings`` are scikit-learn's."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        self.put(group, [output], HistGradientBoostingRegressor(**settings).fit(_filled(x), y))

    def classify(
        self, group: int, outputs: Sequence[int], x: np.ndarray, y: np.ndarray, settings: Mapping[str, Any]
    ) -> None:
        """Boost the logits of levels ``y`` int64 (N,), one sum a level; levels that do not occur get next to no mass.

        One output alone is the log-odds of level 1 against level 0.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        levels = [int(k) for k in np.unique(y)]
        self.value[group, outputs] = 0.0
        self.base[group, outputs] = _UNSEEN
        if len(levels) == 1:
            if len(outputs) > 1:
                self.base[group, outputs[levels[0]]] = 0.0
            elif levels == [1]:
                self.base[group, outputs] = -_UNSEEN
            return
        fitted = HistGradientBoostingClassifier(**settings).fit(_filled(x), y)
        if len(outputs) > 1 and len(levels) == 2:  # what it holds are log-odds of the second
            self.base[group, outputs[levels[0]]] = 0.0
            self.put(group, [outputs[levels[1]]], fitted)
        else:
            self.put(group, outputs if len(outputs) == 1 else [outputs[k] for k in levels], fitted)

    def put(self, group: int, outputs: Sequence[int], fitted: Any) -> None:
        """Copy a fitted ``HistGradientBoostingRegressor`` or ``…Classifier`` in: one output a sum that it holds.

        A regressor and a classifier of two classes hold one sum, a classifier of more holds one a class.

        Raises:
            ValueError: For another number of sums, larger trees, or splits on categories.
        """
        rounds, base = fitted._predictors, np.ravel(fitted._baseline_prediction)
        if len(outputs) != len(base) or len(rounds) > self.feature.shape[2]:
            raise ValueError(
                f"an estimator of {len(base)} sums of {len(rounds)} trees: need {len(outputs)} of at most "
                f"{self.feature.shape[2]}"
            )
        for m, output in enumerate(outputs):
            self.value[group, output] = 0.0
            self.base[group, output] = float(base[m])
            for j, trees in enumerate(rounds):
                self._put_tree((group, output, j), trees[m].nodes)

    def _put_tree(self, at: tuple[int, int, int], nodes: np.ndarray) -> None:
        n = len(nodes)
        if n > self.nodes or int(nodes["depth"].max()) > self.depth:
            raise ValueError(
                f"a tree of {n} nodes and depth {nodes['depth'].max()}: need at most {self.nodes} and {self.depth}"
            )
        if nodes["is_categorical"].any():
            raise ValueError("a tree that splits on sets of categories: fit it to codes or indicators instead")
        leaf = nodes["is_leaf"].astype(bool)
        itself = np.arange(n)
        child = np.stack([np.where(leaf, itself, nodes[side]) for side in ("left", "right")], 1)
        self.feature[at][:n] = torch.from_numpy(np.where(leaf, 0, nodes["feature_idx"]).astype(np.int16))
        self.threshold[at][:n] = torch.from_numpy(_rounded_down(nodes["num_threshold"]))
        self.missing_left[at][:n] = torch.from_numpy(nodes["missing_go_to_left"].astype(bool))
        self.child[at][:n] = torch.from_numpy(child.astype(np.int16))
        self.value[at][:n] = torch.from_numpy(np.where(leaf, nodes["value"], 0.0).astype(np.float32))

    # -------------------------------------------------------------- evaluation

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """Sums ``(B, M)`` of rows ``x`` float32 ``(B, D)``, each by the trees of its group, int64 ``(B,)``."""
        per_row = self.feature.shape[1] * self.feature.shape[2]
        size = max(1, _AT_ONCE // per_row)
        parts = [self._sums(a, g) for a, g in zip(x.split(size), group.split(size))]
        return torch.cat(parts) if parts else self.base.new_empty(0, self.base.shape[1])

    def _sums(self, x: Tensor, group: Tensor) -> Tensor:
        _, outputs, trees, nodes = self.feature.shape
        trees_of_row = group[:, None] * (outputs * trees) + torch.arange(outputs * trees, device=x.device)
        root = trees_of_row * nodes
        first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
        feature, threshold, child = self.feature.flatten(), self.threshold.flatten(), self.child.flatten()
        missing_left, flat, holes = self.missing_left.flatten(), x.flatten(), bool(x.isnan().any())
        node = root
        for _ in range(self.depth):
            entry = flat.take(first + feature.take(node))
            right = entry > threshold.take(node)
            if holes:
                right |= entry.isnan() & ~missing_left.take(node)
            node = root + child.take(2 * node + right)
        return self.base[group] + self.value.take(node).view(len(x), outputs, trees).sum(2)


def _rounded_down(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 at or below: ``x ≤ it`` is ``x ≤ threshold`` for every float32 x."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)


def _filled(x: np.ndarray) -> np.ndarray:
    """Columns that are missing throughout become constant: scikit-learn's bins need a value, no tree splits on it."""
    return np.where(np.isnan(x).all(0), np.float32(0.0), x)
