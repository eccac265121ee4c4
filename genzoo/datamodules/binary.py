"""Binary vectors and binary images: rows of bits as one block column, from npz or Parquet, canonical splits kept."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import isqrt, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genzoo.datamodules.base import SPLITS, Split, TableDataModule
from genzoo.datamodules.splits import WORDS, check_fractions, column_split, random_split
from genzoo.errors import DataError
from genzoo.tables.schema import Column, Schema

if TYPE_CHECKING:
    from genzoo.tables.encode import TableData

Bits = NDArray[np.uint8]
WHOLE = "all"


class _BitBlock(TableDataModule):
    """What the two sources of bits share; a subclass says the shape of the block."""

    def __init__(
        self,
        path: str,
        column: str,
        val: float,
        test: float,
        max_rows: int | None,
        batch_size: int | None,
        eval_batch_size: int,
        seed: int,
        drop_last: bool,
    ) -> None:
        check_fractions(val, test)
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}")
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed, drop_last=drop_last)
        self.path, self.column = str(path), column
        self.val, self.test, self.max_rows = val, test, max_rows
        self.name = Path(path).stem + (f"_first_{max_rows}" if max_rows else "")

    @abstractmethod
    def _shape(self, num_bits: int) -> tuple[int, ...]:
        """Shape of the block of a row with so many bits."""

    def _num_bits(self, width: int) -> int | None:
        """Bits of a row known beforehand, for rows of ``width`` packed bytes that do not say it themselves."""
        return None

    def _load(self) -> dict[Split, TableData]:
        from genzoo.tables.encode import TableData

        parts = read_bits(self.path, self.column, self._num_bits)
        widths = sorted({part.shape[1] for part in parts.values()})
        if len(widths) > 1:
            raise DataError(f"'{self.path}' holds rows of different lengths: {widths}; all need the same")
        parts = self._split(parts)
        if self.max_rows is not None:
            parts = {split: part[: self.max_rows] for split, part in parts.items()}
        digest = hashlib.sha256()
        for split in SPLITS:
            digest.update(str(parts[split].shape).encode() + np.packbits(parts[split]).tobytes())
        schema = Schema(
            (
                Column(
                    self.column,
                    "binary",
                    storage="int",
                    categories=("0", "1"),
                    closed=True,
                    shape=self._shape(widths[0]),
                ),
            ),
            num_rows=sum(map(len, parts.values())),
            num_training_rows=len(parts["train"]),
            fingerprint=digest.hexdigest()[:16],
            source=self.name,
        )
        splits: dict[Split, TableData] = {}
        first = 0
        for split in SPLITS:
            number = len(parts[split])
            rows = np.arange(first, first + number, dtype=np.int64)
            # one byte a bit: a batch is widened when it is taken
            splits[split] = TableData(np.empty((number, 0)), parts[split].astype(np.int8), rows, schema)
            first += number
        return splits

    def _split(self, parts: dict[str, Bits]) -> dict[str, Bits]:
        if WHOLE in parts:
            whole = parts[WHOLE]
            return {
                split: whole[index] for split, index in random_split(len(whole), self.val, self.test, self.seed).items()
            }
        lacking = [split for split in SPLITS if split not in parts]
        if lacking:
            raise DataError(
                f"'{self.path}' holds {', '.join(parts)} and no {lacking[0]} rows; give all three, or one array "
                "without a split"
            )
        return parts


class BinaryVectors(_BitBlock):
    """Rows of bits, as one block column of kind binary: the NADE benchmarks (nltcs, plants, dna, ...) and their like.

    The likelihood is the probability of the row, in nats. Splits are those of the file: an ``npz`` with arrays
    ``train``, ``validation`` and ``test`` (bits, or bytes of eight bits with ``n_variables`` beside them), or a Parquet
    file with a column ``split``; a file without splits is split at random.

    Args:
        path: ``.npz``, ``.npy`` or ``.parquet``. In Parquet every column but ``split`` is one bit, or there is one
            column of lists, called ``column``.
        column: Name of the block in the schema.
        val: Share for validation, of a file without splits.
        test: Share for the test, of a file without splits.
        max_rows: Most rows of each split (the first ones), for quick trials; results are then not comparable.
        batch_size: Training rows a step and device; ``None`` chooses from the number of rows.
        eval_batch_size: Rows a step in validation and test.
        seed: Seed of the order of training rows, and of a random split.
        drop_last: Leave out the incomplete last training batch of each epoch.

    Raises:
        DataError: the file cannot be read, holds other values than bits, or lacks a split.

    References:
        H. Larochelle, I. Murray, The Neural Autoregressive Distribution Estimator, AISTATS 2011; D. Lowd, J. Davis,
        Learning Markov Network Structure with Decision Trees, ICDM 2010; J. Van Haaren, J. Davis, AAAI 2012.
    """

    def __init__(
        self,
        path: str,
        column: str = "bits",
        val: float = 0.1,
        test: float = 0.1,
        max_rows: int | None = None,
        batch_size: int | None = None,
        eval_batch_size: int = 4096,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        path = str(path)
        super().__init__(path, column, val, test, max_rows, batch_size, eval_batch_size, seed, drop_last)
        self.save_hyperparameters(logger=False)

    def _shape(self, num_bits: int) -> tuple[int, ...]:
        return (num_bits,)


class BinaryImages(_BitBlock):
    """Black and white pictures, as one block column of kind binary with a shape.

    The likelihood is the probability of the picture, in nats. Binarised MNIST comes in several kinds (a threshold, one
    fixed draw, a new draw for each epoch), whose likelihoods are not comparable: the file decides.

    Args:
        path: ``.npz``, ``.npy`` or ``.parquet`` of bits as for :class:`BinaryVectors`; arrays may be ``(rows, height,
            width)``.
        shape: Height and width; ``None``: those of the array, or a square.
        column: Name of the block in the schema, and of a list column of a Parquet file.
        val: Share for validation, of a file without splits.
        test: Share for the test, of a file without splits.
        max_rows: Most rows of each split (the first ones), for quick trials; results are then not comparable.
        batch_size: Training rows a step and device; ``None`` chooses from the number of rows.
        eval_batch_size: Rows a step in validation and test.
        seed: Seed of the order of training rows, and of a random split.
        drop_last: Leave out the incomplete last training batch of each epoch.

    Raises:
        DataError: the file cannot be read, holds other values than bits, lacks a split, or does not fit ``shape``.

    References:
        R. Salakhutdinov, I. Murray, On the Quantitative Analysis of Deep Belief Networks, ICML 2008.
    """

    def __init__(
        self,
        path: str,
        shape: Sequence[int] | None = None,
        column: str = "image",
        val: float = 0.1,
        test: float = 0.1,
        max_rows: int | None = None,
        batch_size: int | None = None,
        eval_batch_size: int = 1024,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        path = str(path)
        shape = None if shape is None else [int(side) for side in shape]
        super().__init__(path, column, val, test, max_rows, batch_size, eval_batch_size, seed, drop_last)
        self.save_hyperparameters(logger=False)
        self.shape = None if shape is None else tuple(shape)

    def _num_bits(self, width: int) -> int | None:
        if self.shape is not None:
            return prod(self.shape)
        return 8 * width if isqrt(8 * width) ** 2 == 8 * width else None

    def _shape(self, num_bits: int) -> tuple[int, ...]:
        if self.shape is not None and prod(self.shape) == num_bits:
            return self.shape
        side = isqrt(num_bits)
        if self.shape is None and side * side == num_bits:
            return (side, side)
        given = "which is no square; give 'shape'" if self.shape is None else f"and shape {list(self.shape)} has not"
        raise DataError(f"'{self.path}' has {num_bits} bits a picture, {given}")


def read_bits(path: str, column: str, num_bits: Any = None) -> dict[str, Bits]:
    """Rows of bits by split: ``train``, ``val``, ``test``, or ``all`` where the file does not say.

    Args:
        path: See :class:`BinaryVectors`.
        column: List column of a Parquet file.
        num_bits: Function of the number of bytes a row that tells the bits a row of packed bytes, where the file does
            not; ``None`` where it cannot.

    Returns:
        Arrays ``(rows, bits)`` of 0 and 1.

    Raises:
        DataError: absent, unreadable, or other values than bits.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise DataError(f"no file '{path}'; give an npz, npy or Parquet file of bits")
    ending = place.suffix.lower()
    if ending in (".parquet", ".pq"):
        return _read_parquet(place, column)
    if ending not in (".npz", ".npy"):
        raise DataError(f"'{path}' ends in '{ending}'; bits are read from npz, npy or Parquet")
    try:
        loaded = np.load(place, allow_pickle=False)
        arrays = {WHOLE: loaded} if ending == ".npy" else {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"'{path}' is not a readable {ending} file: {error}") from error
    count = next((int(arrays[key]) for key in ("n_variables", "num_variables") if key in arrays), None)
    rows = _by_split({name: array for name, array in arrays.items() if array.ndim >= 2}, path)
    return {name: _unpacked(array.reshape(len(array), -1), count, num_bits, path) for name, array in rows.items()}


