"""Whether likelihood and typicality find rows that were spoiled on purpose."""

from __future__ import annotations

import numpy as np

from genzoo.evaluation.auc import auc
from genzoo.evaluation.calibration import exchanged
from genzoo.evaluation.features import sample_rows
from genzoo.evaluation.sections import Section, Subject, share_metric

MAX_ROWS = 1000

DEFINITIONS = {
    "AUROC (likelihood)": "Area under the ROC curve of minus the log-likelihood telling rows whose cells were all "
    "exchanged with other rows, column by column, from rows left as they are; 0.5 finds nothing.",
    "AUROC (typicality)": "The same with the distance of the log-likelihood from its mean on training rows "
    "(Nalisnick et al. 2019), which also finds rows that are too likely.",
}


def outliers_section(subject: Subject) -> Section | None:
    """Half of the held-out rows keep their cells, the other half has them exchanged among themselves."""
    model, seed = subject.model, subject.seed
    rows = sample_rows(subject.test, 2 * MAX_ROWS, seed)
    if len(rows) < 20:
        return None
    order = np.random.default_rng([seed, 0x6F75]).permutation(len(rows))
    half = len(rows) // 2
    plain = rows.select(np.sort(order[:half]))
    spoiled = exchanged(rows.select(np.sort(order[half:])), 1.0, seed)
    values = [model.log_prob(part, seed=seed).values for part in (plain, spoiled)]
    usual = values[0]
    words = "rows kept"
    if subject.train is not None:
        usual = model.log_prob(sample_rows(subject.train, MAX_ROWS, seed), seed=seed).values
        words = "training rows"
    centre = float(np.mean(usual[np.isfinite(usual)]))
    metrics = []
    for name, (inside, outside) in {
        "AUROC (likelihood)": (-values[0], -values[1]),
        "AUROC (typicality)": (np.abs(values[0] - centre), np.abs(values[1] - centre)),
    }.items():
        value, se = auc(outside, inside)
        metrics.append(share_metric(name, value, se, DEFINITIONS[name], "up"))
    note = f"{len(plain)} rows kept, {len(spoiled)} spoiled; typical likelihood from {words}."
    return Section("outliers", tuple(metrics), note=note)
