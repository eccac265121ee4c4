"""Cells hidden on purpose: completely at random, at random given other columns, and by their own value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import DataError
from genzoo.tables.encode import HOLE, UNSEEN, TableData
from genzoo.tables.schema import Column, Schema

Mechanism = Literal["mcar", "mar", "mnar"]
MECHANISMS: tuple[Mechanism, ...] = ("mcar", "mar", "mnar")


@dataclass(frozen=True)
class Hidden:
    """Rows with cells hidden.

    Args:
        data: The rows; hidden cells are holes.
        numeric: ``(n, widths of schema.numeric)`` bool, the cells hidden.
        codes: ``(n, widths of schema.categorical)`` bool.
    """

    data: TableData
    numeric: NDArray[np.bool_]
    codes: NDArray[np.bool_]

    @property
    def num_cells(self) -> int:
        """How many cells are hidden."""
        return int(self.numeric.sum() + self.codes.sum())


def places(schema: Schema) -> list[tuple[Column, bool, int]]:
    """Each plain column with one cell a row: (column, is numeric, place in its array)."""
    found = []
    for numeric, columns in ((True, schema.numeric), (False, schema.categorical)):
        start = 0
        for column in columns:
            if not column.shape:
                found.append((column, numeric, start))
            start += column.width
    return found


def hide_cells(data: TableData, share: float = 0.2, mechanism: Mechanism = "mcar", seed: int = 0) -> Hidden:
    r"""Hides about ``share`` of the observed scored cells.

    ``mcar`` (completely at random): each cell by itself with probability ``share``. ``mar`` (at random): a third of
    the columns stays; cells of the others are hidden with probability
    :math:`\sigma(2 z + b)`, where z is a standardised random projection of the ranks of the columns that stay and b is
    solved so that the mean is ``share``. ``mnar`` (not at random): as ``mar``, with z the cell's own standardised rank
    (numbers) or a random weight of its category.

    Args:
        data: Rows with their holes; holes stay holes and are never counted as hidden. Nothing is hidden in numeric
            columns with ``missing: value``, where an empty cell is a value.
        share: Expected share of cells to hide, of the columns where cells are hidden; between 0 and 1.
        mechanism: How cells are chosen.
        seed: Seed of the choice; the same cells for every model.

    Raises:
        DataError: the share is not inside (0, 1), or ``mar`` with fewer than two scored columns.

    References:
        Rubin (1976), Inference and missing data, Biometrika 63.
    """
    if not 0 < share < 1:
        raise DataError(f"the share of cells to hide must lie between 0 and 1, got {share}")
    if mechanism not in MECHANISMS:
        raise DataError(f"unknown mechanism '{mechanism}'; known: {', '.join(MECHANISMS)}")
    rng = np.random.default_rng([seed, 0x6869])
    scored = [(c, n, i) for c, n, i in places(data.schema) if c in data.schema.scored]
    kept: list[tuple[Column, bool, int]] = []
    if mechanism == "mar":
        if len(scored) < 2:
            raise DataError("cells can be hidden at random given other columns only in a table of two or more columns")
        order = rng.permutation(len(scored))
        kept = [scored[i] for i in sorted(order[: max(1, len(scored) // 3)])]
    hidden = np.zeros(data.numeric.shape, bool), np.zeros(data.codes.shape, bool)
    for column, numeric, place in scored:
        if (column, numeric, place) in kept:
            continue
        uniform = rng.random(len(data))
        if mechanism == "mcar":
            chance: NDArray[np.float64] = np.full(len(data), share)
        elif mechanism == "mar":
            weights = rng.normal(size=len(kept))
            drive = sum((w * _rank(data, n, i, rng) for w, (_, n, i) in zip(weights, kept)), np.zeros(len(data)))
            chance = _chances(drive, share)
        else:
            chance = _chances(_rank(data, numeric, place, rng), share)
        if numeric and column.missing == "value":
            continue  # an empty cell is a value there, so there is no way to write that one is hidden
        target = hidden[0] if numeric else hidden[1]
        target[:, place] = (uniform < chance) & _observed(data, numeric, place)
    values, codes = data.numeric.astype(np.float64), data.codes.copy()
    values[hidden[0]] = np.nan
    codes[hidden[1]] = HOLE
    return Hidden(replace(data, numeric=values, codes=codes), *hidden)


def _observed(data: TableData, numeric: bool, place: int) -> NDArray[np.bool_]:
    """Cells with a value a model can know: no hole, no category unknown to training."""
    if numeric:
        return np.asarray(~np.isnan(data.numeric[:, place]))
    codes = data.codes[:, place]
    return np.asarray((codes != HOLE) & (codes != UNSEEN))


def _rank(data: TableData, numeric: bool, place: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Standardised ranks of a column, ties broken by their mean; random weights of categories; 0 for a hole."""
    out = np.zeros(len(data))
    seen = _observed(data, numeric, place)
    if numeric:
        values = data.numeric[seen, place]
        _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
        out[seen] = (np.cumsum(counts) - (counts - 1) / 2)[index]
    else:
        codes = data.codes[seen, place]
        out[seen] = rng.normal(size=int(codes.max(initial=0)) + 1)[codes]
    spread = out[seen].std() if seen.any() else 0.0
    out[seen] = (out[seen] - out[seen].mean()) / spread if spread > 0 else 0.0
    return out


def _chances(drive: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """sigmoid(2 z + b) with the b that makes the mean ``share``."""
    from scipy.optimize import brentq
    from scipy.special import expit

    spread = drive.std()
    z = (drive - drive.mean()) / spread if spread > 0 else np.zeros_like(drive)
    offset = brentq(lambda b: float(np.mean(expit(2 * z + b))) - share, -60, 60)
    return np.asarray(expit(2 * z + offset))