def _by_split(arrays: Mapping[str, NDArray[Any]], path: str) -> dict[str, NDArray[Any]]:
    known = {word: part for part, words in WORDS.items() for word in words}
    known |= {f"x_{word}": part for word, part in known.items()}
    named = {known[name.lower()]: array for name, array in arrays.items() if name.lower() in known}
    if named:
        return named
    if len(arrays) == 1:
        return {WHOLE: next(iter(arrays.values()))}
    raise DataError(f"'{path}' holds {', '.join(arrays) or 'no rows'}; name its arrays train, validation and test")


def _unpacked(array: NDArray[Any], count: int | None, num_bits: Any, path: str) -> Bits:
    """Bits ``(rows, bits)`` of an array of bits, or of bytes of eight bits each."""
    plain = array.dtype == np.bool_ or not array.size or (array.max() <= 1 and array.min() >= 0)
    if count is None and plain:
        return _checked(array, path)
    if array.dtype != np.uint8:
        raise DataError(f"'{path}' holds other values than 0 and 1 ({array.dtype} up to {array.max()}); expected bits")
    if count is None and num_bits is not None:
        count = num_bits(array.shape[1])
    if count is None or not array.shape[1] * 8 - 8 < count <= array.shape[1] * 8:
        said = "does not say how many bits a row has" if count is None else f"has {count} variables"
        raise DataError(
            f"'{path}' {said}, and holds {array.shape[1]} bytes a row; give bits, or packed bytes with n_variables"
        )
    return np.unpackbits(array, axis=1)[:, :count]


