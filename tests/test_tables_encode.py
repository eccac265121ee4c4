"""Frames to raw values under a schema, and back."""

from __future__ import annotations

import datetime
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genzoo.errors import DataError, SchemaError
from genzoo.tables.cells import numbers
from genzoo.tables.encode import TableData, decode_table, encode_frame, fill_holes, require_inside, training_schema
from genzoo.tables.frames import read_frame, to_arrow, write_frame
from genzoo.tables.infer import infer_schema
from genzoo.tables.schema import Column, Schema

SCHEMA = Schema(
    (
        Column("q", "quantized", storage="float", step=0.1, decimals=1, lower=0.0, upper=5.0),
        Column("c", "categorical", storage="string", categories=("a", "b", "c")),
        Column("m", "mixed", atoms=(0.0,)),
        Column("x", "continuous"),
        Column("old", "constant", storage="int", value="7"),
        Column("id", "categorical", role="ignore", storage="string"),
    )
)
FRAME = {"q": [0.1, 0.3, None], "c": ["b", None, "a"], "m": [0.0, 1.5, None], "x": [1e-3, 2.0, 3.0]}


def test_raw_values_stand_in_schema_order_with_holes_marked() -> None:
    data = encode_frame(FRAME, SCHEMA)
    np.testing.assert_array_equal(data.numeric, [[0.1, 0.0, 1e-3], [0.3, 1.5, 2.0], [np.nan, np.nan, 3.0]])
    np.testing.assert_array_equal(data.codes, [[1], [-1], [0]])
    np.testing.assert_array_equal(data.rows, [0, 1, 2])
    assert data.counts == {"unseen": 0, "off_grid": 0, "outside": 0, "changed": 0}


def test_extra_and_reordered_columns_change_nothing() -> None:
    frame = {"extra": ["?"] * 3, **dict(reversed(list(FRAME.items())))}
    np.testing.assert_array_equal(encode_frame(frame, SCHEMA).numeric, encode_frame(FRAME, SCHEMA).numeric)


def test_a_missing_column_is_named() -> None:
    frame = {k: v for k, v in FRAME.items() if k != "x"}
    with pytest.raises(SchemaError, match=r"no column 'x'; the schema needs \['q', 'c', 'm', 'x'\], the table has"):
        encode_frame(frame, SCHEMA)


def test_columns_that_are_not_required_are_holes_where_absent() -> None:
    data = encode_frame({"q": [0.1, 0.2]}, SCHEMA, require=["q"])
    assert np.isnan(data.numeric[:, 1:]).all()
    assert (data.codes == -1).all()


def test_odd_cells_are_counted_and_never_clipped() -> None:
    frame = {"q": [0.13, 9.0, -1.0], "c": ["z", "a", "zz"], "m": [0, 1, 2], "x": [1, 2, 3]}
    data = encode_frame(frame, SCHEMA)
    assert data.counts == {"unseen": 2, "off_grid": 1, "outside": 2, "changed": 0}
    assert data.column_counts == {"q": {"off_grid": 1, "outside": 2}, "c": {"unseen": 2}}
    np.testing.assert_array_equal(data.numeric[:, 0], [0.1, 9.0, -1.0])
    np.testing.assert_array_equal(data.codes[:, 0], [-2, 0, -2])
    assert data.select(np.array([1])).counts["outside"] == 1


def test_single_precision_values_find_their_grid_point_and_atom() -> None:
    frame = {
        "q": np.array([0.1, 0.3], np.float32),
        "c": ["a", "a"],
        "m": np.array([0.2, 1], np.float32),
        "x": [1.0, 2.0],
    }
    data = encode_frame(frame, SCHEMA.with_column("m", atoms=(0.2,)))
    assert data.counts["off_grid"] == 0
    np.testing.assert_array_equal(data.numeric[:, :2], [[0.1, 0.2], [0.3, 1.0]])


def test_missing_as_a_value_is_the_last_category() -> None:
    data = encode_frame(FRAME, SCHEMA.with_column("c", missing="value"))
    np.testing.assert_array_equal(data.codes[:, 0], [1, 3, 0])


def test_infinite_values_and_words_among_numbers_are_named() -> None:
    with pytest.raises(DataError, match=r"'x' has 1 infinite values \(first in row 1, counted from 0\)"):
        encode_frame({**FRAME, "x": [1.0, np.inf, 2.0]}, SCHEMA)
    with pytest.raises(DataError, match=r"'x' is continuous and needs numbers; 1 of 3 cells are not: 'oops' in row 1"):
        encode_frame({**FRAME, "x": ["1", "oops", "2"]}, SCHEMA)


def test_text_that_holds_numbers_is_read_as_numbers() -> None:
    data = encode_frame({**FRAME, "x": ["1e-3", " 2 ", "?"]}, SCHEMA)
    np.testing.assert_array_equal(data.numeric[:, 2], [1e-3, 2.0, np.nan])


