"""Numbers as leaves: bins of equal training mass between cuts, with the smooth marginal inside each bin."""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.models.baselines.smooth_marginals import SmoothMarginals

REDRAWS = 200


def choose_cuts(x: Tensor, upper: Tensor, quantized: bool, num_bins: int) -> Tensor:
    """At most ``num_bins - 1`` cuts, strictly increasing, with training values on both sides of each.

    Args:
        x: ``(n,)`` float64 training values in model space (centres of cells).
        upper: ``(n,)`` upper edges of their cells (``x`` itself for a density).
        quantized: Cuts stand on edges of cells, so that no cell is divided; else midway between values.
        num_bins: Most bins.
    """
    if len(x) == 0:
        return x.new_zeros(0)
    x, index = torch.sort(x)
    upper = upper[index]
    place = (torch.arange(1, num_bins, dtype=torch.float64) * len(x) / num_bins).ceil().long() - 1
    place = place.clamp(0, len(x) - 1)
    value = x[place]
    # the first training value that is larger: a cut separates it from this one
    after = torch.searchsorted(x, value, right=True)
    inner = after < len(x)
    value, after, place = value[inner], after[inner], place[inner]
    cuts = upper[place] if quantized else 0.5 * (value + x[after])
    cuts = cuts[(cuts > value) & (cuts <= x[after])]
    return torch.unique(cuts)


class BinnedMarginal:
    """One column of smooth marginals, cut into bins.

    Args:
        marginals: Fitted marginals.
        column: Which of their columns.
        cuts: ``(m - 1,)`` strictly increasing.
        quantized: The column is on a grid: cells of its atoms are no part of it.
    """

    def __init__(self, marginals: SmoothMarginals, column: int, cuts: Tensor, quantized: bool) -> None:
        self.marginal = one_column(marginals, column)
        self.cuts, self.quantized = cuts, quantized
        infinity = cuts.new_full((1,), torch.inf)
        self.lower, self.upper = torch.cat([-infinity, cuts]), torch.cat([cuts, infinity])
        mass = self.marginal.mass(self.lower[:, None], self.upper[:, None])[:, 0]
        if quantized and self.marginal.atom_lower.shape[1]:
            low, high = self.marginal.atom_lower[0], self.marginal.atom_upper[0]
            atoms = self.marginal.mass(low[:, None], high[:, None])[:, 0]
            mass = mass.index_add(0, self.bin(0.5 * (low + high)), -torch.where(low < high, atoms, 0.0))
        self.mass = mass.clamp_min(1e-12)
        """``(m,)`` marginal mass of each bin, without the cells of atoms; not normalised."""

    def bin(self, x: Tensor) -> Tensor:
        """Bin of each number, ``(n,)``."""
        return torch.searchsorted(self.cuts, x.contiguous())

    def log_within(self, x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Log-density (of a grid: log-probability of the cell) of each number given its bin, ``(n,)``."""
        if not self.quantized:
            here = self.marginal.log_density(x[:, None])[:, 0]
        else:
            here = torch.log(self.marginal.mass(lower[:, None], upper[:, None])[:, 0].clamp_min(1e-300))
        return here - torch.log(self.mass)[self.bin(x)]

    def draw(self, leaf: Tensor, generator: torch.Generator) -> Tensor:
        """A number within each bin ``(n,)``, from the marginal; a grid's is yet to be brought to its cell's centre."""
        x = self._draw(leaf, generator)
        for _ in range(REDRAWS if self.quantized and self.marginal.atom_lower.shape[1] else 0):
            hit = ((x[:, None] > self.marginal.atom_lower) & (x[:, None] < self.marginal.atom_upper)).any(1)
            again = hit.nonzero().flatten()
            if not len(again):
                break
            x[again] = self._draw(leaf[again], generator)
        return x

    def _draw(self, leaf: Tensor, generator: torch.Generator) -> Tensor:
        return self.marginal.draw_between(self.lower[leaf][:, None], self.upper[leaf][:, None], generator)[:, 0]


def one_column(marginals: SmoothMarginals, column: int) -> SmoothMarginals:
    """One column of fitted marginals as marginals of their own, on the CPU."""
    out = SmoothMarginals(1, marginals.num_knots, marginals.num_spikes, marginals.atom_lower.shape[1])
    for name, buffer in marginals.named_buffers():
        getattr(out, name).copy_(buffer[column : column + 1].cpu())
    return out
