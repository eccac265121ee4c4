"""Raw values back to a frame in the table's own form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genzoo.tables.cells import as_array, as_double, drop_tokens, is_text, texts
from genzoo.tables.frames import read_frame, to_arrow, to_native
from genzoo.tables.grid import plainest, snap
from genzoo.tables.schema import UNMODELLED_ROLES, Column, Schema

if TYPE_CHECKING:
    from genzoo.tables.encode import TableData

HOLE = -1


def decode_table(data: TableData, schema: Schema | None = None, backend: Any = "pandas") -> Any:
    """A frame in the table's own form: integers, dates and categories as stored, constants restored.

    Columns with role ignore, time, group or weight are absent.

    Args:
        data: Raw values (rows of a table, or samples).
        schema: Their schema; default ``data.schema``.
        backend: ``pandas``, ``polars``, ``pyarrow``, or a frame whose form is taken.
    """
    schema = schema or data.schema
    arrays: dict[str, pa.Array] = {}
    start = 0
    for column in schema.numeric:
        arrays[column.name] = _blocked(
            _numbers_out(data.numeric[:, start : start + column.width].reshape(-1), column), column
        )
        start += column.width
    start = 0
    for column in schema.categorical:
        arrays[column.name] = _blocked(
            _categories_out(data.codes[:, start : start + column.width].reshape(-1), column), column
        )
        start += column.width
    for column in schema.columns:
        if column.kind == "constant" and column.role not in UNMODELLED_ROLES:
            arrays[column.name] = _blocked(
                _written([column.value], column).take(pa.array(np.zeros(len(data) * column.width, dtype=np.int64))),
                column,
            )
    names = [c.name for c in schema.columns if c.name in arrays]
    return to_native(pa.table([arrays[name] for name in names], names=names), backend)


def _blocked(flat: pa.Array, column: Column) -> pa.Array:
    if column.storage == "text":
        cells = flat.to_pylist()
        words = (cells[i : i + column.width] for i in range(0, len(cells), column.width))
        return pa.array([None if None in word else "".join(word) for word in words], pa.string())
    return pa.FixedSizeListArray.from_arrays(flat, column.width) if column.shape else flat


def _numbers_out(values: np.ndarray, column: Column) -> pa.Array:
    hole = np.isnan(values)
    if column.kind == "quantized":
        values = snap(values, column)
        if column.decimals is None and column.storage == "float":
            values = plainest(values, float(column.step or 1.0))
    elif column.decimals is not None:
        values = np.round(values, column.decimals)
    if column.atoms:
        atoms = np.array(column.atoms)
        nearest = atoms[np.abs(values[:, None] - atoms).argmin(axis=1)] if len(values) else values
        values = np.where(np.abs(values - nearest) <= 2.0**-23 * np.abs(nearest), nearest, values)
    if column.storage in ("int", "date"):
        bound = 2.0**31 - 1 if column.storage == "date" else 2.0**62
        whole = np.clip(np.rint(np.where(hole, 0.0, values)), -bound, bound).astype(np.int64)
        array = pa.array(whole, pa.int64(), mask=hole)
        return array.cast(pa.int32()).cast(pa.date32()) if column.storage == "date" else array
    if column.storage in ("datetime", "duration"):
        ticks = np.clip(np.rint(np.where(hole, 0.0, values) * 1e6), -(2.0**62), 2.0**62).astype(np.int64)
        return pa.array(ticks, pa.int64(), mask=hole).cast(
            pa.timestamp("us") if column.storage == "datetime" else pa.duration("us")
        )
    return pa.array(values, pa.float64(), mask=hole)


def _categories_out(codes: np.ndarray, column: Column) -> pa.Array:
    known = (codes >= 0) & (codes < len(column.categories))
    words = _written(list(column.categories), column)
    return (
        words.take(pa.array(np.where(known, codes, 0), mask=~known)) if len(words) else pa.nulls(len(codes), words.type)
    )


def _written(words: list[str | None], column: Column) -> pa.Array:
    """Categories, or the value of a constant column, as cells of the column's storage."""
    array = pa.array(words, pa.string())
    if column.storage == "bool":
        return pa.array([None if w is None else w == "True" for w in words], pa.bool_())
    if column.storage == "duration":
        ticks = [None if w is None else round(float(w) * 1e6) for w in words]
        return pa.array(ticks, pa.int64()).cast(pa.duration("us"))
    kinds = {"int": pa.int64(), "float": pa.float64(), "date": pa.date32(), "datetime": pa.timestamp("us")}
    if column.storage in kinds:
        return array.cast(kinds[column.storage])
    return array


