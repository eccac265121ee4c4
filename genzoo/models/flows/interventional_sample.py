"""Draws of potential outcomes as a frame of the treatment and the outcome column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genzoo.errors import DataError

if TYPE_CHECKING:
    from genzoo.models.flows.interventional_flow import InterventionalFlow


def sample_outcomes(model: InterventionalFlow, num: int | None, given: Any, seed: int, backend: str) -> Any:
    """See :meth:`genzoo.models.flows.interventional_flow.InterventionalFlow.sample`."""
    from genzoo.tables.encode import TableData, decode_table, encode_frame
    from genzoo.tables.frames import read_frame

    generator = torch.Generator().manual_seed(seed)
    name = model.treatment.name
    arm = None
    if given is not None:
        frame = read_frame(given, schema=model.schema)
        num = len(frame) if num is None else num
        if name in frame.columns:
            data = encode_frame(frame.select(name), model.schema, require=[name])
            codes = data.codes[np.arange(num) % len(data), model._code]
            if (codes < 0).any():
                raise DataError(
                    f"treatment column '{name}' of the given rows is missing, or holds a treatment that training rows "
                    f"did not, in {int((codes < 0).sum())} rows; known: {', '.join(model.arms)}"
                )
            arm = torch.from_numpy(codes)
    if num is None or num < 1:
        raise DataError(f"the number of samples must be at least 1, got {num}")
    if arm is None:
        share = model.measure.rows.double().cpu()
        arm = torch.multinomial(share / share.sum(), num, replacement=True, generator=generator)
    with torch.no_grad():
        batch = model._rows_of(model.potential_sample(arm, generator), arm)
    rows = TableData(
        numeric=batch.numeric.numpy(),
        codes=batch.codes.numpy(),
        rows=np.arange(num, dtype=np.int64),
        schema=model.schema,
    )
    frame = read_frame(decode_table(rows, model.schema, backend))
    kept = [c.name for c in model.schema.columns if c.name in (name, model.outcome.name)]
    return frame.select(kept).to_native()
