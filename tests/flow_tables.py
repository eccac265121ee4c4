"""Small codecs for the tests of flows: a known grid in model space, no fitting."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genzoo.codecs.base import CategorySlot, Cells, NumberSlot

STEP = 0.7
FIRST, LAST = -6, 6  # the outer cells reach to infinity
NUMBERS = (NumberSlot("grid", True, None, 1), NumberSlot("spiked", True, 1, 2))
CATEGORIES = (CategorySlot("kind", 3, None, 0), CategorySlot("spiked", 3, 1, 2))
ATOMS = (0, 2)  # grid indices of the atoms of 'spiked'
HOLE = None


def edges(index: int) -> tuple[float, float]:
    lower = -math.inf if index == FIRST else (index - 0.5) * STEP
    return lower, math.inf if index == LAST else (index + 0.5) * STEP


def make_cells(rows: list[tuple[int | None, int | None, int | None]], dtype: torch.dtype = torch.float64) -> Cells:
    """Rows of (kind, grid index, spiked index); ``None`` is a hole."""
    number, lower, upper, present, hole, category = [], [], [], [], [], []
    for kind, grid, spiked in rows:
        row = []
        indicator = -1 if spiked is None else (ATOMS.index(spiked) if spiked in ATOMS else 2)
        for index, absent in ((grid, False), (spiked, spiked in ATOMS)):
            there = index is not None and not absent
            low, high = edges(index) if there else (-1.0, 1.0)
            row.append((index * STEP if there else 0.0, low, high, there, index is None))
        n, lo, up, p, h = zip(*row, strict=True)
        number.append(n), lower.append(lo), upper.append(up), present.append(p), hole.append(h)
        category.append((-1 if kind is None else kind, indicator))
    batch = len(rows)
    return Cells(
        torch.arange(batch),
        torch.tensor(number, dtype=torch.float64),
        torch.tensor(lower, dtype=torch.float64),
        torch.tensor(upper, dtype=torch.float64),
        torch.tensor(present),
        torch.tensor(category),
        torch.tensor(hole),
        torch.zeros(batch, 0),
        torch.zeros(batch, 3, dtype=torch.float64),
        torch.zeros(batch, dtype=torch.bool),
    )


def atom_cells() -> tuple[Tensor, Tensor, Tensor]:
    """Lower edges, centres and upper edges of the atoms' cells; the first number has none."""
    both = torch.tensor([[(0.0, 0.0)] * 2, [edges(a) for a in ATOMS]], dtype=torch.float64)
    centre = torch.tensor([[0.0, 0.0], [a * STEP for a in ATOMS]], dtype=torch.float64)
    return both[..., 0], centre, both[..., 1]


def snap(number: Tensor, slots: Tensor) -> Tensor:
    """To the nearest grid point, as a codec does."""
    return (number / STEP).round().clamp(FIRST, LAST) * STEP


def dense_cells(x: Tensor, context: Tensor | None = None) -> Cells:
    """Complete rows of continuous numbers."""
    batch, width = x.shape
    x = x.double()
    return Cells(
        torch.arange(batch),
        x,
        x,
        x,
        torch.ones(batch, width, dtype=torch.bool),
        torch.zeros(batch, 0, dtype=torch.int64),
        torch.zeros(batch, width, dtype=torch.bool),
        torch.zeros(batch, 0) if context is None else context,
        torch.zeros(batch, width, dtype=torch.float64),
        torch.zeros(batch, dtype=torch.bool),
    )


def continuous(width: int) -> tuple[NumberSlot, ...]:
    return tuple(NumberSlot(f"x{i}", False, None, i) for i in range(width))


def shake(module: torch.nn.Module, scale: float, seed: int = 0) -> None:
    """Random weights, last layers included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter))
