"""Several runs of a model as one, and several tables as ranks."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from genzoo.datamodules.splits import fold_splits
from genzoo.errors import ComparisonError, DataError
from genzoo.evaluation.sections import Metric, Section
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.reports.across import Across
from genzoo.reports.combining import combine, join_rows
from genzoo.reports.comparison import Comparison
from genzoo.reports.results import ModelResult
from genzoo.tables.schema import Column, Schema

SCHEMA = Schema(columns=(Column("x", "quantized", step=1.0),), num_rows=60, num_training_rows=40, fingerprint="f")


def likelihood(values: np.ndarray, first: int = 0, kind: str = "exact", **more: object) -> LogLikelihood:
    rows = np.arange(first, first + len(values))
    return LogLikelihood(values, rows, kind, columns=("x",), measure=SCHEMA.measure, **more)  # type: ignore[arg-type]


def test_folds_are_dealt_once_and_groups_stay_together() -> None:
    splits = fold_splits(103, 5, 0.1, seed=1)
    tested = np.concatenate([s["test"] for s in splits])
    assert sorted(tested.tolist()) == list(range(103))
    for split in splits:
        together = np.concatenate(list(split.values()))
        assert sorted(together.tolist()) == list(range(103))
        assert len(split["val"]) == 10
    groups = np.arange(103) // 9
    for split in fold_splits(103, 4, 0.1, seed=1, groups=groups):
        parts = [set(groups[index].tolist()) for index in split.values()]
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    with pytest.raises(DataError, match="3 rows cannot be dealt into 5 folds"):
        fold_splits(3, 5, 0.1, seed=1)


def test_joined_folds_score_every_row_once_and_keep_the_weaker_kind() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=30)
    parts = [likelihood(values[:12]), likelihood(values[12:], 12, "lower_bound", se=np.full(18, 0.1), method="elbo")]
    whole = join_rows(parts)
    assert np.array_equal(whole.values, values)
    assert (whole.kind, whole.method) == ("lower_bound", "elbo")
    assert whole.se is not None
    assert whole.se[:12].max() == 0
    assert whole.mean() == pytest.approx(values.mean())


def test_the_spread_of_seeds_is_an_error_common_to_all_rows() -> None:
    rows = np.random.default_rng(1).normal(size=40)
    section = [Section("s", (Metric("m", v, "what"),)) for v in (1.0, 2.0, 4.0)]
    results = [
        (i, 0, ModelResult("a", likelihood(rows + shift), sections=(section[i],), train_seconds=2.0))
        for i, shift in enumerate((0.0, 0.3, -0.3))
    ]
    whole = combine("a", results)
    assert whole.likelihood is not None
    assert np.allclose(whole.likelihood.values, rows)
    assert whole.likelihood.se_common == pytest.approx(0.3 / math.sqrt(3))
    assert (whole.likelihood.kind, whole.likelihood.bias) == ("estimate", "none")
    assert whole.train_seconds == 6.0
    metric = whole.sections[0].metrics[0]
    assert metric.value == pytest.approx(7 / 3)
    assert metric.low is not None
    assert metric.low < 1.0  # t of two degrees of freedom
    failed = combine("a", [*results[:2], (2, 0, ModelResult("a", error="no memory"))])
    assert failed.likelihood is None
    assert failed.error == "no memory (run with seed 3, fold 1)"
    alone = combine("b", [(0, 0, results[0][2])])
    assert alone == dataclasses.replace(results[0][2], name="b")


def tables(order: np.ndarray, spread: float = 0.1) -> Across:
    """One comparison a row of ``order``; entry: the place of model a, b, c, ... there."""
    rng = np.random.default_rng(2)
    found = {}
    for number, places in enumerate(order):
        base = rng.normal(size=60)
        results = [
            ModelResult(name, likelihood(base - place + spread * rng.normal(size=60)))
            for name, place in zip("abcdefgh", places)
        ]
        found[f"t{number}"] = Comparison(results, SCHEMA)
    return Across(found, {name: f"{name}.html" for name in found})


def test_ranks_across_tables_agree_with_the_worked_example_of_demsar() -> None:
    # Demsar 2006, section 3.2.2: mean ranks 3.143, 2.000, 2.893, 1.964 of four methods on 14 tables
    ranks = {"a": 3.143, "b": 2.0, "c": 2.893, "d": 1.964}
    across = tables(np.array([[1, 2, 3, 4]] * 14))
    forced = np.tile(list(ranks.values()), (14, 1))
    object.__setattr__(across, "ranks", forced)
    assert across.critical_difference == pytest.approx(1.25, abs=0.005)  # quoted there: 2.569 sqrt(4 * 5 / (6 * 14))
    from scipy.stats import f

    assert across.p_equal == pytest.approx(f.sf(3.69, 3, 39), rel=0.03)  # quoted there: F = 3.69


def test_a_model_that_always_wins_is_told_apart_and_equal_ones_are_not() -> None:
    clear = tables(np.array([[0, 1, 2]] * 12))
    assert list(clear.mean_ranks) == ["a", "b", "c"]
    assert clear.p_equal < 1e-6
    assert clear.groups == []
    assert clear.wins("a", "c") == (12, 0, 0)
    assert "from all others" in clear.conclusions()[1]
    rng = np.random.default_rng(3)
    equal = tables(np.array([rng.permutation(3) for _ in range(12)]) * 0.5)
    assert equal.p_equal > 0.05
    assert equal.groups == [tuple(equal.mean_ranks)]


@pytest.mark.parametrize(
    ("order", "p"),
    [
        ([[0, 1]] * 2, 1 / 2),
        ([[0, 1]] * 5, 1 / 16),
        ([[0, 1]] * 4 + [[1, 0]], 12 / 32),
        ([[0, 1, 2]] * 3, 1 / 36),
        ([[0, 1, 2, 3, 4, 5, 6]] * 2, 1 / 5040),  # not listed: the least that all tables agreeing can mean
    ],
)
def test_few_tables_are_never_more_certain_than_all_orders_of_their_ranks(order: list[list[int]], p: float) -> None:
    assert tables(np.array(order), spread=0.0).p_equal == pytest.approx(p)


def test_listed_orders_agree_with_a_permutation_test_where_ranks_are_shared() -> None:
    across = tables(np.array([[0, 1, 2], [0, 0, 1], [1, 0, 2], [0, 2, 1]]), spread=0.0)
    assert across.ranks[1].tolist() == [1.5, 1.5, 3]
    spread = [
        np.square(np.sum(rows, axis=0)).sum()
        for rows in itertools.product(*(itertools.permutations(row) for row in across.ranks.tolist()))
    ]
    observed = np.square(across.ranks.sum(axis=0)).sum()
    assert across.p_equal == pytest.approx(float(np.mean(np.array(spread) >= observed - 1e-9)))


def test_pages_and_tables_say_the_same_and_failed_models_come_last(tmp_path: Path) -> None:
    across = tables(np.array([[0, 1], [0, 1], [1, 0]]))
    comparison = across.comparisons["t0"]
    broken = [comparison.results[0], ModelResult("b", error="x")]
    across = Across({**across.comparisons, "t0": dataclasses.replace(comparison, results=broken)}, across.links)
    assert across.ranks[0].tolist() == [1, 2]
    written = across.write(tmp_path / "a.html")
    assert [p.suffix for p in written] == [".html", ".md", ".csv"]
    page = (tmp_path / "a.html").read_text()
    assert 'href="t1.html"' in page
    assert "failed" in page
    assert "Mean ranks: a 1.33, b 1.67" in page
    assert json.loads(across.json())["mean_ranks"]["a"] == pytest.approx(4 / 3)
    assert (tmp_path / "a.csv").read_text().count("\n") == 7
    with pytest.raises(ComparisonError, match="at least two tables"):
        Across({"t0": comparison}, {})
