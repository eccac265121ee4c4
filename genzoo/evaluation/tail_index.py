r"""How heavy is a tail: Hill, moment and kernel estimators with their own choice of how far into the tail to look.

A tail is heavy with index :math:`\alpha` when :math:`P(|X| > x)` falls like :math:`x^{-\alpha}`; the extreme value
index is :math:`\xi = 1 / \alpha`, and moments of order below :math:`\alpha` exist. A Student t has :math:`\alpha` equal
to its degrees of freedom. A tail that falls faster than every power is light here, with :math:`\alpha` infinite.

References:
    Hill (1975); Dekkers, Einmahl, de Haan (1989); Groeneboom, Lopuhaa, de Wolf (2003); double bootstrap: Danielsson, de
    Haan, Peng, de Vries (2001), Draisma et al. (1999). Combined into one decision by Laszkiewicz, Lederer, Fischer
    (2022), arXiv:2206.10311.
    Differs from the authors' code, which takes the exponent of the density, :math:`1 + 1 / \xi`, for the degrees of
    freedom: here it is :math:`1 / \xi`. Columns are measured from their median in units of a robust spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LARGEST_INDEX = 10.0
"""Tails that fall faster than this power cannot be told from light ones and count as light."""
FEWEST_ROWS = 100
ALPHA = 0.6
_GRID = 200


@dataclass(frozen=True)
class TailIndex:
    """Estimated tail of one sample.

    Args:
        index: Tail index (degrees of freedom), ``inf`` for a light tail.
        low: Lower end of the bootstrap interval of the Hill index ``1 / hill``, whatever the decision. It takes the
            outer ends of two intervals, with all of the extremes and with a quarter of them, because of the bias.
        high: Upper end.
        hill: Hill estimate of xi; positive by construction, so it cannot call a tail light.
        moment: Moment estimate of xi; at most 0 for a light tail.
        kernel: Kernel estimate of xi; at most 0 for a light tail.
        num_extremes: Order statistics that the Hill estimate reads.
        num_values: Size of the sample.
    """

    index: float
    low: float
    high: float
    hill: float
    moment: float
    kernel: float
    num_extremes: int
    num_values: int

    @property
    def heavy(self) -> bool:
        """The tail falls like a power."""
        return math.isfinite(self.index)


NOT_ENOUGH = TailIndex(math.inf, math.nan, math.nan, math.nan, math.nan, math.nan, 0, 0)
"""Of a sample too small, or without spread: it is taken for light."""


def tail_index(
    values: Floats, *, side: str = "both", num_resamples: int = 200, seed: int = 0, level: float = 0.95
) -> TailIndex:
    """Estimates the tail of one sample and decides whether it is light.

    Light if the moment and the kernel estimate are both at most 0, or the index is above :data:`LARGEST_INDEX`; else
    heavy with the Hill index. Ties at the far end of the sample break the estimators: spread the values of a grid
    inside their cells first.

    Args:
        values: ``(n,)``; values that are not finite are left out. Fewer than :data:`FEWEST_ROWS` are taken for light.
        side: ``both`` looks at the distance to the median, ``upper`` and ``lower`` at one side of it.
        num_resamples: Resamples of each of the two bootstraps that choose how far to look; the error of the choice
            falls with their root, time is proportional.
        seed: Of the resampling.
        level: Confidence of the interval.

    Raises:
        ValueError: an unknown side.
    """
    if side not in ("both", "upper", "lower"):
        raise ValueError(f"side must be both, upper or lower, got {side!r}")
    finite = values[np.isfinite(values)].astype(np.float64)
    if len(finite) < FEWEST_ROWS:
        return NOT_ENOUGH
    middle = float(np.median(finite))
    quarter, three = np.quantile(finite, [0.25, 0.75])
    unit = float(three - quarter) / 1.349 or float(finite.std())
    if not unit > 0:
        return NOT_ENOUGH
    distance = (finite - middle) / unit
    distance = (
        np.abs(distance) if side == "both" else distance[distance > 0] if side == "upper" else -distance[distance < 0]
    )
    return _of_distances(distance, num_resamples, seed, level)


def tail_indices(table: Floats, **options: object) -> list[TailIndex]:
    """:func:`tail_index` of every column of ``(n, num_columns)``; NaN cells are left out."""
    return [tail_index(column, **options) for column in table.T]  # type: ignore[arg-type]


def _of_distances(distance: Floats, num_resamples: int, seed: int, level: float) -> TailIndex:
    logs = _descending_logs(distance)
    num = len(logs)
    top = int(np.count_nonzero(logs > 0))  # values beyond one unit: the tail lies there
    if top < 20 or logs[0] - logs[top] <= 0:
        return NOT_ENOUGH
    rng = np.random.default_rng(seed)
    share = min(top / num, (num - 2) / num)
    first = math.sqrt(num * (num // 2))  # n ** e with e = (1 + log(n // 2) / log n) / 2
    sizes = (max(int(first), 30), max(int(first**2 / num), 30))
    small, large = (_Resamples(logs, size, share, num_resamples, rng) for size in (sizes[1], sizes[0]))
    hill_extremes = min(_hill_choice(large, small, num), top)
    moment_extremes = min(_moment_choice(large, small, logs, num), top)
    bandwidth = min(_kernel_choice(large, small), share)
    hill = float(_hill_path(logs[None, : hill_extremes + 1])[0, -1])
    moment = float(_moment_path(logs[None, : moment_extremes + 1])[0, -1])
    kernel = float(_Kernel(np.array([bandwidth]), num, 2).estimate(_spacings(logs[None]))[0, 0])
    draws = _Resamples(logs, num, hill_extremes / num, num_resamples, rng).logs
    # The chosen number has a bias as large as its noise; a quarter of the extremes has less of it, and more noise.
    path = _hill_path(draws)
    some = [path[:, -1], path[:, max(hill_extremes // 4, 5) - 1]]
    with np.errstate(divide="ignore"):
        ends = 1 / np.quantile(some, [0.5 + level / 2, 0.5 - level / 2], axis=1)
    light = (moment <= 0 and kernel <= 0) or hill * LARGEST_INDEX < 1
    index = math.inf if light else 1 / hill
    return TailIndex(index, float(ends[0].min()), float(ends[1].max()), hill, moment, kernel, hill_extremes, num)


def hill_estimate(values: Floats, num_extremes: int) -> float:
    """Hill's estimate of xi from the ``num_extremes`` largest of positive ``values``."""
    return float(_hill_path(_descending_logs(values)[None, : num_extremes + 1])[0, -1])


