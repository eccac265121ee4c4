"""Hiding cells in training, so that a model of rows with holes meets patterns that its training rows do not show."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from genzoo.codecs.base import CategorySlot, Cells, NumberSlot


def hide_columns(
    cells: Cells, numbers: tuple[NumberSlot, ...], categories: tuple[CategorySlot, ...], rate: float
) -> Cells:
    """In a share ``rate`` of the rows, every scored column is hidden with a probability drawn for the row.

    Any pattern can come up, and the others keep their share of training. Draws come from torch's own generator, which
    the trainer seeds for each step.
    """
    batch, num_scored = len(cells), cells.log_volume.shape[1]
    device = cells.number.device
    chosen = torch.rand(batch, 1, device=device) < rate
    hidden = chosen & (torch.rand(batch, num_scored, device=device) < torch.rand(batch, 1, device=device))
    by_number = hidden[:, _scored(numbers, device)]
    by_category = hidden[:, _scored(categories, device)]
    return replace(
        cells,
        present=cells.present & ~by_number,
        number=torch.where(by_number, 0.0, cells.number),
        number_hole=cells.number_hole | by_number,
        category=torch.where(by_category, -1, cells.category),
    )


def _scored(slots: tuple[NumberSlot, ...] | tuple[CategorySlot, ...], device: torch.device) -> Tensor:
    return torch.tensor([slot.scored for slot in slots], dtype=torch.int64, device=device)


def has_holes(cells: Cells) -> bool:
    """Some scored cell of the rows is missing."""
    return bool(cells.number_hole.any()) or bool((cells.category < 0).any())
