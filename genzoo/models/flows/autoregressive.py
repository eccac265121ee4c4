r"""The typed autoregressive density: one neural density that is exact on mixed rows with holes.

.. math:: \log p(x) = \sum_j \log p(x_j \mid x_{<j}, \text{pattern of holes}, \text{context})

A category has a softmax head. A number has the conditional cdf :math:`\Phi(f_L \circ \dots \circ f_1(x_j))`, with monotone
maps whose parameters are functions of earlier cells; on a grid it is scored by
:math:`\Phi(f(\text{upper})) - \Phi(f(\text{lower}))`, later cells seeing its centre, otherwise by its density. Missing cells
are skipped.

References:
    Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032; Papamakarios, Pavlakou, Murray (2017), Masked
    Autoregressive Flow, arXiv:1705.07057; Germain et al. (2015), MADE, arXiv:1502.03509.
    Differs from the papers: categories, cells, atoms and holes are slots of the same chain, scored exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genzoo.bijections.elementwise import Elementwise
from genzoo.codecs.base import CategorySlot, Cells, NumberSlot
from genzoo.models.flows.normal_cells import log_normal_cell, log_normal_density
from genzoo.models.flows.slots import NUMBER_FEATURES, CellFeatures, SlotLayout, number_features
from genzoo.networks.made import MADE


@dataclass(frozen=True)
class SlotLogProb:
    """Contributions of the slots of each row, in the codec's order, float64; 0 for a cell that is not scored.

    Args:
        number: ``(batch, num_numbers)``. On a grid with atoms, the atom's share of the continuum is in here.
        category: ``(batch, num_category_slots)``.
        quantized: ``(num_numbers,)`` bool: which entries of ``number`` are probabilities.
    """

    number: Tensor
    category: Tensor
    quantized: Tensor

    def total(self) -> Tensor:
        """``(batch,)`` log-likelihood in model space."""
        return self.number.sum(1) + self.category.sum(1)

    def discrete(self) -> Tensor:
        """``(batch,)``: the part that is log-probability."""
        return self.number[:, self.quantized].sum(1) + self.category.sum(1)


class AutoregressiveDensity(nn.Module):
    """Typed autoregressive density over encoded rows.

    Args:
        numbers: Number slots of the codec.
        categories: Category slots of the codec.
        num_context: Dense context features.
        element: Family of the monotone maps.
        num_transforms: Maps in a row; each has its own network.
        hidden: Units of each hidden layer.
        num_layers: Hidden layers of each network.
        dropout: Probability of dropping a hidden unit in training.
        alternate: Every second transform reads the continuous block in reverse. More expressive per parameter for
            affine maps; single contributions of its columns are then no conditionals, only their sum is.
    """

    def __init__(
        self,
        numbers: Sequence[NumberSlot],
        categories: Sequence[CategorySlot],
        num_context: int,
        *,
        element: Elementwise,
        num_transforms: int = 3,
        hidden: int = 128,
        num_layers: int = 2,
        dropout: float = 0.0,
        alternate: bool = False,
    ) -> None:
        super().__init__()
        if num_transforms < 1:
            raise ValueError(f"num_transforms must be at least 1, got {num_transforms}")
        self.element = element
        self.layout = layout = SlotLayout(numbers, categories)
        self.sizes = [slot.num_categories for slot in categories]
        self.features = CellFeatures(layout, self.sizes, num_context)
        self.alternate = alternate and layout.num_continuous > 1
        block = list(range(layout.num_continuous))
        self.block_orders = [block[::-1] if self.alternate and k % 2 else block for k in range(num_transforms)]
        width = element.num_parameters
        nets = []
        for k, block_order in enumerate(self.block_orders):
            places = layout.positions(block_order)
            in_degrees = [p + 1 for p in places] * NUMBER_FEATURES + self.features.degrees
            out_degrees = [p for p in places for _ in range(width)]
            if k == 0:  # the heads of the categories sit on the first network
                out_degrees += [layout.category_position[c] for c, size in enumerate(self.sizes) for _ in range(size)]
            nets.append(MADE(torch.tensor(in_degrees), torch.tensor(out_degrees), hidden, num_layers, dropout))
            # Flags of a pattern that training never shows must not act like noise.
            flags = slice(self.features.flags.start + len(places) * NUMBER_FEATURES, len(in_degrees) - num_context)
            with torch.no_grad():
                nets[-1].first.weight[:, flags] = 0.0
        self.nets = nn.ModuleList(nets)
        self.register_buffer("_inner", torch.tensor(layout.inner, dtype=torch.int64), persistent=False)
        quantized = torch.tensor([slot.quantized for slot in numbers], dtype=torch.bool)
        self.register_buffer("_quantized", quantized, persistent=False)
        self._inner: Tensor
        self._quantized: Tensor

    @property
    def num_numbers(self) -> int:
        return len(self.layout.inner)

    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.nets[0].first.weight.dtype

    def number_outputs(self, k: int) -> slice:
        """Outputs of any network that belong to inner number ``k``."""
        width = self.element.num_parameters
        return slice(k * width, (k + 1) * width)

    def category_outputs(self, c: int) -> slice:
        """Outputs of the first network that are the logits of category slot ``c``."""
        start = self.num_numbers * self.element.num_parameters + sum(self.sizes[:c])
        return slice(start, start + self.sizes[c])

    def log_prob(self, cells: Cells, atom_lower: Tensor | None = None, atom_upper: Tensor | None = None) -> SlotLogProb:
        """Exact log-likelihood of the observed cells, given the pattern of holes and the context.

        Numbers on a grid are always evaluated in float64, densities in the type of the weights while training.

        Args:
            cells: Encoded rows.
            atom_lower: ``(num_numbers, max_atoms)`` model-space lower edges of the cells of the atoms of numbers on a
                grid, NaN elsewhere; ``None`` without such atoms.
            atom_upper: Likewise, upper edges.
        """
        layout, dtype = self.layout, self.dtype()
        num_grid = layout.num_quantized
        present = cells.present[:, self._inner]
        number = torch.where(present, cells.number[:, self._inner], 0.0)
        static = self.features(
            cells.category, cells.number_hole[:, self._inner], cells.category < 0, cells.context.to(dtype)
        )
        grid = block = None
        if num_grid:
            lower, upper, atom = self._edges(cells, present, atom_lower, atom_upper)
            grid = torch.stack([lower, number[:, :num_grid].double(), upper], -1)
        if layout.num_continuous:
            block = number[:, num_grid:].to(dtype if self.training else torch.float64)
        block_log_det: Tensor | float = 0.0
        logits = None
        for k, net in enumerate(self.nets):
            y = [part for part in (None if grid is None else grid[..., 1].to(dtype), block) if part is not None]
            out = net(torch.cat([number_features(torch.cat([p.to(dtype) for p in y], 1), present), static], 1) if y else static)
            parameters = out[:, : self.num_numbers * self.element.num_parameters]
            parameters = parameters.unflatten(1, (self.num_numbers, self.element.num_parameters))
            if k == 0:
                logits = out[:, self.num_numbers * self.element.num_parameters :]
            if grid is not None:
                grid, _ = self.element.apply(grid, parameters[:, :num_grid], to_latent=True)
            if block is not None:
                block, log_det = self.element.apply(block, parameters[:, num_grid:], to_latent=True)
                block_log_det = block_log_det + log_det
        category = self._category_log_prob(logits, cells.category)
        scores = []
        if grid is not None:
            cell = log_normal_cell(grid[..., 0], grid[..., 2])
            scores.append(self._grid_score(cell, atom, present[:, :num_grid], category, logits))
        if block is not None:
            density = (log_normal_density(block) + block_log_det).double()
            scores.append(torch.where(present[:, num_grid:], density, 0.0))
        result = cells.number.new_zeros(cells.number.shape, dtype=torch.float64)
        if scores:
            result = result.index_copy(1, self._inner, torch.cat(scores, 1))
        return SlotLogProb(result, category, self._quantized)
