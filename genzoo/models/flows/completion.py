"""Filling the holes of rows with draws from the typed autoregressive density, observed cells untouched.

Sampling-importance-resampling: each row becomes ``num_particles`` complete rows, whose holes are drawn in order given
all earlier cells; a particle is worth the product of the conditionals of the observed cells; the draws are particles
chosen in proportion to their worth. Exact as ``num_particles`` grows; with holes after all observed cells, exact at
once.

Where the continuous block alternates its order there are no conditionals inside it. There a particle is worth the
density of the block's observed cells given the discrete part, and the block's holes are then drawn by
Metropolis-within-Gibbs: one hole at a time, proposed from its conditional on a grid (so that no mode is missed),
corrected to the exact conditional.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.models.flows.ancestral import Drawn, Snap, complete_cells, draw
from genzoo.models.flows.autoregressive import AutoregressiveDensity

GRID_POINTS = 65


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
        weight = weight + _observed_block(density, repeated, drawn)
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


def _observed_block(density: AutoregressiveDensity, cells: Cells, drawn: Drawn) -> Tensor:
    """log-density of the observed continuous numbers given a particle's discrete part, for the pattern they form."""
    filled = complete_cells(cells, drawn)
    hole = cells.number_hole & ~density._quantized
    pattern = replace(
        filled,
        number=torch.where(hole, 0.0, torch.where(density._quantized, drawn.number, cells.number)),
        present=drawn.present & ~hole,
        number_hole=hole,
    )
    return density.log_prob(_with_edges(pattern)).number[:, ~density._quantized].sum(1)


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
    reach = density.element.bound + 4.0
    knots = torch.linspace(-reach, reach, GRID_POINTS, dtype=torch.float64, device=cells.number.device)
    width = knots[1] - knots[0]
    middle = (knots[1:] + knots[:-1]) / 2

    def log_density(values: Tensor) -> Tensor:  # (rows, points)
        points = values.shape[1]
        many = cells.repeat(points)
        number = many.number.clone()
        number[:, slot] = values.flatten()
        score = density.log_prob(_with_edges(replace(many, number=number))).number[:, ~density._quantized].sum(1)
        return score.reshape(-1, points)

    current = cells.number[:, slot]
    masses = log_density(middle.expand(len(current), -1)).softmax(1)
    masses = 0.99 * masses + 0.01 / len(middle)  # every interval can be left and entered
    cell = torch.multinomial(masses.cpu(), 1, generator=generator).to(current.device)
    uniform = torch.rand(2, len(current), 1, generator=generator, dtype=torch.float64).to(current.device)
    proposal = knots[cell] + uniform[0] * width
    inside = current.abs() < reach
    at = ((current + reach) / width).long().clamp(0, len(middle) - 1)[:, None]
    score = log_density(torch.cat([proposal, current[:, None]], 1))
    ratio = score[:, :1] - score[:, 1:] + masses.gather(1, at).log() - masses.gather(1, cell).log()
    accept = (uniform[1].log() < ratio) | ~inside[:, None]
    return torch.where(accept, proposal, current[:, None]).squeeze(1)
