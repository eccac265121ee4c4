"""A schema for people: a table in the terminal, and YAML to edit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo.errors import SchemaError
from genzoo.tables.cells import number_text
from genzoo.tables.schema import Column, Schema

if TYPE_CHECKING:
    from rich.table import Table


def measure_text(column: Column) -> str:
    """The base measure of a column in words: what its likelihood counts."""
    unit = column.unit or "unit"
    if column.role == "weight":
        return "how much a row counts"
    if not column.is_modelled:
        return "not modelled"
    if column.kind == "continuous":
        return f"density per {unit}"
    if column.kind == "mixed":
        return f"probability of {_atoms(column)}, density per {unit} elsewhere"
    if column.kind == "quantized":
        step = float(column.step or 0.0)
        width = {
            "date": f"{number_text(step)} days",
            "datetime": f"{number_text(step)} s",
            "duration": f"{number_text(step)} s",
        }.get(column.storage)
        cells = (
            f"probability, cells of {width or f'{step:.6g}'}{f' {column.unit}' if column.unit and not width else ''}"
        )
        return cells + (f", atoms {_atoms(column)}" if column.num_atoms else "")
    return f"probability, {column.num_categories} {'closed ' if column.closed else ''}categories"


def _atoms(column: Column) -> str:
    words = [number_text(atom) for atom in column.atoms[:4]]
    words += [f"{len(column.atoms) - 4} more"] if len(column.atoms) > 4 else []
    return ", ".join(words + (["missing"] if column.missing == "value" else []))


DOUBTS = {
    "": "{}",
    "identifier": "{}: an identifier? then role: ignore",
    "mistake": "{}: a mistake?",
    "form": "{}",
    "refused": "refused: {}",
}
"""What a note says where the user may know better."""


def schema_table(schema: Schema, holes: Mapping[str, float] | None = None) -> Table:
    """A rich table: column, kind, measure, role, holes, note.

    Args:
        schema: What to show.
        holes: Share of missing cells per column, in [0, 1]; see :func:`genzoo.tables.infer.missing_shares`.
    """
    from rich.markup import escape
    from rich.table import Table

    rows = f"{schema.num_rows:,} rows, " if schema.num_rows else ""
    table = Table(title=f"{schema.source}: {rows}{len(schema.columns)} columns", title_justify="left")
    for heading in ("column", "kind", "measure", "role"):
        table.add_column(heading, overflow="fold")
    if holes is not None:
        table.add_column("holes", justify="right")
    table.add_column("note", overflow="fold", style="dim")
    for column in schema.columns:
        kind = column.kind + (f" {'x'.join(map(str, column.shape))}" if column.shape else "")
        cells = [escape(column.name), kind, escape(measure_text(column)), column.role]
        if holes is not None:
            share = holes.get(column.name, 0.0)
            cells.append(f"{100 * share:.3g} %" if share else "")
        table.add_row(*cells, escape(DOUBTS[column.doubt].format(column.note)))
    return table


def save_schema(schema: Schema, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Writes a schema as YAML, to be edited and given back.

    Raises:
        DataError: the path exists or cannot be written.
    """
    import yaml

    from genzoo.tables.frames import atomic_path

    head = (
        "# What each column is. Edit, then give this file: --data.schema (fit), --schema (compare).\n"
        "# kind: continuous, quantized (step, origin), mixed (atoms), categorical, binary, constant\n"
        "# role: value, context, treatment, outcome, sensitive, weight, time, group, ignore\n"
        "# also: lower, upper (bounds), closed: true (no other categories), missing: value (missing is a value)\n"
    )
    plain = {key: value for key, value in schema.to_dict().items() if key != "num_training_rows" or value}
    with atomic_path(path, overwrite) as temporary:
        temporary.write_text(
            head + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None),
            encoding="utf-8",
        )
    return Path(path)


def load_schema(path: str | os.PathLike[str]) -> Schema:
    """Reads a schema written by :func:`save_schema` or by hand.

    Raises:
        SchemaError: no such file, not YAML, or a field or kind is unknown.
    """
    import yaml

    try:
        plain = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise SchemaError(f"no schema file '{path}'; write one with genzoo schema DATA -o {path}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SchemaError(f"'{path}' is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(plain, dict):
        raise SchemaError(f"'{path}' is not a schema; it needs an entry 'columns'")
    return Schema.from_dict({**plain, "columns": [_as_words(entry) for entry in plain.get("columns") or []]})


def _as_words(entry: Any) -> Any:
    """Categories and constants written by hand as 0, 1, yes or no, as text."""
    if not isinstance(entry, dict):
        raise SchemaError(f"each column of a schema needs 'name' and 'kind'; got {entry!r}")
    entry = dict(entry)
    if "categories" in entry:
        entry["categories"] = [str(word) for word in entry["categories"] or []]
    for field in ("name", "value"):
        if entry.get(field) is not None:
            entry[field] = str(entry[field])
    return entry
