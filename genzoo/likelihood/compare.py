"""Paired comparison of log-likelihoods on the same rows.

Two likelihoods that answer different questions are refused; else their difference gets an interval, and all pairs of a
family Holm's correction. What may be concluded is in ``conclusions.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from genzoo.errors import ComparisonError
from genzoo.likelihood.averages import noise_of_mean, quantile, same_weights, weighted_mean, winsorised_mean
from genzoo.likelihood.bootstrap import Interval, bca_interval, block_interval, holm, t_interval
from genzoo.likelihood.kinds import Bias, LikelihoodKind
from genzoo.likelihood.log_likelihood import LogLikelihood

Method = Literal["auto", "t", "bca", "block"]
METHODS = ("auto", "t", "bca", "block")
FEW_ROWS = 1000
FEWEST_TO_RESAMPLE = 8
"""Below this the resampled means reach no further than the few rows do, and Student's t covers better."""


def require_comparable(first: LogLikelihood, second: LogLikelihood) -> None:
    """Refuses two likelihoods that answer different questions.

    They must agree in rows and their weights, table, base measure of the schema, scored columns, context columns,
    estimand and space (and, in discretised space, in the resolution). An empty fingerprint is not known, and not held
    against the other.

    Raises:
        ComparisonError: one sentence that names everything that differs and what to do.
    """
    found: list[tuple[str, str]] = []

    def differ(what: str, mine: Any, theirs: Any, remedy: str) -> None:
        if mine != theirs:
            found.append((f"{what} ({mine} against {theirs})", remedy))

    same_rows = "score both models on the same rows of one table"
    if first.data and second.data:
        differ("the table", first.data, second.data, same_rows)
    if not np.array_equal(np.sort(first.rows), np.sort(second.rows)):
        missing = len(np.setdiff1d(first.rows, second.rows)), len(np.setdiff1d(second.rows, first.rows))
        mine, theirs = (f"{len(one)} rows" for one in (first, second))
        alone = f"{missing[0]} only in the first, {missing[1]} only in the second"
        found.append((f"rows ({mine} against {theirs}; {alone})", same_rows))
    measures = first.measure or "none", second.measure or "none"
    differ("schema measure", *measures, "train both models with one schema file")
    columns = sorted(first.columns), sorted(second.columns)
    if columns[0] != columns[1]:
        found.append((f"scored columns ({_only(*columns)})", "score the same columns with both models"))
    context = sorted(first.context), sorted(second.context)
    if context[0] != context[1]:
        found.append((f"context columns ({_only(*context)})", "condition both models on the same columns"))
    differ("estimand", first.estimand, second.estimand, "ask both models for the same estimand")
    differ("space", first.space, second.space, "ask both models for likelihoods in the same space")
    if not found and not same_weights(first.weights, second.aligned(first.rows).weights):
        kinds = ["without weights" if one.weights is None else "weighted" for one in (first, second)]
        kinds = kinds if kinds[0] != kinds[1] else ["one set of weights", "another"]
        remedy = "train both with one schema, weight column included"
        found.append((f"row weights ({kinds[0]} against {kinds[1]})", remedy))
    if first.space == second.space == "discretised":
        ours, theirs_ = (one.settings.get("resolutions") for one in (first, second))
        if ours != theirs_:
            found.append((f"resolutions ({ours} against {theirs_})", "discretise both with the same resolutions"))
    if found:
        names = f"'{first.model or 'first'}' and '{second.model or 'second'}'"
        remedies = "; ".join(dict.fromkeys(remedy for _, remedy in found))
        what = ", ".join(what for what, _ in found)
        raise ComparisonError(f"{names} cannot be compared: they differ in {what}; {remedies}")


