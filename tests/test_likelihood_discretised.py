"""Likelihood at data resolution and the spike index, against models with known cell probabilities."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from genzoo.errors import DataError
from genzoo.likelihood import LogLikelihood, paired, require_comparable
from genzoo.likelihood.discretised import columns_with_density, discretised, grid_step, resolutions
from genzoo.tables.encode import TableData
from genzoo.tables.schema import Column, Schema

INF = math.inf


def table(*columns: Column, values, codes=None) -> TableData:
    values = np.asarray(values, dtype=float).reshape(len(values), -1)
    codes = np.zeros((len(values), 0), dtype=np.int64) if codes is None else np.asarray(codes)
    return TableData(values, codes, 100 + np.arange(len(values)), Schema(columns))


def real(name: str = "x", **changes) -> Column:
    return Column(name, "continuous", **changes)


class Analytic:
    """Independent columns with the log-densities given; holes are not scored; counts what it was shown."""

    def __init__(self, *log_pdf, kind="exact", bias="none", noise=0.0, slack=0.0, reverse=False):
        self.log_pdf, self.kind, self.bias = log_pdf, kind, bias
        self.noise, self.slack, self.reverse = noise, slack, reverse
        self.seen: list[TableData] = []

    def log_prob(self, data, *, seed=None, draws=None) -> LogLikelihood:
        self.seen.append(data)
        cells = [
            np.where(np.isnan(x), 0.0, f(np.nan_to_num(x))) for f, x in zip(self.log_pdf, data.numeric.T, strict=True)
        ]
        values = np.sum(cells, axis=0) - self.slack
        se = None
        if self.noise:
            values = values + self.noise * np.random.default_rng((seed, 7)).standard_normal(len(values))
            se = np.full(len(values), self.noise)
        found = LogLikelihood(
            values, data.rows, self.kind, bias=self.bias, se=se, columns=("x",), settings={"draws": draws}
        )
        return found.select(slice(None, None, -1)) if self.reverse else found


def normal(scale: float = 1.0):
    return stats.norm(scale=scale).logpdf


def spiky(at: float, share: float, width: float):
    """``share`` of the mass in a uniform spike of ``width`` around ``at``, the rest standard normal."""

    def log_pdf(x):
        inside = np.where(np.abs(x - at) <= width / 2, math.log(share / width), -INF)
        return logsumexp([inside, math.log1p(-share) + stats.norm.logpdf(x)], axis=0)

    return log_pdf


# ------------------------------------------------------------------------------------------------ resolutions


def test_resolution_is_the_step_of_a_grid_else_a_thousandth_of_the_interquartile_range():
    rng = np.random.default_rng(0)
    free, fine = rng.normal(size=400), np.round(rng.normal(size=400), 4)
    found = resolutions(
        Schema((real("free"), real("fine"))), table(real("free"), real("fine"), values=np.c_[free, fine])
    )
    assert found["free"] == pytest.approx(1e-3 * np.subtract(*np.quantile(free, [0.75, 0.25])))
    assert found["fine"] == pytest.approx(1e-4)


def test_resolution_skips_atoms_holes_context_and_columns_of_probability():
    columns = (
        Column("zero", "mixed", atoms=(0.0,)),
        Column("count", "quantized", step=1.0),
        real("given", role="context"),
        real("empty"),
        Column("tag", "categorical", categories=("a",)),
    )
    rng = np.random.default_rng(0)
    rest = rng.normal(size=60)
    values = np.c_[np.r_[np.zeros(140), rest], rng.integers(0, 5, 200), rng.normal(size=200), np.full(200, np.nan)]
    data = table(*columns, values=values, codes=np.zeros((200, 1), dtype=np.int64))
    assert [c.name for c in columns_with_density(data.schema)] == ["zero", "empty"]
    found = resolutions(data.schema, data)
    assert list(found) == ["zero"]
    assert found["zero"] == pytest.approx(1e-3 * np.subtract(*np.quantile(rest, [0.75, 0.25])))


@pytest.mark.parametrize("factor", [1024.0, 1000.0, 1e-3])
@pytest.mark.parametrize("decimals", [3, 17])
def test_resolution_scales_with_the_unit(factor, decimals):
    x = np.round(np.random.default_rng(0).normal(size=300) * 50, decimals)
    one, other = (resolutions(Schema((real(),)), table(real(), values=v))["x"] for v in (x, x * factor))
    assert other == pytest.approx(one * factor, rel=1e-6)


def test_half_of_the_rows_on_one_value_still_leaves_a_resolution_and_few_values_are_no_grid():
    values = np.r_[np.full(80, 2.0), np.random.default_rng(0).normal(size=20)]
    assert resolutions(Schema((real(),)), table(real(), values=values))["x"] == pytest.approx(1e-3 * np.ptp(values))
    assert resolutions(Schema((real(),)), table(real(), values=np.full(4, 5.0)))["x"] == pytest.approx(5e-3)
    assert grid_step(np.array([1.0, 2.0, 3.0])) is None
    assert grid_step(np.arange(10) * 0.5) == 0.5


# ------------------------------------------------------------------------------------------------ the likelihood


def test_cell_probability_is_a_lower_bound_that_meets_the_exact_one():
    """Wide cells, so that the density is far from flat in them; the probability is a difference of the cdf."""
    x = np.random.default_rng(0).normal(size=2000)
    exact = np.log(stats.norm.cdf(x + 1) - stats.norm.cdf(x - 1))
    gaps = {}
    for draws in (1, 4, 64):
        found = discretised(Analytic(normal()), table(real(), values=x), draws, resolutions={"x": 2.0}).likelihood
        assert (found.kind, found.bias, found.space) == ("lower_bound", "below", "discretised")
        gaps[draws] = exact - found.values
        assert gaps[draws].mean() > 0
    assert gaps[1].mean() > gaps[4].mean() > gaps[64].mean()
    assert gaps[64].mean() < 0.01
    assert found.se is not None
    assert np.sqrt(np.mean(found.se**2)) == pytest.approx(gaps[64].std(), rel=0.15)
    np.testing.assert_array_equal(found.discrete, found.values)
    assert found.continuous is None


def test_smooth_density_has_spike_index_near_zero():
    x = np.random.default_rng(0).normal(size=500)
    found = discretised(Analytic(normal()), table(real(), values=x))
    assert abs(found.spike_index) < 1e-4
    assert not found.withdraws_rank


@pytest.mark.parametrize("width", [1e-6, 1e-9])
def test_spike_on_repeated_values_is_found_and_its_likelihood_stays_finite(width):
    rng = np.random.default_rng(0)
    x = np.where(rng.random(1000) < 0.1, 0.7, rng.normal(size=1000))
    data = table(real(), values=x)
    honest = discretised(Analytic(normal()), data)
    cheat = discretised(Analytic(spiky(0.7, 0.1, width)), data)
    assert cheat.withdraws_rank
    # On 10 % of the rows the log-density gains log(0.1 / width), and cells of 1e-3 do not see it.
    expected = np.mean(x == 0.7) * (math.log(0.1 / width) - stats.norm.logpdf(0.7))
    assert cheat.spike_index == pytest.approx(expected, rel=0.02)
    assert cheat.spike_index_se < cheat.spike_index / 5
    assert not honest.withdraws_rank
    # In density the cheat wins by far; at data resolution it does not.
    assert cheat.likelihood.mean() <= honest.likelihood.mean()
    assert np.isfinite(cheat.likelihood.values).all()


def test_atom_that_fills_its_cell_is_worth_its_probability():
    x = np.full(50, 0.7)
    found = discretised(Analytic(spiky(0.7, 0.4, 0.05)), table(real(), values=x), resolutions={"x": 0.05})
    assert found.likelihood.values == pytest.approx(np.log(0.4 + 0.6 * stats.norm.pdf(0.7) * 0.05), abs=5e-4)
    assert found.spike_index == pytest.approx(0, abs=5e-4)


@pytest.mark.parametrize(("factor", "tolerance"), [(1024.0, 1e-12), (1000.0, 1e-9)])
def test_unit_change_shifts_the_density_and_leaves_the_discretised_likelihood(factor, tolerance):
    x = np.random.default_rng(0).normal(size=200)
    metres, millimetres = Analytic(normal()), Analytic(normal(factor))
    one, other = table(real(), values=x), table(real(), values=x * factor)
    shift = millimetres.log_prob(other).values - metres.log_prob(one).values
    np.testing.assert_allclose(shift, -math.log(factor), rtol=1e-12)
    a, b = discretised(metres, one), discretised(millimetres, other)
    np.testing.assert_allclose(a.likelihood.values, b.likelihood.values, rtol=0, atol=tolerance)
    assert a.spike_index == pytest.approx(b.spike_index, abs=tolerance)


def test_result_does_not_depend_on_batch_order_or_the_order_in_which_a_model_answers():
    x = np.random.default_rng(0).normal(size=300)
    data = table(real(), values=x)
    widths = {"x": 0.5}
    whole = discretised(Analytic(normal()), data, 4, seed=3, resolutions=widths).likelihood
    order = np.random.default_rng(1).permutation(300)
    shuffled = discretised(Analytic(normal()), data.select(order), 4, seed=3, resolutions=widths).likelihood
    np.testing.assert_array_equal(shuffled.values, whole.values[order])
    part = discretised(Analytic(normal()), data.select(np.arange(7)), 4, seed=3, resolutions=widths).likelihood
    np.testing.assert_array_equal(part.values, whole.values[:7])
    backwards = discretised(Analytic(normal(), reverse=True), data, 4, seed=3, resolutions=widths).likelihood
    np.testing.assert_array_equal(backwards.values, whole.values)
    assert not np.array_equal(
        discretised(Analytic(normal()), data, 4, seed=4, resolutions=widths).likelihood.values, whole.values
    )


# ------------------------------------------------------------------------------------------------ holes, atoms, bounds


def test_holes_are_neither_filled_nor_counted_in_the_volume():
    x = np.random.default_rng(0).normal(size=(40, 2))
    x[::2, 1] = np.nan
    x[0] = np.nan
    model = Analytic(normal(), normal())
    found = discretised(model, table(real("x"), real("y"), values=x), 8, resolutions={"x": 1e-6, "y": 1e-3})
    for shown in model.seen:
        np.testing.assert_array_equal(np.isnan(shown.numeric), np.isnan(x))
    expected = np.where(np.isnan(x), 0, stats.norm.logpdf(x) + np.log([1e-6, 1e-3])).sum(axis=1)
    np.testing.assert_allclose(found.likelihood.values, expected, atol=2e-3)
    assert found.likelihood.values[0] == 0.0  # nothing observed: probability one
    assert found.likelihood.se is not None
    assert found.likelihood.se[0] == 0.0


def test_only_scored_cells_with_a_density_move_and_they_stay_in_their_cell():
    columns = (
        real("given", role="context"),
        Column("count", "quantized", step=1.0),
        Column("amount", "mixed", atoms=(0.0, 9.0)),
        real("x"),
        Column("lapse", "mixed", missing="value"),
    )
    rng = np.random.default_rng(0)
    values = np.c_[
        rng.normal(size=30), rng.integers(0, 9, 30), rng.random(30), rng.normal(size=30), rng.normal(size=30)
    ]
    values[:10, 2], values[10:20, 2], values[:5, 4] = 0.0, 9.0, np.nan
    zero = lambda v: np.zeros_like(v)  # noqa: E731
    model = Analytic(zero, zero, zero, zero, zero)
    widths = {"amount": 0.2, "x": 0.3, "lapse": 0.4}
    found = discretised(model, table(*columns, values=values), 50, resolutions=widths)
    shown = np.stack([s.numeric for s in model.seen[1:]])
    np.testing.assert_array_equal(shown[:, :, :2], np.broadcast_to(values[:, :2], (50, 30, 2)))
    np.testing.assert_array_equal(shown[:, :20, 2], np.broadcast_to(values[:20, 2], (50, 20)))
    assert np.isnan(shown[:, :5, 4]).all()
    moved = shown[:, 20:, 2:] - values[20:, 2:]
    assert (np.abs(moved) <= np.array([0.1, 0.15, 0.2]) * (1 + 1e-9)).all()
    assert (moved.std(axis=0) > 0.8 * np.array([0.2, 0.3, 0.4]) / math.sqrt(12)).all()
    expected = (
        math.log(0.3) + np.where(np.arange(30) >= 20, math.log(0.2), 0) + np.where(np.arange(30) >= 5, math.log(0.4), 0)
    )
    np.testing.assert_allclose(found.likelihood.values, expected)


def test_a_moved_value_never_lands_on_an_atom():
    """A cell of two floats' width: the atom is one of the few numbers that a draw can round to."""
    atom = 1.0
    x = np.full(200, np.nextafter(atom, 2))
    model = Analytic(np.zeros_like)
    discretised(model, table(Column("x", "mixed", atoms=(atom,)), values=x), 8, resolutions={"x": 4 * np.spacing(1.0)})
    shown = np.stack([s.numeric for s in model.seen[1:]])
    assert (shown != atom).all()
    assert (shown < atom).any()


