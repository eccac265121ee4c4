r"""The typed autoregressive density: one neural density that is exact on mixed rows with holes.

.. math:: \log p(x) = \sum_j \log p(x_j \mid x_{<j}, \text{pattern of holes}, \text{context})

A category has a softmax head. A number has the conditional cdf :math:`\Phi(f_L \circ \dots \circ f_1(x_j))`, with
monotone maps whose parameters are functions of earlier cells; on a grid it is scored by
:math:`\Phi(f(\text{upper})) - \Phi(f(\text{lower}))`, later cells seeing its centre, otherwise by its density. Missing
cells are skipped.

References:
    Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032; Papamakarios, Pavlakou, Murray (2017), Masked
    Autoregressive Flow, arXiv:1705.07057; Germain et al. (2015), MADE, arXiv:1502.03509.
    Differs from the papers: categories, cells, atoms and holes are slots of the same chain, scored exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from genzoo.bijections.elementwise import Elementwise
from genzoo.codecs.base import CategorySlot, Cells, NumberSlot
from genzoo.likelihood.normal_cells import log_normal_cell, log_normal_density
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
        alternate: Every second transform reads the continuous block in reverse: trains faster. The contributions of
            its columns are then terms of the change of variables instead of conditionals; only their sum matters.
    """

    _inner: Tensor
    _outer: Tensor
    _quantized: Tensor
    atom_lower: Tensor
    atom_centre: Tensor
    atom_upper: Tensor
    possible: Tensor

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
        self.known_sizes = [slot.num_categories for slot in categories]
        self.sizes = [max(size, 1) for size in self.known_sizes]
        self.features = CellFeatures(layout, self.sizes, num_context)
        self.alternate = alternate and layout.num_continuous > 1
        block = list(range(layout.num_continuous))
        self.block_orders = [block[::-1] if self.alternate and k % 2 else block for k in range(num_transforms)]
        width = element.num_parameters
        nets = []
        for k, block_order in enumerate(self.block_orders):
            places = layout.positions(block_order)
            in_degrees = [p + 1 for p in places] * NUMBER_FEATURES + self.features.degrees
            out_degrees = places * width
            if k == 0:  # the heads of the categories sit on the first network
                out_degrees += [layout.category_position[c] for c, size in enumerate(self.sizes) for _ in range(size)]
            nets.append(
                MADE(torch.tensor(in_degrees), torch.tensor(out_degrees), hidden, num_layers, dropout, num_context > 0)
            )
            # Flags of a pattern that training never shows must not act like noise.
            flags = slice(self.features.flags.start + len(places) * NUMBER_FEATURES, len(in_degrees) - num_context)
            with torch.no_grad():
                nets[-1].first.weight[:, flags] = 0.0
        self.nets = nn.ModuleList(nets)
        self.register_buffer("_inner", torch.tensor(layout.inner, dtype=torch.int64), persistent=False)
        quantized = torch.tensor([slot.quantized for slot in numbers], dtype=torch.bool)
        self.register_buffer("_quantized", quantized, persistent=False)
        self.register_buffer("_outer", self._inner.argsort(), persistent=False)
        most = max([self.sizes[slot.indicator] - 1 for slot in numbers if slot.indicator is not None], default=0)
        for name in ("atom_lower", "atom_centre", "atom_upper"):
            self.register_buffer(name, torch.zeros(len(numbers), most, dtype=torch.float64))
        self.register_buffer("possible", torch.ones(sum(self.sizes), dtype=torch.bool))

    @property
    def num_numbers(self) -> int:
        return len(self.layout.inner)

    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.weight.dtype

    @property
    def weight(self) -> Tensor:
        """Some weight: its type and device are the module's."""
        return cast(MADE, self.nets[0]).first.weight

    def number_outputs(self, k: int) -> slice:
        """Outputs of any network that belong to inner number ``k``."""
        return slice(k, self.num_numbers * self.element.num_parameters, self.num_numbers)

    def category_outputs(self, c: int) -> slice:
        """Outputs of the first network that are the logits of category slot ``c``."""
        start = self.num_numbers * self.element.num_parameters + sum(self.sizes[:c])
        return slice(start, start + self.sizes[c])

    def set_atoms(self, lower: Tensor, centre: Tensor, upper: Tensor) -> None:
        """Tells where the atoms of numbers on a grid lie: ``(num_numbers, max_atoms)`` model-space edges and centres of
        their cells.

        Equal edges mean no cell. The continuum has mass there too, which belongs to the atom's value.
        """
        self.atom_lower.copy_(lower)
        self.atom_centre.copy_(centre)
        self.atom_upper.copy_(upper)

    def set_possible(self, possible: Tensor) -> None:
        """``(total number of categories,)`` bool: values of category slots that exist; the others get no mass."""
        if len(possible) == len(self.possible):
            self.possible.copy_(possible)

    def set_frequencies(self, category: Tensor) -> None:
        """Starts the softmax heads at the smoothed frequencies of ``(rows, num_category_slots)`` codes."""
        bias = cast(MADE, self.nets[0]).last.bias
        with torch.no_grad():
            for c, size in enumerate(self.sizes):
                known = category[:, c][category[:, c] >= 0]
                counts = torch.bincount(known, minlength=size).double() + 0.5
                bias[self.category_outputs(c)] = (counts / counts.sum()).log().to(self.dtype())

    def log_prob(self, cells: Cells) -> SlotLogProb:
        """Exact log-likelihood of the observed cells, given the pattern of holes and the context.

        Numbers on a grid are always evaluated in float64, densities in the type of the weights while training.

        Args:
            cells: Encoded rows.
        """
        layout, dtype = self.layout, self.dtype()
        num_grid, precise = layout.num_quantized, torch.float32 if self.training else torch.float64
        static = self.static_features(cells)
        # From here on numbers are (numbers, batch): see Spline.
        present = cells.present[:, self._inner].t()
        valued = present
        grid, block = None, None
        atom = torch.full_like(present[:0], -1, dtype=torch.int64)
        if num_grid:
            grid, atom = self._points(cells, present)
            valued = torch.cat([present[:num_grid] | (atom >= 0), present[num_grid:]])
        if layout.num_continuous:
            number = torch.where(present, cells.number[:, self._inner].t(), 0.0)
            block = number[num_grid:].to(precise)
        block_log_det: Tensor | float = 0.0
        heads: list[Tensor] = []
        for k, net in enumerate(self.nets):
            # Features in the type of the numbers: one beyond the range of the weights' type is only far, not infinite.
            y = [part for part in (None if grid is None else grid[1], block) if part is not None]
            out = net(torch.cat([number_features(torch.cat(y), valued).to(dtype), static], 1) if y else static)
            parameters, logits = self.split_outputs(out)
            if k == 0:
                logits = logits.masked_fill(~self.possible[:, None], -torch.inf)
                heads = [part.to(precise).log_softmax(0) for part in logits.split(self.sizes)]
            if grid is not None:
                grid, _ = self.element.apply(grid, parameters[:, :num_grid], to_latent=True)
            if block is not None:
                block, log_det = self.element.apply(block, parameters[:, num_grid:], to_latent=True)
                block_log_det = block_log_det + log_det
        scores = []
        if grid is not None:
            cell = log_normal_cell(grid[0], grid[2])
            scores.append(torch.where(present[:num_grid], cell, self._atom_excess(cell, atom, heads)))
        if block is not None:
            density = (log_normal_density(block) + block_log_det).double()
            scores.append(torch.where(present[num_grid:], density, 0.0))
        result = torch.zeros_like(cells.number, dtype=torch.float64)
        if scores:
            result = torch.cat(scores)[self._outer].t()
        return SlotLogProb(result, self._category_log_prob(heads, cells.category), self._quantized)

    def static_features(self, cells: Cells) -> Tensor:
        """``(batch, features)``: what the networks see besides the numbers."""
        hole = cells.number_hole[:, self._inner]
        return self.features(cells.category, hole, cells.category < 0, cells.context.to(self.dtype()))

    def split_outputs(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of a network to ``(parameters per map, num_numbers, batch)`` and the logits of all categories."""
        width = self.num_numbers * self.element.num_parameters
        parameters, logits = out.split((width, len(out) - width))
        return parameters.unflatten(0, (self.element.num_parameters, self.num_numbers)), logits

    @staticmethod
    def _category_log_prob(heads: list[Tensor], category: Tensor) -> Tensor:
        if not heads:
            return torch.zeros_like(category, dtype=torch.float64)
        known = category.clamp_min(0).t()
        picked = torch.cat([head.gather(0, known[c : c + 1]) for c, head in enumerate(heads)])
        return torch.where(category >= 0, picked.t().double(), 0.0)

    def _points(self, cells: Cells, present: Tensor) -> tuple[Tensor, Tensor]:
        """Lower edge, centre and upper edge of each row's cell, ``(3, num_quantized, batch)``, and its atom (-1: none).

        A row on an atom gets the cell of the atom's value: the continuum lends it the mass it puts there, and later
        cells see its centre, however it was drawn.
        """
        grid = self._inner[: self.layout.num_quantized]
        present = present[: len(grid)]
        lower, centre, upper = (part[:, grid].t() for part in (cells.lower, cells.number, cells.upper))
        atom = torch.full_like(present, -1, dtype=torch.int64)
        with_atoms = [(k, c) for k, c in enumerate(self.layout.inner_indicator[: len(grid)]) if c is not None]
        if with_atoms:
            lower, centre, upper = lower.clone(), centre.clone(), upper.clone()
        for k, indicator in with_atoms:
            code = cells.category[:, indicator]
            on_atom = (code >= 0) & (code < self.sizes[indicator] - 1)
            index = torch.where(on_atom, code, 0)
            slot = self.layout.inner[k]
            low, high = self.atom_lower[slot][index], self.atom_upper[slot][index]
            on_atom = on_atom & (low < high)
            atom[k] = torch.where(on_atom, code, -1)
            lower[k] = torch.where(on_atom, low, lower[k])
            centre[k] = torch.where(on_atom, self.atom_centre[slot][index], centre[k])
            upper[k] = torch.where(on_atom, high, upper[k])
        used = present | (atom >= 0)
        points = torch.where(used, lower, -1.0), torch.where(used, centre, 0.0), torch.where(used, upper, 1.0)
        return torch.stack(points).double(), atom

    def _atom_excess(self, cell: Tensor, atom: Tensor, heads: list[Tensor]) -> Tensor:
        """What the continuum adds to an atom: ``log(p(atom) + p(no atom) p(its cell)) - log p(atom)``; 0 off atoms."""
        rows = []
        for k, indicator in enumerate(self.layout.inner_indicator[: len(cell)]):
            if indicator is None:
                rows.append(torch.zeros_like(cell[k]))
                continue
            head = heads[indicator].double()
            log_atom = head.gather(0, atom[k : k + 1].clamp_min(0)).squeeze(0)
            excess = torch.logaddexp(torch.zeros_like(log_atom), head[-1] + cell[k] - log_atom)
            rows.append(torch.where(atom[k] >= 0, excess, 0.0))
        return torch.stack(rows)
