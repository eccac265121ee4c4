"""How much samples look like held-out rows: columns, pairs, classifiers, balls and kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from genzoo.evaluation.auc import auc
from genzoo.evaluation.features import Features, Matrix, nearest, same_code, sample_rows
from genzoo.evaluation.sections import Direction, Grid, Metric, Section, Subject, share_metric
from genzoo.tables.encode import TableData
from genzoo.tables.schema import column_places

MAX_ROWS = 2000

DEFINITIONS = {
    "column distance": "Mean over columns of the distance of one column's distribution between samples and held-out "
    "rows: Kolmogorov-Smirnov for numbers (a hole is below every number), total variation for categories.",
    "Wasserstein": "Mean over number columns of the 1-Wasserstein distance of their observed cells, in standard "
    "deviations of the held-out rows.",
    "pair difference": "Mean over pairs of columns of the absolute difference in association between samples and "
    "held-out rows: Spearman's rho, correlation ratio of ranks, or Cramer's V.",
    "two-sample AUC (trees)": "Area under the ROC curve of gradient-boosted trees that tell samples from held-out "
    "rows, two-fold cross-fitted; 0.5 cannot tell (Lopez-Paz and Oquab 2017).",
    "two-sample AUC (linear)": "The same with logistic regression on standardised points.",
    "alpha-precision": "One minus twice the mean deviation from alpha of the share of samples inside the ball about "
    "the held-out rows that holds a share alpha of them (Alaa et al. 2022).",
    "beta-recall": "One minus twice the mean deviation from beta of the share of held-out rows whose nearest sample "
    "lies inside the ball that holds a share beta of the samples and no further off than the nearest held-out row "
    "(Alaa et al. 2022).",
    "sliced Wasserstein": "Root mean over 200 random directions of the squared 2-Wasserstein distance of standardised "
    "points (Bonneel et al. 2015).",
    "MMD": "Unbiased squared maximum mean discrepancy of standardised points under exp(-d^2 / m), m the median of "
    "the squared distances d^2 (Gretton et al. 2012); zero on average for equal distributions, so it may be negative.",
}


def fidelity_section(subject: Subject) -> Section | None:
    """Samples beside held-out rows, with training rows of the same number as the yardstick."""
    from genzoo.tables.encode import encode_frame

    if subject.samples is None or not len(subject.test) or subject.model.schema.context:
        return None
    drawn = encode_frame(subject.samples, subject.model.schema)
    return evaluate_fidelity(drawn, subject.test, subject.train, seed=subject.seed)


def evaluate_fidelity(
    samples: TableData, test: TableData, train: TableData | None = None, *, max_rows: int = MAX_ROWS, seed: int = 0
) -> Section:
    """Every measure of :data:`DEFINITIONS` on equally many samples and held-out rows.

    Args:
        samples: Rows drawn from a model, or made by any other method.
        test: Held-out rows.
        train: Training rows: they give the scales and, in place of samples, what a perfect model would score.
        max_rows: Rows used of either side.
        seed: Seed of subsets, folds and directions.
    """
    size = min(len(samples), len(test), max_rows)
    real = sample_rows(test, size, seed)
    found = compare_rows(sample_rows(samples, size, seed + 1), real, train or test, seed)
    note = f"{size} samples and {size} held-out rows."
    if train is not None and len(train) >= size:
        yard = compare_rows(sample_rows(train, size, seed + 2), real, train, seed)
        words = ", ".join(f"{name} {value:.3f}" for name, (value, _) in yard.items() if not math.isnan(value))
        note += f" Training rows in place of samples score: {words}."
    better: dict[str, Direction] = {"alpha-precision": "up", "beta-recall": "up"}
    metrics = []
    for name, (value, error) in found.items():
        if math.isnan(value):
            continue
        direction: Direction = better.get(name, "down")
        if math.isnan(error):
            metrics.append(Metric(name, value, DEFINITIONS[name], direction))
        elif name == "MMD":
            ends = value - 1.96 * error, value + 1.96 * error
            metrics.append(Metric(name, value, DEFINITIONS[name], direction, *ends))
        else:
            metrics.append(share_metric(name, value, error, DEFINITIONS[name], direction))
    columns = column_distances(sample_rows(samples, size, seed + 1), real)
    lines = tuple((name, f"{d:.3f}", "–" if math.isnan(w) else f"{w:.3f}") for name, d, w in columns)
    grid = Grid("One column at a time", ("Column", "Distance ↓", "Wasserstein ↓"), lines)
    return Section("fidelity", metrics=tuple(metrics), grids=(grid,), note=note)


def compare_rows(
    first: TableData, second: TableData, reference: TableData, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Each measure of two sets of rows: (value, standard error or nan)."""
    second = same_code(second, first.schema)
    features = Features.fit(same_code(reference, first.schema))
    a, b = features.points(first), features.points(second)
    columns = column_distances(first, second)
    found = {
        "column distance": (float(np.mean([d for _, d, _ in columns])), math.nan),
        "Wasserstein": (_mean([w for _, _, w in columns]), math.nan),
        "pair difference": (pair_difference(first, second), math.nan),
        "two-sample AUC (trees)": two_sample_auc(features.cells(first), features.cells(second), trees_scorer, seed),
        "two-sample AUC (linear)": two_sample_auc(a, b, linear_scorer, seed),
        "alpha-precision": (alpha_precision(a, b), math.nan),
        "beta-recall": (beta_recall(a, b), math.nan),
        "sliced Wasserstein": (sliced_wasserstein(a, b, seed=seed), math.nan),
        "MMD": mmd(a, b),
    }
    return found


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


