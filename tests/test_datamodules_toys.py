"""The toys: densities integrate to one, and their samplers agree with them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.stats import chi2, norm

from genzoo.datamodules.toys.mixed import AGE, CITIES, HEIGHT, INCOME, PRICE, WEIGHT, MixedTable, log_normal_mass
from genzoo.datamodules.toys.planar import PLANAR, PlanarDensity, SwissRoll, TwoMoons


def grid(density: PlanarDensity, per_side: int) -> tuple[np.ndarray, float]:
    """Midpoints of a square grid over the extent, and the area of a cell."""
    edge = density.extent * (2 * (np.arange(per_side) + 0.5) / per_side - 1)
    return np.stack(np.meshgrid(edge, edge, indexing="ij"), axis=-1).reshape(-1, 2), (
        2 * density.extent / per_side
    ) ** 2


@pytest.mark.parametrize("name", PLANAR)
def test_planar_density_integrates_to_one(name: str) -> None:
    points, area = grid(PLANAR[name], 240)
    assert np.exp(PLANAR[name].log_prob(points)).sum() * area == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", PLANAR)
def test_planar_samples_have_the_entropy_of_the_density(name: str) -> None:
    """Within 4 standard errors: a false alarm in 16,000 seeds."""
    density = PLANAR[name]
    points, area = grid(density, 240)
    log_prob = density.log_prob(points)
    prob = np.exp(log_prob)
    mean = (prob * np.where(prob > 0, log_prob, 0)).sum() * area
    drawn = density.log_prob(density.sample(20_000, np.random.default_rng(0)))
    assert abs(drawn.mean() - mean) < 4 * drawn.std() / np.sqrt(20_000) + 1e-3


@pytest.mark.parametrize("name", PLANAR)
def test_planar_samples_fill_coarse_bins_as_the_density_says(name: str) -> None:
    """Chi-square over 10 x 10 cells, at a false-alarm rate of 1e-4."""
    density, num_rows = PLANAR[name], 20_000
    points, area = grid(density, 240)
    cells = (np.exp(density.log_prob(points)) * area).reshape(10, 24, 10, 24).sum((1, 3)).ravel()
    drawn = density.sample(num_rows, np.random.default_rng(1))
    assert (np.abs(drawn) < density.extent).all()
    place = np.floor((drawn / density.extent + 1) * 5).astype(int)
    counts = np.bincount(place[:, 0] * 10 + place[:, 1], minlength=100)
    large = cells * num_rows >= 5
    expected = np.append(cells[large] * num_rows, cells[~large].sum() * num_rows + 1e-9)
    observed = np.append(counts[large], counts[~large].sum())
    keep = expected > 1
    statistic = ((observed - expected) ** 2 / expected)[keep].sum()
    assert statistic < chi2.ppf(1 - 1e-4, keep.sum() - 1)
    assert observed[~keep].sum() <= 5


@pytest.mark.parametrize("density", [TwoMoons(), SwissRoll()])
def test_quadratures_are_accurate_to_a_millionth_of_a_nat(density: TwoMoons | SwissRoll) -> None:
    far = density.sample(500, np.random.default_rng(2)) * np.linspace(1, 4, 500)[:, None]
    finer = replace(density, num_nodes=4 * density.num_nodes)
    np.testing.assert_allclose(density.log_prob(far), finer.log_prob(far), atol=1e-6, rtol=0)


def test_log_densities_are_finite_far_from_the_data() -> None:
    for name, density in PLANAR.items():
        log_prob = density.log_prob(np.array([[40.0, -30.0]]))
        assert log_prob[0] == -np.inf if name == "checkerboard" else np.isfinite(log_prob[0])


def rows(toy: MixedTable, num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return toy.sample(num_rows, np.random.default_rng(seed))


@pytest.mark.parametrize("observed", list(product([False, True], repeat=3)))
def test_mixed_table_probabilities_sum_to_one_for_every_pattern_of_holes(observed: tuple[bool, bool, bool]) -> None:
    """Age, city and price, the other columns missing: all cells of the grids are listed."""
    ages = np.arange(-22.0, 112.0) if observed[0] else np.array([np.nan])
    cities = np.arange(len(CITIES)) if observed[1] else np.array([-1])
    prices = np.arange(0, 800.0) * 0.25 if observed[2] else np.array([np.nan])
    mesh = [m.ravel() for m in np.meshgrid(ages, cities, prices, indexing="ij")]
    numeric = np.full((len(mesh[0]), 5), np.nan)
    numeric[:, AGE], numeric[:, PRICE] = mesh[0], mesh[2]
    codes = np.full((len(mesh[0]), 2), -1)
    codes[:, 0] = mesh[1]
    assert np.exp(MixedTable().log_prob(numeric, codes)).sum() == pytest.approx(1, abs=1e-6)


def test_mixed_table_density_of_income_and_its_atom_add_to_one() -> None:
    income = np.exp(np.linspace(-8, 12, 20_001))
    numeric = np.full((len(income) + 1, 5), np.nan)
    numeric[:-1, INCOME], numeric[-1, INCOME] = income, 0.0
    prob = np.exp(MixedTable().log_prob(numeric, np.full((len(numeric), 2), -1)))
    assert np.trapezoid(prob[:-1], income) + prob[-1] == pytest.approx(1, abs=1e-4)
    assert 0.05 < prob[-1] < 0.9


@pytest.mark.parametrize("missing", [HEIGHT, WEIGHT])
def test_mixed_table_marginal_of_a_hole_is_the_integral_over_its_column(missing: int) -> None:
    toy = MixedTable(holes=0.0)
    numeric, codes = rows(toy, 20)
    values = np.linspace(-60, 300, 7201)
    filled = np.repeat(numeric, len(values), axis=0)
    filled[:, missing] = np.tile(values, len(numeric))
    joint = np.exp(toy.log_prob(filled, np.repeat(codes, len(values), axis=0))).reshape(len(numeric), -1)
    numeric[:, missing] = np.nan
    np.testing.assert_allclose(np.log(np.trapezoid(joint, values, axis=1)), toy.log_prob(numeric, codes), atol=1e-6)


def test_mixed_table_samples_match_their_cell_probabilities() -> None:
    """Counts of member x (income is zero) x city, each within 4.5 binomial standard errors."""
    toy = MixedTable(holes=0.0)
    numeric, codes = rows(toy, 40_000)
    zero = numeric[:, INCOME] == 0
    for member, city in product(range(2), range(5)):
        cell = np.full((1, 5), np.nan)
        cell[0, INCOME] = 0.0
        prob = float(np.exp(toy.log_prob(cell, np.array([[city, member]])))[0])
        share = np.mean(zero & (codes[:, 0] == city) & (codes[:, 1] == member))
        assert abs(share - prob) < 4.5 * np.sqrt(prob * (1 - prob) / 40_000)


@pytest.mark.parametrize(("column", "step"), [(AGE, 1.0), (PRICE, 0.25)])
def test_mixed_table_grid_columns_match_their_cell_probabilities(column: int, step: float) -> None:
    toy = MixedTable(holes=0.0)
    values = rows(toy, 40_000, seed=1)[0][:, column]
    np.testing.assert_array_equal(values, np.rint(values / step) * step)
    for value, count in zip(*np.unique(values, return_counts=True), strict=True):
        if count < 50:
            continue
        cell = np.full((1, 5), np.nan)
        cell[0, column] = value
        prob = float(np.exp(toy.log_prob(cell, np.array([[-1, -1]])))[0])
        assert abs(count / 40_000 - prob) < 4.5 * np.sqrt(prob * (1 - prob) / 40_000)


def test_mixed_table_holes_fall_in_their_share_and_only_where_said() -> None:
    numeric, codes = rows(MixedTable(holes=0.3), 20_000)
    share = np.isnan(numeric).mean(axis=0)
    np.testing.assert_allclose(share[[HEIGHT, AGE, INCOME]], 0.3, atol=0.015)
    assert share[[WEIGHT, PRICE]].max() == 0
    assert (codes[:, 0] == -1).mean() == pytest.approx(0.3, abs=0.015)
    assert (codes[:, 1] >= 0).all()


def test_normal_mass_is_accurate_in_both_tails() -> None:
    low, high = np.array([-40.0, 39.5, -1.0, -np.inf, 2.0]), np.array([-39.0, 40.0, 1.0, 0.0, 2.0])
    mass = log_normal_mass(low, high)
    assert mass[0] == pytest.approx(norm.logcdf(-39.0), abs=1e-9)
    assert mass[1] == pytest.approx(norm.logsf(39.5), abs=1e-6)
    assert mass[2] == pytest.approx(np.log(norm.cdf(1) - norm.cdf(-1)), abs=1e-12)
    assert mass[3] == pytest.approx(np.log(0.5), abs=1e-12)
    assert mass[4] == -np.inf