@dataclass(frozen=True)
class Paired:
    """Difference of two models on the same rows, nats a row, first minus second.

    Args:
        first: Name of the first model.
        second: Name of the second model.
        mean: Mean difference; ``+-inf`` where one of them gives a row no likelihood at all, NaN where each does so to
            another row. Rows at ``-inf`` under both say nothing and are left out (``num_both_neg_inf``).
        se: Standard error: rows, Monte Carlo noise (both are in the spread of the differences) and the common part.
        se_mc: The part that more draws would remove; NaN if not known.
        se_common: The part shared by all rows.
        low: Lower end of the interval.
        high: Upper end.
        level: Confidence of the interval.
        p_value: Two-sided, of equal means.
        p_holm: Corrected for all pairs of a family, ``None`` outside one.
        method: ``t``, ``bca`` or ``block``.
        block_length: Rows in a block, or ``None``.
        num_rows: Rows in the comparison.
        num_finite: Rows that both score; ``mean_finite`` and its interval are over these.
        num_first_neg_inf: Rows at ``-inf`` under the first alone.
        num_second_neg_inf: Rows at ``-inf`` under the second alone.
        num_both_neg_inf: Rows at ``-inf`` under both.
        mean_finite: Mean over rows that both score; equal to ``mean`` when no row is at ``-inf`` under one of them.
        low_finite: Lower end of its interval.
        high_finite: Upper end.
        winsorised: Mean of the differences after the 0.1 % lowest and highest were set to the next one; secondary.
        median: Median difference.
        share_better: Share of rows with a higher value under the first; ties count half.
        kind: Kind of the difference.
        bias: Sign of its expected error.
        first_kind: Kind and bias of the first.
        second_kind: Kind and bias of the second.
        mask_differs: One of the two reads the pattern of holes, the other does not.
    """

    first: str
    second: str
    mean: float
    se: float
    se_mc: float
    se_common: float
    low: float
    high: float
    level: float
    p_value: float
    method: str
    block_length: int | None
    num_rows: int
    num_finite: int
    num_first_neg_inf: int
    num_second_neg_inf: int
    num_both_neg_inf: int
    mean_finite: float
    low_finite: float
    high_finite: float
    winsorised: float
    median: float
    share_better: float
    kind: LikelihoodKind
    bias: Bias
    first_kind: tuple[LikelihoodKind, Bias]
    second_kind: tuple[LikelihoodKind, Bias]
    mask_differs: bool
    p_holm: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """The interval excludes zero and, within a family of comparisons, Holm's correction agrees."""
        clear = self.low > 0 or self.high < 0
        return clear and (self.p_holm is None or self.p_holm <= 1 - self.level)

    def reversed(self) -> Paired:
        """The same comparison seen from the other model."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            mean=-self.mean,
            low=-self.high,
            high=-self.low,
            num_first_neg_inf=self.num_second_neg_inf,
            num_second_neg_inf=self.num_first_neg_inf,
            mean_finite=-self.mean_finite,
            low_finite=-self.high_finite,
            high_finite=-self.low_finite,
            winsorised=-self.winsorised,
            median=-self.median,
            share_better=1 - self.share_better,
            kind={"lower_bound": "upper_bound", "upper_bound": "lower_bound"}.get(self.kind, self.kind),  # type: ignore[arg-type]
            bias={"below": "above", "above": "below"}.get(self.bias, self.bias),  # type: ignore[arg-type]
            first_kind=self.second_kind,
            second_kind=self.first_kind,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        plain = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def paired(
    first: LogLikelihood,
    second: LogLikelihood,
    *,
    level: float = 0.95,
    method: Method = "auto",
    ordered: bool = False,
    num_resamples: int = 10_000,
    seed: int = 0,
    block_length: int | None = None,
    names: tuple[str, str] | None = None,
) -> Paired:
    """Compares two likelihoods row by row.

    The spread of the differences holds the spread of rows and the Monte Carlo noise of both models (also where they
    share draws); common errors are added in quadrature. ``auto`` takes Student t above 1000 rows and an expanded BCa
    bootstrap below (heavy tails; Student t again below eight rows), and the circular block bootstrap for ordered rows,
    where neighbours are alike and the others would be too sure. Where rows have weights, all means are weighted.

    Args:
        first: One model's likelihoods.
        second: The other's, on the same rows; the order of rows may differ.
        level: Confidence of the interval, between 0 and 1.
        method: ``auto``, ``t``, ``bca`` or ``block``.
        ordered: The rows are a time series in the order in which ``first`` holds them.
        num_resamples: Bootstrap samples.
        seed: Of the bootstrap.
        block_length: Rows in a block; ``None`` chooses by the autocorrelation of the differences.
        names: How to call the two; the models' names by default.

    Raises:
        ComparisonError: they may not be compared; the message names what differs.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; use one of {', '.join(METHODS)}")
    if ordered and method in ("t", "bca"):
        raise ValueError(f"method={method!r} takes rows as independent, but they are ordered; use method='block'")
    require_comparable(first, second)
    difference = first - second
    d = difference.values
    both, one, other = np.isnan(d), np.isneginf(d), np.isposinf(d)
    seen = np.isfinite(d)
    finite = d[seen]
    weights = difference.weights
    of_finite = None if weights is None else weights[seen]
    interval = _interval(
        finite, level, method, ordered, difference.se_common, num_resamples, seed, block_length, of_finite
    )
    mean, low, high, p_value = interval.mean, interval.low, interval.high, interval.p_value
    if one.any() and other.any():
        mean, low, high, p_value = math.nan, -math.inf, math.inf, 1.0
    elif one.any() or other.any():
        # One row of zero likelihood settles the mean: no sampling of rows brings it back.
        mean = low = high = -math.inf if one.any() else math.inf
        p_value = 0.0
    se_mc = 0.0 if first.kind == second.kind == "exact" else math.nan
    known = [model.se is not None or model.kind == "exact" for model in (first, second)]
    if difference.se is not None and all(known) and len(finite):
        se_mc = noise_of_mean(difference.se[seen], of_finite)
    scored = d[~both]
    of_scored = None if weights is None else weights[~both]
    better = (scored > 0) + 0.5 * (scored == 0)
    return Paired(
        first=names[0] if names else difference.first,
        second=names[1] if names else difference.second,
        mean=mean,
        se=interval.se if math.isfinite(mean) else math.nan,
        se_mc=se_mc,
        se_common=difference.se_common,
        low=low,
        high=high,
        level=level,
        p_value=p_value,
        method=interval.method,
        block_length=interval.block_length,
        num_rows=len(d),
        num_finite=len(finite),
        num_first_neg_inf=int(one.sum()),
        num_second_neg_inf=int(other.sum()),
        num_both_neg_inf=int(both.sum()),
        mean_finite=interval.mean,
        low_finite=interval.low,
        high_finite=interval.high,
        winsorised=winsorised_mean(finite, weights=of_finite),
        # the same from either side
        median=(quantile(scored, 0.5, of_scored) - quantile(-scored, 0.5, of_scored)) / 2,
        share_better=weighted_mean(better, of_scored) if len(scored) else 0.5,
        kind=difference.kind,
        bias=difference.bias,
        first_kind=(first.kind, first.bias),
        second_kind=(second.kind, second.bias),
        mask_differs=first.uses_mask != second.uses_mask,
    )


