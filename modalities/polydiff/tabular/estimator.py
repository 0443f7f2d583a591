"""Scikit-learn's conventions, for generators whose arguments are ``config``, ``seed`` and ``device``."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from polydiff.core.generator import Generator

__all__ = ["Estimator"]


class Estimator(Generator):
    """A generator that ``sklearn.base.clone`` and searches over parameters can handle."""

    _params: dict[str, Any]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor as they were given (``sklearn.base.clone`` builds an equal one from them)."""
        return dict(self._params)

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor; what was fitted is forgotten."""
        if wrong := sorted(set(params) - set(self._params)):
            raise ValueError(f"parameter {wrong[0]!r}: {type(self).__name__} has {', '.join(self._params)}")
        type(self).__init__(self, **{**self._params, **params})
        self.codec = self.model = self.history = None
        return self

    @property
    def random_state(self) -> int:
        """Scikit-learn's name of ``seed``."""
        return self.seed

    @property
    def n_features_in_(self) -> int:
        """Columns of the training data."""
        return len(self.feature_names_in_)

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the columns of the training data."""
        codec, _ = self._fitted()
        return np.array(codec.schema.names, dtype=object)
