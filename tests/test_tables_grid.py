"""Common steps of numbers, with and without storage noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genzoo.tables.grid import find_grid, plainest, printed_decimals


def distinct(values: np.ndarray) -> np.ndarray:
    return np.unique(np.asarray(values, dtype=np.float64))


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(-5000, 5000), min_size=12, max_size=60, unique=True),
    step=st.sampled_from([1e-9, 0.002, 0.01, 0.25, 0.3, 1.0, 7.0, 100.0]),
    single=st.booleans(),
)
def test_a_decimal_grid_is_found_exactly_in_either_precision(counts: list[int], step: float, single: bool) -> None:
    divisor = int(np.gcd.reduce(np.diff(sorted(counts))))
    values = np.round(np.array(sorted(counts)) * step, 12)
    if single:
        values = distinct(values.astype(np.float32))
    grid = find_grid(values, single)
    assert grid.common
    assert grid.step == pytest.approx(divisor * step, rel=1e-12)
    offset = (values[0] - grid.origin) / grid.step
    assert abs(offset - round(offset)) < 1e-3


@pytest.mark.parametrize("factor", [1024.0, 1000.0])
@pytest.mark.parametrize("single", [False, True])
def test_the_step_follows_a_change_of_unit(factor: float, single: bool) -> None:
    rng = np.random.default_rng(0)
    kind = np.float32 if single else np.float64
    for values in (
        np.round(rng.normal(240, 3, 2000), 2),
        np.round(rng.exponential(3, 2000), 4),
        rng.integers(-300, 300, 500) * 0.0254,
        rng.integers(-30, 40, 60) / 3,
        rng.integers(0, 90, 60),
    ):
        plain, scaled = distinct(values.astype(kind)), distinct(values.astype(kind) * kind(factor))
        ratio = find_grid(scaled, single).step / find_grid(plain, single).step
        assert ratio == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize("factor", [1024.0, 1000.0])
def test_storage_cells_follow_a_change_of_unit_too(factor: float) -> None:
    values = distinct(np.random.default_rng(1).normal(size=500))
    before, after = find_grid(values), find_grid(values * factor)
    assert not before.common
    assert after.step == pytest.approx(before.step * factor, rel=1e-12)
    assert before.step == np.abs(values).max() * 2.0**-40


def test_an_offset_grid_has_its_origin_within_one_step() -> None:
    grid = find_grid(np.array([0.5, 1.5, 2.5, 7.5]))
    assert (grid.step, grid.origin) == (1.0, 0.5)


def test_single_precision_prints_as_it_was_written() -> None:
    values = distinct(np.array([0.1, 0.3, 12.7], dtype=np.float32))
    assert printed_decimals(values, single=True) == 1
    assert find_grid(values, single=True).decimals == 1


def test_two_hundred_random_numbers_share_no_step() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert not find_grid(distinct(rng.normal(size=200))).common
        assert not find_grid(distinct(rng.normal(size=200).astype(np.float32)), single=True).common


@pytest.mark.parametrize("size", [1e300, 1e-290, 1.0])
def test_numbers_of_any_size_have_a_grid_or_none_without_a_warning(size: float) -> None:
    import warnings

    rng = np.random.default_rng(0)
    loose = np.sort(rng.normal(size=40) * size)
    ties = np.unique(np.rint(rng.normal(size=200) * 20)) * (size * 0.37)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not find_grid(loose).common
        assert find_grid(ties).step == pytest.approx(size * 0.37, rel=1e-9)


@pytest.mark.parametrize("largest", [1.0, 200.0, 3e6])
def test_a_cell_is_written_as_the_plainest_number_in_it(largest: float) -> None:
    step = largest * 2.0**-40
    rng = np.random.default_rng(0)
    thirds = rng.integers(1, 600, 500) * largest / 600 / 3
    wholes = rng.integers(-5, 6, 500) * largest / 10
    printed = np.round(rng.random(500) * largest, 5 if largest < 1e6 else 2)
    for meant in (thirds, wholes, printed):
        centres = np.rint(meant / step) * step
        assert (np.abs(plainest(centres, step) - meant) <= 3e-16 * np.abs(meant)).mean() > 0.99
    anything = rng.random(5000) * largest
    centres = np.rint(anything / step) * step
    written = plainest(centres, step)
    np.testing.assert_array_equal(np.rint(written / step), np.rint(centres / step))
    assert (written == centres).mean() > 0.98, "an ordinary cell holds no plain number"
    for step in (1 / 3, 1 / 7, 0.1, 1e-3 / 3):
        counts = np.arange(1, 1000)
        exact = counts / round(1 / step) if step > 0.001 else counts / 3000
        np.testing.assert_array_equal(plainest(counts * step, step), exact)
    assert np.isnan(plainest(np.array([np.nan, 1 / 3]), 1e-9)).tolist() == [True, False]
