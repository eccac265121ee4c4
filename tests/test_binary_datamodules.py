"""Rows of bits: packed and plain files, canonical splits, pictures, and a model of a known law."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genzoo.datamodules import BinaryImages, BinaryVectors
from genzoo.errors import DataError
from genzoo.models.discrete.radd import RADD
from genzoo.models.training import train
from genzoo.tables.encode import encode_frame

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
PARTS = {"train": 60, "validation": 20, "test": 30}


def some_bits(num_bits: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 2, (rows, num_bits)).astype(np.uint8) for name, rows in PARTS.items()}


def save(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


@pytest.mark.parametrize("form", ["bits", "bool", "packed"])
def test_bits_and_packed_bytes_give_the_same_canonical_rows(tmp_path: Path, form: str) -> None:
    bits = some_bits(13)
    stored = bits
    if form == "bool":
        stored = {k: v.astype(bool) for k, v in bits.items()}
    if form == "packed":
        stored = {k: np.packbits(v, axis=1) for k, v in bits.items()} | {"n_variables": np.array(13)}
    vectors = BinaryVectors(save(tmp_path / "set.npz", **stored))
    (column,) = vectors.schema.columns
    assert (column.kind, column.shape, column.categories, column.closed) == ("binary", (13,), ("0", "1"), True)
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        np.testing.assert_array_equal(vectors.data(split).codes, bits[name])  # type: ignore[arg-type]
    assert vectors.schema.num_training_rows == 60
    rows = np.concatenate([vectors.data(s).rows for s in ("train", "val", "test")])  # type: ignore[arg-type]
    assert rows.tolist() == list(range(110))


def test_parquet_of_bits_keeps_its_split_column_and_lists_are_a_block(tmp_path: Path) -> None:
    bits = some_bits(5)
    frame = pd.DataFrame(np.concatenate(list(bits.values())), columns=list("abcde"))
    frame["split"] = [name for name, rows in PARTS.items() for _ in range(rows)]
    frame.to_parquet(tmp_path / "wide.parquet")
    wide = BinaryVectors(str(tmp_path / "wide.parquet"))
    np.testing.assert_array_equal(wide.data("test").codes, bits["test"])
    lists = pd.DataFrame({"bits": list(bits["train"]), "other": 1.0})
    lists.to_parquet(tmp_path / "lists.parquet")
    block = BinaryVectors(str(tmp_path / "lists.parquet"), val=0.25, test=0.25)
    assert [len(block.data(s)) for s in ("train", "val", "test")] == [30, 15, 15]  # type: ignore[arg-type]
    rows = block.data("train").rows
    assert len(rows) == 30
    found = {row.tobytes() for s in ("train", "val", "test") for row in block.data(s).codes.astype(np.uint8)}  # type: ignore[arg-type]
    assert found == {row.tobytes() for row in bits["train"]}


def test_rows_of_bits_are_lists_in_a_frame_and_come_back_equal(tmp_path: Path) -> None:
    vectors = BinaryVectors(save(tmp_path / "set.npz", **some_bits(9)))
    frame = vectors.frame("val").to_native()
    assert frame["bits"].map(len).eq(9).all()
    np.testing.assert_array_equal(encode_frame(frame, vectors.schema).codes, vectors.data("val").codes)


def test_pictures_have_two_dimensions_from_bytes_bits_or_arrays(tmp_path: Path) -> None:
    flat = some_bits(64)
    packed = {k: np.packbits(v, axis=1) for k, v in flat.items()}
    shaped = {k: v.reshape(-1, 4, 16) for k, v in flat.items()}
    square = BinaryImages(save(tmp_path / "packed.npz", **packed))
    assert square.schema["image"].shape == (8, 8)
    np.testing.assert_array_equal(square.data("train").codes, flat["train"])
    wide = BinaryImages(save(tmp_path / "shaped.npz", **shaped), shape=(4, 16))
    assert wide.schema["image"].shape == (4, 16)
    np.testing.assert_array_equal(wide.data("test").codes, flat["test"])
    with pytest.raises(DataError, match="has 13 bits a picture, which is no square; give 'shape'"):
        BinaryImages(save(tmp_path / "odd.npz", **some_bits(13))).setup()
    with pytest.raises(DataError, match=r"has 64 bits a picture, and shape \[3, 5\] has not"):
        BinaryImages(save(tmp_path / "flat.npz", **flat), shape=(3, 5)).setup()


def test_files_that_are_no_bits_are_refused_in_words(tmp_path: Path) -> None:
    bits = some_bits(6)
    with pytest.raises(DataError, match="no file"):
        BinaryVectors(str(tmp_path / "absent.npz")).setup()
    with pytest.raises(DataError, match="holds train, test and no val rows"):
        BinaryVectors(save(tmp_path / "two.npz", train=bits["train"], test=bits["test"])).setup()
    with pytest.raises(DataError, match="does not say how many bits a row has, and holds 6 bytes a row"):
        BinaryVectors(save(tmp_path / "bytes.npz", train=bits["train"] + 3)).setup()
    with pytest.raises(DataError, match="holds other values than 0 and 1"):
        BinaryVectors(save(tmp_path / "grey.npz", train=bits["train"].astype(np.float64) * 7)).setup()
    with pytest.raises(DataError, match="rows of different lengths"):
        BinaryVectors(save(tmp_path / "ragged.npz", **(bits | {"test": bits["test"][:, :5]}))).setup()
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="not a readable"):
        BinaryVectors(str(tmp_path / "broken.npz")).setup()
    pd.DataFrame({"a": [0, 1, None]}).to_parquet(tmp_path / "holes.parquet")
    with pytest.raises(DataError, match=r"column 'a' .* has 1 missing cells"):
        BinaryVectors(str(tmp_path / "holes.parquet")).setup()


def test_the_perceptron_learns_copies_of_bits(tmp_path: Path) -> None:
    """Twenty fair bits, each of them twice: the law has 20 log 2 nats, independent columns 40 log 2."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (2600, 20)).astype(np.uint8)
    twice = np.concatenate([rows, rows], 1)
    path = save(tmp_path / "twice.npz", train=twice[:2000], val=twice[2000:2300], test=twice[2300:])
    vectors = BinaryVectors(path, batch_size=100)
    vectors.setup()
    model = RADD(
        schema=vectors.schema_dict, width=64, num_layers=1, lr=1e-2, schedule="cosine", patience=0, dropout=0.0
    )
    assert type(model.network).__name__ == "SymbolMLP"
    train(model, vectors, None, progress=False, max_epochs=8)
    bound = model.log_prob(vectors.data("test"), draws=16)
    entropy = 20 * np.log(2)
    assert bound.kind == "lower_bound"
    assert -entropy - 1.5 < bound.mean() < -entropy + 4 * bound.se_mean()


@pytest.mark.parametrize(
    ("name", "num_bits", "rows"),
    [("nltcs", 16, (16181, 2157, 3236)), ("plants", 69, (17412, 2321, 3482)), ("dna", 180, (1600, 400, 1186))],
)
def test_shared_benchmarks_have_their_canonical_shapes(name: str, num_bits: int, rows: tuple[int, ...]) -> None:
    path = SHARED / "binary_debd" / f"{name}.npz"
    if not path.is_file():
        pytest.skip("shared data absent")
    vectors = BinaryVectors(str(path))
    assert vectors.name == name
    assert vectors.schema["bits"].shape == (num_bits,)
    assert tuple(len(vectors.data(s)) for s in ("train", "val", "test")) == rows  # type: ignore[arg-type]
    if name == "nltcs":
        assert abs(vectors.data("train").codes.mean() - 0.332) < 5e-4
