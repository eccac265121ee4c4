"""impute --repair and score --by cell on a table whose columns say the same thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands_runs import say
from test_discrete_repair import agreeing, broken, fitted

import genzoo
from genzoo.models.discrete.repair import cell_scores


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fitted().save(tmp_path / "model.ckpt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_repair_restores_broken_cells_keeps_holes_and_columns_it_does_not_know(place: Path) -> None:
    whole, spoilt = broken()
    spoilt["note"] = [f"n{i}" for i in range(len(spoilt))]
    spoilt.loc[3, "other"] = None
    spoilt.to_csv("spoilt.csv", index=False)
    said = say("impute", "model.ckpt", "spoilt.csv", "--repair", "-o", "fixed.csv")
    assert said.code == 0, said.err
    fixed = pd.read_csv("fixed.csv")
    assert list(fixed.columns) == list(spoilt.columns)
    assert (fixed["word"] == whole["word"]).mean() > 0.8
    assert (fixed["note"] == spoilt["note"]).all()
    assert pd.isna(fixed.loc[3, "other"])
    changed = sum(int((fixed[c].astype(str) != spoilt[c].astype(str)).sum()) for c in whole) - int(
        pd.isna(spoilt["other"]).sum()
    )
    printed = int(said.out.split(";")[1].split()[0])
    assert changed - 1 <= printed <= changed + 1
    assert "word: " in said.out


def test_repair_makes_one_table_and_wants_a_model_that_can(place: Path) -> None:
    agreeing(40).to_csv("rows.csv", index=False)
    said = say("impute", "model.ckpt", "rows.csv", "--repair", "--draws", 2, "-o", "out.csv")
    assert said.code == 2
    assert "--repair makes one table" in said.err
    genzoo.fit(agreeing(100), model="independent").save(place / "plain.ckpt")
    for arguments in (
        ("impute", "plain.ckpt", "rows.csv", "--repair", "-o", "out.csv"),
        ("score", "plain.ckpt", "rows.csv", "--by", "cell"),
    ):
        said = say(*arguments)
        assert said.code == 2
        assert "use radd, gidd or multinomial_diffusion" in said.err


def test_scores_by_cell_are_those_of_python_and_the_broken_cell_is_named(place: Path) -> None:
    rows = agreeing(30, seed=3)
    rows.loc[7, "word"] = {"a": "b", "b": "c", "c": "a"}[rows.loc[7, "word"]]
    rows.loc[2, "other"] = None
    rows.to_csv("rows.csv", index=False)
    said = say("score", "model.ckpt", "rows.csv", "--by", "cell", "-o", "cells.csv")
    assert said.code == 0, said.err
    cells = pd.read_csv("cells.csv")
    assert list(cells.columns) == ["row", *(f"cell:{c.name}" for c in fitted().schema.scored)]
    np.testing.assert_allclose(cells.iloc[:, 1:].to_numpy(), cell_scores(fitted(), "rows.csv"), atol=1e-6)
    assert pd.isna(cells.loc[2, "cell:other"])
    assert "row 7: 'word'" in said.out


@pytest.mark.parametrize("key", ["radd", "multinomial_diffusion"])
def test_masked_and_uniform_diffusions_score_cells_too(key: str) -> None:
    arguments = {"num_bins": 8, "width": 32, "max_epochs": 10, "lr": 1e-2, "patience": 0}
    if key == "multinomial_diffusion":
        arguments["num_steps"] = 10
    model = genzoo.fit(agreeing(300), model=key, **arguments)
    _, spoilt = broken(60)
    found = cell_scores(model, spoilt)
    at = [c.name for c in model.schema.scored].index("word")
    assert (found.argmin(1) == at).mean() > 0.5
    assert (found <= 1e-9).all()
