"""What every codec keeps: a model's own view of a row, fitted on training rows, with the log-volume to the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor, nn

from genzoo.errors import GenZooError
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Schema


class Encoded(Protocol):
    """What the base model reads of encoded rows; the rest belongs to the codec and the models that use it.

    ``log_volume`` ``(batch, num_scored_columns)`` float64: per scored column, the log-volume that brings a number of
    model space back to the schema's base measure (0 for a hole). ``outside`` ``(batch,)`` bool: the row has a value
    beyond declared bounds, its likelihood is zero.
    """

    @property
    def rows(self) -> Tensor: ...

    @property
    def log_volume(self) -> Tensor: ...

    @property
    def outside(self) -> Tensor: ...

    def __len__(self) -> int: ...


class Codec(nn.Module, ABC):
    """Encodes raw rows for one family of models and decodes its samples.

    Buffers are float64, their shapes depend on the schema and hyper-parameters alone, and they are fitted once, on
    training rows, in float64. ``fitted`` is a buffer, so a checkpoint knows.
    """

    fitted: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, batch: TableBatch) -> None:
        """Fits scales, knots and tails on training rows; sets ``fitted``."""
        self._fit(batch)
        self.fitted.fill_(True)

    def require_fitted(self) -> None:
        if not bool(self.fitted):
            raise GenZooError("the codec has not seen training rows; run fit first, or load a checkpoint")

    @abstractmethod
    def _fit(self, batch: TableBatch) -> None: ...

    @abstractmethod
    def encode(self, batch: TableBatch) -> Encoded:
        """Raw rows to model space. Unseen categories arrive as holes: the base model has scored them."""


@dataclass(frozen=True)
class NumberSlot:
    """One number of model space.

    Args:
        column: Name of the column it encodes.
        quantized: The number stands for a cell between two edges, and its probability is wanted.
        indicator: Index of the category slot that says atom or not; ``None`` without atoms.
        scored: Index into the schema's scored columns.
    """

    column: str
    quantized: bool
    indicator: int | None
    scored: int


@dataclass(frozen=True)
class CategorySlot:
    """One category of model space: a categorical column, or the indicator of a column with atoms.

    Args:
        column: Name of the column it encodes.
        num_categories: Number of values. An indicator has one per atom and, last, one for "not an atom".
        number: Index of the number slot it governs (indicators only), else ``None``.
        scored: Index into the schema's scored columns.
    """

    column: str
    num_categories: int
    number: int | None
    scored: int


@dataclass(frozen=True)
class Cells:
    """Encoded rows of the vector codec: typed cells, nothing drawn at random, nothing lost.

    Args:
        rows: ``(batch,)`` int64 row numbers.
        number: ``(batch, num_numbers)`` float64 model-space value; for a quantized slot the centre of its cell; 0 where
            not ``present``.
        lower: ``(batch, num_numbers)`` float64, model-space lower edge of the cell (-inf at a declared bound); equals
            ``number`` for a density; -1 for a quantized slot that is not ``present`` (harmless to evaluate and mask).
        upper: likewise, upper edge; +1 for a quantized slot that is not ``present``.
        present: ``(batch, num_numbers)`` bool: the number is observed (not a hole, and not an atom).
        category: ``(batch, num_category_slots)`` int64; -1 is a hole.
        number_hole: ``(batch, num_numbers)`` bool: the column's cell is missing (an atom is neither present nor hole).
        context: ``(batch, num_context)`` float32 dense context features, holes flagged; zero columns without context.
        log_volume: ``(batch, num_scored_columns)`` float64, see :class:`Encoded`.
        outside: ``(batch,)`` bool.
        weight: ``(batch,)`` float64, how much each row counts; ``None`` where all count the same.
    """

    rows: Tensor
    number: Tensor
    lower: Tensor
    upper: Tensor
    present: Tensor
    category: Tensor
    number_hole: Tensor
    context: Tensor
    log_volume: Tensor
    outside: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def each(self, change: Callable[[Tensor], Tensor]) -> Cells:
        """The same change made to every tensor."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return Cells(**{name: None if t is None else change(t) for name, t in tensors.items()})  # type: ignore[arg-type]

    def select(self, index: Tensor | slice) -> Cells:
        """The rows at ``index``."""
        return self.each(lambda t: t[index])

    def repeat(self, draws: int) -> Cells:
        """Every row ``draws`` times, neighbours: for several draws of noise a row."""
        return self.each(lambda t: t.repeat_interleave(draws, 0))
