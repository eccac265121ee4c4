"""From a model's numbers in its own space to likelihoods in the table's units: one path for every model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genzoo.codecs.base import Encoded
from genzoo.errors import CapabilityError
from genzoo.likelihood.noise import RowNoise
from genzoo.tables.batch import HOLE, UNSEEN, TableBatch
from genzoo.tables.schema import Schema

if TYPE_CHECKING:
    from genzoo.tables.encode import TableData


@dataclass(frozen=True)
class ModelLogProb:
    """Log-likelihood of encoded rows in the codec's space, nats.

    Args:
        values: ``(batch,)`` float64.
        se: ``(batch,)`` Monte-Carlo standard error, or ``None`` for a deterministic number.
        discrete: ``(batch,)`` the part of ``values`` that is log-probability (not density), if the model has it apart.
        by_column: ``(batch, num_scored_columns)`` contribution of each scored column; rows sum to ``values``.
    """

    values: Tensor
    se: Tensor | None = None
    discrete: Tensor | None = None
    by_column: Tensor | None = None


@dataclass(frozen=True)
class UnseenCells:
    """Score of the rule for categories that training rows did not hold (DESIGN section 2).

    ``terms`` ``(batch, num_scored)``: log(1 - epsilon) for a known category of an open column, log(epsilon) for
    an unseen one, 0 else. ``batch``: the rows with unseen categories turned into holes. ``impossible`` ``(batch,)``:
    an unseen value in a vocabulary declared closed. ``rows`` ``(batch,)``: the row has an unseen scored cell.
    """

    terms: Tensor
    batch: TableBatch
    impossible: Tensor
    rows: Tensor


def split_unseen(batch: TableBatch, schema: Schema) -> UnseenCells:
    """Applies the rule for unseen categories, the same for every model."""
    scored = {column.name: i for i, column in enumerate(schema.scored)}
    size = batch.codes.shape[0]  # not len(), which a graph would keep as a number
    terms = torch.zeros(size, len(scored), dtype=torch.float64, device=batch.codes.device)
    unseen = batch.codes == UNSEEN
    impossible = torch.zeros(size, dtype=torch.bool, device=batch.codes.device)
    rows = torch.zeros_like(impossible)
    log_unseen, log_known = math.log(schema.epsilon), math.log1p(-schema.epsilon) if schema.epsilon < 1 else -math.inf
    start = 0
    for column in schema.categorical:
        cells = slice(start, start + column.width)
        start += column.width
        if column.name not in scored:
            continue
        new = unseen[:, cells]
        rows |= new.any(dim=1)
        if column.closed:
            impossible |= new.any(dim=1)
            continue
        known = batch.codes[:, cells] >= 0
        # float32 said aloud: it is what a whole number times a plain one is by default
        counts = new.sum(dim=1, dtype=torch.float32), known.sum(dim=1, dtype=torch.float32)
        terms[:, scored[column.name]] = counts[0] * log_unseen + counts[1] * log_known
    codes = torch.where(unseen, torch.full_like(batch.codes, HOLE), batch.codes)
    return UnseenCells(terms, batch.with_values(codes=codes), impossible, rows)


def in_data_space(encoded: Encoded, values: Tensor, unseen: UnseenCells) -> Tensor:
    """Log-likelihoods in the schema's base measure, ``(batch,)`` float64, from those in the codec's space."""
    values = values.double() + encoded.log_volume.sum(1) + unseen.terms.sum(1)
    return torch.where(encoded.outside | unseen.impossible, torch.full_like(values, -torch.inf), values)


def impossible_cells(batch: TableBatch, schema: Schema) -> Tensor:
    """``(batch, num_scored)``: which column holds a value beyond its bounds or outside its closed vocabulary."""
    scored = {column.name: i for i, column in enumerate(schema.scored)}
    found = torch.zeros(len(batch), len(scored), dtype=torch.bool, device=batch.codes.device)
    start = 0
    for column in schema.categorical:
        cells = batch.codes[:, start : start + column.width]
        start += column.width
        if column.name in scored and column.closed:
            found[:, scored[column.name]] = (cells == UNSEEN).any(1)
    start = 0
    for column in schema.numeric:
        values = batch.numeric[:, start : start + column.width]
        start += column.width
        if column.name not in scored:
            continue
        beyond = torch.zeros_like(values, dtype=torch.bool)
        if column.lower is not None:
            beyond |= values < column.lower
        if column.upper is not None:
            beyond |= values > column.upper
        for atom in column.atoms:
            beyond &= values != atom
        found[:, scored[column.name]] = beyond.any(1)
    return found


@contextmanager
def evaluation_precision() -> Iterator[None]:
    """Autocast and TF32 off, and back to what they were."""
    matmul = torch.get_float32_matmul_precision()
    conv = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = conv


def sum_over_known(model: Any, unseen: UnseenCells, noise: RowNoise, draws: int) -> tuple[Encoded, ModelLogProb]:
    """Marginal over the known categories of unseen cells, for a model that has no holes of its own.

    One unseen cell a row is summed exactly by enumeration; the encoded rows returned carry the log-volume, which does
    not depend on categories.

    Raises:
        CapabilityError: a row has more than one unseen cell.
    """
    schema: Schema = model.view
    scored_cells = _scored_code_cells(schema)
    filled = unseen.batch.codes.clone()
    holes = (filled == HOLE) & unseen.rows[:, None] & torch.tensor([k > 0 for k in scored_cells], device=filled.device)
    if bool((holes.sum(1) > 1).any()):
        raise CapabilityError(
            f"{type(model).__name__} cannot score rows with more than one unseen category; "
            "use a model that takes missing cells"
        )
    filled[holes] = 0
    encoded = model.codec.encode(unseen.batch.with_values(codes=filled))
    first = model.model_log_prob(encoded, noise, draws)
    values = first.values.double().clone()
    for row in torch.nonzero(holes.any(1)).flatten().tolist():
        cell = int(torch.nonzero(holes[row])[0])
        count = scored_cells[cell]
        codes = filled[row].repeat(count, 1)
        codes[:, cell] = torch.arange(count, device=codes.device)
        numeric = unseen.batch.numeric[row].repeat(count, 1)
        rows = unseen.batch.rows[row].repeat(count)
        part = model.model_log_prob(
            model.codec.encode(TableBatch(numeric, codes, rows)), RowNoise(noise.seed, rows), draws
        )
        values[row] = torch.logsumexp(part.values.double(), 0)
    return encoded, ModelLogProb(values, first.se)


def _scored_code_cells(schema: Schema) -> list[int]:
    """Per cell of ``codes``: its number of categories if scored, else 0."""
    cells: list[int] = []
    for column in schema.categorical:
        cells += [column.num_categories if column.is_scored else 0] * column.width
    return cells


def float64_difference(model: Any, batch: TableBatch, seed: int, draws: int) -> float:
    """Mean log-likelihood of the rows in float64 weights and arithmetic, minus the reported one, nats a row.

    What rounding in the network costs; the design asks for less than 1e-3.
    """
    import copy

    reported = model.score_batch(batch, seed, draws).values
    precise = copy.deepcopy(model).double().eval().score_batch(batch, seed, draws).values
    finite = torch.isfinite(reported) & torch.isfinite(precise)
    return float((precise - reported)[finite].mean()) if bool(finite.any()) else 0.0


def rows_with_holes(data: TableData, view: Schema) -> np.ndarray:
    """``(n,)`` bool: a scored cell is missing, and the schema does not take that for a value."""
    numeric = [c.is_scored and c.missing == "hole" for c in view.numeric for _ in range(c.width)]
    codes = [c.is_scored for c in view.categorical for _ in range(c.width)]
    return np.asarray(np.isnan(data.numeric[:, numeric]).any(1) | (data.codes[:, codes] == HOLE).any(1))
