"""Several runs of one model as one result: folds are joined row by row, seeds are averaged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from genzoo.evaluation.sections import Metric, Section
from genzoo.likelihood.kinds import Bias, LikelihoodKind, add_kinds
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.reports.results import DiscretisedResult, ModelResult


def combine(name: str, runs: Sequence[tuple[int, int, ModelResult]]) -> ModelResult:
    """All runs of a model: first the folds of each seed, then the seeds.

    Args:
        name: Name of the model.
        runs: ``(seed, fold, result)``.

    Returns:
        One result. If a run failed it is a failed result that says which; the others' numbers would describe an
        easier table.
    """
    several = len(runs) > 1
    for seed, fold, result in runs:
        if result.likelihood is None:
            which = f" (run with seed {seed + 1}, fold {fold + 1})" if several else ""
            return ModelResult(name, error=f"{result.error}{which}")
    if not several:
        return replace(runs[0][2], name=name)
    seeds = sorted({seed for seed, _, _ in runs})
    joined = [join_folds([r for s, _, r in sorted(runs, key=lambda run: run[1]) if s == seed]) for seed in seeds]
    return replace(average_seeds(joined), name=name)


def join_folds(results: Sequence[ModelResult]) -> ModelResult:
    """Every row once, scored by the model that was trained without it."""
    if len(results) == 1:
        return results[0]
    first = results[0]
    likelihood = join_rows([_scored(r.likelihood) for r in results])
    return replace(
        first,
        likelihood=likelihood,
        discretised=_join_discretised(results),
        train_seconds=_total([r.train_seconds for r in results]),
        sections=_mean_sections(results, "folds"),
        settings={**first.settings, "folds": [round(_scored(r.likelihood).mean(), 6) for r in results]},
    )


def join_rows(parts: Sequence[LogLikelihood]) -> LogLikelihood:
    """Likelihoods of different rows under one another."""
    kind, bias = _common_kind(parts)

    def whole(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        return None if any(values is None for values in found) else np.concatenate(found)

    noisy = [np.zeros(len(part)) if part.se is None else part.se for part in parts]
    sizes = [float(len(part)) if part.weights is None else float(part.weights.sum()) for part in parts]
    counts = {key: sum(part.counts.get(key, 0) for part in parts) for part in parts for key in part.counts}
    return replace(
        next((part for part in parts if part.kind == kind), parts[0]),  # its method and settings say how
        values=whole("values"),
        rows=whole("rows"),
        kind=kind,
        bias=bias,
        se=None if all(part.se is None for part in parts) else np.concatenate(noisy),
        se_common=math.hypot(*(part.se_common * size for part, size in zip(parts, sizes, strict=True))) / sum(sizes),
        discrete=whole("discrete"),
        continuous=whole("continuous"),
        by_column=whole("by_column"),
        weights=whole("weights"),
        counts=counts,
        data=_digest([part.data for part in parts]),
        uses_mask=any(part.uses_mask for part in parts),
    )


def average_seeds(results: Sequence[ModelResult]) -> ModelResult:
    """The mean over training seeds row by row; the spread of their means is an error common to all rows."""
    if len(results) == 1:
        return results[0]
    first = results[0]
    parts = [_scored(r.likelihood) for r in results]
    parts = [part.aligned(parts[0].rows) for part in parts]
    discretised = None
    known = [r.discretised for r in results if r.discretised is not None]
    if len(known) == len(results):
        discretised = replace(
            known[0],
            likelihood=average_rows([d.likelihood.aligned(known[0].likelihood.rows) for d in known]),
            spike_index=float(np.mean([d.spike_index for d in known])),
        )
    return replace(
        first,
        likelihood=average_rows(parts),
        discretised=discretised,
        train_seconds=_total([r.train_seconds for r in results]),
        sections=_mean_sections(results, "seeds"),
        settings={**first.settings, "seeds": [round(part.mean(), 6) for part in parts]},
    )


def average_rows(parts: Sequence[LogLikelihood]) -> LogLikelihood:
    """Row by row mean of the same rows scored by models trained with different seeds.

    It estimates what a run gives on average over seeds: exact numbers that differ between seeds become an unbiased
    estimate, bounds stay bounds.
    """

    def mean(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        return None if any(values is None for values in found) else np.mean(found, axis=0)

    means = np.array([part.mean() for part in parts])
    spread = float(means.std(ddof=1)) / math.sqrt(len(parts)) if np.isfinite(means).all() else 0.0
    noisy = [np.zeros(len(part)) if part.se is None else part.se for part in parts]
    kind, bias = _common_kind(parts)
    if spread > 0:
        kind, bias = add_kinds((kind, bias), ("estimate", "none"))
    own = math.hypot(*(part.se_common for part in parts)) / len(parts)
    return replace(
        parts[0],
        values=mean("values"),
        kind=kind,
        bias=bias,
        se=None if all(part.se is None for part in parts) else np.sqrt(np.sum(np.square(noisy), axis=0)) / len(parts),
        se_common=math.hypot(own, spread),
        discrete=mean("discrete"),
        continuous=mean("continuous"),
        by_column=mean("by_column"),
    )


def _common_kind(parts: Sequence[LogLikelihood]) -> tuple[LikelihoodKind, Bias]:
    kind, bias = parts[0].kind, parts[0].bias
    for part in parts[1:]:
        if (part.kind, part.bias) != (kind, bias):
            kind, bias = add_kinds((kind, bias), (part.kind, part.bias))
    return kind, bias


def _join_discretised(results: Sequence[ModelResult]) -> DiscretisedResult | None:
    known = [r.discretised for r in results if r.discretised is not None]
    if len(known) < len(results):
        return None
    sizes = np.array([len(d.likelihood) for d in known], dtype=np.float64)
    errors = np.array([d.spike_index_se for d in known])
    return replace(
        known[0],
        # each fold has the resolution of its own training rows; the first one's stands for all, for every model alike
        likelihood=replace(join_rows([d.likelihood for d in known]), settings=dict(known[0].likelihood.settings)),
        spike_index=float(np.average([d.spike_index for d in known], weights=sizes)),
        spike_index_se=float(np.sqrt(np.sum((errors * sizes) ** 2)) / sizes.sum()),
    )


def _mean_sections(results: Sequence[ModelResult], what: str) -> tuple[Section, ...]:
    """Metrics as means over runs with the interval of their spread; tables and figures of the first run."""
    out = []
    for section in results[0].sections:
        runs = [s for r in results for s in r.sections if s.key == section.key]
        metrics = []
        for metric in section.metrics:
            values = np.array([m.value for s in runs for m in s.metrics if m.name == metric.name])
            metrics.append(_mean_metric(metric, values[np.isfinite(values)]))
        note = f"{section.note} Metrics are means over {len(runs)} {what}; tables and figures are of the first."
        out.append(replace(section, metrics=tuple(metrics), note=note.strip()))
    return tuple(out)


def _mean_metric(metric: Metric, values: np.ndarray) -> Metric:
    from scipy.stats import t

    if len(values) < 2:
        return metric
    mean, half = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    half *= float(t.ppf(0.975, len(values) - 1))
    return replace(metric, value=mean, low=mean - half, high=mean + half)


def _scored(likelihood: LogLikelihood | None) -> LogLikelihood:
    assert likelihood is not None
    return likelihood


def _total(seconds: Sequence[float | None]) -> float | None:
    known = [s for s in seconds if s is not None]
    return sum(known) if len(known) == len(seconds) else None


def _digest(names: Sequence[str]) -> str:
    """Fingerprint of the rows of several folds; empty if one is not known."""
    if not all(names):
        return ""
    return hashlib.sha256("+".join(names).encode()).hexdigest()[:16]
