"""Averages over draws: stable, bounds in expectation, with honest standard errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from genzoo.likelihood import effective_sample_size, importance_weighted, log_mean_exp, monte_carlo_mean

INF = math.inf


def gaussian_weights(num_rows: int, draws: int, sd: float, seed: int = 0) -> torch.Tensor:
    """Log-weights of log-normal weights with mean exactly 1, so that log p = 0."""
    generator = torch.Generator().manual_seed(seed)
    return sd * torch.randn(num_rows, draws, generator=generator, dtype=torch.float64) - sd**2 / 2


def test_log_mean_exp_is_stable_far_from_zero_and_works_in_float64():
    log_w = torch.tensor([[-1000.0, -1001.0], [800.0, 800.0]], dtype=torch.float32)
    value = log_mean_exp(log_w, 1)
    assert value.dtype == torch.float64
    expected = [-1000 + math.log((1 + math.exp(-1)) / 2), 800.0]
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-15)
    np.testing.assert_allclose(log_mean_exp(log_w.T, 0).numpy(), expected, rtol=1e-15)


def test_rows_whose_weights_are_all_zero_have_likelihood_zero_and_no_nan():
    log_w = torch.tensor([[-INF, -INF], [-INF, 0.0]])
    value, se = importance_weighted(log_w)
    assert value.tolist() == [-INF, math.log(0.5)]
    assert se is not None
    assert se.tolist() == [0.0, pytest.approx(1.0)]
    assert effective_sample_size(log_w).tolist() == [0.0, 1.0]


def test_importance_weighted_values_are_bounds_that_tighten_with_the_number_of_draws():
    means = [importance_weighted(gaussian_weights(4000, k, 1.0))[0].mean().item() for k in (1, 4, 16, 64)]
    # Each mean has s.e. of at most 1 / sqrt(4000) = 0.016; the steps expected are 0.24, 0.16, 0.06.
    assert means == sorted(means)
    assert means[0] == pytest.approx(-0.5, abs=0.08)
    assert means[-1] < 0


def test_bias_of_the_bound_is_minus_half_the_relative_variance_over_draws():
    sd, draws = 0.3, 20
    value, _ = importance_weighted(gaussian_weights(20_000, draws, sd))
    assert value.mean().item() == pytest.approx(
        -math.expm1(sd**2) / (2 * draws), abs=4 * sd / math.sqrt(draws * 20_000)
    )


def test_delta_method_error_matches_the_spread_of_repeated_estimates():
    value, se = importance_weighted(gaussian_weights(5000, 50, 0.5))
    assert se is not None
    assert float(se.square().mean().sqrt()) == pytest.approx(float(value.std()), rel=0.06)
    shifted = importance_weighted(gaussian_weights(5000, 50, 0.5) - 2000)[1]
    assert shifted is not None
    torch.testing.assert_close(shifted, se)


def test_one_draw_says_nothing_about_its_error():
    value, se = importance_weighted(torch.tensor([[1.0], [2.0]]))
    assert value.tolist() == [1.0, 2.0]
    assert se is None
    assert monte_carlo_mean(torch.tensor([[1.0]]))[1] is None


def test_effective_sample_size_counts_equal_weights_and_a_dominant_one():
    sizes = effective_sample_size(torch.tensor([[-500.0] * 4, [0.0, -800.0, -800.0, -800.0]]))
    np.testing.assert_allclose(sizes.numpy(), [4.0, 1.0])


def test_monte_carlo_mean_has_the_standard_error_of_a_mean():
    terms = torch.tensor([[1.0, 3.0, 5.0], [0.0, -INF, 0.0]])
    value, se = monte_carlo_mean(terms)
    assert se is not None
    assert value.tolist() == [3.0, -INF]
    assert se.tolist() == [pytest.approx(stats.sem([1, 3, 5])), 0.0]


@pytest.mark.parametrize(
    ("log_w", "message"),
    [
        (torch.tensor([[0.0, math.nan]]), "1 of 2 log-weights are NaN"),
        (torch.zeros(3), r"expected draws of shape \(batch, K\), got \(3,\)"),
        (torch.zeros(3, 0), "no draws to average"),
    ],
)
def test_weights_that_mean_nothing_are_refused(log_w, message):
    with pytest.raises(ValueError, match=message):
        importance_weighted(log_w)


def test_estimators_let_gradients_through():
    log_w = gaussian_weights(3, 5, 1.0).requires_grad_()
    importance_weighted(log_w)[0].sum().backward()
    assert log_w.grad is not None
    torch.testing.assert_close(log_w.grad, torch.softmax(log_w.detach(), -1))
