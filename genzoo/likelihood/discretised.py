"""Likelihood at the resolution of the data, and the spike index that finds densities which live on repeated values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import DataError
from genzoo.likelihood.averages import error_of_mean, weighted_mean
from genzoo.likelihood.kinds import add_kinds
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.tables.grid import find_grid
from genzoo.tables.schema import Column, Schema

Floats = NDArray[np.float64]
SPIKE_LIMIT = 0.1
SHARE_OF_IQR = 1e-3
_FEWEST_FOR_A_GRID = 5


class Rows(Protocol):
    """What is read of an encoded table (``genzoo.tables.encode.TableData``)."""

    @property
    def numeric(self) -> Floats: ...
    @property
    def rows(self) -> NDArray[np.int64]: ...
    @property
    def schema(self) -> Schema: ...


@dataclass(frozen=True)
class DiscretisedResult:
    """Likelihood at data resolution.

    Args:
        likelihood: Log-probabilities of the cells around each row, in space ``discretised``.
        spike_index: Mean of ``log p(x) + sum log d`` minus the discretised likelihood, nats a row: near 0 for a density
            that is smooth at the data's resolution, large where it places spikes on repeated values. NaN if no row
            has a likelihood.
        resolutions: Width of the cell of each column with a density, in the column's unit.
        spike_index_se: Standard error of the spike index over rows.
    """

    likelihood: LogLikelihood
    spike_index: float
    resolutions: Mapping[str, float] = field(default_factory=dict)
    spike_index_se: float = math.nan

    @property
    def withdraws_rank(self) -> bool:
        """The density lives on repeated values (spike index above 0.1 nats a row): its rank among densities is void."""
        return self.spike_index > SPIKE_LIMIT


def columns_with_density(schema: Schema) -> tuple[Column, ...]:
    """Scored columns whose likelihood is (outside atoms) a density. A quantized column is a probability already."""
    return tuple(c for c in schema.scored if c.kind in ("continuous", "mixed"))


def resolutions(schema: Schema, data: Rows) -> dict[str, float]:
    """Width of the cell of each column with a density, in its unit; scales with the unit.

    The step of the grid if the column's values are on one, else 1e-3 of the interquartile range (of the values outside
    atoms; where that is zero, of the whole range). Models are comparable in discretised space only when they share
    these numbers, so take them once, from the training rows, for all models.

    Args:
        schema: The table's schema.
        data: Encoded rows to read.

    Returns:
        Column name to width. A column without an observed value outside its atoms is left out.
    """
    found = {}
    for column, place in _places(schema):
        values = np.asarray(data.numeric[:, place], dtype=np.float64).ravel()
        values = values[np.isfinite(values) & ~np.isin(values, column.atoms)]
        if len(values):
            found[column.name] = float(column.step or grid_step(values) or _share_of_spread(values))
    return found


def grid_step(values: Floats) -> float | None:
    """The common step of the grid that finite ``values`` lie on (see :mod:`genzoo.tables.grid`), or ``None``.

    At least five different values are asked for: fewer lie on a grid too easily.
    """
    unique = np.unique(values)
    if len(unique) < _FEWEST_FOR_A_GRID:
        return None
    grid = find_grid(unique)
    return grid.step if grid.common else None


def discretised(
    model: Any,
    data: Rows,
    draws: int = 16,
    seed: int = 0,
    *,
    resolutions: Mapping[str, float] | None = None,
    model_draws: int | None = None,
) -> DiscretisedResult:
    r"""Log-probability of the cell around each row, and the spike index.

    With ``d_j`` the resolution of column ``j``, the box around a row is ``x_j +- d_j / 2`` over its observed cells that
    have a density (cut at declared bounds, so that its width is what lies inside), and ::

        log P(box) >= E log mean_k p(x + u_k) + sum_j log d_j,     u_k ~ U(box), k = 1..K

    Holes stay holes, atoms stay atoms, context columns and all other cells stay as they are, and no value becomes an
    atom. Only cells that were moved add ``log d_j``. The result is free of units, and a spike adds at most what the
    cell can hold. The spike index compares it with ``log p(x) + sum_j log d_j``; the model's own noise is the same in
    all terms (one seed), so that it cancels.

    Likelihood:
        ``lower_bound`` for an exact, unbiased or bound-only model (for the last, log-mean-exp of its bound, with draws
        common to the box, is still below). A model of unknown sign gives an estimate of unknown sign. Tighter with
        ``draws``, at one pass of the model each. Rows without a moved cell keep their value.

    Args:
        model: Anything with ``log_prob(data, seed=..., draws=...) -> LogLikelihood``.
        data: Encoded rows.
        draws: Points in each box, ``K``.
        seed: Of the points (by row number, whatever the batch) and of the model's noise.
        resolutions: Column name to width; by default :func:`resolutions` of these rows. Give the same for all models.
        model_draws: Draws of a model that is not exact; ``None`` leaves its own number.

    Raises:
        DataError: a column with a density has no resolution.
        ValueError: ``draws`` is below 1, or a resolution is not positive.
    """
    import torch

    from genzoo.likelihood.estimators import importance_weighted
    from genzoo.likelihood.noise import RowNoise

    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    widths = dict(_resolutions(data.schema, data) if resolutions is None else resolutions)
    boxes = _boxes(data, widths)
    noise = RowNoise(seed, torch.tensor(np.asarray(data.rows), dtype=torch.int64))

    def score(rows: Any) -> LogLikelihood:
        found: LogLikelihood = model.log_prob(rows, seed=seed, draws=model_draws)
        return found.aligned(np.asarray(data.rows))

    centre = score(data)
    settings = {"draws": draws, "seed": seed, "resolutions": widths, "model": centre.settings}
    common = {"discrete": None, "continuous": None, "by_column": None, "space": "discretised", "settings": settings}
    if not boxes.moves.any():
        values = {**common, "discrete": centre.values}
        return DiscretisedResult(replace(centre, **values), 0.0, widths, 0.0)  # type: ignore[arg-type]

    log_p = np.empty((len(data.rows), draws))
    errors = np.zeros_like(log_p)
    known = True
    for k in range(draws):
        uniform = noise.uniform(boxes.moves.shape[1], stream=f"discretised/{k}").numpy()
        drawn = score(replace(data, numeric=boxes.points(uniform)))  # type: ignore[type-var]
        log_p[:, k] = drawn.values
        known = known and (drawn.se is not None or drawn.kind == "exact")
        if drawn.se is not None:
            errors[:, k] = drawn.se
    mean, se_box = importance_weighted(torch.from_numpy(log_p))
    moved = boxes.moves.any(axis=1)
    value = np.where(moved, mean.numpy(), centre.values) + boxes.log_volume
    se: Floats | None = None
    if se_box is not None and known:
        # The model's noise is common to the K terms: its error is the weighted mean of theirs, not shrunk by K.
        top = np.where(np.isfinite(log_p.max(axis=1, keepdims=True)), log_p.max(axis=1, keepdims=True), 0.0)
        weight = np.exp(log_p - top)
        se_model = (weight * errors).sum(axis=1) / np.maximum(weight.sum(axis=1), 0.5)
        se = np.hypot(se_box.numpy(), se_model)
    kind, bias = add_kinds((centre.kind, centre.bias), ("lower_bound", "below"))
    likelihood = replace(
        centre,
        values=value,
        kind=kind,
        bias=bias,
        se=se,
        method=f"log-mean-exp over {draws} points of the cell" + (f" of: {centre.method}" if centre.method else ""),
        **{**common, "discrete": value},  # type: ignore[arg-type]
    )
    scored = np.isfinite(centre.values)
    index = centre.values[scored] + boxes.log_volume[scored] - value[scored]
    weights = None if centre.weights is None else centre.weights[scored]
    spike = weighted_mean(index, weights)
    spread = error_of_mean(index, weights) if len(index) > 1 and math.isfinite(spike) else math.nan
    return DiscretisedResult(likelihood, spike, widths, spread)


_resolutions = resolutions  # the argument of the same name hides the function


@dataclass(frozen=True)
class _Boxes:
    """Cells around the values of ``numeric[:, places]``: ``left`` and ``right`` reach, and which values move."""

    numeric: Floats
    places: NDArray[np.int64]
    moves: NDArray[np.bool_]
    left: Floats
    right: Floats
    atoms: tuple[Floats, ...]

    @property
    def log_volume(self) -> Floats:
        """``(n,)`` sum of the log widths of the cells that move."""
        return np.log(np.where(self.moves, self.left + self.right, 1.0)).sum(axis=1)

    def points(self, uniform: Floats) -> Floats:
        """All numeric values, the moving ones at share ``uniform`` of their cell."""
        numeric = self.numeric.copy()
        at = numeric[:, self.places]
        moved = np.where(self.moves, at - self.left + uniform * (self.left + self.right), at)
        for j, atoms in enumerate(self.atoms):
            hit = self.moves[:, j] & np.isin(moved[:, j], atoms)
            moved[hit, j] = np.nextafter(moved[hit, j], at[hit, j])  # the row itself is no atom: move towards it
        numeric[:, self.places] = moved
        return numeric


def _boxes(data: Rows, widths: Mapping[str, float]) -> _Boxes:
    numeric = np.asarray(data.numeric, dtype=np.float64)
    places, left, right, moves, atoms = [], [], [], [], []
    for column, place in _places(data.schema):
        values = numeric[:, place]
        # NaN is a hole, or an atom where a missing cell is a value: neither moves.
        inside = np.isfinite(values) & ~np.isin(values, column.atoms)
        lower = -math.inf if column.lower is None else column.lower
        upper = math.inf if column.upper is None else column.upper
        inside &= (values >= lower) & (values <= upper)
        if inside.any() and column.name not in widths:
            raise DataError(
                f"column '{column.name}' has a density but no resolution; give resolutions for "
                f"{', '.join(repr(c.name) for c in columns_with_density(data.schema))}"
            )
        half = widths.get(column.name, 1.0) / 2
        if not (math.isfinite(half) and half > 0):
            raise ValueError(f"column '{column.name}': a resolution must be above 0, got {widths[column.name]}")
        places.append(np.arange(numeric.shape[1])[place])
        left.append(np.where(inside, np.minimum(half, values - lower), 0.0))
        right.append(np.where(inside, np.minimum(half, upper - values), 0.0))
        moves.append(inside)
        atoms += [np.asarray(column.atoms, dtype=np.float64)] * column.width
    if not places:
        none = np.zeros((len(numeric), 0))
        return _Boxes(numeric, np.zeros(0, dtype=np.int64), none.astype(bool), none, none, ())
    joined = [np.concatenate(parts, axis=1) for parts in (moves, left, right)]
    return _Boxes(numeric, np.concatenate(places), joined[0].astype(bool), joined[1], joined[2], tuple(atoms))


def _places(schema: Schema) -> list[tuple[Column, slice]]:
    """Columns with a density, and where they stand in ``numeric``."""
    found, start = [], 0
    wanted = {c.name for c in columns_with_density(schema)}
    for column in schema.numeric:
        if column.name in wanted:
            found.append((column, slice(start, start + column.width)))
        start += column.width
    return found


def _share_of_spread(values: Floats) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    spread = float(high - low) or float(values.max() - values.min())
    # One value alone has no scale but its own size.
    return SHARE_OF_IQR * (spread or abs(float(values[0])) or 1.0)
