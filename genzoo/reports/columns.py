"""The columns of the tables of a report, the same for HTML, Markdown, LaTeX and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genzoo.reports import formats
from genzoo.reports.rows import Row


@dataclass(frozen=True)
class TableColumn:
    """One column of a printed table.

    Args:
        title: Header, with unit and, where there is one, the good direction (↑ or ↓).
        cell: Text of a row's cell.
        key: Value to sort by; ``None`` sorts last.
        help: One sentence on what the number is.
        left: Text column, set left; numbers are set right.
    """

    title: str
    cell: Callable[[Row], str]
    key: Callable[[Row], float | str | None]
    help: str
    left: bool = False


def _difference(row: Row) -> str:
    if row.rank == 1:
        return "first"
    if row.difference is None:
        return "–"
    width = None
    if row.difference_low is not None and row.difference_high is not None:
        width = (row.difference_high - row.difference_low) / 4
    digits = formats.digits_of(width)
    shown = formats.signed(row.difference, digits)
    return f"{shown} {formats.interval(row.difference_low, row.difference_high, digits)}".rstrip()


def _visible(error: float | None) -> float | None:
    """An error that is not zero in three digits."""
    return error if error is not None and error >= 0.0005 else None


RESULTS = (
    TableColumn(
        "Rank",
        lambda r: "oracle" if r.group == "oracle" else "–" if r.rank is None else str(r.rank),
        lambda r: r.rank,
        "Order of guaranteed values; only exact, unbiased and lower-bound numbers are ranked.",
    ),
    TableColumn("Model", lambda r: r.name, lambda r: r.name.lower(), "Name of the model.", left=True),
    TableColumn(
        "Log-likelihood, nats/row ↑",
        lambda r: formats.with_error(r.mean, r.se, r.kind),
        lambda r: r.mean,
        "Mean over test rows ± standard error (rows, Monte Carlo and common parts together) and kind of number.",
    ),
    TableColumn(
        "Difference to first [95 %] ↑",
        _difference,
        lambda r: r.difference,
        "Paired row by row, in nats per row, with its 95 % interval.",
    ),
    TableColumn(
        "Discretised, nats/row ↑",
        lambda r: formats.with_error(r.discretised, r.discretised_se, r.discretised_kind),
        lambda r: r.discretised,
        "Log-probability of the cell of data resolution around each row: cannot be raised by spikes.",
    ),
    TableColumn(
        "Spike index ↓",
        lambda r: formats.with_error(r.spike_index, _visible(r.spike_index_se), digits=3),
        lambda r: r.spike_index,
        "Nats per row that the density owes to repeated values; above 0.1 the rank is withdrawn.",
    ),
    TableColumn(
        "Bits/dim ↓",
        lambda r: formats.number(r.bits_per_dim, 3),
        lambda r: r.bits_per_dim,
        "Minus log-likelihood in bits per cell; only where all cells share one measure.",
    ),
)

COSTS = (
    RESULTS[1],
    TableColumn(
        "Holes read",
        lambda r: "–" if r.uses_mask is None else ("yes" if r.uses_mask else "no"),
        lambda r: None if r.uses_mask is None else int(r.uses_mask),
        "Whether the model reads the pattern of missing cells as an input.",
    ),
    TableColumn(
        "Rows at −∞ ↓",
        lambda r: formats.count(r.num_neg_inf),
        lambda r: r.num_neg_inf,
        "Test rows that the model holds impossible.",
    ),
    TableColumn(
        "Unseen categories",
        lambda r: formats.count(r.unseen),
        lambda r: r.unseen,
        "Cells with a category that training rows do not have.",
    ),
    TableColumn(
        "Off-grid values",
        lambda r: formats.count(r.off_grid),
        lambda r: r.off_grid,
        "Cells of quantized columns that were moved to their nearest grid point.",
    ),
    TableColumn("Parameters", lambda r: formats.size(r.num_parameters), lambda r: r.num_parameters, "Free numbers."),
    TableColumn("Training", lambda r: formats.duration(r.train_seconds), lambda r: r.train_seconds, "Wall-clock time."),
    TableColumn(
        "Sampling, rows/s ↑",
        lambda r: formats.size(r.sample_rows_per_second),
        lambda r: r.sample_rows_per_second,
        "Rows sampled per second.",
    ),
)


AGAINST_FIRST = TableColumn(
    "Against the first",
    lambda r: r.verdict or "–",
    lambda r: r.verdict,
    "What may be concluded against the first of the ranking, given the kinds of both numbers.",
    left=True,
)

MAIN = (*RESULTS[:4], AGAINST_FIRST, *RESULTS[4:], *COSTS[1:])


def _number(value: float | None, digits: int) -> str:
    return "0" if value == 0 else formats.number(value, digits)


def _plain(title: str, name: str, words: str, digits: int = 3) -> TableColumn:
    return TableColumn(title, lambda r: _number(getattr(r, name), digits), lambda r: getattr(r, name), words)


PARTS = (
    MAIN[1],
    TableColumn("Kind", lambda r: r.kind or "–", lambda r: r.kind, "What kind of number it is.", left=True),
    _plain("Mean", "mean", "Nats per row."),
    _plain("s.e. rows", "se_rows", "From the choice of test rows; holds the noise of independent draws.", 4),
    _plain("s.e. draws", "se_mc", "The share of it that more Monte Carlo draws would remove.", 4),
    _plain("s.e. common", "se_common", "Noise shared by all rows; more rows do not reduce it.", 4),
    _plain(
        "Discrete part",
        "discrete",
        "Log-probability of categories, atoms and grid cells; the split depends on the model.",
    ),
    _plain("Continuous part", "continuous", "Log-density of the other numbers, in the table's own units."),
    _plain("Median", "median", "Half of the rows lie below."),
    _plain("1 %", "q01", "1 % quantile over rows."),
    _plain("99 %", "q99", "99 % quantile over rows."),
    _plain("Lowest", "minimum", "The row the model finds least likely."),
    _plain("Without shared rows", "without_shared", "Mean over test rows that are not also training rows."),
    TableColumn("Method", lambda r: r.method or "–", lambda r: r.method, "How the number was computed.", left=True),
)

ALWAYS = ("Rank", "Model")


def shown(columns: Sequence[TableColumn], rows: Sequence[Row]) -> list[TableColumn]:
    """The columns that hold something for at least one row."""
    return [c for c in columns if c.title in ALWAYS or any(c.key(row) is not None for row in rows)]
