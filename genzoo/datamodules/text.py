"""Text as rows: chunks of symbols as one block column, from files or folders."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genzoo.datamodules.base import SPLITS, Split, TableDataModule
from genzoo.datamodules.splits import WORDS, check_fractions
from genzoo.errors import DataError
from genzoo.likelihood.noise import seed_of
from genzoo.tables.schema import Column, Schema

if TYPE_CHECKING:
    from genzoo.tables.encode import TableData

Alphabet = Literal["letters", "bytes"]
LETTERS = "abcdefghijklmnopqrstuvwxyz "
"""The 27 symbols of text8."""
ENDINGS = (".txt", ".text", ".md", ".xml", ".json", ".csv")
WHOLE = "all"

Symbols = NDArray[np.int16]


class Text(TableDataModule):
    """A text as rows: chunks of ``length`` symbols that do not overlap, each one cell block with one vocabulary.

    The likelihood of a chunk is the probability of its symbols, in nats; bits per character (logged as ``bpd``) are
    nats / (length ln 2). Every chunk is scored on its own: nothing is known of the text before it, so a longer chunk
    gives fewer bits per character.

    Splits: a folder with ``train``, ``validation`` and ``test`` files (or an ``npz`` with such arrays of bytes) keeps
    them; other sources are cut in their order: the first characters train, then validation, then test. A report on such
    rows uses a block bootstrap. What is left over at the end of a split, less than a chunk, is not used.

    Args:
        path: A text file, a folder of them, or an ``npz`` of bytes. A folder without split files is read as one text,
            its files in the order of their names.
        alphabet: ``letters``: a to z and blank, 27 symbols; ``bytes``: 256.
        clean: With ``letters``: turn capitals into small letters and every run of other characters into one blank,
            instead of refusing them.
        length: Symbols of a chunk.
        shift: Begin the training chunks at another place in every epoch (a function of seed and epoch).
        val: Share for validation, of a source without splits.
        test: Share for the test, of a source without splits.
        max_rows: Most chunks of each split (the first ones), for quick trials; results are then not comparable.
        batch_size: Training chunks a step and device.
        eval_batch_size: Chunks a step in validation and test.
        seed: Seed of the order of training chunks and of their shift.
        drop_last: Leave out the incomplete last training batch of each epoch.

    Raises:
        DataError: the source cannot be read, is too short, or holds characters that are not in the alphabet.

    References:
        M. Mahoney, About the Test Data, 2006 (text8: letters, 90 % / 5 % / 5 %; papers use chunks of 256).
    """

    def __init__(
        self,
        path: str,
        alphabet: Alphabet = "letters",
        clean: bool = False,
        length: int = 256,
        shift: bool = True,
        val: float = 0.05,
        test: float = 0.05,
        max_rows: int | None = None,
        batch_size: int | None = 64,
        eval_batch_size: int = 512,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if alphabet not in get_args(Alphabet):
            raise ValueError(f"alphabet must be one of {', '.join(get_args(Alphabet))}, got '{alphabet}'")
        if length < 2:
            raise ValueError(f"length must be at least 2, got {length}")
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}")
        check_fractions(val, test)
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed, drop_last=drop_last)
        path = str(path)
        self.save_hyperparameters(logger=False)
        self.path, self.alphabet, self.clean, self.length, self.shift = path, alphabet, clean, length, shift
        self.val, self.test, self.max_rows = val, test, max_rows
        self.name = Path(path).stem
        self.ordered = True
        self._training = np.empty(0, dtype=np.int16)

    def _load(self) -> dict[Split, TableData]:
        parts = {name: self._symbols(raw, name) for name, raw in read_bytes(self.path).items()}
        if WHOLE in parts:
            parts = self._cut(parts[WHOLE])
        digest = hashlib.sha256(f"{self.alphabet}/{self.length}/{self.max_rows}".encode())
        for split in SPLITS:
            if len(parts[split]) < self.length:
                raise DataError(
                    f"the {split} part of '{self.path}' has {len(parts[split])} characters, less than one chunk of "
                    f"{self.length}; give more text, or a smaller length"
                )
            digest.update(split.encode() + parts[split].tobytes())
        self._training = parts["train"]
        chunks = {split: self._chunks(parts[split], 0) for split in SPLITS}
        if self.shift:  # as many as fit wherever an epoch begins
            chunks["train"] = chunks["train"][: self._num_shifted()]
        words = tuple(LETTERS) if self.alphabet == "letters" else tuple(map(chr, range(256)))
        column = Column("text", "categorical", storage="text", categories=words, closed=True, shape=(self.length,))
        schema = Schema(
            (column,),
            num_rows=sum(map(len, chunks.values())),
            num_training_rows=len(chunks["train"]),
            missing_tokens=(),
            fingerprint=digest.hexdigest()[:16],
            source=self.name,
        )
        splits: dict[Split, TableData] = {}
        first = 0
        for split in SPLITS:
            splits[split] = _rows(chunks[split], first, schema)
            first += len(chunks[split])
        return splits

    def _cut(self, symbols: Symbols) -> dict[str, Symbols]:
        ends = [round(share * len(symbols)) for share in (1 - self.val - self.test, 1 - self.test)]
        return dict(zip(("train", "val", "test"), np.split(symbols, ends), strict=True))

    def _chunks(self, symbols: Symbols, offset: int) -> Symbols:
        number = (len(symbols) - offset) // self.length
        if self.max_rows is not None:
            number = min(number, self.max_rows)
        return symbols[offset : offset + number * self.length].reshape(number, self.length)

    def _num_shifted(self) -> int:
        return max(1, len(self._chunks(self._training, min(self.length - 1, len(self._training) - self.length))))

    def _refresh(self) -> Callable[[int], TableData] | None:
        if not self.shift:
            return None

        def shifted(epoch: int) -> TableData:
            room = min(self.length, len(self._training) - self.length + 1)
            offset = seed_of(self.seed, "shift", epoch) % room if epoch else 0
            chunks = self._chunks(self._training, offset)[: self._num_shifted()]
            return _rows(chunks, 0, self.schema)

        return shifted

    def _symbols(self, raw: bytes, part: str) -> Symbols:
        """Indices into the alphabet."""
        if self.alphabet == "bytes":
            return np.frombuffer(raw, dtype=np.uint8).astype(np.int16)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"'{self.path}' is not UTF-8 text ({error}); read it with alphabet: bytes") from error
        text = re.sub(r"[^a-z]+", " ", text.lower()) if self.clean else text.rstrip("\n")
        place = np.full(128, -1, dtype=np.int16)
        place[np.frombuffer(LETTERS.encode(), dtype=np.uint8)] = np.arange(len(LETTERS))
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        symbols = np.where(codes < 128, place[np.minimum(codes, 127)], -1).astype(np.int16)
        wrong = np.flatnonzero(symbols < 0)
        if len(wrong):
            where = "" if part == WHOLE else f" ({part} part)"
            raise DataError(
                f"'{self.path}'{where}: {len(wrong)} of {len(text)} characters are not among a to z and blank (first: "
                f"{text[wrong[0]]!r} at {wrong[0]}); use clean: true to turn them into blanks, or alphabet: bytes"
            )
        return symbols


def _rows(chunks: Symbols, first: int, schema: Schema) -> TableData:
    from genzoo.tables.encode import TableData

    rows = np.arange(first, first + len(chunks), dtype=np.int64)
    return TableData(np.empty((len(chunks), 0)), np.ascontiguousarray(chunks), rows, schema)


def read_bytes(path: str) -> dict[str, bytes]:
    """The bytes of a source by split: ``train``, ``val``, ``test``, or ``all`` where it does not say.

    Raises:
        DataError: absent, empty, or a split lacks.
    """
    place = Path(path).expanduser()
    known = {word: part for part, words in WORDS.items() for word in words}
    if place.is_dir():
        files = sorted(f for f in place.iterdir() if f.is_file() and f.suffix.lower() in ENDINGS)
        named = {known[f.stem.lower()]: f.read_bytes() for f in files if f.stem.lower() in known}
        if named:
            return _complete(named, path)
        files = [f for f in files if f.stem.lower() != "readme"]
        if not files:
            archives = sorted(place.glob("*.npz"))
            if len(archives) == 1:
                return read_bytes(str(archives[0]))
            raise DataError(f"'{path}' holds no text files ({', '.join(ENDINGS)})")
        return {WHOLE: b"\n".join(f.read_bytes() for f in files)}
    if not place.is_file():
        raise DataError(
            f"'{path}' is neither a file nor a folder; give a text file, a folder of them, or an npz of bytes"
        )
    if place.suffix.lower() == ".npz":
        try:
            with np.load(place, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"'{path}' is not a readable npz file: {error}") from error
        wrong = [name for name, array in arrays.items() if array.dtype != np.uint8 or array.ndim != 1]
        if wrong:
            raise DataError(f"'{path}': array '{wrong[0]}' is not a row of bytes (uint8)")
        named = {known[name.lower()]: array.tobytes() for name, array in arrays.items() if name.lower() in known}
        if named:
            return _complete(named, path)
        return {WHOLE: b"".join(array.tobytes() for array in arrays.values())}
    raw = place.read_bytes()
    if not raw:
        raise DataError(f"'{path}' is empty")
    return {WHOLE: raw}


def _complete(parts: dict[str, bytes], path: str) -> dict[str, bytes]:
    lacking = [split for split in SPLITS if split not in parts]
    if lacking:
        raise DataError(f"'{path}' has {', '.join(parts)} and no {lacking[0]} text; give all three, or one text")
    return parts
