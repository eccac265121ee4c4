"""What kind of number a likelihood is, and how kinds combine (DESIGN: signs of the expected error).

A kind is known by the sign of the expected error of the number. Six cases occur::

    exact        none                      exact
    unbiased     none, zero-mean noise     estimate, bias none
    lower bound  below                     lower_bound
    upper bound  above                     upper_bound
    biased       unknown                   estimate, bias unknown
    proxy        a constant is missing     unnormalised

Adding takes the join of the order ``exact < unbiased < {lower, upper} < biased < unnormalised``: nothing is neutral but
no error, zero-mean noise adds only its standard error, equal signs stay, opposite signs are unknown. A join is
associative, commutative and idempotent, so a sum of parts has one kind whatever the order of adding. Minus flips signs.
"""

from __future__ import annotations

from typing import Literal, get_args

LikelihoodKind = Literal["exact", "lower_bound", "upper_bound", "estimate", "unnormalised"]
Bias = Literal["none", "below", "above", "unknown"]

KINDS: tuple[str, ...] = get_args(LikelihoodKind)
BIASES: tuple[str, ...] = get_args(Bias)

_ALLOWED: dict[str, tuple[Bias, ...]] = {
    "exact": ("none",),
    "lower_bound": ("below",),
    "upper_bound": ("above",),
    "estimate": ("unknown", "none"),
    "unnormalised": ("unknown",),
}
_OPPOSITE: dict[str, tuple[LikelihoodKind, Bias]] = {
    "lower_bound": ("upper_bound", "above"),
    "upper_bound": ("lower_bound", "below"),
}
_WORDS: dict[tuple[str, str], str] = {
    ("exact", "none"): "exact",
    ("lower_bound", "below"): "bound",
    ("upper_bound", "above"): "upper bound",
    ("estimate", "none"): "unbiased",
    ("estimate", "unknown"): "estimate",
    ("unnormalised", "unknown"): "unnormalised",
}
ALL: tuple[tuple[LikelihoodKind, Bias], ...] = tuple(_WORDS)  # type: ignore[arg-type]


def default_bias(kind: LikelihoodKind) -> Bias:
    """The sign of the expected error that ``kind`` stands for; an estimate is of unknown sign unless told otherwise."""
    check_kind(kind)
    return _ALLOWED[kind][0]


def check_kind(kind: str, bias: str | None = None) -> None:
    """Refuses an unknown kind, and a bias that contradicts it.

    Raises:
        ValueError: with the allowed values.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown likelihood kind {kind!r}; use one of {', '.join(KINDS)}")
    if bias is None:
        return
    if bias not in BIASES:
        raise ValueError(f"unknown bias {bias!r}; use one of {', '.join(BIASES)}")
    if bias not in _ALLOWED[kind]:
        meant = next(k for k in ("exact", "lower_bound", "upper_bound", "estimate") if bias in _ALLOWED[k])
        raise ValueError(
            f"kind {kind!r} has bias {' or '.join(map(repr, _ALLOWED[kind]))}, got {bias!r}; "
            f"a number with bias {bias!r} is of kind {meant!r}"
        )


def add_kinds(first: tuple[LikelihoodKind, Bias], second: tuple[LikelihoodKind, Bias]) -> tuple[LikelihoodKind, Bias]:
    """Kind and bias of the sum of two numbers."""
    check_kind(*first)
    check_kind(*second)
    if "unnormalised" in (first[0], second[0]):
        return "unnormalised", "unknown"
    signs = {first[1], second[1]} - {"none"}
    if not signs:
        return ("exact", "none") if first[0] == second[0] == "exact" else ("estimate", "none")
    if signs == {"below"}:
        return "lower_bound", "below"
    if signs == {"above"}:
        return "upper_bound", "above"
    return "estimate", "unknown"


def negate_kind(kind: LikelihoodKind, bias: Bias) -> tuple[LikelihoodKind, Bias]:
    """Kind and bias of minus a number."""
    check_kind(kind, bias)
    return _OPPOSITE.get(kind, (kind, bias))


def is_rankable(kind: LikelihoodKind, bias: Bias) -> bool:
    """The number is, in expectation, guaranteed: exact, unbiased or a lower bound."""
    return bias in ("none", "below")


def is_ceiling(kind: LikelihoodKind, bias: Bias) -> bool:
    """The true value is, in expectation, not above the number: exact, unbiased or an upper bound."""
    return bias in ("none", "above")


def kind_word(kind: LikelihoodKind, bias: Bias) -> str:
    """The word for tables: ``exact``, ``unbiased``, ``bound``, ``upper bound``, ``estimate`` or ``unnormalised``."""
    check_kind(kind, bias)
    return _WORDS[kind, bias]
