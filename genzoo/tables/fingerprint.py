"""A hash of a table's content, and a cache of what was learned from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genzoo.tables.cells import as_array, is_text


def fingerprint(source: Any) -> str:
    """Hash of a table's content: of a file's bytes, or of a frame's names, types and cells.

    A letter and 15 hexadecimal digits: the letter keeps any reader of YAML from taking it for a number.

    A file and the frame read from it have different fingerprints; the same file under another name has the same.
    """
    from genzoo.tables.frames import read_frame, to_arrow

    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
            return f"h{digest.hexdigest()[:15]}"
    table = to_arrow(read_frame(source))
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table[name]
        digest.update(f"{name}\0{_canonical(column.type)}\0{len(column)}\0".encode())
        _add(digest, as_array(column))
    return f"h{digest.hexdigest()[:15]}"


def _canonical(kind: pa.DataType) -> str:
    """Type name that does not depend on how a backend lays text out."""
    return "string" if is_text(kind) else str(kind)


def _add(digest: Any, piece: pa.Array) -> None:
    digest.update(np.packbits(np.asarray(piece.is_null())).tobytes())
    if is_text(piece.type) or not (pa.types.is_primitive(piece.type) or pa.types.is_boolean(piece.type)):
        for word in piece.cast(pa.string()).to_pylist() if is_text(piece.type) else map(str, piece.to_pylist()):
            digest.update((word if word is not None else "\0").encode())
            digest.update(b"\0")
        return
    if pa.types.is_temporal(piece.type):
        piece = piece.cast(pa.int64() if piece.type.bit_width == 64 else pa.int32())
    digest.update(np.ascontiguousarray(pc.fill_null(piece, False if pa.types.is_boolean(piece.type) else 0)).tobytes())


def cache_folder() -> Path:
    """Where inferred schemas are kept: ``$GENZOO_CACHE``, else ``genzoo`` in the user's cache folder."""
    given = os.environ.get("GENZOO_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "genzoo"


def cached(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was stored under ``key``, or ``None``; a damaged entry counts as absent."""
    with contextlib.suppress(OSError, ValueError):
        entry = json.loads(_place(key).read_text(encoding="utf-8"))
        if isinstance(entry, dict):
            return entry
    return None


def store(key: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    """Stores plain values under ``key``; a folder that cannot be written is no error."""
    with contextlib.suppress(OSError, RuntimeError):
        place = _place(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}")
        temporary.write_text(json.dumps(entry), encoding="utf-8")
        temporary.replace(place)


def _place(key: Mapping[str, Any]) -> Path:
    text = json.dumps(key, sort_keys=True, default=str)
    return cache_folder() / "schemas" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
