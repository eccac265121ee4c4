"""The bits codec: a row as a string of bits, a few a cell, for processes that flip bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

import torch
from torch import Tensor

from genzoo.codecs.base import Codec
from genzoo.codecs.tokens import TokenCodec, default_num_bins
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Column, Schema

Spacing = Literal["quantile", "uniform"]
PINNED = -1
"""In place of a bit that is neither noised nor scored: of a hole, or one that its column's codes do not need."""
UNIFORM_BITS = 12
MAX_BITS = 40


@dataclass(frozen=True)
class BitField:
    """The bits of one cell, most significant first.

    Args:
        column: Name of the column.
        start: Place of the first bit in the row.
        width: Number of bits; the leading ones may not be needed after fitting.
        scored: Index into the schema's scored columns; -1 for context.
    """

    column: str
    start: int
    width: int
    scored: int


@dataclass(frozen=True)
class BitRows:
    """Encoded rows of the bits codec.

    Args:
        rows: ``(batch,)`` int64 row numbers.
        bits: ``(batch, num_bits)`` int64 0 or 1; -1 is pinned (a hole, or not needed).
        context: ``(batch, num_context)`` float32: bits of context cells as -1 and +1, 0 in a hole, and a flag a cell.
        log_volume: ``(batch, num_scored_columns)`` float64: log-density, or log-probability of the cell, given its bin.
        outside: ``(batch,)`` bool.
    """

    rows: Tensor
    bits: Tensor
    context: Tensor
    log_volume: Tensor
    outside: Tensor

    def __len__(self) -> int:
        return len(self.rows)


def bit_width(column: Column, schema: Schema, num_bits: int | None = None, spacing: Spacing = "quantile") -> int:
    """Bits of a numeric cell, from the schema alone: with atoms, enough for the fewest bins that can be fitted."""
    least = ceil(log2(8 + 4 * len(column.atoms) + column.num_atoms))
    if num_bits is None:
        default = ceil(log2(default_num_bins(schema))) + (column.kind == "quantized")
        num_bits = default if spacing == "quantile" else UNIFORM_BITS
    return max(num_bits, least)


