"""The greatest common step of the values of a column: the width of its cells.

Numbers come with noise: 0.1 stored in single precision is 0.100000001. A step is believed only where it stands clear of
that noise; else the numbers are taken as they are stored. All rules scale with the unit of the column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genzoo.tables.schema import Column

_SINGLE = 2.0**-24  # relative rounding error of single precision
_DOUBLE = 2.0**-53
_FINEST = 2.0**-40  # a cell below this share of the largest value has edges that float64 confuses
_ACCIDENT = float(np.log(1e-9))  # chance below which agreement with a step is no accident


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
    """The coarsest grid that holds all values, else cells as fine as float64 can tell apart.

    In this order: a common decimal step, exact, by the greatest common divisor of the printed digits; a common step of
    any size, up to rounding (metres that were inches); 2^-40 of the largest value. A step must exceed the spacing of
    the stored numbers at the largest value, or only the smaller values would tell of it.

    Args:
        values: ``(n,)`` distinct finite values, ascending, at least two.
        single: They were stored in single precision (also seen from the values themselves).
    """
    largest = float(np.abs(values).max())
    finest = _FINEST * largest
    if single or is_single(values):
        printed = _decimal_grid(values, True)
        if printed is not None and (
            printed.step < 2 * _SINGLE * largest or _log_chance(2 * _SINGLE * np.abs(values), printed.step) > _ACCIDENT
        ):
            printed = None
    else:
        for roundings in (0, 4):  # as printed; then brought to another unit, which rounds once or twice more
            printed = _decimal_grid(values, False, roundings)
            if printed is not None and printed.step >= finest:
                return printed
        printed = None
    # Digits of single precision are noisy: 10.24 k may look like a multiple of 0.01. The coarser step counts.
    fitted = _any_grid(values, _SINGLE)
    if fitted is None or fitted.step < 2 * _SINGLE * largest:
        fitted = _any_grid(values, _DOUBLE) if printed is None else None
    if printed is not None and (fitted is None or fitted.step < 1.5 * printed.step):
        return printed
    if fitted is not None and fitted.step >= finest:
        return fitted
    return Grid(finest, 0.0, None, False)


def _log_chance(tolerance: np.ndarray, step: float) -> float:
    """Log-probability that values with these rounding errors lie on a grid of this step by accident."""
    known = tolerance[tolerance > 0]
    return float(np.log(np.minimum(1.0, known / step)).sum())


def snap(values: np.ndarray, column: Column) -> np.ndarray:
    """Nearest grid points of a quantized column, written with the column's decimals."""
    step = float(column.step or 1.0)
    points = column.origin + np.rint((values - column.origin) / step) * step
    return np.round(points, column.decimals) if column.decimals is not None else points


ACCIDENT = 1e-3
"""Plain numbers that a cell may be expected to hold by chance, at most, so that the one it holds is meant."""


def plainest(points: np.ndarray, step: float) -> np.ndarray:
    """For each cell the plainest number in it that is no accident (few decimals, a small fraction), else its centre.

    A cell of width ``w`` holds about ``w 10^d`` numbers of ``d`` decimals and ``w q^2`` fractions of denominators up to
    ``q``. Where that is below :data:`ACCIDENT`, the one that is found was there before the grid: a table of thirds gets
    its thirds back, bit by bit. Coarse cells are searched as far as rounding may have moved their centres.

    Args:
        points: Centres of cells, ``(n,)``; NaN stays.
        step: Width of the cells.
    """
    out = points.copy()
    left = np.isfinite(points)
    for width in (np.full(len(points), float(step)), np.minimum(step, np.abs(points) * 2.0**-49)):
        chosen = _plain(points[left], width[left])
        out[left] = np.where(np.isnan(chosen), points[left], chosen)
        left[left] = np.isnan(chosen)
    return out


