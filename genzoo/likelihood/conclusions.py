"""What may be said about two models, and who may be ranked (DESIGN section 2). Nothing is said that the kinds do not
support: a bound may be declared better than an exact value, never worse on the bound alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from genzoo.likelihood.averages import weighted_mean
from genzoo.likelihood.compare import Paired, _named, paired
from genzoo.likelihood.kinds import is_ceiling, is_rankable, kind_word
from genzoo.likelihood.log_likelihood import LogLikelihood, decimals_for

Verdict = Literal["better", "guarantees_more", "open"]


@dataclass(frozen=True)
class Conclusion:
    """What is known about two models.

    Args:
        verdict: ``better``: ``winner`` describes the data better than ``loser``. ``guarantees_more``: its guaranteed
            value is higher, the truth may be otherwise. ``open``: neither is shown.
        winner: Name, or ``None`` when open.
        loser: Name, or ``None`` when open.
        sentence: One sentence for a report.
    """

    verdict: Verdict
    winner: str | None
    loser: str | None
    sentence: str


def conclusion(first: LogLikelihood, second: LogLikelihood, **options: Any) -> Conclusion:
    """Compares two likelihoods (options of :func:`~genzoo.likelihood.compare.paired`) and says what is known."""
    return conclude(paired(first, second, **options))


def conclude(pair: Paired) -> Conclusion:
    """What a comparison supports.

    "A describes the data better than B" needs an interval without zero, A exact, unbiased or a lower bound (its truth
    is not below the number), and B exact, unbiased or an upper bound (its truth is not above). If both are rankable but
    B is a lower bound, only the guarantees are compared. All else stays open.
    """
    if pair.mean < 0:
        pair = pair.reversed()
    winner, loser = pair.first_kind, pair.second_kind
    a, b = pair.first, pair.second
    words = f"({kind_word(*winner)} against {kind_word(*loser)})"
    if "unnormalised" in (winner[0], loser[0]):
        which = a if winner[0] == "unnormalised" else b
        return Conclusion("open", None, None, f"nothing follows: {which} is known only up to a constant")
    if math.isnan(pair.mean):
        if pair.num_first_neg_inf and pair.num_second_neg_inf:
            text = (
                f"nothing follows: {a} gives zero likelihood to {_rows(pair.num_first_neg_inf)} that {b} can score, "
                f"and {b} to {_rows(pair.num_second_neg_inf)} that {a} can score"
            )
        else:
            text = f"nothing follows: no row has likelihood under {a} or {b}"
        return Conclusion("open", None, None, text)
    if not pair.excludes_zero:
        text = f"no difference between {a} and {b} is shown: {_amount(pair)} nats a row {words}{_after(pair)}"
        return Conclusion("open", None, None, text)
    if is_rankable(*winner) and is_ceiling(*loser):
        least = "at least " if {winner[1], loser[1]} != {"none"} else ""
        text = f"{a} describes the data better than {b}, by {least}{_amount(pair)} nats a row {words}{_after(pair)}"
        return Conclusion("better", a, b, text)
    if is_rankable(*winner) and is_rankable(*loser):
        tail = f"; the truth of {b} may be higher than its bound"
        text = f"{a} guarantees {_amount(pair)} nats a row more than {b} {words}{tail}{_after(pair)}"
        return Conclusion("guarantees_more", a, b, text)
    which = a if not is_rankable(*winner) else b
    text = (
        f"neither is shown to be better: {a} stands {_amount(pair)} nats a row above {b}, but the number of {which} is "
        f"{_an(kind_word(*(winner if which == a else loser)))}{_after(pair)}"
    )
    return Conclusion("open", None, None, text)


@dataclass(frozen=True)
class Ranking:
    """Models by guaranteed value, and those that stand apart.

    Args:
        ranked: Names, highest first.
        apart: Name to the reason why it is not ranked.
        mean: Name to its mean over ``num_rows`` rows, nats a row.
        num_rows: Rows used: all but those that no rankable model gives any likelihood (values outside declared bounds).
    """

    ranked: tuple[str, ...]
    apart: dict[str, str]
    mean: dict[str, float]
    num_rows: int


def ranking(
    likelihoods: Mapping[str, LogLikelihood] | Sequence[LogLikelihood], withdrawn: Mapping[str, str] | None = None
) -> Ranking:
    """Orders models by the value that is guaranteed: exact, unbiased and lower bounds; others stand apart, unranked.

    Args:
        likelihoods: Named, or a list; on the same rows.
        withdrawn: Name to reason of models that are not ranked for another cause (a spike index above 0.1).

    Raises:
        ComparisonError: two may not be compared.
    """
    from genzoo.likelihood.compare import require_comparable

    named, withdrawn = _named(likelihoods), dict(withdrawn or {})
    apart: dict[str, str] = {}
    for name, one in named.items():
        if not is_rankable(one.kind, one.bias):
            apart[name] = {
                "upper_bound": "an upper bound: the truth may be lower",
                "unnormalised": "known only up to a constant",
            }.get(one.kind, "an estimate of unknown bias")
        elif name in withdrawn:
            apart[name] = withdrawn[name]
    if not named:
        return Ranking((), {}, {}, 0)
    reference = next(iter(named.values()))
    values = {}
    for name, one in named.items():
        require_comparable(reference, one)
        values[name] = one.aligned(reference.rows).values
    judged = [values[name] for name in named if name not in apart] or list(values.values())
    kept = ~np.logical_and.reduce([np.isneginf(v) for v in judged])
    weights = None if reference.weights is None else reference.weights[kept]
    mean = {name: weighted_mean(v[kept], weights) for name, v in values.items()}
    ranked = sorted((name for name in named if name not in apart), key=lambda name: -mean[name])
    return Ranking(tuple(ranked), apart, mean, int(kept.sum()))


def _amount(pair: Paired) -> str:
    if not math.isfinite(pair.mean):
        return f"infinitely many (zero likelihood of {_rows(pair.num_second_neg_inf)} under {pair.second})"
    if not math.isfinite(pair.se):  # one row: no spread, no interval
        return f"{pair.mean:.3f}"
    digits = decimals_for(pair.se)
    ends = f"{100 * pair.level:.0f} % interval {pair.low:.{digits}f} to {pair.high:.{digits}f}"
    return f"{pair.mean:.{digits}f} ± {pair.se:.{digits}f} ({ends})"


def _after(pair: Paired) -> str:
    notes = ""
    if pair.num_both_neg_inf:
        notes += f"; {_rows(pair.num_both_neg_inf)} with zero likelihood under both left out"
    if pair.mask_differs:
        notes += "; one of them reads the pattern of holes, which helps it where the pattern is informative"
    return notes


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _an(word: str) -> str:
    return f"an {word}" if word in ("estimate", "upper bound") else f"a {word}"
