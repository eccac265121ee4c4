"""The matrix codec: a row as one vector of numbers, for models that add Gaussian noise to it (trees)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from genzoo.codecs.base import Cells, Codec
from genzoo.codecs.column_plan import choices, grid_ends
from genzoo.codecs.vector import VectorCodec
from genzoo.errors import SchemaError
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Column, Schema

CodeChoice = Literal["auto", "one_hot", "bits"]
MOST_ONE_HOT = 8
"""With ``auto``, more categories than this are coded in bits: each column of the matrix costs trees at every level."""
MOST_CLASSES = 500
"""Classes of a label, at most."""
SCALE = 2.0
"""Length of a code: the noise of the last level (a standard deviation near 1) hides it, that of the first does not."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows of the matrix codec.

    Args:
        cells: The typed cells they stand for.
        values: ``(batch, width)`` float64; NaN for a hole, and for the absent number of a row on an atom.
        filler: ``(batch, width)`` bool: absent because of an atom. A model draws it from a known density, so that the
            absence does not give the indicator away.
        group: ``(batch,)`` int64 class of the row, by the codec's label; -1 where it is missing, 0 without a label.
    """

    cells: Cells
    values: Tensor
    filler: Tensor
    group: Tensor

    @property
    def rows(self) -> Tensor:
        return self.cells.rows

    @property
    def context(self) -> Tensor:
        return self.cells.context

    @property
    def log_volume(self) -> Tensor:
        return self.cells.log_volume

    @property
    def outside(self) -> Tensor:
        return self.cells.outside

    def __len__(self) -> int:
        return len(self.cells)

    def select(self, index: Tensor | slice) -> Rows:
        """The rows at ``index``."""
        return Rows(self.cells.select(index), self.values[index], self.filler[index], self.group[index])

    def to(self, device: torch.device | str) -> Rows:
        """The rows on another device."""
        cells = self.cells.each(lambda t: t.to(device))
        return Rows(cells, self.values.to(device), self.filler.to(device), self.group.to(device))

    def in_group(self, group: int | Tensor) -> Rows:
        """The same rows as members of one class, or of a class ``(batch,)`` each."""
        return replace(self, group=torch.zeros_like(self.group) + group)


@dataclass(frozen=True)
class Block:
    """Neighbouring columns of the matrix that stand for one slot.

    Args:
        kind: What the slot is.
        slot: Its index among the number slots or category slots of the codec.
        start: First column.
        width: Number of columns.
    """

    kind: Literal["number", "category"]
    slot: int
    start: int
    width: int

    @property
    def columns(self) -> slice:
        return slice(self.start, self.start + self.width)


class MatrixCodec(Codec):
    """Encodes rows as :class:`Rows`: scaled numbers as they are, categories as points.

    A number keeps the scaled value of :class:`~genzoo.codecs.vector.VectorCodec` (never clipped; on a grid the centre
    of its cell). Two categories are -1 and 1; more are one-hot vectors of length 2, or corners of a cube (``bits``).
    Whatever the code, the model's decoder gives every category a probability and nothing else, so no code is wasted.
    Atoms of a grid have no indicator where its scale is ``auto`` or ``cells``: it is ``cells`` then, which makes their
    cells as wide as they are frequent, and columns of the matrix are what trees cost. Other atoms keep theirs: those
    of columns without a grid or with another scale, beyond declared bounds, or beside missing cells that are values.

    Args:
        schema: Schema of the training view.
        scaler: As in :class:`~genzoo.codecs.vector.VectorCodec`; ``standardise`` gives z-scores.
        code: How categories of three values and more become numbers; ``auto`` takes bits above eight.
        box: Numbers are scaled once more, to [-1, 1] by their training range, and clipped to it when they are decoded:
            for samplers without a density.
        label: Name of a categorical column that has no columns in the matrix: its category is the row's ``group``.

    Raises:
        SchemaError: ``label`` is no categorical value column.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        schema: Schema,
        scaler: str | Mapping[str, str] | None = "auto",
        code: CodeChoice = "auto",
        label: str | None = None,
        box: bool = False,
    ) -> None:
        super().__init__(schema)
        self.typed = VectorCodec(*_atoms_in_cells(schema, scaler), widen_cells=True)
        self.box = box
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros(len(self.typed.numbers), dtype=torch.float64))
        self.label_slot = None if label is None else _label_slot(self.typed, schema, label)
        self.num_groups = 1 if self.label_slot is None else self.typed.categories[self.label_slot].num_categories
        blocks, start = [], 0
        for kind, slot in self.typed.order:
            if kind == "number":
                width = 1
            else:
                codes = category_codes(self.typed.categories[slot].num_categories, code)
                if slot == self.label_slot:
                    codes = codes[:, :0]
                width = codes.shape[1]
                self.register_buffer(f"codes_{slot}", codes, persistent=False)
            blocks.append(Block(kind, slot, start, width))
            start += width
        self.blocks = tuple(blocks)
        self.width = start
        self.number_column = [0] * len(self.typed.numbers)
        for block in self.blocks:
            if block.kind == "number":
                self.number_column[block.slot] = block.start

    @property
    def column_names(self) -> list[str]:
        """The table's column behind each column of the matrix."""
        names: list[str] = []
        for block in self.blocks:
            slots = self.typed.numbers if block.kind == "number" else self.typed.categories
            names += [slots[block.slot].column] * block.width
        return names

    @property
    def num_context(self) -> int:
        return self.typed.num_context

    def codes(self, slot: int) -> Tensor:
        """``(num_categories, width)`` the points of a category slot."""
        out: Tensor = getattr(self, f"codes_{slot}")
        return out

    def _fit(self, batch: TableBatch) -> None:
        self.typed.fit(batch)
        if self.box:
            cells = self.typed.encode(batch)
            for slot in range(len(self.typed.numbers)):
                seen = cells.number[cells.present[:, slot], slot]
                if len(seen):
                    self.low[slot], self.high[slot] = seen.min(), seen.max()

    def _boxed(self, number: Tensor) -> Tensor:
        """Numbers of the box, from scaled ones; a constant column is 0."""
        if not self.box:
            return number
        return (2 * number - self.low - self.high) / self._range

    @property
    def _range(self) -> Tensor:
        return torch.where(self.high > self.low, self.high - self.low, torch.ones_like(self.high))

    def encode(self, batch: TableBatch) -> Rows:
        """Rows of the matrix, holes as NaN."""
        cells = self.typed.encode(batch)
        values = cells.number.new_full((len(cells), self.width), torch.nan)
        number = self._boxed(cells.number)
        filler = torch.zeros_like(values, dtype=torch.bool)
        for block in self.blocks:
            if block.kind == "number":
                present = cells.present[:, block.slot]
                values[:, block.start] = torch.where(present, number[:, block.slot], torch.nan)
                filler[:, block.start] = ~present & ~cells.number_hole[:, block.slot]
            else:
                code = cells.category[:, block.slot]
                points = self.codes(block.slot)[code.clamp_min(0)] if block.width else values[:, block.columns]
                values[:, block.columns] = torch.where(code[:, None] >= 0, points, torch.nan)
        group = torch.zeros(len(cells), dtype=torch.int64, device=values.device)
        if self.label_slot is not None:
            group = cells.category[:, self.label_slot].clamp_min(-1)
        return Rows(cells, values, filler, group)

    def decode(self, values: Tensor, category: Tensor, rows: Tensor) -> TableBatch:
        """Raw rows of complete matrix rows; categories were chosen by the model's decoder.

        Args:
            values: ``(batch, width)`` float64; only columns of numbers are read.
            category: ``(batch, num_category_slots)`` int64.
            rows: ``(batch,)`` int64.
        """
        number = values[:, self.number_column]
        if self.box:
            number = (number.clamp(-1.0, 1.0) * self._range + self.low + self.high) / 2
        return self.typed.decode(number, category, rows)


