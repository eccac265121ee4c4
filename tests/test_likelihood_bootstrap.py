"""Intervals of a mean cover it as often as they say. Coverage of 500 simulations has s.e. 1 %; a range of 4 s.e. has a
false alarm rate of 1e-4 for a random seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from genzoo.likelihood import automatic_block_length, bca_interval, block_interval, holm, t_interval

SIMULATIONS = 500


def autoregression(num: int, rho: float, seed: int) -> np.ndarray:
    """Stationary AR(1) with mean zero."""
    shocks = np.random.default_rng(seed).standard_normal(num + 200)
    return np.asarray(lfilter([1.0], [1.0, -rho], shocks))[200:]


def coverage(interval, draw) -> float:
    found = [interval(draw(seed), seed) for seed in range(SIMULATIONS)]
    return float(np.mean([i.low <= 0 <= i.high for i in found]))


def test_t_interval_covers_the_mean_of_independent_rows():
    share = coverage(lambda x, _: t_interval(x), lambda s: np.random.default_rng(s).standard_normal(50))
    assert share == pytest.approx(0.95, abs=0.039)


def test_bca_interval_covers_the_mean_of_skewed_rows():
    share = coverage(
        lambda x, s: bca_interval(x, num_resamples=1000, seed=s),
        lambda s: np.random.default_rng(s).exponential(size=60) - 1,
    )
    assert share == pytest.approx(0.945, abs=0.039)


def test_block_interval_covers_the_mean_of_dependent_rows_and_the_independent_one_does_not():
    draw = lambda s: autoregression(400, 0.7, s)  # noqa: E731
    assert coverage(lambda x, s: block_interval(x, num_resamples=400, seed=s), draw) == pytest.approx(0.93, abs=0.045)
    # The independent interval is too short by sqrt((1 + rho) / (1 - rho)) = 2.4 and covers 1 - P(|Z| > 0.82) = 59 %.
    assert coverage(lambda x, _: t_interval(x), draw) == pytest.approx(0.59, abs=0.09)


def test_block_interval_of_independent_rows_is_that_of_student():
    share = coverage(
        lambda x, s: block_interval(x, num_resamples=400, seed=s),
        lambda s: np.random.default_rng(s).standard_normal(300),
    )
    assert share == pytest.approx(0.945, abs=0.039)


def test_blocks_of_uneven_rows_have_the_freedom_of_the_effective_rows():
    values, weights = np.random.default_rng(4).normal(size=30), np.repeat([1.0, 20.0], [27, 3])
    few = block_interval(values, block_length=1, weights=weights)
    effective = weights.sum() ** 2 / np.square(weights).sum()
    half = float(stats.t(effective - 1).ppf(0.975)) * few.se
    assert few.high - few.mean == pytest.approx(half)


def test_block_length_follows_the_dependence():
    lengths = [
        np.median([automatic_block_length(autoregression(2000, rho, s)) for s in range(20)]) for rho in (0.0, 0.5, 0.9)
    ]
    assert lengths[0] <= 2
    assert lengths[0] < lengths[1] < lengths[2]
    # Closed form for AR(1): G = 2 rho / (1 - rho)^2 / (1 - rho^2), g = 1 / (1 - rho)^2 in units of the shocks.
    optimum = (1.5 * 2000 * (2 * 0.5 / (1 - 0.25)) ** 2) ** (1 / 3)
    assert lengths[1] == pytest.approx(optimum, rel=0.35)
    assert automatic_block_length(np.zeros(100)) == 1
    assert automatic_block_length(np.arange(5.0)) == 1


def test_block_bootstrap_error_is_the_exact_circular_block_variance():
    x = autoregression(60, 0.5, 0)
    length = 6
    found = block_interval(x, num_resamples=200_000, block_length=length)
    circle = np.concatenate([x, x]) - x.mean()
    sums = np.array([circle[i : i + length].sum() for i in range(60)])
    exact = np.sqrt(60 / length * np.mean(sums**2)) / 60
    assert found.se == pytest.approx(exact, rel=4 / np.sqrt(2 * 200_000))
    assert found.block_length == length


def test_blocks_that_do_not_divide_the_rows_are_cut_to_their_number():
    x = np.random.default_rng(0).standard_normal(48)  # six blocks of 7 and one of 6
    found = block_interval(x, num_resamples=100_000, block_length=7)
    circle = np.concatenate([x, x]) - x.mean()
    whole, rest = (np.mean([circle[i : i + k].sum() ** 2 for i in range(48)]) for k in (7, 6))
    assert found.se == pytest.approx(np.sqrt(6 * whole + rest) / 48, rel=0.01)


@pytest.mark.parametrize("length", [0, 51])
def test_block_longer_than_the_rows_is_refused(length):
    with pytest.raises(ValueError, match="block_length must be between 1 and the number of rows 50"):
        block_interval(np.arange(50.0), block_length=length)


def test_bca_interval_agrees_with_scipy():
    x = np.random.default_rng(3).exponential(size=40)
    ours = bca_interval(x, num_resamples=100_000)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=100_000, method="BCa", rng=1).confidence_interval
    # Ends are quantiles of 100,000 resampled means: s.e. about 0.7 % of their sd.
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.05 * x.std() / np.sqrt(40))
    symmetric = t_interval(x)
    assert ours.high - ours.mean > ours.mean - ours.low  # the long tail is on the right
    assert symmetric.high - symmetric.mean == pytest.approx(symmetric.mean - symmetric.low)


@pytest.mark.parametrize("shift", [-0.6, -0.25, 0.0, 0.3, 0.5])
def test_p_values_agree_with_their_interval(shift):
    for seed in range(20):
        x = np.random.default_rng(seed).exponential(size=50) - 1 + shift
        for interval in (t_interval(x), bca_interval(x, num_resamples=4000), block_interval(x, num_resamples=500)):
            outside = interval.low > 0 or interval.high < 0
            if abs(interval.p_value - 0.05) > 0.005:  # the BCa ends and p-value interpolate 4000 means
                assert (interval.p_value < 0.05) == outside


def test_expanded_bca_interval_covers_where_rows_are_few_and_the_plain_one_does_not():
    samples = np.random.default_rng(8).normal(size=(SIMULATIONS, 8))

    def share(**options):
        found = [bca_interval(x, num_resamples=500, seed=i, **options) for i, x in enumerate(samples)]
        return np.mean([one.low <= 0 <= one.high for one in found])

    assert share(expand=True) == pytest.approx(0.932, abs=0.03)
    assert share() < share(expand=True) - 0.02


def test_expanded_p_values_agree_with_their_interval_also_beyond_all_resampled_means():
    rng = np.random.default_rng(0)
    for seed in range(200):
        x = rng.exponential(size=rng.integers(3, 40)) - 0.5 - rng.random()
        one = bca_interval(x, num_resamples=1001, seed=seed, expand=True)
        if abs(one.p_value - 0.05) > 0.005:
            assert (one.p_value < 0.05) == (one.low > 0 or one.high < 0)


def test_chunks_and_repetition_do_not_change_an_interval(monkeypatch):
    x = np.random.default_rng(0).exponential(size=30)
    whole = [bca_interval(x, num_resamples=999), block_interval(x, num_resamples=999, block_length=4)]
    assert whole == [bca_interval(x, num_resamples=999), block_interval(x, num_resamples=999, block_length=4)]
    assert bca_interval(x, num_resamples=999, seed=1) != whole[0]
    monkeypatch.setattr("genzoo.likelihood.bootstrap._CHUNK", 100)
    assert bca_interval(x, num_resamples=999) == whole[0]


@pytest.mark.parametrize("interval", [t_interval, bca_interval, block_interval])
def test_common_error_widens_every_interval_and_is_not_divided_by_the_rows(interval):
    x = np.random.default_rng(0).standard_normal(400)
    alone, common = interval(x), interval(x, se_common=0.5)
    assert common.se == pytest.approx(np.hypot(alone.se, 0.5), rel=1e-6)
    assert common.high - common.low == pytest.approx(2 * 1.96 * common.se, rel=0.05)


def test_equal_differences_leave_nothing_to_chance():
    for interval in (t_interval, bca_interval, block_interval):
        found = interval(np.full(20, 0.5))
        assert (found.low, found.high, found.p_value) == (0.5, 0.5, 0.0)
        assert interval(np.zeros(20)).p_value == 1.0


def test_holm_steps_down_and_keeps_order():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([])).shape == (0,)
    assert holm(np.array([0.9, 0.8])).max() <= 1


def test_holm_keeps_the_family_error_where_plain_p_values_do_not():
    rng = np.random.default_rng(0)
    p = rng.random((2000, 10))
    family = np.mean([holm(row).min() < 0.05 for row in p])
    assert family == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 2000))
    assert np.mean(p.min(axis=1) < 0.05) > 0.3
