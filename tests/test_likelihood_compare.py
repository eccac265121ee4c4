"""Paired comparison: what is refused, what the difference is, and what may be concluded from it."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from genzoo.errors import ComparisonError
from genzoo.likelihood import LogLikelihood, compare_all, conclude, conclusion, paired, ranking, require_comparable

INF = math.inf
KINDS = {
    "exact": ("exact", "none"),
    "unbiased": ("estimate", "none"),
    "bound": ("lower_bound", "below"),
    "upper": ("upper_bound", "above"),
    "biased": ("estimate", "unknown"),
    "proxy": ("unnormalised", "unknown"),
}


def make(values, kind="exact", model="", **changes) -> LogLikelihood:
    values = np.asarray(values, dtype=float)
    word, bias = KINDS[kind]
    given = {"rows": np.arange(len(values)), "columns": ("x", "y"), "measure": "m", "data": "f"} | changes
    return LogLikelihood(values, kind=word, bias=bias, model=model or kind, **given)


def two(first_kind: str, second_kind: str, gap: float = 1.0) -> tuple[LogLikelihood, LogLikelihood]:
    """Two models on 200 rows, the first higher by exactly ``gap`` on average, with s.e. 0.02."""
    rng = np.random.default_rng(0)
    base, noise = rng.normal(size=200) * 5, rng.normal(size=200)
    return make(base + gap + 0.3 * (noise - noise.mean()), first_kind, "A"), make(base, second_kind, "B")


# ------------------------------------------------------------------------------------------------ refusal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rows": [0, 2]},
            r"differ in rows \(2 rows against 2 rows; 1 only in the first, 1 only in the second\); score both",
        ),
        ({"data": "g"}, r"the table \(f against g\)"),
        ({"measure": "k"}, r"schema measure \(m against k\); train both models with one schema file"),
        ({"columns": ("x", "z")}, r"scored columns \(only in the first: 'y'; only in the second: 'z'\)"),
        ({"context": ("a",)}, r"context columns \(only in the second: 'a'\); condition both"),
        ({"estimand": "interventional"}, r"estimand \(observational against interventional\)"),
        ({"space": "discretised"}, r"space \(data against discretised\)"),
    ],
)
def test_likelihoods_that_differ_in_meaning_are_refused_and_the_difference_is_named(change, message):
    first, second = make([1.0, 2.0], model="A"), make([1.0, 2.0], model="B", **change)
    for compare in (
        require_comparable,
        paired,
        conclusion,
        lambda a, b: compare_all([a, b]),
        lambda a, b: ranking([a, b]),
    ):
        with pytest.raises(ComparisonError, match=message) as raised:
            compare(first, second)
        assert str(raised.value).startswith("'A' and 'B' cannot be compared: they differ in ")


def test_everything_that_differs_is_named_in_one_sentence():
    with pytest.raises(ComparisonError) as raised:
        require_comparable(make([1.0]), make([1.0], measure="k", space="benchmark"))
    assert all(word in str(raised.value) for word in ("schema measure", "space", "one schema file", "same space"))


def test_order_of_columns_and_of_rows_and_an_unknown_fingerprint_do_not_matter():
    first = make([1.0, 2.0], rows=[5, 3])
    second = make([2.5, 1.0], "bound", rows=[3, 5], columns=("y", "x"), data="")
    require_comparable(first, second)
    assert paired(first, second).mean == pytest.approx(-0.25)


def test_discretised_likelihoods_need_the_same_resolution():
    one, other = (make([0.0], space="discretised", settings={"resolutions": {"x": d}}) for d in (0.1, 0.2))
    with pytest.raises(ComparisonError, match="resolutions"):
        require_comparable(one, other)


def test_duplicate_names_and_wrong_options_are_refused():
    a = make([1.0, 2.0], model="A")
    with pytest.raises(ComparisonError, match="same name"):
        compare_all([a, a])
    with pytest.raises(ValueError, match="unknown method 'z'; use one of auto, t, bca, block"):
        paired(a, a, method="z")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        paired(a, a, level=95)
    with pytest.raises(ValueError, match="use method='block'"):
        paired(a, a, method="t", ordered=True)


# ------------------------------------------------------------------------------------------------ differences


def test_interval_of_equal_models_covers_zero_in_95_percent_of_500_simulations():
    """Rows differ by 5 nats, both models have noise in each row, one a common error: all is in the interval."""
    hits = {"with": 0, "without": 0}
    for seed in range(500):
        rng = np.random.default_rng(seed)
        truth = 5 * rng.standard_normal(200)
        noise = np.full(200, 0.5)
        a = make(truth + 0.5 * rng.standard_normal(200), "bound", "A", se=noise)
        b_values = truth + 0.5 * rng.standard_normal(200) + 0.1 * rng.standard_normal()
        found = paired(a, make(b_values, "bound", "B", se=noise, se_common=0.1), method="t")
        hits["with"] += found.low <= 0 <= found.high
        blind = paired(a, make(b_values, "bound", "B", se=noise), method="t")
        hits["without"] += blind.low <= 0 <= blind.high
    # Binomial s.e. 1 %: 4 s.e., false alarm 1e-4. Without the common part the interval has half the length it needs.
    assert hits["with"] / 500 == pytest.approx(0.95, abs=0.039)
    assert hits["without"] / 500 < 0.8


def test_pairing_takes_out_what_rows_have_in_common():
    a, b = two("exact", "exact", gap=0.1)
    found = paired(a, b)
    assert found.se < 0.1 * math.hypot(a.se_mean(), b.se_mean())
    assert found.excludes_zero
    assert found.method == "bca"


def test_noise_of_the_draws_is_shown_apart():
    a = make([1.0, 2.0, 3.0], "bound", se=[0.3, 0.3, 0.3])
    b = make([1.0, 2.5, 3.0], "unbiased", se=[0.4, 0.4, 0.4], se_common=0.01)
    found = paired(a, b)
    assert found.se_mc == pytest.approx(0.5 / math.sqrt(3))
    assert found.se_common == 0.01
    assert math.isnan(paired(a, make([0.0, 0.0, 0.0], "bound")).se_mc)
    assert paired(make([1.0, 2.0]), make([0.0, 3.0])).se_mc == 0


def test_many_rows_take_student_few_take_bca_and_ordered_ones_blocks():
    rng = np.random.default_rng(0)
    a, b = make(rng.normal(size=1001), model="A"), make(rng.normal(size=1001), model="B")
    assert paired(a, b).method == "t"
    assert paired(a.select(slice(1000)), b.select(slice(1000)), num_resamples=100).method == "bca"
    ordered = paired(a, b, ordered=True, num_resamples=100)
    assert ordered.method == "block"
    assert ordered.block_length is not None


def test_the_same_comparison_from_the_other_side_is_its_mirror():
    a, b = two("bound", "upper")
    forth, back = paired(a, b, method="t"), paired(b, a, method="t")
    mirrored = forth.reversed().to_dict()
    for name, value in back.to_dict().items():
        assert mirrored[name] == (pytest.approx(value, nan_ok=True) if isinstance(value, float) else value), name
    assert (forth.kind, back.kind) == ("lower_bound", "upper_bound")
    json.dumps(forth.to_dict())


def test_a_row_without_likelihood_under_one_model_makes_the_mean_infinite_and_is_counted():
    rng = np.random.default_rng(0)
    values = rng.normal(size=100)
    holes = values.copy()
    holes[[3, 7]] = -INF
    found = paired(make(values, model="A"), make(holes, model="B"))
    assert (found.mean, found.low, found.high, found.p_value) == (INF, INF, INF, 0.0)
    assert (found.num_first_neg_inf, found.num_second_neg_inf, found.num_finite, found.num_rows) == (0, 2, 98, 100)
    assert found.mean_finite == 0
    assert found.share_better == pytest.approx(0.51)
    verdict = conclude(found)
    assert (verdict.verdict, verdict.winner) == ("better", "A")
    assert "zero likelihood of 2 rows under B" in verdict.sentence


def test_rows_without_likelihood_under_both_are_left_out_and_under_each_settle_nothing():
    a, b = two("exact", "exact")
    both_a, both_b = a.values.copy(), b.values.copy()
    both_a[0] = both_b[0] = -INF
    found = paired(make(both_a, model="A"), make(both_b, model="B"))
    assert found.mean == pytest.approx(float((a.values - b.values)[1:].mean()))
    assert "1 row with zero likelihood under both left out" in conclude(found).sentence
    both_a[1], both_b[2] = -INF, -INF
    crossed = paired(make(both_a, model="A"), make(both_b, model="B"))
    assert math.isnan(crossed.mean)
    assert conclude(crossed).verdict == "open"
    assert not crossed.excludes_zero


@pytest.mark.parametrize("num", [0, 1, 2])
def test_too_few_rows_give_no_claim_and_no_crash(num):
    values = np.arange(num, dtype=float)
    assert conclusion(make(values + 3 + values, model="A"), make(values, model="B")).verdict == "open"


def test_one_row_under_neither_model_is_said_so():
    assert "no row has likelihood" in conclusion(make([-INF], model="A"), make([-INF], model="B")).sentence


def test_holm_corrects_over_all_pairs():
    rng = np.random.default_rng(1)
    base = rng.normal(size=300)
    models = {
        name: make(base + shift + rng.normal(size=300)) for name, shift in (("A", 0), ("B", 0.19), ("C", 2), ("D", 4))
    }
    pairs = compare_all(models)
    assert list(pairs) == list(itertools.combinations("ABCD", 2))
    weak = pairs["A", "B"]
    assert weak.p_holm is not None
    assert weak.p_value <= weak.p_holm == max(p.p_holm for p in pairs.values())
    assert [p.p_holm for p in pairs.values()] != [p.p_value for p in pairs.values()]


def test_a_difference_that_holm_takes_back_is_not_claimed():
    pair = paired(*two("exact", "exact"))
    assert conclude(pair).verdict == "better"
    from dataclasses import replace

    assert conclude(replace(pair, p_holm=0.2)).verdict == "open"


# ------------------------------------------------------------------------------------------------ conclusions

NOT_BELOW, NOT_ABOVE = ("exact", "unbiased", "bound"), ("exact", "unbiased", "upper")


@pytest.mark.parametrize("higher", list(KINDS))
@pytest.mark.parametrize("lower", list(KINDS))
def test_only_what_the_kinds_support_is_concluded(higher, lower):
    for first, second in (two(higher, lower), two(higher, lower)[::-1]):
        found = conclusion(first, second)
        if higher in NOT_BELOW and lower in NOT_ABOVE:
            assert (found.verdict, found.winner, found.loser) == ("better", "A", "B")
            assert found.sentence.startswith("A describes the data better than B, by ")
            assert ("at least" in found.sentence) == (higher == "bound" or lower == "upper")
        elif higher in NOT_BELOW and lower == "bound":
            assert (found.verdict, found.winner) == ("guarantees_more", "A")
            assert found.sentence.startswith("A guarantees 1.0")
            assert "better" not in found.sentence
        else:
            assert (found.verdict, found.winner) == ("open", None)
            assert "describes the data better" not in found.sentence


def test_a_bound_is_never_called_worse_than_an_exact_value():
    exact, bound = two("exact", "bound")
    assert conclusion(exact, bound).verdict != "better"
    bound_above, exact_below = two("bound", "exact")
    assert conclusion(bound_above, exact_below).verdict == "better"


@pytest.mark.parametrize(("first", "second"), [("exact", "exact"), ("bound", "bound"), ("bound", "exact")])
def test_an_interval_with_zero_concludes_nothing(first, second):
    found = conclusion(*two(first, second, gap=0.01))
    assert found.verdict == "open"
    assert found.sentence.startswith("no difference between A and B is shown")


def test_reading_the_pattern_of_holes_is_mentioned_when_one_does():
    a, b = two("exact", "exact")
    assert "pattern of holes" not in conclusion(a, b).sentence
    assert "pattern of holes" in conclusion(a, make(b.values, model="B", uses_mask=True)).sentence


def test_bounds_that_hold_in_simulation_never_lead_to_a_false_claim():
    """Two models of equal truth, seen through every pair of kinds with errors of their sign: nobody is called better
    more often than the level allows."""
    rng = np.random.default_rng(0)
    error = {"exact": 0.0, "unbiased": 0.0, "bound": -0.5, "upper": 0.5}
    for first, second in itertools.product(error, error):
        false = 0
        for _ in range(100):
            truth = rng.normal(size=80)
            a, b = (
                make(truth + error[k] + 0.1 * rng.normal(size=80), k, name) for k, name in ((first, "A"), (second, "B"))
            )
            false += conclusion(a, b, method="t").verdict == "better"
        assert false <= 15, (first, second)  # binomial(100, 0.05): P(> 15) = 4e-5 for each of 16 pairs


def test_ranking_orders_guaranteed_values_and_sets_the_others_apart():
    base = np.random.default_rng(0).normal(size=50)
    models = {kind: make(base + shift, kind) for shift, kind in enumerate(KINDS)}
    found = ranking(models)
    assert found.ranked == ("bound", "unbiased", "exact")
    assert set(found.apart) == {"upper", "biased", "proxy"}
    assert found.mean["upper"] > found.mean["bound"]
    again = ranking(models, withdrawn={"bound": "spike index 3"})
    assert again.ranked == ("unbiased", "exact")
    assert again.apart["bound"] == "spike index 3"
    assert ranking({}).ranked == ()


def test_rows_outside_declared_bounds_do_not_make_every_rank_infinite():
    models = {name: make([-INF, v, v + 1], model=name) for name, v in (("A", 0.0), ("B", 1.0))}
    found = ranking(models)
    assert found.ranked == ("B", "A")
    assert (found.mean["A"], found.num_rows) == (0.5, 2)
    models["C"] = make([0.0, -INF, 9.0], model="C")
    assert ranking(models).mean == {"A": -INF, "B": -INF, "C": -INF}
