"""What a report may say: ranks, headlines and warnings follow the kinds of the numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from reports_example import SCHEMA, comparison

from genzoo.errors import ComparisonError
from genzoo.likelihood.discretised import DiscretisedResult
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.reports.comparison import Comparison, ModelResult
from genzoo.reports.rows import Row

NUM = 1500
BASE = np.random.default_rng(0).standard_normal(NUM)


def like(gap: float, kind: str = "exact", seed: int = 1, spread: float = 0.1, **more: Any) -> LogLikelihood:
    """Values ``BASE - gap`` with a little noise."""
    values = BASE - gap + spread * np.random.default_rng(seed).standard_normal(NUM)
    options = {"columns": ("x",), "measure": SCHEMA.measure} | more
    return LogLikelihood(values=values, rows=np.arange(NUM), kind=kind, **options)  # type: ignore[arg-type]


def compare(*results: ModelResult, **facts: Any) -> Comparison:
    return Comparison(results, SCHEMA, facts=facts)


def row(of: Comparison, name: str) -> Row:
    return next(r for r in of.rows if r.name == name)


def test_the_best_of_exact_models_is_named_with_its_distance_to_the_next() -> None:
    found = compare(
        ModelResult("a", like(0.5)), ModelResult("b", like(0.0, seed=2)), ModelResult("c", like(1.0, seed=3))
    )
    headline, closest, *_ = found.conclusions()
    assert found.ranked == ("b", "a", "c")
    assert headline == "b describes the held-out rows of 'households' best among the 3 ranked models."
    assert "better than a" in closest
    assert "0.5" in closest


def test_a_bound_below_an_exact_value_is_never_called_worse() -> None:
    found = compare(ModelResult("exact", like(0.0)), ModelResult("elbo", like(1.0, "lower_bound", seed=2)))
    text = " ".join(found.conclusions())
    assert "exact guarantees the most" in text
    assert "better than elbo" not in text
    assert row(found, "elbo").verdict == "guarantees less"


def test_a_bound_above_an_exact_value_is_called_better() -> None:
    found = compare(ModelResult("exact", like(1.0)), ModelResult("elbo", like(0.0, "lower_bound", seed=2)))
    assert found.conclusions()[0].startswith("elbo describes the held-out rows of 'households' best")
    assert row(found, "exact").verdict == "shown worse than the first"


def test_models_that_differ_by_noise_only_are_not_told_apart() -> None:
    found = compare(
        ModelResult("a", like(0.0, seed=4)), ModelResult("b", like(0.0, seed=5)), ModelResult("c", like(2.0, seed=6))
    )
    first, second = found.ranked[:2]
    assert found.conclusions()[0].endswith(f"{first} stands first, not told apart from {second}.")
    assert row(found, second).verdict == "not told apart"
    assert f"{first} describes the held-out rows better than c" in found.conclusions()[1]


@pytest.mark.parametrize(
    "kind, reason",
    [("upper_bound", "upper bound"), ("estimate", "unknown bias"), ("unnormalised", "not normalised")],
)
def test_a_number_without_a_guarantee_stands_apart_however_high_it_is(kind: str, reason: str) -> None:
    found = compare(ModelResult("low", like(5.0)), ModelResult("high", like(0.0, kind, seed=2)))
    assert found.ranked == ("low",)
    high = row(found, "high")
    assert (high.group, high.rank, high.verdict) == ("unranked", None, "nothing follows")
    assert reason in (high.reason or "")
    assert found.conclusions()[0].startswith("low is the only model that can be ranked")


def test_a_model_is_shown_better_than_an_upper_bound_below_it() -> None:
    found = compare(ModelResult("a", like(0.0)), ModelResult("ceiling", like(1.0, "upper_bound", seed=2)))
    assert "a is also shown to be better than ceiling, not ranked." in found.conclusions()
    assert row(found, "ceiling").verdict == "shown worse than the first"


def test_zero_mean_noise_is_ranked_beside_exact_values() -> None:
    found = compare(ModelResult("a", like(1.0)), ModelResult("ode", like(0.0, "estimate", seed=2, bias="none")))
    assert found.ranked == ("ode", "a")
    assert row(found, "ode").kind == "unbiased"


def test_a_spike_index_above_a_tenth_withdraws_the_rank_and_turns_to_discretised_likelihood() -> None:
    def with_index(name: str, gap: float, index: float, seed: int) -> ModelResult:
        coarse = replace(like(gap + index, seed=seed), space="discretised")
        return ModelResult(name, like(gap, seed=seed), discretised=DiscretisedResult(coarse, index))

    found = compare(with_index("spiky", 0.0, 3.0, 1), with_index("a", 1.0, 0.02, 2), with_index("b", 2.0, 0.1, 3))
    assert found.ranked == ("a", "b")
    assert "spike index 3.00" in (row(found, "spiky").reason or "")
    assert any(s.startswith("In discretised likelihood") and "a describes" in s for s in found.conclusions())
    assert any("spiky owes 3.00 nats" in w for w in found.warnings())


def test_the_oracle_is_shown_but_never_ranked() -> None:
    oracle = ModelResult("truth", like(0.0, spread=0.0), is_oracle=True)
    found = compare(oracle, ModelResult("a", like(0.3)), ModelResult("b", like(0.6, seed=2)))
    assert row(found, "truth").group == "oracle"
    assert found.ranked == ("a", "b")
    assert any("The true density stands 0.3" in s and "above a" in s for s in found.conclusions())
    assert all("truth" not in pair for pair in found.pairs)
    assert not found.warnings()


def test_a_model_above_the_oracle_is_an_alarm() -> None:
    oracle = ModelResult("truth", like(0.5, spread=0.0), is_oracle=True)
    found = compare(oracle, ModelResult("a", like(0.0)), ModelResult("b", like(0.6, seed=2)))
    assert any(w.startswith("a stands 0.") and "one of the two numbers is wrong" in w for w in found.warnings())
    assert not any(w.startswith("b stands") for w in found.warnings())


def test_impossible_rows_put_a_model_last_and_are_counted() -> None:
    values = np.array(like(0.0).values)
    values[[3, 5]] = -np.inf
    broken = ModelResult("broken", replace(like(0.0), values=values))
    found = compare(broken, ModelResult("poor", like(9.0, seed=2)))
    assert found.ranked == ("poor", "broken")
    assert row(found, "broken").num_neg_inf == 2
    assert row(found, "broken").mean == -np.inf
    assert any("2 of 1500 test rows impossible" in w for w in found.warnings())
    assert "−∞ (exact)" in str(found)


def test_failed_models_are_rows_with_their_sentence() -> None:
    found = compare(ModelResult("a", like(0.0)), ModelResult("bad", error="column 'x' has holes; impute them"))
    assert row(found, "bad").error == "column 'x' has holes; impute them"
    assert "bad failed; its error stands in the table." in found.conclusions()
    for text in (str(found), found.markdown(), found.html()):
        assert "has holes; impute them" in text


def test_a_comparison_of_failures_alone_still_reports() -> None:
    found = compare(ModelResult("a", error="no"), ModelResult("b", error="no"))
    assert found.conclusions()[0].startswith("No model of 'households' can be ranked: every model failed")
    assert "a and b failed" in found.conclusions()[1]
    assert "</html>" in found.html()


def test_every_model_above_the_floor_is_said_and_one_that_is_not_is_named() -> None:
    floor = ModelResult("independent", like(1.0))
    good = compare(floor, ModelResult("a", like(0.0, seed=2)))
    assert any(s.startswith("Every other ranked model stands above independent") for s in good.conclusions())
    poor = compare(floor, ModelResult("a", like(0.0, seed=2)), ModelResult("b", like(1.5, seed=3)))
    assert "Not shown to stand above independent (columns taken one by one): b." in poor.conclusions()


def test_differences_are_paired_and_carry_an_interval_that_holds_the_truth() -> None:
    found = compare(ModelResult("a", like(0.0)), ModelResult("b", like(0.25, seed=2)))
    b = row(found, "b")
    assert b.difference_low is not None
    assert b.difference_high is not None
    assert b.se is not None
    assert b.difference_low < -0.25 < b.difference_high
    # the rows vary by 1 nat, the differences by 0.14: unpaired intervals would be seven times as wide
    assert b.difference_high - b.difference_low < b.se


def test_ordered_rows_use_the_block_bootstrap() -> None:
    results = [ModelResult("a", like(0.0)), ModelResult("b", like(0.2, seed=2))]
    found = Comparison(results, SCHEMA, ordered=True)
    assert found.pair("a", "b").method == "block"
    assert ("Order", "in time; intervals by block bootstrap") in found.split_facts()
    assert Comparison(results, SCHEMA).pair("a", "b").method == "t"


def test_reading_the_pattern_of_holes_is_said() -> None:
    found = compare(ModelResult("a", like(0.0, uses_mask=True)), ModelResult("b", like(0.2, seed=2)))
    assert any(w.startswith("a reads the pattern of missing cells") for w in found.warnings())
    both = compare(ModelResult("a", like(0.0, uses_mask=True)), ModelResult("b", like(0.2, seed=2, uses_mask=True)))
    assert not both.warnings()


def test_other_rows_other_measures_and_equal_names_are_refused() -> None:
    fewer = like(0.0).select(slice(0, 100))
    with pytest.raises(ComparisonError, match="rows"):
        compare(ModelResult("a", like(0.0)), ModelResult("b", fewer))
    with pytest.raises(ComparisonError, match="measure"):
        compare(ModelResult("a", like(0.0)), ModelResult("b", like(0.0, measure="other")))
    with pytest.raises(ComparisonError, match="two models are called 'a'"):
        compare(ModelResult("a", like(0.0)), ModelResult("a", like(0.0)))
    with pytest.raises(ComparisonError, match="at least one model"):
        compare()


def test_rows_shared_with_training_are_left_out_of_the_second_mean() -> None:
    values = np.array(like(0.0).values)
    values[:30] += 100.0
    found = compare(ModelResult("a", replace(like(0.0), values=values)), shared_rows=list(range(30)))
    a = row(found, "a")
    assert a.without_shared == pytest.approx(values[30:].mean(), abs=1e-12)
    assert a.mean == pytest.approx(values.mean(), abs=1e-12)
    assert "Also among the training rows: 30 of the test rows (2.0 %)." in found.shared_sentence()


def test_the_example_names_every_model_once() -> None:
    found = comparison()
    assert sorted(r.name for r in found.rows) == sorted(r.name for r in found.results)
    assert [r.rank for r in found.rows if r.group == "ranked"] == list(range(1, len(found.ranked) + 1))
