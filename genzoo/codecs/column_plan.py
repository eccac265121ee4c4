"""What the vector codec needs to know of a schema's columns before it sees a row."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor, inf, isnan

from torch import Tensor

from genzoo.codecs.scalers import ColumnScaler
from genzoo.errors import SchemaError
from genzoo.tables.schema import Column, Schema

MAX_FIT_VALUES = 1_000_000
GRID_TOLERANCE = 1e-6
"""A declared bound this close to a grid point (in steps) lies on it."""


def offsets(columns: tuple[Column, ...]) -> dict[str, int]:
    """Where each column's cells begin in a batch."""
    offsets, total = {}, 0
    for column in columns:
        offsets[column.name] = total
        total += column.width
    return offsets


def choices(schema: Schema, scaler: str | Mapping[str, str] | None) -> dict[str, str]:
    """Scaler of every modelled numeric column."""
    if not isinstance(scaler, Mapping):
        choice = scaler or "auto"
        return {c.name: _fitting(choice, c) for c in schema.numeric}
    names = [c.name for c in schema.numeric]
    for name in scaler:
        if name not in names:
            raise SchemaError(
                f"scaler given for '{name}', which is no modelled numeric column; these are: {', '.join(names)}"
            )
    return {name: scaler.get(name, "auto") for name in names}


def _fitting(choice: str, column: Column) -> str:
    """``log`` and ``logit`` asked for a whole table apply to the columns whose bounds allow them."""
    bounds = (column.lower is not None) + (column.upper is not None)
    fits = column.kind != "quantized" and column.is_scored and bounds == {"log": 1, "logit": 2}.get(choice)
    return choice if fits or choice not in ("log", "logit") else "auto"


def scaler_of(
    columns: tuple[Column, ...], choices: dict[str, str], num_knots: int, bounded: bool, cells: bool = False
) -> ColumnScaler:
    """Bounds shape the scale of densities only: a grid keeps its cells, the outermost of which reach to infinity."""
    shaped = [bounded and c.kind != "quantized" for c in columns]
    return ColumnScaler(
        [c.name for c in columns],
        [choices[c.name] for c in columns],
        [c.lower if s else None for c, s in zip(columns, shaped, strict=True)],
        [c.upper if s else None for c, s in zip(columns, shaped, strict=True)],
        [c.step or 0.0 if c.kind == "quantized" else 0.0 for c in columns],
        num_knots,
        cells,
    )


def grid_ends(column: Column) -> tuple[float, float]:
    """Indices of the first and last grid point within declared bounds, infinite without."""
    if column.kind != "quantized" or not column.step:
        return -inf, inf
    first = -inf if column.lower is None else ceil((column.lower - column.origin) / column.step - GRID_TOLERANCE)
    last = inf if column.upper is None else floor((column.upper - column.origin) / column.step + GRID_TOLERANCE)
    if first > last or isnan(first) or isnan(last):
        raise SchemaError(
            f"column '{column.name}': no grid point (step {column.step}, origin {column.origin}) lies between its "
            f"bounds {column.lower} and {column.upper}; correct step, origin or bounds"
        )
    return first, last


def pool(values: Tensor, good: Tensor) -> Tensor:
    """Good values of one column (all cells of a block), evenly thinned to a number that sorts quickly."""
    kept = values[good]
    return kept[:: len(kept) // MAX_FIT_VALUES + 1]
