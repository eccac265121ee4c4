"""Bins of one numeric column from its training values: equal shares of rows, frequent values on their own.

Positions are in units of the column for a density, and numbers of grid points for a quantized column, whose edges lie
half-way between points. Every rule scales with the unit: a table in other units (a power of two) has the same bins bit
by bit.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from genzoo.codecs.bin_tails import fit_tail

STEEPEST = 0.6
"""Largest relative difference of the density between middle and end of a bin."""


@dataclass(frozen=True)
class Bins:
    """Bins of one column.

    Args:
        edges: ``(m + 1,)`` ascending; the first is -inf and the last +inf unless bounds are declared.
        possible: ``(m,)`` False for a cell that belongs to an atom.
        slope: ``(m,)`` the density within a closed bin is ``(1 + slope (2 s - 1)) / width`` at share ``s`` of it.
        scale: Scale of the lower and upper tail.
        shape: Shape of the lower and upper tail.
    """

    edges: np.ndarray
    possible: np.ndarray
    slope: np.ndarray
    scale: tuple[float, float]
    shape: tuple[float, float]


@dataclass(frozen=True)
class _Group:
    first: float
    last: float
    alone: bool
    atom: bool


def fit_bins(
    values: np.ndarray,
    num_bins: int,
    *,
    grid: bool,
    low: float = -inf,
    high: float = inf,
    atoms: tuple[float, ...] = (),
    linear: bool = True,
) -> Bins:
    """Bins of a column.

    Args:
        values: ``(n,)`` training values, atoms and holes removed; may be empty.
        num_bins: Most bins, at least ``8 + 4 * len(atoms)``.
        grid: The values are numbers of grid points.
        low: Declared lower end of the support (of the cells, on a grid), or -inf.
        high: Likewise, upper end.
        atoms: On a grid: points that are atoms, cut out of the bins.
        linear: Densities fall or rise linearly within a bin; else they are flat.
    """
    distinct, counts = np.unique(values, return_counts=True)
    atoms = tuple(sorted({a for a in atoms if low < a < high})) if grid else ()
    place = np.union1d(distinct, atoms)
    rows = np.zeros(len(place))
    rows[np.searchsorted(place, distinct)] = counts
    is_atom = np.isin(place, atoms)
    if not len(place):
        middle = max(min(0.0, high), low) if isfinite(low) or isfinite(high) else 0.0
        place, rows, is_atom = np.array([round(middle) if grid else middle]), np.zeros(1), np.zeros(1, dtype=bool)
    target = _finest(place, rows, is_atom, num_bins, grid, low, high)
    edges, alone, possible = _edges(_groups(place, rows, is_atom, target, grid), place, grid, low, high)
    inside = np.searchsorted(edges, place, side="right") - 1
    inside = np.clip(inside, 0, len(edges) - 2)
    mass = np.bincount(inside, weights=rows, minlength=len(edges) - 1)
    spread = _spread(place, rows, grid)
    tails = [_tail(place, rows, inside, edges, side, grid, spread) for side in (0, 1)]
    slope = _slopes(edges, mass, alone, [t[0] for t in tails]) if linear else np.zeros(len(mass))
    return Bins(edges, possible, slope, (tails[0][0], tails[1][0]), (tails[0][1], tails[1][1]))


def _finest(
    place: np.ndarray, rows: np.ndarray, is_atom: np.ndarray, num_bins: int, grid: bool, low: float, high: float
) -> float:
    """Smallest number of rows in a bin for which the bins are not more than ``num_bins``."""
    total = max(float(rows.sum()), 1.0)
    most = 2 * num_bins if grid else num_bins
    if grid and place[-1] - place[0] + 3 <= num_bins:
        return 0.0
    for wanted in range(most, 1, -1):
        edges, _, _ = _edges(_groups(place, rows, is_atom, total / wanted, grid), place, grid, low, high)
        if len(edges) - 1 <= num_bins:
            return total / wanted
    return total


def _groups(place: np.ndarray, rows: np.ndarray, is_atom: np.ndarray, target: float, grid: bool) -> list[_Group]:
    """Neighbouring values that share a bin; a value with a bin's rows stands alone."""
    if target == 0.0:
        points = np.arange(place[0], place[-1] + 1)
        atoms = set(place[is_atom].tolist())
        return [_Group(p, p, True, p in atoms) for p in points.tolist()]
    groups: list[_Group] = []
    start, held = -1, 0.0
    for i in range(len(place)):
        if is_atom[i] or rows[i] >= target:
            if start >= 0:
                groups.append(_Group(place[start], place[i - 1], False, False))
            groups.append(_Group(place[i], place[i], True, bool(is_atom[i])))
            start, held = -1, 0.0
            continue
        start = i if start < 0 else start
        held += rows[i]
        if held >= target:
            groups.append(_Group(place[start], place[i], False, False))
            start, held = -1, 0.0
    if start >= 0:
        groups.append(_Group(place[start], place[-1], False, False))
    if len(groups) == 1 and not groups[0].alone:
        if len(place) == 1:
            return [_Group(place[0], place[0], True, False)]
        half = int(np.searchsorted(np.cumsum(rows), rows.sum() / 2))
        half = min(half, len(place) - 2)
        return [_Group(place[0], place[half], False, False), _Group(place[half + 1], place[-1], False, False)]
    return groups


