"""Canonical preprocessing of the UCI density benchmarks, rule by rule, in numpy.

The rules follow the description of G. Papamakarios, T. Pavlakou, I. Murray, Masked Autoregressive Flow for Density
Estimation, NeurIPS 2017, and of its public data archive, quirks included: numbers on these data are comparable only if
every rule is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import DataError

Array = NDArray[np.float64]
POWER_COLUMNS = (
    "global_active_power",
    "voltage",
    "sub_metering_1",
    "sub_metering_2",
    "sub_metering_3",
    "time",
)
MAX_CORRELATION = 0.98
MAX_REPEATS = 5


@dataclass(frozen=True)
class Prepared:
    """Three splits in benchmark units: ``z = (x - shift) / scale`` for original (dithered) values ``x``.

    Args:
        train: ``(rows, D)`` float32.
        val: ``(rows, D)`` float32.
        test: ``(rows, D)`` float32.
        columns: Names.
        shift: ``(D,)`` float64, original units.
        scale: ``(D,)`` float64, original units per benchmark unit.
    """

    train: NDArray[np.float32]
    val: NDArray[np.float32]
    test: NDArray[np.float32]
    columns: tuple[str, ...]
    shift: Array
    scale: Array

    @property
    def log_scale(self) -> float:
        """``sum_j log scale_j``: a log-likelihood in original units is the benchmark's minus this."""
        return float(np.log(self.scale).sum())

    @property
    def shapes(self) -> tuple[int, int, int, int]:
        """Columns and rows of train, val and test."""
        return len(self.columns), len(self.train), len(self.val), len(self.test)


def cut_tenths(values: Array) -> tuple[Array, Array, Array]:
    """Train, validation, test: the last 10 % test, the last 10 % of the rest validation, both rounded down."""
    num_test = int(0.1 * len(values))
    rest, test = values[: len(values) - num_test], values[len(values) - num_test :]
    num_val = int(0.1 * len(rest))
    return rest[: len(rest) - num_val], rest[len(rest) - num_val :], test


def normalise(parts: Sequence[Array], columns: Sequence[str], reference: Array, ddof: int) -> Prepared:
    """Standardises the parts with mean and standard deviation of ``reference``, then rounds to float32.

    Raises:
        DataError: a column is constant in ``reference``.
    """
    if len(reference) < 2:
        raise DataError(f"the benchmark's normalisation needs at least 2 rows, got {len(reference)}")
    shift, scale = reference.mean(axis=0), reference.std(axis=0, ddof=ddof)
    if (scale == 0).any():
        raise DataError(f"column '{columns[int(np.argmin(scale))]}' is constant, so it cannot be normalised")
    train, val, test = (((part - shift) / scale).astype(np.float32) for part in parts)
    return Prepared(train, val, test, tuple(columns), shift, scale)


def names(count: int, prefix: str = "f") -> tuple[str, ...]:
    return tuple(f"{prefix}{j}" for j in range(count))


def power(raw: Array) -> Prepared:
    """POWER: 8 columns of the archive's array; columns 3 and 1 (intensity, reactive power) go, five are dithered."""
    if raw.ndim != 2 or raw.shape[1] != 8:
        raise DataError(f"the array of POWER has shape {raw.shape}; expected (rows, 8)")
    return dithered_power(np.delete(raw, [1, 3], axis=1), time_width=0.0)


def dithered_power(six: Array, time_width: float) -> Prepared:
    """Shuffles, adds uniform noise of one reading's width, splits, and normalises with train + validation.

    One generator, ``RandomState(42)``, gives the shuffle, then the noise of voltage, of active power, of the three
    meters as one block, and last of the time if ``time_width`` is not 0 (the benchmark adds none to it).

    Args:
        six: ``(rows, 6)`` in the order of ``POWER_COLUMNS``, original units.
        time_width: Width of the noise on the time column.
    """
    rng = np.random.RandomState(42)
    order = np.arange(len(six))
    rng.shuffle(order)
    values = np.array(six, dtype=np.float64)[order]
    num_rows = len(values)
    voltage = 0.01 * rng.rand(num_rows, 1)
    active = 0.001 * rng.rand(num_rows, 1)
    meters = rng.rand(num_rows, 3)
    time = time_width * rng.rand(num_rows, 1) if time_width else np.zeros((num_rows, 1))
    values += np.hstack([active, voltage, meters, time])
    train, val, test = cut_tenths(values)
    return normalise((train, val, test), POWER_COLUMNS, np.concatenate([train, val]), ddof=0)


