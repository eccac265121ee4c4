"""How well hidden cells are filled in: errors, accuracy, CRPS and coverage, against the cells that were hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import DataError
from genzoo.evaluation.masks import Hidden, Mechanism, hide_cells, places
from genzoo.evaluation.sections import Grid, Metric, Section, Subject, share_metric
from genzoo.tables.encode import TableData

SHARE = 0.2
DRAWS = 20
MAX_ROWS = 1000

DEFINITIONS = {
    "MAE": "Mean absolute error of the median of the draws, each column in units of its standard deviation on the "
    "training rows (or of the hidden cells, if those are unknown); mean over columns.",
    "RMSE": "Root mean squared error of the mean of the draws, in the same units; mean over columns.",
    "CRPS": "Continuous ranked probability score of the draws (Gneiting and Raftery 2007), fair version, in the same "
    "units; mean over columns. For one draw it is the absolute error.",
    "coverage": "Share of hidden numbers between the 5 % and 95 % quantiles of the draws; 0.90 is right. Cells of "
    "columns with ties are judged by randomised ranks.",
    "accuracy": "Share of hidden categories that the most frequent draw names; mean over columns.",
    "log score": "Mean log-probability of the hidden category under the frequencies of the draws, add-half smoothed.",
}


@dataclass(frozen=True)
class ColumnScore:
    """Scores of one column; ``nan`` where they do not apply.

    Args:
        name: Column.
        cells: Hidden cells judged.
        mae: Absolute error of the median draw, in units of ``scale``.
        rmse: Root mean squared error of the mean draw, in units of ``scale``.
        crps: Fair CRPS of the draws, in units of ``scale``.
        coverage: Share of cells inside the central 90 % of the draws.
        accuracy: Share of categories named right by the mode of the draws.
        log_score: Mean log-probability of the hidden category.
        scale: Unit of the errors, in the column's own unit.
    """

    name: str
    cells: int
    mae: float = math.nan
    rmse: float = math.nan
    crps: float = math.nan
    coverage: float = math.nan
    accuracy: float = math.nan
    log_score: float = math.nan
    scale: float = math.nan


@dataclass(frozen=True)
class ImputationScores:
    """Scores of every column and their means over columns."""

    columns: tuple[ColumnScore, ...]
    draws: int

    def mean(self, name: str) -> float:
        """Mean of one score over the columns it applies to; ``nan`` if to none."""
        values = [getattr(c, name) for c in self.columns]
        known = [v for v in values if not math.isnan(v)]
        return float(np.mean(known)) if known else math.nan

    def coverage(self) -> tuple[float, int]:
        """Coverage over all hidden numbers, and how many they are."""
        parts = [(c.coverage, c.cells) for c in self.columns if not math.isnan(c.coverage)]
        cells = sum(n for _, n in parts)
        return (sum(v * n for v, n in parts) / cells if cells else math.nan), cells


def score_imputation(
    truth: TableData,
    hidden: Hidden,
    completions: Sequence[TableData],
    train: TableData | None = None,
    seed: int = 0,
) -> ImputationScores:
    """Holds completions of hidden cells against what was hidden.

    Args:
        truth: The rows before cells were hidden.
        hidden: The rows as the model saw them, with the cells hidden.
        completions: One or more completions of ``hidden.data``.
        train: Training rows, for the unit of each column; ``None`` takes the hidden cells themselves.
        seed: Seed of the randomised ranks of ties.

    Raises:
        DataError: no completion, or a completion of other rows, or one with a hole left, or with another value in an
            observed cell.
    """
    if not completions:
        raise DataError("there is no completion to score")
    for filled in completions:
        _require_completed(hidden, filled)
    rng = np.random.default_rng([seed, 0x7069])
    scores = []
    for column, numeric, place in places(truth.schema):
        mask = (hidden.numeric if numeric else hidden.codes)[:, place]
        if not mask.any():
            continue
        arrays = [(filled.numeric if numeric else filled.codes)[mask, place] for filled in completions]
        draws = np.stack(arrays, axis=1)
        actual = (truth.numeric if numeric else truth.codes)[mask, place]
        if numeric:
            source = truth.numeric[mask, place] if train is None else train.numeric[:, place]
            scores.append(_score_numbers(column.name, actual, draws, _unit(source), rng))
        else:
            size = len(column.categories) + (column.missing == "value")
            scores.append(_score_categories(column.name, actual, draws, size))
    return ImputationScores(tuple(scores), len(completions))


def _require_completed(hidden: Hidden, filled: TableData) -> None:
    seen = hidden.data
    if filled.numeric.shape != seen.numeric.shape or filled.codes.shape != seen.codes.shape:
        raise DataError(f"a completion has {len(filled)} rows, the rows to complete are {len(seen)}")
    if np.isnan(filled.numeric[hidden.numeric]).any() or (filled.codes[hidden.codes] < 0).any():
        raise DataError("a completion leaves hidden cells empty")
    known, codes = ~np.isnan(seen.numeric), seen.codes >= 0
    if (filled.numeric[known] != seen.numeric[known]).any() or (filled.codes[codes] != seen.codes[codes]).any():
        raise DataError("a completion changes observed cells")


def _unit(values: NDArray[np.float64]) -> float:
    """Standard deviation of the observed values; 1 for a constant."""
    values = values[np.isfinite(values)]
    spread = float(values.std()) if len(values) else 0.0
    return spread if spread > 0 else 1.0


def _score_numbers(
    name: str, actual: NDArray[np.float64], draws: NDArray[np.float64], unit: float, rng: np.random.Generator
) -> ColumnScore:
    error = np.abs(np.median(draws, axis=1) - actual) / unit
    return ColumnScore(
        name,
        len(actual),
        mae=float(error.mean()),
        rmse=float(np.sqrt(np.mean(((draws.mean(axis=1) - actual) / unit) ** 2))),
        crps=float(crps(actual, draws).mean() / unit),
        coverage=coverage(actual, draws, rng),
        scale=unit,
    )


def _score_categories(name: str, actual: NDArray[np.int64], draws: NDArray[np.int64], size: int) -> ColumnScore:
    counts = np.stack([(draws == code).sum(axis=1) for code in range(size)], axis=1)
    share = (counts + 0.5) / (draws.shape[1] + 0.5 * size)
    right = np.take_along_axis(share, actual[:, None], axis=1)[:, 0]
    return ColumnScore(
        name,
        len(actual),
        accuracy=float(np.mean(counts.argmax(axis=1) == actual)),
        log_score=float(np.log(right).mean()),
    )


def crps(actual: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Continuous ranked probability score of each cell from its draws, fair version.

    :math:`\frac1m\sum_i |x_i - y| - \frac{1}{2m(m-1)}\sum_{i,j} |x_i - x_j|`, whose expectation over draws is the
    score of the distribution they come from; the absolute error for one draw.

    Args:
        actual: ``(n,)`` true values.
        draws: ``(n, m)`` draws.

    Returns:
        ``(n,)`` scores in the unit of the values; smaller is better.

    References:
        Gneiting and Raftery (2007), Strictly proper scoring rules; Ferro (2014), Fair scores for ensemble forecasts.
    """
    m = draws.shape[1]
    first = np.abs(draws - actual[:, None]).mean(axis=1)
    if m == 1:
        return np.asarray(first)
    # sum over pairs |x_i - x_j| = 2 sum_k (2k - m + 1) x_(k), k from 0
    ordered = np.sort(draws, axis=1)
    pairs = 2 * (ordered * (2 * np.arange(m) - m + 1)).sum(axis=1)
    return np.asarray(first - pairs / (2 * m * (m - 1)))


