"""Whether a density puts its mass where held-out rows are, and loses likelihood on rows that were spoiled."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from genzoo.evaluation.features import Matrix, sample_rows
from genzoo.evaluation.sections import Curves, Grid, Metric, Section, Subject, share_metric
from genzoo.tables.encode import TableData
from genzoo.tables.schema import column_places

MAX_ROWS = 1000
SHARES = (0.05, 0.2, 1.0)

DEFINITIONS = {
    "region distance": "Largest difference between the share of held-out rows inside each highest-density region and "
    "the mass the model gives that region; both are read off the model's own log-likelihoods of samples and of "
    "held-out rows (Hyndman 1996). Values up to the one in brackets in the note are chance.",
    "coverage of 90 % region": "Share of held-out rows inside the region of highest density with mass 0.90.",
}
LADDER = (
    "Mean log-likelihood of held-out rows minus that of the same rows with {share:.0%} of their cells exchanged with "
    "other rows, column by column; nats per row, above zero for a model that knows how columns depend on each other."
)


def calibration_section(subject: Subject) -> Section | None:
    """Highest-density-region coverage and the ladder of spoiled rows; needs samples for the first."""
    model, seed = subject.model, subject.seed
    rows = sample_rows(subject.test, MAX_ROWS, seed)
    if len(rows) < 20:
        return None
    whole = model.log_prob(rows, seed=seed).values
    metrics, curves = [], []
    words = f"{len(rows)} held-out rows."
    if subject.samples is not None and not model.schema.context and not _has_holes(rows):
        from genzoo.tables.encode import encode_frame

        own = model.log_prob(encode_frame(subject.samples, model.schema), seed=seed).values
        inside = region_levels(whole, own)
        distance = float(np.max(np.abs(np.sort(inside) - (np.arange(len(inside)) + 0.5) / len(inside))))
        share = float(np.mean(inside <= 0.9))
        error = math.sqrt(share * (1 - share) / len(inside) + 0.09 / len(own))
        chance = 1.36 * math.sqrt(1 / len(inside) + 1 / len(own))
        metrics += [
            Metric("region distance", distance, DEFINITIONS["region distance"], "down"),
            share_metric("coverage of 90 % region", share, error, DEFINITIONS["coverage of 90 % region"]),
        ]
        words += f" {len(own)} samples; by chance the region distance stays below [{chance:.3f}] in 95 of 100 cases."
        levels = np.linspace(0, 1, 41)
        curves.append(
            Curves(
                "Held-out rows in regions of highest density",
                "mass by the model",
                "share of rows",
                {
                    "right": [(0.0, 0.0), (1.0, 1.0)],
                    "model": [(float(v), float(np.mean(inside <= v))) for v in levels],
                },
                summary=f"{share:.3f} of the rows in the region of mass 0.90",
            )
        )
        if model.likelihood_kind != "exact":
            words += " Regions are those of a bound, not of the density itself."
    elif _has_holes(rows):
        words += " Rows with missing cells have densities of different kinds, so regions are not compared."
    lines = []
    for share in SHARES:
        lost = whole - model.log_prob(exchanged(rows, share, seed), seed=seed).values
        finite = lost[np.isfinite(lost)]
        value = float(finite.mean()) if len(finite) else math.nan
        error = 1.96 * float(finite.std()) / math.sqrt(max(len(finite), 1))
        metrics.append(
            Metric(
                f"lost at {share:.0%}", value, LADDER.format(share=share), "none", value - error, value + error,
                unit="nats",
            )
        )  # fmt: skip
        lines.append((f"{share:.0%}", f"{value:.3f}", f"{float(np.mean(lost > 0)):.3f}"))
    grid = Grid("Rows with cells exchanged", ("Cells", "Mean loss", "Share of rows that lose"), tuple(lines))
    return Section("calibration", tuple(metrics), (grid,), tuple(curves), words)


def _has_holes(rows: TableData) -> bool:
    return bool(np.isnan(rows.numeric).any() or (rows.codes < 0).any())


def region_levels(values: Matrix, own: Matrix) -> Matrix:
    """Mass of the smallest highest-density region that holds each row: the share of samples with higher likelihood.

    Ties (cells that repeat) count half. Uniform on (0, 1) if the model is right.

    Args:
        values: ``(n,)`` log-likelihoods of rows.
        own: ``(m,)`` log-likelihoods of samples of the same model.
    """
    order = np.sort(own)
    left, right = np.searchsorted(order, values, "left"), np.searchsorted(order, values, "right")
    return np.asarray(1 - (left + right) / (2 * len(own)))


def exchanged(rows: TableData, share: float, seed: int = 0) -> TableData:
    """The rows with a share of the cells of each scored column exchanged among the rows; marginals do not change."""
    rng = np.random.default_rng([seed, 0x6578])
    numeric, codes = rows.numeric.copy(), rows.codes.copy()
    for column, is_number, place in column_places(rows.schema):
        if column not in rows.schema.scored:
            continue
        array = numeric if is_number else codes
        chosen = np.flatnonzero(rng.random(len(rows)) < share)
        array[chosen, place] = array[rng.permutation(chosen), place]
    return replace(rows, numeric=numeric, codes=codes)
