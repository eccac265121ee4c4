"""Reading and writing tables: files, pandas, polars and Arrow in; the same form out."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import narwhals as nw
import pyarrow as pa
import pyarrow.compute as pc

from genzoo.errors import DataError
from genzoo.tables.cells import type_text
from genzoo.tables.schema import MISSING_TOKENS

if TYPE_CHECKING:
    from genzoo.tables.schema import Schema

TEXT_SUFFIXES = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": ","}
BINARY_SUFFIXES = (".parquet", ".pq", ".feather", ".arrow", ".ipc")
BACKENDS = ("pandas", "polars", "pyarrow")


def read_frame(
    source: Any,
    *,
    schema: Schema | None = None,
    missing_tokens: Iterable[str] | None = None,
    columns: Iterable[str] | None = None,
) -> nw.DataFrame[Any]:
    """A table as a narwhals frame.

    Text files are read whole as text, stripped of surrounding blanks; then each column whose every cell is an integer,
    a number, a date (``2024-01-31``) or a date-time becomes one, so that missing tokens mean the same in every column.
    Integers above 2**63 stay text. A decimal comma stays text.

    Args:
        source: Path of a CSV, TSV, Parquet, Feather or Arrow file; ``genzoo:adult`` or ``sklearn:NAME``
            (see :mod:`genzoo.tables.examples`); a pandas, polars or narwhals frame; an Arrow table; a dictionary of
            columns.
        schema: Columns that it holds as text stay text, whatever their cells look like; its missing tokens are used.
        missing_tokens: Text cells read as missing; the default is ``genzoo.tables.schema.MISSING_TOKENS``.
        columns: Read these columns alone.

    Returns:
        Frames keep their backend; files give an Arrow-backed frame.

    Raises:
        DataError: the file is absent, empty, has a header only, is not a table, or repeats a column name.
    """
    if isinstance(source, (str, os.PathLike)):
        if ":" in str(source) and not Path(source).exists():
            from genzoo.tables.examples import is_example, load_example

            if is_example(str(source)):
                return _checked(load_example(str(source)), source_name(source), columns)
        path = Path(source).expanduser()
        tokens = tuple(missing_tokens or (schema.missing_tokens if schema else MISSING_TOKENS))
        keep = {c.name for c in schema.columns if c.storage == "string"} if schema else set()
        return _checked(nw.from_native(_read_file(path, tokens, keep), eager_only=True), f"'{path}'", columns)
    if isinstance(source, Mapping):
        source = pa.table({str(name): _cells_to_arrow(cells) for name, cells in source.items()})
    if isinstance(source, nw.LazyFrame):
        source = source.collect()
    if isinstance(source, pa.Table):
        source = _without_views(source)
    if not isinstance(source, nw.DataFrame):
        names = source.column_names if isinstance(source, pa.Table) else getattr(source, "columns", [])
        _refuse_duplicates([str(name) for name in names])
        if type(source).__module__.startswith("polars") and type(source).__name__ == "LazyFrame":
            source = source.collect()
        if type(source).__module__.startswith("pandas") and not all(isinstance(c, str) for c in source.columns):
            source = source.rename(columns=str)
        try:
            source = nw.from_native(source, eager_only=True)
        except TypeError:
            raise DataError(
                f"cannot read a table from {type(source).__name__}; give a path (CSV, TSV, Parquet, Feather), a pandas "
                "or polars frame, an Arrow table or a dictionary of columns"
            ) from None
    return _checked(source, "the table", columns)


def _checked(frame: nw.DataFrame[Any], name: str, columns: Iterable[str] | None) -> nw.DataFrame[Any]:
    if not frame.columns:
        raise DataError(f"{name} is empty: no columns")
    if columns is not None:
        wanted = list(columns)
        absent = [c for c in wanted if c not in frame.columns]
        if absent:
            raise DataError(f"{name} has no column {', '.join(map(repr, absent))}; it has {frame.columns}")
        frame = frame.select(wanted)
    if len(frame) == 0:
        raise DataError(f"{name} has a header but no rows; give a table with at least two rows")
    return frame


def _refuse_duplicates(names: list[str], where: str = "the table") -> None:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"{where} has more than one column named {', '.join(map(repr, twice))}; rename them")


def existing_file(path: Path) -> Path:
    """The path, if it is a file with content.

    Raises:
        DataError: it is absent, a folder, or empty.
    """
    if not path.exists():
        raise DataError(f"no file '{path}'; check the name (a table is .csv, .tsv, .parquet, .feather or .arrow)")
    if path.is_dir():
        raise DataError(f"'{path}' is a folder, not a table; name one file in it")
    if path.stat().st_size == 0:
        raise DataError(f"'{path}' is empty; give a table with a header and at least two rows")
    return path


def file_kind(path: Path) -> str:
    """``text``, ``parquet`` or ``arrow``, by the name of the file (compression endings aside).

    Raises:
        DataError: the ending is not one of a table.
    """
    suffixes = [s.lower() for s in path.suffixes]
    last = suffixes[-1] if suffixes else ""
    if last in (".gz", ".bz2", ".zst", ".xz") and len(suffixes) > 1:
        last = suffixes[-2]
    if last in TEXT_SUFFIXES:
        return "text"
    if last in (".parquet", ".pq"):
        return "parquet"
    if last in BINARY_SUFFIXES:
        return "arrow"
    if path.is_dir():
        existing_file(path)
    raise DataError(f"cannot tell what '{path.name}' is from its ending; use .csv, .tsv, .parquet, .feather or .arrow")


def _read_file(path: Path, tokens: tuple[str, ...], keep_text: set[str]) -> pa.Table:
    kind = file_kind(path)
    existing_file(path)
    try:
        if kind == "text":
            return _read_text(path, tokens, keep_text)
        if kind == "parquet":
            import pyarrow.parquet as pq

            names = pq.read_schema(path).names
            _refuse_duplicates(names, f"'{path.name}'")
            return pq.ParquetFile(path).read()
        return _read_arrow(path)
    except (pa.ArrowInvalid, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        names = {"text": "a text table", "parquet": "a Parquet file", "arrow": "a Feather or Arrow file"}
        raise DataError(
            f"'{path}' cannot be read as {names[kind]}; is it whole, and is its ending right? "
            f"(the reader says: {first})"
        ) from error


def _read_arrow(path: Path) -> pa.Table:
    from pyarrow import feather, ipc

    with path.open("rb") as file:
        head = file.read(6)
    if head.startswith(b"ARROW1") or head.startswith(b"FEA1"):
        table = feather.read_table(path, memory_map=False)
    else:
        with ipc.open_stream(path.read_bytes()) as stream:
            table = stream.read_all()
    _refuse_duplicates(table.column_names, f"'{path.name}'")
    return _without_views(table)


def _without_views(table: pa.Table) -> pa.Table:
    """Text that polars stores as views, as plain text: Arrow cannot take rows of views."""
    for place, name in enumerate(table.column_names):
        if pa.types.is_string_view(table.schema.types[place]):
            table = table.set_column(place, name, table[name].cast(pa.large_string()))
    return table


def _decoded(path: Path) -> bytes:
    """The file's bytes as UTF-8: a byte-order mark decides, then UTF-8, then Windows-1252."""
    with pa.input_stream(str(path), compression="detect") as stream:
        raw: bytes = stream.read()
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if raw.startswith(mark):
            return raw.decode(encoding, errors="replace").encode()
    if b"\x00" in raw[:4096]:
        raise DataError(f"'{path}' holds binary data, not text; is its ending right?")
    try:
        raw.decode("utf-8")
        return raw
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace").encode()


