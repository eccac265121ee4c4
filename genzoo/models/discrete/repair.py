"""Plausibility of each cell given the others, and repair of implausible cells, by a model that can revise symbols."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genzoo.errors import CapabilityError
from genzoo.models.discrete.noisy import seen
from genzoo.models.drawing import _evaluating, _joined
from genzoo.models.scoring import split_unseen
from genzoo.tables.batch import HOLE

if TYPE_CHECKING:
    from genzoo.tables.encode import TableData

SMALL_TIME = 0.01


def require_plausibility(model: Any) -> None:
    """Refuses a model that does not know a cell given the others.

    Raises:
        CapabilityError: it is none of RADD, GIDD and MultinomialDiffusion.
    """
    from genzoo.models.discrete.gidd import GIDD
    from genzoo.models.discrete.multinomial_diffusion import MultinomialDiffusion
    from genzoo.models.discrete.radd import RADD

    if not isinstance(model, RADD | GIDD | MultinomialDiffusion):
        raise CapabilityError(
            f"{type(model).__name__} does not say how plausible a cell is given the others; "
            "use radd, gidd or multinomial_diffusion"
        )
    model.codec.require_fitted()


def symbol_log_probs(model: Any, tokens: Tensor, context: Tensor) -> Tensor:
    """``(n, L, K)`` log-probabilities of every symbol of a cell given the other cells of its row.

    RADD masks one cell after the other (``L`` calls); GIDD and multinomial diffusion, whose networks know a cell given
    the others, are asked once, at their least noise.

    Raises:
        CapabilityError: the model has no such probabilities.
    """
    from genzoo.diffusion.process import to_leave_one_out
    from genzoo.models.discrete.gidd import GIDD
    from genzoo.models.discrete.radd import RADD

    every = torch.arange(len(tokens), device=tokens.device)
    if isinstance(model, RADD):
        conditional = model.conditional(context)
        parts = []
        for cell in range(tokens.shape[1]):
            masked = tokens.clone()
            masked[:, cell] = -1
            parts.append(conditional(masked, every)[:, cell])
        return torch.stack(parts, 1).double()
    hole, z = tokens < 0, tokens.clamp(min=0)

    def asked(time: float) -> Tensor:
        when = torch.full((len(tokens),), time, dtype=torch.float64, device=tokens.device)
        clean: Tensor = model.denoise(seen(z, hole, None), context, when)
        return clean

    if isinstance(model, GIDD):
        return torch.log(asked(SMALL_TIME))
    clean = asked(1 / model.num_steps)
    if model.output == "marginalised":
        clean = to_leave_one_out(clean, z, model.process.level(torch.ones_like(every), model.codec.valid))
    return torch.log(clean)


def cell_scores(model: Any, table: Any) -> np.ndarray:
    """Log-probability of each cell's symbol given the other cells of its row: low values are implausible.

    Args:
        model: A fitted RADD, GIDD or MultinomialDiffusion.
        table: Frame, path or encoded table.

    Returns:
        ``(rows, scored columns)`` nats, summed over the cells of a block; NaN for holes.

    Raises:
        CapabilityError: the model has no such probabilities.
    """
    require_plausibility(model)
    data = model._encoded_table(table)
    if not len(data):
        return np.zeros((0, len(model.schema.scored)))
    parts = []
    with _evaluating(model):
        for start in range(0, len(data), 1024):
            batch = split_unseen(data.select(slice(start, start + 1024)).batch(), model.schema).batch
            rows = model.codec.encode(batch.to(model.device))
            log_probs = symbol_log_probs(model, rows.tokens, rows.context)
            place = torch.tensor([slot.scored for slot in model.codec.slots])
            own = log_probs.gather(-1, rows.tokens.clamp(min=0)[..., None])[..., 0].cpu()
            known = (rows.tokens >= 0).cpu()
            score = torch.zeros(len(batch), model.codec.num_scored, dtype=torch.float64)
            score.index_add_(1, place, torch.where(known, own, 0.0))
            some = torch.zeros_like(score).index_add_(1, place, known.double()) > 0
            parts.append(torch.where(some, score, torch.nan))
    return torch.cat(parts).numpy()


def corrected(
    model: Any,
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


@dataclass(frozen=True)
class Repaired:
    """Encoded rows after repair, and which of their cells changed.

    Args:
        data: The rows; cells that did not change are as they were, bit by bit.
        numeric: ``(rows, numbers)`` bool.
        codes: ``(rows, codes)`` bool.
    """

    data: TableData
    numeric: np.ndarray
    codes: np.ndarray

    def counts(self) -> dict[str, int]:
        """Number of changed cells of each column that has any."""
        out: dict[str, int] = {}
        schema = self.data.schema
        for columns, changed in ((schema.numeric, self.numeric), (schema.categorical, self.codes)):
            start = 0
            for column in columns:
                out[column.name] = int(changed[:, start : start + column.width].sum())
                start += column.width
        return {name: count for name, count in out.items() if count}


def repair_data(
    model: Any,
    data: TableData,
    *,
    temperature: float = 0.1,
    max_changes: int = 2,
    min_gain: float = 3.0,
    seed: int = 0,
    first: int = 0,
) -> Repaired:
    """Repairs encoded rows, see :func:`repair`; ``first`` is the number of the first of them in their file."""
    from genzoo.likelihood.noise import seed_of

    require_plausibility(model)
    parts = []
    with _evaluating(model):
        for start in range(0, len(data), 1024):
            raw = data.select(slice(start, start + 1024)).batch().to(model.device)
            batch = split_unseen(raw, model.schema).batch
            rows = model.codec.encode(batch)
            generator = torch.Generator().manual_seed(seed_of(seed, "repair", first + start))
            new = corrected(model, rows.tokens, rows.context, generator, temperature, max_changes, min_gain)
            before, after = (
                model.codec.decode(t, rows.rows, torch.Generator().manual_seed(seed), context=batch)
                for t in (rows.tokens, new)
            )
            # Equal draws within bins: what differs was changed, everything else keeps its value bit by bit.
            same = (before.numeric == after.numeric) | (before.numeric.isnan() & after.numeric.isnan())
            parts.append(
                raw.with_values(
                    numeric=torch.where(same, raw.numeric, after.numeric),
                    codes=torch.where(before.codes == after.codes, raw.codes, after.codes),
                ).to("cpu")
            )
    done = _joined(parts, model.schema)
    still = (done.numeric == data.numeric) | (np.isnan(done.numeric) & np.isnan(data.numeric))
    return Repaired(done, ~still, done.codes != data.codes)


def repair(
    model: Any,
    table: Any,
    *,
    temperature: float = 0.1,
    max_changes: int = 2,
    min_gain: float = 3.0,
    seed: int = 0,
) -> Any:
    """Replaces implausible cells of a table; holes, context and all other cells stay.

    Args:
        model: A fitted RADD, GIDD or MultinomialDiffusion. GIDD is made for it.
        table: Frame or path.
        temperature: See :func:`corrected`.
        max_changes: Most cells changed in a row.
        min_gain: Nats by which a new symbol must be more probable, given the other cells, than the old one. A number
            is changed only if it moves to another bin.
        seed: Seed of the proposals.

    Returns:
        A frame of the kind that came in (pandas for a path), with all of its columns.

    Raises:
        CapabilityError: the model does not say how plausible a cell is given the others.
    """
    return repair_counted(model, table, temperature=temperature, max_changes=max_changes, min_gain=min_gain, seed=seed)[
        0
    ]


def repair_counted(model: Any, table: Any, *, first: int = 0, **options: Any) -> tuple[Any, dict[str, int]]:
    """As :func:`repair`, and the number of changed cells of each column that has any."""
    from pathlib import Path

    from genzoo.tables.decode import fill_holes
    from genzoo.tables.encode import encode_frame
    from genzoo.tables.frames import read_frame, to_native

    require_plausibility(model)
    frame = read_frame(table, schema=model.schema)
    data = encode_frame(frame, model.schema)
    if not len(data):
        return to_native(frame, like="pandas" if isinstance(table, str | Path) else table), {}
    done = repair_data(model, data, first=first, **options)
    # the changed cells are opened and filled; what was missing counts as there, so that it stays missing
    opened = replace(
        data, numeric=np.where(done.numeric, np.nan, 0.0), codes=np.where(done.codes, HOLE, 0).astype(np.int64)
    )
    like = "pandas" if isinstance(table, str | Path) else table
    return to_native(fill_holes(frame, opened, done.data), like=like), done.counts()