def coverage(
    actual: NDArray[np.float64], draws: NDArray[np.float64], rng: np.random.Generator, level: float = 0.9
) -> float:
    """Share of cells in the central ``level`` of their draws, judged by ranks.

    A cell's rank among its m draws is uniform on m + 1 places if the draws are right, ties in random order; the share
    of places kept is ``level`` on average, also for few draws and for values that repeat. ``nan`` below ten draws.
    """
    m = draws.shape[1]
    if m < 10:
        return math.nan
    below = (draws < actual[:, None]).sum(axis=1)
    ties = (draws == actual[:, None]).sum(axis=1)
    # the cell takes a random place among its ties, then a random point of that place
    rank = (below + rng.integers(0, ties + 1) + rng.random(len(actual))) / (m + 1)
    return float(np.mean(np.abs(rank - 0.5) <= level / 2))


Completer = Callable[[TableData, int], Sequence[TableData]]


def imputation_section(subject: Subject) -> Section | None:
    """Hides a fifth of the held-out cells completely at random and fills them in; ``None`` for other models."""
    from genzoo.models.drawing import impute_data

    if not subject.model.capabilities.imputes or not len(subject.test):
        return None
    return evaluate_imputation(
        lambda data, draws: impute_data(subject.model, data, draws, subject.seed),
        subject.test,
        subject.train,
        seed=subject.seed,
    )