def test_cells_are_cut_at_declared_bounds_and_total_probability_is_kept():
    """An exponential law on [0, inf): at the bound the cell is half as wide, and so is its probability."""
    column = real(lower=0.0)
    law = stats.expon(scale=2.0)
    x = np.array([0.0, 0.1, 0.4, 3.0])
    model = Analytic(law.logpdf)
    found = discretised(model, table(column, values=x), 600, resolutions={"x": 0.5})
    assert min(s.numeric.min() for s in model.seen) >= 0
    exact = np.log(law.cdf(x + 0.25) - law.cdf(x - 0.25))
    np.testing.assert_allclose(found.likelihood.values, exact, atol=5 * 0.07 / math.sqrt(600))
    upper = discretised(
        Analytic(stats.uniform.logpdf), table(real(lower=0.0, upper=1.0), values=[1.0, 0.5]), resolutions={"x": 4.0}
    )
    np.testing.assert_allclose(upper.likelihood.values, 0.0, atol=1e-12)  # the cell holds the whole support


def test_value_outside_declared_bounds_keeps_likelihood_zero():
    data = table(real(lower=0.0), values=[-1.0, 1.0])
    found = discretised(Analytic(stats.expon.logpdf), data, resolutions={"x": 0.01})
    assert found.likelihood.num_neg_inf == 1
    assert found.spike_index == pytest.approx(0, abs=1e-3)


