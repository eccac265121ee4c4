"""Knots of a quantile map that gives every frequent cell of a grid the width of its share of the rows."""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.codecs.spikes import frequent_points

MOST_CELLS = 1024
"""Most frequent cells."""
LEAST_SHARE = 2.0**-46
"""Share of a cell between the knots, so that float64 tells its edges apart behind the map, and behind a model's own."""
MOST_LEAST = 0.125
"""Most that these shares may take from the others together; where they would take more, cells are too many."""
NEW_ROWS = 1.0
"""Rows added between the frequent cells, in equal parts, so that a value that no training row holds stays possible."""


def cell_knots(index: Tensor, num_between: int, rows_per_knot: int) -> tuple[Tensor, Tensor] | None:
    """Places and heights of the knots, or ``None`` where no cell is frequent, or cells are too many.

    Both edges of each frequent cell (:func:`~genzoo.codecs.spikes.frequent_points`) are knots, of the height
    ``Phi^-1`` of the share of rows below them; so are edges at quantiles of the other values. A normal in the map's
    image then gives a frequent cell about its share of the rows, however fine the grid is: cells of a grid are
    probabilities, and a map that widens some and narrows others changes none of them. Within a cell it is linear.

    Args:
        index: ``(rows,)`` whole grid numbers of the training rows, float64, any order.
        num_between: Most knots between the frequent cells.
        rows_per_knot: Fewest rows for each of them.

    Returns:
        ``(k,)`` places in grid numbers, all half-way between two, and ``(k,)`` heights, both strictly increasing.
    """
    spikes = frequent_points(index, MOST_CELLS).sort().values
    if not len(spikes) or float(index.max() - index.min() + 1) * LEAST_SHARE > MOST_LEAST:
        return None
    edges = torch.unique(torch.cat([spikes - 0.5, spikes + 0.5]))
    others = index[~torch.isin(index, spikes)].sort().values
    count = min(num_between, len(others) // rows_per_knot)
    position = ((torch.arange(count, dtype=torch.float64) + 0.5) / max(count, 1) * len(others)).long()
    places = torch.unique(torch.cat([edges, others[position] + 0.5]))
    below = torch.searchsorted(index.sort().values, places).double()
    # new rows: a part below the first cell, one in each gap between cells (evenly), one above the last
    lower, upper = edges[:-1], edges[1:]
    gap = ~torch.isin((lower + upper) / 2, spikes)
    parts = 2 + int(gap.sum())
    at_edges = torch.cat([edges.new_ones(1), 1 + gap.double().cumsum(0)])
    right = torch.searchsorted(edges, places).clamp(1, len(edges) - 1)
    along = ((places - edges[right - 1]) / (edges[right] - edges[right - 1])).clamp(0, 1)
    new = at_edges[right - 1] + along * (at_edges[right] - at_edges[right - 1])
    share = (below + NEW_ROWS / parts * new) / (len(index) + NEW_ROWS)
    share = (share + LEAST_SHARE * (places - places[0])) / (1 + LEAST_SHARE * (places[-1] - places[0]))
    heights = torch.special.ndtri(share)
    apart = torch.cat([below.diff() + new.diff() > 0, torch.ones(1, dtype=torch.bool)])  # else no row is between them
    return places[apart], heights[apart]
