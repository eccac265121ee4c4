"""Log-likelihoods as plain values and as Parquet files (one line per row, the rest as JSON in the file's metadata)."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from genzoo.errors import DataError
from genzoo.likelihood.log_likelihood import LogLikelihood

_KEY = b"genzoo.log_likelihood"
_ARRAYS = ("values", "rows", "se", "discrete", "continuous", "by_column", "weights")
_PER_ROW = {"row": "rows", "log_prob": "values"} | {
    **{name: name for name in ("se", "discrete", "continuous")},
    "weight": "weights",
}


def to_dict(likelihood: LogLikelihood) -> dict[str, Any]:
    """Plain values only: arrays become lists, tuples become lists."""
    plain = {f.name: getattr(likelihood, f.name) for f in fields(likelihood)}
    for name in _ARRAYS:
        plain[name] = None if plain[name] is None else plain[name].tolist()
    return {name: _plain(value) for name, value in plain.items()}


def from_dict(plain: Mapping[str, Any]) -> LogLikelihood:
    """Inverse of :func:`to_dict`.

    Raises:
        DataError: an entry is unknown or missing.
    """
    known = {f.name for f in fields(LogLikelihood)}
    unknown = sorted(set(plain) - known)
    missing = sorted({"values", "rows", "kind"} - set(plain))
    if unknown or missing:
        what = f"has an unknown entry {unknown[0]!r}" if unknown else f"lacks {missing[0]!r}"
        raise DataError(f"the stored log-likelihood {what}; it was written by another version or program")
    values = dict(plain)
    if not len(values["rows"]):
        values["rows"] = np.zeros(0, dtype=np.int64)
    if values.get("by_column") is not None:
        shape = (len(values["rows"]), len(values.get("columns", ())))
        cells = np.array(values["by_column"], dtype=np.float64)
        values["by_column"] = cells if cells.size else cells.reshape(shape)  # a list without rows forgets its columns
    return LogLikelihood(**values)


def save(likelihood: LogLikelihood, path: str | Path, overwrite: bool = False) -> Path:
    """Writes a Parquet file with columns ``row``, ``log_prob`` and, where known, ``se``, ``discrete``, ``continuous``,
    ``weight`` and ``log_prob:COLUMN``. Nothing half-written: a temporary file is renamed.

    Raises:
        DataError: the file exists, or cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = Path(path)
    if target.exists() and not overwrite:
        raise DataError(f"'{target}' exists; choose another name, or allow overwriting")
    table = {}
    for column, name in _PER_ROW.items():
        if getattr(likelihood, name) is not None:
            table[column] = pa.array(getattr(likelihood, name))
    if likelihood.by_column is not None:
        for i, name in enumerate(likelihood.columns):
            table[f"log_prob:{name}"] = pa.array(np.ascontiguousarray(likelihood.by_column[:, i]))
    head = {f.name: _plain(getattr(likelihood, f.name)) for f in fields(likelihood) if f.name not in _ARRAYS}
    written = pa.table(table).replace_schema_metadata({_KEY: json.dumps(head).encode()})
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(handle)
        try:
            pq.write_table(written, name)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"cannot write '{target}': {error.strerror or error}; choose another path") from error
    return target


def load(path: str | Path) -> LogLikelihood:
    """Reads what :func:`save` wrote.

    Raises:
        DataError: the file is missing, truncated, or holds no log-likelihoods.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise DataError(f"no file '{path}' with log-likelihoods; score the rows first")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"'{path}' is not a readable Parquet file ({error}); score the rows again") from error
    stored = (table.schema.metadata or {}).get(_KEY)
    if stored is None or not {"row", "log_prob"} <= set(table.column_names):
        raise DataError(f"'{path}' is a table without stored log-likelihoods; give a file written by scoring rows")
    values = json.loads(stored)
    for column, name in _PER_ROW.items():
        if column in table.column_names:
            values[name] = table[column].to_numpy()
    cells = [f"log_prob:{name}" for name in values.get("columns", ())]
    if cells and set(cells) <= set(table.column_names):
        values["by_column"] = np.stack([table[name].to_numpy() for name in cells], axis=1)
    return from_dict(values)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _plain(value: Any) -> Any:
    """numpy scalars and tuples as Python numbers and lists; what is no plain value is refused."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"only plain values can be stored with a log-likelihood, got {type(value).__name__}: {value!r}")
