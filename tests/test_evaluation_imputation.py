"""Hidden cells and how completions of them are judged."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import genzoo
from contract import mixed_table
from genzoo.errors import DataError
from genzoo.evaluation.imputation import coverage, crps, evaluate_imputation, score_imputation
from genzoo.evaluation.masks import MECHANISMS, hide_cells, places
from genzoo.models.drawing import impute_data
from genzoo.tables.encode import TableData, encode_frame
from genzoo.tables.infer import infer_schema


@pytest.fixture(scope="module")
def rows() -> TableData:
    frame = mixed_table(2000)
    return encode_frame(frame, infer_schema(frame))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_about_the_share_is_hidden_never_a_hole_and_the_same_cells_for_one_seed(rows: TableData, mechanism) -> None:  # type: ignore[no-untyped-def]
    hidden = hide_cells(rows, 0.3, mechanism, seed=1)
    again = hide_cells(rows, 0.3, mechanism, seed=1)
    assert np.array_equal(hidden.numeric, again.numeric)
    assert np.array_equal(hidden.codes, again.codes)
    assert not np.isnan(rows.numeric[hidden.numeric]).any()
    assert (rows.codes[hidden.codes] >= 0).all()
    assert np.isnan(hidden.data.numeric[hidden.numeric]).all()
    kept = ~hidden.numeric & ~np.isnan(rows.numeric)
    assert np.array_equal(hidden.data.numeric[kept], rows.numeric[kept])
    whole = 0
    for _, numeric, place in places(rows.schema):
        mask = (hidden.numeric if numeric else hidden.codes)[:, place]
        observed = ~np.isnan(rows.numeric[:, place]) if numeric else rows.codes[:, place] >= 0
        share = mask[observed].mean()
        whole += share == 0
        assert share == 0 or abs(share - 0.3) < 4 * math.sqrt(0.21 / observed.sum()) + 0.02  # b is solved with holes in
    assert whole == (1 if mechanism == "mar" else 0)


def test_what_decides_is_nothing_other_columns_or_the_value_itself(rows: TableData) -> None:
    x = rows.numeric[:, 0]
    seen = ~np.isnan(x)

    def gap(mechanism) -> float:  # type: ignore[no-untyped-def]
        mask = hide_cells(rows, 0.3, mechanism, seed=3).numeric[:, 0]
        return float((x[seen & mask].mean() - x[seen & ~mask].mean()) / x[seen].std())

    assert abs(gap("mcar")) < 0.2
    assert gap("mnar") > 0.5
    assert {bool(hide_cells(rows, 0.3, "mar", seed=s).numeric[:, 0].any()) for s in range(8)} == {True, False}


def test_bad_shares_are_refused(rows: TableData) -> None:
    with pytest.raises(DataError, match=r"between 0 and 1, got 1\.5"):
        hide_cells(rows, 1.5)


def test_crps_of_gaussian_draws_is_that_of_the_gaussian() -> None:
    rng = np.random.default_rng(0)
    y = np.array([0.0, 1.3])
    found = np.mean([crps(y, rng.normal(size=(2, 5))) for _ in range(20_000)], axis=0)
    # closed form for N(0, 1): y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi)
    cdf = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in y])
    pdf = np.exp(-(y**2) / 2) / math.sqrt(2 * math.pi)
    exact = y * (2 * cdf - 1) + 2 * pdf - 1 / math.sqrt(math.pi)
    assert np.allclose(found, exact, atol=0.008)  # five draws: the fair score is unbiased, standard error about 0.002
    assert np.allclose(crps(np.array([2.0]), np.array([[5.0]])), 3.0)


def test_coverage_of_right_draws_is_the_level_also_for_values_that_repeat() -> None:
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=20_000), rng.normal(size=(20_000, 20))
    counts = rng.poisson(1.0, 20_000).astype(float), rng.poisson(1.0, (20_000, 20)).astype(float)
    for actual, draws in (numbers, counts):
        assert abs(coverage(actual, draws, rng) - 0.9) < 4 * math.sqrt(0.09 / 20_000)
    assert coverage(numbers[0], 0.3 * numbers[1], rng) < 0.5
    assert math.isnan(coverage(numbers[0], numbers[1][:, :5], rng))


def test_the_truth_scores_perfectly_and_a_copy_of_another_row_does_not(rows: TableData) -> None:
    hidden = hide_cells(rows, 0.2, seed=0)
    perfect = score_imputation(rows, hidden, [rows] * 12)
    assert max(abs(perfect.mean(name)) for name in ("mae", "crps", "rmse")) < 1e-15
    assert perfect.mean("accuracy") == 1
    section = evaluate_imputation(lambda data, draws: [_hot_deck(rows, data, d) for d in range(draws)], rows, rows)
    named = {m.name: m for m in section.metrics}
    assert 0.7 < named["RMSE"].value < 1.3  # the mean of draws from the marginal: one standard deviation
    assert abs(named["coverage of 90 %"].value - 0.9) < 0.03
    assert named["accuracy"].value < 0.7
    assert {line[0] for line in section.grids[0].lines} == {"x", "count", "amount", "group", "flag"}


def test_a_completion_that_changes_or_leaves_cells_is_refused(rows: TableData) -> None:
    hidden = hide_cells(rows, 0.2, seed=0)
    with pytest.raises(DataError, match="leaves hidden cells empty"):
        score_imputation(rows, hidden, [hidden.data])
    moved = rows.numeric + 1.0
    with pytest.raises(DataError, match="changes observed cells"):
        score_imputation(rows, hidden, [dataclasses.replace(rows, numeric=moved)])


def _hot_deck(source: TableData, data: TableData, seed: int) -> TableData:
    """Holes filled with observed cells of the same column, drawn at random."""
    rng = np.random.default_rng(seed)
    numeric, codes = data.numeric.copy(), data.codes.copy()
    for array, holes, pool in (
        (numeric, np.isnan(numeric), source.numeric),
        (codes, codes < 0, source.codes),
    ):
        for j in range(array.shape[1]):
            known = pool[:, j][~np.isnan(pool[:, j])] if array is numeric else pool[:, j][pool[:, j] >= 0]
            array[holes[:, j], j] = rng.choice(known, int(holes[:, j].sum()))
    return dataclasses.replace(data, numeric=numeric, codes=codes)


def test_nothing_is_hidden_where_an_empty_cell_is_a_value() -> None:
    frame = mixed_table(300)
    name = next(column.name for column in infer_schema(frame).numeric)
    frame.loc[::5, name] = np.nan
    schema = infer_schema(frame, overrides={name: {"missing": "value"}})
    rows = encode_frame(frame, schema)
    hidden = hide_cells(rows, 0.5, "mcar", seed=0)
    place = next(i for column, numeric, i in places(schema) if column.name == name)
    assert not hidden.numeric[:, place].any()
    assert hidden.numeric.any() or hidden.codes.any()
    model = genzoo.fit(frame, model="independent", schema=schema)
    assert evaluate_imputation(
        lambda data, draws: impute_data(model, data, draws, 0), rows, draws=2, max_rows=50
    ).metrics