def _checked(array: NDArray[Any], path: str) -> Bits:
    bits = array.astype(np.uint8)
    wrong = int(np.sum((bits > 1) | (bits != array)))
    if wrong:
        raise DataError(f"'{path}': {wrong} of {array.size} cells are not 0 or 1; expected bits")
    return bits


def _read_parquet(place: Path, column: str) -> dict[str, Bits]:
    import pyarrow.parquet as pq

    from genzoo.tables.cells import as_array, flat_cells, is_nested

    table = pq.read_table(place)
    names = [name for name in table.column_names if name.lower() != "split"]
    lists = [name for name in names if is_nested(table.schema.field(name).type)]
    if lists:
        if column not in lists:
            raise DataError(
                f"'{place}' has no list column '{column}'; it has {', '.join(lists)}; say which by 'column'"
            )
        cells: Any = as_array(table[column])
        while is_nested(cells.type):
            cells = flat_cells(cells)
        wide = [cells]
    else:
        wide = [as_array(table[name]) for name in names]
    for name, cells in zip(names, wide):
        if cells.null_count:
            raise DataError(f"column '{name}' of '{place}' has {cells.null_count} missing cells; bits have none")
    try:
        values = [cells.cast("uint8") if str(cells.type) == "bool" else cells for cells in wide]
        stacked = np.stack([np.asarray(v.to_numpy(zero_copy_only=False), dtype=np.float64) for v in values], axis=-1)
    except (TypeError, ValueError) as error:
        raise DataError(f"'{place}' holds other values than bits: {error}") from error
    number = table.num_rows
    if number == 0 or stacked.size % number:
        raise DataError(f"'{place}' holds no rows, or rows of different lengths")
    bits = _checked(stacked.reshape(number, -1), str(place))
    labels = [name for name in table.column_names if name.lower() == "split"]
    if not labels:
        return {WHOLE: bits}
    index = column_split(table[labels[0]].to_pylist(), labels[0])
    return {split: bits[where] for split, where in index.items()}