# ---- columns and pairs --------------------------------------------------------------------------------------------


def column_distances(first: TableData, second: TableData) -> list[tuple[str, float, float]]:
    """Each plain column: (name, Kolmogorov-Smirnov or total variation, 1-Wasserstein in standard deviations)."""
    from scipy.stats import wasserstein_distance

    second = same_code(second, first.schema)
    out = []
    for column, numeric, place in column_places(first.schema):
        if column.shape:
            continue
        if not numeric:
            a, b = first.codes[:, place.start], second.codes[:, place.start]
            names = np.union1d(a, b)
            shares = [np.array([np.mean(x == n) for n in names]) for x in (a, b)]
            out.append((column.name, 0.5 * float(np.abs(shares[0] - shares[1]).sum()), math.nan))
            continue
        a, b = first.numeric[:, place.start], second.numeric[:, place.start]
        seen = a[~np.isnan(a)], b[~np.isnan(b)]
        spread = float(seen[1].std()) if len(seen[1]) else 0.0
        shift = math.nan
        if len(seen[0]) and spread > 0:
            shift = float(wasserstein_distance(seen[0] / spread, seen[1] / spread))
        out.append((column.name, ks_distance(a, b), shift))
    return out


def ks_distance(a: Matrix, b: Matrix) -> float:
    """Largest difference of the two distribution functions; a hole is below every number."""
    a, b = (np.sort(np.where(np.isnan(x), -np.inf, x)) for x in (a, b))
    ends = np.concatenate([a, b])
    gap = np.searchsorted(a, ends, side="right") / len(a) - np.searchsorted(b, ends, side="right") / len(b)
    return float(np.abs(gap).max(initial=0.0))


def pair_difference(first: TableData, second: TableData) -> float:
    """Mean absolute difference of the associations of all pairs of plain columns; nan with fewer than two."""
    a, b = association(first), association(same_code(second, first.schema))
    upper = np.triu_indices(len(a), 1)
    gaps = np.abs(a - b)[upper]
    return float(np.nanmean(gaps)) if gaps.size and not np.isnan(gaps).all() else math.nan


def association(data: TableData) -> Matrix:
    """``(c, c)`` association of plain columns: Spearman's rho, correlation ratio of ranks, Cramer's V.

    Pairs are taken over the rows where both cells are observed; a column without spread there has association zero.
    """
    from scipy.stats import rankdata

    plain = [(c, n, p.start) for c, n, p in column_places(data.schema) if not c.shape]
    out = np.eye(len(plain))
    for i, (_, numeric, place) in enumerate(plain):
        for j in range(i + 1, len(plain)):
            _, other, place_j = plain[j]
            x = data.numeric[:, place] if numeric else data.codes[:, place]
            y = data.numeric[:, place_j] if other else data.codes[:, place_j]
            seen = (~np.isnan(x) if numeric else x >= 0) & (~np.isnan(y) if other else y >= 0)
            x, y = x[seen], y[seen]
            if len(x) < 3:
                out[i, j] = out[j, i] = np.nan
                continue
            if numeric and other:
                value = _correlation(rankdata(x), rankdata(y))
            elif numeric or other:
                ranks, codes = (rankdata(x), y) if numeric else (rankdata(y), x)
                value = _correlation_ratio(ranks, codes)
            else:
                value = _cramer(x, y)
            out[i, j] = out[j, i] = value
    return out


def _correlation(x: Matrix, y: Matrix) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / size if size > 0 else 0.0


def _correlation_ratio(x: Matrix, codes: Matrix) -> float:
    """Square root of the share of variance between groups."""
    total = float(((x - x.mean()) ** 2).sum())
    _, group = np.unique(codes, return_inverse=True)
    count = np.bincount(group)
    between = float((count * (np.bincount(group, x) / count - x.mean()) ** 2).sum())
    return math.sqrt(between / total) if total > 0 else 0.0


def _cramer(x: Matrix, y: Matrix) -> float:
    _, a = np.unique(x, return_inverse=True)
    _, b = np.unique(y, return_inverse=True)
    r, c = int(a.max()) + 1, int(b.max()) + 1
    if min(r, c) < 2:
        return 0.0
    table = np.bincount(a * c + b, minlength=r * c).reshape(r, c).astype(np.float64)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    chi2 = float(((table - expected) ** 2 / expected).sum())
    return math.sqrt(chi2 / (table.sum() * (min(r, c) - 1)))


# ---- classifiers --------------------------------------------------------------------------------------------------

Scorer = Callable[[Matrix, Matrix, Matrix, int], Matrix]