def evaluate_imputation(
    complete: Completer,
    test: TableData,
    train: TableData | None = None,
    *,
    share: float = SHARE,
    mechanism: Mechanism = "mcar",
    draws: int = DRAWS,
    max_rows: int = MAX_ROWS,
    seed: int = 0,
) -> Section:
    """Hides cells of held-out rows, has them filled in, and scores the completions.

    Args:
        complete: From rows with holes and a number of draws to completions; a model's, or another method's.
        test: Held-out rows.
        train: Training rows, for the unit of each column.
        share: Share of cells to hide.
        mechanism: How they are chosen (:func:`genzoo.evaluation.masks.hide_cells`).
        draws: Completions of each row.
        max_rows: Rows used, a random sample; the same for every model.
        seed: Seed of rows, cells and draws.
    """
    order = np.random.default_rng([seed, 0x726F]).permutation(len(test))[:max_rows]
    truth = test.select(np.sort(order))
    hidden = hide_cells(truth, share, mechanism, seed)
    if not hidden.num_cells:
        return Section("imputation", note="no cell could be hidden")
    scores = score_imputation(truth, hidden, complete(hidden.data, draws), train, seed)
    inside, numbers = scores.coverage()
    error = math.sqrt(inside * (1 - inside) / numbers) if numbers and not math.isnan(inside) else math.nan
    metrics = [
        Metric("MAE", scores.mean("mae"), DEFINITIONS["MAE"], "down"),
        Metric("RMSE", scores.mean("rmse"), DEFINITIONS["RMSE"], "down"),
        Metric("CRPS", scores.mean("crps"), DEFINITIONS["CRPS"], "down"),
        share_metric("coverage of 90 %", inside, error, DEFINITIONS["coverage"]),
        Metric("accuracy", scores.mean("accuracy"), DEFINITIONS["accuracy"], "up"),
        Metric("log score", scores.mean("log_score"), DEFINITIONS["log score"], "up"),
    ]
    shown = [m for m in metrics if not math.isnan(m.value)]
    lines = tuple(
        (
            c.name,
            str(c.cells),
            *(f"{v:.3f}" if not math.isnan(v) else "–" for v in (c.mae, c.crps, c.coverage, c.accuracy)),
        )
        for c in scores.columns
    )
    note = (
        f"{hidden.num_cells} of the cells of {len(truth)} held-out rows hidden ({mechanism}, share {share:g}), "
        f"{draws} draws; intervals of coverage take cells as independent."
    )
    grid = Grid("Hidden cells, one column at a time", ("Column", "Cells", "MAE", "CRPS", "Coverage", "Accuracy"), lines)
    return Section("imputation", metrics=tuple(shown), grids=(grid,), note=note)