def _plain(points: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Numbers of few decimals, or small fractions, in the cells; NaN where there is none."""
    out = np.full(len(points), np.nan)
    reach = 0.4999 * width
    for decimals in range(16):
        with np.errstate(over="ignore"):  # the largest doubles have no decimals: infinity lies in no cell
            rounded = np.round(points, decimals)
        here = np.isnan(out) & (np.abs(rounded - points) <= reach) & (width * 10.0**decimals <= ACCIDENT)
        out[here] = rounded[here]
    # convergents of the continued fraction: the small fractions that lie so near are among them (Legendre)
    x = np.abs(points)
    above, below, rest = (np.ones_like(x), np.floor(x)), (np.zeros_like(x), np.ones_like(x)), x - np.floor(x)
    for _ in range(20):
        going = np.isnan(out) & (rest > 0) & (below[1] ** 2 * width <= ACCIDENT)
        if not going.any():
            break
        inverse = 1 / np.where(going, rest, 1.0)
        whole = np.floor(inverse)
        rest = np.where(going, inverse - whole, 0.0)
        above, below = (above[1], whole * above[1] + above[0]), (below[1], whole * below[1] + below[0])
        fraction = np.copysign(above[1] / below[1], points)
        here = going & (np.abs(fraction - points) <= reach) & (below[1] ** 2 * width <= ACCIDENT)
        out[here] = fraction[here]
    return out


def is_single(values: np.ndarray) -> bool:
    """Whether every number is exactly one of single precision."""
    with np.errstate(over="ignore"):
        return bool(np.all(values == values.astype(np.float32)))


def printed_decimals(values: np.ndarray, single: bool = False, roundings: int = 0) -> int | None:
    """Digits after the point of the numbers as printed; ``None`` where they need more than storage can hold."""
    largest = float(np.abs(values).max()) if len(values) else 0.0
    if largest == 0.0:
        return 0
    exponent = int(np.floor(np.log10(largest)))
    for decimals in range(min(0, 14 - exponent), min(15 - exponent, 23)):  # 10^22 is the last exact power of ten
        if _fits(values, decimals, single, roundings):
            return max(decimals, 0) if decimals >= 0 else decimals
    return None


def _scaled(values: np.ndarray, decimals: int) -> np.ndarray:
    return np.rint(values * 10.0**decimals if decimals >= 0 else values / 10.0**-decimals)


def _unscaled(counts: np.ndarray, decimals: int) -> np.ndarray:
    return counts / 10.0**decimals if decimals >= 0 else counts * 10.0**-decimals


def _fits(values: np.ndarray, decimals: int, single: bool, roundings: int) -> bool:
    rounded = _unscaled(_scaled(values, decimals), decimals)
    if single:
        return bool(np.all(rounded.astype(np.float32) == values.astype(np.float32)))
    return bool(np.all(np.abs(rounded - values) <= roundings * _DOUBLE * np.abs(values)))


def _decimal_grid(values: np.ndarray, single: bool, roundings: int = 0) -> Grid | None:
    decimals = printed_decimals(values, single, roundings)
    if decimals is None:
        return None
    counts = _scaled(values, decimals).astype(np.int64)
    divisor = int(np.gcd.reduce(counts[1:] - counts[0]))
    if divisor == 0:
        return None
    step, origin = _unscaled(np.array([divisor, int(counts[0]) % divisor], dtype=np.float64), decimals).tolist()
    return Grid(step, origin, max(decimals, 0), True)


def _any_grid(values: np.ndarray, rounding: float) -> Grid | None:
    """A common step of any size, up to rounding: through zero, else through the smallest value.

    A number with a rounding error above an eighth of the step says nothing of it and is passed over.
    """
    size = np.unique(np.abs(values))
    size = size[size > 0]
    step = _euclid(size, 3 * rounding * size)  # stored, then multiplied by a unit: two roundings and a reserve
    if step is not None:
        return Grid(step, 0.0, _digits_after_point(step), True)
    distance = (values - values[0])[1:]
    step = _euclid(distance, np.full(len(distance), 4 * rounding * float(size[-1])))
    return None if step is None else Grid(step, float(values[0] % step), None, True)


def _digits_after_point(step: float) -> int | None:
    decimals = printed_decimals(np.array([step]))
    return decimals if decimals is not None and 0 <= decimals <= 12 else None


def _euclid(distance: np.ndarray, tolerance: np.ndarray) -> float | None:
    """Euclid's algorithm on many lengths at once, the step refitted as it goes; ``None`` without a common step.

    Args:
        distance: ``(n,)`` positive lengths, ascending.
        tolerance: ``(n,)`` what each may deviate from a multiple of the step.
    """
    if len(distance) < 2:
        return None
    # Gaps are small multiples, from which the step is learned before the index of a long length can be told.
    length = np.concatenate([distance, np.diff(distance)])
    slack = np.concatenate([tolerance, tolerance[1:] + tolerance[:-1]])
    order = np.argsort(length, kind="stable")
    length, slack = length[order], slack[order]
    clear = length >= 8 * slack
    if not clear.any():
        return None
    step = float(length[clear][0])
    while True:
        if _log_chance(2 * tolerance[tolerance <= step / 8][3:], step) > _ACCIDENT:
            return None
        telling = slack <= step / 8
        step, rest = _refit(length[telling], slack[telling], step)
        if rest is None:
            return _settled(length, slack, step)
        step = rest


def _settled(length: np.ndarray, slack: np.ndarray, step: float) -> float | None:
    """The largest multiple of a step (a noisy remainder can end in a fraction), in few digits, tried on every length
    that can tell; ``None`` if one contradicts."""
    telling = slack <= step / 8
    if not telling.any():
        return None
    step *= max(1, int(np.gcd.reduce(np.rint(length[telling] / step).astype(np.int64))))
    telling = slack <= step / 8
    length, slack = length[telling], slack[telling]
    if np.any(np.abs(length - np.rint(length / step) * step) > slack):
        return None
    return _in_few_digits(length, slack, step)


def _refit(length: np.ndarray, slack: np.ndarray, step: float) -> tuple[float, float | None]:
    """Least-squares step over windows that double, so that the index of a far value is never off by one.

    Returns:
        The step, and the smallest remainder that it does not explain (``None`` if it explains all).
    """
    width = 4 * step
    while True:
        end = int(np.searchsorted(length, width, side="right"))
        if end:
            ratio, error = length[:end] / step, slack[:end].clip(np.finfo(np.float64).tiny)
            index, weight = np.rint(ratio), (error.min() / error) ** 2  # ratios: numbers near 1e300 do not overflow
            fitted = (
                step * float((weight * index * ratio).sum() / (weight * index * index).sum()) if index.any() else step
            )
            remainder = np.abs(length[:end] - np.rint(length[:end] / fitted) * fitted)
            beyond = remainder > slack[:end]
            if beyond.any():
                return step, float(remainder[beyond].min())
            step = fitted
        if end == len(length):
            return step, None
        width = max(2 * width, float(length[end]))


def _in_few_digits(length: np.ndarray, slack: np.ndarray, step: float) -> float:
    """The step in few digits (0.0254), if some so short explain all lengths that it is no accident."""
    share = float((slack / length).min())
    for digits in range(1, 16):
        if 10.0**digits * share > 1e-2:
            return step
        short = float(f"{step:.{digits - 1}e}")
        index = np.rint(length / short)
        if np.all(np.abs(length - index * short) <= slack) and np.all(index == np.rint(length / step)):
            return short
    return step
