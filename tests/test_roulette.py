"""Roulette estimates of log-determinants and their gradients, against the exact ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from genzoo.bijections.jacobian import rademacher
from genzoo.likelihood.roulette import Roulette, power_series

LAWS: list[dict[str, Any]] = [
    {"law": "geometric", "parameter": 0.5},
    {"law": "geometric", "parameter": 0.3},
    {"law": "poisson", "parameter": 2.0},
]


def contraction(width: int, bound: float, seed: int = 0) -> Tensor:
    """A matrix of spectral norm ``bound``, float64."""
    matrix = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return matrix * (bound / torch.linalg.matrix_norm(matrix, 2))


def pull_by(matrix: Tensor) -> Any:
    return lambda u: u @ matrix


def uniforms(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_numbers_of_terms_follow_their_law(law: dict[str, Any]) -> None:
    roulette = Roulette(**law)
    numbers = roulette.numbers(uniforms(40_000)).numpy()
    known = stats.geom(law["parameter"]) if law["law"] == "geometric" else stats.poisson(law["parameter"])
    reach = roulette.reach(12).numpy()
    for j in range(1, 13):
        expected = known.sf(j - 1)
        assert reach[j - 1] == pytest.approx(expected, rel=1e-9)
        # 36 comparisons: above 4.5 standard deviations less than once in 4000 runs
        assert abs((numbers >= j).mean() - expected) <= 4.5 * math.sqrt(expected * (1 - expected) / 40_000) + 1e-12


def test_tiny_uniforms_reach_far_and_keep_a_finite_weight() -> None:
    for law in LAWS:
        roulette = Roulette(**law)
        numbers = roulette.numbers(torch.tensor([[1e-12]], dtype=torch.float64))
        assert int(numbers) > 10
        assert torch.isfinite(roulette.weights(numbers)).all()


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("num_draws", [1, 4])
def test_weights_average_to_one_so_that_the_sum_is_that_of_the_series(law: dict[str, Any], num_draws: int) -> None:
    roulette = Roulette(**law, num_exact=2, num_draws=num_draws)
    weights = roulette.weights(roulette.numbers(uniforms(40_000, num_draws)))
    assert (weights[:, :2] == 1).all()
    for k in range(2, 6):
        column = weights[:, k]
        assert abs(float(column.mean()) - 1) <= 4.5 * float(column.std()) / 200 + 1e-12


def test_the_series_with_all_terms_is_the_log_determinant() -> None:
    matrix = contraction(4, 0.9)
    basis = torch.eye(4, dtype=torch.float64) * 2  # four probes whose sum of squares is the trace, exactly
    value, _ = power_series(pull_by(matrix), basis, torch.ones(1, 400, dtype=torch.float64))
    exact = torch.linalg.slogdet(torch.eye(4, dtype=torch.float64) + matrix)[1]
    assert float(value.mean()) == pytest.approx(float(exact), abs=1e-10)


@pytest.mark.parametrize("num_exact", [0, 2, 20])
@pytest.mark.parametrize("num_draws", [1, 4])
@pytest.mark.parametrize("law", LAWS[::2], ids=str)
def test_estimates_average_to_slogdet(law: dict[str, Any], num_exact: int, num_draws: int) -> None:
    # a norm of 0.6: the squared norm is below 1 - 0.5, so the variance is finite without exact terms
    matrix, num = contraction(5, 0.6), 20_000
    roulette = Roulette(**law, num_exact=num_exact, num_draws=num_draws)
    weights = roulette.weights(roulette.numbers(uniforms(num, num_draws)))
    probes = rademacher(torch.randn(num, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    value, w = power_series(pull_by(matrix), probes, weights)
    exact = torch.linalg.slogdet(torch.eye(5, dtype=torch.float64) + matrix)[1]
    assert w is None
    assert abs(float(value.mean() - exact)) < 4.5 * float(value.std()) / num**0.5


def test_neumann_vectors_give_an_unbiased_gradient() -> None:
    matrix, num = contraction(4, 0.6), 20_000
    roulette = Roulette(num_exact=2)
    probes = rademacher(torch.randn(num, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    _, w = power_series(pull_by(matrix), probes, roulette.weights(roulette.numbers(uniforms(num, 1))), neumann=True)
    assert w is not None
    # d (w^T J e) / dJ_ij = w_i e_j, and d log det (I + J) / dJ = (I + J)^-T
    each = w[:, :, None] * probes[:, None, :]
    exact = torch.linalg.inv(torch.eye(4, dtype=torch.float64) + matrix).T
    error = (each.mean(0) - exact) / (each.std(0) / num**0.5)
    assert error.abs().max() < 4.5  # of 16 standard normal values: once in 9000 runs


def test_rows_may_share_one_number_of_terms_or_have_their_own() -> None:
    matrix = contraction(3, 0.5)
    probes = rademacher(torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    roulette = Roulette(num_exact=1)
    numbers = torch.tensor([[1], [3], [2], [1], [5], [2]])
    together, _ = power_series(pull_by(matrix), probes, roulette.weights(numbers))
    for i in range(6):
        alone, _ = power_series(pull_by(matrix), probes[i : i + 1], roulette.weights(numbers[i : i + 1]))
        np.testing.assert_allclose(float(together[i]), float(alone), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "uniform"}, "'geometric' or 'poisson'"),
        ({"parameter": 1.5}, "between 0 and 1"),
        ({"law": "poisson", "parameter": 0.0}, "above 0"),
        ({"num_exact": -1}, "at least 0"),
    ],
)
def test_impossible_laws_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Roulette(**options)
