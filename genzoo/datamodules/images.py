"""Pictures as rows: one block column of 8-bit values, read from npz, npy, Parquet or a folder of picture files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genzoo.datamodules.base import SPLITS, Split, TableDataModule
from genzoo.datamodules.splits import WORDS, check_fractions, random_split
from genzoo.errors import DataError
from genzoo.tables.schema import Column, Schema

if TYPE_CHECKING:
    from genzoo.tables.batch import TableBatch
    from genzoo.tables.encode import TableData

Pictures = NDArray[np.uint8]

PICTURE_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".tif", ".tiff", ".webp")
WHOLE = ("x", "images", "data", "arr_0")
LARGEST = 255


class Images(TableDataModule):
    """Pictures of one size with 8-bit values, as rows of a single block column.

    The block is quantized with step 1 between 0 and 255, so a likelihood is the probability of the picture: nats a row,
    and bits per dimension = nats / (width ln 2). Values stay bytes in memory; a batch is widened when it is taken.

    Splits, in this order of preference: those of the source (arrays ``x_train``, ``x_test``, ``validation``, ... of an
    ``npz`` file, or subfolders ``train``, ``val``, ``test``); from a source with training and test pictures but without
    validation, the last training pictures validate; a source without splits is split at random by ``seed``.

    Args:
        path: ``.npz`` or ``.npy`` of shape ``(rows, height, width[, channels])`` or ``(rows, width)``, ``.parquet``
            with a column of lists, or a folder of picture files, which are read as grey.
        array: Such an array, or a dictionary of them by split, instead of ``path``; Python only, never saved.
        column: Name of the column in the schema, and of the list column in a Parquet file.
        shape: Shape of one picture, for sources that hold flat rows; ``None`` takes the source's own, or a square.
        val: Validation pictures: a number of them, or a share below 1. ``None``: as many as test pictures, at most a
            fifth of the training ones (MNIST: the last 10,000, as density papers do); 0.1 of a source without splits.
        test: Likewise for test pictures, where the source does not say which they are; ``None`` takes 0.1.
        max_rows: Most pictures of each split (the first ones), for quick trials; results are then not comparable.
        batch_size: Training rows a step and device.
        eval_batch_size: Rows a step in validation and test.
        seed: Seed of the order of training rows, and of a random split.
        drop_last: Leave out the incomplete last training batch of each epoch.

    Raises:
        DataError: the source cannot be read, pictures differ in size, or values are not whole numbers from 0 to 255.

    Example:
        >>> module = Images(array=np.zeros((100, 4, 4), dtype=np.uint8))
        >>> module.schema["image"].shape
        (4, 4)
    """

    def __init__(
        self,
        path: str | None = None,
        array: Any = None,
        column: str = "image",
        shape: Sequence[int] | None = None,
        val: float | None = None,
        test: float | None = None,
        max_rows: int | None = None,
        batch_size: int | None = 100,
        eval_batch_size: int = 1000,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if (path is None) == (array is None):
            given = "neither" if path is None else "both"
            raise ValueError(f"give 'path' (npz, npy, Parquet or a folder) or 'array'; got {given}")
        for option, value in (("val", val), ("test", test)):
            if value is not None and (value < 0 or (value >= 1 and value != int(value))):
                raise ValueError(f"{option} is a share below 1 or a whole number of pictures, got {value}")
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}")
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed, drop_last=drop_last)
        path = None if path is None else str(path)
        shape = None if shape is None else [int(side) for side in shape]
        self.save_hyperparameters(ignore=["array"], logger=False)
        self.path, self.array, self.column, self.shape = path, array, column, shape
        self.val, self.test, self.max_rows = val, test, max_rows
        self.name = "images" if path is None else Path(path).stem + (f"_first_{max_rows}" if max_rows else "")

    def fit_sample(self, max_rows: int = 10_000, seed: int = 0) -> TableBatch:
        """Training pictures to fit a codec on; fewer than of a table, for they are wide."""
        return super().fit_sample(max_rows, seed)

    def _load(self) -> dict[Split, TableData]:
        from genzoo.tables.encode import TableData

        found = _by_split(self.array) if self.array is not None else read_pictures(str(self.path), self.column)
        source = self.path or "the array"
        parts = {name: _checked(part, source, self.shape) for name, part in found.items()}
        shapes = {part.shape[1:] for part in parts.values()}
        if len(shapes) > 1:
            raise DataError(f"'{source}' holds pictures of different shapes: {sorted(shapes)}; all need the same")
        parts = self._split(parts)
        if self.max_rows is not None:
            parts = {name: part[: self.max_rows] for name, part in parts.items()}
        schema = Schema(
            (
                Column(
                    self.column,
                    "quantized",
                    storage="int",
                    step=1.0,
                    lower=0.0,
                    upper=float(LARGEST),
                    shape=shapes.pop(),
                ),
            ),
            num_rows=sum(map(len, parts.values())),
            num_training_rows=len(parts["train"]),
            fingerprint=_fingerprint([parts[split] for split in SPLITS]),
            source=self.name,
        )
        splits: dict[Split, TableData] = {}
        first = 0
        for split in SPLITS:
            number = len(parts[split])
            splits[split] = TableData(
                numeric=np.ascontiguousarray(parts[split].reshape(number, -1)),
                codes=np.empty((number, 0), dtype=np.int64),
                rows=np.arange(first, first + number, dtype=np.int64),
                schema=schema,
                counts={"unseen": 0, "off_grid": 0, "outside": 0},
            )
            first += number
        return splits

    def _split(self, parts: dict[str, Pictures]) -> dict[str, Pictures]:
        """Training, validation and test pictures."""
        if "all" in parts:
            whole = parts["all"]
            val, test = (_share(v, len(whole)) for v in (self.val, self.test))
            check_fractions(val, test)
            return {name: whole[index] for name, index in random_split(len(whole), val, test, self.seed).items()}
        if "train" not in parts:
            raise DataError(f"'{self.path}' has no training pictures; it has {', '.join(parts)}")
        if "test" not in parts:
            number = round(_share(self.test, len(parts["train"])) * len(parts["train"]))
            parts["test"], parts["train"] = _cut(parts["train"], number)
        if "val" not in parts:
            number = len(parts["train"])
            usual = min(len(parts["test"]), number // 5)
            wanted = usual if self.val is None else int(self.val if self.val >= 1 else self.val * number)
            parts["val"], parts["train"] = _cut(parts["train"], wanted)
        if not len(parts["train"]):
            raise DataError(f"no training pictures are left of '{self.path}'; ask for fewer with 'val' and 'test'")
        return parts


def read_pictures(path: str, column: str = "image") -> dict[str, NDArray[Any]]:
    """Arrays of a source by split: ``train``, ``val``, ``test``, or ``all`` where it does not say.

    Args:
        path: A file or folder, see :class:`Images`.
        column: List column of a Parquet file.

    Raises:
        DataError: absent, unreadable, or of another kind.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return _read_folder(place)
    if not place.is_file():
        raise DataError(f"'{path}' is neither a file nor a folder; give an npz, npy or Parquet file, or a folder")
    ending = place.suffix.lower()
    try:
        if ending == ".npy":
            return {"all": np.load(place, allow_pickle=False)}
        if ending == ".npz":
            with np.load(place, allow_pickle=False) as archive:
                return _of_archive({name: archive[name] for name in archive.files}, path)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"'{path}' is not a readable {ending} file: {error}") from error
    if ending in (".parquet", ".pq"):
        return {"all": _read_parquet(place, column)}
    raise DataError(f"'{path}' ends in '{ending}'; pictures are read from npz, npy, Parquet or a folder of files")