def _atoms_in_cells(
    schema: Schema, scaler: str | Mapping[str, str] | None
) -> tuple[Schema, str | Mapping[str, str] | None]:
    """The schema without the atoms that are cells, and the scales that widen these."""
    named = choices(schema, scaler)
    cells = {
        column.name
        for column in schema.scored
        if column.kind == "quantized"
        and column.missing != "value"
        and named[column.name] in ("auto", "cells")
        and column.atoms
        and all(_inside(atom, column) for atom in column.atoms)
    }
    if not cells:
        return schema, scaler
    columns = tuple(replace(c, atoms=()) if c.name in cells else c for c in schema.columns)
    return replace(schema, columns=columns), {**named, **dict.fromkeys(cells, "cells")}


def _inside(atom: float, column: Column) -> bool:
    first, last = grid_ends(column)
    return first <= round((atom - column.origin) / (column.step or 1.0)) <= last


def _label_slot(typed: VectorCodec, schema: Schema, label: str) -> int:
    for slot, category in enumerate(typed.categories):
        if category.column == label and category.number is None and category.num_categories:
            if category.num_categories > MOST_CLASSES:
                raise SchemaError(
                    f"label '{label}' has {category.num_categories} classes, each with a Gaussian fit of its own, and "
                    f"at most {MOST_CLASSES} are taken; train without it, or name a column of fewer"
                )
            return slot
    column = next((c for c in schema.columns if c.name == label), None)
    names = [slot.column for slot in typed.categories if slot.number is None and slot.num_categories]
    if column is None:
        reason = "is no column of this table"
    elif not column.is_modelled or column.is_categorical:
        reason = f"has no classes to tell apart ({column.note or column.kind}, role {column.role})"
    elif not column.is_scored:
        reason = f"has role {column.role}, and is given instead of modelled"
    else:
        reason = f"is a number; declare it a category with --data.overrides '{{{label}: {{kind: categorical}}}}'"
    raise SchemaError(f"label '{label}' {reason}; categorical columns: {', '.join(names) or 'none'}")


def category_codes(num_categories: int, code: CodeChoice) -> Tensor:
    """``(num_categories, width)`` points, all different."""
    if num_categories <= 1:
        return torch.zeros(max(num_categories, 1), 0, dtype=torch.float64)
    if num_categories == 2:
        return torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    if code == "one_hot" or (code == "auto" and num_categories <= MOST_ONE_HOT):
        return SCALE * torch.eye(num_categories, dtype=torch.float64)
    width = math.ceil(math.log2(num_categories))
    bits = (torch.arange(num_categories)[:, None] >> torch.arange(width)) & 1
    return 2.0 * bits.to(torch.float64) - 1.0
