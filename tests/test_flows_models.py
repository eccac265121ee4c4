"""SplineFlow and MAF on tables: what they score, draw, fill and say of themselves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from flow_tables import shake

import genzoo
from contract import continuous_table, mixed_table
from genzoo.datamodules.table import Table
from genzoo.likelihood.noise import RowNoise
from genzoo.models.base import DensityModel
from genzoo.models.flows.hiding import hide_columns
from genzoo.models.flows.maf import MAF
from genzoo.models.flows.sizes import default_dropout
from genzoo.models.flows.spline_flow import SplineFlow
from genzoo.tables.batch import TableBatch
from genzoo.tables.encode import TableData
from genzoo.tables.schema import Column, Schema

SMALL: dict[str, Any] = {"hidden": 24, "num_transforms": 2, "patience": 0}


def fitted(kind: str, frame: pd.DataFrame, epochs: int = 2, **options: Any) -> DensityModel:
    data = {"batch_size": 100}
    return genzoo.fit(frame, model=kind, max_epochs=epochs, data=data, **(SMALL | options))


@pytest.fixture(scope="module")
def mixed() -> pd.DataFrame:
    return mixed_table(300)


@pytest.fixture(scope="module", params=["spline_flow", "maf"])
def model(request: pytest.FixtureRequest, mixed: pd.DataFrame) -> DensityModel:
    return fitted(request.param, mixed)


def test_mixed_rows_with_holes_get_an_exact_likelihood(model: DensityModel, mixed: pd.DataFrame) -> None:
    score = model.log_prob(mixed)
    assert score.kind == "exact"
    assert score.se is None
    assert score.uses_mask
    assert np.isfinite(score.values).all()


def test_contributions_of_columns_add_up_to_the_row(mixed: pd.DataFrame) -> None:
    score = fitted("spline_flow", mixed).log_prob(mixed)
    assert score.by_column is not None
    assert np.allclose(score.by_column.sum(1), score.values, atol=1e-9)
    hole = mixed["group"].isna().to_numpy()
    column = score.columns.index("group")
    assert (score.by_column[hole, column] == 0).all()
    assert (score.by_column[~hole, column] < 0).all()


def test_a_row_of_holes_only_has_log_likelihood_zero(model: DensityModel, mixed: pd.DataFrame) -> None:
    empty = mixed.head(3).copy()
    for name in empty:
        empty[name] = None
    assert np.allclose(model.log_prob(empty.astype(mixed.dtypes.to_dict())).values, 0.0)


def test_samples_look_like_the_table(model: DensityModel, mixed: pd.DataFrame) -> None:
    drawn = model.sample(200, seed=1)
    assert list(drawn.columns) == list(mixed.columns)
    assert not drawn.isna().any().any()
    assert set(drawn["group"]) <= {"a", "b", "c"}
    assert (drawn["count"].astype(float) % 1 == 0).all()
    assert (drawn["amount"] == 0).any()
    assert drawn.equals(model.sample(200, seed=1))
    assert not drawn.equals(model.sample(200, seed=2))


def test_imputation_fills_every_hole_and_keeps_what_was_there(model: DensityModel, mixed: pd.DataFrame) -> None:
    rows = mixed.head(40)
    filled = model.impute(rows, draws=2, seed=0)
    assert len(filled) == 2
    for frame in filled:
        assert not frame.isna().any().any()
        for name in rows:
            seen = rows[name].notna()
            assert (frame.loc[seen, name] == rows.loc[seen, name]).all()
    assert not filled[0].equals(filled[1])


def test_the_likelihood_of_a_context_column_is_not_scored_but_read(mixed: pd.DataFrame) -> None:
    model = fitted("spline_flow", mixed, context=("group",), epochs=15)
    rows = mixed[mixed["group"].notna()].head(20)
    score = model.log_prob(rows)
    assert "group" not in score.columns
    assert score.context == ("group",)
    other = rows.assign(group=rows["group"].map({"a": "c", "b": "a", "c": "b"}))
    assert (model.log_prob(other).values != score.values).all()
    drawn = model.sample(20, given=rows[["group"]])
    assert list(drawn["group"]) == list(rows["group"])


def test_a_coupling_flow_is_exact_on_complete_numbers_and_a_bound_on_the_rest(mixed: pd.DataFrame) -> None:
    numbers = continuous_table(200)
    dense = fitted("spline_flow", numbers, transform="coupling")
    score = dense.log_prob(numbers)
    assert score.kind == "exact"
    assert score.se is None
    holes = numbers.copy()
    holes.iloc[0, 0] = np.nan
    assert dense.log_prob(holes).kind == "lower_bound"
    bound = fitted("spline_flow", mixed, transform="coupling").log_prob(mixed, draws=4)
    assert bound.kind == "lower_bound"
    assert bound.se is not None


def test_a_coupling_flow_draws_and_fills(mixed: pd.DataFrame) -> None:
    model = fitted("spline_flow", mixed, transform="coupling")
    assert len(model.sample(30)) == 30
    (filled,) = model.impute(mixed.head(10))
    assert not filled.isna().any().any()


def test_more_draws_tighten_the_bound_of_a_coupling_flow(mixed: pd.DataFrame) -> None:
    model = fitted("spline_flow", mixed, transform="coupling")
    more, own = model.log_prob(mixed, draws=32), model.draws
    assert more.mean() > model.log_prob(mixed, draws=1).mean()
    assert "32 draws" in more.method
    assert f"{own} draws" in model.log_prob(mixed).method


@pytest.mark.parametrize("kind", ["spline_flow", "maf"])
def test_gaussian_data_reach_their_entropy(kind: str) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2500, 2))
    frame = pd.DataFrame({"a": 3 + 2 * z[:, 0], "b": z[:, 0] + z[:, 1]})
    model = fitted(kind, frame, epochs=8, seed=1, num_transforms=1)
    fresh = rng.normal(size=(4000, 2))
    test = pd.DataFrame({"a": 3 + 2 * fresh[:, 0], "b": fresh[:, 0] + fresh[:, 1]})
    exact = -0.5 * (fresh**2).sum(1) - math.log(2 * math.pi) - math.log(2)
    gap = exact - model.log_prob(test).values
    assert gap.mean() < 0.05
    assert gap.mean() > -3 * gap.std() / len(gap) ** 0.5


def test_hiding_turns_whole_columns_into_holes_at_about_the_rate_asked(mixed: pd.DataFrame) -> None:
    module = Table(frame=mixed_table(2000, holes=False))
    module.setup("fit")
    model = SplineFlow(module.schema_dict, **SMALL)
    batch = module.fit_sample()
    model.codec.fit(batch)
    cells = model.codec.encode(batch)
    torch.manual_seed(0)
    hidden = hide_columns(cells, model.codec.numbers, model.codec.categories, 0.5)
    share = float((hidden.category < 0).double().mean())
    assert abs(share - 0.25) < 0.04  # half the rows, half their columns; rows are correlated within
    amount = next(k for k, slot in enumerate(model.codec.numbers) if slot.column == "amount")
    indicator = model.codec.numbers[amount].indicator
    assert torch.equal(hidden.number_hole[:, amount], hidden.category[:, indicator] < 0)
    assert not (hidden.present & hidden.number_hole).any()
    assert torch.isfinite(model.model_log_prob(hidden, RowNoise(0, hidden.rows), 1).values).all()


def test_cells_are_hidden_only_where_training_rows_have_holes() -> None:
    for holes, rate in ((True, 0.1), (False, 0.0)):
        model = fitted("spline_flow", mixed_table(200, holes=holes), epochs=1)
        assert float(model.rows.hide) == pytest.approx(rate)


def test_a_column_without_known_categories_stays_a_hole() -> None:
    schema = Schema((Column("a", "continuous"), Column("k", "categorical")), num_training_rows=10)
    model = SplineFlow(schema.to_dict(), **SMALL)
    model.codec.fit(TableBatch(torch.linspace(-1, 1, 10).double()[:, None], torch.full((10, 1), -1), torch.arange(10)))
    drawn = model.model_sample(5, None, torch.Generator().manual_seed(0))
    assert (drawn.codes == -1).all()
    assert torch.isfinite(drawn.numeric).all()


def test_dropout_follows_the_number_of_training_rows() -> None:
    schema = Schema((Column("a", "continuous"),))
    values = [default_dropout(Schema(schema.columns, num_training_rows=n)) for n in (0, 100, 5000, 50_000)]
    assert values[0] == 0
    assert values[1] > values[2] > values[3] == 0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SplineFlow, {"transform": "residual"}, "autoregressive"),
        (SplineFlow, {"bins": 1}, "num_bins"),
        (SplineFlow, {"hide": 2.0}, "between 0 and 1"),
        (SplineFlow, {"num_transforms": 0}, "num_transforms"),
        (MAF, {"hidden": 0}, "hidden"),
    ],
)
def test_impossible_arguments_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    schema = Schema((Column("a", "continuous"),), num_training_rows=10).to_dict()
    with pytest.raises(ValueError, match=message):
        kind(schema, **options)


def numbers_batch(numeric: Any) -> TableBatch:
    values = torch.as_tensor(numeric, dtype=torch.float64)
    return TableBatch(values, torch.zeros(len(values), 0, dtype=torch.int64), torch.arange(len(values)))


def ready(schema: Schema, numeric: Any, kind: Any = SplineFlow, **options: Any) -> DensityModel:
    """A model with a fitted codec and weights as they start."""
    model = kind(schema.to_dict(), **SMALL, **options)
    model.codec.fit(numbers_batch(numeric))
    model.initialise([model.codec.encode(numbers_batch(numeric))])
    return model.eval()


def rows_of(schema: Schema, numeric: np.ndarray) -> TableData:
    return TableData(numeric, np.zeros((len(numeric), 0), np.int64), np.arange(len(numeric)), schema)


def test_a_coupling_flow_is_a_bound_where_a_missing_number_is_a_value() -> None:
    schema = Schema((Column("a", "continuous", missing="value"), Column("b", "continuous")), num_training_rows=40)
    numeric = np.random.default_rng(0).normal(size=(40, 2))
    numeric[::3, 0] = np.nan
    score = ready(schema, numeric, transform="coupling").log_prob(rows_of(schema, numeric))
    assert (score.kind, score.uses_mask) == ("lower_bound", False)


def test_kind_and_error_of_a_coupling_flow_follow_the_holes_of_the_rows_scored_not_the_batches() -> None:
    schema = Schema((Column("a", "continuous"), Column("b", "continuous")), num_training_rows=40)
    complete = np.random.default_rng(0).normal(size=(40, 2))
    holes = complete.copy()
    holes[30:, 0] = np.nan
    model = ready(schema, complete, transform="coupling")
    whole = model.log_prob(rows_of(schema, holes))
    parts = model.log_prob(rows_of(schema, holes), batch_size=20)  # the first batch is complete, and exact
    assert (whole.kind, parts.kind) == ("lower_bound", "lower_bound")
    assert "importance" in parts.method
    assert np.allclose(whole.values, parts.values, atol=1e-9)
    assert np.allclose(whole.se, parts.se, atol=1e-9)
    assert (parts.se[:30] == 0).all()
    assert (parts.se[30:] > 0).all()
    assert not parts.uses_mask  # only its filler sees the pattern
    after = model.log_prob(rows_of(schema, complete))
    assert (after.kind, after.method, after.se) == ("exact", "change of variables", None)


def test_a_missing_value_that_is_a_value_is_probability_and_no_hole() -> None:
    schema = Schema((Column("a", "continuous", missing="value"),), num_training_rows=40)
    numeric = np.random.default_rng(0).normal(size=(40, 1))
    numeric[::4] = np.nan
    score = ready(schema, numeric).log_prob(rows_of(schema, numeric))
    missing = np.isnan(numeric[:, 0])
    assert not score.uses_mask
    assert np.allclose(score.discrete[missing], np.log(10.5 / 41))
    assert np.allclose(score.discrete[~missing], np.log(30.5 / 41))
    assert (score.continuous[missing] == 0).all()


@pytest.mark.parametrize("options", [{"transform": "coupling"}, {"alternate": False}, {"alternate": True}])
def test_numbers_beyond_single_precision_are_scored(options: dict[str, Any]) -> None:
    schema = Schema((Column("a", "continuous"), Column("b", "continuous")), num_training_rows=40)
    model = ready(schema, np.random.default_rng(0).normal(size=(40, 2)), **options)
    far = 1e60
    scores = model.score_batch(numbers_batch([[far, 0.0], [0.0, -far]]), 0, 1).values
    scale = torch.exp(-2 * model.codec.scaler.spread.log() - 2 * model.codec.scaler.unit.log())
    assert torch.allclose(scores, -0.5 * far**2 * scale, rtol=1e-9)


def test_cells_of_a_coupling_flow_have_a_total_of_at_most_one_and_samples_stand_on_them() -> None:
    schema = Schema((Column("a", "quantized", step=1.0, lower=0, upper=3),), num_training_rows=200)
    numeric = np.random.default_rng(0).integers(0, 4, size=(200, 1)).astype(float)
    model = ready(schema, numeric, transform="coupling")
    drawn = model.model_sample(200, None, torch.Generator().manual_seed(0)).numeric.detach()
    assert set(drawn.flatten().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    total = model.score_batch(numbers_batch([[0.0], [1.0], [2.0], [3.0]]), 0, 2000).values.exp().sum()
    assert 0.9 < float(total) < 1.02  # a bound in expectation, tight where noise fills the cells


@pytest.mark.parametrize("kind", [SplineFlow, MAF])
def test_a_row_with_a_context_far_beyond_training_is_scored(kind: Any) -> None:
    schema = Schema((Column("given", "continuous", role="context"), Column("a", "continuous")), num_training_rows=40)
    model = ready(schema, np.random.default_rng(0).normal(size=(40, 2)), kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    scores = model.score_batch(numbers_batch([[1e30, 0.0], [-1e200, 0.0], [1.0, 0.0]]), 0, 1).values
    assert torch.isfinite(scores).all()
    assert scores[2] != scores[0]


@pytest.mark.parametrize("alternate", [True, False])
def test_whether_a_missing_number_is_an_atom_follows_the_conditional_of_the_model(alternate: bool) -> None:
    columns = (Column("a", "continuous"), Column("b", "continuous"), Column("m", "mixed", atoms=(0.0,)))
    schema = Schema(columns, num_training_rows=200)
    rng = np.random.default_rng(1)
    numeric = rng.normal(size=(200, 3))
    numeric[:, 2] = np.where(numeric[:, 0] > 0.3, 0, numeric[:, 2] + numeric[:, 1])
    model = ready(schema, numeric, alternate=alternate, bins=6)
    shake(model, 0.25, seed=3)
    row = [0.5, 0.4, 0.0]
    angle = torch.linspace(-12, 12, 4000, dtype=torch.float64)  # m = sinh(angle), to integrate over the line
    states = torch.tensor(row, dtype=torch.float64).repeat(4001, 1)
    states[1:, 2] = angle.sinh()
    score = model.score_batch(numbers_batch(states), 0, 1).values
    score[1:] += angle.cosh().log() + (angle[1] - angle[0]).log()
    wanted = float(score.softmax(0)[0])
    assert 0.15 < wanted < 0.85
    holes = numbers_batch([[0.5, 0.4, math.nan]] * 250)
    with torch.no_grad():
        drawn = model.model_impute(holes, model.codec.encode(holes), 1, torch.Generator().manual_seed(0))[0]
    share = float((drawn.numeric[:, 2] == 0).double().mean())
    assert share == pytest.approx(wanted, abs=0.11)  # 3.5 standard errors