def _separator(header: str, default: str) -> str:
    """The separator of the header line: the default where it occurs, else the most frequent of ``; tab |``."""
    if default in header:
        return default
    counts = {mark: header.count(mark) for mark in (",", ";", "\t", "|")}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else default


def _read_text(path: Path, tokens: tuple[str, ...], keep_text: set[str]) -> pa.Table:
    import csv as text_csv

    from pyarrow import csv

    data = _decoded(path)
    if not data.strip():
        raise DataError(f"'{path}' is empty; give a table with a header and at least two rows")
    suffix = next((s.lower() for s in reversed(path.suffixes) if s.lower() in TEXT_SUFFIXES), ".csv")
    start = data[:1_000_000].decode("utf-8", errors="ignore").lstrip("\r\n")
    separator = _separator(start.splitlines()[0], TEXT_SUFFIXES[suffix])
    header = next(text_csv.reader(io.StringIO(start), delimiter=separator))
    names = [name.strip() for name in header]
    if names[0] == "" and len(names) > 1:  # the row index that pandas writes
        names[0] = "index" if "index" not in names else "Unnamed: 0"
    if "" in names:
        raise DataError(
            f"'{path.name}': column {names.index('') + 1} has no name; give every column a name in the header"
        )
    _refuse_duplicates(names, f"'{path.name}'")
    # A quoted header may span lines: reading it as the first row keeps one parser in charge.
    places = [f"f{i}" for i in range(len(names))]
    uneven: list[csv.InvalidRow] = []

    def kept(row: csv.InvalidRow) -> str:
        uneven.append(row)
        return "skip"

    table = csv.read_csv(
        io.BytesIO(data),
        read_options=csv.ReadOptions(column_names=places, block_size=1 << 24, use_threads=False),
        parse_options=csv.ParseOptions(
            delimiter=separator,
            newlines_in_values=b'"' in data,
            ignore_empty_lines=len(names) > 1,
            invalid_row_handler=kept,
        ),
        convert_options=csv.ConvertOptions(
            column_types={place: pa.string() for place in places}, strings_can_be_null=False, null_values=[]
        ),
    ).slice(1)
    if data.count(b'"') % 2 and table.num_rows and "\n" in str(table[places[-1]][-1]).rstrip("\n"):
        raise DataError(
            f"'{path}': a cell of column '{names[-1]}' in row {table.num_rows + 1} (the header is row 1) opens a quote "
            '(") that is never closed; close it, or double a quote that belongs to the text'
        )
    if uneven:
        first = uneven[0]
        more = f" ({len(uneven)} such rows)" if len(uneven) > 1 else ""
        where = f"row {first.number} (the header is row 1)" if first.number else "a row"
        raise DataError(
            f"'{path}': {where} has {first.actual_columns} cell{'s' * (first.actual_columns != 1)} and the header "
            f"{len(names)}{more}: {first.text[:60]!r}; correct it, or quote cells that hold {separator!r}"
        )
    if table.num_rows == 0:
        raise DataError(f"'{path}' has a header but no rows; give a table with at least two rows")
    columns = []
    for name, place in zip(names, places):
        cells = pc.utf8_trim_whitespace(table[place].combine_chunks())
        if isinstance(cells, pa.ChunkedArray):
            cells = pa.concat_arrays(cells.chunks)
        if name in keep_text:
            from genzoo.tables.cells import drop_tokens

            columns.append(drop_tokens(cells, tokens))
        else:
            columns.append(type_text(cells, tokens))
    return pa.table(columns, names=names)


