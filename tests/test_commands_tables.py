"""schema, sample, impute and score on a toy table."""

from __future__ import annotations

import json
from pathlib import Path

import narwhals as nw
import numpy as np
import pandas as pd
import pytest
import yaml
from commands_runs import QUIET, say, toy_table, write_toy

import genzoo
from genzoo.main import WRONG_INPUT
from genzoo.tables.frames import read_frame


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a fitted product of marginals in ``run``."""
    folder = tmp_path_factory.mktemp("tables")
    said = say("fit", "--model", "independent", "--data.path", write_toy(folder), "--run_dir", folder / "run", *QUIET)
    assert said.code == 0, said.err
    return folder


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_schema_prints_every_column_and_writes_yaml_that_fit_takes(place: Path) -> None:
    said = say("schema", place / "toy.csv", "-o", "s.yaml", "--context", "c")
    assert said.code == 0, said.err
    for word in ("x", "continuous", "categorical", "context"):
        assert word in said.out
    columns = {c["name"]: c for c in yaml.safe_load(Path("s.yaml").read_text())["columns"]}
    assert columns["c"]["role"] == "context"
    assert "--data.schema s.yaml" in said.out
    again = say("schema", place / "toy.csv", "-o", "s.yaml")
    assert again.code == WRONG_INPUT
    assert "'s.yaml' exists; choose another name, or add --overwrite" in again.err
    assert say("schema", place / "toy.csv", "-o", "s.yaml", "--overwrite").code == 0
    fitted = say(
        "fit",
        "--model",
        "independent",
        "--data.path",
        place / "toy.csv",
        "--data.schema",
        "s.yaml",
        "--run_dir",
        "r",
        *QUIET,
    )
    assert fitted.code == 0, fitted.err
    assert "no column 'age'" in say("schema", place / "toy.csv", "--ignore", "age").err


def test_sample_writes_rows_of_the_table_and_repeats_them_by_seed(place: Path) -> None:
    said = say("sample", place / "run", "-n", 20, "-o", "a.csv")
    assert said.code == 0, said.err
    assert said.out == "wrote 20 rows to a.csv\n"
    drawn = pd.read_csv("a.csv")
    assert list(drawn.columns) == ["x", "y", "c"]
    assert set(drawn.c) <= {"red", "green", "blue"}
    assert say("sample", place / "run", "-n", 20, "-o", "b.csv", "--seed", 0).code == 0
    assert say("sample", place / "run", "-n", 20, "-o", "c.parquet", "--seed", 1).code == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text()
    assert not np.allclose(pd.read_parquet("c.parquet").x, drawn.x)


def test_sample_given_columns_keeps_them(place: Path) -> None:
    pd.DataFrame({"c": ["red", "blue", "red"]}).to_csv("given.csv", index=False)
    said = say("sample", place / "run", "--given", "given.csv", "-o", "out.csv")
    assert said.code == 0, said.err
    assert pd.read_csv("out.csv").c.tolist() == ["red", "blue", "red"]


def test_impute_fills_every_hole_and_changes_nothing_else(place: Path) -> None:
    said = say("impute", place / "run", place / "toy.csv", "-o", "filled.csv")
    assert said.code == 0, said.err
    holes, filled = pd.read_csv(place / "toy.csv"), pd.read_csv("filled.csv")
    assert filled.notna().all().all()
    observed = holes.y.notna()
    assert np.array_equal(filled.y[observed], holes.y[observed])
    assert np.array_equal(filled.x, holes.x)


def test_impute_says_what_is_odd_in_the_cells_it_keeps(place: Path) -> None:
    rows = pd.read_csv(place / "toy.csv").head(8)
    rows.loc[2, "c"] = "violet"
    rows.to_csv("odd.csv", index=False)
    said = say("impute", place / "run", "odd.csv", "-o", "filled.csv")
    assert said.code == 0, said.err
    assert "1 cell holds a category not seen in training: 'c' 1" in said.out


def test_several_draws_give_several_files_that_differ_in_the_holes_alone(place: Path) -> None:
    said = say("impute", place / "run", place / "toy.csv", "-o", "filled.csv", "--draws", 2)
    assert said.code == 0, said.err
    assert "filled-1.csv, filled-2.csv" in said.out
    first, second = pd.read_csv("filled-1.csv"), pd.read_csv("filled-2.csv")
    holes = pd.read_csv(place / "toy.csv").y.isna()
    assert np.array_equal(first.y[~holes], second.y[~holes])
    assert not np.array_equal(first.y[holes], second.y[holes])
    refused = say("impute", place / "run", place / "toy.csv", "-o", "filled.csv", "--draws", 2)
    assert refused.code == WRONG_INPUT
    assert "'filled-1.csv' exists" in refused.err


def test_a_trained_model_is_given_another_way_to_draw(place: Path) -> None:
    forest = ("--model.label", "c", "--model.rounds", 0, "--model.num_levels", 4)
    said = say("fit", "--model", "forest_flow", "--data.path", place / "toy.csv", "--run_dir", "f", *forest, *QUIET)
    assert said.code == 0, said.err
    shares = genzoo.load("f").class_log_prob.exp()
    assert say("sample", "f", "-n", 60, "-o", "s.csv", "--set", "stratified=true", "--set", "sampler=heun").code == 0
    names = list(genzoo.load("f").schema["c"].categories)
    counts = pd.read_csv("s.csv").c.value_counts().reindex(names, fill_value=0)
    assert (abs(counts - 60 * shares.numpy()) < 1).all()
    assert say("sample", "f", "-n", 60, "-o", "t.csv", "--set", "stratified=False").code == 0
    assert not pd.read_csv("t.csv").equals(pd.read_csv("s.csv"))
    for way in ("imputation=particles", "repaint_passes=1"):
        filled = f"{way.partition('=')[2]}.csv"
        assert say("impute", "f", place / "toy.csv", "-o", filled, "--set", way).code == 0
    assert not pd.read_csv("particles.csv").equals(pd.read_csv("1.csv"))
    for wrong, sentence in (
        ("sampler=foo", "--set: sampler must be one of ancestral, euler, heun, rk4, got 'foo'"),
        ("rounds=3", "; 'rounds' says how it is trained"),
        ("roundz=3", "; 'roundz' is no argument of it"),
        ("sampler", "'sampler' is not NAME=VALUE, as in sampler=euler"),
        ("stratified=perhaps", "--set: stratified must be true or false, got 'perhaps'"),
        ("draws=many", "--set: draws must be a whole number, got 'many'"),
        ("particles=1.5", "--set: particles must be a whole number, got 1.5"),
        ("draws=0", "--set: draws must be at least 1, got 0"),
        ("draws=2020-01-01", "--set: draws must be a whole number, got '2020-01-01'"),
        ("class_mix=[1]", "--set: class_mix must be dict or none, got [1]"),
        ("class_mix={red: .nan}", "--set: class_mix gives a weight to each class of 'c'"),
    ):
        refused = say("sample", "f", "-n", 2, "-o", "u.csv", "--set", wrong)
        assert refused.code == WRONG_INPUT
        assert sentence in refused.err


def test_score_writes_the_models_own_numbers(place: Path) -> None:
    said = say("score", place / "run", place / "toy.csv", "-o", "scored.parquet", "--by", "column")
    assert said.code == 0, said.err
    scored = pd.read_parquet("scored.parquet")
    own = genzoo.load(place / "run").log_prob(place / "toy.csv")
    assert np.array_equal(scored.log_likelihood, own.values)
    assert scored.row.tolist() == list(range(160))
    assert set(scored.kind) == {"exact"}
    assert scored.se.isna().all()
    parts = [name for name in scored.columns if name.startswith("log_likelihood:")]
    assert parts == ["log_likelihood:x", "log_likelihood:y", "log_likelihood:c"]
    assert np.allclose(scored[parts].sum(axis=1), scored.log_likelihood)
    assert own.label() in said.out


def test_score_without_a_file_prints_the_mean_and_what_was_counted(place: Path) -> None:
    frame = toy_table().assign(c="purple")
    frame.to_csv("new.csv", index=False)
    said = say("score", place / "run", "new.csv")
    assert said.code == 0, said.err
    assert "160 cells hold a category not seen in training" in said.out
    assert [path.name for path in Path.cwd().iterdir()] == ["new.csv"]


def test_columns_may_be_reordered_or_extra_but_not_missing(place: Path) -> None:
    frame = toy_table()
    frame[["c", "y", "x"]].assign(extra=1).to_csv("reordered.csv", index=False)
    frame.to_csv("same.csv", index=False)
    frame.drop(columns="x").to_csv("missing.csv", index=False)
    reordered = say("score", place / "run", "reordered.csv").out.splitlines()
    assert reordered[0] == "not read, because the model does not know them: 'extra'"
    assert reordered[1:] == say("score", place / "run", "same.csv").out.splitlines()
    said = say("score", place / "run", "missing.csv")
    assert said.code == WRONG_INPUT
    assert "'x'" in said.err


@pytest.mark.parametrize("target", ["folder", "no/such/kind.docx"])
def test_an_output_that_cannot_be_written_leaves_nothing(place: Path, target: str) -> None:
    Path("folder").mkdir()
    said = say("sample", place / "run", "-n", 3, "-o", target)
    assert said.code == WRONG_INPUT
    assert said.err.count("\n") == 1
    assert [path for path in Path.cwd().rglob("*") if path.is_file()] == []


def test_by_column_is_refused_by_a_model_that_has_no_such_parts(place: Path) -> None:
    fitted = say("fit", "--model", "gaussian", "--data.path", place / "toy.csv", "--run_dir", "g", *QUIET)
    assert fitted.code == 0, fitted.err
    if genzoo.load("g").capabilities.by_column:
        pytest.skip("Gaussian gives contributions by column")
    said = say("score", "g", place / "toy.csv", "--by", "column")
    assert said.code == WRONG_INPUT
    assert "does not say what each column contributes; use independent" in said.err


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_dates_come_back_as_dates_from_sample_and_impute(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    days = np.datetime64("2024-01-01") + rng.integers(0, 300, 120)
    lines = [f"{day if k % 6 else ''},{x:.4f}" for k, (day, x) in enumerate(zip(days, rng.normal(size=120)))]
    Path("days.csv").write_text("\n".join(["day,x", *lines]) + "\n")
    assert say("fit", "--model", "independent", "--data.path", "days.csv", "--run_dir", "run", *QUIET).code == 0
    assert say("sample", "run", "-n", 20, "-o", f"drawn.{ending}").code == 0
    assert say("impute", "run", "days.csv", "-o", f"filled.{ending}").code == 0
    for name in ("drawn", "filled"):
        frame = read_frame(f"{name}.{ending}")
        assert frame.schema["day"] == nw.Date, name
        assert frame["day"].null_count() == 0
    if ending == "csv":
        kept = [line.split(",")[0] for line in Path("filled.csv").read_text().splitlines()[1:]]
        assert all(day in ("", same) for day, same in zip((line.split(",")[0] for line in lines), kept))


def test_schema_shows_refused_columns_and_writes_a_schema_that_leaves_them_out(place: Path) -> None:
    toy_table().assign(name=[f"person {k}" for k in range(160)]).to_csv("named.csv", index=False)
    said = say("schema", "named.csv", "-o", "s.yaml")
    assert said.code == 0, said.err
    assert "left out: column 'name' is text with 160 different values in 160 rows, too many to learn" in said.out
    options = ("--model", "independent", "--data.path", "named.csv", *QUIET)
    refused = say("fit", *options, "--run_dir", "no")
    assert refused.code == WRONG_INPUT
    assert "--data.ignore name" in refused.err
    assert say("fit", *options, "--run_dir", "a", "--data.schema", "s.yaml").code == 0
    assert say("fit", *options, "--run_dir", "b", "--data.ignore", "name").code == 0


def test_new_rows_are_read_as_the_model_knows_them_not_as_they_look(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = rng.choice(["1.50", "2.00", "x"], 120)
    pd.DataFrame({"code": codes, "y": rng.normal(size=120)}).to_csv("rows.csv", index=False)
    assert say("fit", "--model", "independent", "--data.path", "rows.csv", "--run_dir", "run", *QUIET).code == 0
    pd.DataFrame({"code": ["1.50", "2.00"] * 20, "y": rng.normal(size=40)}).to_csv("new.csv", index=False)
    scored = say("score", "run", "new.csv")
    assert (scored.code, "not seen in training" in scored.out) == (0, False)
    reported = say("report", "run", "--on", "new.csv", "-o", "on.json", "--samples", 0)
    assert reported.code == 0, reported.err
    (model,) = json.loads(Path("on.json").read_text())["models"]
    assert model["unseen"] == 0
