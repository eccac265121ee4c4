"""Text as rows: chunks, alphabets, splits, reading and writing, and a model of a text with a known law."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands_runs import QUIET, say

import genzoo
from genzoo.datamodules import Text
from genzoo.datamodules.text import LETTERS
from genzoo.errors import DataError
from genzoo.models.discrete.radd import RADD
from genzoo.models.training import train
from genzoo.tables.encode import encode_frame
from genzoo.tables.schema import Schema

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def some_text(num: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    return "".join(rng.choice(list("abcd "), num))


def chunks(text: Text, split: str) -> list[str]:
    return text.frame(split)["text"].to_list()  # type: ignore[arg-type,no-any-return]


def test_a_text_is_cut_in_its_order_into_chunks_of_one_block(tmp_path: Path) -> None:
    source = some_text(1000)
    text = Text(written(tmp_path / "a.txt", source), length=16, val=0.1, test=0.2, shift=False)
    (column,) = text.schema.columns
    assert (column.kind, column.shape, column.storage, column.closed) == ("categorical", (16,), "text", True)
    assert column.categories == tuple(LETTERS)
    pieces = {"train": source[:700], "val": source[700:800], "test": source[800:]}
    for split, piece in pieces.items():
        assert chunks(text, split) == [piece[i : i + 16] for i in range(0, len(piece) - 15, 16)]
    assert text.ordered
    rows = np.concatenate([text.data(s).rows for s in ("train", "val", "test")])  # type: ignore[arg-type]
    assert rows.tolist() == list(range(len(rows)))


def test_split_files_of_a_folder_and_arrays_of_bytes_are_kept(tmp_path: Path) -> None:
    parts = {"train": some_text(400), "validation": some_text(80, 1), "test": some_text(60, 2)}
    for name, piece in parts.items():
        written(tmp_path / "folder" / f"{name}.txt", piece)
    written(tmp_path / "folder" / "README.md", "nothing of the text")
    text = Text(str(tmp_path / "folder"), length=20, shift=False)
    assert "".join(chunks(text, "val")) == parts["validation"]
    arrays = {name: np.frombuffer(piece.encode(), dtype=np.uint8) for name, piece in parts.items()}
    np.savez(tmp_path / "bytes.npz", **arrays)  # type: ignore[arg-type]
    raw = Text(str(tmp_path / "bytes.npz"), alphabet="bytes", length=20, shift=False)
    assert chunks(raw, "test") == chunks(text, "test")
    assert raw.schema["text"].num_categories == 256
    assert raw.schema.measure != text.schema.measure or raw.schema["text"].categories != text.schema["text"].categories


def test_training_chunks_begin_elsewhere_in_each_epoch_and_nowhere_else(tmp_path: Path) -> None:
    source = some_text(2000)
    text = Text(written(tmp_path / "a.txt", source), length=32, batch_size=1000, val=0.1, test=0.1)
    loader = text.train_dataloader()
    seen = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        (batch,) = loader
        words = ["".join(LETTERS[c] for c in row) for row in batch.codes.tolist()]
        assert len(words) == len(text.data("train"))
        offsets = {source.index(word) % 32 for word in words}
        assert len(offsets) == 1
        assert all(source.index(word) + 32 <= 1600 for word in words)
        seen.append(offsets.pop())
    assert seen[0] == 0
    assert len(set(seen)) == 3
    loader.sampler.set_epoch(1)
    (again,) = loader
    assert source.index("".join(LETTERS[c] for c in again.codes[0].tolist())) % 32 == seen[1]


def test_cleaning_makes_letters_and_blanks_and_without_it_other_characters_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "Hello, World! " * 40)
    text = Text(path, length=12, clean=True, shift=False)
    assert chunks(text, "train")[0] == "hello world "
    with pytest.raises(DataError, match=r"are not among a to z and blank \(first: 'H' at 0\); use clean: true"):
        Text(path, length=12).setup()
    with pytest.raises(DataError, match=r"less than one chunk of 600; give more text, or a smaller length"):
        Text(path, clean=True, length=600).setup()
    with pytest.raises(DataError, match="neither a file nor a folder"):
        Text(str(tmp_path / "b.txt")).setup()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    with pytest.raises(DataError, match=r"not UTF-8 text .* alphabet: bytes"):
        Text(str(tmp_path / "latin.txt"), length=8).setup()
    with pytest.raises(ValueError, match="alphabet must be one of letters, bytes, got 'greek'"):
        Text(path, alphabet="greek")  # type: ignore[arg-type]
    written(tmp_path / "half" / "train.txt", "abc " * 100)
    with pytest.raises(DataError, match="has train and no val text"):
        Text(str(tmp_path / "half"), length=8).setup()


@pytest.mark.parametrize("alphabet", ["letters", "bytes"])
def test_chunks_are_one_string_in_a_file_and_come_back_equal(tmp_path: Path, alphabet: str) -> None:
    rng = np.random.default_rng(0)
    raw = bytes(rng.integers(0, 256, 600).tolist()) if alphabet == "bytes" else some_text(600).encode()
    (tmp_path / "a.txt").write_bytes(raw)
    text = Text(str(tmp_path / "a.txt"), alphabet=alphabet, length=10, shift=False)  # type: ignore[arg-type]
    frame = text.frame("train").to_native()
    assert all(len(word) == 10 for word in frame["text"])
    assert np.array_equal(encode_frame(frame, text.schema).codes, text.data("train").codes)
    frame.to_parquet(tmp_path / "chunks.parquet")
    again = encode_frame(str(tmp_path / "chunks.parquet"), text.schema)
    assert np.array_equal(again.codes, text.data("train").codes)
    assert Schema.from_dict(text.schema_dict) == text.schema
    with pytest.raises(DataError, match=r"column 'text', row 1 \(counted from 0\): 3 characters, expected 10"):
        encode_frame(pd.DataFrame({"text": ["abcdefghij", "abc"]}), text.schema)


def test_a_missing_text_is_a_row_of_holes(tmp_path: Path) -> None:
    text = Text(written(tmp_path / "a.txt", some_text(600)), length=10, shift=False)
    data = encode_frame(pd.DataFrame({"text": ["aaaa  bbbb", None]}), text.schema)
    assert (data.codes[0] >= 0).all()
    assert (data.codes[1] == -1).all()


def pairs(num: int, seed: int = 0) -> str:
    """A text of pairs: ``ab`` or ``cd`` with equal chance, log 2 nats each."""
    rng = np.random.default_rng(seed)
    return "".join(rng.choice(["ab", "cd"], num // 2))


def is_made_of_pairs(word: str) -> bool:
    """A piece of such a text, which may begin within a pair."""
    inside = word if word[0] in "ac" else word[1:-1]
    ends = inside == word or word[-1] in "ac"
    return ends and all(inside[i : i + 2] in ("ab", "cd") for i in range(0, len(inside), 2))


def test_a_model_learns_a_text_of_known_entropy_and_writes_it(tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.txt", pairs(20_000))
    text = Text(path, length=6, shift=False, batch_size=50)
    text.setup()
    model = RADD(
        schema=text.schema_dict, width=32, num_layers=2, num_heads=2, lr=1e-2, schedule="cosine", patience=0, draws=2
    )
    train(model, text, None, progress=False, max_epochs=4, check_val_every_n_epoch=4)
    model.likelihood = "exact"
    nats = model.log_prob(text.data("test").select(slice(0, 60)))
    # three free pairs; and where pairs begin, which a network that sees distances and no places has to find out
    best = -4 * math.log(2)
    assert best - 0.1 < nats.mean() < best + 1e-3
    drawn = model.sample(50, seed=1)["text"].tolist()
    # a network that never saw a chunk begin within a pair errs there at times; by chance one word in 250 would do
    assert np.mean([is_made_of_pairs(word) for word in drawn]) > 0.7


def test_bits_per_character_are_logged_and_printed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", some_text(2000))
    said = say(
        "fit", "--model", "gidd", "--data", "Text", "--data.path", path, "--data.length", 16, "--model.width", 16,
        "--model.num_layers", 1, "--trainer.max_epochs", 1, "--run_dir", tmp_path / "run", *QUIET,
    )  # fmt: skip
    assert said.code == 0, said.err
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    row = metrics.dropna(subset=["val/nll"]).iloc[-1]
    unit = 16 * math.log(2)
    assert math.isclose(row["val/bpd"], row["val/nll"] / unit, rel_tol=1e-5)
    nats = genzoo.LogLikelihood.load(tmp_path / "run" / "test_log_likelihood.parquet")
    assert f"that is {-nats.mean() / unit:.4f} ± {nats.se_mean() / unit:.4f} bits per character" in said.out


def test_the_shared_text_has_its_documented_length_and_entropy() -> None:
    folder = SHARED / "wiki27_text"
    if not folder.is_dir():
        pytest.skip("shared data absent")
    text = Text(str(folder), length=128, shift=False)
    assert [len(text.data(s)) for s in ("train", "val", "test")] == [2732887 // 128, 151827 // 128, 151828 // 128]
    counts = np.bincount(text.data("train").codes.reshape(-1).astype(np.int64), minlength=27)
    share = counts / counts.sum()
    assert abs(-(share * np.log2(share)).sum() - 4.121) < 0.01