def _edges(
    groups: list[_Group], place: np.ndarray, grid: bool, low: float, high: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of the bins, which of them hold one value alone, and which are possible."""
    edges: list[float] = [low]
    alone: list[bool] = []
    possible: list[bool] = []

    def close(edge: float, is_alone: bool, is_possible: bool = True) -> None:
        if edge > edges[-1]:
            edges.append(edge)
            alone.append(is_alone)
            possible.append(is_possible)

    first, last = groups[0], groups[-1]
    if first.alone:
        close(first.first - _half_width(place, first.first, grid, -1), False)
    for left, right in itertools.pairwise(groups):
        if grid and (left.alone or right.alone):
            before = left.last + 0.5 if left.alone else right.first - 0.5
            close(before, left.alone, not left.atom)
            if left.alone and right.alone:
                close(right.first - 0.5, False)
        else:
            middle = left.last + (right.first - left.last) / 2
            close(np.floor(middle) + 0.5 if grid else middle, left.alone)
    if last.alone:
        close(min(last.last + _half_width(place, last.last, grid, 1), high), True, not last.atom)
    if edges[-1] < high:
        close(high, False)
    return np.array(edges), np.array(alone), np.array(possible)


def _half_width(place: np.ndarray, value: float, grid: bool, side: int) -> float:
    """Distance from an outermost value to the outer edge of its bin: as far as to the inner edge."""
    if grid:
        return 0.5
    if len(place) == 1:
        return abs(value) * 2.0**-10 or 0.5
    return float(place[1] - place[0]) / 2 if side < 0 else float(place[-1] - place[-2]) / 2


def _spread(place: np.ndarray, rows: np.ndarray, grid: bool) -> float:
    """Half the range of the middle 90 % of the rows; a unit to judge tails by."""
    share = np.cumsum(rows) / max(rows.sum(), 1.0)
    a, b = (place[min(int(np.searchsorted(share, q)), len(place) - 1)] for q in (0.05, 0.95))
    floor = 1.0 if grid else abs(float(place[-1])) * 2.0**-10 or 1.0
    return max(float(b - a) / 2, floor) if grid or b > a else max(float(place[-1] - place[0]) / 2, floor)


def _tail(
    place: np.ndarray, rows: np.ndarray, inside: np.ndarray, edges: np.ndarray, side: int, grid: bool, spread: float
) -> tuple[float, float]:
    """Scale and shape of one tail."""
    if side == 0:
        here, excess = inside == 0, edges[1] - place
    else:
        here, excess = inside == len(edges) - 2, place - edges[-2]
    here = here & (rows > 0)
    return fit_tail(np.maximum(excess[here], 0.5 if grid else 0.0), rows[here], spread / 4)


def _slopes(edges: np.ndarray, mass: np.ndarray, alone: np.ndarray, scales: list[float]) -> np.ndarray:
    """Slope of the density within each closed bin, from the heights where it meets its neighbours."""
    m = len(mass)
    slope = np.zeros(m)
    if m < 2:
        return slope
    width = np.diff(edges)
    tails = {0: scales[0], m - 1: scales[1]}
    height = np.array([(mass[b] + 0.5) / (width[b] if isfinite(width[b]) else tails[b]) for b in range(m)])

    def meeting(b: int, other: int) -> float:
        if other < 0 or other >= m or alone[other]:
            return float(height[b])
        if not isfinite(width[other]):
            return float(height[b] + height[other]) / 2
        return float(height[b] * width[other] + height[other] * width[b]) / float(width[b] + width[other])

    for b in range(m):
        if alone[b] or not isfinite(width[b]) or mass[b] == 0:
            continue
        left, right = meeting(b, b - 1), meeting(b, b + 1)
        shrink = mass[b] / (mass[b] + 4)
        slope[b] = np.clip(shrink * (right - left) / (right + left), -STEEPEST, STEEPEST)
    return slope
