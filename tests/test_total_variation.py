"""The statistical distance of two densities, its confidence limit, and what it bounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from genzoo.likelihood.total_variation import exact_distance, optimal_accuracy, statistical_distance


def gaussians(shift: float, n: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=n), rng.normal(size=n) + shift
    logs = lambda x: (norm.logpdf(x), norm.logpdf(x, shift))  # noqa: E731
    return logs(first), logs(second)


@pytest.mark.parametrize(("shift", "truth"), [(1.0, 0.3829), (2.0, 0.6827), (3.5, 0.9199), (6.0, 0.9973)])
def test_distance_of_two_gaussians_is_the_closed_form(shift: float, truth: float) -> None:
    found = statistical_distance(*gaussians(shift, 100_000, 0), delta=1e-6)
    assert 2 * norm.cdf(shift / 2) - 1 == pytest.approx(truth, abs=5e-5)
    # standard error at most sqrt(2 / 4n) = .0022
    assert found.value == pytest.approx(truth, abs=0.008)
    assert truth <= found.upper
    assert found.adversary_bound == (1 + found.upper) / 2


def test_hoeffding_term_is_that_of_the_formula() -> None:
    found = statistical_distance(*gaussians(1.0, 2000, 0), delta=0.05)
    assert found.upper - found.value == pytest.approx(np.sqrt(np.log(20) / 2000))
    assert found.upper - found.value == pytest.approx(0.0387, abs=5e-5)


@pytest.mark.parametrize("interval", ["hoeffding", "clopper_pearson"])
@pytest.mark.parametrize("shift", [0.05, 1.0, 5.0])
def test_upper_limit_fails_no_more_often_than_it_says(interval: str, shift: float) -> None:
    truth = 2 * norm.cdf(shift / 2) - 1
    failures = [
        statistical_distance(*gaussians(shift, 300, seed), delta=0.2, interval=interval).upper < truth  # type: ignore[arg-type]
        for seed in range(300)
    ]
    # at most .2 expected; 300 draws: above .28 less than once in 2000 runs
    assert np.mean(failures) <= 0.28


def test_distance_is_symmetric_between_zero_and_one_and_nil_for_equal_densities() -> None:
    first, second = gaussians(1.0, 5000, 1)
    swapped = statistical_distance((second[1], second[0]), (first[1], first[0]))
    assert swapped.value == pytest.approx(statistical_distance(first, second).value, abs=1e-12)
    same = statistical_distance((first[0], first[0]), (second[0], second[0]))
    assert same.value == 0.0
    noise = statistical_distance(*gaussians(0.0001, 5000, 2))
    assert 0 <= noise.value <= noise.upper - noise.value
    assert statistical_distance(*gaussians(50.0, 100, 0)).upper == 1.0


def test_exact_distance_is_half_the_absolute_difference() -> None:
    found = exact_distance([0.5, 0.5, 0.0], [0.25, 0.25, 0.5])
    assert (found.value, found.upper) == (0.5, 0.5)


def test_best_guess_among_three_groups_agrees_with_the_integral_and_pairs_with_the_distance() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([0.0, 1.0, 3.0])
    logs = [norm.logpdf((rng.normal(size=50_000) + c)[:, None], centres) for c in centres]
    grid = np.linspace(-8, 12, 20_001)
    truth = np.max(norm.pdf(grid[:, None], centres), axis=1).sum() * (grid[1] - grid[0]) / 3
    found = optimal_accuracy(logs, delta=1e-6)
    assert found.value == pytest.approx(truth, abs=0.006)
    assert truth <= found.upper
    two = [logs[0][:, :2], logs[1][:, :2]]
    distance = statistical_distance((two[0][:, 0], two[0][:, 1]), (two[1][:, 0], two[1][:, 1]))
    assert optimal_accuracy(two).value == pytest.approx(distance.adversary, abs=1e-9)


def test_wrong_arguments_are_named() -> None:
    first, second = gaussians(1.0, 10, 0)
    with pytest.raises(ValueError, match="delta must lie between 0 and 1"):
        statistical_distance(first, second, delta=0.0)
    with pytest.raises(ValueError, match="NaN"):
        statistical_distance((first[0] * np.nan, first[1]), second)
    with pytest.raises(ValueError, match="at least one draw"):
        statistical_distance((first[0][:0], first[1][:0]), second)
    with pytest.raises(ValueError, match="hoeffding or clopper_pearson"):
        statistical_distance(first, second, interval="exact")  # type: ignore[arg-type]
