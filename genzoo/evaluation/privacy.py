"""Whether samples or likelihoods give training rows away; rows the model has not seen are the yardstick."""

from __future__ import annotations

import math

import numpy as np

from genzoo.datamodules.splits import rows_in
from genzoo.evaluation.auc import auc
from genzoo.evaluation.features import Features, Matrix, nearest, same_code, sample_rows
from genzoo.evaluation.sections import Metric, Section, Subject, share_metric
from genzoo.tables.encode import TableData

MAX_ROWS = 2000

DEFINITIONS = {
    "closer to training": "Share of samples whose nearest training row is closer than their nearest held-out row, of "
    "equally many of either; ties count half. 0.5 for a model that remembers nothing (Platzer and Reutterer 2021).",
    "distance ratio": "Fifth percentile of the samples' distance to the closest training row, over that of held-out "
    "rows; 1 for a perfect model, below 1 where samples crowd about training rows.",
    "neighbour ratio": "Median over samples of the distance to the nearest over that to the second nearest training "
    "row, over the same for held-out rows.",
    "copies": "Share of samples that equal a training row in every cell.",
    "copies by chance": "Share of held-out rows that equal a training row in every cell.",
    "membership AUC (likelihood)": "Area under the ROC curve of the model's log-likelihood telling training rows from "
    "held-out rows; 0.5 gives nothing away (Yeom et al. 2018).",
    "membership AUC (distance)": "The same with minus the distance of a row to the nearest sample "
    "(Chen et al. 2020, full black box).",
}


def privacy_section(subject: Subject) -> Section | None:
    """Needs samples and training rows; ``None`` without them."""
    from genzoo.tables.encode import encode_frame

    if subject.samples is None or subject.train is None or not len(subject.test) or subject.model.schema.context:
        return None
    size = min(len(subject.train), len(subject.test), MAX_ROWS)
    train = sample_rows(subject.train, size, subject.seed)
    test = sample_rows(subject.test, size, subject.seed + 1)
    drawn = encode_frame(subject.samples, subject.model.schema)
    scores = [subject.model.log_prob(rows, seed=subject.seed).values for rows in (train, test)]
    return evaluate_privacy(drawn, subject.train, test, member=scores[0], other=scores[1], seed=subject.seed)


def evaluate_privacy(
    samples: TableData,
    train: TableData,
    test: TableData,
    *,
    member: Matrix | None = None,
    other: Matrix | None = None,
    seed: int = 0,
) -> Section:
    """Every measure of :data:`DEFINITIONS`.

    Args:
        samples: Rows drawn from a model.
        train: The rows it was trained on.
        test: Rows it was not trained on.
        member: Log-likelihoods of training rows, for the membership test.
        other: Log-likelihoods of held-out rows.
        seed: Seed of subsets.
    """
    test = same_code(test, train.schema)
    samples = same_code(samples, train.schema)
    features = Features.fit(train)
    drawn = sample_rows(samples, MAX_ROWS, seed + 2)
    size = min(len(train), len(test))
    equal = sample_rows(train, size, seed + 3)
    other_equal = sample_rows(test, size, seed + 4)
    s, t, h, e, o = (features.points(rows) for rows in (drawn, train, test, equal, other_equal))
    to_train, to_equal, to_test = nearest(s, t, 2), nearest(s, e)[:, 0], nearest(s, o)[:, 0]
    held = nearest(h, t, 2)
    closer = np.where(to_equal < to_test, 1.0, np.where(to_equal == to_test, 0.5, 0.0))
    low = np.quantile(to_train[:, 0], 0.05), np.quantile(held[:, 0], 0.05)
    copies, chance = share_of_copies(drawn, train), share_of_copies(test, train)
    back = nearest(features.points(equal), s)[:, 0], nearest(h, s)[:, 0]
    error = float(closer.std()) / math.sqrt(len(closer))
    metrics = [
        share_metric("closer to training", float(closer.mean()), error, DEFINITIONS["closer to training"]),
        Metric("distance ratio", float(low[0] / low[1]) if low[1] > 0 else math.nan, DEFINITIONS["distance ratio"]),
        Metric("neighbour ratio", _ratio(to_train) / _ratio(held), DEFINITIONS["neighbour ratio"]),
        Metric("copies", copies, DEFINITIONS["copies"], "down"),
        Metric("copies by chance", chance, DEFINITIONS["copies by chance"]),
    ]
    pairs = {"membership AUC (distance)": (-back[0], -back[1])}
    if member is not None and other is not None:
        pairs["membership AUC (likelihood)"] = (member, other)
    for name, (inside, outside) in pairs.items():
        value, se = auc(inside, outside)
        metrics.append(share_metric(name, value, se, DEFINITIONS[name], "down"))
    note = f"{len(drawn)} samples, {len(train)} training rows and {len(test)} held-out rows."
    return Section("privacy", metrics=tuple(m for m in metrics if not math.isnan(m.value)), note=note)


def _ratio(distances: Matrix) -> float:
    """Median of nearest over second nearest; two neighbours at distance zero count as 1."""
    if distances.shape[1] < 2:
        return math.nan
    first, second = distances.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.median(np.where(second > 0, first / second, 1.0)))


def share_of_copies(rows: TableData, others: TableData) -> float:
    """Share of ``rows`` that equal one of ``others`` in every cell, holes included."""
    return float(rows_in(rows, others).mean())
