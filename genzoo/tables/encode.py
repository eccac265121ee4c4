"""A frame under a schema: to plain arrays of raw values, and back to a frame in the table's own form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genzoo.errors import DataError, SchemaError
from genzoo.tables.cells import as_array, can_be_number, is_text, number_text, numbers, texts, type_text
from genzoo.tables.decode import decode_table, fill_holes
from genzoo.tables.frames import read_frame, to_arrow
from genzoo.tables.grid import snap
from genzoo.tables.schema import UNMODELLED_ROLES, Column, Schema
from genzoo.tables.weights import row_weights

if TYPE_CHECKING:
    from genzoo.tables.batch import TableBatch

HOLE = -1
UNSEEN = -2
COUNTED = ("unseen", "off_grid", "outside", "changed")


@dataclass(frozen=True)
class TableData:
    """Rows of a table as raw values; what a datamodule holds and a model scores.

    Args:
        numeric: ``(n, widths of schema.numeric)`` float64, NaN is a hole; or, to save memory, bytes (pictures).
        codes: ``(n, widths of schema.categorical)`` int64 into the column's categories; -1 a hole, -2 not seen in
            training. A hole of a column with ``missing: value`` has the code after the last category.
        rows: ``(n,)`` int64, number of each row in its file.
        schema: What the columns are.
        counts: Cells that are ``unseen`` (a category outside the vocabulary), ``off_grid`` (of a quantized column,
            moved to the nearest grid point), ``outside`` (beyond declared bounds, left as they are) and ``changed``
            (another value than the only one of a constant column, which no model reads).
        column_counts: The same by column, columns with none left out.
        weights: ``(n,)`` float64 above 0, how much each row counts; ``None`` where all count the same.
    """

    numeric: np.ndarray
    codes: np.ndarray
    rows: np.ndarray
    schema: Schema
    counts: Mapping[str, int] = field(default_factory=dict)
    column_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        widths = sum(c.width for c in self.schema.numeric), sum(c.width for c in self.schema.categorical)
        shapes = (len(self.rows), widths[0]), (len(self.rows), widths[1])
        if (self.numeric.shape, self.codes.shape) != shapes:
            raise SchemaError(
                f"arrays of shape {self.numeric.shape} and {self.codes.shape} do not fit {shapes} of the schema"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Hash of the rows: their numbers (in the file and in the cells) and which cells are missing.

        Categories enter by being there or not: their codes depend on the vocabulary of a training split.
        """
        digest = hashlib.sha256()
        for array in (self.rows, np.where(np.isnan(self.numeric), np.nan, self.numeric), self.codes == HOLE):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def select(self, index: np.ndarray | slice) -> TableData:
        """The rows at ``index`` (positions or a boolean mask), counted anew where counts can be read off the values."""
        weights = None if self.weights is None else self.weights[index]
        part = replace(
            self, numeric=self.numeric[index], codes=self.codes[index], rows=self.rows[index], weights=weights
        )
        return replace(part, **self._counted_anew(part))

    def _counted_anew(self, data: TableData) -> dict[str, Any]:
        """Counts of other rows, or of these under another schema; what cannot be read off the values stays."""
        kept = {kind: self._counted(kind) for kind in ("off_grid", "changed")}
        return _merged(data.schema, {"unseen": _unseen_cells(data), "outside": _outside_cells(data)} | kept)

    def _counted(self, kind: str) -> dict[str, int]:
        return {name: found[kind] for name, found in self.column_counts.items() if found.get(kind)}

    def with_schema(self, schema: Schema) -> TableData:
        """The same rows under a schema that differs in vocabularies alone; categories it lacks become unseen (-2).

        Raises:
            SchemaError: the schema differs in more than vocabularies.
        """
        if [c.name for c in schema.categorical] != [c.name for c in self.schema.categorical] or [
            c.name for c in schema.numeric
        ] != [c.name for c in self.schema.numeric]:
            raise SchemaError(
                f"rows with columns {[c.name for c in self.schema.columns]} do not fit a schema with columns "
                f"{[c.name for c in schema.columns]}"
            )
        codes = self.codes.copy()
        start = 0
        for old, new in zip(self.schema.categorical, schema.categorical):
            block = slice(start, start + old.width)
            start += old.width
            if old.categories == new.categories and old.missing == new.missing:
                continue
            place = {name: code for code, name in enumerate(new.categories)}
            hole = len(new.categories) if new.missing == "value" else HOLE
            # The last two entries of the table are what the negative codes -2 and -1 find.
            known = [place.get(name, UNSEEN) for name in old.categories]
            known += [hole] if old.missing == "value" else []
            codes[:, block] = np.array([*known, UNSEEN, hole])[codes[:, block]]
        data = replace(self, codes=codes, schema=schema)
        return replace(data, **self._counted_anew(data))

    def batch(self) -> TableBatch:
        """All rows as tensors."""
        import torch

        from genzoo.tables.batch import TableBatch

        return TableBatch(
            torch.as_tensor(np.ascontiguousarray(self.numeric, dtype=np.float64)),
            torch.as_tensor(np.ascontiguousarray(self.codes, dtype=np.int64)),
            torch.as_tensor(np.ascontiguousarray(self.rows)),
            None if self.weights is None else torch.as_tensor(np.ascontiguousarray(self.weights, dtype=np.float64)),
        )