def trees_scorer(x: Matrix, y: Matrix, queries: Matrix, seed: int) -> Matrix:
    """Score of class 1 by gradient-boosted trees; NaN is a value of its own."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    leaf = max(3, min(20, len(x) // 20))  # the usual 20 would never split a small table
    trees = HistGradientBoostingClassifier(
        max_iter=100, max_leaf_nodes=15, min_samples_leaf=leaf, random_state=seed, early_stopping=False
    )
    return np.asarray(trees.fit(x, y).decision_function(queries))


def linear_scorer(x: Matrix, y: Matrix, queries: Matrix, seed: int) -> Matrix:
    """Score of class 1 by logistic regression."""
    from sklearn.linear_model import LogisticRegression

    return np.asarray(LogisticRegression(max_iter=1000).fit(x, y).decision_function(queries))


def two_sample_auc(a: Matrix, b: Matrix, scorer: Scorer, seed: int = 0) -> tuple[float, float]:
    """How well a classifier tells two samples apart on rows it has not seen: (area, standard error).

    Each half is scored by a classifier trained on the other; the area is the mean of the two halves', which keeps
    scores of different classifiers apart.
    """
    rng = np.random.default_rng([seed, 0x6332])
    folds = [rng.permutation(len(x)) % 2 for x in (a, b)]
    found = []
    for fold in (0, 1):
        x = np.concatenate([a[folds[0] != fold], b[folds[1] != fold]])
        y = np.repeat([1.0, 0.0], [int((folds[0] != fold).sum()), int((folds[1] != fold).sum())])
        if len(np.unique(y)) < 2 or not x.shape[1]:
            return math.nan, math.nan
        found.append(
            auc(scorer(x, y, a[folds[0] == fold], seed), scorer(x, y, b[folds[1] == fold], seed)),
        )
    (one, se), (two, so) = found
    return (one + two) / 2, math.hypot(se, so) / 2


# ---- balls and kernels --------------------------------------------------------------------------------------------

LEVELS = np.linspace(0, 1, 31)[1:-1]


def alpha_precision(samples: Matrix, real: Matrix) -> float:
    """Integrated alpha-precision of points: 1 where samples fill the balls of the data as the data do."""
    centre = real.mean(axis=0)
    own = np.sqrt(((real - centre) ** 2).sum(axis=1))
    distance = np.sqrt(((samples - centre) ** 2).sum(axis=1))
    inside = [float(np.mean(distance <= np.quantile(own, level))) for level in LEVELS]
    return 1 - 2 * float(np.mean(np.abs(np.array(inside) - LEVELS)))


def beta_recall(samples: Matrix, real: Matrix) -> float:
    """Integrated beta-recall of points."""
    centre = samples.mean(axis=0)
    radius = np.sqrt(((samples - centre) ** 2).sum(axis=1))
    gap = nearest(real, real, exclude_self=True)
    if not gap.shape[1]:
        return math.nan
    index, distance = _nearest_index(real, samples)
    covered = distance <= gap[:, 0]
    inside = [float(np.mean(covered & (radius[index] <= np.quantile(radius, level)))) for level in LEVELS]
    return 1 - 2 * float(np.mean(np.abs(np.array(inside) - LEVELS)))


def _nearest_index(queries: Matrix, references: Matrix) -> tuple[np.ndarray, Matrix]:
    index = np.empty(len(queries), dtype=np.int64)
    squares = (references**2).sum(axis=1)
    step = max(1, 8_000_000 // max(len(references), 1))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        index[start : start + step] = (squares - 2 * part @ references.T).argmin(axis=1)
    return index, np.sqrt(((queries - references[index]) ** 2).sum(axis=1))


def sliced_wasserstein(a: Matrix, b: Matrix, directions: int = 200, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance of equally many points."""
    rng = np.random.default_rng([seed, 0x7377])
    way = rng.normal(size=(a.shape[1], directions))
    way /= np.linalg.norm(way, axis=0)
    gaps = np.sort(a @ way, axis=0) - np.sort(b @ way, axis=0)
    return float(np.sqrt(np.mean(gaps**2)))


def mmd(a: Matrix, b: Matrix) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy of equally many points: (value, standard error).

    The standard error is that of the linear part of the statistic, valid when the distributions differ.
    """
    a, b = a[:1000], b[:1000]
    n = len(a)
    if n < 3:
        return math.nan, math.nan
    both = np.concatenate([a, b])
    squared = ((both**2).sum(1)[:, None] + (both**2).sum(1) - 2 * both @ both.T).clip(min=0)
    width = float(np.median(squared[np.triu_indices(2 * n, 1)])) or 1.0
    kernel = np.exp(-squared / width)
    np.fill_diagonal(kernel, 0.0)
    own, other, cross = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    h_a, h_b = own.sum(1) / (n - 1) - cross.mean(1), other.sum(1) / (n - 1) - cross.mean(0)
    return float(h_a.mean() + h_b.mean()), 2 * math.sqrt((float(h_a.var(ddof=1)) + float(h_b.var(ddof=1))) / n)
