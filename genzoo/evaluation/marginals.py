"""Samples beside data, one column and two columns at a time.

Both tables are counted in the same bins, which come from the data alone: atoms and categories stand for themselves, the
other numbers fall into intervals with an open bin at each end, so nothing is left out. The distance of two sets of
proportions is their total variation, with the value that two samples of these sizes from one distribution would show by
chance. It is a proxy that sees one or two columns; it never ranks a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genzoo.tables.schema import Column, Schema

MISSING = -1
MAX_CATEGORIES = 10

Values = NDArray[Any]


def column_values(frame: Any, column: Column, missing_tokens: Sequence[str] = ()) -> Values:
    """Cells of one column: ``(n,)`` float64 with NaN for a hole, or ``(n,)`` objects (text) with ``None`` for a hole.

    Dates become days and times become seconds since 1970-01-01; cells are read as ``encode_frame`` reads them.
    """
    from genzoo.tables.cells import as_array, texts
    from genzoo.tables.encode import number_cells
    from genzoo.tables.frames import to_arrow

    table = frame if isinstance(frame, pa.Table) else to_arrow(frame)
    cells = as_array(table[column.name])
    if column.is_numeric:
        return number_cells(cells, column, missing_tokens)
    words = [None] * len(cells) if pa.types.is_null(cells.type) else texts(cells, missing_tokens).to_pylist()
    out = np.empty(len(words), dtype=object)
    out[:] = words
    if column.storage == "bool":
        named = {"true": "True", "1": "True", "false": "False", "0": "False"}
        out[:] = [None if word is None else named.get(word.lower(), word) for word in words]
    return out


def missing_share(frame: Any, column: Column, missing_tokens: Sequence[str] = ()) -> float:
    """Share of holes in a column."""
    values = column_values(frame, column, missing_tokens)
    if not len(values):
        return 0.0
    return float(np.mean(np.isnan(values) if column.is_numeric else [cell is None for cell in values]))


@dataclass(frozen=True)
class Bins:
    """The bins in which one column is counted.

    Args:
        column: The column.
        labels: Categories or atoms with a bin of their own, in order of drawing.
        edges: ``(num_intervals + 1,)`` ascending ends of the intervals; empty for categories.
        has_other: A last bin gathers rarer categories.
    """

    column: Column
    labels: tuple[str, ...]
    edges: NDArray[np.float64]
    has_other: bool = False

    @classmethod
    def of(cls, column: Column, values: Values, num_intervals: int = 24) -> Bins:
        """Bins for a column, chosen from the data (never from samples)."""
        if not column.is_numeric:
            return cls._of_categories(column, values)
        labels = tuple(f"{atom:g}" for atom in column.atoms) + (("missing",) if column.missing == "value" else ())
        rest = values[np.isfinite(values) & ~np.isin(values, column.atoms)]
        return cls(column, labels, _edges(column, rest, num_intervals))

    @classmethod
    def _of_categories(cls, column: Column, values: Values) -> Bins:
        found: dict[str, int] = dict.fromkeys(column.categories, 0)
        if column.missing == "value":
            values = np.array(["missing" if cell is None else cell for cell in values], dtype=object)
        for cell in values:
            if cell is not None:
                found[cell] = found.get(cell, 0) + 1
        common = sorted(found, key=lambda name: -found[name])
        if len(common) > MAX_CATEGORIES:
            common = common[: MAX_CATEGORIES - 1]
        # Known order (education, months, ...) reads better than order of frequency; unknown categories come last.
        known = [name for name in column.categories if name in set(common)]
        labels = known + [name for name in common if name not in set(known)]
        return cls(column, tuple(labels), np.empty(0), has_other=True)

    @property
    def num_intervals(self) -> int:
        return max(len(self.edges) - 1, 0)

    @property
    def num_bins(self) -> int:
        """Labels, intervals, and two open ends (numbers) or one bin of others (categories)."""
        return len(self.labels) + self.num_intervals + (2 if len(self.edges) else 0) + self.has_other

    def index(self, values: Values) -> NDArray[np.int64]:
        """``(n,)`` bin of each cell, -1 for a hole."""
        out = np.full(len(values), MISSING, dtype=np.int64)
        if not self.column.is_numeric:
            place = {label: i for i, label in enumerate(self.labels)}
            missing = place.get("missing", MISSING) if self.column.missing == "value" else MISSING
            other = len(self.labels)
            return np.array([missing if c is None else place.get(c, other) for c in values], dtype=np.int64)
        if self.column.missing == "value":
            out[np.isnan(values)] = len(self.labels) - 1
        if len(self.edges):
            seen = np.isfinite(values)
            interval = np.searchsorted(self.edges, values[seen], side="right") - 1
            interval[values[seen] == self.edges[-1]] = self.num_intervals - 1
            first, count = len(self.labels), self.num_intervals
            out[seen] = np.where(interval < 0, first + count, np.where(interval >= count, first + count + 1, 0))
            inside = (interval >= 0) & (interval < count)
            out[np.flatnonzero(seen)[inside]] = first + interval[inside]
        for i, atom in enumerate(self.column.atoms):
            out[values == atom] = i
        return out


def _edges(column: Column, values: NDArray[np.float64], num_intervals: int) -> NDArray[np.float64]:
    if len(values) == 0:
        return np.empty(0)
    low, high = np.quantile(values, [0.005, 0.995])
    if column.kind == "quantized" and column.step:
        # whole cells, so that an even comb of values never aliases with the bins
        first = np.floor((low - column.origin) / column.step + 0.5)
        last = np.floor((high - column.origin) / column.step + 0.5)
        cells = max(int(np.ceil((last - first + 1) / num_intervals)), 1)
        count = int(np.ceil((last - first + 1) / cells))
        return np.asarray(column.origin + (first - 0.5 + cells * np.arange(count + 1)) * column.step)
    if high <= low:
        width = max(abs(low), 1.0) * 1e-3
        low, high = low - width, high + width
    return np.linspace(low, high, num_intervals + 1)


@dataclass(frozen=True)
class Counted:
    """Proportions of data and samples in the same bins.

    Args:
        data: Proportions of the data, any shape, sum one.
        samples: Proportions of the samples, same shape.
        num_data: Cells counted in the data (holes are not).
        num_samples: Cells counted in the samples.
    """

    data: NDArray[np.float64]
    samples: NDArray[np.float64]
    num_data: int
    num_samples: int

    @property
    def distance(self) -> float:
        """Total variation distance, 0 (same) to 1 (disjoint)."""
        return float(0.5 * np.abs(self.data - self.samples).sum())

    @property
    def by_chance(self) -> float:
        """Expected distance of two samples of these sizes from one distribution (normal approximation)."""
        if not self.num_data or not self.num_samples:
            return float("nan")
        pooled = (self.num_data * self.data + self.num_samples * self.samples) / (self.num_data + self.num_samples)
        sd = np.sqrt(pooled * (1 - pooled) * (1 / self.num_data + 1 / self.num_samples))
        return float(0.5 * np.sqrt(2 / np.pi) * sd.sum())


def marginal(bins: Bins, data: Values, samples: Values) -> Counted:
    """One column: proportions over ``bins.num_bins``."""
    return _count([bins.index(data)], [bins.index(samples)], (bins.num_bins,))


def pairwise(first: Bins, second: Bins, data: tuple[Values, Values], samples: tuple[Values, Values]) -> Counted:
    """Two columns: proportions over ``(first.num_bins, second.num_bins)``; rows with a hole in either are left out."""
    return _count(
        [first.index(data[0]), second.index(data[1])],
        [first.index(samples[0]), second.index(samples[1])],
        (first.num_bins, second.num_bins),
    )


def _count(data: list[NDArray[np.int64]], samples: list[NDArray[np.int64]], shape: tuple[int, ...]) -> Counted:
    proportions, sizes = [], []
    for codes in (data, samples):
        kept = np.logical_and.reduce([code >= 0 for code in codes])
        flat = np.ravel_multi_index(tuple(code[kept] for code in codes), shape)
        counts = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)
        sizes.append(int(kept.sum()))
        proportions.append(counts / max(sizes[-1], 1))
    return Counted(proportions[0], proportions[1], sizes[0], sizes[1])


def association(first: Bins, second: Bins, a: Values, b: Values) -> float:
    """Mutual information of two binned columns, in nats, less its expected value under independence; at least 0."""
    joint = _count(
        [first.index(a), second.index(b)], [first.index(a), second.index(b)], (first.num_bins, second.num_bins)
    )
    p = joint.data
    if joint.num_data == 0:
        return 0.0
    rows, columns = p.sum(1, keepdims=True), p.sum(0, keepdims=True)
    filled = p > 0
    information = float((p[filled] * np.log(p[filled] / (rows * columns)[filled])).sum())
    freedom = max(int((rows > 0).sum()) - 1, 0) * max(int((columns > 0).sum()) - 1, 0)
    return max(information - freedom / (2 * joint.num_data), 0.0)  # Miller-Madow: bias of the plug-in estimate


@dataclass(frozen=True)
class TableBins:
    """Values and bins of the columns of a data table, ready to be compared with samples.

    Args:
        schema: The table's schema.
        bins: Bins of each plotted column.
        values: Cells of each plotted column.
        pairs: Pairs of columns with most mutual information in the data, strongest first.
    """

    schema: Schema
    bins: dict[str, Bins]
    values: dict[str, Values]
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(
        cls, frame: Any, schema: Schema, *, max_rows: int = 5000, max_pairs: int = 6, max_columns: int = 40
    ) -> TableBins:
        """Bins of the modelled columns of ``frame``; blocks are left out.

        Args:
            frame: Data table (pandas, polars, Arrow or narwhals).
            schema: Its schema.
            max_rows: Rows read, evenly spaced.
            max_pairs: Pairs kept.
            max_columns: Columns among which pairs are looked for.
        """
        frame = thinned(frame, max_rows)
        present = set(frame.column_names)
        columns = [c for c in schema.columns if c.is_modelled and c.shape == () and c.name in present]
        values = {c.name: column_values(frame, c, schema.missing_tokens) for c in columns}
        bins = {c.name: Bins.of(c, values[c.name]) for c in columns}
        coarse = {c.name: Bins.of(c, values[c.name], num_intervals=8) for c in columns[:max_columns]}
        names = list(coarse)
        strength = {
            (a, b): association(coarse[a], coarse[b], values[a], values[b])
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        }
        return cls(schema, bins, values, tuple(sorted(strength, key=lambda pair: -strength[pair])[:max_pairs]))

    def read(self, frame: Any, max_rows: int = 5000) -> dict[str, Values]:
        """The same columns of a table of samples; columns it lacks are left out."""
        frame = thinned(frame, max_rows)
        return {
            name: column_values(frame, self.schema[name], self.schema.missing_tokens)
            for name in self.bins
            if name in frame.column_names
        }

    def marginals(self, samples: Mapping[str, Values]) -> dict[str, Counted]:
        """Data and samples in one column at a time."""
        return {
            name: marginal(self.bins[name], self.values[name], samples[name]) for name in self.bins if name in samples
        }


def thinned(frame: Any, max_rows: int) -> pa.Table:
    """At most ``max_rows`` rows of a frame, evenly spaced."""
    from genzoo.tables.frames import to_arrow

    table = to_arrow(nw.from_native(frame, eager_only=True))
    if len(table) <= max_rows:
        return table
    return table.take(np.linspace(0, len(table) - 1, max_rows).astype(np.int64))
