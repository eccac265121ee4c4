"""A scikit-learn-style adapter: ``fit``, ``score_samples``, ``score``, ``sample``."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted


class DensityEstimator(BaseEstimator):
    """Any model of the zoo with the interface of ``sklearn.mixture.GaussianMixture``.

    It is cloned, cross-validated and searched over as any estimator of scikit-learn. Each fit reads a schema from the
    rows it is given; to hold one measure over folds, pass one: ``fit_args={"schema": genzoo.infer_schema(frame)}``.

    Args:
        model: Catalogue key.
        seed: Seed of split, weights and noise.
        fit_args: Further arguments of :func:`genzoo.fit`.

    Example:
        >>> from genzoo import DensityEstimator
        >>> from sklearn.datasets import load_iris
        >>> estimator = DensityEstimator("gaussian").fit(load_iris(as_frame=True).data)
        >>> estimator.score_samples(load_iris(as_frame=True).data).shape
        (150,)
    """

    def __init__(self, model: str = "spline_flow", *, seed: int = 0, fit_args: dict[str, Any] | None = None) -> None:
        self.model = model
        self.seed = seed
        self.fit_args = fit_args

    def fit(self, X: Any, y: Any = None) -> DensityEstimator:
        """Trains on a frame or an array ``(rows, columns)``; ``y`` is ignored."""
        from genzoo.api import fit

        self.model_ = fit(_frame(X), self.model, seed=self.seed, **(self.fit_args or {}))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-likelihood of each row, nats, shape ``(rows,)``."""
        check_is_fitted(self, "model_")
        return self.model_.log_prob(_frame(X)).values

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood a row, nats."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1, seed: int | None = None) -> Any:
        """Draws rows as a frame."""
        check_is_fitted(self, "model_")
        return self.model_.sample(n_samples, seed=self.seed if seed is None else seed)


def _frame(X: Any) -> Any:
    if isinstance(X, np.ndarray):
        import pandas as pd

        return pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    return X
