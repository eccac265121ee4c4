"""Completions of rows by a forest that undoes noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genzoo.likelihood.noise import RowNoise
from genzoo.models.baselines.filling import fill_holes

if TYPE_CHECKING:
    from genzoo.codecs.matrix import Rows
    from genzoo.models.trees.denoising_forest import DenoisingForest
    from genzoo.tables.batch import TableBatch

MOST_PATHS = 2**13
"""Paths that are drawn at once, all rows together."""


def complete_rows(
    model: DenoisingForest, batch: TableBatch, rows: Rows, draws: int, generator: torch.Generator
) -> list[TableBatch]:
    """Draws of the holes of ``batch`` given its other cells.

    Args:
        model: A complete ensemble.
        batch: The rows as values.
        rows: The same encoded, on the CPU.
        draws: Completions of each row.
        generator: Of all draws.

    Raises:
        GenZooError: the ensemble is not complete.
    """
    model.require_complete()
    numeric = [batch.numeric.cpu().clone() for _ in range(draws)]
    codes = [batch.codes.cpu().clone() for _ in range(draws)]
    plain = batch.to("cpu")
    filler = torch.randn(rows.values.shape, generator=generator, dtype=torch.float64)
    x = torch.where(rows.filler, filler, rows.values)
    # a slot of one category has no column in the matrix
    open_rows = x.isnan().any(1) | (rows.cells.category < 0).any(1)
    for group, one_draw, of_class in classes_of_draws(model, rows, draws, generator):
        wanted = list(range(draws)) if one_draw is None else [one_draw]
        paths = _paths(model, len(wanted))
        for chosen in of_class[open_rows[of_class]].split(max(1, MOST_PATHS // paths)):
            if not len(chosen):  # nothing to fill: an empty part is split into one
                continue
            part = rows.select(chosen).in_group(group)
            drawn = _complete(model, part, x[chosen], len(wanted), paths, generator, group)
            for one, (values, category) in zip(wanted, drawn, strict=True):
                label = torch.full((len(chosen),), group)
                filled = model.decoded(values, category, plain.rows[chosen], label).to("cpu")
                completed = fill_holes(model.schema, plain.select(chosen), filled)
                numeric[one][chosen], codes[one][chosen] = completed.numeric, completed.codes
    device = batch.numeric.device
    return [plain.with_values(n, c).to(device) for n, c in zip(numeric, codes, strict=True)]


def classes_of_draws(
    model: DenoisingForest, rows: Rows, draws: int, generator: torch.Generator
) -> list[tuple[int, int | None, Tensor]]:
    """Which rows are completed as members of which class: ``(class, draw or None for all draws, rows)``."""
    known = rows.group[rows.group >= 0].unique().tolist()
    out: list[tuple[int, int | None, Tensor]] = [(g, None, (rows.group == g).nonzero().flatten()) for g in known]
    open_rows = (rows.group < 0).nonzero().flatten()
    if len(open_rows):
        # a missing class is drawn first, from its posterior given the observed cells
        noise = RowNoise(int(torch.randint(2**31, (1,), generator=generator)), rows.rows[open_rows])
        log_w = model.class_log_weights(rows.select(open_rows), noise, model.draws)
        posterior = torch.logsumexp(log_w, 1).softmax(1)
        chosen = torch.multinomial(posterior, draws, replacement=True, generator=generator)
        for draw in range(draws):
            for group in chosen[:, draw].unique().tolist():
                out.append((group, draw, open_rows[chosen[:, draw] == group]))
    return out


def _paths(model: DenoisingForest, draws: int) -> int:
    """Paths of each row, for so many draws of it."""
    return max(model.particles, 2 * draws) if model.imputation == "particles" else draws


def _complete(
    model: DenoisingForest, rows: Rows, x: Tensor, draws: int, paths: int, generator: torch.Generator, group: int
) -> list[tuple[Tensor, Tensor]]:
    reverse = model.reverse
    if model.imputation == "particles":
        return reverse.complete(rows, x, draws, paths, generator, group)
    jump = model.repaint_jump or max(1, len(reverse.path) // 10)
    every = torch.arange(len(x)).repeat(draws)
    values, category = reverse.repaint(rows.select(every), x[every], generator, model.repaint_passes, jump, group)
    return list(zip(values.chunk(draws), category.chunk(draws), strict=True))
