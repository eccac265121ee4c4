"""The algebra of likelihood kinds: what sums and differences of exact numbers, bounds and estimates are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from genzoo.likelihood.kinds import (
    ALL,
    add_kinds,
    check_kind,
    default_bias,
    is_ceiling,
    is_rankable,
    kind_word,
    negate_kind,
)

EXACT, LOWER, UPPER = ("exact", "none"), ("lower_bound", "below"), ("upper_bound", "above")
UNBIASED, BIASED, PROXY = ("estimate", "none"), ("estimate", "unknown"), ("unnormalised", "unknown")


def test_there_are_six_kinds_of_number():
    assert set(ALL) == {EXACT, LOWER, UPPER, UNBIASED, BIASED, PROXY}


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [
        (EXACT, EXACT, EXACT),
        (EXACT, LOWER, LOWER),
        (EXACT, UNBIASED, UNBIASED),
        (LOWER, UNBIASED, LOWER),
        (UPPER, UNBIASED, UPPER),
        (LOWER, LOWER, LOWER),
        (UPPER, UPPER, UPPER),
        (LOWER, UPPER, BIASED),
        (UNBIASED, UNBIASED, UNBIASED),
        (LOWER, BIASED, BIASED),
        (EXACT, PROXY, PROXY),
        (UPPER, PROXY, PROXY),
    ],
)
def test_sums_follow_the_signs_of_the_expected_errors(first, second, total):
    assert add_kinds(first, second) == total
    assert add_kinds(second, first) == total


def test_adding_kinds_is_associative_idempotent_and_exact_is_neutral():
    for a, b, c in itertools.product(ALL, repeat=3):
        assert add_kinds(add_kinds(a, b), c) == add_kinds(a, add_kinds(b, c))
        assert add_kinds(a, b) == add_kinds(b, a)
    for a in ALL:
        assert add_kinds(a, a) == a
        assert add_kinds(a, EXACT) == a


def test_minus_is_its_own_inverse_and_distributes_over_sums():
    assert negate_kind(*LOWER) == UPPER
    for a, b in itertools.product(ALL, repeat=2):
        assert negate_kind(*negate_kind(*a)) == a
        assert negate_kind(*add_kinds(a, b)) == add_kinds(negate_kind(*a), negate_kind(*b))


def test_difference_of_two_lower_bounds_is_of_unknown_sign():
    assert add_kinds(LOWER, negate_kind(*LOWER)) == BIASED
    assert add_kinds(LOWER, negate_kind(*UPPER)) == LOWER


@pytest.mark.parametrize("seed", range(3))
def test_sign_of_a_sum_holds_for_numbers_that_have_the_signs_of_their_kinds(seed):
    """The algebra against arithmetic: errors drawn with the sign of each kind have, summed, the sign it promises."""
    rng = np.random.default_rng(seed)
    draw = {
        "none": lambda: 0.0,
        "below": lambda: -rng.exponential(),
        "above": rng.exponential,
        "unknown": lambda: rng.normal() * 3,
    }
    allowed = {"none": {0}, "below": {-1, 0}, "above": {0, 1}, "unknown": {-1, 0, 1}}
    for a, b in itertools.product(ALL, repeat=2):
        promised = allowed[add_kinds(a, b)[1]]
        seen = {int(np.sign(draw[a[1]]() + draw[b[1]]())) for _ in range(50)}
        assert seen <= promised
        if len(promised) == 3 and "unnormalised" not in (a[0], b[0]):
            assert {-1, 1} <= seen  # an unknown sign is not claimed where the sign is known


def test_rankable_are_exact_unbiased_and_lower_bounds():
    assert {k for k in ALL if is_rankable(*k)} == {EXACT, UNBIASED, LOWER}
    assert {k for k in ALL if is_ceiling(*k)} == {EXACT, UNBIASED, UPPER}


def test_kind_and_bias_that_contradict_each_other_are_refused_with_the_kind_that_was_meant():
    with pytest.raises(ValueError, match="with bias 'below' is of kind 'lower_bound'"):
        check_kind("estimate", "below")
    with pytest.raises(ValueError, match="unknown likelihood kind 'bound'; use one of exact, lower_bound"):
        default_bias("bound")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown bias 'up'"):
        check_kind("exact", "up")


def test_each_kind_has_its_own_word():
    assert len({kind_word(*k) for k in ALL}) == 6
    assert kind_word(*LOWER) == "bound"