def moment_estimate(values: Floats, num_extremes: int) -> float:
    """The moment estimate of xi, of either sign, from the ``num_extremes`` largest of positive ``values``."""
    return float(_moment_path(_descending_logs(values)[None, : num_extremes + 1])[0, -1])


def kernel_estimate(values: Floats, bandwidth: float) -> float:
    """The kernel estimate of xi, of either sign, from the share ``bandwidth`` of positive ``values``."""
    logs = _descending_logs(values)
    return float(_Kernel(np.array([bandwidth]), len(logs), 2).estimate(_spacings(logs[None]))[0, 0])


def _descending_logs(values: Floats) -> Floats:
    positive = values[values > 0]
    return np.log(np.sort(positive)[::-1])


# ---- estimates for every number of extremes at once ---------------------------------------------------------------


def _hill_path(logs: Floats) -> Floats:
    """``(m, k + 1)`` descending logarithms to the estimate for 1 ... k extremes, ``(m, k)``."""
    count = np.arange(1, logs.shape[1])
    return np.asarray(np.cumsum(logs[:, :-1], 1) / count - logs[:, 1:])


def _moments(logs: Floats, orders: int) -> list[Floats]:
    """Means of powers 1 ... ``orders`` of the excess over the next value, ``(m, k)`` each."""
    logs = logs - logs[:, -1:]  # small numbers, so that powers cancel little
    count, edge = np.arange(1, logs.shape[1]), logs[:, 1:]
    first = np.cumsum(logs[:, :-1], 1) / count
    second = np.cumsum(logs[:, :-1] ** 2, 1) / count
    found = [first - edge, np.maximum(second - 2 * edge * first + edge**2, 0)]
    if orders > 2:
        third = np.cumsum(logs[:, :-1] ** 3, 1) / count
        found.append(np.maximum(third - 3 * edge * second + 3 * edge**2 * first - edge**3, 0))
    return found


