"""Values of a grid that training rows hold more often than a smooth density over the grid would explain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WINDOW = 3
FEWEST = 2
RATIO = 1.5


def frequent_points(index: Tensor, limit: int) -> Tensor:
    """Grid points that deserve a probability of their own, most gainful first.

    Each distinct point is held against its ``WINDOW`` distinct neighbours on either side: with ``c`` rows on the point
    and ``e`` expected from the neighbours' rows spread evenly over the cells between them, a probability of its own
    gains about ``c log(c / e) - (c - e)`` nats on the training rows. A point earns its keep above ``3 + log`` of the
    number of distinct points (one of them is picked), with half as many rows again as expected and at least two: rows
    alone on their value stay in the continuum, where they teach a model how often new values come (Good, 1953).

    Depends on grid numbers alone, so not on units.

    Args:
        index: ``(rows,)`` grid numbers of the training rows, any order.
        limit: Most points.

    Returns:
        ``(at most limit,)`` float64 grid numbers.
    """
    points, counts = torch.unique(index, return_counts=True)
    number = len(points)
    if not number or not limit:
        return points[:0]
    count = counts.double()
    place = torch.arange(number)
    low, high = (place - WINDOW).clamp(min=0), (place + WINDOW).clamp(max=number - 1)
    total = torch.cat([count.new_zeros(1), count.cumsum(0)])
    others = total[high + 1] - total[low] - count
    cells = points[high] - points[low]  # of the window, less the point's own
    expected = (others + 0.5) / (cells + 1)
    gain = count * (count / expected).log() - (count - expected)
    worth = (gain > 3 + math.log(number)) & (count >= FEWEST) & (count > RATIO * expected)
    order = torch.where(worth, gain, -torch.inf).argsort(descending=True, stable=True)
    return points[order[: min(limit, int(worth.sum()))]]
