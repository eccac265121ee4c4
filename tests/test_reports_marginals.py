"""Samples beside data: bins come from the data, nothing falls outside, distances have the size they should."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from reports_example import SCHEMA, frame

from genzoo.evaluation.marginals import Bins, Counted, TableBins, association, column_values, marginal, pairwise
from genzoo.reports.svg import column_ticks, tick_label, ticks
from genzoo.tables.schema import Column, Schema


def test_every_cell_has_a_bin_even_far_outside_the_data() -> None:
    rng = np.random.default_rng(0)
    bins = Bins.of(Column("x", "continuous"), rng.standard_normal(1000))
    values = np.array([-1e9, -3.0, 0.0, 3.0, 1e9, np.nan])
    index = bins.index(values)
    assert index[-1] == -1
    assert (index[:-1] >= 0).all()
    assert (index[:-1] < bins.num_bins).all()
    assert index[0] == bins.num_bins - 2
    assert index[4] == bins.num_bins - 1


def test_atoms_are_counted_apart_from_the_continuum() -> None:
    column = Column("gain", "mixed", atoms=(0.0,), missing="value")
    values = np.array([0.0, 0.0, 0.0, np.nan, 5.0, 7.0, 9.0, 11.0])
    bins = Bins.of(column, values)
    assert bins.labels == ("0", "missing")
    shares = marginal(bins, values, values).data
    assert shares[0] == pytest.approx(3 / 8)
    assert shares[1] == pytest.approx(1 / 8)
    assert shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("span", [7, 30, 31, 250])
def test_bins_of_a_grid_hold_whole_cells(span: int) -> None:
    values = np.arange(span, dtype=float) + 3
    bins = Bins.of(Column("n", "quantized", step=1.0), np.repeat(values, 200))
    widths = np.diff(bins.edges)
    assert np.allclose(widths, widths[0])
    assert widths[0] == round(widths[0])
    assert np.allclose(bins.edges % 1, 0.5)
    inner = marginal(bins, np.repeat(values, 200), values).data[:-2]
    assert inner[:-1].max() <= 1.6 * inner[:-1].min()  # a comb would put twice as many values into some bins


def test_categories_beyond_the_ten_most_common_are_gathered() -> None:
    column = Column("c", "categorical")
    values = np.array([f"v{i}" for i in range(30) for _ in range(40 - i)], dtype=object)
    bins = Bins.of(column, values)
    assert bins.labels[:2] == ("v0", "v1")
    assert bins.num_bins == 10
    index = bins.index(np.array(["v0", "v29", "never seen", None], dtype=object))
    assert index.tolist() == [0, 9, 9, -1]


def test_equal_distributions_differ_by_chance_only_and_disjoint_ones_by_one() -> None:
    rng = np.random.default_rng(1)
    data = rng.standard_normal(2000)
    bins = Bins.of(Column("x", "continuous"), data)
    ratios = []
    for _ in range(20):
        counted = marginal(bins, data, rng.standard_normal(1500))
        ratios.append(counted.distance / counted.by_chance)
    assert 0.8 < np.mean(ratios) < 1.25  # by_chance is the expectation of distance; spread of one ratio is about 0.15
    apart = marginal(bins, data, data + 100)
    assert apart.distance > 0.99
    assert marginal(bins, data, data).distance == 0.0


def test_by_chance_of_a_coin_is_the_mean_difference_of_two_frequencies() -> None:
    shares = np.array([0.5, 0.5])
    counted = Counted(shares, shares, 100, 400)
    rng = np.random.default_rng(2)
    simulated = np.abs(rng.binomial(100, 0.5, 40_000) / 100 - rng.binomial(400, 0.5, 40_000) / 400).mean()
    assert counted.by_chance == pytest.approx(simulated, rel=0.02)


def test_association_finds_the_dependent_pair_and_ignores_independent_ones() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(3000)
    table = pd.DataFrame({"x": x, "noise": rng.standard_normal(3000), "sign": np.where(x > 0, "up", "down")})
    schema = Schema((Column("x", "continuous"), Column("noise", "continuous"), Column("sign", "binary")))
    bins = TableBins.of(table, schema)
    assert bins.pairs[0] == ("x", "sign")
    found = {p: association(bins.bins[p[0]], bins.bins[p[1]], bins.values[p[0]], bins.values[p[1]]) for p in bins.pairs}
    assert found["x", "sign"] == pytest.approx(np.log(2), abs=0.1)
    assert found["x", "noise"] < 0.03


def test_pairs_leave_out_rows_with_a_hole() -> None:
    a, b = Bins.of(Column("a", "continuous"), np.arange(9.0)), Bins.of(Column("b", "continuous"), np.arange(9.0))
    holes = np.array([0.0, np.nan, 2.0, 3.0])
    full = np.array([0.0, 1.0, np.nan, 3.0])
    assert pairwise(a, b, (holes, full), (full, full)).num_data == 2


def test_frames_of_any_kind_text_and_dates_give_the_same_cells() -> None:
    table = frame(60, 0)
    text = table.astype(object).where(table.notna(), "?").astype(str)
    text["since"] = table["since"].dt.strftime("%Y-%m-%d")
    for column in SCHEMA.columns[:6]:
        expected = column_values(table, column)
        for other in (pl.from_pandas(table), text):
            found = column_values(other, column, SCHEMA.missing_tokens)
            assert found.dtype == expected.dtype
            if column.is_numeric:
                np.testing.assert_allclose(found, expected)
            else:
                assert found.tolist() == expected.tolist()
    day = column_values(table, SCHEMA["since"])[0]
    assert np.datetime64(int(day), "D") == np.datetime64(table["since"][0], "D")


def test_ticks_are_round_inside_and_few() -> None:
    rng = np.random.default_rng(4)
    for low, width in zip(rng.standard_normal(200) * 1e4, np.exp(8 * rng.standard_normal(200))):
        found = ticks(low, low + width)
        assert 1 <= len(found) <= 9
        assert all(low - 1e-6 * width <= t <= low + width * (1 + 1e-6) for t in found)
    assert ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]


def test_tick_labels_are_short_and_dates_are_dates() -> None:
    assert [tick_label(v) for v in (0, -1.5, 25_000, 3e6, 2500)] == ["0", "−1.5", "25k", "3M", "2500"]
    assert tick_label(0, "date") == "1970-01-01"
    days = (np.datetime64("2009-03-01"), np.datetime64("2017-05-01"))
    labels = [label for _, label in column_ticks(*(float(d.astype(int)) for d in days), "date", 4)]
    assert labels == ["2010", "2013", "2016"]