def _moment_path(logs: Floats) -> Floats:
    first, second = _moments(logs, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(first + 1 - 0.5 / (1 - first**2 / second))


def _spacings(logs: Floats) -> Floats:
    return logs[:, :-1] - logs[:, 1:]


class _Kernel:
    """Kernel estimates of xi for several bandwidths, as three weighted sums of spacings.

    Args:
        bandwidths: ``(b,)`` shares of the sample.
        num: Size of the sample.
        power: 2 for the biweight, 3 for the triweight.
    """

    def __init__(self, bandwidths: Floats, num: int, power: int) -> None:
        most = min(num - 1, math.ceil(float(bandwidths.max()) * num))
        u = np.arange(1, most + 1) / num
        v = u[None] / bandwidths[:, None]
        inside = np.clip(1 - v**2, 0, None)
        norm = {2: 15 / 8, 3: 35 / 16}[power] / bandwidths[:, None]
        weight = norm * inside**power
        slope = norm / bandwidths[:, None] * power * inside ** (power - 1) * -2 * v
        self.hill = u * weight
        self.lower = u**ALPHA * weight
        self.upper = (1 + ALPHA) * u**ALPHA * weight + u ** (1 + ALPHA) * slope

    def estimate(self, spacings: Floats) -> Floats:
        """``(m, k)`` spacings to ``(m, b)``."""
        used = min(spacings.shape[1], self.hill.shape[1])
        spacings = spacings[:, :used]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (spacings @ self.upper[:, :used].T) / (spacings @ self.lower[:, :used].T)
        return np.asarray(spacings @ self.hill[:, :used].T - 1 + ratio)


# ---- how far into the tail to look: double bootstrap --------------------------------------------------------------


class _Resamples:
    """Largest values of resamples with replacement, drawn in order: sums of exponentials are ordered uniforms.

    ``logs`` is ``(num_resamples, k + 1)`` descending with ``k = share * size``.
    """

    def __init__(self, logs: Floats, size: int, share: float, num: int, rng: np.random.Generator) -> None:
        self.size = size
        k = max(2, min(round(share * size), size - 2))
        steps = np.cumsum(rng.standard_exponential((num, k + 1)), 1)
        total = steps[:, -1:] + rng.standard_gamma(size - k, (num, 1))
        place = np.minimum((steps / total * len(logs)).astype(np.int64), len(logs) - 1)
        self.logs = logs[place]


def _fewest(num: int) -> int:
    """Fewer extremes than this have an error that no bias outweighs, whatever the bootstrap says."""
    return max(10, math.isqrt(num))


def _minimiser(error: Floats, low: int, high: int) -> int:
    """Number of extremes, at least ``low`` and at most ``high``, with the least mean squared error."""
    mean = np.where(np.isfinite(error), error, np.nan)
    lost = np.isnan(mean).mean(0) > 0.5
    with np.errstate(invalid="ignore"):
        mean = np.nansum(mean, 0) / np.maximum((~np.isnan(mean)).sum(0), 1)
    mean[lost] = np.inf
    part = mean[low - 1 : high]
    return low + int(np.argmin(part)) if len(part) else high


def _choices(large: _Resamples, small: _Resamples, errors: tuple[Floats, Floats], num: int) -> tuple[int, int]:
    """Minimisers in both bootstraps; the lower bound of the search rises until the larger sample asks for more."""
    share = 0.005
    while True:
        k1, k2 = (
            _minimiser(error, max(_fewest(part.size), math.ceil(share * part.size)), error.shape[1])
            for error, part in zip(errors, (large, small), strict=True)
        )
        share += 0.005
        if k2 <= k1 or share * small.size >= errors[1].shape[1]:
            return k1, min(k1, k2)


def _hill_choice(large: _Resamples, small: _Resamples, num: int) -> int:
    def error(part: _Resamples) -> Floats:
        first, second = _moments(part.logs, 2)
        return (second - 2 * first**2) ** 2

    k1, k2 = _choices(large, small, (error(large), error(small)), num)
    log_k, log_n = math.log(k1), math.log(large.size)
    rho = (1 - 2 * (log_k - log_n) / log_k) ** (log_k / log_n - 1)
    return max(_fewest(num), round(k1**2 / k2 * rho))


def _moment_choice(large: _Resamples, small: _Resamples, logs: Floats, num: int) -> int:
    def error(part: _Resamples) -> Floats:
        first, second, third = _moments(part.logs, 3)
        with np.errstate(divide="ignore", invalid="ignore"):
            xi = first + 1 - 0.5 / (1 - first**2 / second)
            other = np.sqrt(second / 2) + 1 - (2 / 3) / (1 - first * second / third)
            return np.asarray((xi - other) ** 2)

    k1, k2 = _choices(large, small, (error(large), error(small)), num)
    log_k, log_n = math.log(k1), math.log(large.size)
    if 2 * log_k - 2 * log_n > -1e-9:
        return k1
    rho = log_k / (2 * log_k - 2 * log_n)
    pilot = float(_moment_path(logs[None, : max(3, math.isqrt(num)) + 1])[0, -1])
    factor = _moment_factor(pilot, rho)
    return max(_fewest(num), round(k1**2 / k2 * factor)) if math.isfinite(factor) and factor > 0 else k1


def _moment_factor(xi: float, rho: float) -> float:
    """Ratio of the best numbers of extremes of the estimator and of its stand-in in the bootstrap."""
    if xi < 0:
        # Below zero the variances and biases have other forms; without second-order knowledge both are alike.
        return 1.0
    variance, stand_in = 1 + xi**2, 0.25 * (1 + xi**2)
    bias = xi / (rho * (1 - rho)) + 1 / (1 - rho) ** 2
    bias_stand_in = -(rho + xi * (1 - rho)) / (2 * (1 - rho) ** 3)
    if bias == 0 or bias_stand_in == 0:
        return 1.0
    return float((variance * bias_stand_in**2 / (stand_in * bias**2)) ** (1 / (1 - 2 * rho)))


def _kernel_choice(large: _Resamples, small: _Resamples) -> float:
    def errors(part: _Resamples) -> tuple[Floats, Floats]:
        """Bandwidths, and the mean squared difference of a biweight and a triweight estimate at each."""
        most = (part.logs.shape[1] - 1) / part.size
        grid = np.geomspace(min(max(0.005, 10 / part.size), most), most, min(_GRID, max(2, part.logs.shape[1] - 1)))
        gaps = _spacings(part.logs)
        difference = _Kernel(grid, part.size, 2).estimate(gaps) - _Kernel(grid, part.size, 3).estimate(gaps)
        return grid, np.where(np.isfinite(difference), difference**2, np.inf).mean(0)

    def best(found: tuple[Floats, Floats], least: float) -> float:
        grid, error = found
        return float(grid[int(np.argmin(np.where(grid >= min(least, grid[-1]), error, np.inf)))])

    of_large, of_small, least = errors(large), errors(small), 0.005
    while True:
        h1, h2 = best(of_large, least), best(of_small, least)
        if h1 <= h2 or least > 0.1:
            break
        least += 0.005
    h2 = max(h1, h2)
    log_h, log_n = math.log(h1), math.log(large.size)
    factor = (143 * (log_n + log_h) ** 2 / (3 * (log_n - 13 * log_h) ** 2)) ** (-log_h / log_n)
    return min(1.0, h1**2 / h2 * factor)
