"""Samples and imputations as frames: from model space through the codec back to the table's own form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genzoo.errors import CapabilityError, DataError, GenZooError
from genzoo.likelihood.noise import seed_of
from genzoo.models.fit_check import require_complete
from genzoo.models.scoring import evaluation_precision, split_unseen
from genzoo.tables.batch import HOLE, UNSEEN, TableBatch
from genzoo.tables.schema import Schema

if TYPE_CHECKING:
    from genzoo.models.base import DensityModel
    from genzoo.tables.encode import TableData

SAMPLE_BATCH = 4096
IMPUTE_BATCH = 1024
"""Rows drawn at once. Draws are a function of the seed and these batches, so another size gives other draws."""


def draw_rows(
    model: DensityModel,
    num_samples: int | None,
    given: Any,
    seed: int,
    backend: str,
    batch_size: int,
    first: int = 0,
) -> Any:
    """See :meth:`genzoo.DensityModel.sample`; ``first`` is the number of the first row, a multiple of ``batch_size``.

    Draws are a function of the seed and the batch a row falls into, so a long table can be drawn in parts.
    """
    from genzoo.tables.encode import decode_table

    if given is None:
        if not model.capabilities.samples:
            raise CapabilityError(f"{type(model).__name__} does not draw samples")
        if model.schema.context:
            names = ", ".join(f"'{c.name}'" for c in model.schema.context)
            raise CapabilityError(
                f"{type(model).__name__} conditions on {names}; give rows that hold them (--given rows.csv)"
            )
        if num_samples is None or num_samples < 1:
            raise DataError(f"the number of samples must be at least 1, got {num_samples}")
        batches = draw_batches(model, num_samples, None, seed, batch_size, first)
    else:
        batches = _draw_given(model, num_samples, given, seed, batch_size)
    return decode_table(_joined(batches, model.schema), model.schema, backend)


def draw_batches(
    model: DensityModel, num: int, context: TableBatch | None, seed: int, batch_size: int, first: int = 0
) -> list[TableBatch]:
    """Raw rows drawn from the model, those of ``context`` given."""
    batches = []
    with _evaluating(model):
        for start in range(0, num, batch_size):
            count = min(batch_size, num - start)
            features = None
            part = None
            if context is not None:
                part = context.select(slice(start, start + count)).to(model.device)
                encoded: Any = model.codec.encode(split_unseen(part, model.schema).batch)
                features = encoded.context
            generator = torch.Generator().manual_seed(seed_of(seed, "sample", first + start))
            drawn = model.model_sample(count, features, generator)
            _require_finite(model, drawn)
            batches.append((drawn if part is None else _overlay(drawn, part, model.schema)).to("cpu"))
    return batches


def _draw_given(model: DensityModel, num: int | None, given: Any, seed: int, batch_size: int) -> list[TableBatch]:
    from genzoo.tables.encode import encode_frame
    from genzoo.tables.frames import read_frame

    frame = read_frame(given, schema=model.schema)
    present = set(frame.columns)
    context = {c.name for c in model.schema.context}
    known = {c.name for c in model.schema.columns}
    if not present & known:
        raise DataError(f"the given rows have none of the table's columns; known: {', '.join(sorted(known))}")
    lacking = sorted(context - present)
    if lacking:
        raise DataError(f"the given rows lack context column '{lacking[0]}', on which the model conditions")
    data = encode_frame(frame, model.schema, require=sorted(present & known))
    _require_seen(data)
    num = len(data) if num is None else num
    batch = data.select(np.arange(num) % len(data)).batch()
    if present & {c.name for c in model.schema.scored}:
        batch = _opened(batch, model.schema, present)
        if not model.capabilities.imputes:
            raise CapabilityError(f"{type(model).__name__} draws given context columns only, not given other columns")
        return [filled[0] for filled in _impute_batches(model, batch, 1, seed, batch_size)]
    return draw_batches(model, num, batch, seed, batch_size)


def _require_seen(data: TableData) -> None:
    """Refuses given cells that could not come back as they were: a model has no place for a category it never saw."""
    start = 0
    for column in data.schema.categorical:
        unseen = (data.codes[:, start : start + column.width] == UNSEEN).any(1)
        start += column.width
        if unseen.any():
            raise DataError(
                f"column '{column.name}' of the given rows holds a category that training rows did not "
                f"(first in row {data.rows[unseen][0]}, {int(unseen.sum())} in all); leave such rows out, "
                "or leave the cell empty"
            )


def _opened(batch: TableBatch, schema: Schema, present: set[str]) -> TableBatch:
    """Columns that the given rows lack as holes, also where a missing cell counts as a value (``missing: value``)."""
    absent = [c for c in schema.scored if c.name not in present and c.missing == "value"]
    numeric = next((c.name for c in absent if c.is_numeric), None)
    if numeric is not None:
        raise CapabilityError(
            f"the given rows lack column '{numeric}', where a missing cell is a value (missing: value in the schema): "
            "drawn like this, all of its cells would be missing; give that column too, or train with missing: hole"
        )
    codes = batch.codes.clone()
    start = 0
    for column in schema.categorical:
        if column in absent:
            codes[:, start : start + column.width] = HOLE
        start += column.width
    return batch.with_values(codes=codes)


def impute_table(model: DensityModel, table: Any, draws: int, seed: int, batch_size: int, first: int = 0) -> list[Any]:
    """See :meth:`genzoo.DensityModel.impute`; ``first`` as in :func:`draw_rows`."""
    return impute_counted(model, table, draws, seed, batch_size, first)[0]


def impute_counted(
    model: DensityModel, table: Any, draws: int, seed: int, batch_size: int, first: int = 0
) -> tuple[list[Any], Mapping[str, Mapping[str, int]]]:
    """What :func:`impute_table` gives, and the odd cells of the table by column (:class:`TableData`)."""
    from genzoo.tables.encode import encode_frame, fill_holes
    from genzoo.tables.frames import read_frame, to_native

    like = "pandas" if isinstance(table, str | Path) else table
    frame = read_frame(table, schema=model.schema)
    data = encode_frame(frame, model.schema)
    completions = impute_data(model, data, draws, seed, batch_size, first)
    filled = [to_native(fill_holes(frame, data, completed), like=like) for completed in completions]
    return filled, data.column_counts


def impute_data(
    model: DensityModel, data: TableData, draws: int, seed: int = 0, batch_size: int = IMPUTE_BATCH, first: int = 0
) -> list[TableData]:
    """``draws`` completions of encoded rows: every hole of a scored column filled, observed cells as they are.

    Raises:
        CapabilityError: the model does not impute.
        DataError: ``draws`` is below one.
    """
    if not model.capabilities.imputes:
        raise CapabilityError(f"{type(model).__name__} does not impute; genzoo models lists those that do")
    if draws < 1:
        raise DataError(f"the number of draws must be at least 1, got {draws}")
    filled = _impute_batches(model, data.batch(), draws, seed, batch_size, first)
    return [_joined([parts[draw] for parts in filled], model.schema) for draw in range(draws)]


def _impute_batches(
    model: DensityModel, batch: TableBatch, draws: int, seed: int, batch_size: int, first: int = 0
) -> list[list[TableBatch]]:
    require_complete(type(model).__name__, model.capabilities, model.schema, context_holes(batch, model.schema))
    out = []
    with _evaluating(model):
        for start in range(0, len(batch), batch_size):
            part = batch.select(slice(start, start + batch_size)).to(model.device)
            known = split_unseen(part, model.schema).batch
            encoded = model.codec.encode(known)
            generator = torch.Generator().manual_seed(seed_of(seed, "impute", first + start))
            filled = model.model_impute(known, encoded, draws, generator)
            for completed in filled:
                _require_finite(model, completed)
                _require_filled(model, completed)
            out.append([completed.to("cpu") for completed in filled])
    return out


def context_holes(batch: TableBatch, schema: Schema) -> dict[str, int]:
    """Missing cells of each context column."""
    holes: dict[str, int] = {}
    start = 0
    for column in schema.numeric:
        if column.role == "context":
            holes[column.name] = int(torch.isnan(batch.numeric[:, start : start + column.width]).sum())
        start += column.width
    start = 0
    for column in schema.categorical:
        if column.role == "context":
            holes[column.name] = int((batch.codes[:, start : start + column.width] == -1).sum())
        start += column.width
    return holes


def _overlay(drawn: TableBatch, given: TableBatch, schema: Schema) -> TableBatch:
    """Context cells of ``given`` in place of the drawn ones."""
    numeric = [c.role == "context" for c in schema.numeric for _ in range(c.width)]
    codes = [c.role == "context" for c in schema.categorical for _ in range(c.width)]
    device = drawn.numeric.device
    return drawn.with_values(
        numeric=torch.where(torch.tensor(numeric, dtype=torch.bool, device=device), given.numeric, drawn.numeric),
        codes=torch.where(torch.tensor(codes, dtype=torch.bool, device=device), given.codes, drawn.codes),
    )


def _require_finite(model: DensityModel, batch: TableBatch) -> None:
    infinite = torch.isinf(batch.numeric).any(1)
    if bool(infinite.any()):
        raise CapabilityError(
            f"{type(model).__name__} drew {int(infinite.sum())} non-finite rows of {len(batch)}; "
            "train longer, or with a smaller learning rate"
        )


def _require_filled(model: DensityModel, batch: TableBatch) -> None:
    """A completion with holes left in it is a defect of the model, and must not pass for one."""
    schema = model.schema
    for columns, cells in ((schema.numeric, torch.isnan(batch.numeric)), (schema.categorical, batch.codes == HOLE)):
        start = 0
        for column in columns:
            left = int(cells[:, start : start + column.width].sum())
            start += column.width
            if left and column.is_scored and column.missing == "hole":
                raise GenZooError(
                    f"{type(model).__name__} left {left} holes of column '{column.name}' open; please report this, "
                    "and impute with another model (genzoo models lists those that do)"
                )


def _joined(batches: list[TableBatch], schema: Schema) -> TableData:
    from genzoo.tables.encode import TableData

    whole = TableBatch.concatenate(batches)
    return TableData(
        numeric=whole.numeric.numpy(),
        codes=whole.codes.numpy(),
        rows=np.arange(len(whole), dtype=np.int64),
        schema=schema,
    )


class _evaluating:
    """Evaluation mode, no gradients unless the model needs them, full precision; and back."""

    def __init__(self, model: DensityModel) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.model.codec.require_fitted()
        self.training = self.model.training
        self.model.eval()
        self.gradients = torch.set_grad_enabled(self.model.evaluation_gradients)
        self.gradients.__enter__()
        self.precision = evaluation_precision()
        self.precision.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.precision.__exit__(*error)
        self.gradients.__exit__(*error)
        self.model.train(self.training)