def gas(values: Array, columns: Sequence[str]) -> Prepared:
    """GAS: concentrations and time dropped, correlated columns dropped, normalised with ALL rows, in file order.

    Args:
        values: ``(rows, columns)``.
        columns: Their names; ``Meth``, ``Eth`` and ``Time`` are dropped if there.
    """
    kept = [j for j, name in enumerate(columns) if name not in ("Meth", "Eth", "Time")]
    values = np.asarray(values[:, kept], dtype=np.float64)
    chosen = uncorrelated(values)
    values = values[:, chosen]
    chosen_names = [columns[kept[j]] for j in chosen]
    return normalise(cut_tenths(values), chosen_names, values, ddof=1)


def uncorrelated(values: Array) -> list[int]:
    """Columns left after dropping, one at a time, the first that correlates above 0.98 with another."""
    high = np.atleast_2d(np.corrcoef(values, rowvar=False)) > MAX_CORRELATION
    left = list(range(values.shape[1]))
    while True:
        partners = high[np.ix_(left, left)].sum(axis=1) > 1
        if not partners.any():
            return left
        left.pop(int(np.argmax(partners)))


def hepmass(train: Array, test: Array) -> Prepared:
    """HEPMASS: signal rows only (label 1 in the first column), repeated features dropped, validation from train.

    The test file has a superfluous last column, which goes.

    Args:
        train: ``(rows, 1 + D)`` with the label first.
        test: ``(rows, 1 + D)`` or ``(rows, 2 + D)``.
    """
    if test.shape[1] not in (train.shape[1], train.shape[1] + 1):
        raise DataError(
            f"the HEPMASS test file has {test.shape[1]} columns and the train file {train.shape[1]}; "
            "expected as many, or one more in the test file"
        )
    test = test[:, : train.shape[1]]
    train, test = (part[part[:, 0] == 1][:, 1:].astype(np.float64) for part in (train, test))
    if not len(train) or not len(test):
        raise DataError("a HEPMASS file has no row with label 1 in its first column")
    # The published filter looks at the smallest value's count, not at the commonest value's
    kept = np.flatnonzero((train == train.min(axis=0)).sum(axis=0) <= MAX_REPEATS)
    train, test = train[:, kept], test[:, kept]
    num_val = int(0.1 * len(train))
    parts = (train[: len(train) - num_val], train[len(train) - num_val :], test)
    return normalise(parts, [f"f{j}" for j in kept], train, ddof=1)


def miniboone(raw: Array) -> Prepared:
    """MINIBOONE: the archive's array is already reduced; split in file order, normalised with train + validation."""
    train, val, test = cut_tenths(np.asarray(raw, dtype=np.float64))
    return normalise((train, val, test), names(raw.shape[1]), np.concatenate([train, val]), ddof=0)


def as_they_are(train: Array, val: Array, test: Array) -> Prepared:
    """BSDS300: the file holds the three splits as they are used."""
    width = train.shape[1]
    single = [part.astype(np.float32) for part in (train, val, test)]
    return Prepared(single[0], single[1], single[2], names(width), shift=np.zeros(width), scale=np.ones(width))


def patches(train: Array, val: Array, test: Array) -> Prepared:
    """BSDS300 from 8 x 8 patches of bytes: ``(patch + u) / 256``, minus the mean of the 64 pixels, last pixel dropped.

    ``u`` is uniform on [0, 1), drawn once from ``RandomState(42)``: validation, then test, then train.
    """
    rng = np.random.RandomState(42)
    features = {}
    for split, part in (("val", val), ("test", test), ("train", train)):
        values = (part + rng.rand(*part.shape)) / 256
        features[split] = (values - values.mean(axis=1, keepdims=True))[:, :-1]
    return as_they_are(features["train"], features["val"], features["test"])
