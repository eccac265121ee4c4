"""Rows with the group each belongs to and, perhaps, its label: what fair representations read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genzoo.codecs.base import Codec
from genzoo.errors import CapabilityError, DataError
from genzoo.tables.batch import HOLE, TableBatch
from genzoo.tables.schema import Column, Schema


@dataclass(frozen=True)
class GroupedRows:
    """Raw rows with group and label.

    Args:
        batch: The rows, unseen categories as holes.
        group: ``(batch,)`` int64; -1 is not known.
        label: ``(batch,)`` int64; -1 is not known. Zero for tables without an outcome column.
        context: ``(batch, num_groups)`` float32 one-hot group.
        log_volume: ``(batch, num_scored)`` zeros: densities below include theirs.
        outside: ``(batch,)`` False, likewise.
    """

    batch: TableBatch
    group: Tensor
    label: Tensor
    context: Tensor
    log_volume: Tensor
    outside: Tensor

    @property
    def rows(self) -> Tensor:
        return self.batch.rows

    def __len__(self) -> int:
        return len(self.batch)


class GroupCodec(Codec):
    """Reads group and label of a row; counts both over training rows.

    Several sensitive columns make one group of each combination of their categories.

    Args:
        schema: The table's schema with its roles.
        num_scored: Number of columns that the model scores.
        fewest: Fewest training rows of a group.
        open_groups: Rows need not say their group: :meth:`encode` gives -1, and the model sums over groups.

    Raises:
        CapabilityError: a sensitive or outcome column is a number, or there are two outcome columns.
    """

    counts: Tensor
    label_counts: Tensor

    def __init__(self, schema: Schema, num_scored: int, fewest: int = 20, open_groups: bool = False) -> None:
        super().__init__(schema)
        self.open_groups = open_groups
        self.sensitive = _of_role(schema, "sensitive")
        outcomes = _of_role(schema, "outcome")
        if len(outcomes) > 1:
            raise CapabilityError(
                f"FairFlow predicts one outcome, and '{outcomes[0].name}' and '{outcomes[1].name}' have that role; "
                "ignore one of them"
            )
        self.outcome = outcomes[0] if outcomes else None
        self.num_scored = num_scored
        self.fewest = fewest
        self._group_places = _code_places(schema, self.sensitive)
        self._label_place = _code_places(schema, outcomes)[0] if outcomes else None
        self.num_groups = 1
        for column in self.sensitive:
            self.num_groups *= column.num_categories
        if self.num_groups < 2:
            raise CapabilityError(
                f"FairFlow compares groups, and sensitive column '{self.sensitive[0].name}' has one category"
            )
        self.num_labels = self.outcome.num_categories if self.outcome else 1
        self.register_buffer("counts", torch.zeros(self.num_groups, dtype=torch.float64))
        self.register_buffer("label_counts", torch.zeros(self.num_groups, self.num_labels, dtype=torch.float64))

    def group_names(self) -> list[str]:
        """Each group in words: ``sex=Female`` or ``sex=Female, race=Black``."""
        names = [""]
        for column in self.sensitive:
            values = [*column.categories, *(["missing"] if column.missing == "value" else [])]
            names = [f"{name}, {column.name}={v}" if name else f"{column.name}={v}" for name in names for v in values]
        return names

    def label_names(self) -> list[str]:
        """The categories of the outcome."""
        if self.outcome is None:
            return []
        return [*self.outcome.categories, *(["missing"] if self.outcome.missing == "value" else [])]

    def log_group(self) -> Tensor:
        """``(num_groups,)`` log of the share of each group among training rows (one row more for each)."""
        return ((self.counts + 1) / (self.counts + 1).sum()).log()

    def log_label(self) -> Tensor:
        """``(num_groups, num_labels)`` log P(label | group), one row more for each."""
        return ((self.label_counts + 1) / (self.label_counts + 1).sum(1, keepdim=True)).log()

    def possible_groups(self, batch: TableBatch) -> Tensor:
        """``(batch, num_groups)`` bool: groups that agree with what the row says of its sensitive columns."""
        possible = torch.ones(len(batch), self.num_groups, dtype=torch.bool, device=batch.codes.device)
        every = torch.arange(self.num_groups, device=possible.device)
        later = self.num_groups
        for column, place in zip(self.sensitive, self._group_places, strict=True):
            later //= column.num_categories
            code = batch.codes[:, place, None]
            possible &= (code < 0) | (every // later % column.num_categories == code)
        return possible

    def groups_of(self, batch: TableBatch, known: bool = True) -> Tensor:
        """``(batch,)`` group of each row; without ``known``, -1 where a sensitive column is missing.

        Raises:
            DataError: a row does not say its group, or names one that training rows did not hold.
        """
        group = torch.zeros(len(batch), dtype=torch.int64, device=batch.codes.device)
        missing = torch.zeros(len(batch), dtype=torch.bool, device=group.device)
        for column, place in zip(self.sensitive, self._group_places, strict=True):
            code = batch.codes[:, place]
            missing |= code < 0
            if known and bool((code < 0).any()):
                raise DataError(
                    f"sensitive column '{column.name}' is missing, or new, in {int((code < 0).sum())} of {len(code)} "
                    "rows, and FairFlow needs the group of every row; leave such rows out"
                )
            group = group * column.num_categories + code.clamp(min=0)
        return torch.where(missing, -1, group)

    def with_groups(self, batch: TableBatch, group: Tensor) -> TableBatch:
        """The rows with the sensitive columns of ``group``."""
        codes, rest = batch.codes.clone(), group
        for column, place in reversed(list(zip(self.sensitive, self._group_places, strict=True))):
            codes[:, place] = rest % column.num_categories
            rest = rest // column.num_categories
        return batch.with_values(codes=codes)

    def with_labels(self, batch: TableBatch, label: Tensor) -> TableBatch:
        """The rows with ``label`` in the outcome column."""
        if self._label_place is None:
            return batch
        codes = batch.codes.clone()
        codes[:, self._label_place] = label
        return batch.with_values(codes=codes)

    def labels_of(self, batch: TableBatch) -> Tensor:
        """``(batch,)`` label of each row, -1 where it is not known."""
        if self._label_place is None:
            return torch.zeros(len(batch), dtype=torch.int64, device=batch.codes.device)
        return batch.codes[:, self._label_place].clamp(min=HOLE)

    def _fit(self, batch: TableBatch) -> None:
        group, label = self.groups_of(batch, known=not self.open_groups), self.labels_of(batch)
        group, label = group[group >= 0], label[group >= 0]
        self.counts.copy_(torch.bincount(group, minlength=self.num_groups))
        small = int(self.counts.argmin())
        if self.counts[small] < self.fewest:
            raise DataError(
                f"group '{self.group_names()[small]}' has {int(self.counts[small])} training rows, and its density "
                f"needs {self.fewest} at the least; merge groups, or leave this one out"
            )
        known = label >= 0
        flat = torch.bincount((group * self.num_labels + label)[known], minlength=self.label_counts.numel())
        self.label_counts.copy_(flat.reshape_as(self.label_counts))

    def encode(self, batch: TableBatch) -> GroupedRows:
        group = self.groups_of(batch, known=not self.open_groups)
        zeros = torch.zeros(len(batch), self.num_scored, dtype=torch.float64, device=batch.codes.device)
        return GroupedRows(
            batch=batch,
            group=group,
            label=self.labels_of(batch),
            context=torch.nn.functional.one_hot(group.clamp(min=0), self.num_groups).float(),
            log_volume=zeros,
            outside=torch.zeros(len(batch), dtype=torch.bool, device=batch.codes.device),
        )


def _of_role(schema: Schema, role: str) -> list[Column]:
    found = [c for c in schema.columns if c.role == role and c.is_modelled]
    for column in found:
        if not column.is_categorical or column.width != 1:
            raise CapabilityError(
                f"the {role} column '{column.name}' is {column.kind}, and FairFlow takes categories there; "
                "cut it into classes, or declare kind: categorical in the schema"
            )
    return found


def _code_places(schema: Schema, columns: Sequence[Column]) -> list[int]:
    places, start = {}, 0
    for column in schema.categorical:
        places[column.name] = start
        start += column.width
    return [places[column.name] for column in columns]