def encode_frame(
    frame: Any, schema: Schema, *, rows: np.ndarray | None = None, require: Iterable[str] | None = None
) -> TableData:
    """Raw values of the modelled columns of a frame; columns are found by name, in any order, others are ignored.

    Nothing is clipped: a number off the grid of a quantized column moves to the nearest grid point and is counted, one
    beyond a declared bound stays and is counted, an unknown category gets code -2 and is counted. A number that agrees
    with an atom to single precision is that atom. A weight column is read where the table has it; scoring rows does not
    need one.

    Args:
        frame: Anything :func:`genzoo.tables.frames.read_frame` takes.
        schema: What the columns are.
        rows: ``(n,)`` row numbers in the file; default 0, 1, 2, ...
        require: Columns that must be there; the others are holes where absent. Default: all modelled columns.

    Raises:
        SchemaError: a column is missing.
        DataError: a number column holds text or infinite values, or a weight is missing or not above 0.
    """
    frame = frame if isinstance(frame, nw.DataFrame) else read_frame(frame, schema=schema)
    _require_columns(frame.columns, schema, require)
    number = len(frame)
    rows = np.arange(number, dtype=np.int64) if rows is None else np.asarray(rows, dtype=np.int64)
    table = to_arrow(frame.select([c.name for c in schema.columns if c.is_modelled and c.name in frame.columns]))
    found: dict[str, dict[str, int]] = {kind: {} for kind in COUNTED}
    numeric, codes = [np.empty((number, 0))], [np.empty((number, 0), dtype=np.int64)]
    for column in schema.numeric:
        if column.name not in table.column_names:
            numeric.append(np.full((number, column.width), np.nan))
            continue
        values = number_cells(_flat(table[column.name], column), column, schema.missing_tokens)
        values, found["off_grid"][column.name] = _on_measure(values, column)
        numeric.append(values.reshape(number, column.width))
    for column in schema.categorical:
        if column.name not in table.column_names:
            codes.append(np.full((number, column.width), HOLE, dtype=np.int64))
            continue
        codes.append(
            _codes(_flat(table[column.name], column), column, schema.missing_tokens).reshape(number, column.width)
        )
    weights = None
    if schema.weight is not None and schema.weight.name in frame.columns:
        weights = row_weights(to_arrow(frame.select(schema.weight.name))[schema.weight.name], schema)
    data = TableData(np.concatenate(numeric, axis=1), np.concatenate(codes, axis=1), rows, schema, weights=weights)
    found["unseen"], found["outside"] = _unseen_cells(data), _outside_cells(data)
    found["changed"] = _changed_cells(frame, schema)
    return replace(data, **_merged(schema, found))


