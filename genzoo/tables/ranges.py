"""The range of the numbers a model learned from, and drawn numbers that lie far beyond it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genzoo.tables.schema import Schema

Ranges = Mapping[str, Sequence[float]]


def training_ranges(numeric: np.ndarray, schema: Schema) -> dict[str, list[float]]:
    """Smallest and largest number of each column of single numbers, in its units.

    Args:
        numeric: ``(n, widths of schema.numeric)``, NaN is a hole.
        schema: What the columns are.
    """
    found, start = {}, 0
    for column in schema.numeric:
        cells = numeric[:, start]
        start += column.width
        cells = cells[~np.isnan(cells)]
        if column.width == 1 and column.storage in ("int", "float") and len(cells):
            found[column.name] = [float(cells.min()), float(cells.max())]
    return found


class FarBeyond:
    """Counts drawn numbers that lie further beyond the training range than it is wide.

    Args:
        ranges: Of :func:`training_ranges`.
    """

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = {name: (low, high) for name, (low, high) in ranges.items() if high > low}
        self.found: dict[str, list[float]] = {}  # count, lowest, highest

    def add(self, table: Any) -> None:
        """An Arrow table of drawn rows."""
        for name, (low, high) in self.ranges.items():
            if name not in table.column_names:
                continue
            values = np.asarray(table[name].to_numpy(), dtype=np.float64)
            width = high - low
            far = (values < low - width) | (values > high + width)
            if far.any():
                count, lowest, highest = self.found.get(name, [0, np.inf, -np.inf])
                self.found[name] = [
                    count + int(far.sum()),
                    min(lowest, float(values[far].min())),
                    max(highest, float(values[far].max())),
                ]

    def lines(self, most: int = 3) -> list[str]:
        """What to tell the user, the columns with most such numbers first."""
        worst = sorted(self.found, key=lambda name: -self.found[name][0])
        lines = []
        for name in worst[:most]:
            count, lowest, highest = self.found[name]
            low, high = self.ranges[name]
            numbers = f"{lowest:g}" if count == 1 else f"between {lowest:g} and {highest:g}"
            lines.append(
                f"{count:.0f} number{'s' * (count > 1)} of '{name}' far beyond the training range {low:g} to {high:g}: "
                f"{numbers}"
            )
        if len(worst) > most:
            lines.append(f"{len(worst) - most} more columns have such numbers")
        if lines:
            named = [f"{' and '.join(self._sides(name))} of '{name}'" for name in worst[:most]]
            lines.append(
                f"declare {', '.join(named)} in the schema to keep them in, or train longer, or take another model"
            )
        return lines

    def _sides(self, name: str) -> list[str]:
        """The bounds that would have kept the drawn numbers of a column in."""
        _, lowest, highest = self.found[name]
        low, high = self.ranges[name]
        return ["lower"] * (lowest < low) + ["upper"] * (highest > high)
