"""Frequent grid points inside a bin: shares of its rows of their own, beside the bin's smooth shape.

Within a bin of several cells, ``p(cell | bin) = s_cell + (1 - S) q(cell)``: ``s`` is the share of a frequent point
(zero elsewhere), ``S`` the sum of the shares in the bin, and ``q`` the shape that knows no frequent points. ``q`` sums
to one over the bin, so ``p`` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEW_ROWS = 1.0
"""Rows added to a bin's shape, so that a value that no training row holds stays possible."""
STEPS = 50


def fit_shares(count: Tensor, smooth: Tensor, bins: Tensor, rows: Tensor) -> Tensor:
    """Shares of largest likelihood, :data:`NEW_ROWS` more rows being the shape's, by expectation maximisation.

    Args:
        count: ``(k,)`` training rows on each frequent point.
        smooth: ``(k,)`` probability of its cell under the bin's shape.
        bins: ``(k,)`` number of its bin, from 0.
        rows: ``(b,)`` training rows in each bin.

    Returns:
        ``(k,)`` shares; those of one bin add up to less than one.
    """
    most = count / (rows[bins] + NEW_ROWS)
    share = most
    for _ in range(STEPS):
        own = share / (share + _rest(share, bins, len(rows)) * smooth)
        share = most * own
    return share


def _rest(share: Tensor, bins: Tensor, num_bins: int) -> Tensor:
    return (1 - share.new_zeros(num_bins).index_add(0, bins, share))[bins]


class Within:
    """Frequent points of the bins of numbers that are to be scored or drawn.

    Args:
        points: ``(columns, k)`` ascending grid points, the unused ones ``inf``.
        shares: ``(columns, k)`` their shares of their bins.
        lower: ``(batch, columns)`` lower edges of the bins.
        upper: ``(batch, columns)`` upper edges.
    """

    def __init__(self, points: Tensor, shares: Tensor, lower: Tensor, upper: Tensor) -> None:
        self.points, self.shares = points.contiguous(), shares
        self.before = torch.nn.functional.pad(shares.cumsum(1), (1, 0))
        self.first, self.last = self._place(lower), self._place(upper)
        self.held = (self.before.gather(1, self.last) - self.before.gather(1, self.first)).T
        """``(batch, columns)`` sum of the shares in the bin, below one."""

    def _place(self, x: Tensor) -> Tensor:
        return torch.searchsorted(self.points, x.T.contiguous())

    def log_probability(self, u: Tensor, smooth: Tensor) -> Tensor:
        """Log-probability of points ``u`` given their bins, ``(batch, columns)``, from that under the shape."""
        place = self._place(u).clamp(max=self.points.shape[1] - 1)
        share = torch.where(self.points.gather(1, place) == u.T, self.shares.gather(1, place), 0.0).T
        return torch.logaddexp(share.log(), torch.log1p(-self.held) + smooth)

    def draw(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Frequent points where levels in (0, 1) choose one (else NaN), and what remains of the levels."""
        target = self.before.gather(1, self.first) + level.T
        index = torch.searchsorted(self.before, target.contiguous(), right=True) - 1
        index = torch.minimum(torch.maximum(index, self.first), (self.last - 1).clamp(min=0))
        point = torch.where(level < self.held, self.points.gather(1, index).T, torch.nan)
        return point, ((level - self.held) / (1 - self.held)).clamp(2.0**-54, 1 - 2.0**-53)
