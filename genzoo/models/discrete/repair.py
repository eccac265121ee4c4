"""Plausibility of each cell given the others, and repair of implausible cells, by a model that can revise symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genzoo.models.discrete.noisy import seen
from genzoo.models.scoring import evaluation_precision, split_unseen
from genzoo.tables.batch import HOLE

if TYPE_CHECKING:
    from genzoo.models.discrete.gidd import GIDD

SMALL_TIME = 0.01


def symbol_log_probs(model: GIDD, tokens: Tensor, context: Tensor, time: float = SMALL_TIME) -> Tensor:
    """``(n, L, K)`` log-probabilities of every symbol of a cell given the other cells, at a small time."""
    hole = tokens < 0
    when = torch.full((len(tokens),), time, dtype=torch.float64, device=tokens.device)
    return torch.log(model.denoise(seen(tokens.clamp(min=0), hole, None), context, when))


def cell_scores(model: GIDD, table: Any) -> np.ndarray:
    """Log-probability of each cell's symbol given the other cells of its row: low values are implausible.

    Args:
        model: A fitted model.
        table: Frame, path or encoded table.

    Returns:
        ``(rows, scored columns)`` nats, summed over the cells of a block; NaN for holes.
    """
    model.codec.require_fitted()
    data = model._encoded_table(table)
    parts = []
    place = torch.tensor([slot.scored for slot in model.codec.slots])
    with torch.no_grad(), evaluation_precision():
        for start in range(0, len(data), 1024):
            batch = split_unseen(data.select(slice(start, start + 1024)).batch(), model.schema).batch
            rows = model.codec.encode(batch.to(model.device))
            log_probs = symbol_log_probs(model, rows.tokens, rows.context)
            own = log_probs.gather(-1, rows.tokens.clamp(min=0)[..., None])[..., 0].cpu()
            known = (rows.tokens >= 0).cpu()
            score = torch.zeros(len(batch), model.codec.num_scored, dtype=torch.float64)
            score.index_add_(1, place, torch.where(known, own, 0.0))
            some = torch.zeros_like(score).index_add_(1, place, known.double()) > 0
            parts.append(torch.where(some, score, torch.nan))
    return torch.cat(parts).numpy()


def corrected(
    model: GIDD,
    tokens: Tensor,
    context: Tensor,
    generator: torch.Generator,
    temperature: float = 0.1,
    max_changes: int = 8,
    min_gain: float = 0.0,
) -> Tensor:
    """Self-correction: in each round the most probable of the proposed changes of a row is made.

    A proposal is drawn for every cell from its sharpened distribution; of the proposals that differ from what stands
    there, the one with the highest probability replaces its cell. A heuristic of the paper: it does not keep the
    model's distribution, so it is for repair, never for samples whose law matters.

    Args:
        model: A fitted model.
        tokens: ``(n, L)``, holes (-1) stay holes.
        context: ``(n, C)``.
        generator: Draws the proposals.
        temperature: Below 1 sharpens; the paper finds 0.1 to 0.5 of use.
        max_changes: Rounds.
        min_gain: Log-probability by which a proposal must beat the symbol it replaces.
    """
    from genzoo.diffusion.categorical import draw

    current = tokens.clone()
    for _ in range(max_changes):
        log_probs = symbol_log_probs(model, current, context)
        sharp = torch.log_softmax(log_probs / temperature, -1)
        level = torch.rand(current.shape, generator=generator, dtype=torch.float64).clamp(2.0**-54, 1 - 2.0**-53)
        proposal = draw(sharp, level.to(current.device))
        own = log_probs.gather(-1, current.clamp(min=0)[..., None])[..., 0]
        new = log_probs.gather(-1, proposal[..., None])[..., 0]
        allowed = (current >= 0) & (proposal != current) & (new > own + min_gain)
        value = sharp.gather(-1, proposal[..., None])[..., 0].masked_fill(~allowed, -torch.inf)
        best = value.argmax(1)
        rows = torch.nonzero(allowed.any(1))[:, 0]
        if not len(rows):
            break
        current[rows, best[rows]] = proposal[rows, best[rows]]
    return current


def repair(
    model: GIDD,
    table: Any,
    *,
    temperature: float = 0.1,
    max_changes: int = 2,
    min_gain: float = 3.0,
    seed: int = 0,
    backend: str = "pandas",
) -> Any:
    """Replaces implausible cells of a table; holes and context stay.

    Args:
        model: A fitted model.
        table: Frame, path or encoded table.
        temperature: See :func:`corrected`.
        max_changes: Most cells changed in a row.
        min_gain: Nats by which a new symbol must be more probable, given the other cells, than the old one. A number
            is changed only if it moves to another bin.
        seed: Seed of the proposals.
        backend: ``pandas``, ``polars`` or ``pyarrow``.

    Returns:
        A frame with the table's modelled and constant columns.
    """
    from genzoo.models.drawing import _joined
    from genzoo.tables.encode import decode_table

    model.codec.require_fitted()
    data = model._encoded_table(table)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    with torch.no_grad(), evaluation_precision():
        for start in range(0, len(data), 1024):
            raw = data.select(slice(start, start + 1024)).batch().to(model.device)
            batch = split_unseen(raw, model.schema).batch
            rows = model.codec.encode(batch)
            new = corrected(model, rows.tokens, rows.context, generator, temperature, max_changes, min_gain)
            before, after = (
                model.codec.decode(t, rows.rows, torch.Generator().manual_seed(seed), context=batch)
                for t in (rows.tokens, new)
            )
            # Equal draws within bins: what differs was changed, everything else keeps its value bit by bit.
            same = (before.numeric == after.numeric) | (before.numeric.isnan() & after.numeric.isnan())
            parts.append(
                batch.with_values(
                    numeric=torch.where(same, batch.numeric, after.numeric),
                    codes=torch.where(before.codes == after.codes, batch.codes, after.codes),
                ).to("cpu")
            )
    assert all(bool((part.codes >= HOLE).all()) for part in parts)
    return decode_table(_joined(parts, model.schema), model.schema, backend)