def _require_columns(present: Sequence[str], schema: Schema, require: Iterable[str] | None) -> None:
    wanted = [c.name for c in schema.columns if c.is_modelled] if require is None else list(require)
    lacking = [name for name in wanted if name not in present]
    if lacking:
        raise SchemaError(
            f"the table has no column {', '.join(map(repr, lacking[:12]))}"
            + (f" and {len(lacking) - 12} more" if len(lacking) > 12 else "")
            + f"; the schema needs {_listed(wanted)}, the table has {_listed(present)}"
        )


def _listed(names: Sequence[str]) -> str:
    names = list(names)
    return str(names) if len(names) <= 12 else f"{str(names[:12])[:-1]}, ... {len(names) - 12} more]"


def _flat(cells: pa.ChunkedArray, column: Column) -> pa.Array:
    """The cells of a column; those of a block row by row."""
    array = as_array(cells)
    if column.storage == "text" and is_text(array.type):
        return _characters(array, column)
    nested = (
        pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type)
    )
    if not column.shape:
        if nested:
            raise DataError(
                f"column '{column.name}' holds lists; give it a shape in the schema, or split it into columns"
            )
        return array
    if not nested:
        raise DataError(
            f"column '{column.name}' is a block of shape {column.shape} and needs lists of {column.width} cells"
        )
    lengths = np.asarray(pc.list_value_length(array).fill_null(-1))
    if np.any(lengths != column.width):
        row = int(np.flatnonzero(lengths != column.width)[0])
        raise DataError(
            f"column '{column.name}', row {row} (counted from 0): {max(int(lengths[row]), 0)} cells, "
            f"expected {column.width} (shape {column.shape})"
        )
    return as_array(array.flatten())


def _characters(array: pa.Array, column: Column) -> pa.Array:
    """The characters of a column of text, row by row; a missing text is a row of missing characters."""
    words = array.to_pylist()
    for row, word in enumerate(words):
        if word is not None and len(word) != column.width:
            raise DataError(
                f"column '{column.name}', row {row} (counted from 0): {len(word)} characters, expected {column.width} "
                f"(shape {list(column.shape)}); cut the text into pieces of that length"
            )
    cells = [c for word in words for c in (word if word is not None else [None] * column.width)]
    return pa.array(cells, pa.string())


def number_cells(cells: pa.Array, column: Column, tokens: Iterable[str]) -> np.ndarray:
    """Cells of a number column as float64, NaN where missing (dates in days, date-times in seconds since 1970).

    Raises:
        DataError: text among the numbers, or infinite values.
    """
    if pa.types.is_null(cells.type):
        return np.full(len(cells), np.nan)
    if is_text(cells.type):
        typed = type_text(cells, tokens)
        if is_text(typed.type) and typed.null_count < len(typed):
            typed = _parse_numbers(typed, column)
        cells = typed
    if not can_be_number(cells.type):
        if is_text(cells.type) or pa.types.is_null(cells.type):
            return np.full(len(cells), np.nan)
        raise DataError(f"column '{column.name}' is {column.kind} and needs numbers; the table holds {cells.type}")
    cells = _dated(cells, column)
    if column.storage in ("date", "datetime") and not (
        pa.types.is_date(cells.type) or pa.types.is_timestamp(cells.type)
    ):
        if cells.null_count == len(cells):
            return np.full(len(cells), np.nan)
        raise DataError(
            f"column '{column.name}' holds {column.storage}s (like 2024-01-31) in the schema, {cells.type} in the table"
        )
    values = numbers(cells, tokens)
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.flatnonzero(infinite)[0]) // column.width
        raise DataError(
            f"column '{column.name}' has {int(infinite.sum())} infinite values (first in row {row}, counted from 0); "
            "replace them by numbers, or leave the cells empty"
        )
    return values


def _dated(cells: pa.Array, column: Column) -> pa.Array:
    """Dates as date-times and the other way round, where the schema has the other (pandas has date-times alone)."""
    if column.storage == "date" and pa.types.is_timestamp(cells.type):
        return cells.cast(pa.date32(), safe=False)
    if column.storage == "datetime" and pa.types.is_date(cells.type):
        return cells.cast(pa.timestamp("us"))
    return cells


