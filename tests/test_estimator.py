"""The adapter behaves as an estimator of scikit-learn does."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

import genzoo


def test_it_is_cloned_cross_validated_and_searched_over() -> None:
    frame = load_iris(as_frame=True).data
    estimator = genzoo.DensityEstimator("independent", fit_args={"schema": genzoo.infer_schema(frame)})
    assert clone(estimator).get_params() == estimator.get_params()
    assert "independent" in repr(estimator)
    assert np.isfinite(cross_val_score(estimator, frame, cv=3)).all()
    search = GridSearchCV(estimator, {"model": ["independent", "gaussian"]}, cv=3).fit(
        frame.sample(frac=1, random_state=0)
    )
    assert search.best_params_ == {"model": "gaussian"}


def test_before_fit_it_says_that_it_is_not_fitted() -> None:
    with pytest.raises(NotFittedError):
        genzoo.DensityEstimator().score_samples(load_iris(as_frame=True).data)


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(genzoo.errors.GenZooError, match="did you mean 'lr'"):
        genzoo.fit("sklearn:iris", "spline_flow", lrr=1e-3)