def test_categories_match_across_ways_of_writing_them() -> None:
    for storage, categories, cells in [
        ("int", ("1", "2"), [1.0, None, 2.0]),
        ("int", ("1", "2"), ["1.0", "?", "2"]),
        ("bool", ("False", "True"), ["false", "", "TRUE"]),
        ("bool", ("False", "True"), [False, None, True]),
        ("bool", ("False", "True"), [0, None, 1]),
        ("string", ("1", "2"), [1, None, 2]),
    ]:
        schema = Schema((Column("c", "binary", storage=storage, categories=categories),))  # type: ignore[arg-type]
        np.testing.assert_array_equal(encode_frame({"c": cells}, schema).codes[:, 0], [0, -1, 1])


def test_training_vocabularies_make_later_categories_unseen() -> None:
    data = encode_frame(FRAME, SCHEMA)
    training = training_schema(SCHEMA, data.select(np.array([0, 1])))
    assert training["c"].categories == ("b",)
    assert training.num_training_rows == 2
    assert training.measure == SCHEMA.measure
    seen = data.with_schema(training)
    np.testing.assert_array_equal(seen.codes[:, 0], [0, -1, -2])
    assert seen.counts["unseen"] == 1
    closed = SCHEMA.with_column("c", closed=True)
    assert training_schema(closed, encode_frame(FRAME, closed).select(np.array([0])))["c"].categories == ("a", "b", "c")


def test_missing_as_a_value_survives_a_smaller_vocabulary() -> None:
    schema = SCHEMA.with_column("c", missing="value")
    data = encode_frame(FRAME, schema)
    training = training_schema(schema, data.select(np.array([0, 1])))
    np.testing.assert_array_equal(data.with_schema(training).codes[:, 0], [0, 1, -2])


def test_rows_do_not_move_to_a_schema_of_other_columns() -> None:
    with pytest.raises(SchemaError, match="do not fit"):
        encode_frame(FRAME, SCHEMA).with_schema(Schema(SCHEMA.columns[:2]))


def test_arrays_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(SchemaError, match="do not fit"):
        TableData(np.zeros((2, 1)), np.zeros((2, 1), dtype=np.int64), np.arange(2), SCHEMA)


def test_constants_come_back_and_ignored_columns_do_not() -> None:
    frame = decode_table(encode_frame(FRAME, SCHEMA))
    assert list(frame.columns) == ["q", "c", "m", "x", "old"]
    assert frame["old"].tolist() == [7, 7, 7]


@pytest.mark.parametrize(("backend", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame), ("arrow", pa.Table)])
def test_decoding_gives_the_backend_asked_for(backend: str, kind: type) -> None:
    assert isinstance(decode_table(encode_frame(FRAME, SCHEMA), backend=backend), kind)


def test_blocks_are_lists_of_cells() -> None:
    schema = Schema(
        (
            Column("b", "binary", storage="int", categories=("0", "1"), shape=(2, 2)),
            Column("v", "quantized", storage="int", step=1.0, shape=(3,)),
        )
    )
    table = pa.table({"b": [[0, 1, 1, 0], [1, None, 0, 0]], "v": [[1, 2, 3], [4, 5, None]]})
    data = encode_frame(table, schema)
    np.testing.assert_array_equal(data.codes, [[0, 1, 1, 0], [1, -1, 0, 0]])
    np.testing.assert_array_equal(data.numeric, [[1, 2, 3], [4, 5, np.nan]])
    back = decode_table(data, backend="pyarrow")
    assert [back[name].to_pylist() for name in ("b", "v")] == [table[name].to_pylist() for name in ("b", "v")]
    with pytest.raises(DataError, match=r"'v', row 1 \(counted from 0\): 2 cells, expected 3"):
        encode_frame(pa.table({"b": table["b"], "v": [[1, 2, 3], [4, 5]]}), schema)


def test_rows_keep_their_numbers_in_the_file() -> None:
    data = encode_frame(FRAME, SCHEMA, rows=np.array([10, 20, 30]))
    assert data.select(slice(1, 3)).rows.tolist() == [20, 30]
    batch = data.batch()
    assert batch.rows.tolist() == [10, 20, 30]
    assert batch.numeric.shape == (3, 3)


def test_filling_holes_leaves_observed_cells_as_they_were() -> None:
    frame = pd.DataFrame({**FRAME, "x": ["1e-3", "?", "3.00"], "id": ["u", "v", "w"]})
    data = encode_frame(frame, SCHEMA)
    whole = TableData(np.array([[9, 9, 9.0]] * 3), np.full((3, 1), 2), data.rows, SCHEMA)
    filled = to_arrow(fill_holes(frame, data, whole)).to_pydict()
    assert filled == {
        "q": [0.1, 0.3, 9.0],
        "c": ["b", "c", "a"],
        "m": [0.0, 1.5, 9.0],
        "x": ["1e-3", "9", "3.00"],
        "id": ["u", "v", "w"],
    }
    assert isinstance(fill_holes(pl.DataFrame(FRAME), data, whole).to_native(), pl.DataFrame)