def _parse_numbers(cells: pa.Array, column: Column) -> pa.Array:
    """Text that the whole-column rules left as text (leading zeros), read as numbers; else an error with examples."""
    try:
        return pc.utf8_trim_whitespace(cells).cast(pa.float64())
    except pa.ArrowInvalid:
        pass
    dates = {"date": "dates (like 2024-01-31)", "datetime": "date-times (like 2024-01-31 12:00)"}.get(column.storage)
    wrong = []
    for row, cell in enumerate(cells.to_pylist()):
        if cell is not None and not (_is_date(cell) if dates else _is_number(cell)):
            wrong.append((cell, row // column.width))
    shown = ", ".join(f"{cell!r} in row {row}" for cell, row in wrong[:3])
    raise DataError(
        f"column '{column.name}' is {column.kind} and needs {dates or 'numbers'}; {len(wrong)} of {len(cells)} cells "
        f"are not: {shown} (rows count from 0); correct them, or name them as missing tokens"
    )


def _is_date(cell: str) -> bool:
    kind = type_text(pa.array([cell]), ()).type
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _on_measure(values: np.ndarray, column: Column) -> tuple[np.ndarray, int]:
    """Values at their atoms and grid points; and the number that lay off the grid by more than storage error."""
    off = 0
    if column.kind == "quantized":
        near = snap(values, column)
        with np.errstate(invalid="ignore"):
            scale = np.nanmax(np.abs(values), initial=0.0, where=~np.isnan(values))
            slack = np.maximum(1e-6 * float(column.step or 1.0), 2.0**-22 * np.abs(values))
            off = int(np.sum(np.abs(values - near) > np.maximum(slack, 2.0**-39 * scale)))
        values = near
    for atom in column.atoms:
        # single precision on either side of the comparison
        values = np.where(np.abs(values - atom) <= 2.0**-23 * abs(atom), atom, values)
    return values, off


def _codes(cells: pa.Array, column: Column, tokens: Iterable[str]) -> np.ndarray:
    known = pa.array(column.categories, pa.string())
    cells = _dated(cells, column)
    words = pa.nulls(len(cells), pa.string()) if pa.types.is_null(cells.type) else texts(cells, tokens)
    if column.storage == "bool":
        low = pc.utf8_lower(words)
        true, false = (pc.is_in(low, value_set=pa.array(w, pa.string())) for w in (["true", "1"], ["false", "0"]))
        words = pc.if_else(true, "True", pc.if_else(false, "False", words)).cast(pa.string())
    elif column.storage not in ("string", "text") and is_text(cells.type):  # '1.0' in a file for 1 in the schema
        words = texts(_dated(type_text(words, tokens), column), tokens)
    index = pc.index_in(words, value_set=known)
    if column.storage == "string" and index.null_count > words.null_count:
        for other in (pc.utf8_trim_whitespace(words), _shortest(words)):  # '6.0' of a file written anew is the 6 known
            index = pc.coalesce(index, pc.index_in(other, value_set=known))
    codes = np.array(index.fill_null(UNSEEN).to_numpy(zero_copy_only=False), dtype=np.int64)
    if column.storage == "float" and can_be_number(cells.type):  # 0.1 in single precision is 0.1
        values, lost = numbers(cells, tokens), codes == UNSEEN
        for code, category in enumerate(np.array(column.categories, dtype=np.float64) if lost.any() else ()):
            codes[lost & (np.abs(values - category) <= 2.0**-23 * abs(category))] = code
    codes[np.asarray(words.is_null())] = len(column.categories) if column.missing == "value" else HOLE
    return codes


def _shortest(words: pa.Array) -> pa.Array:
    """Texts that are numbers in the shortest form of these, others as they are."""
    coded = words.dictionary_encode()
    names = [number_text(float(word)) if _is_number(word) else word for word in coded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(coded.indices)


def _by_column(columns: Sequence[Column], hit: np.ndarray) -> dict[str, int]:
    found, start = {}, 0
    for column in columns:
        number = int(hit[:, start : start + column.width].sum())
        start += column.width
        if number:
            found[column.name] = number
    return found


def _unseen_cells(data: TableData) -> dict[str, int]:
    return _by_column(data.schema.categorical, data.codes == UNSEEN)


def require_inside(data: TableData) -> None:
    """Refuses training rows that declared bounds make impossible.

    Raises:
        DataError: names the first such column, its bounds, and a row.
    """
    start = 0
    for column in data.schema.numeric:
        cells = data.numeric[:, start : start + column.width]
        start += column.width
        outside = _outside(column, cells)
        rows = np.flatnonzero(outside.any(1))
        if len(rows):
            value = cells[rows[0]][outside[rows[0]]][0]
            limits = [
                f"{name} {number_text(v)}" for name in ("lower", "upper") if (v := getattr(column, name)) is not None
            ]
            raise DataError(
                f"column '{column.name}': {int(outside.sum())} training values are outside its declared bounds "
                f"({', '.join(limits)}), the first of them is {number_text(float(value))} in row {data.rows[rows[0]]} "
                "(counted from 0); correct the bounds or the cells, or leave the rows out"
            )


def _outside(column: Column, cells: np.ndarray) -> np.ndarray:
    """Cells beyond the declared bounds; an atom there has a probability of its own."""
    outside = np.zeros(cells.shape, dtype=bool)
    if column.lower is not None:
        outside |= cells < column.lower
    if column.upper is not None:
        outside |= cells > column.upper
    return outside & ~np.isin(cells, column.atoms) if outside.any() else outside


def _outside_cells(data: TableData) -> dict[str, int]:
    columns = data.schema.numeric
    if all(c.lower is None and c.upper is None for c in columns):
        return {}
    ends = np.cumsum([c.width for c in columns])
    parts = np.split(data.numeric, ends[:-1], axis=1)
    return _by_column(columns, np.concatenate([_outside(c, part) for c, part in zip(columns, parts)], axis=1))


def _changed_cells(frame: nw.DataFrame[Any], schema: Schema) -> dict[str, int]:
    """Cells of constant columns that hold another value than in training (any, where all were missing there)."""
    found = {}
    for column in schema.columns:
        if column.kind != "constant" or column.role in UNMODELLED_ROLES or column.name not in frame.columns:
            continue
        cells = as_array(to_arrow(frame.select(column.name))[column.name])
        if pa.types.is_nested(cells.type):
            found[column.name] = len(cells) - cells.null_count
            continue
        if column.value is None:
            words = cells if pa.types.is_null(cells.type) else texts(cells, schema.missing_tokens)
            found[column.name] = len(words) - words.null_count
            continue
        only = replace(column, kind="categorical", categories=(str(column.value),), value=None)
        found[column.name] = int((_codes(cells, only, schema.missing_tokens) == UNSEEN).sum())
    return found


def _merged(schema: Schema, found: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The fields ``counts`` and ``column_counts`` of a :class:`TableData`."""
    by_column: dict[str, dict[str, int]] = {}
    for kind in COUNTED:
        for name, number in found.get(kind, {}).items():
            if number:
                by_column.setdefault(name, {})[kind] = number
    totals = {kind: sum(found.get(kind, {}).values()) for kind in COUNTED}
    return {"counts": totals, "column_counts": by_column}


def training_schema(schema: Schema, data: TableData) -> Schema:
    """The schema with what training rows decide: their number, and the vocabulary of each open column.

    Args:
        schema: The schema of the whole table, under which ``data`` was encoded.
        data: Training rows. A column of which they hold no cell keeps the whole vocabulary.
    """
    vocabularies: dict[str, list[str]] = {}
    start = 0
    for column in schema.categorical:
        block = data.codes[:, start : start + column.width]
        start += column.width
        seen = np.zeros(len(column.categories) + 1, dtype=bool)
        seen[np.unique(block[block >= 0])] = True
        kept = [name for name, present in zip(column.categories, seen) if present]
        vocabularies[column.name] = kept or list(column.categories)
    return schema.for_training(len(data), vocabularies)


__all__ = [
    "HOLE",
    "UNSEEN",
    "TableData",
    "decode_table",
    "encode_frame",
    "fill_holes",
    "number_cells",
    "snap",
    "training_schema",
]
