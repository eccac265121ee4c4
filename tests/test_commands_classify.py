"""``genzoo classify``: a category given the rest of a row."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands_runs import say

import genzoo
from genzoo.main import WRONG_INPUT


def two_hills(num_rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """Two normal columns whose mean depends on the kind: the posterior of the kind is logistic in them."""
    rng = np.random.default_rng(seed)
    kind = rng.random(num_rows) < 0.3
    x = rng.normal(size=(num_rows, 2)) + 2.0 * kind[:, None] * np.array([1.0, -0.5])
    return pd.DataFrame({"x": x[:, 0], "y": x[:, 1], "kind": np.where(kind, "hill", "plain")})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fitted mixture and its table ``rows.csv``."""
    folder = tmp_path_factory.mktemp("classify")
    two_hills().to_csv(folder / "rows.csv", index=False)
    data = {"overrides": {"x": {"upper": 50.0}}}
    model = genzoo.fit(folder / "rows.csv", model="mixture", data=data, num_components=2, refine=False)
    model.save(folder / "model.ckpt")
    return folder


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_file_holds_what_python_gives_and_the_true_posterior(run: Path) -> None:
    new = two_hills(200, seed=1)
    new.to_csv("new.csv", index=False)
    said = say("classify", run / "model.ckpt", "new.csv", "--column", "kind", "-o", "told.csv")
    assert said.code == 0, said.err
    told, model = pd.read_csv("told.csv"), genzoo.load(run / "model.ckpt")
    assert list(told) == ["row", "category", "probability:hill", "probability:plain"]
    posterior = model.class_posterior(new, "kind")
    np.testing.assert_allclose(told[["probability:hill", "probability:plain"]], posterior, atol=1e-9)
    assert told["category"].tolist() == posterior.idxmax(axis=1).tolist()
    logit = math.log(0.3 / 0.7) + 2 * new["x"] - new["y"] - 2.5  # x'd - d'd / 2 with d = (2, -1)
    truth = 1 / (1 + np.exp(-logit))
    assert np.abs(posterior["hill"] - truth).mean() < 0.04
    right = (told["category"] == new["kind"]).mean()
    assert f"'kind' told right in {right:.1%} of the 200 rows that have it (" in said.out
    own = model.label_log_prob(new, "kind")
    assert f"log-probability of the true category: {own.label()} nats" in said.out
    assert "learned from" not in said.out


def test_a_table_without_the_column_is_told_the_same(run: Path) -> None:
    new = two_hills(50, seed=1)
    new.to_csv("new.csv", index=False)
    new.drop(columns="kind").to_parquet("bare.parquet")
    assert say("classify", run / "model.ckpt", "new.csv", "--column", "kind", "-o", "a.csv").code == 0
    said = say("classify", run / "model.ckpt", "bare.parquet", "--column", "kind", "-o", "b.csv")
    assert said.code == 0, said.err
    assert "no row of the table has 'kind'" in said.out
    pd.testing.assert_frame_equal(pd.read_csv("a.csv"), pd.read_csv("b.csv"))


def test_new_categories_holes_and_impossible_rows(run: Path) -> None:
    new = two_hills(6, seed=1)
    new.loc[0, "kind"], new.loc[1, "kind"], new.loc[2, "x"], new.loc[3, "x"] = None, "valley", np.nan, 51.0
    new.to_csv("new.csv", index=False)
    said = say("classify", run / "model.ckpt", "new.csv", "--column", "kind", "-o", "told.csv")
    assert said.code == 0, said.err
    told = pd.read_csv("told.csv")
    assert told.iloc[3, 1:].isna().all()
    assert told.iloc[[0, 1, 2, 4, 5], 1:].notna().all(axis=None)
    assert "of the 5 rows that have it" in said.out
    assert "1 row has log-likelihood -inf" in said.out
    assert "the mean of the other 4 is" in said.out
    assert "a category not seen in training: 'kind' 1" in said.out
    model = genzoo.load(run / "model.ckpt")
    own = model.label_log_prob(new, "kind")
    assert own.rows.tolist() == [1, 2, 3, 4, 5]
    assert own.values[0] == pytest.approx(math.log(model.schema.epsilon))
    assert own.values[2] == -math.inf
    assert own.kind == model.log_prob(new).kind == "exact"


def test_rows_that_were_learned_from_are_named(run: Path) -> None:
    said = say("classify", run / "model.ckpt", run / "rows.csv", "--column", "kind")
    assert "most of these rows are what the model learned from" in said.out
    assert "each row's probabilities: -o FILE" in said.out


def test_columns_that_cannot_be_told_are_refused_in_words(run: Path) -> None:
    rows = run / "rows.csv"
    said = say("classify", run / "model.ckpt", rows)
    assert said.code == WRONG_INPUT
    assert "has no label, so name a column; it scores the categories ['kind']" in said.err
    number = say("classify", run / "model.ckpt", rows, "--column", "x").err
    assert "no probabilities of categories to 'x'" in number
    assert "train with kind: categorical" in number
    assert "no column 'sort'" in say("classify", run / "model.ckpt", rows, "--column", "sort").err
    two_hills(5).drop(columns="x").to_csv("few.csv", index=False)
    assert "no column 'x'" in say("classify", run / "model.ckpt", "few.csv", "--column", "kind").err


def test_a_category_called_missing_keeps_its_column_beside_holes_that_are_a_value() -> None:
    rng = np.random.default_rng(0)
    answer = rng.choice(["no", "missing", ""], 300, p=[0.5, 0.3, 0.2])
    pd.DataFrame({"x": rng.normal(size=300) + (answer == "no"), "answer": answer}).to_csv("rows.csv", index=False)
    data = {"overrides": {"answer": {"missing": "value", "kind": "categorical"}}}
    genzoo.fit("rows.csv", model="independent", data=data).save("model.ckpt")
    said = say("classify", "model.ckpt", "rows.csv", "--column", "answer", "-o", "told.csv")
    assert said.code == 0, said.err
    told = pd.read_csv("told.csv", keep_default_na=False)
    names = ["probability:missing", "probability:no", "probability:missing_"]
    assert list(told) == ["row", "category", *names]
    np.testing.assert_allclose(told[names].sum(axis=1), 1.0, atol=1e-9)
    assert abs(told["probability:missing_"].iloc[0] - 0.2) < 0.1


def test_weighted_rows_count_by_their_weight() -> None:
    frame = two_hills(400).assign(weight=lambda f: np.where(f["kind"] == "hill", 4.0, 0.5))
    frame.to_csv("rows.csv", index=False)
    model = genzoo.fit("rows.csv", model="mixture", data={"weight": "weight"}, num_components=2, refine=False)
    model.save("model.ckpt")
    said = say("classify", "model.ckpt", "rows.csv", "--column", "kind")
    assert said.code == 0, said.err
    hits = model.class_posterior(frame, "kind").idxmax(axis=1) == frame["kind"]
    right = np.average(hits, weights=frame["weight"])
    most = frame.groupby("kind")["weight"].sum().max() / frame["weight"].sum()
    assert f"told right in {right:.1%} of the 400 rows that have it, by weight ({most:.1%} are 'hill')" in said.out
