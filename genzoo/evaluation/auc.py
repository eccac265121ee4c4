"""Area under the ROC curve with its standard error."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> tuple[float, float]:
    r"""Probability that a positive scores above a negative, ties counted half, and its standard error.

    Args:
        positive: Scores of one class.
        negative: Scores of the other.

    Returns:
        ``(area, standard error)`` by DeLong's structural components; ``nan`` where a class is empty, and an error of
        ``nan`` where one has a single row.

    References:
        DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44.
    """
    m, n = len(positive), len(negative)
    if not m or not n:
        return math.nan, math.nan
    above = _share_below(positive, negative)
    below = 1 - _share_below(negative, positive)
    value = float(above.mean())
    if m < 2 or n < 2:
        return value, math.nan
    return value, math.sqrt(float(above.var(ddof=1)) / m + float(below.var(ddof=1)) / n)


def _share_below(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each value the share of ``others`` below it, ties counted half."""
    order = np.sort(others)
    strict = np.searchsorted(order, values, side="left")
    weak = np.searchsorted(order, values, side="right")
    return np.asarray((strict + weak) / (2 * len(others)))
