"""The classifier two-sample test: can a classifier tell the samples apart?"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch

from polydiff.core.data import Rng
from polydiff.core.evaluation.features import Features, as_pair, sizes
from polydiff.core.evaluation.results import TwoSampleTest

__all__ = ["classifier_two_sample_test"]


def classifier_two_sample_test(
    x: Features, y: Features, seed: int = 0, *, classifier: Any | None = None, folds: int = 5
) -> TwoSampleTest:
    """Held-out accuracy of a classifier that tells x from y; 0.5 is chance and the ideal.

    Progressive cross-validation: fold k is predicted after training on folds 1 … k−1. The errors of an ordinary K-fold
    are dependent, and a binomial p-value from them rejects equal laws too often (8.5 % of the time at level 5 %); here
    every prediction is, given its past, a fair coin under equal laws, so the accuracy over T predictions is
    ``N(1/2, 1/(4T))`` and the p-value ``P(Z ≥ (accuracy − 1/2) · 2√T)`` holds. The larger sample is thinned to
    min(N, M) rows, so that chance is 1/2.

    Args:
        x: Features (N, D).
        y: Features (M, D).
        seed: Names the thinning, the folds and the default classifier's start.
        classifier: An unfitted scikit-learn classifier, cloned for each fold. ``None`` is the paper's network, one
            hidden layer of 20 ReLU units and 100 epochs of Adam, on standardised features.
        folds: Number of folds, at least 2; all but the first are predicted.

    Returns:
        The accuracy in [0, 1] as statistic, with its p-value.

    Raises:
        ValueError: If the features are no finite matrices with as many columns, or have fewer rows than ``folds``.
        ImportError: If scikit-learn is not installed.

    Source: Revisiting Classifier Two-Sample Tests, 2017, arXiv 1610.06545; Beating the Hold-Out: Bounds for K-fold and
    Progressive Cross-Validation, 1999, COLT.
    """
    if folds < 2:
        raise ValueError(f"folds is {folds}; at least 2 are needed to hold data out")
    try:
        from sklearn.base import clone
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import StratifiedKFold
    except Exception as broken:
        raise ImportError(
            "the classifier two-sample test needs scikit-learn: pip install 'polydiff[images]'"
        ) from broken

    x, y = as_pair(x, y, at_least=folds)
    n = min(len(x), len(y))
    rng = Rng(seed).child("thin")
    kept = [s[rng.uniform(torch.empty(len(s))).argsort()[:n].sort().values.to(s.device)] for s in (x, y)]
    features, labels = torch.cat(kept).cpu().numpy(), np.repeat([0, 1], n)
    start = seed % 2**32  # scikit-learn's range of seeds
    name = "mlp20" if classifier is None else type(classifier).__name__
    model = _network(start) if classifier is None else classifier
    parts = [held for _, held in StratifiedKFold(folds, shuffle=True, random_state=start).split(features, labels)]
    correct = 0
    with warnings.catch_warnings():  # a fixed number of epochs is meant
        warnings.simplefilter("ignore", ConvergenceWarning)
        for k in range(1, folds):
            past, now = np.concatenate(parts[:k]), parts[k]
            predicted = clone(model).fit(features[past], labels[past]).predict(features[now])
            correct += int((predicted == labels[now]).sum())
    trials = 2 * n - len(parts[0])
    z = (2 * correct - trials) / math.sqrt(trials)
    p_value = 0.5 * math.erfc(z / math.sqrt(2))
    return TwoSampleTest(correct / trials, p_value, f"c2st:{name}:progressive-{folds}-fold:{sizes(x, y)}")


def _network(start: int) -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), MLPClassifier((20,), max_iter=100, random_state=start))
