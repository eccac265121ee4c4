r"""Which columns changed between two tables: a test of every conditional :math:`p(x_j \mid x_{-j})`.

The statistic of column j is the expected squared difference of the two score functions' j-th coordinate,
:math:`T_j = E_{(p + q) / 2}[(\partial_j \log p - \partial_j \log q)^2]`. For Gaussians it has a closed form, so it has
no sampling noise and a bootstrap of some hundred refits costs seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import DataError
from genzoo.evaluation.features import sample_rows
from genzoo.evaluation.sections import Grid, Metric, Section, Subject
from genzoo.tables.encode import TableData

Matrix = NDArray[np.float64]
MAX_ROWS = 2000
RIDGE = 1e-5


@dataclass(frozen=True)
class Shift:
    """Outcome of a test of two tables.

    Args:
        names: Columns tested.
        statistic: ``(d,)`` :math:`T_j`, in units of one over the squared unit of the normal scores.
        normalised: ``(d,)`` the statistic minus its mean over the bootstrap, over its standard deviation there.
        p_value: Of no shift at all: how often the largest normalised statistic of a resample is at least as large.
        flagged: Columns whose own normalised statistic is above the ``1 - alpha`` quantile of that largest one, the
            most conspicuous first.
        alpha: Level of the test.
    """

    names: tuple[str, ...]
    statistic: Matrix
    normalised: Matrix
    p_value: float
    flagged: tuple[str, ...]
    alpha: float

    @property
    def detected(self) -> bool:
        """Some conditional differs, at the level of the test."""
        return bool(self.flagged)


def score_statistic(first: tuple[Matrix, Matrix], second: tuple[Matrix, Matrix]) -> Matrix:
    r"""The statistic of every coordinate for two Gaussians, exactly.

    With precisions P, means m, :math:`D = P_1 - P_2` and :math:`c = P_1 m_1 - P_2 m_2`:
    :math:`T_j = \tfrac12 \sum_r [(D \Sigma_r D^\top)_{jj} + (c - D m_r)_j^2]`.

    Args:
        first: Mean ``(d,)`` and covariance ``(d, d)``.
        second: Mean and covariance of the other.

    References:
        Kulinski, Bagchi and Inouye (2020), Feature shift detection, arXiv:2107.06929, with the expectation in closed
        form instead of samples.
    """
    precisions = [np.linalg.inv(covariance) for _, covariance in (first, second)]
    gap = precisions[0] - precisions[1]
    offset = precisions[0] @ first[0] - precisions[1] @ second[0]
    total = np.zeros(len(first[0]))
    for mean, covariance in (first, second):
        total += np.einsum("ij,jk,ik->i", gap, covariance, gap) + (offset - gap @ mean) ** 2
    return total / 2


def fit_gaussian(points: Matrix) -> tuple[Matrix, Matrix]:
    """Mean and covariance with a small ridge."""
    covariance = np.cov(points, rowvar=False).reshape(points.shape[1], -1)
    return points.mean(axis=0), covariance + RIDGE * np.eye(points.shape[1])


def normal_scores(reference: Matrix, rows: Matrix) -> Matrix:
    """Each column through the distribution function of the reference and the inverse normal one; ties in the middle."""
    from scipy.special import ndtri

    out = np.empty_like(rows, dtype=np.float64)
    for j in range(rows.shape[1]):
        order = np.sort(reference[:, j])
        low, high = np.searchsorted(order, rows[:, j], "left"), np.searchsorted(order, rows[:, j], "right")
        out[:, j] = ndtri(((low + high) / 2 + 0.5) / (len(order) + 1))
    return out


def detect_shift(
    reference: Matrix,
    query: Matrix,
    names: tuple[str, ...] | None = None,
    *,
    alpha: float = 0.05,
    resamples: int = 250,
    seed: int = 0,
) -> Shift:
    """Tests whether, and in which columns, the conditional distribution given the others changed.

    Columns become normal scores of the pooled rows, Gaussians are fitted to both, and the distribution of the largest
    normalised statistic comes from resamples of the pool, refitted. One quantile of that maximum holds the level for
    all columns together, with far fewer resamples than a quantile for each column would need.

    Args:
        reference: ``(n, d)`` complete rows.
        query: ``(m, d)`` complete rows of the same columns.
        names: Names of the columns.
        alpha: Chance of flagging any column when nothing changed.
        resamples: Bootstrap refits.
        seed: Seed of the bootstrap.

    Raises:
        DataError: too few rows for the number of columns.

    Note:
        Gaussians see dependence of second order. A changed column also changes the conditionals of those that depend
        on it, so neighbours may be flagged with it; the most conspicuous comes first. A column that is independent of
        the others and keeps its own distribution cannot be found.
    """
    n, m, d = len(reference), len(query), reference.shape[1]
    if min(n, m) < 2 * d + 2 or d < 1:
        raise DataError(f"a shift of {d} columns needs at least {2 * d + 2} complete rows on either side; got {n}, {m}")
    names = names or tuple(f"column {j}" for j in range(d))
    pool = np.concatenate([reference, query])
    pool = normal_scores(pool, pool)
    found = score_statistic(fit_gaussian(pool[:n]), fit_gaussian(pool[n:]))
    rng = np.random.default_rng([seed, 0x7368])
    null = np.empty((resamples, d))
    for b in range(resamples):
        drawn = pool[rng.integers(0, n + m, n + m)]
        null[b] = score_statistic(fit_gaussian(drawn[:n]), fit_gaussian(drawn[n:]))
    centre, spread = null.mean(axis=0), null.std(axis=0, ddof=1)
    spread = np.where(spread > 0, spread, 1.0)
    largest = ((null - centre) / spread).max(axis=1)
    normalised = (found - centre) / spread
    limit = np.quantile(largest, 1 - alpha)
    order = np.argsort(-normalised)
    flagged = tuple(names[j] for j in order if normalised[j] > limit)
    p_value = (1 + float(np.sum(largest >= normalised.max()))) / (1 + resamples)
    return Shift(names, found, normalised, p_value, flagged, alpha)


def numbers_of(data: TableData) -> tuple[Matrix, tuple[str, ...]]:
    """Complete rows of the plain number columns that are not constant, and their names."""
    names, places, start = [], [], 0
    for column in data.schema.numeric:
        if not column.shape and column in data.schema.scored:
            names.append(column.name)
            places.append(start)
        start += column.width
    values = data.numeric[:, places].astype(np.float64)
    values = values[~np.isnan(values).any(axis=1)]
    moving = np.ptp(values, axis=0) > 0 if len(values) else np.zeros(len(names), bool)
    return values[:, moving], tuple(name for name, moves in zip(names, moving) if moves)


def shift_section(subject: Subject) -> Section | None:
    """Training rows against held-out rows: whether they come from one distribution, and if not, which columns moved."""
    if subject.train is None:
        return None
    train, names = numbers_of(sample_rows(subject.train, MAX_ROWS, subject.seed))
    rows = sample_rows(subject.test.with_schema(subject.train.schema), MAX_ROWS, subject.seed)
    test, seen = numbers_of(rows)
    shared = [name for name in names if name in seen]
    if not shared:
        return None
    first, second = (v[:, [n.index(s) for s in shared]] for v, n in ((train, names), (test, seen)))
    shift = detect_shift(first, second, tuple(shared), seed=subject.seed)
    definition = (
        "Chance of a difference at least as large between training and held-out rows of one distribution, over the "
        "conditionals of all number columns (Kulinski et al. 2020)."
    )
    order = np.argsort(-shift.normalised)
    lines = tuple(
        (
            shift.names[j],
            f"{shift.statistic[j]:.4f}",
            f"{shift.normalised[j]:.1f}",
            "shifted" * (shift.names[j] in shift.flagged),
        )
        for j in order
    )
    grid = Grid("Columns, the most conspicuous first", ("Column", "Statistic", "Normalised", ""), lines)
    note = f"{len(first)} training and {len(second)} held-out rows without missing numbers; the same for every model."
    return Section("shift", (Metric("p of no shift", shift.p_value, definition),), (grid,), note=note)
