"""Means, errors and quantiles of a column of numbers whose rows may have weights; safe for rows at -inf.

Without weights (``None``) each is the plain number; equal weights give the same to rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from genzoo.tables.weights import effective_rows

__all__ = [
    "effective_rows",
    "error_of_mean",
    "noise_of_mean",
    "quantile",
    "same_weights",
    "weighted_mean",
    "winsorised_mean",
]

Floats = NDArray[np.float64]


def weighted_mean(values: Floats, weights: Floats | None = None) -> float:
    """``sum w v / sum w``; ``-inf`` if a value is, NaN without values."""
    if not len(values):
        return math.nan
    return float(values.mean()) if weights is None else float(weights @ values) / float(weights.sum())


def error_of_mean(values: Floats, weights: Floats | None = None) -> float:
    """Standard error of :func:`weighted_mean` over independent rows; two at least, all finite.

    ``s / sqrt(n)``; with weights the linearised error of a ratio of two sums, which holds for unequal weights whatever
    they stand for: ``sqrt(n / (n - 1) sum w^2 (v - mean)^2) / sum w``.

    References:
        Cochran 1977, Sampling techniques, section 6.3 (ratio estimator); the factor n / (n - 1) is that of survey
        software.
    """
    num = len(values)
    if weights is None:
        return float(values.std(ddof=1)) / math.sqrt(num)
    influence = weights * (values - weighted_mean(values, weights))
    return math.sqrt(num / (num - 1) * float(influence @ influence)) / float(weights.sum())


def noise_of_mean(se: Floats, weights: Floats | None = None) -> float:
    """What independent errors of the rows leave in the mean: ``sqrt(sum w^2 se^2) / sum w``."""
    if weights is None:
        return math.sqrt(float(np.mean(se**2)) / len(se))
    return math.sqrt(float(np.sum((weights * se) ** 2))) / float(weights.sum())


def quantile(values: Floats, share: float, weights: Floats | None = None) -> float:
    """The smallest value with at least ``share`` of the (weighted) rows at or below it: a value of the data."""
    if not len(values):
        return math.nan
    if weights is None:
        return float(np.quantile(values, share, method="inverted_cdf"))
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    # rounding must not push equal weights past the row that n * share names exactly
    place = int(np.searchsorted(reached, share * (1 - 1e-12), side="left"))
    return float(values[order][min(place, len(values) - 1)])


def winsorised_mean(values: Floats, share: float = 0.001, weights: Floats | None = None) -> float:
    """Mean after the lowest and highest values, those within ``share`` of the rows (of their weight) at either end,
    were set to the next one.

    A secondary number beside the mean: it shows whether a handful of rows decides. Below ``1 / share`` rows it equals
    the mean. ``-inf`` if more rows than that are.
    """
    num = len(values)
    if not num:
        return math.nan
    order = np.argsort(values, kind="stable")
    inner = values[order]
    w = np.ones(num) if weights is None else weights[order]
    most = share * float(w.sum()) * (1 + 1e-12)
    low, high = (int(np.searchsorted(np.cumsum(one), most, side="right")) for one in (w, w[::-1]))
    low, high = min(low, num - 1), min(high, num - 1)
    inner[:low], inner[num - high :] = inner[low], inner[num - high - 1]
    return weighted_mean(inner, None if weights is None else w)


def same_weights(first: Floats | None, second: Floats | None) -> bool:
    """Both none, or equal row by row up to one common factor."""
    if first is None or second is None:
        return first is second
    if len(first) != len(second):
        return False
    return bool(np.allclose(first * second.sum(), second * first.sum(), rtol=1e-9, atol=0.0))