def _by_split(given: Any) -> dict[str, NDArray[Any]]:
    if isinstance(given, dict):
        return _of_archive({str(k): np.asarray(v) for k, v in given.items()}, "the array")
    return {"all": np.asarray(given)}


def _of_archive(arrays: dict[str, NDArray[Any]], path: str) -> dict[str, NDArray[Any]]:
    """The arrays of an archive by split, found by their names; labels and the like are left out."""
    named: dict[str, str] = {}
    for part, words in WORDS.items():
        for word in words:
            named |= dict.fromkeys((word, f"x_{word}", f"{word}_x", f"{word}_images"), part)
    found: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        place = named.get(name.lower())
        if place is not None and array.ndim >= 2:
            found[place] = array
    if found:
        return found
    wide = {name: array for name, array in arrays.items() if array.ndim >= 2}
    for name in WHOLE:
        if name in wide:
            return {"all": wide[name]}
    if len(wide) == 1:
        return {"all": next(iter(wide.values()))}
    raise DataError(
        f"'{path}' holds {', '.join(arrays) or 'nothing'}; name the arrays of pictures x_train, x_val, x_test, or "
        "images for one without splits"
    )


def _read_parquet(place: Path, column: str) -> NDArray[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from genzoo.tables.cells import as_array, is_nested

    names = pq.read_schema(place).names
    if column not in names:
        raise DataError(f"'{place}' has no column '{column}'; it has {', '.join(names)}; name one with --data.column")
    cells: Any = as_array(pq.read_table(place, columns=[column])[column])
    if not is_nested(cells.type):
        raise DataError(f"column '{column}' of '{place}' holds {cells.type}; pictures need lists of numbers")
    shape = [len(cells)]
    while is_nested(cells.type):
        lengths = np.unique(np.asarray(pc.list_value_length(cells).fill_null(-1)))
        if len(lengths) != 1 or lengths[0] < 1:
            raise DataError(f"column '{column}' of '{place}' holds lists of unequal length; pictures need one size")
        shape.append(int(lengths[0]))
        cells = as_array(cells.flatten())
    if cells.null_count or not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type)):
        raise DataError(f"column '{column}' of '{place}' holds missing cells or {cells.type}; pictures need numbers")
    return np.asarray(cells.to_numpy(zero_copy_only=False)).reshape(shape)