class BitCodec(Codec):
    r"""Encodes rows as bits: the symbols of :class:`genzoo.codecs.tokens.TokenCodec`, written as binary numbers.

    A cell with the symbol ``c`` (a category, an atom, a bin of a number; the outermost bins are the codes ``below`` and
    ``above`` with their tails) becomes the bits of ``c``, or of its Gray code ``c xor (c >> 1)``, in which neighbouring
    bins differ in one bit. Numbers keep their density or cell probability through ``log_volume``, as with tokens.

    How many bits a column needs is known after fitting: the leading ones that its codes do not use are pinned, as are
    the bits of a hole. Codes that stand for nothing cost mass: a model's probabilities of the others sum to less
    than one. Shapes depend on the schema, ``num_bits`` and ``spacing`` alone.

    Args:
        schema: Schema of the training view.
        num_bits: Most bits of a numeric cell, 3 to 40. ``None``: as the default number of bins of the tokens codec, one
            more on a grid (quantile); 12 (uniform). Columns with many atoms get more.
        spacing: ``quantile``: bins with equal shares of the training rows, up to 16 bits. ``uniform``: fixed point, as
            fine as the rows resolve.
        gray: Neighbouring codes differ in one bit.
        finest: Uniform spacing: use all of ``num_bits``, from the smallest to the largest training row.
    """

    needed: Tensor
    _place: Tensor
    _field: Tensor
    _context_place: Tensor
    _context_field: Tensor

    def __init__(
        self,
        schema: Schema,
        num_bits: int | None = None,
        spacing: Spacing = "quantile",
        gray: bool = True,
        finest: bool = False,
    ) -> None:
        super().__init__(schema)
        if num_bits is not None and not 3 <= num_bits <= (16 if spacing == "quantile" else MAX_BITS):
            most = 16 if spacing == "quantile" else MAX_BITS
            raise ValueError(f"num_bits must be from 3 to {most} with {spacing} bins, got {num_bits}")
        self.gray = gray
        widths = {c.name: bit_width(c, schema, num_bits, spacing) for c in schema.numeric}
        bins = {c.name: 2 ** widths[c.name] - c.num_atoms for c in schema.numeric}
        self.tokens = TokenCodec(schema, num_bins=bins, spacing=spacing, finest=finest)
        self.num_cells = self.tokens.num_slots
        fields: list[BitField] = []
        for slot in self.tokens.all_slots:
            first = len(fields) in (0, self.num_cells)
            start = 0 if first else fields[-1].start + fields[-1].width
            width = widths.get(slot.column, (slot.num_symbols - 1).bit_length())
            fields.append(BitField(slot.column, start, width, slot.scored))
        self.fields, self.context_fields = tuple(fields[: self.num_cells]), tuple(fields[self.num_cells :])
        self.num_bits = sum(field.width for field in self.fields)
        self.num_context = sum(field.width + 1 for field in self.context_fields)
        self.register_buffer("needed", torch.ones(self.num_bits, dtype=torch.bool))
        place, cell = _places(self.fields)
        self.register_buffer("_place", place, persistent=False)
        self.register_buffer("_field", cell, persistent=False)
        place, cell = _places(self.context_fields)
        self.register_buffer("_context_place", place, persistent=False)
        self.register_buffer("_context_field", cell, persistent=False)

    @property
    def field_of_bit(self) -> Tensor:
        """``(num_bits,)`` int64: the cell that each bit belongs to."""
        return self._field

    # ---- fitting --------------------------------------------------------------------------------------------------

    def _fit(self, batch: TableBatch) -> None:
        self.tokens.fit(batch)
        widths = self.needed_widths()
        self.needed.copy_(self._place < torch.tensor(widths, device=self._place.device)[self._field])

    def needed_widths(self) -> list[int]:
        """Bits that the codes of each scored cell need."""
        return [max(size - 1, 0).bit_length() for size in self.tokens.used_symbols()]

    # ---- encoding -------------------------------------------------------------------------------------------------

    def encode(self, batch: TableBatch) -> BitRows:
        """Bits of raw rows."""
        rows = self.tokens.encode(batch)
        bits = self._spell(rows.tokens, self._place, self._field)
        context = self._context(rows.context)
        return BitRows(rows.rows, torch.where(self.needed, bits, PINNED), context, rows.log_volume, rows.outside)

    def _context(self, tokens: Tensor) -> Tensor:
        """Dense features of context symbols: bits as signs, 0 in a hole, then a flag for each hole."""
        bits = self._spell(tokens, self._context_place, self._context_field)
        signs = torch.where(bits >= 0, 2 * bits - 1, 0)
        return torch.cat([signs, (tokens < 0).long()], 1).float()

    def without_context(self, context: Tensor, rows: Tensor) -> Tensor:
        """Context features with every cell missing in the chosen rows ``(batch,)`` bool."""
        missing = torch.zeros_like(context)
        missing[:, self.num_context - len(self.context_fields) :] = 1.0
        return torch.where(rows[:, None], missing, context)

    def _spell(self, tokens: Tensor, place: Tensor, field: Tensor) -> Tensor:
        """Bits of symbols; -1 for holes."""
        code = tokens ^ (tokens >> 1) if self.gray else tokens
        bits = (code[:, field] >> place) & 1
        return torch.where(tokens[:, field] >= 0, bits, PINNED)

    def symbols(self, bits: Tensor) -> Tensor:
        """``(batch, num_cells)`` symbols that bits spell; pinned bits count as 0."""
        code = torch.zeros(len(bits), self.num_cells, dtype=torch.int64, device=bits.device)
        code = code.index_add(1, self._field, bits.clamp(min=0) << self._place)
        if self.gray:
            shift = 1
            while shift < MAX_BITS:
                code = code ^ (code >> shift)
                shift *= 2
        return code

    def meaningful(self, bits: Tensor) -> Tensor:
        """``(batch, num_cells)`` bool: the bits of the cell spell a symbol that exists."""
        return self.tokens.meaningful(self.symbols(bits))

    # ---- decoding -------------------------------------------------------------------------------------------------

    def decode(
        self, bits: Tensor, rows: Tensor, generator: torch.Generator, context: TableBatch | None = None
    ) -> TableBatch:
        """Raw rows of bits, numbers drawn within their bins; a code that stands for nothing becomes the nearest below.

        Args:
            bits: ``(batch, num_bits)`` 0 or 1.
            rows: ``(batch,)`` row numbers of the result.
            generator: Draws the position within a bin.
            context: Rows whose other cells are kept.
        """
        return self.tokens.decode(self.tokens.existing(self.symbols(bits)), rows, generator, context)


def _places(fields: Sequence[BitField]) -> tuple[Tensor, Tensor]:
    """Power of two of each bit (most significant first) and the cell it belongs to."""
    place = [width for field in fields for width in range(field.width - 1, -1, -1)]
    cell = [index for index, field in enumerate(fields) for _ in range(field.width)]
    return torch.tensor(place, dtype=torch.int64), torch.tensor(cell, dtype=torch.int64)