def test_cell_that_no_draw_supports_makes_the_index_infinite():
    found = discretised(
        Analytic(lambda x: np.where(x == 0.25, 9.0, -INF)), table(real(), values=[0.25, 0.25]), resolutions={"x": 1}
    )
    assert found.spike_index == INF
    assert found.withdraws_rank


def test_cells_of_a_block_share_their_resolution():
    x = np.random.default_rng(0).normal(size=(50, 4))
    image, after = real("image", shape=(2, 2)), real("after")
    data = table(image, after, values=np.c_[x, np.arange(50) * 7.0])
    assert resolutions(data.schema, data)["after"] == 7.0
    flat = np.zeros_like
    found = discretised(Analytic(*[normal()] * 4, flat), data, resolutions={"image": 1e-4, "after": 1.0})
    np.testing.assert_allclose(
        found.likelihood.values, stats.norm.logpdf(x).sum(axis=1) + 4 * math.log(1e-4), atol=1e-2
    )


# ------------------------------------------------------------------------------------------------ kinds and errors


@pytest.mark.parametrize(
    ("kind", "bias", "becomes"),
    [
        ("exact", "none", ("lower_bound", "below")),
        ("lower_bound", "below", ("lower_bound", "below")),
        ("estimate", "none", ("lower_bound", "below")),
        ("upper_bound", "above", ("estimate", "unknown")),
        ("estimate", "unknown", ("estimate", "unknown")),
        ("unnormalised", "unknown", ("unnormalised", "unknown")),
    ],
)
def test_kind_of_the_discretised_likelihood_follows_the_model(kind, bias, becomes):
    found = discretised(Analytic(normal(), kind=kind, bias=bias), table(real(), values=[0.0, 1.0])).likelihood
    assert (found.kind, found.bias) == becomes