def _read_folder(place: Path) -> dict[str, NDArray[Any]]:
    """Picture files in the order of their names, as grey; subfolders that are called like a split are splits."""
    known = {word: part for part, words in WORDS.items() for word in words}
    folders = {known[f.name.lower()]: f for f in sorted(place.iterdir()) if f.is_dir() and f.name.lower() in known}
    if not folders:
        folders = {"all": place}
    return {part: _read_files(folder) for part, folder in folders.items()}


def _read_files(folder: Path) -> NDArray[Any]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError("reading picture files needs Pillow; pip install pillow, or give an npz file") from error
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in PICTURE_FILES)
    if not files:
        raise DataError(f"'{folder}' holds no picture files ({', '.join(PICTURE_FILES)})")
    pictures: list[Pictures] = []
    for file in files:
        try:
            with Image.open(file) as picture:
                pictures.append(np.asarray(picture.convert("L"), dtype=np.uint8))
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"'{file}' is not a readable picture: {error}") from error
        if pictures[-1].shape != pictures[0].shape:
            raise DataError(
                f"'{file}' has {pictures[-1].shape} pixels and '{files[0]}' has {pictures[0].shape}; pictures need one "
                "size: crop or resize them first"
            )
    return np.stack(pictures)


def _checked(array: NDArray[Any], source: str, shape: Sequence[int] | None) -> Pictures:
    """Pictures ``(rows, *shape)`` as bytes."""
    if array.ndim < 2 or not len(array) or array[0].size == 0:
        raise DataError(f"'{source}' holds an array of shape {array.shape}; expected (rows, height, width)")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise DataError(f"'{source}' holds {array.dtype}; pictures are whole numbers from 0 to {LARGEST}")
    if array.dtype != np.uint8:
        with np.errstate(invalid="ignore"):
            wrong = int(np.sum(~((array >= 0) & (array <= LARGEST) & (array == np.floor(array)))))
        if wrong:
            raise DataError(
                f"'{source}': {wrong} of {array.size} values are not whole numbers from 0 to {LARGEST}; store pictures "
                "as bytes (a picture scaled to 0..1 has lost its grid: multiply by 255 and round)"
            )
        array = array.astype(np.uint8)
    if shape is not None:
        if np.prod(shape) != array[0].size:
            raise DataError(f"'{source}' has {array[0].size} values a picture, which shape {list(shape)} does not hold")
        return array.reshape(len(array), *shape)
    if array.ndim == 4 and array.shape[-1] == 1:
        return array[..., 0]
    if array.ndim == 2:
        side = isqrt(array.shape[1])
        if side * side == array.shape[1]:
            return array.reshape(len(array), side, side)
    return array


def _share(given: float | None, number: int) -> float:
    return 0.1 if given is None else given / number if given >= 1 else given


def _cut(pictures: Pictures, number: int) -> tuple[Pictures, Pictures]:
    """The last ``number`` pictures, and those before them."""
    return pictures[len(pictures) - number :], pictures[: len(pictures) - number]


def _fingerprint(parts: Sequence[Pictures]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(part.shape).encode() + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
