"""The schema in words: what each column's likelihood refers to."""

from __future__ import annotations

from genzoo.reports.formats import MINUS
from genzoo.tables.schema import Column, Schema


def measure_words(column: Column) -> str:
    """What is scored in a column, with its base measure, in one phrase."""
    if column.kind == "constant" and column.role != "weight":
        return f"nothing: always {column.value if column.value is not None else 'missing'}"
    if column.role == "weight":
        return "nothing: how much a row counts"
    if not column.is_modelled:
        return "nothing"
    if column.role == "context":
        return "nothing: conditioned on"
    unit = column.unit or "unit"
    atoms = _atoms(column)
    if column.kind == "continuous":
        words = f"density per {unit}"
    elif column.kind == "mixed":
        words = f"probability of {atoms}; density per {unit} elsewhere"
    elif column.kind == "quantized":
        cell_unit = column.unit or {"date": "day", "datetime": "s", "duration": "s"}.get(column.storage)
        words = f"probability of the cell of width {column.step:g}" + (f" ({cell_unit})" if cell_unit else "")
        words += f"; atoms {atoms}" if column.atoms else ""
    else:
        words = "probability of the category"
    bounds = [f"≥ {column.lower:g}"] if column.lower is not None else []
    bounds += [f"≤ {column.upper:g}"] if column.upper is not None else []
    return words + (f"; declared {' and '.join(bounds)}" if bounds else "")


def _atoms(column: Column, most: int = 4) -> str:
    names = [f"{a:g}".replace("-", MINUS) for a in column.atoms[:most]]
    if len(column.atoms) > most:
        names.append(f"{len(column.atoms) - most} more")
    if column.missing == "value":
        names.append("missing")
    return ", ".join(names)


def schema_rows(schema: Schema) -> list[list[str]]:
    """One line a column: name, kind, role, what is scored, known values, missing."""
    lines = []
    for c in schema.columns:
        known = ""
        if c.is_categorical:
            shown = ", ".join(c.categories[:5]) + (", …" if len(c.categories) > 5 else "")
            known = f"{len(c.categories)}{' (closed)' if c.closed else ''}: {shown}" if c.categories else "open"
        missing = "a value" if c.missing == "value" else "a hole"
        name = c.name + (f" {list(c.shape)}" if c.shape else "")
        lines.append([name, c.kind, c.role, measure_words(c), known, missing if c.is_modelled else ""])
    return lines
