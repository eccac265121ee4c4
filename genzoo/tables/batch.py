"""Raw values of some rows of a table, as tensors: the one thing that travels from a datamodule to a model."""

from __future__ import annotations

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
    """

    numeric: Tensor
    codes: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TableBatch:
        """The same rows on another device (Lightning calls this)."""
        return TableBatch(*(t.to(device, non_blocking=non_blocking) for t in (self.numeric, self.codes, self.rows)))

    def pin_memory(self) -> TableBatch:
        return TableBatch(self.numeric.pin_memory(), self.codes.pin_memory(), self.rows.pin_memory())

    def select(self, index: Tensor | slice) -> TableBatch:
        """The rows at ``index``."""
        return TableBatch(self.numeric[index], self.codes[index], self.rows[index])

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
        )
