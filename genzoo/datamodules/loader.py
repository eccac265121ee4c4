"""Fast batches of raw rows: whole arrays sliced by index, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genzoo.errors import DataError
from genzoo.likelihood.noise import seed_of
from genzoo.tables.batch import TableBatch

WIDE = (np.float64, np.int64, np.int64, np.float64)
"""Types of a batch: numeric, codes, rows, weights (if there are any)."""
MAX_DEVICE_SHARE = 0.25
"""Rows are kept on an accelerator if they take at most this share of its free memory."""


class Rows(Protocol):
    """What a loader reads of a table: the arrays of ``TableData``."""

    @property
    def numeric(self) -> NDArray[np.float64]: ...
    @property
    def codes(self) -> NDArray[np.int64]: ...
    @property
    def rows(self) -> NDArray[np.int64]: ...
    @property
    def weights(self) -> NDArray[np.float64] | None: ...


def smallest_exact(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The same numbers in the smallest type that holds each of them exactly.

    Integers are tried first (a table of pixels takes one byte a cell), then float32, then the type that came in. NaN
    needs a float.
    """
    whole = np.issubdtype(values.dtype, np.integer) or bool(np.isfinite(values).all())
    if values.size and whole:
        low, high = values.min(), values.max()
        for kind in (np.uint8, np.int8, np.int16, np.int32):
            limits = np.iinfo(kind)
            if limits.min <= low and high <= limits.max and np.array_equal(values.astype(kind), values):
                return values.astype(kind)
    if np.issubdtype(values.dtype, np.integer):
        return values
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    return single if np.array_equal(single.astype(values.dtype), values, equal_nan=True) else values


class RowStore:
    """The rows of one split, held in the smallest exact type; ``take`` widens a batch to float64 and int64.

    On the host, rows are gathered by numpy, which uses one thread whatever ``torch.get_num_threads()`` says: small
    gathers lose more to waking a second thread than they gain. On an accelerator the arrays live there and nothing is
    copied per batch but the index.

    Args:
        data: Arrays ``numeric`` (rows, num_numeric), ``codes`` (rows, num_categorical), ``rows`` (rows,) and, where
            rows have weights, ``weights`` (rows,).
        device: Where to keep them; ``None`` and ``cpu`` are the host.
        pin_memory: Give host batches in page-locked memory.
    """

    def __init__(self, data: Rows, device: torch.device | str | None = None, pin_memory: bool = False) -> None:
        weights = getattr(data, "weights", None)
        held = (data.numeric, data.codes, data.rows, *(() if weights is None else (weights,)))
        self.arrays = tuple(np.ascontiguousarray(smallest_exact(np.asarray(a))) for a in held)
        self.num_rows = len(self.arrays[2])
        self.pin_memory = pin_memory
        self.tensors: tuple[Tensor, ...] | None = None
        if device is not None and fits(self.num_bytes, torch.device(device)):
            self.tensors = tuple(torch.from_numpy(a).to(device) for a in self.arrays)

    @property
    def num_bytes(self) -> int:
        return sum(a.nbytes for a in self.arrays)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.tensors is None else self.tensors[2].device

    def take(self, index: NDArray[np.int64] | slice) -> TableBatch:
        """The rows at ``index``, as float64 and int64 tensors that share no memory with the store."""
        if self.tensors is not None:
            where = index if isinstance(index, slice) else torch.from_numpy(index).to(self.device, non_blocking=True)
            wide = zip(self.tensors, WIDE, strict=False)
            return TableBatch(*(t[where].to(getattr(torch, kind.__name__), copy=True) for t, kind in wide))
        cut = [a[index] if isinstance(index, slice) else a.take(index, axis=0) for a in self.arrays]
        batch = TableBatch(
            *(
                torch.from_numpy(a.astype(kind, copy=isinstance(index, slice)))
                for a, kind in zip(cut, WIDE, strict=False)
            )
        )
        return batch.pin_memory() if self.pin_memory else batch


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether ``num_bytes`` may be kept on ``device``: an accelerator with room to spare and 64-bit floats."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= MAX_DEVICE_SHARE * free


