"""Light or heavy: the tail of every numeric column, estimated on training rows or given by the user."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from genzoo.codecs.base import Cells, NumberSlot
from genzoo.errors import SchemaError
from genzoo.evaluation.tail_index import LARGEST_INDEX, TailIndex, tail_index
from genzoo.tables.schema import Schema

TailChoice = str | float
NUM_RESAMPLES = 50
MOST_ROWS = 10_000
"""Rows that the estimators read, evenly spaced: training rows come in the order of the file."""
LIGHT_START = 0.05
_ESTIMATES = tuple(field.name for field in fields(TailIndex))


@dataclass(frozen=True)
class ColumnTail:
    """What a model takes the tail of one column for.

    Args:
        column: Name.
        heavy: Class of the column.
        index: Tail index (degrees of freedom) the model started from, ``inf`` for a light column.
        given: The user said so; else estimated on training rows.
        estimate: The estimate, whatever the user said.
        weights: ``1 / index`` of the lower and the upper side; 0 for a light side.
    """

    column: str
    heavy: bool
    index: float
    given: bool
    estimate: TailIndex
    weights: tuple[float, float]


class TailClasses(nn.Module):
    """Classes of all number slots as buffers, so that a checkpoint knows them; shapes come from the schema alone.

    Args:
        schema: The table's schema.
        numbers: Number slots of the codec.
        given: Per column ``light``, ``heavy`` or the degrees of freedom; other columns are estimated.

    Raises:
        SchemaError: a column that is not a scored numeric column, or another word.
    """

    heavy: Tensor
    index: Tensor
    weights: Tensor
    estimates: Tensor

    def __init__(
        self, schema: Schema, numbers: Sequence[NumberSlot], given: Mapping[str, TailChoice] | None = None
    ) -> None:
        super().__init__()
        self.columns = tuple(slot.column for slot in numbers)
        self.quantized = tuple(slot.quantized for slot in numbers)
        self.given = {name: _choice(name, value, self.columns) for name, value in (given or {}).items()}
        num = len(self.columns)
        self.register_buffer("heavy", torch.zeros(num, dtype=torch.bool))
        self.register_buffer("index", torch.full((num,), torch.inf, dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(2, num, dtype=torch.float64))
        self.register_buffer("estimates", torch.full((num, len(_ESTIMATES)), torch.nan, dtype=torch.float64))

    def fit(self, cells: Cells, seed: int) -> None:
        """Estimates classes from encoded training rows; cells of a block share one estimate."""
        generator = torch.Generator().manual_seed(seed)
        for name in dict.fromkeys(self.columns):
            slots = [slot for slot, column in enumerate(self.columns) if column == name]
            values = _values(cells, slots, self.quantized[slots[0]], generator)
            both, lower, upper = (
                tail_index(values, side=side, num_resamples=NUM_RESAMPLES, seed=seed)
                for side in ("both", "lower", "upper")
            )
            choice = self.given.get(name)
            index = _index(both, choice)
            sides = [0.0, 0.0]
            if math.isfinite(index):
                sides = [1 / part.index if part.heavy else 0.0 for part in (lower, upper)]
                if isinstance(choice, float) or not any(sides):
                    sides = [1 / index, 1 / index]
            self.heavy[slots] = math.isfinite(index)
            self.index[slots] = index
            self.weights[:, slots] = self.weights.new_tensor(sides)[:, None]
            row = self.estimates.new_tensor([float(getattr(both, key)) for key in _ESTIMATES])
            self.estimates[slots] = row.expand(len(slots), -1)

    def describe(self) -> list[ColumnTail]:
        """Class of every numeric column, in the order of the table."""
        found = {}
        for slot, name in enumerate(self.columns):
            numbers = dict(zip(_ESTIMATES, self.estimates[slot].tolist(), strict=True))
            whole = {key: int(value) if math.isfinite(value) else 0 for key, value in numbers.items() if "num_" in key}
            found[name] = ColumnTail(
                name,
                bool(self.heavy[slot]),
                float(self.index[slot]),
                name in self.given,
                TailIndex(**(numbers | whole)),  # type: ignore[arg-type]
                (float(self.weights[0, slot]), float(self.weights[1, slot])),
            )
        return list(found.values())


def _choice(name: str, value: TailChoice, columns: Sequence[str]) -> TailChoice:
    if name not in columns:
        raise SchemaError(
            f"tails names column '{name}', which is not a scored numeric column; "
            f"numeric: {', '.join(dict.fromkeys(columns)) or 'none'}"
        )
    if isinstance(value, str) and value not in ("light", "heavy"):
        try:
            value = float(value)
        except ValueError:
            raise SchemaError(f"tails of column '{name}' must be light, heavy or a number, got '{value}'") from None
    if not isinstance(value, str):
        value = float(value)
        if not (value > 0 and math.isfinite(value)):
            raise SchemaError(f"degrees of freedom of column '{name}' must be positive, got {value}")
    return value


def _index(estimate: TailIndex, choice: TailChoice | None) -> float:
    """Tail index that a column gets: the user's word, then the estimate."""
    if choice is None:
        return estimate.index
    if choice == "light":
        return math.inf
    if isinstance(choice, float):
        return choice
    # heavy by the user's word: what Hill sees, which is a power for any sample
    hill = estimate.hill
    return min(LARGEST_INDEX, 1 / hill) if math.isfinite(hill) and hill > 0 else LARGEST_INDEX


def _values(cells: Cells, slots: list[int], quantized: bool, generator: torch.Generator):  # type: ignore[no-untyped-def]
    """Observed numbers of some slots, spread evenly inside their cells where they stand for cells."""
    part = torch.linspace(0, len(cells) - 1, min(len(cells), MOST_ROWS)).round().long().to(cells.rows.device)
    part = part.unique()
    number, present = cells.number[part][:, slots].cpu(), cells.present[part][:, slots].cpu()
    if quantized:
        lower, upper = cells.lower[part][:, slots].cpu(), cells.upper[part][:, slots].cpu()
        uniform = torch.rand(number.shape, generator=generator, dtype=number.dtype)
        spread = lower + (upper - lower) * uniform
        number = torch.where(torch.isfinite(spread), spread, number)
    return number[present].double().numpy()
