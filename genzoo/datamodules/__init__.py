"""Sources of rows: tables, toys with a known density, and the UCI density benchmarks. Names are loaded when used."""

from __future__ import annotations

from typing import Any

_LAZY = {
    "TableDataModule": "genzoo.datamodules.base",
    "Images": "genzoo.datamodules.images",
    "BatchLoader": "genzoo.datamodules.loader",
    "BinaryImages": "genzoo.datamodules.binary",
    "BinaryVectors": "genzoo.datamodules.binary",
    "Fairness": "genzoo.datamodules.fairness",
    "RowGroupLoader": "genzoo.datamodules.streamed",
    "StreamedTable": "genzoo.datamodules.streamed",
    "Causal": "genzoo.datamodules.causal",
    "Table": "genzoo.datamodules.table",
    "Text": "genzoo.datamodules.text",
    "Toy": "genzoo.datamodules.toy",
    "UCIBenchmark": "genzoo.datamodules.uci",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'genzoo.datamodules' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
