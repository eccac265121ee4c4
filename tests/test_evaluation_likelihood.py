"""A trained model becomes one line of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import genzoo
from contract import continuous_table, mixed_table
from genzoo.datamodules.toy import Toy
from genzoo.errors import ComparisonError, DataError
from genzoo.evaluation.likelihood import evaluate_model, oracle_result, read_curves
from genzoo.tables.encode import encode_frame


def test_a_line_holds_likelihood_discretised_likelihood_samples_and_costs() -> None:
    frame = mixed_table()
    model = genzoo.fit(frame, model="gaussian")
    data = model._encoded_table(frame.head(100))
    result = evaluate_model("gaussian", model, data, samples=50)
    assert result.likelihood is not None
    assert result.discretised is not None
    np.testing.assert_array_equal(result.likelihood.rows, np.arange(100))
    assert len(result.samples) == 50
    assert result.num_parameters == model.num_parameters
    assert abs(result.settings["float64_difference"]) < 1e-6


def test_no_rows_to_score_is_an_error_in_words() -> None:
    model = genzoo.fit(continuous_table(), model="gaussian")
    data = model._encoded_table(continuous_table())
    with pytest.raises(DataError, match="no held-out rows"):
        evaluate_model("gaussian", model, data.select(slice(0, 0)))


def test_models_of_different_schemas_are_not_compared() -> None:
    one = genzoo.fit(continuous_table(), model="gaussian")
    other = genzoo.fit(mixed_table(), model="gaussian")
    with pytest.raises(ComparisonError, match="different schemas"):
        genzoo.compare({"one": one, "other": other}, continuous_table(50))


def test_comparison_in_python_ranks_the_better_model_first(tmp_path: Path) -> None:
    frame, held_out = continuous_table(800), continuous_table(400, seed=1)
    models = {name: genzoo.fit(frame, model=name) for name in ("independent", "mixture")}
    comparison = genzoo.compare(models, held_out, samples=20)
    assert "mixture" in str(comparison).split("independent")[0]
    comparison.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_oracle_is_shown_with_the_rows_of_the_models() -> None:
    module = Toy(name="two_moons", num_train=200, num_val=50, num_test=100)
    module.setup("fit")
    model = genzoo.fit(module.frame("train"), model="gaussian")
    data = module.data("test")
    like = model.log_prob(data)
    truth = module.oracle_log_prob(data)
    assert truth is not None
    result = oracle_result(truth, like)
    assert result.is_oracle
    assert result.likelihood is not None
    np.testing.assert_array_equal(result.likelihood.rows, like.rows)
    assert result.likelihood.kind == "exact"


def test_curves_are_likelihoods_and_leave_out_the_learning_rate(tmp_path: Path) -> None:
    genzoo.fit(continuous_table(), model="maf", max_epochs=2, run_dir=tmp_path, hidden=8)
    curves = read_curves(tmp_path)
    assert set(curves) == {"train/loss", "val/nll"}
    assert len(curves["val/nll"]) == 2
    assert read_curves(tmp_path / "none") == {}


def test_the_discretised_likelihood_is_at_the_given_resolution_or_left_out() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=200), "y": rng.normal(size=200)})
    model = genzoo.fit(frame, model="independent", seed=0)
    data = encode_frame(frame, model.schema)
    widths = {"x": 0.3, "y": 0.7}
    found = evaluate_model("m", model, data, samples=0, resolutions=widths, sections=[]).discretised
    assert found is not None
    assert dict(found.resolutions) == widths
    # a column without values in training has the width of the rows themselves
    found = evaluate_model("m", model, data, samples=0, resolutions={"x": 0.3}, sections=[]).discretised
    assert found is not None
    assert found.resolutions["x"] == 0.3
    assert found.resolutions["y"] > 0
    assert evaluate_model("m", model, data, samples=0, discretised_draws=0, sections=[]).discretised is None
