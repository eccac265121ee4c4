"""A Parquet table larger than memory: training rows stream by row group, held-out rows stay in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genzoo.datamodules.base import SPLITS, Split, TableDataModule, require_weights
from genzoo.datamodules.loader import EpochOrder, RowStore
from genzoo.datamodules.splits import check_fractions, row_keys
from genzoo.errors import DataError
from genzoo.likelihood.noise import seed_of
from genzoo.tables.schema import Role, Schema

if TYPE_CHECKING:
    from genzoo.tables.batch import TableBatch
    from genzoo.tables.encode import TableData


class RowGroupLoader:
    """Training batches from row groups, in an order that is a function of (seed, epoch).

    Row groups come in random order; as many as hold ``buffer_rows`` rows are read, shuffled together and handed out,
    then the next. Several devices read the same stream and share out each global batch, so all take equally many steps.

    Args:
        read: Encoded training rows of a row group.
        num_groups: Row groups of the file.
        num_rows: Training rows of the file.
        batch_size: Rows a step and device.
        buffer_rows: Rows shuffled together; more is more random and takes more memory.
        seed: Seed of the order.
        drop_last: Leave out the incomplete last batch.
        rank: This device.
        world_size: Number of devices.
        pin_memory: Page-locked batches.
    """

    batch_sampler = None

    def __init__(
        self,
        read: Callable[[int], TableData],
        num_groups: int,
        num_rows: int,
        batch_size: int,
        *,
        buffer_rows: int,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.read, self.num_groups, self.buffer_rows, self.pin_memory = read, num_groups, buffer_rows, pin_memory
        self.batch_size = batch_size
        self.sampler = EpochOrder(
            num_rows, batch_size, shuffle=True, seed=seed, drop_last=drop_last, rank=rank, world_size=world_size
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[TableBatch]:
        order = self.sampler
        stride = order.batch_size * order.world_size
        left = len(order)
        pool: TableData | None = None
        for pool, last in self._pools():
            store = RowStore(pool, pin_memory=self.pin_memory)
            steps = min(left, -(-len(pool) // stride) if last else len(pool) // stride)
            for step in range(steps):
                first, end = step * stride + order.rank, min((step + 1) * stride, len(pool))
                yield store.take(slice(first, end, order.world_size))
            left -= steps

    def _pools(self) -> Iterator[tuple[TableData, bool]]:
        """Shuffled rows, about ``buffer_rows`` at a time, and whether they are the last.

        Rows that do not fill a global batch go over to the next pool.
        """
        rng = np.random.default_rng(seed_of(self.sampler.seed, "order", self.sampler.epoch))
        stride = self.sampler.batch_size * self.sampler.world_size
        parts: list[TableData] = []
        groups = rng.permutation(self.num_groups).tolist()
        for place, group in enumerate(groups):
            parts.append(self.read(group))
            last = place == len(groups) - 1
            if last or sum(map(len, parts)) >= max(self.buffer_rows, stride):
                pool = joined(parts)
                pool = pool.select(rng.permutation(len(pool)))
                yield pool, last
                rest = len(pool) % stride
                parts = [pool.select(slice(len(pool) - rest, None))] if rest else []


class RowGroups:
    """Training rows of a streamed table by row group, for those who read all of them several times.

    Can travel to another process; each copy opens the file for itself, so several threads read through copies.

    Args:
        table: The table.
    """

    def __init__(self, table: StreamedTable) -> None:
        schema = table.schema
        table = copy.copy(table)
        # neither the Trainer nor rows in memory travel along
        table.__dict__ |= {"trainer": None, "_splits": None, "_masks": {}}
        self._table, self._schema = table, schema
        self.num_rows = table.num_training_rows

    def __copy__(self) -> RowGroups:
        made = object.__new__(RowGroups)
        made.__dict__ |= self.__dict__ | {"_table": copy.copy(self._table)}
        return made

    def __len__(self) -> int:
        return self._table.num_groups

    def __getitem__(self, group: int) -> TableData:
        if not 0 <= group < len(self):
            raise IndexError(f"row group {group} of {len(self)}")
        return self._table.encode_group(group, self._schema).select(self._table.labels(group) == 0)


class StreamedTable(TableDataModule):
    """A Parquet file that does not fit in memory.

    One pass reads what training rows decide (vocabularies, their number) and keeps the held-out rows, and a sample
    of training rows, which :meth:`data` gives as ``train`` and codecs are fitted on. Each epoch then streams all
    training rows by row group. Which split a row is in is a function of (split seed, row group, place in it).

    Args:
        path: Parquet file. Row groups should be small beside the memory (``buffer_rows`` or less).
        schema: YAML file or dictionary; ``None`` infers it, in one pass of its own.
        context: Columns to condition on.
        ignore: Columns to leave out.
        weight: Column of row weights; not modelled.
        val: Share of the rows for validation.
        test: Share of the rows for test.
        buffer_rows: Training rows that are shuffled together.
        sample_rows: Training rows kept for fitting codecs, about.
        split_seed: Seed of the split; ``None`` takes ``seed``.
        batch_size: Training rows a step and device; ``None`` chooses from the number of rows.
        eval_batch_size: Rows a step in validation and test.
        seed: Seed of the order of training rows.
        drop_last: Leave out the incomplete last training batch of each epoch.

    Raises:
        DataError: not a Parquet file, or a split is empty.
    """

    def __init__(
        self,
        path: str,
        schema: str | dict[str, Any] | None = None,
        context: Sequence[str] = (),
        ignore: Sequence[str] = (),
        weight: str | None = None,
        val: float = 0.01,
        test: float = 0.01,
        buffer_rows: int = 1_000_000,
        sample_rows: int = 200_000,
        split_seed: int | None = None,
        batch_size: int | None = None,
        eval_batch_size: int = 4096,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        check_fractions(val, test)
        for option, value in (("buffer_rows", buffer_rows), ("sample_rows", sample_rows)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed, drop_last=drop_last)
        path, context, ignore = str(path), list(context), list(ignore)
        self.save_hyperparameters(logger=False)
        from genzoo.tables.frames import source_name

        self.path, self.given_schema, self.name = path, schema, source_name(path)
        self.roles: dict[Role, list[str]] = {
            "context": context,
            "ignore": ignore,
            "weight": [] if weight is None else [weight],
        }
        self.val, self.test, self.buffer_rows, self.sample_rows = val, test, buffer_rows, sample_rows
        self.split_seed = seed if split_seed is None else split_seed
        self.num_groups = 0
        self.num_training_rows = 0
        self._starts: list[int] = []
        self._file: Any = None

    def _open(self) -> Any:
        """The Parquet file; kept open, and opened again in another process."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._file is None:
            try:
                self._file = pq.ParquetFile(self.path)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"'{self.path}' cannot be streamed: it is not a Parquet file ({error})") from error
            groups = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
            self.num_groups, self._starts = len(groups), np.cumsum([0, *groups]).tolist()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def labels(self, group: int) -> NDArray[np.int8]:
        """Of each row of a row group: 0 train, 1 val, 2 test."""
        self._open()
        count = self._starts[group + 1] - self._starts[group]
        share = np.random.default_rng(seed_of(self.split_seed, "split", group)).random(count)
        return np.where(share < self.test, 2, np.where(share < self.test + self.val, 1, 0)).astype(np.int8)

    def encode_group(self, group: int, schema: Schema) -> TableData:
        """All rows of a row group under ``schema``, with their numbers in the file."""
        import narwhals as nw

        from genzoo.tables.encode import encode_frame

        file = self._open()
        columns = [column.name for column in schema.columns if column.is_modelled or column.role == "weight"]
        present = [name for name in columns if name in file.schema_arrow.names]
        table = file.read_row_group(group, columns=present, use_threads=False)
        rows = np.arange(self._starts[group], self._starts[group + 1], dtype=np.int64)
        return encode_frame(nw.from_native(table, eager_only=True), schema, rows=rows)

    def train_rows(self, group: int) -> TableData:
        """Training rows of a row group, under the training schema."""
        return self.encode_group(group, self.schema).select(self.labels(group) == 0)

    def row_groups(self) -> RowGroups:
        return RowGroups(self)

    def _load(self) -> dict[Split, TableData]:
        self._open()
        whole = self._whole_schema()
        kept: dict[Split, list[TableData]] = {split: [] for split in SPLITS}
        seen: dict[str, set[int]] = {column.name: set() for column in whole.categorical}
        self.num_training_rows = 0
        share = min(1.0, self.sample_rows / max(1, self._starts[-1]))
        for group in range(self.num_groups):
            data, labels = self.encode_group(group, whole), self.labels(group)
            for label, split in enumerate(SPLITS):
                if split != "train":
                    kept[split].append(data.select(labels == label))
            training = np.flatnonzero(labels == 0)
            self.num_training_rows += len(training)
            start = 0
            for column in whole.categorical:
                seen[column.name] |= set(np.unique(data.codes[training, start : start + column.width]).tolist())
                start += column.width
            chance = np.random.default_rng(seed_of(self.split_seed, "sample", group)).random(len(training))
            kept["train"].append(data.select(training[chance < share]))
        splits = {split: joined(parts) for split, parts in kept.items()}
        for split, asked in (("train", 1.0), ("val", self.val), ("test", self.test)):
            if asked > 0 and len(splits[split]) == 0:
                raise DataError(
                    f"'{self.path}' has {self._starts[-1]} rows, and none fell to {split}; use Table for it"
                )
        require_weights(splits, whole)
        vocabularies = {
            column.name: [word for code, word in enumerate(column.categories) if code in seen[column.name]]
            or list(column.categories)
            for column in whole.categorical
        }
        schema = whole.for_training(self.num_training_rows, vocabularies)
        return {split: data.with_schema(schema) for split, data in splits.items()}

    def _whole_schema(self) -> Schema:
        from dataclasses import replace

        from genzoo.tables.fingerprint import fingerprint
        from genzoo.tables.infer import infer_schema
        from genzoo.tables.show import load_schema

        roles: dict[str, Any] = {str(role): names for role, names in self.roles.items() if names}
        if self.given_schema is None:
            return replace(infer_schema(self.path, roles=roles), source=self.name)
        given = self.given_schema
        schema = Schema.from_dict(given) if isinstance(given, dict) else load_schema(given)
        for role, names in self.roles.items():
            schema = schema.with_roles(role, names)
        return replace(
            schema, num_rows=self._starts[-1], fingerprint=fingerprint(self.path), source=self.name, num_training_rows=0
        )

    @property
    def train_batch_size(self) -> int:
        from genzoo.datamodules.base import automatic_batch_size

        self.setup()
        return self.batch_size or automatic_batch_size(self.num_training_rows)

    @property
    def split_counts(self) -> dict[str, int]:
        return {**super().split_counts, "train": self.num_training_rows}

    def duplicate_mask(self, split: Split) -> NDArray[np.bool_]:
        """``(rows,)``: the row is identical to a training row; takes a pass over the file, once."""
        if split not in self._masks:
            keys = row_keys(self.data(split))
            wanted, found = set(keys), set()
            for group in range(self.num_groups):
                found |= wanted.intersection(row_keys(self.train_rows(group)))
            self._masks[split] = np.fromiter((key in found for key in keys), dtype=bool, count=len(keys))
        return self._masks[split]

    def train_dataloader(self) -> RowGroupLoader:  # type: ignore[override]
        self.setup()
        self._open()
        trainer = self.trainer
        return RowGroupLoader(
            self.train_rows,
            self.num_groups,
            self.num_training_rows,
            self.train_batch_size,
            buffer_rows=self.buffer_rows,
            seed=self.seed,
            drop_last=self.drop_last,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=trainer.world_size if trainer is not None else 1,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )


def joined(parts: Sequence[TableData]) -> TableData:
    """The rows of several pieces of one table."""
    from genzoo.tables.encode import COUNTED, TableData

    if len(parts) == 1:
        return parts[0]
    return TableData(
        np.concatenate([part.numeric for part in parts]),
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.rows for part in parts]),
        parts[0].schema,
        {kind: sum(part.counts.get(kind, 0) for part in parts) for kind in COUNTED},
        weights=None if any(part.weights is None for part in parts) else np.concatenate([p.weights for p in parts]),  # type: ignore[misc]
    )
