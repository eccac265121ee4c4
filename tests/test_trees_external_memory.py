"""Tables larger than memory: rows in blocks, noised rows on disk, the same boosters."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from contract import mixed_table
from genzoo.datamodules import StreamedTable
from genzoo.datamodules.streamed import RowGroups
from genzoo.models.training import make_trainer
from genzoo.models.trees import noised_rows
from genzoo.models.trees.forest_flow import ForestFlow
from genzoo.models.trees.level_plan import LevelPlan
from genzoo.models.trees.noised_rows import learning_blocks
from genzoo.models.trees.training_rows import RowStream, TrainingRows
from genzoo.trees import example_table
from genzoo.trees.boosting import Examples, Growth, grow, grow_on
from genzoo.trees.example_table import ExampleTable

SMALL: dict[str, Any] = {"num_levels": 3, "rounds": 6, "copies": 3, "eta": 0.3, "groups": 1, "workers": 2, "draws": 2}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, pages and reference rows so small that a small table has several."""
    monkeypatch.setattr(noised_rows, "BLOCK_ROWS", 150)
    monkeypatch.setattr(noised_rows, "MOST_REFERENCES", 20)
    monkeypatch.setattr(example_table, "PAGE_ROWS", 130)
    monkeypatch.setattr(example_table, "BIN_ROWS", 300)


def parquet(folder: Path, frame: pd.DataFrame, group_rows: int = 70) -> str:
    path = folder / "table.parquet"
    frame.to_parquet(path, row_group_size=group_rows)
    return str(path)


def trained(module: Any, folder: Path, **arguments: Any) -> ForestFlow:
    module.setup("fit")
    model = ForestFlow(schema=module.schema_dict, **(SMALL | arguments))
    make_trainer(folder, progress=False).fit(model, datamodule=module)
    return model


def parts(model: ForestFlow) -> dict[str, dict[str, bytes]]:
    return {job: model.store.raw(job) for job in model.jobs}


def complete_table(num_rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, num_rows)
    x = rng.normal(size=num_rows) + 2 * kind
    return pd.DataFrame({"x": x, "y": x * rng.normal(size=num_rows), "kind": np.array(["a", "b"])[kind]})


# ---- the table of examples