def to_arrow(frame: Any) -> pa.Table:
    """Any frame as an Arrow table; cells of mixed Python types become text."""
    if isinstance(frame, pa.Table):
        return frame
    narwhal = frame if isinstance(frame, nw.DataFrame) else read_frame(frame)
    if narwhal.implementation.is_pandas():
        native = narwhal.to_native()
        return pa.table([_cells_to_arrow(native[name]) for name in narwhal.columns], names=narwhal.columns)
    return narwhal.to_arrow()


def _cells_to_arrow(cells: Any) -> pa.Array:
    """Cells of a pandas column or a sequence as Arrow; where types differ from cell to cell, numbers become text."""
    if isinstance(cells, (pa.Array, pa.ChunkedArray)):
        return cells
    try:
        return pa.array(cells, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        from genzoo.tables.cells import number_text

        def word(cell: Any) -> str | None:
            if cell is None or cell != cell:
                return None
            return number_text(cell) if isinstance(cell, float) else str(cell)

        return pa.array([word(cell) for cell in cells], pa.string())


def backend_of(like: Any) -> str:
    """``pandas``, ``polars`` or ``pyarrow``: the form of a frame, or a backend by name.

    Raises:
        DataError: no such backend.
    """
    if isinstance(like, str):
        name = {"arrow": "pyarrow"}.get(like, like)
        if name not in BACKENDS:
            raise DataError(f"unknown backend '{like}'; use one of {', '.join(BACKENDS)}")
        return name
    implementation = like.implementation if isinstance(like, nw.DataFrame) else nw.get_native_namespace(like)
    text = str(getattr(implementation, "__name__", implementation)).lower()
    return next((name for name in BACKENDS if name in text), "pandas")


def to_native(frame: Any, like: Any = "pandas") -> Any:
    """A frame in the form of another one (or of a backend name): what comes in as polars goes out as polars.

    Integers with missing cells become pandas' nullable ``Int64``. The index of a pandas frame of as many rows stays.
    """
    backend = backend_of(like)
    table = to_arrow(frame)
    if backend == "pyarrow":
        return table
    if backend == "polars":
        import polars

        return polars.from_arrow(table)
    import pandas

    nullable = {pa.int64(): pandas.Int64Dtype(), pa.int32(): pandas.Int32Dtype(), pa.bool_(): pandas.BooleanDtype()}
    out = {}
    for name in table.column_names:
        column = table[name]
        mapper = nullable.get if column.null_count else (lambda kind: None)
        if pa.types.is_date(column.type):  # pandas has no date type of its own: midnight of the day
            column = column.cast(pa.timestamp("s"))
        out[name] = column.to_pandas(types_mapper=mapper)
    rows = pandas.DataFrame(out)
    if isinstance(like, pandas.DataFrame) and len(like) == len(rows):
        rows.index = like.index
    return rows


def source_name(source: Any) -> str:
    """A short name for run folders and reports: the file without folder and ending, ``wine`` of ``sklearn:wine``."""
    if isinstance(source, (str, os.PathLike)):
        text = str(source)
        if text.startswith(("sklearn:", "genzoo:")):
            return text.split(":", 1)[1]
        name = Path(text).name
        while Path(name).suffix.lower() in (*TEXT_SUFFIXES, *BINARY_SUFFIXES, ".gz", ".bz2", ".zst"):
            name = Path(name).stem
        return name or "table"
    return "table"


def parquet_file(path: Path) -> Any:
    """An open Parquet file with columns and rows.

    Raises:
        DataError: it is absent, damaged or empty, or repeats a column name.
    """
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(existing_file(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"'{path}' cannot be read as a Parquet file; is it whole, and is its ending right? "
            f"(the reader says: {str(error).splitlines()[0]})"
        ) from error
    _refuse_duplicates(file.schema_arrow.names, f"'{path.name}'")
    if not file.schema_arrow.names:
        raise DataError(f"'{path}' is empty: no columns")
    if file.metadata.num_rows == 0:
        raise DataError(f"'{path}' has a header but no rows; give a table with at least two rows")
    return file


def iter_row_groups(
    source: Any, columns: Iterable[str] | None = None, missing_tokens: Iterable[str] | None = None
) -> Iterator[nw.DataFrame[Any]]:
    """The rows of a table in pieces that fit in memory: the row groups of a Parquet file, any other table whole."""
    if isinstance(source, (str, os.PathLike)) and not str(source).startswith(("sklearn:", "genzoo:")):
        path = Path(source).expanduser()
        if file_kind(path) == "parquet":
            file = parquet_file(path)
            wanted = None if columns is None else list(columns)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=wanted, use_threads=False)
                if table.num_rows:
                    yield nw.from_native(table, eager_only=True)
            return
    yield read_frame(source, columns=columns, missing_tokens=missing_tokens)


def write_frame(frame: Any, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Writes a table; the file appears complete or not at all (temporary file beside it, then renamed).

    Args:
        frame: Anything :func:`read_frame` takes.
        path: ``.csv``, ``.tsv``, ``.parquet``, ``.feather`` or ``.arrow``.
        overwrite: Replace an existing file.

    Raises:
        DataError: the path exists, its folder does not exist or cannot be written, or its ending is unknown.
    """
    target = Path(path).expanduser()
    kind = file_kind(target)
    table = to_arrow(frame)

    def write(temporary: Path) -> None:
        if kind == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, temporary, compression="zstd")
        elif kind == "arrow":
            from pyarrow import feather

            feather.write_feather(table, str(temporary), compression="zstd")
        else:
            from pyarrow import csv

            separator = TEXT_SUFFIXES[target.suffix.lower()]
            csv.write_csv(text_ready(table), temporary, csv.WriteOptions(delimiter=separator, quoting_style="needed"))

    with atomic_path(target, overwrite) as temporary:
        write(temporary)
    return target


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside ``path``, renamed when the block ends well: nothing half-written is ever seen.

    Raises:
        DataError: the path exists (and ``overwrite`` is off), or the folder is absent or cannot be written.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise DataError(f"'{path}' is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise DataError(f"'{path}' exists; choose another name, or allow it with --overwrite")
    if not path.parent.is_dir():
        raise DataError(f"no folder '{path.parent}' to write '{path.name}' in; create it first")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise DataError(f"cannot write in '{path.parent}': {error.strerror}; choose another folder") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def text_ready(table: pa.Table) -> pa.Table:
    """Date-times in ISO form without empty fractions (with a zone: in UTC), durations in seconds, for text files."""
    from genzoo.tables.cells import as_array, texts

    columns = []
    for name in table.column_names:
        column = table[name]
        kind = column.type
        if pa.types.is_timestamp(kind):
            words = as_array(column).cast(pa.timestamp(kind.unit)).cast(pa.string())
            words = pc.replace_substring_regex(words, r"\.0+$", "")
            columns.append(pc.binary_join_element_wise(words, "Z", "") if kind.tz else words)
        elif pa.types.is_duration(kind) or pa.types.is_dictionary(kind):
            columns.append(texts(as_array(column)))
        elif pa.types.is_nested(kind):
            raise DataError(f"column '{name}' holds lists, which a text file cannot; write .parquet instead")
        else:
            columns.append(column)
    return pa.table(columns, names=table.column_names)
