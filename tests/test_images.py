"""Pictures as rows: sources, splits, the block they make, and the pixel codec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from genzoo.codecs.pixels import PixelCodec
from genzoo.datamodules.images import Images
from genzoo.datamodules.splits import rows_in
from genzoo.errors import DataError, SchemaError
from genzoo.tables.decode import decode_table
from genzoo.tables.encode import encode_frame
from genzoo.tables.frames import read_frame
from genzoo.tables.schema import Column, Schema

MNIST = Path(__file__).parents[1].parent / "shared" / "data" / "mnist" / "mnist.npz"


def pictures(number: int = 60, shape: tuple[int, ...] = (4, 5), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, *shape)).astype(np.uint8)


def test_pictures_are_one_bounded_block_on_a_grid() -> None:
    module = Images(array=pictures())
    (column,) = module.schema.columns
    assert (column.kind, column.step, column.lower, column.upper) == ("quantized", 1.0, 0.0, 255.0)
    assert column.shape == (4, 5)
    assert [len(module.data(split)) for split in ("train", "val", "test")] == [48, 6, 6]
    assert Schema.from_dict(module.schema_dict) == module.schema


def test_rows_stay_bytes_and_batches_are_wide() -> None:
    module = Images(array=pictures(), batch_size=10)
    assert module.data("train").numeric.dtype == np.uint8
    assert module.fit_sample().numeric.dtype == torch.float64
    batch = next(iter(module.train_dataloader()))
    assert batch.numeric.shape == (10, 20)
    assert batch.numeric.dtype == torch.float64
    wide = module.data("test")
    assert wide.fingerprint == type(wide)(wide.numeric.astype(float), wide.codes, wide.rows, wide.schema).fingerprint


def test_an_archive_keeps_its_own_splits_and_the_last_training_pictures_validate(tmp_path: Path) -> None:
    train, test = pictures(50), pictures(8, seed=1)
    path = tmp_path / "set.npz"
    np.savez(path, x_train=train, y_train=np.zeros(50), x_test=test, y_test=np.zeros(8))
    module = Images(str(path))
    np.testing.assert_array_equal(module.data("test").numeric, test.reshape(8, -1))
    np.testing.assert_array_equal(module.data("val").numeric, train[-8:].reshape(8, -1))
    np.testing.assert_array_equal(module.data("train").numeric, train[:-8].reshape(42, -1))
    assert len(Images(str(path), val=5).data("val")) == 5
    assert len(Images(str(path), val=0.5).data("val")) == 25
    small = Images(str(path), max_rows=3)
    assert [len(small.data(split)) for split in ("train", "val", "test")] == [3, 3, 3]
    assert small.name == "set_first_3"
    assert small.record["init_args"]["path"] == str(path.resolve())


@pytest.mark.parametrize("kind", ["npy", "npz", "parquet", "nested", "folder"])
def test_every_kind_of_source_gives_the_same_pictures(kind: str, tmp_path: Path) -> None:
    given = pictures(20)
    if kind == "npy":
        path = tmp_path / "a.npy"
        np.save(path, given.reshape(20, -1))
    elif kind == "npz":
        path = tmp_path / "a.npz"
        np.savez(path, images=given, labels=np.zeros(20))
    elif kind == "folder":
        from PIL import Image

        path = tmp_path / "folder"
        path.mkdir()
        for i, picture in enumerate(given):
            Image.fromarray(picture).save(path / f"{i:03}.png")
    else:
        path = tmp_path / "a.parquet"
        lists = given.tolist() if kind == "nested" else given.reshape(20, -1).tolist()
        pq.write_table(pa.table({"image": lists}), path)
    module = Images(str(path), shape=(4, 5), seed=3)
    expected = Images(array=given, seed=3)
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(module.data(split).numeric, expected.data(split).numeric)
    assert module.schema["image"].shape == (4, 5)


def test_folders_called_like_splits_are_splits(tmp_path: Path) -> None:
    from PIL import Image

    for split, number in (("train", 6), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(number):
            Image.fromarray(pictures(1, seed=i)[0]).save(tmp_path / split / f"{i}.png")
    module = Images(str(tmp_path), val=2)
    assert [len(module.data(split)) for split in ("train", "val", "test")] == [4, 2, 2]


def test_flat_rows_are_square_when_they_can_be() -> None:
    assert Images(array=pictures(30, (49,))).schema["image"].shape == (7, 7)
    assert Images(array=pictures(30, (7,))).schema["image"].shape == (7,)
    assert Images(array=pictures(30, (3, 3, 1))).schema["image"].shape == (3, 3)
    assert Images(array=pictures(30, (3, 3, 3))).schema["image"].shape == (3, 3, 3)


def test_sources_that_hold_no_pictures_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got neither"):
        Images()
    with pytest.raises(DataError, match="neither a file nor a folder"):
        Images(str(tmp_path / "absent.npz")).setup()
    with pytest.raises(DataError, match="multiply by 255"):
        Images(array=pictures().astype(float) / 255).setup()
    with pytest.raises(DataError, match="shape \\[4, 4\\] does not hold"):
        Images(array=pictures(), shape=(4, 4)).setup()
    (tmp_path / "a.npz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match="not a readable"):
        Images(str(tmp_path / "a.npz")).setup()
    np.savez(tmp_path / "b.npz", y=np.zeros(3))
    with pytest.raises(DataError, match="name the arrays of pictures"):
        Images(str(tmp_path / "b.npz")).setup()
    pq.write_table(pa.table({"image": [[1, 2], [3]]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="unequal length"):
        Images(str(tmp_path / "c.parquet")).setup()
    with pytest.raises(DataError, match="has no column 'pixels'; it has image"):
        Images(str(tmp_path / "c.parquet"), column="pixels").setup()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no picture files"):
        Images(str(tmp_path / "empty")).setup()
    with pytest.raises(ValueError, match="whole number of pictures"):
        Images(array=pictures(), val=1.5)


def test_pictures_go_to_a_frame_and_back(tmp_path: Path) -> None:
    module = Images(array=pictures())
    data = module.data("train")
    for backend in ("pandas", "polars", "pyarrow"):
        frame = decode_table(data, module.schema, backend)
        np.testing.assert_array_equal(encode_frame(read_frame(frame), module.schema).numeric, data.numeric)
    decode_table(data, module.schema, "pandas").to_parquet(tmp_path / "a.parquet")
    again = encode_frame(read_frame(str(tmp_path / "a.parquet")), module.schema)
    np.testing.assert_array_equal(again.numeric, data.numeric)


def test_pictures_shared_by_training_and_test_are_counted() -> None:
    given = pictures(20, (16, 16))
    module = Images(array={"train": given, "test": np.concatenate([given[:3], pictures(4, (16, 16), seed=9)])}, val=2)
    assert module.split_counts["test_duplicates"] == 3
    assert rows_in(module.data("train"), module.data("train")).all()


def test_the_pixel_codec_is_a_bijection_of_cells_with_its_own_jacobian() -> None:
    module = Images(array=pictures(40))
    codec = PixelCodec(module.schema, smoothness=0.5)
    codec.fit(module.fit_sample())
    batch = module.data("train").batch()
    cells = codec.encode(batch)
    assert not cells.hole.any()
    uniform = torch.rand(cells.value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, log_volume = codec.dense(cells, uniform)
    back = codec.decode(y, batch.rows)
    torch.testing.assert_close(back.numeric, batch.numeric, rtol=0, atol=0)
    place = (cells.value[0] + uniform[0]).requires_grad_()
    slope = torch.func.vmap(torch.func.grad(lambda k: codec.logit(k / codec.levels)[0]))(place)
    torch.testing.assert_close(slope.log().sum(), log_volume[0])
    # -D log 256 + D log(1 - 2e-6) + sum(-log a - log w - log(1 - w))
    w = ((cells.value + uniform) / 256 + 1e-6) * (1 - 2e-6)
    expected = (-np.log(256) + np.log1p(-2e-6) - np.log(0.5) - w.log() - torch.log1p(-w)).sum(1)
    torch.testing.assert_close(log_volume, expected)


def test_the_pixel_codec_knows_its_grid_holes_and_bounds() -> None:
    column = Column("p", "quantized", step=0.5, origin=0.25, lower=1.25, upper=2.75, shape=(3,))
    codec = PixelCodec(Schema((column,)))
    assert codec.levels == 4
    from genzoo.tables.batch import TableBatch

    numeric = torch.tensor([[1.25, 2.75, float("nan")], [1.75, 9.0, 2.25]], dtype=torch.float64)
    batch = TableBatch(numeric, torch.empty(2, 0, dtype=torch.int64), torch.arange(2))
    cells = codec.encode(batch)
    assert cells.value.tolist() == [[0, 3, 0], [1, 3, 2]]
    assert cells.hole.tolist() == [[False, False, True], [False, False, False]]
    assert cells.outside.tolist() == [False, True]
    middle = codec.dense(cells, torch.full((2, 3), 0.5))[0]
    assert codec.decode(middle, batch.rows).numeric.tolist() == [[1.25, 2.75, 1.25], [1.75, 2.75, 2.25]]
    assert codec.decode(torch.full((1, 3), 1e6), torch.arange(1)).numeric.tolist() == [[2.75] * 3]
    with pytest.raises(SchemaError, match="declared lower and upper bounds"):
        PixelCodec(Schema((Column("x", "continuous"),)))


def test_a_uniform_picture_model_scores_log_of_the_number_of_levels_a_pixel() -> None:
    """With the density that is uniform in v, the bound is the exact probability of every picture."""
    module = Images(array=pictures(30))
    codec = PixelCodec(module.schema, smoothness=0.75)
    cells = codec.encode(module.data("train").batch())
    uniform = torch.rand(cells.value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y, log_volume = codec.dense(cells, uniform)
    log_density = -codec.logit(codec.share(y))[1].sum(1)
    torch.testing.assert_close(log_density + log_volume, torch.full_like(log_volume, -20 * np.log(256)))


@pytest.mark.skipif(not MNIST.exists(), reason="MNIST is not here")
def test_mnist_splits_as_density_papers_do() -> None:
    module = Images(str(MNIST))
    assert [len(module.data(split)) for split in ("train", "val", "test")] == [50_000, 10_000, 10_000]
    assert module.schema["image"].shape == (28, 28)
    assert module.name == "mnist"
