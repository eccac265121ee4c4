"""Columns with a density that follow from the others, so that no likelihood of the row has an upper limit.

A price before and after a fixed tax, a total beside its parts, a length in centimetres and in inches: the rows lie on a
surface, and the nearer a model comes to it, the higher its density, without end. Grid cells and categories are no such
matter: their probability ends at one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genzoo.tables.encode import TableData
from genzoo.tables.schema import Column

Floats = NDArray[np.float64]
MOST_ROWS = 10_000
SHARPNESS = 1e-4
"""Rest of a column, in its interquartile ranges, from which on it counts as determined."""
ROWS_OF_ALL = 0.99
"""Share of the rows on which the rest must be as small."""
MOST_NAMED = 4
MOST_SHOWN = 8


@dataclass(frozen=True)
class Determined:
    """A column that others decide.

    Args:
        name: The column.
        others: The columns it follows from.
        linear: It is a weighted sum of the others; else a rising or falling function of the one.
    """

    name: str
    others: tuple[str, ...]
    linear: bool

    def __str__(self) -> str:
        shown = [f"'{name}'" for name in self.others[:MOST_NAMED]]
        if len(self.others) > MOST_NAMED:
            shown.append(f"{len(self.others) - MOST_NAMED} more columns")
        named = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
        how = "is a weighted sum of" if len(self.others) > 1 else "is a linear function of"
        return f"column '{self.name}' {how if self.linear else 'rises or falls exactly with'} {named}"


def determined_columns(data: TableData) -> list[Determined]:
    """Scored columns with a density that follow from other numbers of the row, in table order.

    Found are weighted sums with a constant (to 1e-4 of the interquartile range, or to the digits that are written) and
    strictly rising or falling functions of one column. Up to 10,000 rows that are complete enter; tables with fewer
    than twice as many as columns are not judged.

    Args:
        data: Rows of a table.
    """
    columns, values = _complete(data)
    if not columns:
        return []
    place = {column.name: k for k, column in enumerate(data.schema.columns)}
    found = _weighted_sums(columns, values)
    linear = {one.name for one in found}
    left = [k for k, column in enumerate(columns) if column.name not in linear]
    found += _monotone([columns[k] for k in left], values[:, left])
    return sorted(found, key=lambda one: place[one.name])


def unlimited_text(data: TableData) -> list[str]:
    """A sentence on the determined columns for a report; empty without such columns."""
    found = [str(one) for one in determined_columns(data)]
    if not found:
        return []
    more = f"; and {len(found) - MOST_SHOWN} more columns follow from others" if len(found) > MOST_SHOWN else ""
    facts = "; ".join(found[:MOST_SHOWN])
    return [
        f"{facts[0].upper()}{facts[1:]}{more}. Such a density has no upper limit: likelihoods say how sharply a model "
        "draws that dependence, more than how well it knows the table. Compare without one column of each set."
    ]


def _has_density(column: Column) -> bool:
    return column.is_scored and column.kind in ("continuous", "mixed")


def _complete(data: TableData) -> tuple[list[Column], Floats]:
    """Plain numeric columns, those without a density first, and whole rows; columns with many holes give way."""
    start, places = 0, {}
    for column in data.schema.numeric:
        if not column.shape:
            places[column.name] = start
        start += column.width
    columns = [column for column in data.schema.numeric if not column.shape]
    columns.sort(key=_has_density)  # stable: the last of a set that hangs together is the one that is named
    values = np.asarray(data.numeric[:, [places[column.name] for column in columns]], dtype=np.float64)
    while len(columns) > 1 and any(map(_has_density, columns)):
        whole = ~np.isnan(values).any(1)
        if whole.sum() >= 2 * len(columns) + 20:
            return columns, values[whole][:MOST_ROWS]
        gone = int(np.isnan(values).sum(0).argmax())
        if not np.isnan(values[:, gone]).any():
            break
        values = np.delete(values, gone, axis=1)
        del columns[gone]
    return [], values[:, :0]


def _spread(x: Floats) -> float:
    """Interquartile range, or the standard deviation where half of the values are one."""
    low, high = np.quantile(x, [0.25, 0.75])
    return float(high - low) or float(x.std())


def _size(rest: Floats) -> float:
    """What nearly all rows stay below."""
    return float(np.quantile(np.abs(rest), ROWS_OF_ALL))


def _weighted_sums(columns: Sequence[Column], values: Floats) -> list[Determined]:
    """Gram-Schmidt, column by column; what is left of a determined column spans nothing and joins no basis."""
    largest = np.abs(values).max(0)
    values = values / np.where(largest > 0, largest, 1.0)  # squares of the largest doubles are none
    centred = values - values.mean(0)
    scale = np.sqrt((centred**2).mean(0))
    scaled = centred / np.where(scale > 0, scale, 1.0)
    basis = np.empty_like(scaled)
    kept: list[int] = []
    found = []
    for k, column in enumerate(columns):
        rest = scaled[:, k].copy()
        for _ in range(2):  # the second pass removes what rounding left of the first
            rest -= basis[:, : len(kept)] @ (basis[:, : len(kept)].T @ rest)
        written = 0.0 if column.decimals is None else 10.0**-column.decimals / max(largest[k], 1e-300)
        limit = max(SHARPNESS * _spread(values[:, k]), written)
        if scale[k] > 0 and _size(rest) * scale[k] > limit:
            basis[:, len(kept)] = rest / np.linalg.norm(rest)
            kept.append(k)
        elif kept and _has_density(column) and scale[k] > 0:
            used = _fewest(scaled[:, kept], scaled[:, k], limit / scale[k])
            found.append(Determined(column.name, tuple(columns[kept[j]].name for j in sorted(used)), linear=True))
    return found


def _fewest(x: Floats, y: Floats, limit: float) -> list[int]:
    """The columns of ``x`` with the largest weights, as few as leave a rest of ``y`` within ``limit``."""
    weights, *_ = np.linalg.lstsq(x, y, rcond=None)
    order = [int(j) for j in np.argsort(-np.abs(weights), kind="stable")]
    for count in range(1, len(order)):
        part = x[:, order[:count]]
        solution, *_ = np.linalg.lstsq(part, y, rcond=None)
        if _size(y - part @ solution) <= limit:
            return order[:count]
    return order


def _monotone(columns: Sequence[Column], values: Floats) -> list[Determined]:
    """Columns whose order of rows, ties included, is that of an earlier one or its reverse."""
    first: dict[bytes, str] = {}
    found = []
    for k, column in enumerate(columns):
        distinct, ranks = np.unique(values[:, k], return_inverse=True)
        if len(distinct) < 2:
            continue
        orders = [ranks.astype(np.int64).tobytes(), (len(distinct) - 1 - ranks).astype(np.int64).tobytes()]
        earlier = next((first[order] for order in orders if order in first), None)
        if earlier is None:
            first[orders[0]] = column.name
        elif _has_density(column):
            found.append(Determined(column.name, (earlier,), linear=False))
    return found
