"""Train on samples, test on real rows; against training on as many real rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genzoo.evaluation.auc import auc
from genzoo.evaluation.features import Matrix, same_code, sample_rows
from genzoo.evaluation.sections import Grid, Metric, Section, Subject
from genzoo.tables.encode import TableData
from genzoo.tables.schema import Column, column_places

MAX_ROWS = 4000
MAX_TARGETS = 8

DEFINITIONS = {
    "score on samples": "Mean over target columns of the held-out score of gradient-boosted trees trained on samples: "
    "R2 for numbers, area under the ROC curve for two classes, macro F1 for more (Esteban et al. 2017, TSTR).",
    "score on real rows": "The same trees trained on as many training rows.",
    "share kept": "Mean over targets of the gain over a constant prediction that samples keep of the gain of real "
    "rows; targets which real rows cannot predict are left out.",
}


@dataclass(frozen=True)
class TargetScore:
    """Held-out scores of predictors of one column.

    Args:
        name: The column predicted from all others.
        measure: ``R2``, ``AUC`` or ``F1``.
        samples: Score of the predictor trained on samples.
        real: Score of the one trained on training rows.
        constant: Score of a constant prediction.
    """

    name: str
    measure: str
    samples: float
    real: float
    constant: float


def usefulness_section(subject: Subject) -> Section | None:
    """Predicts the outcome column if the schema names one, else every column, at most eight."""
    from genzoo.tables.encode import encode_frame

    if subject.samples is None or subject.train is None or len(subject.test) < 20:
        return None
    drawn = encode_frame(subject.samples, subject.model.schema)
    return evaluate_usefulness(drawn, subject.train, subject.test, seed=subject.seed)


def evaluate_usefulness(
    samples: TableData, train: TableData, test: TableData, *, targets: Sequence[str] | None = None, seed: int = 0
) -> Section:
    """Scores predictors of each target column on held-out rows.

    Args:
        samples: Rows drawn from a model.
        train: Real rows to train on; as many as there are samples are used.
        test: Held-out rows.
        targets: Columns to predict; by default the outcome, else all, at most eight.
        seed: Seed of subsets and trees.
    """
    size = min(len(samples), len(train), MAX_ROWS)
    parts = [sample_rows(part, size, seed) for part in (samples, same_code(train, samples.schema))]
    test = sample_rows(same_code(test, samples.schema), MAX_ROWS, seed)
    plain = [c for c, _, _ in column_places(samples.schema) if not c.shape and c in samples.schema.scored]
    chosen = [c for c in plain if c.role == "outcome"] or plain[:MAX_TARGETS]
    if targets is not None:
        chosen = [c for c in plain if c.name in targets]
    scores = [s for s in (_target(c, parts[0], parts[1], test, seed) for c in chosen) if s is not None]
    if not scores:
        return Section("usefulness", note="no column could be predicted")
    kept = [(s.samples - s.constant) / (s.real - s.constant) for s in scores if s.real - s.constant > 0.02]
    numbers = {
        "score on samples": float(np.mean([s.samples for s in scores])),
        "score on real rows": float(np.mean([s.real for s in scores])),
        "share kept": float(np.mean(kept)) if kept else math.nan,
    }
    directions = {"score on samples": "up", "share kept": "up"}
    metrics = tuple(
        Metric(name, value, DEFINITIONS[name], directions.get(name, "none"))  # type: ignore[arg-type]
        for name, value in numbers.items()
        if not math.isnan(value)
    )
    lines = tuple((s.name, s.measure, f"{s.samples:.3f}", f"{s.real:.3f}", f"{s.constant:.3f}") for s in scores)
    grid = Grid("Predicted from all other columns", ("Column", "Score", "Samples", "Real rows", "Constant"), lines)
    return Section("usefulness", metrics, (grid,), note=f"{size} samples, {size} training rows, {len(test)} test rows.")


def _target(column: Column, samples: TableData, train: TableData, test: TableData, seed: int) -> TargetScore | None:
    found = [_split(part, column) for part in (samples, train, test)]
    (_, ys), (_, yr), (queries, actual) = found
    if len(actual) < 20 or min(len(ys), len(yr)) < 20 or len(np.unique(yr)) < 2 or len(np.unique(actual)) < 2:
        return None
    if column.is_numeric:
        one, two = (_r2(actual, _predict(x, y, queries, None, seed)) for x, y in found[:2])
        return TargetScore(column.name, "R2", one, two, _r2(actual, np.full(len(actual), yr.mean())))
    classes = np.unique(np.concatenate([ys, yr, actual]))
    chances = [_predict(x, y, queries, classes, seed) for x, y in found[:2]]
    if len(classes) == 2:
        one, two = (auc(p[actual == classes[1], 1], p[actual == classes[0], 1])[0] for p in chances)
        return TargetScore(column.name, "AUC", one, two, 0.5)
    one, two = (_macro_f1(actual, classes[p.argmax(axis=1)], classes) for p in chances)
    names, counts = np.unique(yr, return_counts=True)
    most = np.full(len(actual), names[counts.argmax()])
    return TargetScore(column.name, "F1", one, two, _macro_f1(actual, most, classes))


def _split(data: TableData, column: Column) -> tuple[Matrix, Matrix]:
    """Inputs (NaN for a hole) and target of the rows where the target is observed."""
    blocks, target = [], np.empty(0)
    for other, numeric, place in column_places(data.schema):
        values = data.numeric[:, place] if numeric else np.where(data.codes[:, place] < 0, np.nan, data.codes[:, place])
        if other.name == column.name:
            target = values[:, 0]
        else:
            blocks.append(values.astype(np.float64))
    x = np.concatenate(blocks, axis=1) if blocks else np.zeros((len(data), 1))
    seen = ~np.isnan(target)
    return x[seen], target[seen]


def _predict(x: Matrix, y: Matrix, queries: Matrix, classes: Matrix | None, seed: int) -> Matrix:
    """Predictions of numbers ``(n,)``, or chances of ``classes`` ``(n, k)``."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    options = {"max_iter": 100, "max_leaf_nodes": 15, "random_state": seed, "early_stopping": False}
    if classes is None:
        return np.asarray(HistGradientBoostingRegressor(**options).fit(x, y).predict(queries))
    out = np.zeros((len(queries), len(classes)))
    if len(np.unique(y)) == 1:  # samples of one class alone
        out[:, np.searchsorted(classes, y[0])] = 1.0
        return out
    trees = HistGradientBoostingClassifier(**options).fit(x, y)
    out[:, np.searchsorted(classes, trees.classes_)] = trees.predict_proba(queries)
    return out


def _r2(actual: Matrix, predicted: Matrix) -> float:
    total = float(((actual - actual.mean()) ** 2).sum())
    return 1 - float(((actual - predicted) ** 2).sum()) / total if total > 0 else math.nan


def _macro_f1(actual: Matrix, predicted: Matrix, classes: Matrix) -> float:
    """Mean F1 over the classes that occur among the actual or the predicted values."""
    scores = []
    for name in classes:
        hit = float(np.sum((actual == name) & (predicted == name)))
        size = float(np.sum(actual == name) + np.sum(predicted == name))
        if size:
            scores.append(2 * hit / size)
    return float(np.mean(scores))