def holes(cells: st.SearchStrategy[Any], number: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.one_of(st.none(), cells), min_size=number, max_size=number)


MOMENTS = st.datetimes(datetime.datetime(1950, 1, 1), datetime.datetime(2100, 1, 1)).map(
    lambda t: t.replace(microsecond=0)
)
CELLS = {
    "float": st.floats(-1e6, 1e6).map(lambda v: v + 0.0),
    "cents": st.integers(-(10**6), 10**6).map(lambda v: v / 100),
    "int": st.integers(-(2**40), 2**40),
    "small": st.integers(0, 5),
    "bool": st.booleans(),
    "word": st.sampled_from(["a", "b c", "é", "1x"]),
    "date": st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1)),
    "time": MOMENTS,
}
KINDS = {
    "float": pa.float64(),
    "cents": pa.float64(),
    "int": pa.int64(),
    "small": pa.int64(),
    "bool": pa.bool_(),
    "word": pa.string(),
    "date": pa.date32(),
    "time": pa.timestamp("us"),
}


@pytest.mark.parametrize(
    "cells, value, filled",
    [
        (["yes", None, "NA"], "yes", ["yes", "yes", "yes"]),
        ([3.0, np.nan, 4.0], "3", [3.0, 3.0, 4.0]),
        ([None, None, None], "3", [3, 3, 3]),
        ([-999.0, 3.0, None], "3", [3.0, 3.0, 3.0]),
    ],
)
def test_holes_of_a_constant_column_get_its_value(cells: list[Any], value: str, filled: list[Any]) -> None:
    storage = "string" if value == "yes" else "int"
    columns = (Column("x", "continuous"), Column("k", "constant", storage=storage, value=value))  # type: ignore[arg-type]
    schema = Schema(columns, missing_tokens=("NA", "-999"))
    frame = pd.DataFrame({"x": [0.5, 1.5, 2.5], "k": cells})
    data = encode_frame(frame, schema)
    assert to_arrow(fill_holes(frame, data, data))["k"].to_pylist() == filled


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    number = draw(st.integers(2, 40))
    names = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=6))
    return pa.table(
        {f"{kind}{i}": pa.array(draw(holes(CELLS[kind], number)), KINDS[kind]) for i, kind in enumerate(names)}
    )


@settings(max_examples=150)
@given(table=tables())
def test_a_table_comes_back_exactly(table: pa.Table) -> None:
    schema = infer_schema(table, cache=False)
    back = decode_table(encode_frame(table, schema), backend="pyarrow")
    assert back.column_names == table.column_names
    for name in table.column_names:
        column = schema[name]
        cells, want = back[name].to_pylist(), table[name].to_pylist()
        if column.kind == "constant":  # a hole in a constant column has the value too
            assert all(a == b for a, b in zip(cells, want) if b is not None)
        elif column.kind == "quantized" and column.decimals is None and column.storage == "float":
            # no common step: values move within cells of 2^-40 of the largest
            scale = max(abs(b) for b in want if b is not None)
            assert cells == pytest.approx(want, abs=2.0**-41 * scale * 1.01)
        else:
            assert cells == want


@settings(max_examples=40)
@given(table=tables(), suffix=st.sampled_from([".csv", ".parquet"]))
def test_a_table_has_the_same_raw_values_after_a_trip_through_a_file(
    tmp_path_factory: Any, table: pa.Table, suffix: str
) -> None:
    schema = infer_schema(table, cache=False)
    path = write_frame(table, Path(tmp_path_factory.mktemp("t")) / f"t{suffix}")
    first, second = encode_frame(table, schema), encode_frame(read_frame(path, schema=schema), schema)
    np.testing.assert_array_equal(first.numeric, second.numeric)
    np.testing.assert_array_equal(first.codes, second.codes)


def test_two_dates_match_in_pandas_which_has_midnights_only() -> None:
    days = pa.table({"d": pa.array([18000, 18007, None, 18000], pa.int32()).cast(pa.date32())})
    schema = infer_schema(days, cache=False)
    assert (schema["d"].kind, schema["d"].storage) == ("binary", "date")
    data = encode_frame(days, schema)
    np.testing.assert_array_equal(encode_frame(decode_table(data, backend="pandas"), schema).codes, data.codes)


def test_a_category_in_single_precision_is_that_category() -> None:
    schema = infer_schema({"x": [0.1, 0.7, 0.1]}, cache=False)
    data = encode_frame({"x": np.array([0.1, 0.7, 0.2], np.float32).astype(np.float64)}, schema)
    np.testing.assert_array_equal(data.codes[:, 0], [0, 1, -2])


