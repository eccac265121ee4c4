"""The batch loader: order, widths, sharding, and what Lightning does with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer

from genzoo.datamodules.loader import BatchLoader, EpochOrder, smallest_exact
from genzoo.errors import DataError
from genzoo.tables.batch import TableBatch


def table(num_rows: int, seed: int = 0) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(num_rows, 3))
    numeric[::4, 1] = np.nan
    return SimpleNamespace(numeric=numeric, codes=rng.integers(-2, 300, (num_rows, 2)), rows=np.arange(num_rows) + 7)


def rows_of(loader: BatchLoader) -> list[int]:
    return [int(r) for batch in loader for r in batch.rows]


def test_batches_hold_the_rows_of_the_table_unchanged() -> None:
    data = table(50)
    for shuffle in (False, True):
        whole = TableBatch.concatenate(list(BatchLoader(data, 16, shuffle=shuffle)))
        order = whole.rows.numpy() - 7
        np.testing.assert_array_equal(whole.numeric.numpy(), data.numeric[order])
        np.testing.assert_array_equal(whole.codes.numpy(), data.codes[order])
        assert (whole.numeric.dtype, whole.codes.dtype, whole.rows.dtype) == (torch.float64, torch.int64, torch.int64)
        assert sorted(order) == list(range(50))


def test_a_batch_shares_no_memory_with_the_store() -> None:
    data = table(8)
    loader = BatchLoader(data, 8)
    next(iter(loader)).numeric.fill_(0)
    np.testing.assert_array_equal(next(iter(loader)).numeric.numpy(), data.numeric)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 255.0]]), np.uint8),
        (np.array([[-1.0, 100.0]]), np.int8),
        (np.array([[-1.0, 200.0]]), np.int16),
        (np.array([[0.5, np.nan]]), np.float32),
        (np.array([[1.0, np.nan]]), np.float32),
        (np.array([[0.1]]), np.float64),
        (np.array([[2.0**40, 0.0]]), np.float32),
        (np.array([[1e300]]), np.float64),
        (np.array([-2, 40_000]), np.int32),
        (np.array([-2, 2**40]), np.int64),
        (np.zeros((3, 0)), np.float32),
    ],
)
def test_numbers_are_held_in_the_smallest_type_that_is_exact(values: Any, expected: type) -> None:
    small = smallest_exact(values)
    assert small.dtype == expected
    np.testing.assert_array_equal(small.astype(values.dtype), values)


@given(
    num_rows=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 5),
    drop_last=st.booleans(),
    epoch=st.integers(0, 5),
)
@settings(max_examples=150)
def test_devices_share_rows_without_repeating_any(
    num_rows: int, batch_size: int, world_size: int, drop_last: bool, epoch: int
) -> None:
    def parts(shuffle: bool, drop: bool) -> list[list[list[int]]]:
        ranks = []
        for rank in range(world_size):
            order = EpochOrder(
                num_rows, batch_size, shuffle=shuffle, rank=rank, world_size=world_size, drop_last=drop, seed=3
            )
            order.set_epoch(epoch)
            steps = [np.arange(num_rows)[index].tolist() for index in order]
            assert len(steps) == len(order)
            assert all(1 <= len(step) <= batch_size for step in steps)
            ranks.append(steps)
        return ranks

    if num_rows < world_size:
        for shuffle in (True, False):
            with pytest.raises(DataError, match="fewer devices"):
                EpochOrder(num_rows, batch_size, shuffle=shuffle, world_size=world_size)
        return
    evaluation = [row for rank in parts(False, False) for step in rank for row in step]
    assert sorted(evaluation) == list(range(num_rows))
    training = parts(True, drop_last)
    assert len({len(rank) for rank in training}) == 1, "devices take equally many steps"
    assert len(training[0]) >= 1
    seen = [row for rank in training for step in rank for row in step]
    assert len(seen) == len(set(seen))
    if not drop_last:
        assert num_rows - len(seen) < world_size
    elif num_rows >= batch_size * world_size:
        assert len(seen) == num_rows // (batch_size * world_size) * batch_size * world_size


def test_order_depends_on_seed_and_epoch_alone() -> None:
    data = table(100)
    first, second = BatchLoader(data, 10, shuffle=True, seed=1), BatchLoader(data, 25, shuffle=True, seed=1)
    rows_of(second)
    for loader in (first, second):
        loader.sampler.set_epoch(4)
    assert rows_of(first) == rows_of(second)
    before = rows_of(first)
    first.sampler.set_epoch(5)
    assert rows_of(first) != before
    assert rows_of(BatchLoader(data, 10, shuffle=True, seed=2)) != rows_of(BatchLoader(data, 10, shuffle=True, seed=1))


def test_order_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    rows_of(BatchLoader(table(20), 5, shuffle=True))
    assert torch.equal(torch.rand(3), expected)


def test_fresh_rows_are_drawn_once_an_epoch() -> None:
    calls = []

    def refresh(epoch: int) -> SimpleNamespace:
        calls.append(epoch)
        return table(12, seed=epoch)

    loader = BatchLoader(table(12), 5, shuffle=True, refresh=refresh)
    first = TableBatch.concatenate(list(loader))
    again = TableBatch.concatenate(list(loader))
    assert torch.equal(first.codes, again.codes)
    assert calls == [0]
    loader.sampler.set_epoch(1)
    second = TableBatch.concatenate(list(loader))
    assert calls == [0, 1]
    np.testing.assert_array_equal(second.codes.numpy(), table(12, seed=1).codes[second.rows.numpy() - 7])


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        BatchLoader(table(3), 0)
    with pytest.raises(ValueError, match="rank"):
        BatchLoader(table(3), 1, rank=2, world_size=2)


class Recorder(LightningModule):
    """Sees batches, learns one number, and notes the rows of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.seen: dict[str, list[list[int]]] = {}

    def note(self, stage: str, batch: TableBatch) -> None:
        assert isinstance(batch, TableBatch)
        epochs = self.seen.setdefault(stage, [])
        while len(epochs) <= self.current_epoch:
            epochs.append([])
        epochs[self.current_epoch].extend(batch.rows.tolist())

    def training_step(self, batch: TableBatch) -> torch.Tensor:
        self.note("train", batch)
        position = torch.arange(len(batch), dtype=torch.float64)[:, None]
        return (self.weight - torch.nan_to_num(batch.numeric) * position).square().mean()

    def validation_step(self, batch: TableBatch) -> None:
        self.note("val", batch)

    def test_step(self, batch: TableBatch) -> None:
        self.note("test", batch)

    def predict_step(self, batch: TableBatch) -> torch.Tensor:
        return batch.rows

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def trainer(folder: Path, epochs: int, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )


