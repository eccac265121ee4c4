"""What the training commands say of a table before they train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genzoo.tables.schema import UNMODELLED_ROLES

MOST_NAMED = 8
"""Columns named in a remark of one kind."""


def rows_text(datamodule: Any) -> str:
    """``800 training, 100 validation, 100 test rows``."""
    counts = [len(datamodule.data(split)) for split in ("train", "val", "test")]
    return f"{counts[0]} training, {counts[1]} validation, {counts[2]} test rows"


def column_remarks(datamodule: Any, ignore: str) -> list[str]:
    """Lines on columns that may not be what the user takes them for.

    Args:
        datamodule: The table.
        ignore: Option that leaves a column out.
    """
    from genzoo.tables.dependence import determined_columns

    schema, lines = datamodule.schema, []
    for column in schema.scored:
        if column.doubt == "identifier":
            lines.append(f"column '{column.name}' holds {column.note}; an identifier? then {ignore} it")
        elif column.doubt == "mistake":
            what = f"column '{column.name}' has {column.note}"
            lines.append(f"{what}: a mistake? then correct the cells, or name them missing tokens")
        elif column.doubt == "form":
            lines.append(f"column '{column.name}' has {column.note}")
    constant = [c for c in schema.columns if c.kind == "constant" and c.role not in UNMODELLED_ROLES]
    if constant:
        held = {c.name: "no cells" if c.value is None else f"only {c.value!r}" for c in constant[:MOST_NAMED]}
        named = [f"'{name}' ({cells})" for name, cells in held.items()]
        more = f" and {len(constant) - MOST_NAMED} more" if len(constant) > MOST_NAMED else ""
        lines.append(f"nothing to learn from {', '.join(named)}{more}")
    determined = determined_columns(datamodule.data("train"))
    for one in determined[:MOST_NAMED]:
        lines.append(f"{one}: only sharpness limits a density there, so {ignore} it or one of the others")
    if len(determined) > MOST_NAMED:
        lines.append(f"and {len(determined) - MOST_NAMED} more columns that follow from others")
    return lines


def learned_from(model: Any, path: str) -> bool:
    """Whether a file is the one that a model was trained on."""
    place = model.training_record.get("data", {}).get("init_args", {}).get("path")
    return place is not None and Path(place).resolve() == Path(path).resolve()


def add_counts(total: dict[str, Counter[str]], found: Mapping[str, Mapping[str, int]]) -> None:
    """Adds the odd cells of some rows, by column and kind, to those of earlier ones."""
    for name, counts in found.items():
        total.setdefault(name, Counter()).update(counts)


def cell_remarks(columns: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Lines on odd cells.

    Args:
        columns: For each column with odd cells, how many of each kind (:class:`genzoo.tables.encode.TableData`).
    """
    lines = []
    names = {
        "unseen": ("cell holds", "cells hold", "a category not seen in training"),
        "off_grid": ("value is", "values are", "off the grid of the column and taken as the nearest point"),
        "outside": ("value is", "values are", "outside a declared bound"),
        "changed": (
            "cell differs",
            "cells differ",
            "from the only value that its column had in training, and no model reads such a column",
        ),
    }
    for key, (one, several, rest) in names.items():
        found = {name: counts[key] for name, counts in columns.items() if counts.get(key)}
        if found:
            count = sum(found.values())
            most = sorted(found, key=lambda name: (-found[name], name))
            shown = ", ".join(f"'{name}' {found[name]}" for name in most[:5])
            more = f" and {len(most) - 5} more columns" if len(most) > 5 else ""
            lines.append(f"{count} {one if count == 1 else several} {rest}: {shown}{more}")
    return lines
