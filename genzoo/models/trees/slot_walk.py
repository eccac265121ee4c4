"""Drawing rows of the autoregressive ensemble slot by slot, with any cells given; imputation by importance resampling.

Each row with holes becomes ``particles`` rows, whose holes are drawn in order given all earlier cells (each particle in
a random one of the model's orders, where it has several); a particle is worth the product of the conditionals of the
observed cells, in the pattern of a complete row; the draws are particles chosen in proportion. Exact as their number
grows, and at once where holes come after all observed cells.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.models.baselines.filling import fill_holes
from genzoo.tables.batch import TableBatch
from genzoo.trees.hierarchy import Floats, Ints

if TYPE_CHECKING:
    from genzoo.models.trees.forest_autoregressive import ForestAutoregressive


def empty_cells(model: ForestAutoregressive, num_rows: int, context: Tensor | None) -> Cells:
    """Rows of holes only, with a context."""
    codec = model.codec
    shape = (num_rows, len(codec.numbers))
    zero = torch.zeros(shape, dtype=torch.float64)
    hole = torch.ones(shape, dtype=torch.bool)
    category = torch.full((num_rows, len(codec.categories)), -1, dtype=torch.int64)
    given = torch.zeros(num_rows, codec.num_context) if context is None else context.cpu()
    outside = torch.zeros(num_rows, dtype=torch.bool)
    volume = torch.zeros(num_rows, codec.num_scored, dtype=torch.float64)
    return Cells(torch.arange(num_rows), zero, zero - 1, zero + 1, ~hole, category, hole, given, volume, outside)


def sample_rows(
    model: ForestAutoregressive, num_rows: int, context: Tensor | None, generator: torch.Generator
) -> TableBatch:
    """Draws complete rows."""
    given = empty_cells(model, num_rows, context)
    number, category, _ = walk_in_orders(model, given, generator)
    return _decode(model, number, category, given.rows)


def complete(
    model: ForestAutoregressive, batch: TableBatch, cells: Cells, draws: int, generator: torch.Generator
) -> list[TableBatch]:
    """``draws`` completions of raw rows; rows without holes are passed through."""
    cells = cells.each(Tensor.cpu)
    filled = [batch.to("cpu") for _ in range(draws)]
    index = (cells.number_hole.any(1) | (cells.category < 0).any(1)).nonzero().flatten()
    if not len(index):
        return filled
    open_rows = cells.select(index)
    particles = max(model.particles, 4 * draws)
    number, category, weight = walk_in_orders(model, open_rows.repeat(particles), generator)
    weight = weight.reshape(len(index), particles)
    # a row that is impossible under every particle keeps equal weights
    weight = torch.where(torch.isinf(weight).all(1, keepdim=True), 0.0, weight)
    chosen = torch.multinomial(weight.softmax(1), draws, replacement=True, generator=generator)
    device = model.codec.atoms.device
    for one in range(draws):
        at = torch.arange(len(index)) * particles + chosen[:, one]
        drawn = _decode(model, number[at], category[at], open_rows.rows).to("cpu")
        completed = fill_holes(model.schema, filled[one].select(index), drawn)
        numeric, codes = filled[one].numeric.clone(), filled[one].codes.clone()
        numeric[index], codes[index] = completed.numeric, completed.codes
        filled[one] = filled[one].with_values(numeric, codes)
    return [rows.to(device) for rows in filled]


def walk_in_orders(
    model: ForestAutoregressive, given: Cells, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`walk`, each row in one of the model's orders, at random."""
    count = len(model.orders)
    if count == 1:
        return walk(model, given, generator, 0)
    order = torch.randint(count, (len(given),), generator=generator)
    number, category = given.number.clone(), given.category.clone()
    weight = torch.zeros(len(given), dtype=torch.float64)
    for one in range(count):
        chosen = (order == one).nonzero().flatten()
        number[chosen], category[chosen], weight[chosen] = walk(model, given.select(chosen), generator, one)
    return number, category, weight


def walk(
    model: ForestAutoregressive, given: Cells, generator: torch.Generator, order: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fills the holes of ``given`` in an order.

    Returns:
        number: ``(n, num_numbers)`` float64.
        category: ``(n, num_category_slots)`` int64, complete.
        log_weight: ``(n,)`` sum of the conditionals of the given cells.
    """
    codec = model.codec
    number, present, category = given.number.clone(), given.present.clone(), given.category.clone()
    log_weight = torch.zeros(len(given), dtype=torch.float64)
    features = model.features(given)
    for place in model.orders[order]:
        kind, slot = codec.order[place]
        seen = given.category[:, slot] >= 0 if kind == "category" else given.present[:, slot]
        if bool(seen.any()) and not bool(seen.all()):
            index = seen.nonzero().flatten()
            log_weight[index] += model.slot_log_prob(order, place, given.select(index), features[index.numpy()])
        elif bool(seen.all()):
            log_weight += model.slot_log_prob(order, place, given, features)
        if kind == "category":
            wanted = ~seen
        else:
            # a number that has an indicator is there if the indicator says so
            indicator = codec.numbers[slot].indicator
            wanted = given.number_hole[:, slot].clone()
            if indicator is not None:
                wanted &= category[:, indicator] == codec.categories[indicator].num_categories - 1
        rows = wanted.nonzero().flatten()
        if len(rows):
            tree = model.tree(place)
            uniform = torch.rand(len(rows), max(tree.depth, 1), generator=generator, dtype=torch.float64)
            margin = partial(_margin, model, order, place, features, rows.numpy())
            leaf = torch.from_numpy(tree.draw(uniform.clamp(2.0**-54, 1 - 2.0**-53).numpy(), margin))
            if kind == "category":
                category[rows, slot] = leaf if codec.categories[slot].num_categories else -1
            else:
                x = model.bins(slot).draw(leaf, generator)
                device = codec.atoms.device
                number[rows, slot] = codec.snap(x[:, None].to(device), torch.tensor([slot], device=device))[:, 0].cpu()
                present[rows, slot] = True
        model.set_feature(features, place, number, present, category)
    return number, category, log_weight


def _margin(
    model: ForestAutoregressive,
    order: int,
    place: int,
    features: NDArray[np.float32],
    rows: Ints,
    at: Ints,
    nodes: Ints,
) -> Floats:
    return model.margins(order, place, features, rows[at], nodes)


def _decode(model: ForestAutoregressive, number: Tensor, category: Tensor, rows: Tensor) -> TableBatch:
    device = model.codec.atoms.device
    return model.codec.decode(number.to(device), category.to(device), rows.to(device))
