"""A model's own view of a row: encoding, decoding, and the log-volume that brings its numbers back to the data."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "AtomCells": "vector",
    "BitCodec": "bits",
    "BitField": "bits",
    "BitRows": "bits",
    "CategorySlot": "base",
    "Cells": "base",
    "Codec": "base",
    "ColumnScaler": "scalers",
    "Encoded": "base",
    "NumberSlot": "base",
    "Surjection": "surjection",
    "TokenCodec": "tokens",
    "TokenRows": "tokens",
    "TokenSlot": "tokens",
    "VectorCodec": "vector",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Imports on first use, so that ``import genzoo`` loads no torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'genzoo.codecs' has no attribute '{name}'")
    return getattr(import_module(f"genzoo.codecs.{_WHERE[name]}"), name)
