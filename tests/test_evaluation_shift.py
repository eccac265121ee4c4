"""Which columns shifted: closed forms, calibration, and rows changed on purpose."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genzoo.errors import DataError
from genzoo.evaluation.feature_shift import detect_shift, fit_gaussian, normal_scores, score_statistic


def covariance(d: int, rho: float) -> np.ndarray:
    return (1 - rho) * np.eye(d) + rho * np.ones((d, d))


def test_the_statistic_of_a_column_made_independent_is_its_closed_form() -> None:
    cov = covariance(4, 0.5)
    apart = cov.copy()
    apart[2, :2], apart[:2, 2], apart[2, 3], apart[3, 2] = 0, 0, 0, 0
    rest = [0, 1, 3]
    explained = cov[2, rest] @ np.linalg.solve(cov[np.ix_(rest, rest)], cov[rest, 2])
    information = -0.5 * math.log(1 - explained)
    found = score_statistic((np.zeros(4), cov), (np.zeros(4), apart))
    precision = np.linalg.inv(cov)
    assert found[2] == pytest.approx(precision[2, 2] * math.expm1(2 * information), rel=1e-9)
    assert found.argmax() == 2


def test_a_shifted_mean_has_the_squared_column_of_the_precision_and_sides_may_change_places() -> None:
    cov, delta = covariance(3, 0.4), np.array([0.0, 0.7, 0.0])
    one, two = (np.zeros(3), cov), (delta, cov)
    found = score_statistic(one, two)
    assert np.allclose(found, (np.linalg.inv(cov) @ delta) ** 2)
    assert np.allclose(found, score_statistic(two, one))
    assert np.allclose(score_statistic(one, one), 0)
    scaled = np.diag([1.0, 10.0, 1.0])
    rescaled = score_statistic((np.zeros(3), scaled @ cov @ scaled), (scaled @ delta, scaled @ cov @ scaled))
    assert np.allclose(rescaled, found / np.array([1, 100, 1]))


def test_the_statistic_is_the_expected_squared_difference_of_scores() -> None:
    rng = np.random.default_rng(0)
    one, two = (np.array([0.3, 0.0]), covariance(2, 0.6)), (np.array([0.0, -0.2]), 1.5 * covariance(2, 0.1))
    total = np.zeros(2)
    for mean, cov in (one, two):
        x = rng.multivariate_normal(mean, cov, 200_000)
        scores = [-(x - m) @ np.linalg.inv(c) for m, c in (one, two)]
        total += ((scores[0] - scores[1]) ** 2).mean(axis=0) / 2
    assert np.allclose(score_statistic(one, two), total, rtol=0.02)


def test_normal_scores_do_not_depend_on_the_unit_and_give_ties_one_place() -> None:
    rng = np.random.default_rng(1)
    x = rng.gamma(1.0, size=(500, 1)).round(1)
    scores = normal_scores(x, x)
    assert np.array_equal(scores, normal_scores(np.exp(x), np.exp(x)))
    assert abs(scores.mean()) < 0.02
    assert len(np.unique(scores)) == len(np.unique(x))


def test_a_column_whose_dependence_is_broken_is_found_first_and_clean_rows_are_left_alone() -> None:
    rng = np.random.default_rng(2)
    names = tuple("abcde")
    false = 0
    for seed in range(20):
        x, y = (rng.multivariate_normal(np.zeros(5), covariance(5, 0.5), 400) for _ in range(2))
        false += detect_shift(x, y, names, resamples=99, seed=seed).detected
    assert false <= 5  # level 0.05: more than five of twenty has probability 0.0003
    x, y = (np.exp(rng.multivariate_normal(np.zeros(5), covariance(5, 0.5), 600)) for _ in range(2))
    y[:, 3] = rng.permutation(y[:, 3])  # the column keeps its values
    found = detect_shift(x, y, names, resamples=99)
    assert found.flagged[0] == "d"
    assert found.p_value == pytest.approx(0.01)


def test_too_few_rows_are_refused_and_singular_ones_have_a_ridge() -> None:
    with pytest.raises(DataError, match="needs at least 12 complete rows on either side; got 5, 50"):
        detect_shift(np.zeros((5, 5)), np.zeros((50, 5)))
    x = np.random.default_rng(3).normal(size=(100, 1)).repeat(2, axis=1)
    assert np.isfinite(np.linalg.inv(fit_gaussian(x)[1])).all()
