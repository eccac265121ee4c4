"""Weights of rows: a column that says how much each row counts (survey weights, importance weights)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from genzoo.errors import DataError
from genzoo.tables.cells import as_array, can_be_number, is_text, numbers, type_text

if TYPE_CHECKING:
    from genzoo.tables.schema import Schema


def row_weights(cells: pa.ChunkedArray | pa.Array, schema: Schema) -> np.ndarray:
    """Cells of the weight column as ``(n,)`` float64.

    Args:
        cells: The column as it was read.
        schema: Names the column and the missing tokens.

    Raises:
        DataError: a cell is text, missing, infinite, zero or below; names the column, the number of such rows and the
            first of them.
    """
    column = schema.weight
    assert column is not None
    array = as_array(cells)
    if is_text(array.type):
        array = type_text(array, schema.missing_tokens)
    if not (can_be_number(array.type) or pa.types.is_null(array.type)):
        raise DataError(f"weight column '{column.name}' holds {array.type}; a weight is a number above 0 in every row")
    values = numbers(array, schema.missing_tokens)
    faults = (
        (np.isnan(values), "missing", "fill them in, or leave these rows out"),
        (np.isinf(values), "infinite", "replace them, or leave these rows out"),
        (values <= 0, "zero or below", "leave these rows out, for they would count for nothing or against the others"),
    )
    for wrong, word, remedy in faults:
        if wrong.any():
            count, row = int(wrong.sum()), int(np.flatnonzero(wrong)[0])
            rows = "1 row" if count == 1 else f"{count} rows"
            raise DataError(
                f"weight column '{column.name}' is {word} in {rows} (first: row {row}, counted from 0); {remedy}"
            )
    return values


def mean_weight(weights: np.ndarray | None) -> float:
    """Mean of the weights, 1 without any; equal weights give exactly their value, so that they change nothing."""
    if weights is None or not len(weights):
        return 1.0
    low, high = float(weights.min()), float(weights.max())
    return low if low == high else float(weights.mean())


def effective_rows(weights: np.ndarray) -> float:
    """``(sum w)^2 / sum w^2``: how many rows of equal weight would give means of the same precision (Kish 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum()) if len(weights) else 0.0


def equal_weight_rows(weights: np.ndarray, seed: int) -> np.ndarray:
    """Positions of rows that stand for all without weights: each is kept with a chance in proportion to its weight.

    The row of the largest weight always stays and none comes twice, so that distances and classifiers see no copies;
    the price is that fewer rows remain, ``sum w / max w`` in expectation.
    """
    return np.flatnonzero(np.random.default_rng(seed).random(len(weights)) < weights / weights.max())
