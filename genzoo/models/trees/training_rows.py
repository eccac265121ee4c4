"""Training rows of a forest in blocks, in the order of the file: from memory, or from a table that streams."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from genzoo.codecs.matrix import MatrixCodec, Rows
from genzoo.models.scoring import split_unseen
from genzoo.models.trees.latent_classes import LatentClasses
from genzoo.tables.schema import Schema


class RowStream:
    """Encoded training rows of a streamed table, read anew each time. Can travel to another process.

    Args:
        groups: Raw rows, some at a time (:class:`genzoo.datamodules.streamed.RowGroups`).
        codec: The fitted codec.
        schema: The training schema.
        group: Only rows of this class; ``None`` takes every row whose class is known.
        latent: Classes that no column names.
    """

    def __init__(
        self,
        groups: Any,
        codec: MatrixCodec,
        schema: Schema,
        group: int | None = None,
        latent: LatentClasses | None = None,
    ) -> None:
        self.groups, self.codec, self.schema, self.group, self.latent = groups, codec, schema, group, latent

    def of_group(self, group: int) -> RowStream:
        """The rows of one class."""
        return RowStream(self.groups, self.codec, self.schema, group, self.latent)

    def blocks(self, size: int) -> Iterator[Rows]:
        """All rows, ``size`` at a time (the last block may have fewer), whatever the row groups of the file."""
        waiting: list[Rows] = []
        for data in copy.copy(self.groups):  # a file handle of its own: several threads read
            waiting.append(self._encoded(data.batch()))
            while sum(map(len, waiting)) >= size:
                rows = joined_rows(waiting)
                yield rows.select(slice(0, size))
                waiting = [rows.select(slice(size, None))]
        if sum(map(len, waiting)):
            yield joined_rows(waiting)

    def _encoded(self, batch: Any) -> Rows:
        device = next(self.codec.buffers()).device
        rows = self.codec.encode(split_unseen(batch.to(device), self.schema).batch)
        rows = rows.select((~rows.outside).nonzero().flatten()).to("cpu")
        return members(rows if self.latent is None else self.latent.assigned(rows), self.group)


@dataclass(frozen=True)
class TrainingRows:
    """Training rows of a forest.

    Args:
        sample: Rows in memory: all of them, or those that a streamed table keeps for fitting.
        total: Number of training rows in all (where they stream, about).
        stream: Where all rows come from, if they are not in memory.
    """

    sample: Rows
    total: int
    stream: RowStream | None = None

    def __len__(self) -> int:
        return len(self.sample)

    def of_group(self, group: int | None) -> TrainingRows:
        """Rows of one class; ``None`` takes every row whose class is known."""
        sample = members(self.sample, group)
        total = round(self.total * len(sample) / max(len(self.sample), 1))
        stream = self.stream if group is None or self.stream is None else self.stream.of_group(group)
        return replace(self, sample=sample, total=total, stream=stream)

    def in_classes(self, latent: LatentClasses) -> TrainingRows:
        """The rows as members of classes that no column names."""
        stream = self.stream
        if stream is not None:
            stream = RowStream(stream.groups, stream.codec, stream.schema, stream.group, latent)
        return replace(self, sample=latent.assigned(self.sample), stream=stream)

    def blocks(self, size: int) -> Iterator[Rows]:
        """All rows, ``size`` at a time, in the order of the file."""
        if self.stream is not None:
            yield from self.stream.blocks(size)
            return
        for start in range(0, len(self.sample), size):
            yield self.sample.select(slice(start, start + size))


def members(rows: Rows, group: int | None) -> Rows:
    """Rows of one class; ``None`` takes every row whose class is known."""
    return rows.select((rows.group >= 0 if group is None else rows.group == group).nonzero().flatten())


def joined_rows(parts: list[Any]) -> Any:
    """One after the other, of equal dataclasses of tensors (or of such dataclasses)."""
    if len(parts) == 1:
        return parts[0]
    if parts[0] is None:
        return None
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(**{name: joined_rows([getattr(part, name) for part in parts]) for name in names})