@pytest.mark.filterwarnings("ignore")
def test_lightning_takes_the_loader_in_every_stage(tmp_path: Path) -> None:
    data = table(40)
    model = Recorder()
    lightning = trainer(tmp_path, 3, num_sanity_val_steps=0)
    lightning.fit(model, BatchLoader(data, 16, shuffle=True, seed=5), BatchLoader(data, 16))
    assert lightning.global_step == 9
    for epoch in range(3):
        expected = BatchLoader(data, 16, shuffle=True, seed=5)
        expected.sampler.set_epoch(epoch)
        assert model.seen["train"][epoch] == rows_of(expected)
        assert model.seen["val"][epoch] == data.rows.tolist()
    lightning.validate(model, BatchLoader(data, 16), verbose=False)
    lightning.test(model, BatchLoader(data, 16), verbose=False)
    assert model.seen["test"][-1] == data.rows.tolist()
    predicted = lightning.predict(model, BatchLoader(data, 16))
    assert torch.cat(predicted).tolist() == data.rows.tolist()


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_sees_the_order_of_an_uninterrupted_one(tmp_path: Path) -> None:
    data = table(40)

    def loaders() -> tuple[BatchLoader, BatchLoader]:
        return BatchLoader(data, 16, shuffle=True), BatchLoader(data, 16)

    whole = Recorder()
    trainer(tmp_path / "whole", 4).fit(whole, *loaders())
    half = Recorder()
    first = trainer(tmp_path / "half", 2)
    first.fit(half, *loaders())
    first.save_checkpoint(tmp_path / "half.ckpt")
    rest = Recorder()
    trainer(tmp_path / "rest", 4).fit(rest, *loaders(), ckpt_path=tmp_path / "half.ckpt")
    assert rest.seen["train"][2:] == whole.seen["train"][2:]
    assert torch.equal(rest.weight, whole.weight)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rows_on_the_device_give_the_same_batches() -> None:
    data = table(300)
    host, device = (BatchLoader(data, 64, shuffle=True, device=d) for d in (None, "cuda"))
    for a, b in zip(host, device, strict=True):
        assert b.numeric.is_cuda
        torch.testing.assert_close(a.numeric, b.numeric.cpu(), equal_nan=True, rtol=0, atol=0)
        assert torch.equal(a.codes, b.codes.cpu())
        assert torch.equal(a.rows, b.rows.cpu())


class Rank(LightningModule):
    """Notes which rows each process saw."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def note(self, stage: str, rows: torch.Tensor) -> None:
        with (self.folder / f"{stage}-{self.global_rank}").open("a") as file:
            file.writelines(f"{row}\n" for row in rows.tolist())

    def training_step(self, batch: TableBatch) -> torch.Tensor:
        self.note("train", batch.rows)
        return (self.weight - batch.numeric.nan_to_num().mean()).square().sum()

    def validation_step(self, batch: TableBatch) -> None:
        self.note("val", batch.rows)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_count_each_evaluation_row_once(tmp_path: Path) -> None:
    from genzoo.datamodules import Toy

    toy = Toy("eight_gaussians", num_train=101, num_val=7, num_test=5, batch_size=10, eval_batch_size=4)
    lightning = trainer(
        tmp_path, 1, strategy="ddp_spawn", devices=2, num_sanity_val_steps=0, use_distributed_sampler=False
    )
    lightning.fit(Rank(str(tmp_path)), datamodule=toy)
    seen = {
        stage: [[int(row) for row in (tmp_path / f"{stage}-{rank}").read_text().split()] for rank in range(2)]
        for stage in ("train", "val")
    }
    assert sorted(seen["val"][0] + seen["val"][1]) == list(range(101, 108))
    assert [len(rows) for rows in seen["train"]] == [50, 50]
    assert len({*seen["train"][0], *seen["train"][1]}) == 100