def fill_holes(frame: Any, data: TableData, completed: TableData) -> nw.DataFrame[Any]:
    """The frame with its missing modelled cells taken from ``completed``; every observed cell is left untouched.

    A hole in a constant column gets the column's one value.

    Args:
        frame: The rows as they were given.
        data: The same rows encoded, with holes.
        completed: The same rows without holes.
    """
    frame = frame if isinstance(frame, nw.DataFrame) else read_frame(frame)
    table = to_arrow(frame)
    filled = decode_table(completed, data.schema, "pyarrow")
    holes: dict[str, np.ndarray] = {}
    for columns, gone in ((data.schema.numeric, np.isnan(data.numeric)), (data.schema.categorical, data.codes == HOLE)):
        start = 0
        for column in columns:
            holes[column.name] = gone[:, start : start + column.width].any(axis=1)
            start += column.width
    out: dict[str, Any] = {name: table[name] for name in table.column_names}
    for column in data.schema.columns:
        fixed = column.kind == "constant" and column.value is not None and column.missing == "hole"
        if fixed and column.role == "value" and column.name in out:
            holes[column.name] = _empty(as_array(out[column.name]), data.schema.missing_tokens)
        gone = holes.get(column.name)
        if gone is None or not gone.any():
            continue
        if column.name not in out:
            out[column.name] = filled[column.name]
            continue
        given, drawn = as_array(out[column.name]), as_array(filled[column.name])
        out[column.name] = _merge(given, drawn, gone, column, data.schema.missing_tokens)
    backend = frame.to_native() if isinstance(frame, nw.DataFrame) else frame
    return nw.from_native(to_native(pa.table(list(out.values()), names=list(out)), backend), eager_only=True)


def _empty(cells: pa.Array, tokens: Iterable[str]) -> np.ndarray:
    """Which cells are missing: null, NaN, or one of the words for it."""
    plain = pa.types.is_null(cells.type) or pa.types.is_nested(cells.type)
    gone = pc.is_null(cells if plain else texts(cells, tokens))
    return np.asarray(gone.to_numpy(zero_copy_only=False), dtype=bool)


def _merge(given: pa.Array, drawn: pa.Array, gone: np.ndarray, column: Column, tokens: Iterable[str]) -> pa.Array:
    mask = pa.array(gone)
    if column.shape:
        kept = given.to_pylist()
        if column.storage == "text":  # lists of characters, some of them missing, become texts
            kept = [word if word is None or isinstance(word, str) or None in word else "".join(word) for word in kept]
        return pa.array([b if hole else a for a, b, hole in zip(kept, drawn.to_pylist(), gone)], drawn.type)
    if pa.types.is_null(given.type):
        return drawn
    if is_text(given.type):
        return pc.if_else(mask, texts(drawn), drop_tokens(given, tokens))
    if pa.types.is_integer(given.type) and pa.types.is_integer(drawn.type):
        given = given.cast(pa.int64())
    elif pa.types.is_floating(given.type) or pa.types.is_decimal(given.type):
        given, drawn = as_double(given), drawn.cast(pa.float64())
    elif pa.types.is_temporal(given.type):  # nanoseconds and time zones of the observed cells stay
        drawn = drawn.cast(given.type, safe=False)
    else:
        given = given.cast(drawn.type, safe=False)
    return pc.if_else(mask, drawn, given)