def compare_all(
    likelihoods: Mapping[str, LogLikelihood] | Sequence[LogLikelihood], **options: Any
) -> dict[tuple[str, str], Paired]:
    """Compares every pair and corrects the p-values for the whole family by Holm's method.

    Args:
        likelihoods: Named, or a list of likelihoods whose models have different names.
        options: As for :func:`paired`.

    Returns:
        ``(first, second)`` to its comparison with ``p_holm``, each pair once, in the order given.

    Raises:
        ComparisonError: two may not be compared, or share a name.
    """
    named = _named(likelihoods)
    names = list(named)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    results = [paired(named[a], named[b], names=(a, b), **options) for a, b in pairs]
    corrected = holm(np.array([r.p_value for r in results]))
    return {pair: replace(r, p_holm=float(p)) for pair, r, p in zip(pairs, results, corrected, strict=True)}


def _named(likelihoods: Mapping[str, LogLikelihood] | Sequence[LogLikelihood]) -> dict[str, LogLikelihood]:
    if isinstance(likelihoods, Mapping):
        return dict(likelihoods)
    named = {one.model or f"model {i + 1}": one for i, one in enumerate(likelihoods)}
    if len(named) < len(likelihoods):
        raise ComparisonError("two likelihoods are of models with the same name; give a dictionary of names instead")
    return named


def _interval(
    d: np.ndarray,
    level: float,
    method: Method,
    ordered: bool,
    se_common: float,
    num_resamples: int,
    seed: int,
    block_length: int | None,
    weights: np.ndarray | None = None,
) -> Interval:
    chosen = method
    if chosen == "auto":
        few = FEWEST_TO_RESAMPLE <= len(d) <= FEW_ROWS
        chosen = "block" if ordered else "bca" if few else "t"
    if len(d) < 3:  # nothing to resample; two rows have an interval, one row has none
        if len(d) == 2:
            return t_interval(d, level, se_common, weights)
        mean = float(d[0]) if len(d) else math.nan
        return Interval(mean, math.nan, -math.inf, math.inf, 1.0, "t")
    if chosen == "t":
        return t_interval(d, level, se_common, weights)
    if chosen == "bca":
        return bca_interval(d, level, se_common, num_resamples, seed, expand=True, weights=weights)
    return block_interval(d, level, se_common, num_resamples, seed, block_length, weights)


def _only(mine: list[str], theirs: list[str]) -> str:
    parts = []
    for which, here, there in (("first", mine, theirs), ("second", theirs, mine)):
        alone = [repr(name) for name in here if name not in there]
        if alone:
            parts.append(f"only in the {which}: {', '.join(alone)}")
    return "; ".join(parts) or "some appear twice"
