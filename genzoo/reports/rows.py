"""The rows of the main table: numbers of different kinds stand in different groups and are never ranked together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from genzoo.likelihood.kinds import kind_word
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.likelihood.summaries import with_and_without
from genzoo.reports.results import ModelResult

Group = Literal["ranked", "unranked", "oracle", "failed"]

GROUP_TITLES: dict[str, str] = {
    "oracle": "Oracle: the true density, not a model",
    "ranked": "Ranked by guaranteed value (exact, unbiased, lower bound)",
    "unranked": "Not ranked",
    "failed": "Failed",
}
GROUPS: tuple[Group, ...] = ("oracle", "ranked", "unranked", "failed")

FROM_SUMMARY = (
    *("se", "se_rows", "se_mc", "se_common", "num_rows", "discrete", "continuous", "uses_mask"),
    *("num_neg_inf", "median", "q01", "q99"),
)


def kind_words(likelihood: LogLikelihood) -> str:
    """The kind as it stands beside a number: exact, bound, upper bound, unbiased, estimate, unnormalised."""
    return kind_word(likelihood.kind, likelihood.bias)


@dataclass(frozen=True)
class Row:
    """One model in the main table; likelihoods in nats per row, ``None`` where a number does not exist.

    Args:
        name: Model.
        group: Where it stands; only ``ranked`` rows have a rank.
        rank: 1 is the highest guaranteed value.
        reason: Why it is not ranked.
        error: Why it failed.
        kind: exact, bound, unbiased, upper bound, estimate or unnormalised.
        mean: Mean log-likelihood per row.
        se: Standard error from rows, Monte Carlo noise and noise common to all rows together.
        se_rows: Part from the choice of rows.
        se_mc: Part from independent noise in each row.
        se_common: Part from noise shared by all rows.
        num_rows: Rows scored.
        difference: Difference to the first of the ranking, paired row by row.
        difference_low: Lower end of its 95 % interval.
        difference_high: Upper end.
        p_value: Of equal means, corrected by Holm over all pairs of models.
        verdict: What may be concluded against the first, in words.
        bits_per_dim: Bits per cell, where all cells share one measure.
        discrete: Part that is probability.
        continuous: Part that is density.
        uses_mask: The model read the pattern of holes.
        num_neg_inf: Rows with likelihood zero.
        unseen: Cells with a category not seen in training.
        off_grid: Cells of quantized columns moved to their grid.
        median: Median over rows.
        q01: 1 % quantile.
        q99: 99 % quantile.
        minimum: Lowest row.
        without_shared: Mean over test rows that are not also training rows.
        spike_index: See :class:`~genzoo.likelihood.discretised.DiscretisedResult`.
        spike_index_se: Its standard error.
        discretised: Mean discretised log-likelihood.
        discretised_se: Its standard error.
        discretised_kind: Its kind.
        num_parameters: Free numbers of the model.
        train_seconds: Training time.
        sample_rows_per_second: Speed of sampling.
        method: How the likelihood was computed.
    """

    name: str
    group: Group
    rank: int | None = None
    reason: str | None = None
    error: str | None = None
    kind: str | None = None
    mean: float | None = None
    se: float | None = None
    se_rows: float | None = None
    se_mc: float | None = None
    se_common: float | None = None
    num_rows: int | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    verdict: str | None = None
    bits_per_dim: float | None = None
    discrete: float | None = None
    continuous: float | None = None
    uses_mask: bool | None = None
    num_neg_inf: int | None = None
    unseen: int | None = None
    off_grid: int | None = None
    median: float | None = None
    q01: float | None = None
    q99: float | None = None
    minimum: float | None = None
    without_shared: float | None = None
    spike_index: float | None = None
    spike_index_se: float | None = None
    discretised: float | None = None
    discretised_se: float | None = None
    discretised_kind: str | None = None
    num_parameters: int | None = None
    train_seconds: float | None = None
    sample_rows_per_second: float | None = None
    method: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the order of the fields."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def group_of(result: ModelResult) -> Group:
    """The group in which a result stands."""
    if result.likelihood is None:
        return "failed"
    if result.is_oracle:
        return "oracle"
    return "ranked" if result.withdrawn is None else "unranked"


def measured(result: ModelResult, num_cells: float | None, shared_rows: Sequence[int] | None) -> dict[str, Any]:
    """The fields of a row that need no other model.

    Args:
        result: The model.
        num_cells: Mean number of scored cells per row where all share one measure, else ``None``.
        shared_rows: Ids of test rows that are also training rows, or ``None`` when unknown or meaningless.
    """
    plain: dict[str, Any] = {
        "num_parameters": result.num_parameters,
        "train_seconds": result.train_seconds,
        "sample_rows_per_second": result.sample_rows_per_second,
    }
    likelihood = result.likelihood
    if likelihood is None:
        return plain | {"error": result.error or "no likelihood and no error was recorded"}
    summary = likelihood.summary()
    mean = likelihood.mean()
    plain |= {
        "reason": result.withdrawn,
        "kind": kind_words(likelihood),
        "mean": mean,
        "unseen": likelihood.counts.get("unseen", 0),
        "off_grid": likelihood.counts.get("off_grid", 0),
        "method": likelihood.method,
        "minimum": summary["min"],
    }
    plain |= {key: _known(summary[key]) for key in FROM_SUMMARY}
    if num_cells:
        plain["bits_per_dim"] = -mean / (num_cells * math.log(2))
    if shared_rows is not None:
        shared = np.isin(likelihood.rows, np.asarray(shared_rows, dtype=np.int64))
        plain["without_shared"] = _known(with_and_without(likelihood, shared).mean_without)
    if result.discretised is not None:
        disc = result.discretised
        plain |= {
            "spike_index": _known(disc.spike_index),
            "spike_index_se": _known(disc.spike_index_se),
            "discretised": disc.likelihood.mean(),
            "discretised_se": _known(disc.likelihood.se_mean()),
            "discretised_kind": kind_words(disc.likelihood),
        }
    return plain


def _known(value: Any) -> Any:
    """NaN stands for a number that does not exist."""
    return None if isinstance(value, float) and math.isnan(value) else value
