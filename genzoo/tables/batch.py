"""Raw values of some rows of a table, as tensors: the one thing that travels from a datamodule to a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

HOLE = -1
UNSEEN = -2


@dataclass(frozen=True)
class TableBatch:
    """Raw values of ``batch`` rows, in the table's own units.

    Args:
        numeric: ``(batch, num_numeric)`` float64; NaN is a missing cell. Column order: ``schema.numeric`` (a block
            takes ``width`` neighbouring columns).
        codes: ``(batch, num_categorical)`` int64; index into the column's categories, ``HOLE`` (-1) missing,
            ``UNSEEN`` (-2) a category that training rows did not hold. Column order: ``schema.categorical``.
        rows: ``(batch,)`` int64; number of each row in its file. Noise in evaluation is a function of it.
        weights: ``(batch,)`` float64 above 0, how much each row counts; ``None`` where all count the same.
    """

    numeric: Tensor
    codes: Tensor
    rows: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TableBatch:
        """The same rows on another device (Lightning calls this)."""
        return self._each(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TableBatch:
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> TableBatch:
        tensors = (self.numeric, self.codes, self.rows, self.weights)
        return TableBatch(*(None if t is None else change(t) for t in tensors))  # type: ignore[arg-type]

    def select(self, index: Tensor | slice) -> TableBatch:
        """The rows at ``index``."""
        return self._each(lambda t: t[index])

    def with_values(self, numeric: Tensor | None = None, codes: Tensor | None = None) -> TableBatch:
        """The same rows with other cells."""
        return replace(
            self,
            numeric=self.numeric if numeric is None else numeric,
            codes=self.codes if codes is None else codes,
        )

    @staticmethod
    def concatenate(batches: list[TableBatch]) -> TableBatch:
        return TableBatch(
            torch.cat([b.numeric for b in batches]),
            torch.cat([b.codes for b in batches]),
            torch.cat([b.rows for b in batches]),
            None if any(b.weights is None for b in batches) else torch.cat([b.weights for b in batches]),  # type: ignore[misc]
        )