def test_bound_only_model_stays_below_and_its_noise_cancels_in_the_index():
    x = np.random.default_rng(0).normal(size=1000)
    data = table(real(), values=x)
    model = Analytic(normal(), kind="lower_bound", bias="below", noise=0.5, slack=0.2)
    found = discretised(model, data, resolutions={"x": 1e-3})
    exact = np.log(stats.norm.cdf(x + 5e-4) - stats.norm.cdf(x - 5e-4))
    # The noise of a row is common to its draws, so 16 of them neither average it out nor turn it into a gain.
    assert (found.likelihood.values - exact).mean() == pytest.approx(-0.2, abs=4 * 0.5 / math.sqrt(1000))
    assert abs(found.spike_index) < 1e-4
    assert found.likelihood.se is not None
    np.testing.assert_allclose(found.likelihood.se, 0.5, rtol=1e-3)


def test_error_is_not_claimed_where_it_is_not_known():
    data = table(real(), values=[0.0, 1.0])
    assert discretised(Analytic(normal()), data, draws=1).likelihood.se is None
    assert discretised(Analytic(normal(), kind="lower_bound", bias="below"), data).likelihood.se is None


def test_table_of_probabilities_alone_is_left_as_it_is():
    data = table(Column("k", "quantized", step=1.0), values=[0.0, 1.0])
    model = Analytic(stats.poisson(2).logpmf)
    found = discretised(model, data)
    np.testing.assert_array_equal(found.likelihood.values, stats.poisson(2).logpmf([0, 1]))
    assert (found.likelihood.kind, found.likelihood.space, found.spike_index) == ("exact", "discretised", 0.0)
    assert len(model.seen) == 1


def test_models_are_compared_at_one_resolution_only():
    data = table(real(), values=np.random.default_rng(0).normal(size=50))
    a, b = (discretised(Analytic(normal(s)), data, resolutions={"x": 0.01}).likelihood for s in (1.0, 2.0))
    c = discretised(Analytic(normal()), data, resolutions={"x": 0.02}).likelihood
    assert paired(a, b, method="t").mean > 0
    from genzoo.errors import ComparisonError

    with pytest.raises(ComparisonError, match=r"resolutions \({'x': 0.01} against {'x': 0.02}\)"):
        require_comparable(a, c)
    with pytest.raises(ComparisonError, match="space"):
        require_comparable(a, replace(a, space="data"))


def test_wrong_options_end_in_one_sentence():
    data = table(real(), values=[0.0, 1.0])
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        discretised(Analytic(normal()), data, draws=0)
    with pytest.raises(DataError, match="column 'x' has a density but no resolution; give resolutions for 'x'"):
        discretised(Analytic(normal()), data, resolutions={})
    with pytest.raises(ValueError, match="column 'x': a resolution must be above 0, got 0"):
        discretised(Analytic(normal()), data, resolutions={"x": 0})
