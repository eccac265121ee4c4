"""In which order an autoregressive density reads the cells of a row, and what its networks see of them.

Discrete slots come first (categories; indicators of atoms directly before the number they govern; numbers on a grid),
the pure continuous numbers are the last block. Before that block every transform of the flow uses one and the same
order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genzoo.codecs.base import CategorySlot, NumberSlot

NUMBER_FEATURES = 2
ONE_HOT_UP_TO = 64
EMBEDDING_WIDTH = 16


class SlotLayout:
    """Positions of the slots, and the inner order of the numbers: those on a grid first, then the continuous ones.

    Args:
        numbers: Number slots of the codec.
        categories: Category slots of the codec.

    Attributes:
        discrete: ``("category" | "number", slot)`` in order; slots are the codec's indices.
        inner: Inner order of the numbers: ``inner[k]`` is the codec's index of inner number ``k``.
        num_quantized: The first so many inner numbers are on a grid.
        category_position: Position of each category slot.
        category_degree: First position that sees each category slot.
        number_position: Position of each inner number; the continuous block is in table order here.
        first_continuous: Position of the first continuous number.
    """

    def __init__(self, numbers: Sequence[NumberSlot], categories: Sequence[CategorySlot]) -> None:
        order: list[tuple[tuple[int, int, int], tuple[str, int]]] = []
        seen: dict[int, int] = {}
        for index, number in enumerate(numbers):
            cell = seen.setdefault(number.scored, 0)
            seen[number.scored] += 1
            if number.indicator is not None:
                order.append(((number.scored, cell, 0), ("category", number.indicator)))
            if number.quantized:
                order.append(((number.scored, cell, 1), ("number", index)))
        governed = {number.indicator for number in numbers if number.indicator is not None}
        for index, category in enumerate(categories):
            if index not in governed:
                order.append(((category.scored, index, 0), ("category", index)))
        self.discrete = [slot for _, slot in sorted(order)]
        quantized = [slot for kind, slot in self.discrete if kind == "number"]
        self.inner = quantized + [index for index, number in enumerate(numbers) if not number.quantized]
        self.num_quantized = len(quantized)
        self.num_continuous = len(numbers) - len(quantized)
        place = {slot: position for position, slot in enumerate(self.discrete)}
        self.first_continuous = len(self.discrete)
        self.num_positions = self.first_continuous + self.num_continuous
        self.category_position = [place["category", index] for index in range(len(categories))]
        self.number_position = [place["number", index] for index in quantized]
        self.number_position += range(self.first_continuous, self.num_positions)
        # The number that an indicator governs exists only beside "not an atom", so it need not see it; and on a grid
        # it must not: the continuum's mass on the cell of an atom is asked for on rows where the indicator says atom.
        hidden_until = {numbers[slot].indicator: place["number", slot] for slot in quantized}
        self.category_degree = [
            hidden_until.get(index, position) + 1 for index, position in enumerate(self.category_position)
        ]
        self.inner_indicator = [numbers[index].indicator for index in self.inner]

    def positions(self, block_order: Sequence[int] | None = None) -> list[int]:
        """Position of each inner number when the continuous block is read in ``block_order``."""
        if block_order is None:
            return self.number_position
        place = {number: self.first_continuous + rank for rank, number in enumerate(block_order)}
        return self.number_position[: self.num_quantized] + [place[k] for k in range(self.num_continuous)]


class CellFeatures(nn.Module):
    """What a conditioner sees of a row besides the numbers: categories, flags of holes, context.

    Small categories are one-hot (a hole: all zeros), larger ones an embedding. The pattern of holes is given, so its
    flags have degree 0: every slot may see all of them.

    Args:
        layout: Positions of the slots.
        num_categories: Size of each category slot.
        num_context: Context features.
    """

    offset: Tensor
    small: Tensor

    def __init__(self, layout: SlotLayout, num_categories: Sequence[int], num_context: int) -> None:
        super().__init__()
        small = [c for c, size in enumerate(num_categories) if size <= ONE_HOT_UP_TO]
        self.large = [c for c, size in enumerate(num_categories) if size > ONE_HOT_UP_TO]
        self.hole_codes = [num_categories[c] for c in self.large]
        offset: list[int] = []
        degrees: list[int] = []
        for c in small:
            offset.append(len(degrees))
            degrees += [layout.category_degree[c]] * num_categories[c]
        self.num_one_hot = len(degrees)
        # One more row than categories: the last one, fixed at zero, is a hole.
        self.embeddings = nn.ModuleList(
            nn.Embedding(num_categories[c] + 1, EMBEDDING_WIDTH, padding_idx=num_categories[c]) for c in self.large
        )
        for c in self.large:
            degrees += [layout.category_degree[c]] * EMBEDDING_WIDTH
        num_flags = len(num_categories) + len(layout.inner)
        degrees += [0] * (num_flags + num_context)
        self.flags = slice(len(degrees) - num_flags - num_context, len(degrees) - num_context)
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.int64), persistent=False)
        self.register_buffer("small", torch.tensor(small, dtype=torch.int64), persistent=False)
        self.degrees = degrees

    def forward(self, category: Tensor, number_hole: Tensor, category_hole: Tensor, context: Tensor) -> Tensor:
        """``(batch, slots)`` codes and flags to ``(batch, len(degrees))``; a code of -1 has no features."""
        dtype = context.dtype
        parts = []
        if self.num_one_hot:
            codes = category[:, self.small]
            one_hot = torch.zeros(category.shape[0], self.num_one_hot + 1, dtype=dtype, device=category.device)
            parts.append(
                one_hot.scatter_(1, torch.where(codes >= 0, codes + self.offset, self.num_one_hot), 1.0)[:, :-1]
            )
        for c, hole, embedding in zip(self.large, self.hole_codes, self.embeddings, strict=True):
            codes = category[:, c]
            parts.append(embedding(torch.where(codes >= 0, codes, hole)))
        parts += [category_hole.to(dtype), number_hole.to(dtype), context]
        return torch.cat(parts, -1)


def number_features(y: Tensor, present: Tensor) -> Tensor:
    """Two views of each number, zero where it is absent: ``(n, batch)`` twice to ``(batch, 2 n)``.

    An outlier must not explode what comes after it: one view grows like a logarithm, the other tells the middle apart.
    """
    y = torch.where(present, y, 0.0)
    return torch.cat([y.abs().log1p().copysign(y), (2 * y).tanh()]).t()