class EpochOrder:
    """Which rows each step of an epoch takes, on each of ``world_size`` devices.

    Training: one permutation of all rows, drawn from (seed, epoch), the same on every device; each global batch of
    ``batch_size * world_size`` rows is dealt out in turn, so all devices take equally many steps. Evaluation: device r
    takes rows r, r + world_size, ...: every row once, none repeated to pad.

    Args:
        num_rows: Rows of the split.
        batch_size: Rows a step and device.
        shuffle: Training (true) or evaluation (false).
        seed: Seed of the order.
        drop_last: Leave out the incomplete last batch (never the only one).
        rank: This device.
        world_size: Number of devices.

    Raises:
        DataError: fewer rows than devices.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be between 0 and world_size - 1 = {world_size - 1}, got {rank}")
        if 0 < num_rows < world_size:
            # a device without a batch would leave the others waiting for it at the end of the epoch
            raise DataError(f"{num_rows} rows cannot be shared by {world_size} devices; use fewer devices")
        self.num_rows, self.batch_size, self.shuffle, self.seed = num_rows, batch_size, shuffle, seed
        self.drop_last, self.rank, self.world_size = drop_last, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, also after a resume."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        """Number of steps an epoch on this device."""
        if not self.shuffle:
            mine = len(range(self.rank, self.num_rows, self.world_size))
            steps, rest = divmod(mine, self.batch_size)
            return steps + (rest > 0 and not (self.drop_last and steps > 0))
        steps, rest = divmod(self.num_rows, self.batch_size * self.world_size)
        return steps + (rest >= self.world_size and not (self.drop_last and steps > 0))

    def permutation(self) -> NDArray[np.int64]:
        """The order of all rows in the present epoch."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "order", self.epoch))
        return torch.randperm(self.num_rows, generator=generator).numpy()

    def __iter__(self) -> Iterator[NDArray[np.int64] | slice]:
        if not self.shuffle:
            stride = self.batch_size * self.world_size
            for step in range(len(self)):
                first = self.rank + step * stride
                yield slice(first, min(first + stride, self.num_rows), self.world_size)
            return
        order = self.permutation()
        stride = self.batch_size * self.world_size
        for step in range(len(self)):
            yield order[step * stride + self.rank : (step + 1) * stride : self.world_size]


class BatchLoader:
    """Iterable of :class:`TableBatch` that Lightning takes as a dataloader.

    Rows are sliced a batch at a time from whole arrays, with no per-row Python. The order is a function of (seed,
    epoch) alone, and Lightning sets the epoch through ``sampler``, so a run resumed at the end of an epoch sees the
    same batches as an uninterrupted one and nothing has to be saved.

    Args:
        data: A ``TableData``, or anything with its three arrays. With ``refresh`` it stands for the first epoch.
        batch_size: Rows a step and device.
        shuffle: Training order (true) or file order (false).
        seed: Seed of the order.
        drop_last: Leave out the incomplete last batch (never the only one).
        rank: This device; ``world_size``: how many. Evaluation counts each row once over all of them, training takes
            equally many steps on each.
        world_size: Number of devices.
        device: Keep the rows there if they fit.
        pin_memory: Page-locked host batches.
        refresh: Function of the epoch that draws the rows of that epoch (toys with fresh samples); the number of rows
            must stay the same.

    Example:
        >>> from types import SimpleNamespace
        >>> data = SimpleNamespace(numeric=np.zeros((5, 2)), codes=np.zeros((5, 1), int), rows=np.arange(5))
        >>> [len(batch) for batch in BatchLoader(data, batch_size=2)]
        [2, 2, 1]
    """

    def __init__(
        self,
        data: Rows,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str | None = None,
        pin_memory: bool = False,
        refresh: Callable[[int], Rows] | None = None,
    ) -> None:
        self._device, self._pin_memory, self._refresh = device, pin_memory, refresh
        self._store = RowStore(data, device, pin_memory)
        self._store_epoch: int | None = None if refresh is not None else 0
        self.batch_size = batch_size
        # Lightning reads both attributes of anything that has a sampler, and sets the epoch of ``sampler``
        self.batch_sampler = None
        self.sampler = EpochOrder(
            self._store.num_rows,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def num_rows(self) -> int:
        """Rows of the split, over all devices."""
        return self.sampler.num_rows

    def __iter__(self) -> Iterator[TableBatch]:
        # A generator: the epoch is read at the first batch, because Lightning makes the iterator of a resumed run
        # before it tells the epoch.
        store = self._rows_of_epoch()
        for index in self.sampler:
            yield store.take(index)

    def _rows_of_epoch(self) -> RowStore:
        if self._refresh is not None and self._store_epoch != self.sampler.epoch:
            store = RowStore(self._refresh(self.sampler.epoch), self._device, self._pin_memory)
            if store.num_rows != self.sampler.num_rows:
                raise ValueError(f"an epoch has {self.sampler.num_rows} rows, refresh gave {store.num_rows}")
            self._store, self._store_epoch = store, self.sampler.epoch
        return self._store
