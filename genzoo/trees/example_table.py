"""Examples of many targets, gathered block by block: in memory, or in scratch files that XGBoost reads page by page."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import GenZooError
from genzoo.trees.boosting import Examples, quantised
from genzoo.trees.library import xgboost

Block = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Features ``(n, F)`` and targets ``(n, P)`` of some rows; NaN is a hole."""
BIN_ROWS = 2**17
"""Rows that the edges of bins are taken from, evenly spaced among all."""
PAGE_ROWS = 2**17
"""Rows that are in memory at a time, where the table is on disk."""


class ExampleTable(AbstractContextManager["ExampleTable"]):
    """Features and targets of rows, and the features in bins.

    On disk, features and targets lie in a scratch folder (``TMPDIR`` names the disk) until the table is closed, and
    XGBoost keeps the binned features there too. Bins are the same in memory and on disk, and for any blocks, so the
    boosters are the same bytes (a test).

    Args:
        blocks: The rows; read once, one block after the other.
        bins: Bins of each feature.
        on_disk: Keep them on disk.
        like: A matrix of another table, whose bins these rows take.
    """

    matrix: Any
    """The binned features of all rows, for :func:`genzoo.trees.boosting.grow_on`."""

    def __init__(self, blocks: Iterable[Block], bins: int, on_disk: bool, like: Any = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="genzoo-") if on_disk else None
        if self._folder is None:
            parts = list(blocks)
            features, self._targets = (_joined([part[k] for part in parts]) for k in (0, 1))
            self.num_rows, self.num_targets = self._targets.shape
            if like is None and self._step > 1:
                like = quantised(features[:: self._step], bins)
            self.matrix = quantised(features, bins, like=like)
            return
        try:
            self._write(blocks)
            if like is None:
                spaced = [page[self._offset(start) :: self._step] for start, page in self._pages("features")]
                like = quantised(_joined(spaced), bins)
            self.matrix = _paged_matrix(self, str(Path(self._folder.name) / "bins"), bins, like)
        except BaseException:
            self.close()
            raise

    @property
    def _step(self) -> int:
        return max(1, -(-self.num_rows // BIN_ROWS))

    def _offset(self, start: int) -> int:
        """Place of the first evenly spaced row in a page that begins at row ``start``."""
        return -start % self._step

    def _write(self, blocks: Iterable[Block]) -> None:
        assert self._folder is not None
        self.num_rows = 0
        self._width: dict[str, int] = {}
        files = {name: (Path(self._folder.name) / name).open("wb") for name in ("features", "targets")}
        try:
            for block in blocks:
                self.num_rows += len(block[0])
                for (name, file), values in zip(files.items(), block, strict=True):
                    self._width[name] = values.shape[1]
                    file.write(np.ascontiguousarray(values, dtype=np.float32).tobytes())
        finally:
            for file in files.values():
                file.close()
        self.num_targets = self._width["targets"]

    def page(self, name: str, start: int) -> NDArray[np.float32]:
        """Up to :data:`PAGE_ROWS` rows of the ``features`` or ``targets`` on disk."""
        assert self._folder is not None
        width = self._width[name]
        path = Path(self._folder.name) / name
        flat = np.fromfile(path, dtype=np.float32, count=PAGE_ROWS * width, offset=start * width * 4)
        return flat.reshape(-1, width)

    def _pages(self, name: str) -> Iterable[tuple[int, NDArray[np.float32]]]:
        return ((start, self.page(name, start)) for start in range(0, self.num_rows, PAGE_ROWS))

    def examples(self, column: int | None) -> Examples:
        """One target of all rows, or all targets; a row without it has weight 0. The features are those of
        :attr:`matrix`.
        """
        chosen = slice(None) if column is None else column
        if self._folder is None:
            target = self._targets[:, chosen]
        else:
            target = np.concatenate([page[:, chosen] for _, page in self._pages("targets")])
        here = ~np.isnan(target)
        if column is None:
            if not here.all():
                raise GenZooError("leaves 'vector' need rows without holes; use leaves 'scalar' for this table")
            return Examples(np.empty((0, 0), dtype=np.float32), target)
        weight = None if here.all() else here.astype(np.float32)
        return Examples(np.empty((0, 0), dtype=np.float32), np.nan_to_num(target, nan=0.0), None, weight)

    def close(self) -> None:
        """Forgets the rows; scratch files are deleted."""
        self.matrix = None
        if self._folder is not None:
            self._folder.cleanup()

    def __exit__(self, *_: object) -> None:
        self.close()


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _paged_matrix(table: ExampleTable, cache: str, bins: int, like: Any) -> Any:
    """XGBoost's external memory: pages of binned features are written to ``cache`` and read from there."""
    xgb = xgboost()

    class Pages(xgb.DataIter):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.start = 0
            super().__init__(cache_prefix=cache)

        def reset(self) -> None:
            self.start = 0

        def next(self, input_data: Any) -> bool:
            if self.start >= table.num_rows:
                return False
            input_data(data=table.page("features", self.start))
            self.start += PAGE_ROWS
            return True

    return xgb.ExtMemQuantileDMatrix(Pages(), max_bin=bins, nthread=1, ref=like, enable_categorical=True)
