"""What training rows say of the potential outcomes: masses of cells, their errors, and how far the arms overlap.

Sums over rows only: no row can be read off them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genzoo.codecs.vector import VectorCodec
from genzoo.likelihood.one_step import OneStep, effective_rows, grouping

NUM_POINTS = 64
"""Points of the distribution function whose joint errors are kept."""
NUM_BARS = 20
"""Bars of the histograms of propensities."""
MARGIN = 0.1
"""The grid reaches beyond the training outcomes by this share of their range, at either end."""


class InterventionalMeasure(nn.Module):
    """The one-step estimate on a grid of cells of the outcome, as buffers of fixed shape.

    Args:
        num_arms: Treatments.
        num_cells: Cells between the ends of the grid; two more lie beyond.
    """

    edges: Tensor
    centres: Tensor
    group: Tensor
    points: Tensor
    plug_in: Tensor
    correction: Tensor
    shrinkage: Tensor
    functionals: Tensor
    covariance: Tensor
    propensities: Tensor
    effective: Tensor
    clipped: Tensor
    beyond: Tensor
    rows: Tensor

    def __init__(self, num_arms: int, num_cells: int) -> None:
        super().__init__()
        all_cells, size = num_cells + 2, num_arms * (NUM_POINTS + 1)
        buffers = {
            "edges": torch.linspace(-3, 3, num_cells + 1, dtype=torch.float64),
            "centres": _zeros(all_cells),
            "group": torch.zeros(all_cells, dtype=torch.int64),
            "points": torch.linspace(0, num_cells, NUM_POINTS).round().long(),
            "plug_in": _zeros(num_arms, all_cells) + 1 / all_cells,
            "correction": _zeros(num_arms, all_cells),
            "shrinkage": _zeros(num_arms),
            "functionals": _zeros(num_arms, NUM_POINTS + 1),
            "covariance": _zeros(size, size),
            "propensities": torch.zeros(num_arms, num_arms, NUM_BARS, dtype=torch.int64),
            "effective": _zeros(num_arms),
            "clipped": _zeros(num_arms),
            "beyond": _zeros(num_arms),
            "rows": torch.zeros(num_arms, dtype=torch.int64),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value)

    @property
    def num_cells(self) -> int:
        return len(self.edges) - 1

    def place(self, codec: VectorCodec, number: Tensor) -> None:
        """Lays the grid over training outcomes.

        Args:
            codec: The fitted codec, whose only number is the outcome.
            number: ``(rows,)`` observed outcomes in model space.
        """
        device = self.edges.device
        column = torch.zeros(1, dtype=torch.int64, device=device)
        low, high = float(number.min()), float(number.max())
        if codec.numbers[0].quantized:
            # edges between grid points; every cell holds the same number of them, one if the range allows
            raw = codec.scaler.inverse(number.double()[:, None], column)[:, 0]
            index = ((raw - codec.origin[0]) / codec.step[0]).round()
            first, last = int(index.min()), int(index.max())
            stride = -(-(last - first + 1) // self.num_cells)
            first -= (self.num_cells * stride - (last - first + 1)) // 2
            place = first + stride * torch.arange(self.num_cells + 1, dtype=torch.float64, device=device)
            edges = codec.origin[0] + (place - 0.5) * codec.step[0]
            edges = codec.scaler(edges[:, None], column)[0][:, 0]
        else:
            pad = MARGIN * (high - low) or 1.0
            edges = torch.linspace(low - pad, high + pad, self.num_cells + 1, dtype=torch.float64, device=device)
        middle = torch.cat([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
        self.edges.copy_(edges)
        self.centres.copy_(codec.scaler.inverse(middle[:, None], column)[:, 0])
        group = grouping(number, edges)
        self.group.copy_(group)
        levels = (torch.arange(NUM_POINTS, dtype=torch.float64) + 0.5) / NUM_POINTS
        found = torch.searchsorted(edges, torch.quantile(number.double()[:1_000_000], levels.to(number.device)))
        self.points.copy_(found.clamp(0, self.num_cells))

    def indicators(self) -> Tensor:
        """``(all cells, 1 + NUM_POINTS)``: the cell's centre in the outcome's unit, and whether it lies below each of
        the kept points.
        """
        cell = torch.arange(self.num_cells + 2, device=self.edges.device)
        return torch.cat([self.centres[:, None], (cell[:, None] <= self.points).double()], 1)

    def take(self, found: OneStep) -> None:
        """Keeps an estimate."""
        self.plug_in.copy_(found.plug_in)
        self.correction.copy_(found.correction)
        self.shrinkage.copy_(found.shrinkage)
        self.functionals.copy_(found.functionals)
        self.covariance.copy_(found.covariance)

    def take_overlap(self, propensity: Tensor, arm: Tensor, weights: Tensor, clip: float, beyond: Tensor) -> None:
        """Keeps how far the arms overlap.

        Args:
            propensity: ``(rows, num_arms)``.
            arm: ``(rows,)``.
            weights: ``(rows, num_arms)``.
            clip: Propensity below which a row counts as clipped.
            beyond: ``(num_arms,)`` from :func:`genzoo.likelihood.one_step.beyond_support`.
        """
        arms = propensity.shape[1]
        bar = (propensity * NUM_BARS).long().clamp(0, NUM_BARS - 1)
        for received in range(arms):
            for a in range(arms):
                self.propensities[received, a] = torch.bincount(bar[arm == received, a], minlength=NUM_BARS)
        self.effective.copy_(effective_rows(weights))
        self.clipped.copy_((propensity < clip).double().mean(0))
        self.beyond.copy_(beyond)
        self.rows.copy_(torch.bincount(arm, minlength=arms))


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)