@pytest.mark.parametrize("page", [40, 1000])
@pytest.mark.parametrize("rows_of_bins", [97, 10_000])
def test_boosters_are_the_same_bytes_on_disk_and_in_memory_for_any_blocks_and_pages(
    page: int, rows_of_bins: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(example_table, "PAGE_ROWS", page)
    monkeypatch.setattr(example_table, "BIN_ROWS", rows_of_bins)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    y = np.stack([np.nan_to_num(x[:, 0] * x[:, 1]), np.sin(np.nan_to_num(x[:, 2]))], 1).astype(np.float32)
    y[::7, 1] = np.nan
    check = (x[:90] + 0.1, y[:90])
    growth = Growth(rounds=12, patience=4, bins=32)
    found = []
    for cuts, on_disk in (([], False), ([200], False), ([], True), ([33, 34, 400], True)):
        blocks = zip(np.split(x, cuts), np.split(y, cuts))
        with ExampleTable(blocks, 32, on_disk) as table:
            assert (table.num_rows, table.num_targets) == (500, 2)
            assert bool(list(tmp_path.iterdir())) == on_disk
            checks = ExampleTable([check], 32, on_disk=False, like=table.matrix)
            assert table.examples(1).weight.sum() == np.isfinite(y[:, 1]).sum()  # type: ignore[union-attr]
            found.append(
                [
                    grow_on(
                        table.matrix, table.examples(k), checks.examples(k), growth, "reg:squarederror", 0,
                        held_out_matrix=checks.matrix,
                    ).blob
                    for k in (0, 1)
                ]
            )  # fmt: skip
        assert not list(tmp_path.iterdir()), "scratch files are gone"
    assert found[0] == found[1] == found[2] == found[3]
    if rows_of_bins >= 500:
        plain = grow(Examples(x, y[:, 0]), Examples(check[0], check[1][:, 0]), Growth(rounds=12, patience=4, bins=32),
                     "reg:squarederror", 0)  # fmt: skip
        assert plain.blob == found[0][0]


# ---- training


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("table", ["mixed", "complete"])
def test_training_on_disk_and_from_a_stream_ends_with_the_boosters_of_training_in_memory(
    table: str, shared: bool, small_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = mixed_table() if table == "mixed" else complete_table()
    path = parquet(tmp_path, frame)
    label = {} if table == "mixed" else {"label": "kind", "classes": "separate"}

    def module() -> StreamedTable:
        return StreamedTable(path, val=0.1, test=0.1)

    streamed = trained(module(), tmp_path / "streamed", shared=shared, **label)
    monkeypatch.setattr(StreamedTable, "row_groups", lambda self: None)  # all rows are in its sample
    memory = trained(module(), tmp_path / "memory", shared=shared, external_memory="never", **label)
    disk = trained(module(), tmp_path / "disk", shared=shared, external_memory="always", **label)
    assert parts(disk) == parts(memory)
    assert parts(streamed) == parts(memory)
    assert np.isfinite(streamed.log_prob(frame).values).all()


def test_noised_rows_go_to_disk_where_they_would_fill_the_memory() -> None:
    plan = LevelPlan(Growth(), copies=10, posterior_mean=True, heteroscedastic=True, seed=0)
    assert not plan.on_disk(100_000, 30, streams=False)
    assert plan.on_disk(1_000_000, 30, streams=False)
    assert plan.on_disk(1000, 3, streams=True)
    few = LevelPlan(Growth(), copies=0, posterior_mean=True, heteroscedastic=True, seed=0)
    assert not few.on_disk(10_000_000, 30, streams=True), "a level sees 20,000 noised rows of any table"


@pytest.mark.parametrize("size", [1, 64, 150, 10_000])
def test_a_stream_has_every_training_row_once_in_order_for_any_size_of_blocks(size: int, tmp_path: Path) -> None:
    path = parquet(tmp_path, mixed_table(), 70)
    module = StreamedTable(path, val=0.1, test=0.1)
    model = trained(module, tmp_path / "run", rounds=0)
    stream = RowStream(module.row_groups(), model.codec, model.schema)
    held_out = {int(row) for split in ("val", "test") for row in module.data(split).rows}
    expected = [row for row in range(400) if row not in held_out]
    for one in (stream, pickle.loads(pickle.dumps(stream))):
        blocks = list(one.blocks(size))
        assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
        assert torch.cat([block.rows for block in blocks]).tolist() == expected


def test_row_groups_travel_without_the_rows_in_memory(tmp_path: Path) -> None:
    module = StreamedTable(parquet(tmp_path, mixed_table()), val=0.1, test=0.1)
    groups = module.row_groups()
    assert isinstance(groups, RowGroups)
    assert groups.num_rows == len(module.data("train")) == sum(len(data) for data in groups)
    assert len(groups) == 6
    with pytest.raises(IndexError, match="row group 6 of 6"):
        groups[6]
    assert len(pickle.dumps(groups)) < 20_000


@pytest.mark.parametrize("size", [1, 30, 10_000])
def test_trees_learn_from_every_row_as_often_as_copies_say_for_any_size_of_blocks(
    size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(noised_rows, "BLOCK_ROWS", size)
    monkeypatch.setattr(noised_rows, "MOST_REFERENCES", 20)
    module = StreamedTable(parquet(tmp_path, complete_table(200)), val=0.1, test=0.1)
    model = trained(module, tmp_path / "run", rounds=0, spacing="log_snr")
    train = model.codec.encode(module.data("train").batch())
    rows = TrainingRows(train, len(train))
    plan = LevelPlan(Growth(), copies=3, posterior_mean=False, heteroscedastic=True, seed=0)
    level = model.levels[0]
    _, blocks = learning_blocks(level, rows, model._denoiser(1), plan, 0, torch.Generator())
    x_t = np.concatenate([features[:, : model.codec.width] for features, _ in blocks])
    assert len(x_t) == 3 * len(train)
    # at the level of least noise the row that a copy is of is the nearest one
    nearest = torch.cdist(torch.from_numpy(x_t).double() / level.signal, train.values).argmin(1)
    assert (torch.bincount(nearest, minlength=len(train)) - 3).abs().float().mean() < 0.4
