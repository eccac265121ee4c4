"""Defaults of the flows that depend on how many rows there are to learn from."""

from __future__ import annotations

from genzoo.tables.schema import Schema


def default_dropout(schema: Schema) -> float:
    """0.2 below 1000 training rows, 0.1 below 10,000, else 0; 0 where their number is not known."""
    rows = schema.num_training_rows
    if 0 < rows < 1000:
        return 0.2
    return 0.1 if 0 < rows < 10_000 else 0.0
