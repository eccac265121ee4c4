"""Which rows train, validate and test: random, grouped, in time or as a column says; rows that splits share."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import DataError
from genzoo.likelihood.noise import seed_of

Index = NDArray[np.int64]
ROWS_AT_ONCE = 8192
LONGEST_KEY = 512
"""Bytes of a row that are kept as they are to find its equals; longer ones are hashed."""

WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "holdout"),
}


def check_fractions(val: float, test: float) -> None:
    """Raises ValueError unless both are at least 0 and leave rows to train on."""
    for option, value in (("val", val), ("test", test)):
        if not 0 <= value < 1:
            raise ValueError(f"{option} is the share of rows held out, from 0 to below 1; got {value}")
    if val + test >= 1:
        raise ValueError(f"val + test must leave rows to train on; got {val} + {test}")


def held_out(num_rows: int, fraction: float) -> int:
    """Rows of a share: rounded down, but at least one if a share is asked for."""
    return max(1, int(fraction * num_rows)) if fraction > 0 else 0


def random_split(num_rows: int, val: float, test: float, seed: int) -> dict[str, Index]:
    """Rows at random. The test rows depend on ``seed`` and ``test`` alone; each part is in file order."""
    order = np.random.default_rng(seed_of(seed, "split")).permutation(num_rows)
    return _cut(order, val, test)


def ordered_split(keys: Sequence[Any] | NDArray[Any], val: float, test: float) -> dict[str, Index]:
    """The latest rows test, the ones before them validate, the earliest train; ties stay in file order."""
    order = np.argsort(np.asarray(keys), kind="stable")
    return _cut(order[::-1], val, test)


def grouped_split(groups: Sequence[Any] | NDArray[Any], val: float, test: float, seed: int) -> dict[str, Index]:
    """Whole groups at random: no group is in two parts.

    Groups are dealt out in random order until a part has its share of rows, so shares are met up to one group.

    Raises:
        DataError: fewer groups than parts.
    """
    names, number = np.unique(np.asarray(groups), return_inverse=True)
    parts = 1 + (val > 0) + (test > 0)
    if len(names) < parts:
        raise DataError(f"the group column has {len(names)} groups, and {parts} splits need at least one group each")
    sizes = np.bincount(number)
    order = np.random.default_rng(seed_of(seed, "split")).permutation(len(names))
    part_of = np.full(len(names), "train", dtype="<U5")
    start = 0
    for part, share, later in (("test", test, parts - 1), ("val", val, 1)):
        if share == 0:
            continue
        wanted, taken = share * len(number), 0
        while start < len(order) - later and taken < wanted:
            part_of[order[start]] = part
            taken += sizes[order[start]]
            start += 1
    return {part: np.flatnonzero(part_of[number] == part) for part in ("train", "val", "test")}


def fold_splits(
    num_rows: int, folds: int, val: float, seed: int, groups: Sequence[Any] | NDArray[Any] | None = None
) -> list[dict[str, Index]]:
    """Cross-validation: every row, or whole group, is tested in one fold; validation rows come from the others.

    Args:
        num_rows: Rows of the table.
        folds: Parts into which the rows are dealt.
        val: Share of all rows that validates in each fold.
        seed: Seed of the deal.
        groups: ``(num_rows,)`` names; rows of one name stay together.

    Raises:
        DataError: fewer rows or groups than folds ask for.
    """
    names = np.arange(num_rows) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    units = int(names.max(initial=-1)) + 1
    if folds < 2 or units < folds + 1:
        what = "rows" if groups is None else "groups"
        raise DataError(f"{units} {what} cannot be dealt into {folds} folds; give from 2 to {max(units - 1, 2)} folds")
    order = np.random.default_rng(seed_of(seed, "folds")).permutation(units)
    fold_of = np.empty(units, dtype=np.int64)
    fold_of[order] = np.arange(units) % folds
    splits = []
    for fold in range(folds):
        rest = order[fold_of[order] != fold]
        validating = np.roll(rest, -fold)[: min(held_out(units, val), len(rest) - 1)]
        part_of = np.full(units, "train", dtype="<U5")
        part_of[fold_of == fold] = "test"
        part_of[validating] = "val"
        splits.append({part: np.flatnonzero(part_of[names] == part) for part in ("train", "val", "test")})
    return splits


def column_split(labels: Sequence[Any], name: str) -> dict[str, Index]:
    """Rows by the words of a column: train, val (or valid, validation, dev), test (or holdout), in any case.

    Raises:
        DataError: another word, or no row for training.
    """
    words = np.array([str(label).strip().lower() for label in labels])
    known = {word: part for part, synonyms in WORDS.items() for word in synonyms}
    other = sorted(set(words.tolist()) - set(known))
    if other:
        raise DataError(f"split column '{name}' holds {other[0]!r}; it must say train, val or test in every row")
    parts = np.array([known[word] for word in words.tolist()], dtype="<U5")
    split = {part: np.flatnonzero(parts == part) for part in ("train", "val", "test")}
    if len(split["train"]) == 0:
        raise DataError(f"split column '{name}' marks no row as train")
    return split


def _cut(order: Index, val: float, test: float) -> dict[str, Index]:
    num_test = held_out(len(order), test)
    num_val = held_out(len(order), val)
    if len(order) - num_test - num_val < 1:
        raise DataError(
            f"{len(order)} row{'s' * (len(order) != 1)} cannot be split into training, validation and test rows; "
            "give at least 3, or train on all of them with genzoo fit --data.val 0 --data.test 0"
        )
    return {
        "test": np.sort(order[:num_test]),
        "val": np.sort(order[num_test : num_test + num_val]),
        "train": np.sort(order[num_test + num_val :]),
    }


class _Encoded(Protocol):
    @property
    def numeric(self) -> NDArray[np.float64]: ...
    @property
    def codes(self) -> NDArray[np.int64]: ...


def rows_in(some: _Encoded, others: _Encoded) -> NDArray[np.bool_]:
    """``(rows of some,)``: the row has an identical row among ``others``, holes included."""
    known = set(row_keys(others))
    return np.fromiter((row in known for row in row_keys(some)), dtype=bool, count=len(some.codes))


def row_keys(data: _Encoded) -> list[bytes]:
    """One key a row; equal rows, holes included, have equal keys. Keys of wide rows (blocks) are hashes."""
    keys: list[bytes] = []
    for start in range(0, len(data.codes), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        given = data.numeric[part]
        # + 0.0 turns -0.0 into 0.0; one NaN pattern for all holes
        numeric = np.where(np.isnan(given), np.nan, given + 0.0).astype(np.float64).view(np.int64)
        cells = np.ascontiguousarray(np.concatenate([numeric, data.codes[part].astype(np.int64)], axis=1))
        width = cells.dtype.itemsize * cells.shape[1]
        whole = cells.tobytes()
        rows = (whole[i * width : (i + 1) * width] for i in range(len(cells)))
        keys += rows if width <= LONGEST_KEY else (blake2b(row, digest_size=16).digest() for row in rows)
    return keys
