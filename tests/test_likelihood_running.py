"""Means of likelihoods that are added part by part."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from genzoo.errors import ComparisonError
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.likelihood.running import RunningMean


def parts_of(one: LogLikelihood, sizes: list[int]) -> list[LogLikelihood]:
    ends = np.cumsum([0, *sizes])
    return [one.select(slice(a, b)) for a, b in pairwise(ends)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_parts_of_any_size_give_the_mean_of_all(weighted: bool, shift: float) -> None:
    rng = np.random.default_rng(0)
    weights = rng.gamma(1.0, size=1000) + 0.1 if weighted else None
    values = shift + rng.normal(size=1000) * np.linspace(0.1, 3, 1000) - np.linspace(0, 5, 1000)
    whole = LogLikelihood(
        values, np.arange(1000), "lower_bound", weights=weights, se_common=0.01, counts={"unseen": 3}, method="m"
    )
    for sizes in ([1000], [1, 999], [10] * 100, [500, 0, 1, 499]):
        running = RunningMean()
        for part in parts_of(whole, sizes):
            running.add(part)
        assert running.mean() == pytest.approx(whole.mean(), rel=1e-12)
        assert running.se_total() == pytest.approx(whole.se_total(), rel=1e-9)
        assert running.num_effective == pytest.approx(whole.num_effective)
        assert running.rows_text() == whole.rows_text()
        assert running.counts == {"unseen": 3 * sum(n > 0 for n in sizes)}
        assert running.method == "m"


def test_labels_are_those_of_the_rows() -> None:
    values = np.random.default_rng(1).normal(size=300)
    whole = LogLikelihood(values, np.arange(300), "exact")
    running = RunningMean()
    for part in parts_of(whole, [100, 200]):
        running.add(part)
    assert running.label() == whole.label()
    impossible = LogLikelihood(np.where(np.arange(300) == 7, -np.inf, values), np.arange(300), "exact")
    running = RunningMean()
    for part in parts_of(impossible, [5, 295]):
        running.add(part)
    assert running.label() == impossible.label() == "-inf, 1 of 300 rows (exact)"
    assert running.mean_above_neg_inf() == pytest.approx(values[np.arange(300) != 7].mean(), rel=1e-12)
    assert np.isnan(RunningMean().mean())
    assert np.isnan(RunningMean().mean_above_neg_inf())


def test_the_mean_of_the_possible_rows_is_weighted_and_none_may_be_there() -> None:
    values, weights = np.array([-np.inf, 1.0, 4.0]), np.array([9.0, 1.0, 2.0])
    running = RunningMean()
    running.add(LogLikelihood(values[:1], np.arange(1), "exact", weights=weights[:1]))
    assert np.isnan(running.mean_above_neg_inf())
    running.add(LogLikelihood(values[1:], np.arange(1, 3), "exact", weights=weights[1:]))
    assert running.mean_above_neg_inf() == pytest.approx(3.0)
    assert running.num_effective == pytest.approx(144 / 86)


def test_kinds_of_parts_are_added_and_weights_must_agree() -> None:
    exact = LogLikelihood(np.zeros(3), np.arange(3), "exact", method="closed form")
    bound = LogLikelihood(np.zeros(3), np.arange(3, 6), "lower_bound", method="sampled")
    running = RunningMean()
    running.add(exact)
    running.add(bound)
    assert running.label().endswith("(bound)")
    assert running.method == "sampled"
    with pytest.raises(ComparisonError, match="some rows have weights"):
        running.add(LogLikelihood(np.zeros(3), np.arange(3), "exact", weights=np.ones(3)))
