"""Parquet tables that stream by row group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning.pytorch import LightningModule, Trainer

from genzoo.datamodules import StreamedTable
from genzoo.datamodules.streamed import RowGroupLoader
from genzoo.errors import DataError
from genzoo.tables.batch import TableBatch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=1000),
            "n": rng.integers(0, 50, 1000),
            "c": np.where(np.arange(1000) == 700, "rare", rng.choice(["a", "b"], 1000)),
        }
    )
    frame.loc[::9, "x"] = np.nan
    frame.loc[990] = frame.loc[3]
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "big.parquet", row_group_size=130)
    return tmp_path / "big.parquet"


def epoch(loader: RowGroupLoader, number: int = 0) -> list[TableBatch]:
    loader.sampler.set_epoch(number)
    batches = list(loader)
    assert len(batches) == len(loader)
    return batches


def test_an_epoch_holds_every_training_row_once_with_its_cells(path: Path) -> None:
    table = StreamedTable(str(path), val=0.1, test=0.1, buffer_rows=250, batch_size=32)
    whole = TableBatch.concatenate(epoch(table.train_dataloader()))
    held_out = {int(row) for split in ("val", "test") for row in table.data(split).rows}
    assert sorted(whole.rows.tolist()) == [row for row in range(1000) if row not in held_out]
    frame = pd.read_parquet(path)
    np.testing.assert_array_equal(whole.numeric[:, 0].numpy(), frame["x"].to_numpy()[whole.rows.numpy()])
    words = np.array(table.schema["c"].categories)[whole.codes[:, 0].numpy()]
    np.testing.assert_array_equal(words, frame["c"].to_numpy(dtype=str)[whole.rows.numpy()])
    assert table.schema.num_training_rows == len(whole) == table.split_counts["train"]


@pytest.mark.parametrize("buffer_rows", [1, 200, 10_000])
def test_order_is_shuffled_and_depends_on_seed_and_epoch(path: Path, buffer_rows: int) -> None:
    def rows(seed: int, number: int) -> list[int]:
        table = StreamedTable(str(path), buffer_rows=buffer_rows, batch_size=50, seed=seed, split_seed=0)
        return TableBatch.concatenate(epoch(table.train_dataloader(), number)).rows.tolist()

    assert rows(1, 0) == rows(1, 0)
    assert rows(1, 0) != rows(1, 1)
    assert rows(1, 0) != rows(2, 0)
    assert np.mean(np.diff(rows(1, 0)) == 1) < 0.05


@pytest.mark.parametrize("drop_last", [False, True])
def test_devices_take_equal_steps_and_share_rows(path: Path, drop_last: bool) -> None:
    table = StreamedTable(str(path), val=0.1, test=0.1)
    table.setup()
    seen = []
    for rank in range(3):
        loader = RowGroupLoader(
            table.train_rows,
            table.num_groups,
            table.num_training_rows,
            16,
            buffer_rows=100,
            drop_last=drop_last,
            rank=rank,
            world_size=3,
        )
        seen.append(TableBatch.concatenate(epoch(loader)).rows.tolist())
    rows = [row for part in seen for row in part]
    assert len(rows) == len(set(rows))
    assert table.num_training_rows - len(rows) < (48 if drop_last else 3)


def test_vocabulary_is_of_all_training_rows_and_duplicates_are_found(path: Path) -> None:
    tables = [StreamedTable(str(path), val=0.3, test=0.3, sample_rows=50, seed=seed) for seed in range(8)]
    for table in tables:
        rare_trains = int(table.labels(700 // 130)[700 % 130]) == 0
        assert ("rare" in table.schema["c"].categories) == rare_trains
        in_test = {int(row) for row in table.data("test").rows[table.duplicate_mask("test")]}
        split = {row: int(table.labels(row // 130)[row % 130]) for row in (3, 990)}
        assert (990 in in_test) == (split[990] == 2 and split[3] == 0)
        assert len(table.data("train")) < 100
    assert len({table.schema.measure for table in tables}) == 1


class Counting(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.rows: dict[int, list[int]] = {}

    def training_step(self, batch: TableBatch) -> None:
        self.rows.setdefault(self.current_epoch, []).extend(batch.rows.tolist())

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_on_the_stream(path: Path, tmp_path: Path) -> None:
    table = StreamedTable(str(path), val=0.1, test=0.1, buffer_rows=250, batch_size=64)
    model = Counting()
    Trainer(
        max_epochs=2,
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    ).fit(model, datamodule=table)
    assert sorted(model.rows[0]) == sorted(model.rows[1])
    assert model.rows[0] != model.rows[1]
    assert model.rows[1] == TableBatch.concatenate(epoch(table.train_dataloader(), 1)).rows.tolist()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="cannot be streamed: it is not a Parquet file"):
        StreamedTable(str(tmp_path / "a.csv")).setup()
