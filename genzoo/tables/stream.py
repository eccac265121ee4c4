"""Tables read and written a range of rows at a time, so that a file may be larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import narwhals as nw
import pyarrow as pa

from genzoo.errors import DataError
from genzoo.tables.frames import TEXT_SUFFIXES, atomic_path, file_kind, parquet_file, read_frame, text_ready, to_arrow

if TYPE_CHECKING:
    from genzoo.tables.schema import Schema

ROWS = 65_536


class RangeReader:
    """Ranges of rows of a table: a Parquet file a row group at a time, any other table from memory.

    Args:
        source: Anything :func:`genzoo.tables.frames.read_frame` takes.
        schema: Columns that it holds as text stay text; its missing tokens are used.

    Raises:
        DataError: the table cannot be read.
    """

    def __init__(self, source: Any, schema: Schema | None = None) -> None:
        self._file: Any = None
        self._held: tuple[int, pa.Table] | None = None
        path = Path(source).expanduser() if isinstance(source, str | os.PathLike) else None
        if path is not None and path.suffix and path.exists() and file_kind(path) == "parquet":
            self._file = parquet_file(path)
            sizes = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
            self._starts = [0]
            for size in sizes:
                self._starts.append(self._starts[-1] + size)
            self.num_rows = self._starts[-1]
            self.columns: list[str] = list(self._file.schema_arrow.names)
        else:
            self._frame = read_frame(source, schema=schema)
            self.num_rows = len(self._frame)
            self.columns = list(self._frame.columns)

    def read(self, start: int, stop: int) -> nw.DataFrame[Any]:
        """Rows ``start`` to ``stop`` (not included)."""
        if self._file is None:
            return self._frame[start:stop]
        parts = []
        for group, (first, end) in enumerate(zip(self._starts, self._starts[1:])):
            low, high = max(first, start), min(end, stop)
            if low < high:
                parts.append(self._group(group).slice(low - first, high - low))
        return nw.from_native(pa.concat_tables(parts), eager_only=True)

    def _group(self, group: int) -> pa.Table:
        if self._held is None or self._held[0] != group:
            self._held = None  # the old one is given back before the new one is read
            self._held = group, self._file.read_row_group(group, use_threads=False)
        return self._held[1]

    def ranges(self, rows: int = ROWS) -> Iterator[tuple[int, int]]:
        """Consecutive ranges of ``rows`` rows that cover the table."""
        return row_ranges(self.num_rows, rows)


def row_ranges(num_rows: int, rows: int = ROWS) -> Iterator[tuple[int, int]]:
    """``(0, rows), (rows, 2 rows), ...`` up to ``num_rows``."""
    for start in range(0, num_rows, rows):
        yield start, min(start + rows, num_rows)


class TableWriter:
    """Writes a table piece by piece; the file appears complete or not at all.

    Args:
        path: ``.csv``, ``.tsv``, ``.parquet``, ``.feather`` or ``.arrow``.
        overwrite: Replace an existing file.

    Raises:
        DataError: on entering, if the path may not be written; on a piece whose columns differ from the first one's.

    Example:
        >>> with TableWriter("scores.parquet") as writer:  # doctest: +SKIP
        ...     writer.write(piece)
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.path = Path(path).expanduser()
        self.overwrite = overwrite
        self.kind = file_kind(self.path)
        self.num_rows = 0
        self._sink: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> TableWriter:
        self._temporary = self._stack.enter_context(atomic_path(self.path, self.overwrite))
        return self

    def write(self, frame: Any) -> None:
        """Appends rows."""
        table = to_arrow(frame)
        if self.kind == "text":
            table = text_ready(table)
        if self._sink is None:
            self._schema = table.schema
            self._sink = self._stack.enter_context(self._open(table.schema))
        if table.schema != self._schema:
            if table.column_names != self._schema.names:
                raise DataError(f"a piece has columns {table.column_names}, the first one had {self._schema.names}")
            table = table.cast(self._schema)
        self._sink.write_table(table)
        self.num_rows += len(table)

    def _open(self, schema: pa.Schema) -> Any:
        if self.kind == "parquet":
            import pyarrow.parquet as pq

            return pq.ParquetWriter(self._temporary, schema, compression="zstd")
        if self.kind == "arrow":
            sink = self._stack.enter_context(pa.OSFile(str(self._temporary), "wb"))
            return pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd"))
        from pyarrow import csv

        options = csv.WriteOptions(delimiter=TEXT_SUFFIXES[self.path.suffix.lower()], quoting_style="needed")
        return csv.CSVWriter(str(self._temporary), schema, write_options=options)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
