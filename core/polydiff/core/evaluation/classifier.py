"""The classifier two-sample test: can a classifier tell the samples apart?"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from polydiff.core.data import Rng
from polydiff.core.evaluation.features import Features, as_pair, sizes
from polydiff.core.evaluation.results import TwoSampleTest

__all__ = ["classifier_two_sample_test"]


def classifier_two_sample_test(
    x: Features, y: Features, seed: int = 0, *, classifier: Any | None = None, folds: int = 5
) -> TwoSampleTest:
    """Cross-validated accuracy of a classifier that tells x from y; 0.5 is chance and the ideal.

    The larger sample is thinned to n = min(N, M) rows, so that chance is 1/2. Under equal laws the accuracy on the 2n
    held-out predictions is about ``N(1/2, 1/(8n))``, which gives the one-sided p-value.

    Args:
        x: Features (N, D).
        y: Features (M, D).
        seed: Names the thinning, the folds and the default classifier's start.
        classifier: An unfitted scikit-learn classifier, cloned for each fold. ``None`` is the paper's network, one
            hidden layer of 20 ReLU units and 100 epochs of Adam, on standardised features.
        folds: Number of folds, at least 2.

    Returns:
        The accuracy in [0, 1] as statistic, with its p-value.

    Raises:
        ValueError: If the features are no finite matrices with as many columns, or have fewer rows than ``folds``.
        ImportError: If scikit-learn is not installed.

    Source: Revisiting Classifier Two-Sample Tests, 2017, arXiv 1610.06545.
    """
    if folds < 2:
        raise ValueError(f"folds is {folds}; at least 2 are needed to hold data out")
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except Exception as broken:
        raise ImportError(
            "the classifier two-sample test needs scikit-learn: pip install 'polydiff[images]'"
        ) from broken

    x, y = as_pair(x, y, at_least=folds)
    n = min(len(x), len(y))
    rng = Rng(seed).child("thin")
    kept = [s[rng.uniform(torch.empty(len(s))).argsort()[:n].sort().values.to(s.device)] for s in (x, y)]
    features = torch.cat(kept).cpu().numpy()
    labels = torch.arange(2 * n).ge(n).long().numpy()
    start = seed % 2**32  # scikit-learn's range of seeds
    if classifier is None:
        network = MLPClassifier((20,), max_iter=100, random_state=start)
        classifier, name = make_pipeline(StandardScaler(), network), "mlp20"
    else:
        name = type(classifier).__name__
    with warnings.catch_warnings():  # a fixed number of epochs is meant
        warnings.simplefilter("ignore", ConvergenceWarning)
        split = StratifiedKFold(folds, shuffle=True, random_state=start)
        predicted = cross_val_predict(classifier, features, labels, cv=split)
    accuracy = float((predicted == labels).mean())
    z = (accuracy - 0.5) * math.sqrt(8 * n)
    return TwoSampleTest(accuracy, 0.5 * math.erfc(z / math.sqrt(2)), f"c2st:{name}:{folds}-fold:{sizes(x, y)}")
