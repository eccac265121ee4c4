"""The vector codec: cells hold all of a row, in any units, for any schema."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from codec_tables import tables
from hypothesis import given, settings
from torch import Tensor

from genzoo.codecs import VectorCodec
from genzoo.errors import GenZooError, SchemaError
from genzoo.tables.batch import HOLE, UNSEEN, TableBatch
from genzoo.tables.schema import Column, Schema

NAN = math.nan


def _batch(numeric: list[list[float]] | Tensor, codes: list[list[int]] | Tensor | None = None) -> TableBatch:
    numeric = torch.as_tensor(numeric, dtype=torch.float64)
    codes = torch.zeros(len(numeric), 0, dtype=torch.int64) if codes is None else torch.as_tensor(codes)
    return TableBatch(numeric, codes, torch.arange(len(numeric)))


def _single(column: Column, values: list[float], **options: Any) -> VectorCodec:
    codec = VectorCodec(Schema((column,)), **options)
    codec.fit(_batch(torch.tensor(values, dtype=torch.float64)[:, None]))
    return codec


def _line(*values: float) -> TableBatch:
    return _batch([[v] for v in values])


@settings(max_examples=80)
@given(tables())
def test_every_row_of_every_schema_comes_back(table: tuple[Schema, TableBatch]) -> None:
    schema, batch = table
    codec = VectorCodec(schema)
    codec.fit(batch)
    cells = codec.encode(batch)
    for name in ("number", "log_volume", "context"):
        assert torch.isfinite(getattr(cells, name)).all(), name
    assert not (cells.lower.isnan() | cells.upper.isnan()).any()
    quantized = torch.tensor([slot.quantized for slot in codec.numbers], dtype=torch.bool)
    here = cells.present & quantized
    assert ((cells.lower < cells.number) & (cells.number < cells.upper))[here].all()
    assert torch.equal(cells.lower[:, ~quantized], cells.number[:, ~quantized])
    assert not cells.outside.any()
    assert not (cells.present & cells.number_hole).any()
    assert cells.context.shape == (len(batch), codec.num_context)
    assert cells.log_volume.shape == (len(batch), len(schema.scored))
    for column, slot in enumerate(codec.categories):
        assert (cells.category[:, column] < slot.num_categories).all()

    back = codec.decode(cells.number.masked_fill(~cells.present, NAN), cells.category, cells.rows, batch)
    assert torch.equal(back.rows, batch.rows)
    assert torch.equal(back.codes, batch.codes)
    assert torch.equal(back.numeric.isnan(), batch.numeric.isnan())
    seen = ~batch.numeric.isnan()
    # A value on a declared bound of a density stands for a point beside it.
    seen &= ~_on_bound(schema, batch)
    assert ((back.numeric - batch.numeric)[seen].abs() <= 1e-9 * batch.numeric[seen].abs() + 1e-15).all()


def _on_bound(schema: Schema, batch: TableBatch) -> Tensor:
    """Whether a value sits on a declared bound of a density, ``(batch, num_numeric)``."""
    mark, at = torch.zeros_like(batch.numeric, dtype=torch.bool), 0
    for column in schema.numeric:
        for bound in (column.lower, column.upper) if column.kind != "quantized" else ():
            if bound is not None:
                mark[:, at : at + column.width] |= batch.numeric[:, at : at + column.width] == bound
        at += column.width
    return mark


def test_cells_of_a_grid_tile_the_line_without_gap_or_overlap() -> None:
    for scaler in ("standardise", "asinh", "quantile"):
        codec = _single(
            Column("q", "quantized", step=0.1, origin=0.05),
            [0.05 + 0.1 * (k * k % 97) for k in range(300)],
            scaler=scaler,
        )
        cells = codec.encode(_line(*[0.05 + 0.1 * k for k in range(-500, 2000)]))
        assert torch.equal(cells.upper[:-1], cells.lower[1:])
        assert (cells.upper > cells.lower).all()
        assert torch.equal(cells.log_volume, torch.zeros_like(cells.log_volume))


def test_the_outermost_cells_of_a_bounded_grid_reach_to_infinity() -> None:
    codec = _single(Column("q", "quantized", step=1.0, lower=0.0, upper=3.0), [0.0, 1.0, 2.0, 3.0, 1.0])
    cells = codec.encode(_line(0, 1, 2, 3))
    assert cells.lower[:, 0].isinf().tolist() == [True, False, False, False]
    assert cells.upper[:, 0].isinf().tolist() == [False, False, False, True]
    assert codec.raw(torch.tensor([[-50.0], [50.0]])).flatten().tolist() == [0.0, 3.0]
    lower, centre, upper = codec.cell(torch.tensor([[-50.0]]))
    assert lower.item() == -math.inf
    assert torch.isfinite(centre).all()
    assert torch.equal(upper[0], cells.upper[0])


def test_bounds_between_grid_points_begin_at_the_next_point_inside() -> None:
    codec = _single(Column("q", "quantized", step=1.0, lower=0.5, upper=2.2), [1.0, 2.0, 2.0])
    cells = codec.encode(_line(0.4, 1.0, 2.0, 3.0))
    assert cells.outside.tolist() == [True, False, False, True]
    assert cells.lower[1].item() == -math.inf
    assert cells.upper[2].item() == math.inf
    with pytest.raises(SchemaError, match=r"column 'q': no grid point .* lies between its bounds 0.2 and 0.8"):
        VectorCodec(Schema((Column("q", "quantized", step=1.0, lower=0.2, upper=0.8),)))


def test_values_off_the_grid_belong_to_the_nearest_cell() -> None:
    codec = _single(Column("q", "quantized", step=1.0, lower=0.0), [0.0, 1.0, 2.0, 5.0])
    exact, near = codec.encode(_line(0, 2)), codec.encode(_line(-0.3, 2.4))
    for name in ("number", "lower", "upper", "outside"):
        assert torch.equal(getattr(exact, name), getattr(near, name))


def test_values_beyond_declared_bounds_mark_their_row_and_stay_finite() -> None:
    for column in (Column("x", "continuous", lower=0.0), Column("x", "continuous", lower=0.0, upper=2.0)):
        codec = _single(column, [0.1, 0.5, 1.0, 1.5])
        cells = codec.encode(_line(-1.0, 0.0, 1.0, NAN))
        assert cells.outside.tolist() == [True, False, False, False]
        assert torch.isfinite(cells.number).all()
        assert torch.isfinite(cells.log_volume).all()
    assert codec.encode(_line(2.0, 2.1)).outside.tolist() == [False, True]


def test_values_far_beyond_training_are_neither_clipped_nor_merged() -> None:
    for scaler in ("auto", "standardise", "robust", "asinh", "quantile"):
        codec = _single(
            Column("x", "continuous"),
            torch.randn(200, generator=torch.Generator().manual_seed(0)).tolist(),
            scaler=scaler,
        )
        cells = codec.encode(_line(-1e9, -1e6, -40.0, 40.0, 1e6, 1e9))
        assert (cells.number.diff(dim=0) > 0).all()
        assert torch.isfinite(cells.log_volume).all()


def test_log_volume_is_the_slope_of_the_map_column_by_column() -> None:
    schema = Schema(
        (
            Column("x", "continuous"),
            Column("c", "binary", categories=("a", "b")),
            Column("p", "continuous", lower=0.0),
            Column("q", "quantized", step=1.0),
        )
    )
    g = torch.Generator().manual_seed(0)
    x = torch.randn(100, 3, generator=g, dtype=torch.float64)
    x = torch.stack([x[:, 0], x[:, 1].exp(), x[:, 2].round()], 1)
    codes = torch.randint(0, 2, (100, 1), generator=g)
    codec = VectorCodec(schema)
    codec.fit(_batch(x, codes))
    h = 1e-6
    up, down = (codec.encode(_batch(x + s * h, codes)).number for s in (0.5, -0.5))
    slope = ((up - down) / h).log()
    volume = codec.encode(_batch(x, codes)).log_volume
    assert torch.allclose(volume[:, 0], slope[:, 0], atol=1e-5)
    assert torch.allclose(volume[:, 2], slope[:, 1], atol=1e-4)
    assert torch.equal(volume[:, [1, 3]], torch.zeros(100, 2, dtype=torch.float64))


MIXED = Schema(
    (
        Column("m", "mixed", atoms=(0.0, 5.0)),
        Column("q", "quantized", step=0.5, atoms=(1.0,), missing="value"),
        Column("c", "categorical", categories=("a", "b", "c"), missing="value"),
        Column("z", "mixed", missing="value", atoms=()),
    )
)


def _mixed() -> tuple[VectorCodec, TableBatch]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=g, dtype=torch.float64)
    x[:, 1] = (x[:, 1] * 4).round() / 2
    x[:5] = torch.tensor([[0.0, 1.0, NAN], [5.0, NAN, 1.0], [NAN, 2.0, 2.0], [1.5, 1.0, NAN], [0.1, 0.5, 0.5]])
    codes = torch.randint(0, 4, (50, 1), generator=g)
    codec = VectorCodec(MIXED)
    batch = _batch(x, codes)
    codec.fit(batch)
    return codec, batch


def test_atoms_are_neither_present_nor_holes_and_missing_values_are_the_last_atom() -> None:
    codec, batch = _mixed()
    assert [slot.num_categories for slot in codec.categories] == [3, 3, 4, 2]
    assert [slot.number for slot in codec.categories] == [0, 1, None, 2]
    assert [slot.indicator for slot in codec.numbers] == [0, 1, 3]
    assert codec.order == (
        ("category", 0),
        ("number", 0),
        ("category", 1),
        ("number", 1),
        ("category", 2),
        ("category", 3),
        ("number", 2),
    )
    cells = codec.encode(batch)
    assert cells.category[:5, [0, 1, 3]].tolist() == [[0, 0, 0], [1, 1, 1], [HOLE, 2, 1], [2, 0, 0], [2, 2, 1]]
    assert cells.present[:5].tolist() == [
        [False, False, False],
        [False, False, True],
        [False, True, True],
        [True, False, False],
        [True, True, True],
    ]
    assert cells.number_hole[:5].tolist() == [[False] * 3, [False] * 3, [True, False, False], [False] * 3, [False] * 3]
    assert torch.equal(cells.number[~cells.present], torch.zeros(int((~cells.present).sum()), dtype=torch.float64))
    assert (cells.log_volume[:5, 0] == 0).tolist() == [True, True, True, False, False]


def test_decoded_atoms_are_exact_and_an_unknown_indicator_stays_a_hole() -> None:
    codec, _ = _mixed()
    number = torch.full((4, 3), 0.3, dtype=torch.float64)
    category = torch.tensor([[0, 0, 1, 0], [1, 1, 3, 1], [2, 2, 0, 1], [HOLE, HOLE, HOLE, HOLE]])
    back = codec.decode(number, category, torch.arange(4))
    assert back.numeric[0, :2].tolist() == [0.0, 1.0]
    assert back.numeric[0, 2].isnan()
    assert back.numeric[1, 0] == 5.0
    assert back.numeric[1, 1].isnan()
    assert not back.numeric[2].isnan().any()
    assert back.numeric[2, 1] % 0.5 == 0
    assert back.numeric[3].isnan().all()
    assert back.codes.flatten().tolist() == [1, 3, 0, HOLE]


def test_cells_of_atoms_on_a_grid_are_those_that_encoding_would_give() -> None:
    codec, _ = _mixed()
    plain = _single(Column("q", "quantized", step=0.5), [0.0, 1.0])
    plain.scaler.load_state_dict({k: v[1:2] for k, v in codec.scaler.state_dict().items()})
    cell, atoms = plain.encode(_line(1.0)), codec.atom_cells()
    assert atoms.exists.tolist() == [[False, False], [True, False], [False, False]]
    assert atoms.lower[1, 0] == cell.lower[0, 0]
    assert atoms.centre[1, 0] == cell.number[0, 0]
    assert atoms.upper[1, 0] == cell.upper[0, 0]
    assert torch.equal(atoms.lower[~atoms.exists], atoms.upper[~atoms.exists])


def test_two_atoms_of_one_cell_count_once_and_atoms_outside_have_no_cell() -> None:
    column = Column("q", "quantized", step=1.0, lower=0.0, atoms=(-3.0, 0.0, 0.2))
    codec = _single(column, [0.0, 1.0, 2.0, 3.0])
    atoms = codec.atom_cells()
    assert atoms.exists.tolist() == [[False, True, False]]
    assert atoms.lower[0, 1] == -math.inf


def test_snap_moves_quantized_numbers_to_the_centre_of_the_cell_that_holds_them() -> None:
    schema = Schema((Column("x", "continuous"), Column("q", "quantized", step=0.5)))
    codec = VectorCodec(schema)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(100, 2, generator=g, dtype=torch.float64)
    codec.fit(_batch(torch.stack([x[:, 0], (2 * x[:, 1]).round() / 2], 1)))
    drawn = 3 * torch.randn(100, 2, generator=g)
    snapped = codec.snap(drawn)
    lower, centre, upper = codec.cell(drawn)
    assert torch.equal(snapped, centre)
    assert torch.equal(snapped[:, 0], drawn[:, 0].double())
    assert torch.equal(lower[:, 0], upper[:, 0])
    assert ((lower[:, 1] <= drawn[:, 1]) & (drawn[:, 1] <= upper[:, 1])).all()
    assert torch.equal(codec.snap(snapped), snapped)
    assert torch.equal(codec.snap(drawn[:, 1:], torch.tensor([1])), snapped[:, 1:])
    cells = codec.encode(_batch(codec.raw(drawn)))
    assert torch.allclose(cells.number, snapped, atol=1e-12)
    assert torch.equal(cells.lower[:, 1], lower[:, 1])


def test_huge_draws_decode_to_finite_values() -> None:
    codec = _single(
        Column("x", "continuous"),
        torch.randn(200, generator=torch.Generator().manual_seed(0)).exp().tolist(),
        scaler="asinh",
    )
    x = codec.raw(torch.tensor([[-1e4], [1e4]]))
    assert torch.isfinite(x).all()
    assert x[0] < -1e300 < 1e300 < x[1]


CONTEXT = Schema(
    (
        Column("age", "quantized", step=1.0, role="context"),
        Column("x", "continuous"),
        Column("city", "categorical", role="context", categories=("a", "b")),
        Column("kind", "categorical", categories=("u", "v")),
    )
)


def test_context_is_scaled_or_one_hot_with_flags_for_holes() -> None:
    codec = VectorCodec(CONTEXT, scaler="standardise")
    codec.fit(_batch([[20.0, 1.0], [30.0, 2.0], [40.0, 3.0]], [[0, 0], [1, 1], [0, 1]]))
    assert codec.num_context == 5
    cells = codec.encode(_batch([[30.0, 1.0], [NAN, 1.0], [1e6, 1.0]], [[0, 0], [HOLE, 0], [UNSEEN, 0]]))
    assert cells.context.dtype == torch.float32
    assert cells.context[:2].tolist() == [[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0]]
    assert cells.context[2, 2:].tolist() == [0.0, 0.0, 1.0]
    assert cells.context[2, 0] > 1e4
    assert [slot.column for slot in codec.numbers] == ["x"]
    assert [slot.column for slot in codec.categories] == ["kind"]


def test_decoded_rows_copy_the_context_they_were_drawn_for() -> None:
    codec = VectorCodec(CONTEXT)
    given_rows = _batch([[20.0, 1.0], [NAN, 2.0]], [[0, 0], [UNSEEN, 1]])
    codec.fit(given_rows)
    number, category = torch.zeros(2, 1), torch.tensor([[1], [0]])
    back = codec.decode(number, category, torch.tensor([4, 5]), given_rows)
    assert back.numeric[0, 0] == 20.0
    assert back.numeric[1, 0].isnan()
    assert back.codes.tolist() == [[0, 1], [UNSEEN, 0]]
    assert given_rows.codes.tolist() == [[0, 0], [UNSEEN, 1]], "the given rows are not written to"
    alone = codec.decode(number, category, torch.tensor([4, 5]))
    assert alone.numeric[:, 0].isnan().all()
    assert alone.codes[:, 0].tolist() == [HOLE, HOLE]


def test_unseen_categories_of_scored_columns_read_as_holes() -> None:
    codec = VectorCodec(CONTEXT)
    batch = _batch([[20.0, 1.0], [21.0, 2.0]], [[0, UNSEEN], [0, 1]])
    codec.fit(batch)
    assert codec.encode(batch).category.tolist() == [[HOLE], [1]]


def _in_unit(schema: Schema, factor: float) -> Schema:
    for column in schema.numeric:
        changes: dict[str, Any] = {"origin": factor * column.origin, "atoms": tuple(factor * a for a in column.atoms)}
        for name in ("step", "lower", "upper"):
            value = getattr(column, name)
            changes[name] = None if value is None else factor * value
        schema = schema.with_column(column.name, **changes)
    return schema


@pytest.mark.parametrize("scaler", ["auto", "standardise", "robust", "asinh", "quantile", "log", "logit"])
def test_a_table_in_other_units_has_the_same_cells(scaler: str) -> None:
    schema = Schema(
        (
            Column("x", "continuous"),
            Column("m", "mixed", atoms=(0.0, 3.0)),
            Column("q", "quantized", step=0.25, origin=0.125, atoms=(0.375,)),
            Column("p", "continuous", lower=0.0),
            Column("b", "quantized", step=1.0, lower=0.0, upper=4.0),
            Column("s", "continuous", lower=-1.0, upper=1.0),
            Column("g", "continuous", role="context"),
        )
    )
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 7, generator=g, dtype=torch.float64)
    x[:, 1] = torch.where(x[:, 1] < 0, 0.0, x[:, 1])
    x[:, 2] = 0.125 + (x[:, 2].sinh() * 8).round() * 0.25
    x[:, 3] = (3 * x[:, 3]).exp()
    x[:, 4] = (x[:, 4] + 2).round().clamp(0, 4)
    x[:, 5] = x[:, 5].tanh()
    x[::9, 0] = NAN
    codec = VectorCodec(schema, scaler)
    codec.fit(_batch(x))
    cells = codec.encode(_batch(x))
    for factor in (1024.0, 1000.0):
        other = VectorCodec(_in_unit(schema, factor), scaler)
        other.fit(_batch(factor * x))
        scaled = other.encode(_batch(factor * x))
        assert other.scaler.describe() == codec.scaler.describe()
        for name in ("number", "lower", "upper", "present", "category", "number_hole", "context", "outside"):
            if factor == 1024.0:
                assert torch.equal(getattr(cells, name), getattr(scaled, name)), name
            else:
                assert torch.allclose(
                    getattr(cells, name).double(), getattr(scaled, name).double(), rtol=1e-11, atol=1e-11
                )
        dense = torch.tensor([True, True, False, True, False, True])
        there = cells.present & dense
        shift = there.double() * math.log(factor)
        assert torch.allclose(cells.log_volume - shift, scaled.log_volume, rtol=1e-11, atol=1e-11)


def test_a_block_shares_one_scale_among_its_cells() -> None:
    schema = Schema((Column("image", "continuous", shape=(2, 2)), Column("label", "binary", categories=("0", "1"))))
    codec = VectorCodec(schema, "standardise")
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 3] = 0.0
    codec.fit(_batch(x, [[0]] * 50))
    cells = codec.encode(_batch(x, [[0]] * 50))
    assert cells.number.shape == (50, 4)
    assert len(codec.scaler.names) == 1
    assert torch.equal(cells.log_volume[:, 0], cells.log_volume[:1, 0].expand(50))
    assert torch.allclose(cells.log_volume[:, 0], -4 * (codec.scaler.unit * codec.scaler.spread).log())


def test_state_of_a_fitted_codec_makes_another_one_equal() -> None:
    codec, batch = _mixed()
    other = VectorCodec(MIXED)
    with pytest.raises(GenZooError, match="has not seen training rows"):
        other.require_fitted()
    other.load_state_dict(codec.state_dict())
    other.require_fitted()
    first, second = codec.encode(batch), other.encode(batch)
    assert torch.equal(first.number, second.number)
    assert torch.equal(first.category, second.category)


def test_scalers_by_column_name_win_and_unknown_names_are_refused() -> None:
    schema = Schema((Column("x", "continuous"), Column("y", "continuous", lower=0.0)))
    codec = VectorCodec(schema, {"x": "asinh"})
    codec.fit(_batch(torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()))
    assert codec.scaler.describe() == {"x": "asinh", "y": "log, affine"}
    with pytest.raises(SchemaError, match="scaler given for 'z', which is no modelled numeric column; these are: x, y"):
        VectorCodec(schema, {"z": "asinh"})
    with pytest.raises(SchemaError, match="column 'x': scaler 'log' needs exactly one declared bound"):
        VectorCodec(schema, {"x": "log"})


def test_repeated_and_selected_cells_keep_their_rows() -> None:
    codec, batch = _mixed()
    cells = codec.encode(batch)
    twice = cells.repeat(2)
    assert twice.rows[:4].tolist() == [0, 0, 1, 1]
    assert torch.equal(twice.select(slice(0, None, 2)).number, cells.number)


def test_fine_grids_far_out_keep_cells_with_an_inside() -> None:
    codec = _single(Column("q", "quantized", step=1.0), [float(k) for k in range(100)])
    cells = codec.encode(_line(1e15, -1e17, 3.0))
    assert (cells.lower < cells.upper).all()
    assert ((cells.lower <= cells.number) & (cells.number <= cells.upper)).all()


@pytest.mark.parametrize("name", ["miniboone_1523", "power_37k", "protein", "danish_fire", "eustock_returns"])
def test_real_columns_come_back_and_no_outlier_is_far_from_the_rest(shared_data: Path, name: str) -> None:
    folder = shared_data / name
    file = next((f for f in (folder / "train.parquet", folder / "data.parquet") if f.exists()), None)
    if file is None:
        pytest.skip(f"{name} is not among the tables")
    frame = pd.read_parquet(file).select_dtypes("number")
    x = torch.tensor(frame.to_numpy(dtype="float64", copy=True))
    codec = VectorCodec(Schema(tuple(Column(str(c), "continuous") for c in frame.columns)))
    codec.fit(_batch(x))
    cells = codec.encode(_batch(x))
    back = codec.decode(cells.number, cells.category, cells.rows)
    seen = ~x.isnan()
    spread = codec.scaler.unit.expand_as(x)
    assert ((back.numeric - x)[seen].abs() <= 1e-9 * (x.abs() + spread)[seen]).all()
    assert float(cells.number.abs().max()) < 12
    assert torch.isfinite(cells.log_volume).all()
