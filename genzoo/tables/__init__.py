"""Tables: what each column is (schema), reading and writing, raw values in and out."""

from __future__ import annotations

from typing import Any

_LAZY = {
    "Column": "genzoo.tables.schema",
    "Schema": "genzoo.tables.schema",
    "TableBatch": "genzoo.tables.batch",
    "TableData": "genzoo.tables.encode",
    "decode_table": "genzoo.tables.encode",
    "encode_frame": "genzoo.tables.encode",
    "fill_holes": "genzoo.tables.encode",
    "training_schema": "genzoo.tables.encode",
    "load_example": "genzoo.tables.examples",
    "iter_row_groups": "genzoo.tables.frames",
    "read_frame": "genzoo.tables.frames",
    "to_native": "genzoo.tables.frames",
    "write_frame": "genzoo.tables.frames",
    "infer_schema": "genzoo.tables.infer",
    "load_schema": "genzoo.tables.show",
    "save_schema": "genzoo.tables.show",
    "schema_table": "genzoo.tables.show",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'genzoo.tables' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
