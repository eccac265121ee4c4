"""From the cells of a column to numbers or text, whatever the file or frame they came from."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genzoo.tables.schema import MISSING_TOKENS

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_INFINITE = r"(?i)^[+-]?inf(inity)?$"
_INTEGER = r"^[+-]?\d{1,18}$"
_PADDED = r"^[+-]?0\d"  # 007 is a name, not a number
_DATE = r"^\d{4}-\d{2}-\d{2}$"
_DATETIME = r"^\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?"
_ZONE = r"(Z|[+-]\d{2}(:?\d{2})?)$"
_NANOSECONDS = r"\.\d{7,9}"
_SECONDS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def as_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One contiguous array, dictionaries decoded."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column


def is_nested(kind: pa.DataType) -> bool:
    """Whether cells of this Arrow type are lists (a block column)."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def flat_cells(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The cells of a column; those of a block one row after the other."""
    array = as_array(column)
    return as_array(array.flatten()) if is_nested(array.type) else array


def is_text(kind: pa.DataType) -> bool:
    """Whether cells of this Arrow type are text."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def drop_tokens(column: pa.Array, tokens: Iterable[str]) -> pa.Array:
    """Text cells with missing tokens (compared without surrounding blanks) made null."""
    column = column.cast(pa.string())
    found = pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(list(tokens), pa.string()))
    return pc.if_else(found, pa.scalar(None, pa.string()), column)


def numeric_tokens(tokens: Iterable[str]) -> tuple[float, ...]:
    """Missing tokens that are numbers (``-999``); they also empty cells of number columns."""
    return tuple(float(token) for token in tokens if re.match(_NUMBER, token))


def type_text(column: pa.Array, tokens: Iterable[str] = MISSING_TOKENS) -> pa.Array:
    """Text cells as integers, decimal numbers, dates or date-times where every cell is one; else text with nulls.

    A number with a leading zero (``007``) and a decimal comma (``1,5``) keep the whole column text. Date-times with a
    zone (``2024-01-31T12:00:00Z``, ``+01:00``) become moments in UTC; with and without a zone in one column stay text.
    """
    column = drop_tokens(column, tokens)
    coded = column.dictionary_encode()
    names = coded.dictionary.drop_null()
    if len(names) == 0:
        return column
    trimmed = pc.utf8_trim_whitespace(names)

    def every(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(trimmed, pattern)).as_py())

    target: pa.DataType | None = None
    if every(_NUMBER + "|" + _INFINITE) and not pc.any(pc.match_substring_regex(trimmed, _PADDED)).as_py():
        if every(_INTEGER):
            target = pa.int64()
        elif not every(r"^[+-]?\d+$"):  # integers of 19 digits and more are names
            target = pa.float64()
    elif every(_DATE):
        target = pa.date32()
    elif every(_DATETIME + "$") or every(_DATETIME + _ZONE):
        unit = "ns" if pc.any(pc.match_substring_regex(trimmed, _NANOSECONDS)).as_py() else "us"
        target = pa.timestamp(unit, None if every(_DATETIME + "$") else "UTC")
    if target is None:
        return column
    plain = pc.replace_substring_regex(trimmed, r"^\+", "")
    try:
        values = plain.cast(target)
    except pa.ArrowInvalid:  # 2023-02-31
        return column
    if coded.dictionary.null_count:
        return _retype(column, names, values)
    return values.take(coded.indices)


def _retype(column: pa.Array, names: pa.Array, values: pa.Array) -> pa.Array:
    return values.take(pc.index_in(column, value_set=names))


def storage_of(kind: pa.DataType) -> str:
    """How the cells of an Arrow type are written: see ``Column.storage``."""
    if is_text(kind):
        return "string"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return "datetime"
    if pa.types.is_duration(kind):
        return "duration"
    if pa.types.is_integer(kind):
        return "int"
    return "float"


def can_be_number(kind: pa.DataType) -> bool:
    """Whether :func:`numbers` reads cells of this Arrow type."""
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_duration(kind)
        or pa.types.is_boolean(kind)
    )


def numbers(column: pa.Array, tokens: Iterable[str] = ()) -> np.ndarray:
    """Cells as float64, NaN where missing: dates in days and date-times in seconds since 1970-01-01 (UTC), durations in
    seconds.

    Args:
        column: Cells of a number, date or boolean type (see :func:`can_be_number`).
        tokens: Missing tokens; those that are numbers empty the cells equal to them.
    """
    kind = column.type
    if pa.types.is_date64(kind):
        column, kind = column.cast(pa.date32()), pa.date32()
    if pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    elif pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        ticks = _SECONDS[kind.unit]
        whole = column.cast(pa.int64())
        null = np.asarray(whole.is_null())
        count = whole.fill_null(0).to_numpy(zero_copy_only=False)
        seconds = count // ticks + (count % ticks) / ticks
        return np.where(null, np.nan, seconds)
    elif pa.types.is_decimal(kind):
        column = as_double(column)
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    result = np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    for token in numeric_tokens(tokens):
        result[result == token] = np.nan
    return result


def as_double(column: pa.Array) -> pa.Array:
    """Numbers as float64; decimals through their digits, for Arrow's own cast is off in the last place."""
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.string())
    return column.cast(pa.float64())


def texts(column: pa.Array, tokens: Iterable[str] = ()) -> pa.Array:
    """Cells as text, null where missing; a number in its shortest form (``1``, not ``1.0``), a duration in seconds."""
    kind = column.type
    if is_text(kind):
        return drop_tokens(column, tokens)
    if pa.types.is_boolean(kind):
        return pc.if_else(column, "True", "False").cast(pa.string())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_duration(kind):
        single = pa.types.is_float32(kind) or pa.types.is_float16(kind)
        values = numbers(column, tokens)
        names, index = np.unique(values, return_inverse=True)
        words = pa.array([None if np.isnan(v) else number_text(v, single) for v in names.tolist()], pa.string())
        return words.take(pa.array(index.reshape(-1)))
    if pa.types.is_integer(kind):
        lost = [int(token) for token in numeric_tokens(tokens) if token.is_integer()]
        text = column.cast(pa.string())
        return drop_tokens(text, [str(token) for token in lost]) if lost else text
    if pa.types.is_timestamp(kind):
        return pc.replace_substring_regex(
            column.cast(pa.timestamp("us"), safe=False).cast(pa.string()), r"\.000000$", ""
        )
    return column.cast(pa.string())


def number_text(value: float, single: bool = False) -> str:
    """A number in the shortest form that reads back equal (``single``: equal in single precision)."""
    if value == int(value) if np.isfinite(value) else False:
        return str(int(value))
    return str(np.float32(value)) if single else repr(float(value))
