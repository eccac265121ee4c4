"""From pairs to sentences: who is ranked, what is concluded, what is only guaranteed, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from genzoo.errors import ComparisonError
from genzoo.likelihood.compare import Paired, compare_all
from genzoo.likelihood.conclusions import Conclusion, conclude, ranking
from genzoo.reports import formats
from genzoo.reports.results import SPIKE_LIMIT, ModelResult
from genzoo.reports.rows import Group, group_of

if TYPE_CHECKING:
    from genzoo.reports.comparison import Comparison


def rank(results: Sequence[ModelResult]) -> tuple[str, ...]:
    """Names by guaranteed value, highest first."""
    return ranking({r.name: r.likelihood for r in results if r.likelihood is not None}).ranked


def short_verdict(pair: Paired, reference: str, group: Group) -> str | None:
    """What follows for a model against the first of the ranking, in a few words."""
    if group == "oracle":
        return None
    found = conclude(pair)
    if found.verdict == "better" and found.winner == reference:
        return "shown worse than the first"
    if group != "ranked":
        return "nothing follows"
    if found.verdict == "guarantees_more":
        return "guarantees less"
    return "not told apart" if not pair.excludes_zero else "nothing follows"


def conclusions(comparison: Comparison) -> list[str]:
    """The headline and what stands behind it."""
    ranked = comparison.ranked
    sentences = []
    if not ranked:
        scored = any(r.likelihood is not None and not r.is_oracle for r in comparison.results)
        reason = "no number here is exact, unbiased or a lower bound without spikes" if scored else "every model failed"
        sentences.append(f"No model of '{comparison.table_name}' can be ranked: {reason}.")
    elif len(ranked) == 1:
        row = next(row for row in comparison.rows if row.rank == 1)
        label = formats.with_error(row.mean, row.se, row.kind)
        sentences.append(f"{ranked[0]} is the only model that can be ranked, with {label} nats per row.")
    else:
        sentences += _headline(comparison, ranked)
    sentences += _apart(comparison)
    sentences += _discretised(comparison)
    sentences += _oracle(comparison)
    sentences += _floor(comparison)
    failed = [r.name for r in comparison.results if group_of(r) == "failed"]
    if failed:
        verb = "failed; its error stands" if len(failed) == 1 else "failed; their errors stand"
        sentences.append(f"{listed(failed)} {verb} in the table.")
    return sentences


def _headline(comparison: Comparison, ranked: Sequence[str]) -> list[str]:
    first, second, *_ = ranked
    found: dict[str, Conclusion] = {name: conclude(comparison.pair(first, name)) for name in ranked[1:]}
    better = [name for name, c in found.items() if c.verdict == "better"]
    guarantees = [name for name, c in found.items() if c.verdict == "guarantees_more"]
    untold = [name for name, c in found.items() if c.verdict == "open"]
    table = f"'{comparison.table_name}'"
    closest = _sentence(found[second].sentence)
    if not guarantees and not untold:
        lead = f"{first} describes the held-out rows of {table} best among the {len(ranked)} ranked models."
        return [lead, closest]
    if not untold:
        lead = f"{first} guarantees the most on the held-out rows of {table}"
        lead += f" and describes them better than {listed(better)}." if better else "."
        also = ""
        if len(guarantees) > 1 or guarantees[0] != second:
            verb = (
                "are lower bounds, whose true values" if len(guarantees) > 1 else "is a lower bound, whose true value"
            )
            also = f"The number{'s' * (len(guarantees) > 1)} of {listed(guarantees)} {verb} may be higher."
        return [lead, " ".join(filter(None, [closest, also]))]
    lead = f"No single best model of {table} is shown: {first} stands first, not told apart from {listed(untold)}."
    rest = []
    if better:
        rest.append(f"{first} describes the held-out rows better than {listed(better)}.")
    if guarantees:
        rest.append(f"It guarantees more than {listed(guarantees)}, whose numbers are lower bounds.")
    return [lead, " ".join([closest, *rest])]


def _apart(comparison: Comparison) -> list[str]:
    """What follows for models that are not ranked: better is shown, or nothing."""
    if comparison.reference is None:
        return []
    beaten: list[str] = []
    unclear: list[str] = []
    for result in comparison.results:
        if group_of(result) != "unranked":
            continue
        found = conclude(comparison.pair(comparison.reference, result.name))
        (beaten if found.verdict == "better" and found.winner == comparison.reference else unclear).append(result.name)
    sentences = []
    if beaten:
        sentences.append(f"{comparison.reference} is also shown to be better than {listed(beaten)}, not ranked.")
    if unclear:
        sentences.append(f"Not ranked, and no part of this conclusion: {listed(unclear)}.")
    return sentences


def _discretised(comparison: Comparison) -> list[str]:
    """Who is first where spikes cannot help, when spikes decided the rank of some model."""
    spiky = [r.name for r in comparison.results if is_spiky(r)]
    having = [r for r in comparison.results if r.discretised is not None and not r.is_oracle]
    if not spiky or len(having) < 2:
        return []
    named = {r.name: replace(r.discretised.likelihood, model=r.name) for r in having if r.discretised is not None}
    try:
        order = ranking(named).ranked
        if len(order) < 2:
            return []
        chosen = {name: named[name] for name in order}
        pairs = compare_all(chosen, level=comparison.level, ordered=comparison.ordered)
    except ComparisonError as error:
        return [f"Discretised likelihoods are not compared: {error}."]
    found = conclude(pairs[order[0], order[1]])
    return [f"In discretised likelihood, which spikes cannot raise: {found.sentence}."]


def is_spiky(result: ModelResult) -> bool:
    """The density owes more than 0.1 nats a row to repeated values."""
    return result.discretised is not None and result.discretised.withdraws_rank and not result.is_oracle


def _oracle(comparison: Comparison) -> list[str]:
    sentences = []
    for result in comparison.results:
        if result.is_oracle and result.likelihood is not None and comparison.reference is not None:
            pair = comparison.pair(result.name, comparison.reference)
            if pair.mean >= 0:
                gap = formats.with_error(pair.mean, pair.se)
                what = f"The true density stands {gap} nats per row above {comparison.reference}"
                sentences.append(f"{what}: this much is left to learn.")
    return sentences


def _floor(comparison: Comparison) -> list[str]:
    """How many models stand above the product of marginals."""
    floor = next((name for name in comparison.ranked if name.lower() in ("independent", "independence")), None)
    others = [name for name in comparison.ranked if name != floor]
    if floor is None or not others:
        return []
    above = [n for n in others if conclude(comparison.pair(n, floor)).winner == n]
    if len(above) == len(others):
        return [
            f"Every other ranked model stands above {floor} (columns taken one by one); each interval excludes zero."
        ]
    missing = [n for n in others if n not in above]
    return [f"Not shown to stand above {floor} (columns taken one by one): {listed(missing)}."]


def warnings(comparison: Comparison) -> list[str]:
    """Sentences on what could mislead."""
    found = []
    spiky = [r for r in comparison.results if is_spiky(r)]
    for r in spiky:
        assert r.discretised is not None
        found.append(
            f"{r.name} owes {r.discretised.spike_index:.2f} nats per row to repeated values "
            f"(spike index above {SPIKE_LIMIT}); its rank is withdrawn. "
            "Declare the column quantized or mixed, or compare the discretised likelihood."
        )
    for row in comparison.rows:
        if row.num_neg_inf and row.group in ("ranked", "unranked"):
            share = f"{row.num_neg_inf} of {row.num_rows} test rows"
            found.append(f"{row.name} holds {share} impossible, so its mean is −∞.")
    readers = {row.uses_mask for row in comparison.rows if row.group == "ranked"}
    if len(readers) > 1:
        names = [row.name for row in comparison.rows if row.uses_mask and row.group == "ranked"]
        found.append(
            f"{listed(names)} read{'s' if len(names) == 1 else ''} the pattern of missing cells, the others do not: "
            "where the pattern is informative, that helps."
        )
    for result in comparison.results:
        if not (result.is_oracle and result.likelihood is not None):
            continue
        for name in comparison.ranked:
            pair = comparison.pair(name, result.name)
            if math.isfinite(pair.mean) and pair.mean > 3 * pair.se:
                gap = formats.with_error(pair.mean, pair.se)
                found.append(
                    f"{name} stands {gap} nats per row above the true density, more than three standard errors: "
                    "one of the two numbers is wrong."
                )
    return found


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(words: str) -> str:
    """First letter as it is (it may be a model's name), minus signs and a full stop."""
    first = words[0].upper() if words.startswith(("no ", "nothing ", "neither ")) else words[0]
    return first + words[1:].rstrip(".") + "."
