"""Columns with a density that follow from the others, to rounding, so that sharpness alone limits the likelihood.

A price before and after a fixed tax, a total beside its parts, a length in centimetres and in inches: the rows lie on a
surface, and the nearer a model comes to it, the higher its density. Grid cells and categories are no such matter: their
probability ends at one. Nor is a reading that differs from another by a little: what it differs by has a density.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genzoo.tables.encode import TableData
from genzoo.tables.schema import Column, column_places

Floats = NDArray[np.float64]
MOST_ROWS = 10_000
SHARPNESS = 1e-6
"""Rest of a column, in its interquartile ranges, that is rounding where no digits are known (float32, sums)."""
MOST_UNITS = 3.0
"""Rest in units of the last written digit that is rounding, of the column and of what it is made of."""
COARSE = 0.01
"""Share of the interquartile range that a written unit stays below; coarser columns are not judged by it."""
ROWS_OF_ALL = 0.99
"""Share of the rows on which the rest is as small."""
LINEAR = 0.9995
"""Correlation from which on two columns are tried as a line, and not as another smooth function."""
SMOOTH = 0.02
"""Median distance of a value from the line between its neighbours, in parts of their distance, of a smooth function."""
MOST_NAMED = 4
MOST_SHOWN = 8


@dataclass(frozen=True)
class Determined:
    """A column that others decide.

    Args:
        name: The column.
        others: The columns it follows from.
        linear: It is a weighted sum of the others; else a smooth rising or falling function of the one.
    """

    name: str
    others: tuple[str, ...]
    linear: bool

    def __str__(self) -> str:
        shown = [f"'{name}'" for name in self.others[:MOST_NAMED]]
        if len(self.others) > MOST_NAMED:
            more = len(self.others) - MOST_NAMED
            shown.append(f"{more} more columns" if more > 1 else "another column")
        named = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
        how = "a weighted sum of" if len(self.others) > 1 else "a linear function of"
        return f"column '{self.name}' is, to rounding, {how if self.linear else 'a smooth function of'} {named}"


def determined_columns(data: TableData) -> list[Determined]:
    """Scored columns with a density that follow from other numbers of the row, in table order.

    Found are linear functions of one column, on the rows that have both; weighted sums of several, on rows without
    holes (columns with many give way until 2 rows a column and 20 more are left); and smooth, strictly rising or
    falling functions of one, on the same rows. A rest counts as rounding up to half a unit of the last written digit of
    each column that enters (three units of the column's own at most), or 1e-6 of the interquartile range where no
    digits are known. Of a mixed column the rows outside its atoms are judged. Up to 10,000 rows enter, drawn at random.

    Args:
        data: Rows of a table.
    """
    columns, values = _numbers(data)
    found = {one.name: one for one in _linear_pairs(columns, values)}
    columns, values = _complete(columns, values)
    if columns:
        for one in _weighted_sums(columns, values, set(found)):
            found[one.name] = one
        found |= _monotone(columns, values, found)
    place = {column.name: k for k, column in enumerate(data.schema.columns)}
    named = sorted(found.values(), key=lambda one: place[one.name])
    return [replace(one, others=tuple(sorted(one.others, key=place.__getitem__))) for one in named]


def unlimited_text(data: TableData) -> list[str]:
    """A sentence on the determined columns for a report; empty without such columns."""
    found = [str(one) for one in determined_columns(data)]
    if not found:
        return []
    more = f"; and {len(found) - MOST_SHOWN} more columns follow from others" if len(found) > MOST_SHOWN else ""
    facts = "; ".join(found[:MOST_SHOWN])
    return [
        f"{facts[0].upper()}{facts[1:]}{more}. Only its sharpness limits a density there: likelihoods say how finely a "
        "model draws that dependence, more than how well it knows the table. Compare without one column of each set."
    ]


def _has_density(column: Column) -> bool:
    return column.is_scored and column.kind in ("continuous", "mixed")


def _numbers(data: TableData) -> tuple[list[Column], Floats]:
    """Plain numeric columns, those without a density first, and up to 10,000 rows in random order; holes are NaN."""
    places = {column.name: place.start for column, numeric, place in column_places(data.schema) if numeric}
    columns = [column for column in data.schema.numeric if not column.shape]
    columns.sort(key=_has_density)  # stable: the last of a set that hangs together is the one that is named
    rows = np.random.default_rng(0).permutation(len(data))[:MOST_ROWS]
    cells = np.ix_(rows, np.array([places[column.name] for column in columns], dtype=np.int64))
    return columns, np.asarray(data.numeric[cells], dtype=np.float64)


def _complete(columns: Sequence[Column], values: Floats) -> tuple[list[Column], Floats]:
    """Whole rows; columns with many holes give way."""
    columns = list(columns)
    while len(columns) > 1 and any(map(_has_density, columns)):
        whole = ~np.isnan(values).any(1)
        if whole.sum() >= _enough(len(columns)):
            return columns, values[whole]
        gone = int(np.isnan(values).sum(0).argmax())
        if not np.isnan(values[:, gone]).any():
            break
        values = np.delete(values, gone, axis=1)
        del columns[gone]
    return [], values[:, :0]


def _enough(num_columns: int) -> int:
    """Rows from which on a fit of so many columns is no accident."""
    return 2 * num_columns + 20


def _spread(x: Floats) -> float:
    """Interquartile range, or the standard deviation where half of the values are one."""
    low, high = np.quantile(x, [0.25, 0.75])
    return float(high - low) or float(x.std())


def _size(rest: Floats) -> float:
    """What nearly all rows stay below."""
    return float(np.quantile(np.abs(rest), ROWS_OF_ALL))


def _unit(column: Column) -> float:
    """What the cells of a column are multiples of; 0 where no digits are known."""
    if column.kind == "quantized":
        return float(column.step or 0.0)
    return 1.0 if column.storage == "int" else 0.0 if column.decimals is None else 10.0**-column.decimals


def _limit(column: Column, x: Floats, others: Sequence[Column] = (), weights: Floats | None = None) -> float:
    """Largest rest of ``x`` that is rounding: of its own last digit, and of those of the weighted others.

    Without others the most that it may be, whatever they are.
    """
    spread, unit = _spread(x), _unit(column)
    if unit > COARSE * spread:
        unit = 0.0
    rounded = MOST_UNITS * unit
    if weights is not None:
        parts = sum(abs(weight) * _unit(other) for weight, other in zip(weights.tolist(), others, strict=True))
        rounded = min(rounded, 0.51 * (unit + parts))  # a little more than half of each
    return max(SHARPNESS * spread, rounded)


def _off_atoms(column: Column, x: Floats) -> NDArray[np.bool_]:
    """``(n,)`` rows where a column has its density."""
    return ~np.isin(x, column.atoms) if column.atoms else np.ones(len(x), dtype=bool)


def _scaled(values: Floats) -> tuple[Floats, Floats]:
    """Columns centred and divided by their standard deviation, and what they were divided by; constants stay zero."""
    largest = np.nanmax(np.abs(values), axis=0, initial=0.0)
    parts = values / np.where(largest > 0, largest, 1.0)  # squares of the largest doubles are none
    parts = parts - np.nanmean(parts, axis=0)
    size = np.sqrt(np.nanmean(parts**2, axis=0))
    size = np.where(size > 1e-15, size, 0.0)  # what rounding leaves of a constant
    return np.where(size > 0, parts, 0.0) / np.where(size > 0, size, 1.0), size * largest


def _rest(columns: Sequence[Column], values: Floats, k: int, others: Sequence[int]) -> tuple[float, Any] | None:
    """The size of what a weighted sum of others leaves of column ``k`` where it has a density, in parts of the largest
    rest that is rounding, and the weights of the standardised columns; ``None`` where too few rows say so. Some
    thousand rows are enough.
    """
    rows = np.flatnonzero(_off_atoms(columns[k], values[:, k]))
    if len(rows) < _enough(len(others) + 1):
        return None
    rows = rows[: 4 * len(others) + 2000]
    y = values[rows, k]
    (x, scales), (z, (scale,)) = _scaled(values[np.ix_(rows, np.asarray(others))]), _scaled(y[:, None])
    if not scale > 0:
        return None
    weights, *_ = np.linalg.lstsq(x, z[:, 0], rcond=None)
    rest = _size(z[:, 0] - x @ weights) * float(scale)
    raw = weights * scale / np.where(scales > 0, scales, 1.0)
    limit = _limit(columns[k], y, [columns[j] for j in others], raw)
    return (rest / limit if limit > 0 else np.inf), weights


def _linear_pairs(columns: Sequence[Column], values: Floats) -> list[Determined]:
    """Linear functions of an earlier column, on the rows that have both."""
    if not len(values) or len(columns) < 2:
        return []
    known = ~np.isnan(values)
    with np.errstate(all="ignore"):
        scaled, _ = _scaled(np.where(known.any(0), values, 0.0))
        x, m = np.where(known, scaled, 0.0), known.astype(np.float64)
        count, sums, squares = m.T @ m, x.T @ m, (x * x).T @ m  # over the rows that have both
        cross = x.T @ x - sums * sums.T / count
        spread = squares - sums**2 / count
        share = 1.0 - cross**2 / (spread * spread.T)
    found: list[Determined] = []
    named: set[int] = set()
    for k, column in enumerate(columns):
        for j in np.flatnonzero(share[k, :k] < 1 - LINEAR**2).tolist() if _has_density(column) else ():
            both = known[:, k] & known[:, j]
            rest = _rest(columns, values[both], k, [j]) if j not in named else None
            if rest is not None and rest[0] <= 1.0:
                found.append(Determined(column.name, (columns[j].name,), linear=True))
                named.add(k)
                break
    return found


def _weighted_sums(columns: Sequence[Column], values: Floats, known: set[str]) -> list[Determined]:
    """Gram-Schmidt, column by column; what is left of a determined column spans nothing and joins no basis."""
    scaled, scale = _scaled(values)
    basis = np.empty_like(scaled)
    kept: list[int] = []
    found = []
    for k, column in enumerate(columns):
        if column.name in known or not scale[k] > 0:
            continue
        rest = scaled[:, k].copy()
        for _ in range(2):  # the second pass removes what rounding left of the first
            rest -= basis[:, : len(kept)] @ (basis[:, : len(kept)].T @ rest)
        off, follows = _off_atoms(column, values[:, k]), False
        small = off.any() and _size(rest) * scale[k] <= 2 * _limit(column, values[off, k])
        if kept and _has_density(column) and (small or column.atoms):
            fit = _rest(columns, values, k, kept)
            follows = fit is not None and fit[0] <= 1.0
            if fit is not None and follows:
                used = _fewest(columns, values, k, [kept[j] for j in np.argsort(-np.abs(fit[1]), kind="stable")])
                found.append(Determined(column.name, tuple(columns[j].name for j in sorted(used)), linear=True))
        size = np.linalg.norm(rest)
        if size > 1e-7 * np.sqrt(len(rest)) and not (follows and small):
            basis[:, len(kept)] = rest / size
            kept.append(k)
    return found


def _fewest(columns: Sequence[Column], values: Floats, k: int, order: list[int]) -> list[int]:
    """The first columns of ``order``, as few as leave rounding of column ``k``; by halving."""
    low, high = 0, len(order)  # so many are too few, so many do
    while high - low > 1:
        middle = (low + high) // 2
        rest = _rest(columns, values, k, order[:middle])
        low, high = (low, middle) if rest is not None and rest[0] <= 1.0 else (middle, high)
    return order[:high]


def _smooth(x: Floats, y: Floats) -> bool:
    """Whether ``y`` is a smooth function of ``x``, given that it rises or falls with it.

    Two quantities that only grow (a number in order of arrival and a time) share the order of the rows and no more; and
    of a function that is nearly a line the linear search has said whether what is left is rounding.
    """
    x, place = np.unique(x, return_index=True)
    y = y[place]
    both, _ = _scaled(np.stack([x, y], 1))
    if len(x) < _enough(2) or abs(float((both[:, 0] * both[:, 1]).mean())) > LINEAR:
        return False
    with np.errstate(all="ignore"):
        between = y[:-2] + (y[2:] - y[:-2]) * ((x[1:-1] - x[:-2]) / (x[2:] - x[:-2]))
        rest = np.abs((y[1:-1] - between) / (y[2:] - y[:-2]))
    return bool(np.nanmedian(rest) < SMOOTH)


def _monotone(columns: Sequence[Column], values: Floats, known: dict[str, Determined]) -> dict[str, Determined]:
    """Columns whose order of rows, ties included, is that of an earlier one or its reverse; or of a later one that is
    known as a sum of others.
    """
    first: dict[bytes, Column] = {}
    found: dict[str, Determined] = {}
    for k, column in enumerate(columns):
        distinct, ranks = np.unique(values[:, k], return_inverse=True)
        if len(distinct) < 2:
            continue
        orders = [ranks.astype(np.int64).tobytes(), (len(distinct) - 1 - ranks).astype(np.int64).tobytes()]
        earlier = next((first[order] for order in orders if order in first), None)
        if earlier is None:
            first[orders[0]] = column
            continue
        if column.name in known and len(known[column.name].others) == 1:
            continue  # a linear function of one column, which has this order too
        one, other = (earlier, column) if column.name in known else (column, earlier)
        new = one.name not in known and one.name not in found
        if new and _has_density(one) and _smooth(values[:, k], values[:, columns.index(earlier)]):
            found[one.name] = Determined(one.name, (other.name,), linear=False)
    return found
