"""What every datamodule of tables gives: schema, splits of raw values, fast loaders, a sample to fit a codec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray

from genzoo.datamodules.loader import BatchLoader
from genzoo.datamodules.splits import rows_in
from genzoo.errors import DataError, SchemaError
from genzoo.likelihood.noise import seed_of
from genzoo.tables.schema import Schema
from genzoo.tables.weights import mean_weight

if TYPE_CHECKING:
    from genzoo.datamodules.streamed import RowGroups
    from genzoo.tables.batch import TableBatch
    from genzoo.tables.encode import TableData

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def automatic_batch_size(num_training_rows: int) -> int:
    """The largest power of two that gives 16 steps an epoch, within 32 and 512.

    Small tables then still take enough steps an epoch for early stopping to have a fine scale; 512 rows is where the
    flows of the zoo stop gaining rows a second on a CPU core.
    """
    return int(min(512, max(32, 2 ** int(np.log2(max(num_training_rows // 16, 1))))))


class TableDataModule(LightningDataModule, ABC):
    """A source of rows with a schema and three splits.

    A subclass reads its source in :meth:`_load`, once; everything works without a Trainer. Batches hold raw values:
    numbers in the table's units (NaN a hole), codes, and row numbers.

    Args:
        batch_size: Training rows a step and device; ``None`` takes :func:`automatic_batch_size`.
        eval_batch_size: Rows a step in validation, test and prediction.
        seed: Seed of the split and of the order of training rows.
        drop_last: Leave out the incomplete last training batch of each epoch.
    """

    name: str = "table"
    ordered: bool = False
    """Rows were split in time: neighbouring rows depend on each other, and a report uses a block bootstrap."""

    def __init__(
        self, batch_size: int | None = None, eval_batch_size: int = 4096, seed: int = 0, drop_last: bool = False
    ) -> None:
        super().__init__()
        for option, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed, self.drop_last = seed, drop_last
        self._splits: dict[Split, TableData] | None = None
        self._masks: dict[Split, NDArray[np.bool_]] = {}

    @abstractmethod
    def _load(self) -> dict[Split, TableData]:
        """Reads the source and splits it; called once."""

    def frame(self, split: Split) -> Any:
        """The rows of a split as a narwhals frame, with every column of the source. Same order as :meth:`data`."""
        import narwhals as nw

        from genzoo.tables.encode import decode_table

        return nw.from_native(decode_table(self.data(split), self.schema, backend="pandas"), eager_only=True)

    def oracle_log_prob(self, data: TableData) -> NDArray[np.float64] | None:
        """True log-density of rows in nats under the schema's measure, where it is known (toys); else ``None``."""
        return None

    def setup(self, stage: str | None = None) -> None:
        """Reads and splits the source, the first time it is called."""
        if self._splits is None:
            self._splits = self._load()

    def data(self, split: Split) -> TableData:
        """Raw values of a split.

        Raises:
            ValueError: unknown split.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split '{split}'; use one of {', '.join(SPLITS)}")
        self.setup()
        assert self._splits is not None
        return self._splits[split]

    @property
    def schema(self) -> Schema:
        """The schema with what training rows add: vocabularies and their number."""
        return self.data("train").schema

    def row_groups(self) -> RowGroups | None:
        """Where all training rows are read, if :meth:`data` gives only a sample of them; else ``None``."""
        return None

    def adopt_schema(self, schema: Schema) -> None:
        """Takes the vocabularies of a trained model's schema: categories it lacks become unseen.

        Raises:
            SchemaError: the columns differ.
        """
        self.setup()
        assert self._splits is not None
        self._splits = {split: data.with_schema(schema) for split, data in self._splits.items()}

    @property
    def mean_weight(self) -> float:
        """Mean weight of the training rows, 1 without weights: a loss is in units of it."""
        return mean_weight(self.data("train").weights)

    @property
    def log_scale(self) -> float:
        """Nats a row between the rows' units and the source's own; 0 but for a benchmark with units of its own."""
        return 0.0

    @property
    def schema_dict(self) -> dict[str, Any]:
        """The schema as plain values, which is what a model takes."""
        return self.schema.to_dict()

    @property
    def train_batch_size(self) -> int:
        """Training rows a step and device."""
        return self.batch_size or automatic_batch_size(len(self.data("train")))

    @property
    def split_counts(self) -> dict[str, int]:
        """Rows of each split, and how many rows of validation and test are identical to a training row."""
        counts: dict[str, int] = {split: len(self.data(split)) for split in SPLITS}
        for split in SPLITS[1:]:
            counts[f"{split}_duplicates"] = int(self.duplicate_mask(split).sum())
        return counts

    def duplicate_mask(self, split: Split) -> NDArray[np.bool_]:
        """``(rows,)``: the row is, in all modelled columns, identical to a training row."""
        if split not in self._masks:
            self._masks[split] = rows_in(self.data(split), self.data("train"))
        return self._masks[split]

    @property
    def record(self) -> dict[str, Any]:
        """How to make this datamodule again, as plain values: class path and arguments. Empty for a frame in memory."""
        if getattr(self, "path", "") is None:
            return {}
        arguments = {k: v for k, v in self.hparams.items() if not k.startswith("_")}
        for name, value in arguments.items():
            # the run is opened from any folder
            if isinstance(value, str) and name.endswith(("path", "schema")) and Path(value).expanduser().exists():
                arguments[name] = str(Path(value).expanduser().resolve())
        return {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": arguments}

    def fit_sample(self, max_rows: int = 200_000, seed: int = 0) -> TableBatch:
        """Training rows to fit a codec on: all of them, or a random ``max_rows``, in file order."""
        data = self.data("train")
        if len(data) > max_rows:
            rng = np.random.default_rng(seed_of(seed, "fit_sample"))
            data = data.select(np.sort(rng.choice(len(data), max_rows, replace=False)))
        return data.batch()

    def train_dataloader(self) -> BatchLoader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> BatchLoader:
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        return self._loader("test")

    def predict_dataloader(self) -> BatchLoader:
        """The test rows."""
        return self._loader("test")

    def _refresh(self) -> Callable[[int], TableData] | None:
        """Function of the epoch that draws new training rows, for sources that can."""
        return None

    def _loader(self, split: Split, shuffle: bool = False) -> BatchLoader:
        data = self.data(split)
        if shuffle and len(data) == 0:
            raise DataError(f"'{self.name}' has no training rows; give more rows, or smaller 'val' and 'test'")
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer is not None else None
        return BatchLoader(
            data,
            self.train_batch_size if shuffle else self.eval_batch_size,
            shuffle=shuffle,
            seed=self.seed,
            drop_last=shuffle and self.drop_last,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=trainer.world_size if trainer is not None else 1,
            device=device,
            pin_memory=device is not None and device.type == "cuda",
            refresh=self._refresh() if shuffle else None,
        )


def require_weights(parts: Mapping[Any, TableData], schema: Schema) -> None:
    """Refuses a table whose weight column is named and absent.

    Raises:
        SchemaError: names the column.
    """
    column = schema.weight
    if column is not None and any(data.weights is None for data in parts.values()):
        raise SchemaError(f"weight column '{column.name}' of the schema is not in the table; add it, or drop its role")
