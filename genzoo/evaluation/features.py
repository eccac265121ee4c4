"""Rows as points: one numeric view of a mixed table that distances, classifiers and kernels share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genzoo.tables.encode import TableData
from genzoo.tables.schema import Schema, column_places

Matrix = NDArray[np.float64]


def same_code(data: TableData, schema: Schema) -> TableData:
    """Rows under the vocabulary of ``schema``."""
    return data if data.schema == schema else data.with_schema(schema)


@dataclass(frozen=True)
class Features:
    r"""A map from rows to points, fitted on reference rows.

    A number becomes its standard score, with mean and standard deviation of the reference after the signed logarithm
    :math:`\operatorname{sign}(u)\log(1+|u|)` of :math:`u = (x - \text{median}) / \text{IQR}`, so that one far value
    does not set the scale. A category becomes its indicator divided by the square root of two, so that two different
    categories are one unit apart. A hole becomes the centre of its column and sets an indicator of its own.

    Args:
        schema: Schema of the rows.
        centre: Median of each number.
        width: Interquartile range of each number (its standard deviation where that is zero, 1 for a constant).
        mean: Mean of each number after the logarithm.
        scale: Standard deviation of each number after the logarithm.
    """

    schema: Schema
    centre: Matrix
    width: Matrix
    mean: Matrix
    scale: Matrix

    @classmethod
    def fit(cls, reference: TableData) -> Features:
        """Takes the scales of reference rows, usually the training rows."""
        numbers = reference.numeric.astype(np.float64)
        with np.errstate(all="ignore"):
            known = np.where(np.isnan(numbers).all(axis=0), 0.0, numbers)
            low, centre, high = np.nanquantile(known, (0.25, 0.5, 0.75), axis=0) if known.size else np.zeros((3, 0))
            spread = np.nanstd(known, axis=0)
        width = np.where(high > low, high - low, np.where(spread > 0, spread, 1.0))
        bent = _bend((known - centre) / width)
        mean, scale = np.nanmean(bent, axis=0), np.nanstd(bent, axis=0)
        return cls(reference.schema, centre, width, mean, np.where(scale > 0, scale, 1.0))

    def points(self, data: TableData) -> Matrix:
        """``(n, p)`` points."""
        data = same_code(data, self.schema)
        scores = (_bend((data.numeric - self.centre) / self.width) - self.mean) / self.scale
        holes = np.isnan(data.numeric)
        blocks = [np.where(holes, 0.0, scores), holes.astype(np.float64) / np.sqrt(2)]
        for column, numeric, place in column_places(self.schema):
            if not numeric:
                for codes in data.codes[:, place].T:
                    blocks.append(one_hot(codes, len(column.categories) + (column.missing == "value")) / np.sqrt(2))
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(data), 0))

    def cells(self, data: TableData) -> Matrix:
        """``(n, columns)`` numbers as they are and codes as numbers, NaN for a hole: what trees read."""
        data = same_code(data, self.schema)
        codes = np.where(data.codes == -1, np.nan, data.codes.astype(np.float64))
        return np.concatenate([data.numeric.astype(np.float64), codes], axis=1)


def _bend(scores: Matrix) -> Matrix:
    return np.asarray(np.sign(scores) * np.log1p(np.abs(scores)))


def one_hot(codes: NDArray[np.int64], size: int) -> Matrix:
    """``(n, size + 1)`` indicators; the last is for a hole or a category that is not known."""
    return np.asarray(np.eye(size + 1)[np.where((codes < 0) | (codes >= size), size, codes)])


def sample_rows(data: TableData, most: int, seed: int) -> TableData:
    """At most ``most`` rows, a random sample in the order of the file."""
    if len(data) <= most:
        return data
    return data.select(np.sort(np.random.default_rng([seed, len(data)]).permutation(len(data))[:most]))


def nearest(queries: Matrix, references: Matrix, k: int = 1, exclude_self: bool = False) -> Matrix:
    """``(n, k)`` Euclidean distances from each query to its nearest references, in memory of a few blocks.

    Args:
        queries: ``(n, p)`` points.
        references: ``(m, p)`` points.
        k: How many neighbours; fewer references give fewer columns.
        exclude_self: The queries are the references, and a point is not its own neighbour.
    """
    k = min(k, len(references) - exclude_self)
    out = np.empty((len(queries), max(k, 0)))
    if k < 1:
        return out
    squares = (references**2).sum(axis=1)
    for rows in _blocks(len(queries), max(1, 8_000_000 // max(len(references), 1))):
        part = queries[rows]
        distance = (part**2).sum(axis=1)[:, None] + squares - 2 * part @ references.T
        if exclude_self:
            index = np.arange(rows.start, rows.start + len(part))
            distance[np.arange(len(part)), index] = np.inf
        found = np.argpartition(distance, k - 1, axis=1)[:, :k]
        # the expanded square loses digits near zero, where exact copies are; the few that count are computed anew
        true = ((part[:, None, :] - references[found]) ** 2).sum(axis=2)
        out[rows] = np.sqrt(np.sort(true, axis=1))
    return out


def _blocks(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