@pytest.mark.parametrize("seed", range(12))
def test_any_generated_table_is_described_encoded_and_decoded_stably(tmp_path: Path, seed: int) -> None:
    from random_tables import random_table, write_random

    frame = random_table(seed)
    if len(frame) < 2:
        with pytest.raises(DataError, match="1 row"):
            infer_schema(frame, cache=False)
        return
    path = write_random(frame, tmp_path, seed)
    schema = infer_schema(path, refused="ignore", cache=False)
    data = encode_frame(read_frame(path, schema=schema), schema)
    assert data.counts == {"unseen": 0, "off_grid": 0, "outside": 0, "changed": 0}
    if schema.scored:
        again = encode_frame(decode_table(data, backend="polars"), schema)
        np.testing.assert_array_equal(again.numeric, data.numeric)
        np.testing.assert_array_equal(again.codes, data.codes)


def test_durations_come_back_as_durations_and_are_seconds_in_text(tmp_path: Path) -> None:
    spans = pa.array(np.random.default_rng(0).integers(0, 10**6, 200) * 500, pa.duration("ms"))
    few = pa.array([3_000_000, 60_000_000] * 100, pa.duration("us"))
    table = pa.table({"span": spans, "two": few})
    schema = infer_schema(table, cache=False)
    assert (schema["span"].storage, schema["two"].kind) == ("duration", "binary")
    assert schema["two"].categories == ("3", "60")
    data = encode_frame(table, schema)
    assert data.counts["unseen"] == 0
    assert data.numeric[:, 0] == pytest.approx(np.asarray(spans.cast(pa.int64())) / 1000, rel=0, abs=0)
    back = decode_table(data, backend="pyarrow")
    assert back.schema.types == [pa.duration("us")] * 2
    assert back["span"].to_pylist() == table["span"].to_pylist()
    assert back["two"].to_pylist() == table["two"].to_pylist()
    again = encode_frame(write_frame(back, tmp_path / "t.csv"), schema)
    np.testing.assert_array_equal(again.numeric, data.numeric)
    np.testing.assert_array_equal(again.codes, data.codes)


def test_decimals_are_read_to_the_last_digit() -> None:
    cents = [Decimal(k).scaleb(-2) for k in range(1, 5000, 7)]
    array = pa.array(cents, pa.decimal128(18, 2))
    np.testing.assert_array_equal(numbers(array), [float(value) for value in cents])


@pytest.mark.parametrize(
    "kind", [pa.timestamp("ns"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("s"), pa.duration("ns"), pa.date32()]
)
def test_filling_keeps_the_finest_digits_and_the_zone_of_observed_times(kind: pa.DataType) -> None:
    ticks = np.random.default_rng(0).integers(0, 20_000 if pa.types.is_date(kind) else 10**9, 60)
    cells = pa.array(ticks.astype(np.int32) if pa.types.is_date(kind) else ticks).cast(kind)
    holes = pa.array(np.arange(60) % 5 == 0)
    table = pa.table({"t": pc.if_else(holes, pa.scalar(None, kind), cells)})
    data = encode_frame(table, infer_schema(table, cache=False))
    full = replace(data, numeric=np.nan_to_num(data.numeric, nan=float(np.nanmin(data.numeric))))
    filled = to_arrow(fill_holes(table, data, full))["t"].combine_chunks()
    assert filled.type == kind
    assert filled.null_count == 0
    observed = pc.invert(holes)
    assert filled.filter(observed).equals(cells.filter(observed))


def test_numbers_among_words_are_known_in_whatever_form_they_are_written() -> None:
    schema = Schema((Column("v", "categorical", storage="string", categories=("1", "2", "3o", "007")),))
    cells = ["1.0", "2", "3o", "7", " 2 ", "007", "x", None]
    assert encode_frame(pd.DataFrame({"v": cells}), schema).codes[:, 0].tolist() == [0, 1, 2, -2, 1, 3, -2, -1]


def test_training_rows_beyond_declared_bounds_are_refused_by_name_and_an_atom_there_is_none() -> None:
    frame = pd.DataFrame({"paid": [0.0, 0.0, 3.5, 4.25, 0.5], "c": list("abaab")})
    column = {"kind": "mixed", "atoms": [0.0], "lower": 1.0}
    schema = infer_schema(frame, overrides={"paid": column})
    data = encode_frame(frame, schema)
    assert data.column_counts == {"paid": {"outside": 1}}  # 0 has a probability of its own
    with pytest.raises(DataError, match=r"'paid': 1 training values .*\(lower 1\), the first of them is 0.5 in row 4"):
        require_inside(data)
    require_inside(data.select(np.arange(4)))
