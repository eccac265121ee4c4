"""The greatest common step of the values of a column: the width of its cells.

Numbers come with noise: 0.1 stored in single precision is 0.100000001. A step is believed only where it stands clear of
that noise; else the numbers are taken as they are stored. All rules scale with the unit of the column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SINGLE = 2.0**-24  # relative rounding error of single precision
_DOUBLE = 2.0**-53
_FINEST = 2.0**-40  # a cell below this share of the largest value has edges that float64 confuses
_CLEAR = 8.0  # a step is believed from this many rounding errors of the largest value on


@dataclass(frozen=True)
class Grid:
    """A grid ``origin + k * step`` on which all values lie.

    Args:
        step: Distance of neighbouring points.
        origin: A point of the grid, in ``[0, step)``.
        decimals: Digits after the point that write every point exactly, or ``None``.
        common: The step is a common step of the numbers as they were printed, not just how they are stored.
    """

    step: float
    origin: float
    decimals: int | None
    common: bool


def find_grid(values: np.ndarray, single: bool = False) -> Grid:
    """The coarsest grid that holds all values, else the finest resolution at which they are stored.

    In this order: a common decimal step (exact, by the greatest common divisor of the printed digits); a common step of
    any size, up to rounding (metres that were inches); the spacing of single-precision numbers; 2^-40 of the largest value.

    Args:
        values: ``(n,)`` distinct finite values, ascending, at least two.
        single: They were stored in single precision.
    """
    largest = float(np.abs(values).max())
    if not single:
        grid = _decimal_grid(values, False)
        if grid is not None and grid.step >= _FINEST * largest:
            return grid
    stored = is_single(values)
    if single or stored:
        grid = _decimal_grid(values, True)
        if grid is not None and grid.step >= _CLEAR * _SINGLE * largest:
            return grid
    grid = _any_grid(values, _SINGLE)
    if grid is None and not stored:
        grid = _any_grid(values, _DOUBLE)
    if grid is not None and grid.step >= _FINEST * largest:
        return grid
    if stored:
        step = _binary_step(values)
        if step >= _FINEST * largest:
            return Grid(step, 0.0, None, False)
    return Grid(_FINEST * largest, 0.0, None, False)


def is_single(values: np.ndarray) -> bool:
    """Whether every number is exactly one of single precision."""
    with np.errstate(over="ignore"):
        return bool(np.all(values == values.astype(np.float32)))


def printed_decimals(values: np.ndarray, single: bool = False) -> int | None:
    """Digits after the point of the numbers as printed; ``None`` where they need more than storage can hold."""
    largest = float(np.abs(values).max()) if len(values) else 0.0
    if largest == 0.0:
        return 0
    exponent = int(np.floor(np.log10(largest)))
    for decimals in range(min(0, 14 - exponent), 15 - exponent):
        if _fits(values, decimals, single):
            return max(decimals, 0) if decimals >= 0 else decimals
    return None


def _scaled(values: np.ndarray, decimals: int) -> np.ndarray:
    return np.rint(values * 10.0**decimals if decimals >= 0 else values / 10.0**-decimals)


def _unscaled(counts: np.ndarray, decimals: int) -> np.ndarray:
    return counts / 10.0**decimals if decimals >= 0 else counts * 10.0**-decimals


def _fits(values: np.ndarray, decimals: int, single: bool) -> bool:
    rounded = _unscaled(_scaled(values, decimals), decimals)
    if single:
        return bool(np.all(rounded.astype(np.float32) == values.astype(np.float32)))
    return bool(np.all(np.abs(rounded - values) <= 2 * _DOUBLE * np.abs(values)))


def _decimal_grid(values: np.ndarray, single: bool) -> Grid | None:
    decimals = printed_decimals(values, single)
    if decimals is None:
        return None
    counts = _scaled(values, decimals).astype(np.int64)
    divisor = int(np.gcd.reduce(counts[1:] - counts[0]))
    if divisor == 0:
        return None
    step, origin = _unscaled(np.array([divisor, int(counts[0]) % divisor], dtype=np.float64), decimals).tolist()
    return Grid(step, origin, max(decimals, 0), True)


def _binary_step(values: np.ndarray) -> float:
    """The largest power of two that divides all values."""
    mantissa, exponent = np.frexp(values[values != 0])
    whole = np.abs(mantissa * 2.0**53).astype(np.int64)
    lowest = np.log2((whole & -whole).astype(np.float64)) - 53 + exponent
    return float(2.0 ** lowest.min())


def _any_grid(values: np.ndarray, rounding: float) -> Grid | None:
    """A common step of any size, up to rounding: Euclid's algorithm on the gaps, with the step refitted as it goes.

    It is kept if the agreement of all values with it is no accident: a wrong step passes each value with probability
    (tolerance / step).
    """
    distance = values - values[0]
    tolerance = 2 * rounding * (np.abs(values) + abs(float(values[0])))
    floor = _CLEAR * rounding * float(np.abs(values).max())
    step = float(np.diff(values).min())
    for _ in range(64):
        if step < floor:
            return None
        step, rest = _refit(distance, tolerance, step)
        if rest is None:
            break
        step = rest
    else:
        return None
    chance = (len(values) - 2) * np.log(min(1.0, 2 * float(tolerance.max()) / step))
    if chance > np.log(1e-6):
        return None
    return _tidy(values, tolerance, step)


def _refit(distance: np.ndarray, tolerance: np.ndarray, step: float) -> tuple[float, float | None]:
    """Least-squares step over windows that double, so that the index of a far value is never off by one.

    Returns:
        The step, and the smallest remainder that the step does not explain (``None`` if all are explained).
    """
    width = 4 * step
    while True:
        end = int(np.searchsorted(distance, width, side="right"))
        near = distance[1:end]
        index = np.rint(near / step)
        step_here = float((index * near).sum() / (index * index).sum()) if len(near) and index.any() else step
        remainder = np.abs(near - np.rint(near / step_here) * step_here)
        beyond = remainder > tolerance[1:end]
        if beyond.any():
            return step, float(remainder[beyond].min())
        step = step_here
        if end == len(distance):
            return step, None
        width = max(2 * width, float(distance[end]))


def _tidy(values: np.ndarray, tolerance: np.ndarray, step: float) -> Grid:
    """The step in the fewest digits that still explain all values; origin 0 where that does."""
    for digits in range(1, 16):
        short = float(f"{step:.{digits - 1}e}")
        index = np.rint((values - values[0]) / short)
        if np.all(np.abs(values - values[0] - index * short) <= tolerance):
            step = short
            break
    index = np.rint(values / step)
    if np.all(np.abs(values - index * step) <= tolerance):
        return Grid(step, 0.0, None, True)
    return Grid(step, float(values[0] % step), None, True)
