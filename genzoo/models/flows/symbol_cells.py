"""Rows of symbols as cells without numbers: what lets the learned dense view read the tokens codec."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genzoo.codecs.base import CategorySlot, Cells, NumberSlot
from genzoo.codecs.tokens import TokenCodec, TokenRows
from genzoo.tables.batch import TableBatch


class SymbolCells:
    """The slots of a tokens codec as categories, and the way back.

    Args:
        codec: The tokens codec.
        generator: Draws positions within bins when decoding.
    """

    numbers: tuple[NumberSlot, ...] = ()

    def __init__(self, codec: TokenCodec, generator: torch.Generator | None = None) -> None:
        self.codec, self.generator = codec, generator
        self.categories = tuple(CategorySlot(s.column, s.num_symbols, None, s.scored) for s in codec.slots)
        self.num_context = sum(slot.num_symbols + 1 for slot in codec.context_slots)

    def cells(self, rows: TokenRows) -> Cells:
        """Encoded rows as cells."""
        none = rows.log_volume.new_zeros(len(rows), 0)
        return Cells(
            rows=rows.rows,
            number=none,
            lower=none,
            upper=none,
            present=none.bool(),
            category=rows.tokens,
            number_hole=none.bool(),
            context=self.context(rows.context),
            log_volume=rows.log_volume,
            outside=rows.outside,
        )

    def context(self, tokens: Tensor) -> Tensor:
        """``(batch, num_context)`` float32 indicators of context symbols, the last of each cell for a hole."""
        parts = [
            F.one_hot(torch.where(tokens[:, i] < 0, slot.num_symbols, tokens[:, i]), slot.num_symbols + 1)
            for i, slot in enumerate(self.codec.context_slots)
        ]
        return torch.cat(parts, 1).float() if parts else torch.zeros(len(tokens), 0, device=tokens.device)

    def decode(self, number: Tensor, category: Tensor, rows: Tensor, context: TableBatch | None = None) -> TableBatch:
        """Raw rows of symbols; one that stands for nothing becomes the nearest that does."""
        assert self.generator is not None
        return self.codec.decode(self.codec.existing(category), rows, self.generator, context)
