"""Drawing rows from the typed autoregressive density, slot by slot, with any cells given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.likelihood.normal_cells import log_normal_cell, log_normal_density
from genzoo.models.flows.autoregressive import AutoregressiveDensity
from genzoo.models.flows.slots import number_features

Snap = Callable[[Tensor, Tensor], Tensor]
"""``(number (batch, 1), slots (1,))`` to the centre of the cell of each number, in model space."""


@dataclass(frozen=True)
class Drawn:
    """Complete rows in model space.

    Args:
        number: ``(batch, num_numbers)`` float64, codec order; 0 where absent (an atom).
        present: ``(batch, num_numbers)`` bool: the number is there.
        category: ``(batch, num_category_slots)`` int64, no holes.
        log_weight: ``(batch,)`` sum of the conditionals of the given cells, for the pattern of a complete row.
    """

    number: Tensor
    present: Tensor
    category: Tensor
    log_weight: Tensor


def empty_cells(density: AutoregressiveDensity, num_rows: int, context: Tensor) -> Cells:
    """Rows of holes only, with a context."""
    device = context.device
    shape = (num_rows, density.num_numbers)
    zero = torch.zeros(shape, dtype=torch.float64, device=device)
    rows = torch.arange(num_rows, device=device)
    hole = torch.ones(shape, dtype=torch.bool, device=device)
    category = torch.full((num_rows, len(density.sizes)), -1, dtype=torch.int64, device=device)
    volume, outside = zero[:, :0], torch.zeros(num_rows, dtype=torch.bool, device=device)
    return Cells(rows, zero, zero - 1, zero + 1, ~hole, category, hole, context, volume, outside)


def complete_cells(cells: Cells, drawn: Drawn) -> Cells:
    """Cells of complete rows. Drawn numbers on a grid have no edges here: for features and densities only."""
    return replace(
        cells,
        number=drawn.number,
        present=drawn.present,
        category=drawn.category,
        number_hole=torch.zeros_like(cells.number_hole),
    )


@torch.no_grad()
def draw(density: AutoregressiveDensity, given: Cells, snap: Snap, generator: torch.Generator) -> Drawn:
    """Fills the holes of ``given`` in order, each from its conditional given all earlier cells of the completed row.

    With nothing given this samples the model. With cells given it is the proposal of sampling-importance-resampling:
    observed cells stay, and ``log_weight`` is what they are worth. In a density with alternating orders the continuous
    block is drawn as a whole, over its given cells, which then carry the weight of the pattern they form: see
    :mod:`genzoo.models.flows.completion`.
    """
    walk = _Walk(density, given, snap, generator)
    for kind, slot in density.layout.discrete:
        if kind == "category":
            walk.category_slot(slot)
        else:
            walk.number_slot(density.layout.inner.index(slot))
    if density.alternate:
        walk.whole_block()
    else:
        for k in range(density.layout.num_quantized, density.num_numbers):
            walk.number_slot(k)
    return walk.result()


class _Walk:
    """Cells drawn so far, and their value before each transform; numbers are (numbers, batch), in inner order."""

    def __init__(self, density: AutoregressiveDensity, given: Cells, snap: Snap, generator: torch.Generator) -> None:
        self.density, self.given, self.snap, self.generator = density, given, snap, generator
        self.inner = density._inner
        batch, numbers = len(given), density.num_numbers
        device = given.number.device
        self.y = torch.zeros(len(density.nets) + 1, numbers, batch, dtype=torch.float64, device=device)
        self.present = torch.zeros(numbers, batch, dtype=torch.bool, device=device)
        self.valued = self.present.clone()  # on an atom of a grid: later cells see its number too
        self.category = torch.full_like(given.category, -1)
        self.log_weight = torch.zeros(batch, dtype=torch.float64, device=device)
        self.hole = given.number_hole[:, self.inner].t()
        self.heads: dict[int, Tensor] = {}
        self.context = given.context.to(density.dtype())
        self.no_hole = torch.zeros_like(given.number_hole), torch.zeros_like(given.category, dtype=torch.bool)

    def features(self, transform: int) -> Tensor:
        static = self.density.features(self.category, *self.no_hole, self.context)
        if not self.density.num_numbers:
            return static
        numbers = number_features(self.y[transform], self.present | self.valued).to(self.density.dtype())
        return torch.cat([numbers, static], 1)

    def noise(self, *shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=self.generator, dtype=torch.float64, device=self.generator.device)
        return drawn.to(self.y.device)

    def category_slot(self, c: int) -> None:
        out = self.density.nets[0](self.features(0), self.density.category_outputs(c))
        possible = self.density.possible.split(self.density.sizes)[c]
        head = out.double().masked_fill(~possible[:, None], -torch.inf).log_softmax(0)
        uniform = torch.special.ndtr(self.noise(len(self.given)))
        drawn = (uniform > head.exp().cumsum(0)).sum(0).clamp(max=len(head) - 1)
        known = self.given.category[:, c] >= 0
        code = torch.where(known, self.given.category[:, c], drawn)
        self.category[:, c] = code
        self.log_weight += torch.where(known, head.gather(0, code[None]).squeeze(0), 0.0)
        if not self.density.known_sizes[c]:
            self.category[:, c] = -1  # training rows held no category at all: the hole stays
        self.heads[c] = head
        for k, indicator in enumerate(self.density.layout.inner_indicator):
            if indicator == c:
                self.present[k] = code == len(head) - 1

    def parameters(self, transform: int, k: int) -> Tensor:
        """``(parameters of one map, batch)`` of inner number ``k``."""
        out: Tensor = self.density.nets[transform](self.features(transform), self.density.number_outputs(k))
        return out

    def number_slot(self, k: int) -> None:
        density, slot = self.density, self.inner[k]
        indicator = density.layout.inner_indicator[k]
        if indicator is None:
            self.present[k] = True
        maps = [self.parameters(transform, k) for transform in range(len(density.nets))]
        z = self.noise(len(self.given))
        for parameters in reversed(maps):
            z, _ = density.element.apply(z, parameters, to_latent=False)
        on_grid = k < density.layout.num_quantized
        if on_grid:
            z = self.snap(z[:, None], slot[None]).squeeze(1)
            if indicator is not None:
                self._to_atoms(k, indicator, z)
        known = ~self.hole[k]
        z = torch.where(known, self.given.number[:, slot], z)
        points = torch.stack([self.given.lower[:, slot], z, self.given.upper[:, slot]])
        log_det = torch.zeros_like(z)
        absent = ~self.present[k]
        if on_grid and indicator is not None:
            points = self._atom_points(k, indicator, points)
        self.y[0, k] = points[1]
        for transform, parameters in enumerate(maps):
            points, bend = density.element.apply(points, parameters, to_latent=True)
            log_det = log_det + bend[1]
            self.y[transform + 1, k] = points[1]
        if not on_grid:
            weight = torch.where(absent, 0.0, log_normal_density(points[1]) + log_det)
        else:
            inside = log_normal_cell(
                torch.where(known & ~absent, points[0], -1.0), torch.where(known & ~absent, points[2], 1.0)
            )
            weight = torch.where(absent, 0.0, inside)
            if indicator is not None:
                weight = torch.where(absent, self._atom_excess(k, indicator, points[0], points[2]), inside)
        self.log_weight += torch.where(known, weight, 0.0)

    def _to_atoms(self, k: int, indicator: int, centre: Tensor) -> None:
        """A drawn number that falls into the cell of an atom is that atom: rows are conditioned on by value."""
        slot = self.inner[k]
        for atom in range(self.density.sizes[indicator] - 1):
            low, high = self.density.atom_lower[slot, atom], self.density.atom_upper[slot, atom]
            hit = self.hole[k] & self.present[k] & (centre > low) & (centre < high)
            self.category[:, indicator] = torch.where(hit, atom, self.category[:, indicator])
            self.present[k] &= ~hit

    def _atom_points(self, k: int, indicator: int, points: Tensor) -> Tensor:
        """Edges and centre of the atom's cell on rows that sit on an atom; ``(3, batch)``."""
        density, slot = self.density, self.inner[k]
        code = self.category[:, indicator]
        on_atom = (code >= 0) & (code < density.sizes[indicator] - 1)
        index = torch.where(on_atom, code, 0)
        atom = torch.stack(
            [part[slot][index] for part in (density.atom_lower, density.atom_centre, density.atom_upper)]
        )
        self.valued[k] = on_atom & (atom[0] < atom[2])
        return torch.where(on_atom, atom, points)

    def _atom_excess(self, k: int, indicator: int, lower: Tensor, upper: Tensor) -> Tensor:
        has_cell = ~self.present[k] & (lower < upper)
        inside = log_normal_cell(torch.where(has_cell, lower, -1.0), torch.where(has_cell, upper, 1.0))
        head = self.heads[indicator]
        log_atom = head.gather(0, self.category[:, indicator][None]).squeeze(0)
        excess = torch.logaddexp(torch.zeros_like(log_atom), head[-1] + inside - log_atom)
        return torch.where(has_cell, excess, 0.0)

    def whole_block(self) -> None:
        """Draws the continuous block where orders alternate: undo one transform after the other."""
        density, first = self.density, self.density.layout.num_quantized
        for k in range(first, density.num_numbers):
            if density.layout.inner_indicator[k] is None:
                self.present[k] = True
        self.y[-1, first:] = self.noise(density.layout.num_continuous, len(self.given))
        for transform in range(len(density.nets) - 1, -1, -1):
            self.y[transform, first:] = 0.0
            for number in density.block_orders[transform]:
                k = first + number
                z, _ = density.element.apply(self.y[transform + 1, k], self.parameters(transform, k), to_latent=False)
                self.y[transform, k] = z

    def result(self) -> Drawn:
        outer = self.density._outer
        number = torch.where(self.present, self.y[0], 0.0)[outer].t()
        return Drawn(number, self.present[outer].t(), self.category, self.log_weight)
