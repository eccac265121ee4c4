"""Bins of one width (fixed point) for a numeric column, between a bin below and a bin above that carry the tails.

Positions are in units of the column for a density, and numbers of grid points for a quantized column, whose bins hold
a whole number of cells. Every rule scales with the unit, as those of :mod:`genzoo.codecs.bin_fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from genzoo.codecs.bin_tails import fit_tail

TAIL_SHARE = 1e-3
"""Share of the training rows beyond either end, so that the probability of a tail is learned from rows."""
FEWEST = 6


@dataclass(frozen=True)
class UniformBins:
    """Bins ``0`` (below) to ``used - 1`` (above); bin ``b`` between them begins at ``start + (b - 1) width``.

    Args:
        start: Lower edge of the first closed bin.
        width: Width of the closed bins; whole on a grid.
        used: Number of bins, the two outer ones included.
        scale: Scale of the lower and upper tail.
        shape: Shape of the lower and upper tail.
    """

    start: float
    width: float
    used: int
    scale: tuple[float, float]
    shape: tuple[float, float]


def fit_uniform(
    values: np.ndarray,
    num_bins: int,
    num_atoms: int,
    *,
    grid: bool,
    ends: tuple[float, float] = (-inf, inf),
    atoms: tuple[float, ...] = (),
    finest: bool = False,
) -> UniformBins:
    """Uniform bins of a column.

    As many as the rows resolve, filled up so that bins and atoms together are a power of two; a grid whose points are
    fewer than the bins has a bin for each.

    Args:
        values: ``(n,)`` training values, atoms and holes removed; may be empty.
        num_bins: Most bins, the two outer ones included.
        num_atoms: Symbols that the column has besides.
        grid: The values are numbers of grid points.
        ends: Declared ends of the support, infinite without.
        atoms: On a grid: points that are atoms; the closed bins reach over them.
        finest: All bins, from the smallest to the largest row.
    """
    x = np.sort(values)
    atoms = tuple(a for a in atoms if ends[0] < a < ends[1])
    if not len(x):
        middle = max(min(0.0, ends[1]), ends[0])
        x = np.array([np.round(middle) if grid else middle])
        rows = 0
    else:
        rows = len(x)
    most = num_bins - 2
    cut = 0 if finest else int(TAIL_SHARE * len(x))
    first, last = float(x[cut]), float(x[-1 - cut])
    whole = float(x[-1] - x[0]) + 1
    if grid and min([whole, max([x[-1], *atoms]) - min([x[0], *atoms]) + 1]) <= most and not finest:
        first, last = float(x[0]), float(x[-1])
    if grid:
        first, last = min([first, *atoms]), max([last, *atoms])
        cells = last - first + 1
        count = cells if cells <= most else _resolved(x, cells, num_bins, num_atoms, 1.0, finest)
        width = float(np.ceil(cells / count))
        start, inner = first - 0.5, int(np.ceil(cells / width))
    else:
        if last == first:
            half = abs(first) * 2.0**-10 or 0.5
            first, last = max(first - half, ends[0]), min(first + half, ends[1])
        gaps = np.diff(x)
        gap = float(gaps[gaps > 0].min()) if (gaps > 0).any() else last - first
        inner = int(_resolved(x, last - first, num_bins, num_atoms, gap, finest))
        start, width = first, (last - first) / inner
        # rounding must not leave the largest row to the outer bin, which has no room where that row is a declared end
        while width > 0 and (last - start) / width >= inner:
            width = float(np.nextafter(width, inf))
    top = start + inner * width
    spread = max(last - first, 1.0 if grid else 0.0) / 2
    below, above = start - x[x < start], x[x > top] - top
    least = 0.5 if grid else 0.0
    tails = [
        fit_tail(np.maximum(e, least), np.ones(len(e)) if rows else np.zeros(len(e)), spread / 4)
        for e in (below, above)
    ]
    return UniformBins(start, width, inner + 2, (tails[0][0], tails[1][0]), (tails[0][1], tails[1][1]))


def _resolved(x: np.ndarray, reach: float, num_bins: int, num_atoms: int, gap: float, finest: bool) -> float:
    """Number of closed bins over ``reach``: as the rows resolve (Freedman and Diaconis), in whole powers of two."""
    most = num_bins - 2
    if finest:
        return float(most)
    low, high = x[int(0.25 * (len(x) - 1))], x[int(0.75 * (len(x) - 1))]
    fine = max(2 * float(high - low) * len(x) ** (-1 / 3), gap)
    wanted = min(max(reach / fine, FEWEST), most)
    codes = 2 ** int(np.ceil(np.log2(wanted + 2 + num_atoms)))
    return float(min(codes - 2 - num_atoms, most))
