"""The vector codec: a row as typed cells, numbers on a standard scale beside categories, nothing drawn or lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from torch import Tensor

from genzoo.codecs.base import CategorySlot, Cells, Codec, NumberSlot
from genzoo.codecs.column_plan import choices, grid_ends, offsets, pool, scaler_of
from genzoo.codecs.scalers import Columns
from genzoo.codecs.spikes import frequent_points
from genzoo.tables.batch import HOLE, TableBatch
from genzoo.tables.schema import Column, Schema

FARTHEST_CONTEXT = 1e6
"""Standard units that no context feature exceeds."""


@dataclass(frozen=True)
class AtomCells:
    """Cells of the atoms of quantized columns, in model space; ``(num_numbers, max_atoms)`` each.

    On a grid, an atom's value has probability on both sides of the indicator: P(indicator = atom) and
    P(not an atom) P(its cell | not an atom). A model closes the gap in one of two ways, both exact:

    - add the second term to the score of an atom, and condition later columns on the value alone (as ``encode`` gives
      it), however it was drawn; or
    - keep the cells out of the continuum: divide the probability of every other cell by one minus the sum of those of
      the atoms, and redraw a sample that falls into one.

    A model that does neither reports a lower bound. For columns with a density the second term has measure zero.

    Attributes:
        lower: Lower edges; 0 where there is no cell.
        centre: Centres.
        upper: Upper edges; equal to ``lower`` where there is no cell, so that differences of a cdf vanish there.
        exists: The number slot is quantized and its atom with this index is a number that no earlier atom shares.
    """

    lower: Tensor
    centre: Tensor
    upper: Tensor
    exists: Tensor


class VectorCodec(Codec):
    """Encodes rows as :class:`~genzoo.codecs.base.Cells`, for flows, mixtures and autoregressive models.

    Scored numeric columns become number slots (a block: one per cell), scored categorical columns category slots; a
    column with atoms has both, the category slot being its indicator (``num_atoms`` atoms, then "not an atom"; with
    ``missing: value`` the missing cell is the last atom). Context columns become dense features: per number its scaled
    value (0 for a hole) and a hole flag, per category a one-hot vector and a hole flag; bounds are not applied there.

    ``log_volume`` holds ``log T'(x)`` of present numbers of continuous and mixed columns and 0 elsewhere: cells of
    quantized columns, atoms and categories are probabilities.

    Cells of a fine grid are narrow: their edges need float64 (or centre and width) to be told apart.

    Args:
        schema: Schema of the training view.
        scaler: ``auto``, or the name of one scaler for all numeric columns, or one per column name (the others are
            ``auto``); see :class:`~genzoo.codecs.scalers.ColumnScaler`. ``log`` and ``logit`` given for all columns
            apply where the declared bounds allow, ``auto`` elsewhere.
        num_knots: Most knots of a quantile scaler.
        num_spikes: Most values of a quantized column that become atoms beside the schema's, because training rows hold
            them more often than their neighbours on the grid (:func:`~genzoo.codecs.spikes.frequent_points`). The
            measure does not change: an atom on a grid is a cell. Unused places stay NaN, see ``possible``.
        widen_cells: ``auto`` may take ``cells`` for quantized columns, which widens frequent cells: for models that
            know a number by its place on the scale alone.

    Shapes: ``encode`` takes a batch of raw rows; fields of the result are ``(batch, num_numbers)``,
    ``(batch, num_category_slots)``, ``(batch, num_context)`` and ``(batch, num_scored)``.
    """

    every: Tensor
    source: Tensor
    code_source: Tensor
    code_slot: Tensor
    with_atoms: Tensor
    indicator: Tensor
    missing_atom: Tensor
    quantized_slot: Tensor
    context_source: Tensor
    context_column: Tensor
    step: Tensor
    origin: Tensor
    first: Tensor
    last: Tensor
    low: Tensor
    high: Tensor
    atoms: Tensor
    num_atoms: Tensor
    declared_atoms: Tensor
    slot_column: Tensor
    slot_scored: Tensor
    quantized: Tensor

    def __init__(
        self,
        schema: Schema,
        scaler: str | Mapping[str, str] | None = "auto",
        num_knots: int = 256,
        num_spikes: int = 0,
        widen_cells: bool = False,
    ) -> None:
        super().__init__(schema)
        self.num_spikes = num_spikes
        numbers: list[NumberSlot] = []
        categories: list[CategorySlot] = []
        order: list[tuple[Literal["category", "number"], int]] = []
        number_source = offsets(schema.numeric)
        category_source = offsets(schema.categorical)
        sources: list[int] = []
        code_sources: list[int] = []
        code_slots: list[int] = []
        slot_columns: list[Column] = []
        for scored, column in enumerate(schema.scored):
            for cell in range(column.width):
                if column.is_categorical:
                    code_sources.append(category_source[column.name] + cell)
                    code_slots.append(len(categories))
                    order.append(("category", len(categories)))
                    categories.append(CategorySlot(column.name, column.num_categories, None, scored))
                    continue
                indicator = None
                num_atoms = self._num_atoms_of(column)
                if num_atoms:
                    indicator = len(categories)
                    order.append(("category", indicator))
                    categories.append(CategorySlot(column.name, num_atoms + 1, len(numbers), scored))
                sources.append(number_source[column.name] + cell)
                slot_columns.append(column)
                order.append(("number", len(numbers)))
                numbers.append(NumberSlot(column.name, column.kind == "quantized", indicator, scored))
        self.numbers: tuple[NumberSlot, ...] = tuple(numbers)
        self.categories: tuple[CategorySlot, ...] = tuple(categories)
        self.order: tuple[tuple[Literal["category", "number"], int], ...] = tuple(order)
        self.num_scored = len(schema.scored)

        self._scored = tuple(c for c in schema.numeric if c.is_scored)
        self._context = tuple(c for c in schema.context if c.is_numeric)
        self._context_categories = tuple(c for c in schema.context if c.is_categorical)
        self.num_context = sum(2 * c.width for c in self._context) + sum(
            (c.num_categories + 1) * c.width for c in self._context_categories
        )
        chosen = choices(schema, scaler)
        self.scaler = scaler_of(self._scored, chosen, num_knots, bounded=True, cells=widen_cells)
        self.context_scaler = scaler_of(self._context, chosen, num_knots, bounded=False)

        self._constant("every", list(range(len(numbers))), torch.int64)
        self._constant("source", sources, torch.int64)
        self._constant("code_source", code_sources, torch.int64)
        self._constant("code_slot", code_slots, torch.int64)
        position = {column.name: index for index, column in enumerate(self._scored)}
        # As plain numbers too: a graph cannot branch on the values of a buffer.
        self._columns = tuple(position[c.name] for c in slot_columns)
        self._grid_columns = tuple(position[c.name] for c in slot_columns if c.kind == "quantized")
        self._constant("slot_column", list(self._columns), torch.int64)
        self._constant("slot_scored", [slot.scored for slot in numbers], torch.int64)
        self._constant("quantized", [slot.quantized for slot in numbers], torch.bool)
        self._constant("step", [c.step if c.kind == "quantized" and c.step else 1.0 for c in slot_columns])
        self._constant("origin", [c.origin if c.kind == "quantized" else 0.0 for c in slot_columns])
        grids = [grid_ends(c) for c in slot_columns]
        self._constant("first", [grid[0] for grid in grids])
        self._constant("last", [grid[1] for grid in grids])
        dense = [None if c.kind == "quantized" else c for c in slot_columns]
        self._constant("low", [-inf if c is None or c.lower is None else c.lower for c in dense])
        self._constant("high", [inf if c is None or c.upper is None else c.upper for c in dense])
        self._constant("with_atoms", [i for i, slot in enumerate(numbers) if slot.indicator is not None], torch.int64)
        self._constant("indicator", [s.indicator for s in numbers if s.indicator is not None], torch.int64)
        self._constant("num_atoms", [self._num_atoms_of(c) for c in slot_columns], torch.int64)
        self._constant("declared_atoms", [c.num_atoms for c in slot_columns], torch.int64)
        self._constant("missing_atom", [bool(c.missing == "value") for c in slot_columns], torch.bool)
        self._constant("quantized_slot", [i for i, slot in enumerate(numbers) if slot.quantized], torch.int64)
        most = max([self._num_atoms_of(c) for c in slot_columns], default=0)
        padded = [list(c.atoms) + [torch.nan] * (most - len(c.atoms)) for c in slot_columns]
        atoms = torch.tensor(padded, dtype=torch.float64).reshape(len(slot_columns), most)
        # By the arithmetic of encoding, so that a value and its atom are equal bit by bit.
        atoms = self._on_grid(atoms.T, self._index(atoms.T, self.every), self.every).T.contiguous()
        self.register_buffer("atoms", atoms, persistent=num_spikes > 0)
        context_source = [number_source[c.name] + i for c in self._context for i in range(c.width)]
        self._constant("context_source", context_source, torch.int64)
        self._context_columns = tuple(k for k, c in enumerate(self._context) for _ in range(c.width))
        self._constant("context_column", list(self._context_columns), torch.int64)
        self._context_codes = tuple(
            (category_source[c.name] + i, c.num_categories) for c in self._context_categories for i in range(c.width)
        )

    # --- fitting -----------------------------------------------------------------------------------------------------

    def _fit(self, batch: TableBatch) -> None:
        centre, atom, hole = self._read(batch)
        good = ~hole & (atom < 0) & ~self._beyond(centre)
        self.scaler.fit(
            [pool(centre[:, slots], good[:, slots]) for slots in self._slots_of(self.slot_column, len(self._scored))]
        )
        given = batch.numeric.to(torch.float64)[:, self.context_source]
        self.context_scaler.fit(
            [
                pool(given[:, slots], ~given[:, slots].isnan())
                for slots in self._slots_of(self.context_column, len(self._context))
            ]
        )

        if self.num_spikes:
            self._fit_spikes(centre, good)

    def _fit_spikes(self, centre: Tensor, good: Tensor) -> None:
        for slots in self._slots_of(self.slot_column, len(self._scored)):
            if not len(slots) or not bool(self.quantized[slots[0]]):
                continue
            index = self._index(centre[:, slots], slots)[good[:, slots]]
            spikes = frequent_points(index.cpu(), self.num_spikes).to(centre)
            for slot in slots.tolist():
                place = slice(int(self.declared_atoms[slot]), int(self.declared_atoms[slot]) + len(spikes))
                self.atoms[slot, place] = self.origin[slot] + spikes * self.step[slot]

    def possible(self) -> Tensor:
        """``(total of num_categories,)`` bool: values of all category slots that can occur.

        Not the unused places of spikes, nor an atom on the same cell as an earlier one.
        """
        found = [torch.ones(slot.num_categories, dtype=torch.bool) for slot in self.categories]
        for number in self.with_atoms.tolist():
            indicator = self.numbers[number].indicator
            declared, last = int(self.declared_atoms[number]), int(self.num_atoms[number])
            if indicator is not None:
                found[indicator][declared:last] = ~self.atoms[number, declared:last].isnan().cpu()
                values = self.atoms[number, :last].cpu()
                found[indicator][:last] &= ~(values[:, None] == values).tril(-1).any(1)  # encoding finds the first
        return torch.cat(found) if found else torch.ones(0, dtype=torch.bool)

    # --- encoding ----------------------------------------------------------------------------------------------------

    def encode(self, batch: TableBatch) -> Cells:
        """Typed cells of raw rows; a value beyond declared bounds marks its row ``outside`` and is replaced."""
        centre, atom, hole = self._read(batch)
        number_hole = hole & (atom < 0)
        beyond = ~hole & (atom < 0) & self._beyond(centre)
        present = ~hole & (atom < 0)
        x = torch.where(present & ~beyond, centre, self._anchor())
        z, log_slope = self.scaler(x, self._columns)
        number = torch.where(present, z, torch.zeros_like(z))
        lower, upper = number, number
        if len(self.quantized_slot):
            slots = self.quantized_slot
            edge_lower, edge_upper = self._edges(x[:, slots], slots, self._grid_columns)
            here = present[:, slots]
            # An absent cell gets a harmless one, so that a model may evaluate it and mask the result.
            lower = lower.index_copy(1, slots, torch.where(here, edge_lower, -torch.ones_like(edge_lower)))
            upper = upper.index_copy(1, slots, torch.where(here, edge_upper, torch.ones_like(edge_upper)))
        volume = torch.where(present & ~self.quantized, log_slope, torch.zeros_like(log_slope))
        log_volume = volume.new_zeros(volume.shape[0], self.num_scored).index_add(1, self.slot_scored, volume)
        return Cells(
            rows=batch.rows,
            number=number,
            lower=lower,
            upper=upper,
            present=present,
            category=self._categories(batch, atom, hole),
            number_hole=number_hole,
            context=self.context_features(batch),
            log_volume=log_volume,
            outside=beyond.any(1),
            weight=batch.weights,
        )

    def context_features(self, batch: TableBatch) -> Tensor:
        """``(batch, num_context)`` float32 features of context columns; holes are flagged, unseen reads as a hole."""
        x = batch.numeric.to(torch.float64)[:, self.context_source]
        hole = x.isnan()
        anchor = self.context_scaler.anchor[self.context_column]
        z, _ = self.context_scaler(torch.where(hole, anchor, x), self._context_columns)
        # Bends off at a million, so that no context overflows a network; nothing is scored here.
        z = z / torch.hypot(torch.ones_like(z), z / FARTHEST_CONTEXT)
        parts = [torch.stack([torch.where(hole, torch.zeros_like(z), z), hole.to(z)], -1).flatten(1).float()]
        for source, num_categories in self._context_codes:
            code = batch.codes[:, source]
            wide = torch.where(code < 0, num_categories, code)
            parts.append(torch.nn.functional.one_hot(wide, num_categories + 1).float())
        return torch.cat(parts, 1)

    # --- decoding ----------------------------------------------------------------------------------------------------

    def decode(self, number: Tensor, category: Tensor, rows: Tensor, context: TableBatch | None = None) -> TableBatch:
        """Raw values of model-space cells.

        Args:
            number: ``(batch, num_numbers)``; NaN stays a hole. Ignored where an indicator names an atom.
            category: ``(batch, num_category_slots)`` int64; -1 stays a hole.
            rows: ``(batch,)`` int64 row numbers of the result.
            context: Rows whose context columns are copied; without it these are holes.
        """
        x = self.raw(number)
        if len(self.with_atoms):
            slots = self.with_atoms
            flag = category[:, self.indicator]
            is_atom = (flag >= 0) & (flag < self.num_atoms[slots])
            table = self.atoms[slots].expand(len(x), -1, -1)
            value = table.gather(2, flag.clamp(0, table.shape[2] - 1)[..., None])[..., 0]
            value = torch.where(is_atom, value, torch.where(flag < 0, torch.nan, x[:, slots]))
            x = x.index_copy(1, slots, value)
        num_numeric = sum(c.width for c in self.schema.numeric)
        num_codes = sum(c.width for c in self.schema.categorical)
        if context is None:
            numeric = x.new_full((len(x), num_numeric), torch.nan)
            codes = category.new_full((len(x), num_codes), HOLE)
        else:
            numeric, codes = context.numeric.to(x).clone(), context.codes.to(category).clone()
        numeric[:, self.source] = x
        codes[:, self.code_source] = category[:, self.code_slot]
        return TableBatch(numeric, codes, rows)

    @property
    def bends(self) -> Tensor:
        """``(num_numbers,)`` :attr:`~genzoo.codecs.scalers.ColumnScaler.bends` of every number slot."""
        return self.scaler.bends[self.slot_column]

    def raw(self, number: Tensor, slots: Tensor | None = None) -> Tensor:
        """Raw values of model-space numbers, quantized ones on their grid; ``(batch, len(slots))`` float64."""
        slots = self.every if slots is None else slots
        x = self.scaler.inverse(number.to(torch.float64), self.slot_column[slots])
        # Beyond float64 a draw keeps its sign and stays finite.
        x = torch.where(x.isinf(), torch.finfo(torch.float64).max / 4 * x.sign(), x)
        index = torch.minimum(torch.maximum(self._index(x, slots), self.first[slots]), self.last[slots])
        return self._on_grid(x, index, slots)

    def snap(self, number: Tensor, slots: Tensor | None = None) -> Tensor:
        """Model-space numbers, those of quantized slots moved to the centre of their cell.

        Args:
            number: ``(batch, len(slots))``, any float type; the result is float64.
            slots: Indices of number slots, ``None`` for all.
        """
        slots = self.every if slots is None else slots
        centre = self.scaler(self.raw(number, slots), self.slot_column[slots])[0]
        return torch.where(self.quantized[slots], centre, number.to(torch.float64))

    def cell(self, number: Tensor, slots: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Lower edge, centre and upper edge of the cell that holds each number, in model space, float64.

        All three are the number itself for a slot with a density. Arguments as in :meth:`snap`.
        """
        slots = self.every if slots is None else slots
        x = self.raw(number, slots)
        centre = self.scaler(x, self.slot_column[slots])[0]
        lower, upper = self._edges(x, slots, self.slot_column[slots])
        number, quantized = number.to(torch.float64), self.quantized[slots]
        return (
            torch.where(quantized, lower, number),
            torch.where(quantized, centre, number),
            torch.where(quantized, upper, number),
        )

    def atom_cells(self) -> AtomCells:
        """Model-space cells of the atoms of quantized columns, see :class:`AtomCells`."""
        atoms = self.atoms.T  # (max_atoms, num_numbers)
        exists = self.quantized & ~atoms.isnan() & ~self._beyond(atoms)
        for later in range(1, len(atoms)):
            exists[later] &= ~(atoms[later] == atoms[:later]).any(0)
        x = torch.where(exists, atoms, self._anchor())
        lower, upper = self._edges(x, self.every, self._columns)
        centre = self.scaler(x, self.slot_column)[0]
        zero = torch.zeros_like(centre)
        lower, centre, upper = (torch.where(exists, part, zero).T for part in (lower, centre, upper))
        return AtomCells(lower, centre, upper, exists.T)

    def _num_atoms_of(self, column: Column) -> int:
        return column.num_atoms + (self.num_spikes if column.kind == "quantized" else 0)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _read(self, batch: TableBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Values on the grid, index of the atom (-1 without), and hole, of every number slot."""
        x = batch.numeric.to(torch.float64)[:, self.source]
        hole = x.isnan()
        centre = self._on_grid(x, self._index(x, self.every), self.every)
        atom = torch.full_like(x, -1, dtype=torch.int64)
        if len(self.with_atoms):
            slots = self.with_atoms
            same = centre[:, slots, None] == self.atoms[slots]
            index = torch.where(same.any(2), same.to(torch.int8).argmax(2), -1)
            index = torch.where(hole[:, slots] & self.missing_atom[slots], self.declared_atoms[slots] - 1, index)
            atom = atom.index_copy(1, slots, index)
        return centre, atom, hole

    def _categories(self, batch: TableBatch, atom: Tensor, hole: Tensor) -> Tensor:
        category = batch.codes.new_full((batch.codes.shape[0], len(self.categories)), HOLE)
        category[:, self.code_slot] = batch.codes[:, self.code_source].clamp(min=HOLE)
        if len(self.with_atoms):
            slots = self.with_atoms
            none = torch.where(hole[:, slots], HOLE, self.num_atoms[slots])
            category[:, self.indicator] = torch.where(atom[:, slots] >= 0, atom[:, slots], none)
        return category

    def _index(self, x: Tensor, slots: Tensor) -> Tensor:
        """Number of the nearest grid point (of no use for slots that are not quantized)."""
        return ((x - self.origin[slots]) / self.step[slots]).round()

    def _on_grid(self, x: Tensor, index: Tensor, slots: Tensor) -> Tensor:
        """Values of quantized slots at grid points ``index``, the others unchanged."""
        return torch.where(self.quantized[slots], self.origin[slots] + index * self.step[slots], x)

    def _beyond(self, x: Tensor) -> Tensor:
        index = self._index(x, self.every)
        off_grid = self.quantized & ((index < self.first) | (index > self.last))
        return off_grid | (x < self.low) | (x > self.high)

    def _anchor(self) -> Tensor:
        """``(num_numbers,)`` a value inside the support of every slot."""
        x = self.scaler.anchor[self.slot_column]
        index = torch.minimum(torch.maximum(self._index(x, self.every), self.first), self.last)
        return self._on_grid(x, index, self.every)

    def _edges(self, x: Tensor, slots: Tensor, column: Columns) -> tuple[Tensor, Tensor]:
        """Model-space edges of the cells with centres ``x``; neighbours share theirs bit by bit."""
        step, origin = self.step[slots], self.origin[slots]
        index = self._index(x, slots)
        lower = self.scaler(origin + (index - 0.5) * step, column)[0]
        upper = self.scaler(origin + (index + 0.5) * step, column)[0]
        # Where float64 cannot tell the edges apart any more (10^15 steps out), the cell stays a cell.
        flat = upper <= lower
        lower = torch.where(flat, torch.nextafter(lower, torch.full_like(lower, -inf)), lower)
        upper = torch.where(flat, torch.nextafter(upper, torch.full_like(upper, inf)), upper)
        lower = torch.where(index <= self.first[slots], -inf, lower)
        return lower, torch.where(index >= self.last[slots], inf, upper)

    def _constant(self, name: str, values: list, dtype: torch.dtype = torch.float64) -> None:  # type: ignore[type-arg]
        """A buffer that the schema fixes: it moves with the module and is rebuilt, not stored."""
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    @staticmethod
    def _slots_of(column_of: Tensor, count: int) -> list[Tensor]:
        return [(column_of == index).nonzero()[:, 0] for index in range(count)]
