"""Filling the holes of rows with draws from the typed autoregressive density, observed cells untouched.

Sampling-importance-resampling: each row becomes ``num_particles`` complete rows, whose holes are drawn in order given
all earlier cells; a particle is worth the product of the conditionals of the observed cells; the draws are particles
chosen in proportion to their worth. Exact as ``num_particles`` grows; with holes after all observed cells, exact at
once.

Where the continuous block alternates its order there are no conditionals inside it. There a particle is worth the
density of the block's observed cells given the discrete part, by an unbiased estimate: the block's holes are redrawn
one at a time, each from its conditional on a grid given the others, and the density of the whole block is divided by
that of the draws. Then the holes move by Metropolis-within-Gibbs: one at a time, proposed from its conditional on a
grid (so that no mode is missed), corrected to the exact conditional.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.models.flows.ancestral import Drawn, Snap, complete_cells, draw
from genzoo.models.flows.autoregressive import AutoregressiveDensity

GRID_POINTS = 65
WEIGHT_GRID_POINTS = 33
MAX_ROWS_AT_ONCE = 131_072


@torch.no_grad()
def complete(
    density: AutoregressiveDensity,
    cells: Cells,
    snap: Snap,
    draws: int,
    generator: torch.Generator,
    num_particles: int = 64,
    sweeps: int = 5,
) -> list[Drawn]:
    """``draws`` completions of every row.

    Args:
        density: The model.
        cells: Encoded rows with holes.
        snap: See :func:`genzoo.models.flows.ancestral.draw`.
        draws: Completions a row; they share the particles of the row.
        generator: Source of randomness.
        num_particles: Particles a row (at least ``4 * draws`` are taken); more is closer to the exact conditional.
        sweeps: Sweeps over the holes of a continuous block with alternating orders.
    """
    particles = max(num_particles, 4 * draws)
    repeated = cells.repeat(particles)
    drawn = draw(density, repeated, snap, generator)
    weight = drawn.log_weight
    if density.alternate:
        # Particles of a row whose discrete part is complete share it, and its worth.
        open_part = (cells.category < 0).any(1) | (cells.number_hole & density._quantized).any(1)
        rows = open_part.repeat_interleave(particles).nonzero().flatten()
        if len(rows):
            part = Drawn(*(value[rows] for value in vars(drawn).values()))
            number, worth = _weigh_block(density, repeated.select(rows), part, generator)
            drawn = replace(drawn, number=drawn.number.index_copy(0, rows, number))
            weight = weight.index_add(0, rows, worth)
    weight = torch.nan_to_num(weight, nan=-torch.inf).reshape(len(cells), particles)
    # A row that is impossible under every particle keeps equal weights.
    weight = torch.where(torch.isinf(weight).all(1, keepdim=True), 0.0, weight)
    chosen = torch.multinomial(weight.softmax(1).cpu(), draws, replacement=True, generator=generator).to(weight.device)
    completions = []
    for one in range(draws):
        index = torch.arange(len(cells), device=weight.device) * particles + chosen[:, one]
        result = Drawn(*(value[index] for value in vars(drawn).values()))
        if density.alternate:
            result = _block_holes(density, cells, result, generator, sweeps)
        completions.append(result)
    return completions


def _weigh_block(
    density: AutoregressiveDensity, cells: Cells, drawn: Drawn, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Numbers with the block's holes redrawn, and the log of an unbiased estimate of what its observed cells are worth.

    Whatever the numbers before, the estimate is ``p(block) / r(redrawn holes)`` with ``r`` the density they were drawn
    from, so its mean is the density of the observed cells given the discrete part.
    """
    number = torch.where(cells.number_hole, drawn.number, cells.number)
    wanted = cells.number_hole & drawn.present
    worth = torch.zeros(len(cells), dtype=torch.float64, device=number.device)
    for slot in (~density._quantized).nonzero().flatten().tolist():
        for rows in wanted[:, slot].nonzero().flatten().split(MAX_ROWS_AT_ONCE // WEIGHT_GRID_POINTS):
            if len(rows):
                part = complete_cells(cells, replace(drawn, number=number)).select(rows)
                grid = _Grid(density, part, slot, WEIGHT_GRID_POINTS)
                value, log_proposal = grid.propose(generator)
                number[rows, slot] = value.squeeze(1)
                worth[rows] -= log_proposal.squeeze(1)
    for rows in torch.arange(len(cells), device=number.device).split(MAX_ROWS_AT_ONCE):
        worth[rows] += _block_score(density, complete_cells(cells, replace(drawn, number=number)).select(rows))
    return number, worth


def _block_score(density: AutoregressiveDensity, cells: Cells) -> Tensor:
    """Log-density of the continuous block of complete rows given their discrete part, ``(batch,)``."""
    return density.log_prob(_with_edges(cells)).number[:, ~density._quantized].sum(1)


def _with_edges(cells: Cells) -> Cells:
    """Harmless edges: only densities are read."""
    return replace(cells, lower=cells.number - 1, upper=cells.number + 1)


def _block_holes(
    density: AutoregressiveDensity, cells: Cells, drawn: Drawn, generator: torch.Generator, sweeps: int
) -> Drawn:
    block = (~density._quantized).nonzero().flatten().tolist()
    number = torch.where(cells.number_hole, drawn.number, cells.number)
    wanted = cells.number_hole & drawn.present
    for _ in range(sweeps):
        for slot in block:
            rows = wanted[:, slot].nonzero().flatten()
            if len(rows):
                part = complete_cells(cells, replace(drawn, number=number)).select(rows)
                number[rows, slot] = _step(density, part, slot, generator)
    return replace(drawn, number=number)


def _step(density: AutoregressiveDensity, cells: Cells, slot: int, generator: torch.Generator) -> Tensor:
    """One Metropolis step of one number with an independent proposal, uniform within the intervals of a grid."""
    current = cells.number[:, slot : slot + 1]
    grid = _Grid(density, cells, slot, GRID_POINTS)
    proposal, log_forward = grid.propose(generator)
    uniform = torch.rand(len(current), 1, generator=generator, dtype=torch.float64).to(current.device)
    score = grid.score(torch.cat([proposal, current], 1))
    ratio = score[:, :1] - score[:, 1:] + grid.log_proposal(current) - log_forward
    accept = (uniform.log() < ratio) | (current.abs() >= grid.reach)
    return torch.where(accept, proposal, current).squeeze(1)


class _Grid:
    """The conditional of one number of the block given all others, by its density in the middle of equal intervals."""

    def __init__(self, density: AutoregressiveDensity, cells: Cells, slot: int, num_points: int) -> None:
        self.density, self.cells, self.slot = density, cells, slot
        self.reach = density.element.bound + 4.0
        self.knots = torch.linspace(
            -self.reach, self.reach, num_points, dtype=torch.float64, device=cells.number.device
        )
        self.width = self.knots[1] - self.knots[0]
        middle = (self.knots[1:] + self.knots[:-1]) / 2
        mass = self.score(middle.expand(len(cells), -1)).softmax(1)
        self.mass = 0.99 * mass + 0.01 / len(middle)  # every interval can be left and entered

    def score(self, values: Tensor) -> Tensor:
        """Log-density of the block with ``values`` ``(batch, points)`` in place of the number, same shape."""
        many = self.cells.repeat(values.shape[1])
        number = many.number.clone()
        number[:, self.slot] = values.flatten()
        return _block_score(self.density, replace(many, number=number)).reshape(values.shape)

    def propose(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws ``(batch, 1)`` and their log-density."""
        interval = torch.multinomial(self.mass.cpu(), 1, generator=generator)
        uniform = torch.rand(interval.shape, generator=generator, dtype=torch.float64)
        value = self.knots[interval.to(self.knots.device)] + uniform.to(self.knots.device) * self.width
        return value, self.log_proposal(value)

    def log_proposal(self, value: Tensor) -> Tensor:
        """Log-density of the proposal, ``(batch, 1)``; of the outermost interval beyond the grid."""
        interval = ((value + self.reach) / self.width).long().clamp(0, self.mass.shape[1] - 1)
        return self.mass.gather(1, interval).log() - self.width.log()
