"""What an ensemble has learned: boosters and small arrays by name, kept as bytes, one flat tensor in a checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genzoo.errors import CheckpointError
from genzoo.trees.library import xgboost

CUT_SHORT = "cut short"
"""A part that says how many boosters of a job a time limit kept from growing to their end."""


class BoosterStore:
    """Results of jobs. A result is a set of parts, each a booster (UBJSON) or a float64 array, as bytes.

    The bytes are what is compared, saved and resumed; boosters are read from them when first used. Those of a
    checkpoint stay where they are (in a mapped file) until then.
    """

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, bytes | memoryview]] = {}
        self._boosters: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> BoosterStore:
        """Bytes never change, so a copy shares them."""
        copy = BoosterStore()
        copy._parts = {job: dict(parts) for job, parts in self._parts.items()}
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """Bytes travel; boosters are read from them again."""
        return {"parts": {job: self.raw(job) for job in self._parts}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self._parts = state["parts"]

    def put(self, job: str, parts: Mapping[str, bytes]) -> None:
        """Keeps the result of a job, in place of an earlier one; it has at least one part."""
        if not parts:
            raise ValueError(f"job '{job}' has no parts")
        self._parts[job] = dict(parts)
        for key in [key for key in self._boosters if key[0] == job]:
            del self._boosters[key]

    def __contains__(self, job: str) -> bool:
        return job in self._parts

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def num_bytes(self) -> int:
        """Size of all parts."""
        return sum(len(part) for parts in self._parts.values() for part in parts.values())

    def missing(self, jobs: Iterable[str]) -> list[str]:
        """Those of ``jobs`` that have no result yet."""
        return [job for job in jobs if job not in self._parts]

    def has(self, job: str, part: str) -> bool:
        return part in self._parts.get(job, {})

    def array(self, job: str, part: str) -> NDArray[np.float64]:
        """A part that :func:`array_bytes` made, as a flat array."""
        return np.frombuffer(self._parts[job][part], dtype="<f8")

    def booster(self, job: str, part: str) -> Any:
        """A part that is a booster, ready to predict."""
        with self._lock:
            key = (job, part)
            if key not in self._boosters:
                booster = xgboost().Booster({"nthread": 1})
                booster.load_model(bytearray(self._parts[job][part]))
                self._boosters[key] = booster
            return self._boosters[key]

    def raw(self, job: str) -> dict[str, bytes]:
        """The parts of a job as they are kept."""
        return {name: bytes(part) for name, part in self._parts[job].items()}

    def to_state(self) -> dict[str, Any]:
        """Plain values and tensors: ``bytes`` uint8, ``offsets`` int64 ``(parts + 1,)``, and a name per part."""
        names = [(job, part) for job in sorted(self._parts) for part in sorted(self._parts[job])]
        blobs = [self._parts[job][part] for job, part in names]
        offsets = np.concatenate([[0], np.cumsum([len(blob) for blob in blobs], dtype=np.int64)]).astype(np.int64)
        flat = np.frombuffer(b"".join(blobs), dtype=np.uint8).copy()
        return {
            "bytes": torch.from_numpy(flat),
            "offsets": torch.from_numpy(offsets),
            "names": [list(name) for name in names],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> BoosterStore:
        """Inverse of :meth:`to_state`.

        Raises:
            CheckpointError: the offsets do not fit the bytes.
        """
        store = cls()
        offsets, names = state["offsets"].tolist(), state["names"]
        flat = memoryview(state["bytes"].cpu().numpy())
        if len(offsets) != len(names) + 1 or offsets[-1] != len(flat):
            raise CheckpointError("the checkpoint's trees are damaged: their offsets do not fit their bytes")
        for (job, part), start, end in zip(names, offsets[:-1], offsets[1:], strict=True):
            store._parts.setdefault(job, {})[part] = flat[start:end]
        return store


def array_bytes(values: Any) -> bytes:
    """A float64 array as bytes, the same on every machine."""
    return np.ascontiguousarray(values, dtype="<f8").tobytes()
