"""Puts drawn cells where rows have holes."""

from __future__ import annotations

import torch

from genzoo.tables.batch import HOLE, TableBatch
from genzoo.tables.schema import Schema


def fill_holes(schema: Schema, batch: TableBatch, drawn: TableBatch) -> TableBatch:
    """Cells of ``drawn`` at the holes of scored columns of ``batch``; observed cells stay as they are.

    A missing cell that the schema takes for a value (``missing: value``) is observed.
    """
    numeric = [c.is_scored and c.missing == "hole" for c in schema.numeric for _ in range(c.width)]
    codes = [c.is_scored for c in schema.categorical for _ in range(c.width)]
    device = batch.numeric.device
    open_numeric = torch.isnan(batch.numeric) & torch.tensor(numeric, dtype=torch.bool, device=device)
    open_codes = (batch.codes == HOLE) & torch.tensor(codes, dtype=torch.bool, device=device)
    return batch.with_values(
        torch.where(open_numeric, drawn.numeric, batch.numeric), torch.where(open_codes, drawn.codes, batch.codes)
    )
