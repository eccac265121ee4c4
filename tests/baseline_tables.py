"""Small tables for the tests of closed-form models: made by hand, and fitted without a Trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Column, Schema


def number(name: str, step: float | None = None, **rest: Any) -> Column:
    """A continuous column, or a quantized one with a step."""
    return Column(name, "quantized" if step else "continuous", step=step, **rest)


def schema_of(*columns: Column, num_rows: int = 1000) -> Schema:
    return Schema(columns, num_rows=num_rows, num_training_rows=num_rows)


def batch_of(numeric: Tensor, codes: Tensor | None = None) -> TableBatch:
    rows = torch.arange(len(numeric))
    codes = torch.zeros(len(numeric), 0, dtype=torch.int64) if codes is None else codes
    return TableBatch(numeric.double(), codes, rows)


def fitted(kind: type, schema: Schema, batch: TableBatch, **options: Any) -> Any:
    """A closed-form model fitted on raw rows."""
    model = kind(schema=schema.to_dict(), **options)
    model.codec.fit(batch)
    with torch.no_grad():
        model.fit_closed_form([model.codec.encode(batch)])
    return model.eval()


def scores(model: Any, batch: TableBatch, seed: int = 0, draws: int = 16) -> Any:
    """ModelLogProb in the table's units."""
    return model.score_batch(batch, seed, draws)
