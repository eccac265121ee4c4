"""Counting the values of a column in one pass, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genzoo.errors import DataError
from genzoo.tables.cells import (
    as_array,
    can_be_number,
    is_text,
    number_text,
    numbers,
    storage_of,
    texts,
    type_text,
)

MAX_VALUES = 1 << 20  # distinct values kept exactly; above, a sample of them
MAX_WORDS = 1 << 16  # distinct texts kept; far above what a categorical column may have
HEAVY = 0.005  # share of a piece of the file from which on a value is kept whatever the sample


@dataclass(frozen=True)
class Values:
    """The distinct values of a column with their counts.

    Args:
        name: Column.
        storage: How cells are written: ``float``, ``int``, ``bool``, ``string``, ``date``, ``datetime``.
        num_rows: Cells, missing ones included.
        num_missing: Missing cells.
        values: ``(u,)`` distinct numbers, ascending (empty for text).
        words: Distinct texts of a text or boolean column, sorted.
        counts: ``(u,)`` cells of each value or word.
        weights: ``(u,)`` how many distinct values each one stands for: 1, or more where only a sample was kept.
        single: Numbers were stored in single precision.
        shape: Shape of a block column, else ``()``.
        truncated: Text with more distinct values than are counted.
        as_text: The cells were text, though they hold numbers or dates.
    """

    name: str
    storage: str
    num_rows: int
    num_missing: int
    values: np.ndarray
    words: tuple[str, ...]
    counts: np.ndarray
    weights: np.ndarray
    single: bool = False
    shape: tuple[int, ...] = ()
    truncated: bool = False
    as_text: bool = False

    @property
    def is_number(self) -> bool:
        return self.storage not in ("string", "bool")

    @property
    def num_present(self) -> int:
        return self.num_rows - self.num_missing


class Tally:
    """Counts the values of one column, piece by piece.

    Up to 2^20 distinct numbers are counted exactly. Above, those whose hash falls in a shrinking range are kept (each
    stands for 2^level), together with every value on at least 0.5 % of the rows of one piece: shares are then
    estimates with a relative error near 0.1 %, and atoms keep their counts but for rows before they were noticed.

    Args:
        name: Column.
        tokens: Missing tokens.
        max_values: Distinct numbers kept.
    """

    def __init__(self, name: str, tokens: Iterable[str], max_values: int = MAX_VALUES) -> None:
        self.name, self.tokens, self.max_values = name, tuple(tokens), max_values
        self.kind: pa.DataType | None = None
        self.num_rows = 0
        self.num_missing = 0
        self.values = np.empty(0)
        self.counts = np.empty(0, dtype=np.int64)
        self.heavy = np.empty(0)
        self.level = 0
        self.words: dict[str, int] = {}
        self.truncated = False
        self.shape: tuple[int, ...] = ()

    def add(self, cells: pa.ChunkedArray | pa.Array) -> None:
        """Counts the cells of the next piece.

        Raises:
            DataError: infinite values, lists of unequal length, or cells that are neither numbers, text nor dates.
        """
        array = as_array(cells)
        if (
            pa.types.is_list(array.type)
            or pa.types.is_large_list(array.type)
            or pa.types.is_fixed_size_list(array.type)
        ):
            array = self._flattened(array)
        if pa.types.is_time(array.type):
            raise DataError(
                f"column '{self.name}' holds times of day; give seconds as numbers or date-times, or leave it out "
                "(--ignore, or role: ignore in the schema)"
            )
        self.num_rows += len(array)
        if pa.types.is_null(array.type):
            self.num_missing += len(array)
            return
        if self.kind is None or pa.types.is_null(self.kind):
            self.kind = array.type
        if is_text(array.type) or pa.types.is_boolean(array.type):
            self._add_words(texts(array, self.tokens))
        elif can_be_number(array.type):
            self._add_numbers(numbers(array, self.tokens), array)
        else:
            raise DataError(
                f"column '{self.name}' holds {_cell_words(array.type)}, which are neither numbers, text nor dates; "
                "convert it, or leave it out (--ignore, or role: ignore in the schema)"
            )

    def _flattened(self, array: pa.Array) -> pa.Array:
        lengths = np.unique(np.asarray(pc.list_value_length(array).fill_null(-1)))
        width = int(lengths[0]) if len(lengths) else 0
        if len(lengths) > 1 or width < 1 or (self.shape and self.shape != (width,)):
            raise DataError(
                f"column '{self.name}' holds lists of unequal length; a block needs as many cells in every row; split "
                "it into columns, or leave it out (--ignore, or role: ignore in the schema)"
            )
        self.shape = (width,)
        return as_array(array.flatten())

    def _add_words(self, words: pa.Array) -> None:
        counted = pc.value_counts(words)
        for word, count in zip(counted.field(0).to_pylist(), counted.field(1).to_pylist()):
            if word is None:
                self.num_missing += count
            elif word in self.words or len(self.words) < MAX_WORDS:
                self.words[word] = self.words.get(word, 0) + count
            else:
                self.truncated = True

    def _add_numbers(self, numbers_: np.ndarray, array: pa.Array) -> None:
        present = numbers_[~np.isnan(numbers_)]
        self.num_missing += len(numbers_) - len(present)
        infinite = np.isinf(numbers_)
        if infinite.any():
            row = self.num_rows - len(numbers_) + int(np.flatnonzero(infinite)[0])
            raise DataError(
                f"column '{self.name}' has infinite values (first in row {row // max(1, int(np.prod(self.shape)))}); "
                "replace them by numbers, or leave the cells empty"
            )
        if pa.types.is_integer(array.type) and len(present) and np.abs(present).max() > 2.0**53:
            raise DataError(
                f"column '{self.name}' has integers beyond 2**53, which float64 cannot tell apart; "
                "if it is an identifier, leave it out (--ignore, or role: ignore in the schema) or store it as text"
            )
        values, counts = np.unique(present + 0.0, return_counts=True)
        if self.level:
            heavy = values[counts >= HEAVY * max(1, len(present))]
            self.heavy = np.union1d(self.heavy, heavy)
            keep = self._kept(values)
            values, counts = values[keep], counts[keep]
        self.values, self.counts = _added(self.values, self.counts, values, counts)
        while len(self.values) > self.max_values:
            if self.level == 0:
                self.heavy = self.values[self.counts >= HEAVY * self.counts.sum()]
            self.level += 1
            keep = self._kept(self.values)
            self.values, self.counts = self.values[keep], self.counts[keep]

    def _kept(self, values: np.ndarray) -> np.ndarray:
        return (_hashed(values) >> np.uint64(64 - self.level) == 0) | np.isin(values, self.heavy)

    def result(self) -> Values:
        """What was counted; text whose every value is a number or a date is given as numbers."""
        storage = storage_of(self.kind) if self.kind is not None else "string"
        if storage in ("string", "bool"):
            return self._words_result(storage)
        weights = np.ones(len(self.values))
        if self.level:
            weights[~np.isin(self.values, self.heavy)] = 2.0**self.level
        single = self.kind is not None and (pa.types.is_float32(self.kind) or pa.types.is_float16(self.kind))
        return Values(
            self.name,
            storage,
            self.num_rows,
            self.num_missing,
            self.values,
            (),
            self.counts,
            weights,
            single,
            self.shape,
        )

    def _words_result(self, storage: str) -> Values:
        names = sorted(self.words)
        counts = np.array([self.words[name] for name in names], dtype=np.int64)
        if storage == "string" and names:
            typed = type_text(pa.array(names, pa.string()), self.tokens)
            if not is_text(typed.type):
                values, place = np.unique(numbers(typed), return_inverse=True)
                totals = np.bincount(place.reshape(-1), weights=counts).astype(np.int64)
                if np.isinf(values).any():
                    raise DataError(
                        f"column '{self.name}' has infinite values; replace them by numbers, or leave the cells empty"
                    )
                return Values(
                    self.name, storage_of(typed.type), self.num_rows, self.num_missing, values, (), totals,
                    np.ones(len(values)), False, self.shape, self.truncated, True,
                )  # fmt: skip
        return Values(
            self.name, storage, self.num_rows, self.num_missing, np.empty(0), tuple(names), counts,
            np.ones(len(names)), False, self.shape, self.truncated,
        )  # fmt: skip


def _cell_words(kind: pa.DataType) -> str:
    for word, test in (
        ("records", pa.types.is_struct),
        ("maps", pa.types.is_map),
        ("lists", pa.types.is_nested),
        ("bytes", lambda k: pa.types.is_binary(k) or pa.types.is_large_binary(k) or pa.types.is_fixed_size_binary(k)),
    ):
        if test(kind):
            return word
    return f"cells of type {kind}"


def _added(
    old: np.ndarray, old_counts: np.ndarray, new: np.ndarray, new_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if len(old) == 0:
        return new, new_counts
    values, place = np.unique(np.concatenate([old, new]), return_inverse=True)
    counts = np.zeros(len(values), dtype=np.int64)
    np.add.at(counts, place.reshape(-1), np.concatenate([old_counts, new_counts]))
    return values, counts


def _hashed(values: np.ndarray) -> np.ndarray:
    """A 64-bit mix of the bits of each number (the finaliser of splitmix64)."""
    bits = np.ascontiguousarray(values).view(np.uint64).copy()
    with np.errstate(over="ignore"):
        bits ^= bits >> np.uint64(30)
        bits *= np.uint64(0xBF58476D1CE4E5B9)
        bits ^= bits >> np.uint64(27)
        bits *= np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    return bits


def category_words(values: Values) -> tuple[str, ...]:
    """The distinct values of any column as categories, in order."""
    if not values.is_number:
        return values.words
    if values.storage == "date":
        return tuple(str(np.datetime64(int(v), "D")) for v in values.values)
    if values.storage == "datetime":
        moments = pa.array(np.rint(values.values * 1e6).astype(np.int64)).cast(pa.timestamp("us"))
        return tuple(texts(moments).to_pylist())
    return tuple(number_text(v, values.single) for v in values.values.tolist())
