"""What a newcomer reads off single cells: impossible ones, unusual ones, those left open or drawn given others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import genzoo
from genzoo.commands.given import _require_known
from genzoo.commands.impute import left_open
from genzoo.commands.parsing import UsageError
from genzoo.commands.score import missing_cells, unusual
from genzoo.errors import CapabilityError, DataError, SchemaError
from genzoo.main import main
from genzoo.tables.encode import encode_frame
from genzoo.tables.ranges import FarBeyond, training_ranges


def table(count: int = 200) -> pd.DataFrame:
    r = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "x": r.normal(size=count),
            "age": r.integers(18, 60, count).astype(float),
            "city": r.choice(["a", "b", "c"], count),
        }
    )
    frame.loc[r.random(count) < 0.2, "x"] = np.nan
    frame.loc[r.random(count) < 0.2, "city"] = None
    return frame


def schema(frame: pd.DataFrame, **changes: dict) -> genzoo.Schema:
    found = genzoo.infer_schema(frame)
    columns = tuple(dataclasses.replace(c, **changes.get(c.name, {})) for c in found.columns)
    return dataclasses.replace(found, columns=columns)


@pytest.mark.parametrize("model", ["independent", "maf"])
def test_an_impossible_cell_is_the_one_that_explains_its_row(model: str) -> None:
    frame = table()
    few = {} if model == "independent" else {"max_epochs": 1}
    fitted = genzoo.fit(
        frame, model=model, schema=schema(frame, age={"lower": 18, "upper": 60}, city={"closed": True}), **few
    )
    rows = pd.DataFrame({"x": [0.0, 0.0, 0.0], "age": [30.0, 200.0, 30.0], "city": ["a", "a", "elsewhere"]})
    scored = fitted.log_prob(rows)
    assert scored.by_column is not None
    assert np.isneginf(scored.values).tolist() == [False, True, True]
    names = list(scored.columns)
    expected = np.zeros((3, 3), dtype=bool)
    expected[1, names.index("age")] = expected[2, names.index("city")] = True
    assert (np.isneginf(scored.by_column) == expected).all()
    assert "'age'" in unusual(scored)[1]
    assert "'city'" in unusual(scored)[2]
    (alone,) = unusual(fitted.log_prob(rows[1:2]))
    assert alone.startswith("lowest contributions (nats; a finer grid has lower ones): 'age' -inf")
    without = dataclasses.replace(scored, by_column=np.full((3, 3), np.nan))  # rows without an observed cell
    assert unusual(without) == []


def test_columns_that_the_given_rows_lack_are_drawn() -> None:
    frame = table()
    given = pd.DataFrame({"age": [30.0] * 200})
    categories = genzoo.fit(frame, model="independent", schema=schema(frame, city={"missing": "value"}))
    share = categories.sample(200, given=given)["city"].isna().mean()
    assert 0.1 < share < 0.35
    numbers = genzoo.fit(frame, model="independent", schema=schema(frame, x={"missing": "value"}))
    with pytest.raises(CapabilityError, match="lack column 'x'"):
        numbers.sample(5, given=given)


def test_completed_rows_keep_the_index_of_their_frame() -> None:
    frame = table()
    fitted = genzoo.fit(frame, model="independent")
    holes = frame.iloc[100:120]
    (filled,) = fitted.impute(holes)
    assert list(filled.index) == list(holes.index)
    pd.testing.assert_series_equal(filled["age"], holes["age"], check_dtype=False)


def test_imputation_says_what_it_left_open() -> None:
    frame = table().assign(note=None)
    fitted = genzoo.fit(frame, model="independent", schema=schema(frame, x={"missing": "value"}))
    filled = fitted.impute(frame)[0]
    lines = left_open({name: int(filled[name].isna().sum()) for name in filled}, fitted.schema)
    assert [name for name in ("x", "city", "note") if any(f"'{name}'" in line for line in lines)] == ["x", "note"]


def test_the_floor_stands_beside_conditional_models() -> None:
    frame = table()
    fitted = genzoo.fit(frame, model="independent", schema=schema(frame, city={"role": "context"}))
    assert list(fitted.log_prob(frame).columns) == ["x", "age"]
    drawn = fitted.sample(given=pd.DataFrame({"city": ["a", "b"]}))
    assert drawn["city"].tolist() == ["a", "b"]
    assert drawn["age"].notna().all()


@pytest.mark.parametrize("typed, meant", [("ignore", "--data.ignore"), ("epochs", "--trainer.max_epochs")])
def test_options_of_compare_point_to_those_of_fit(typed: str, meant: str) -> None:
    with pytest.raises(UsageError, match=meant):
        _require_known("fit", typed)


def test_a_role_with_a_typing_error_names_the_column_that_is_near() -> None:
    with pytest.raises(SchemaError, match="did you mean 'city'"):
        genzoo.fit(table(), model="independent", context=["cty"])


@pytest.mark.parametrize("role", ["value", "context"])
def test_a_given_category_never_seen_is_refused_not_replaced(role: str) -> None:
    frame = table()
    fitted = genzoo.fit(frame, model="independent", schema=schema(frame, city={"role": role}))
    with pytest.raises(DataError, match=r"'city' of the given rows .*first in row 1"):
        fitted.sample(given=pd.DataFrame({"city": ["a", "elsewhere"]}))


def test_a_comparison_asks_about_identifiers_and_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    children = ["1", "2", "3", "two"] + ["0", "1", "2", "3"] * 49
    frame = table().assign(number=np.arange(1000, 1200), children=children, empty=None, year=2024)
    frame.to_csv(tmp_path / "people.csv", index=False)
    folder = ["--run_dir", str(tmp_path / "runs"), "-o", str(tmp_path / "report.md")]
    assert main(["compare", str(tmp_path / "people.csv"), "--models", "independent", *folder]) == 0
    said = capsys.readouterr().out
    assert "column 'number' holds integers that never repeat; an identifier? then --ignore it" in said
    assert "categories, numbers but for 'two' (1 cell): a mistake? then correct the cells" in said
    assert "nothing to learn from 'empty' (no cells), 'year' (only '2024')" in said


def test_cells_are_ranked_within_their_column_and_missing_ones_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a tenth of the numbers are spread out; the others are an atom, which is worth far more nats
    rng = np.random.default_rng(0)
    gain = np.where(rng.random(400) < 0.1, rng.uniform(1e3, 1e5, 400), 0.0)
    frame = pd.DataFrame({"gain": gain, "x": rng.normal(size=400), "place": "here"})
    frame.loc[7, ["gain", "x"]] = [5e4, 9.0]
    frame.loc[8, "x"] = np.nan
    model = genzoo.fit(frame.drop(index=7), model="independent")
    model.save(tmp_path / "model.ckpt")
    frame.loc[11, "place"] = "elsewhere"
    frame.to_csv(tmp_path / "rows.csv", index=False)
    out = str(tmp_path / "scores.csv")
    assert main(["score", str(tmp_path / "model.ckpt"), str(tmp_path / "rows.csv"), "--by", "column", "-o", out]) == 0
    said = capsys.readouterr().out
    assert "row 7: " in said
    assert "its most unusual cell is 'x'" in said.split("row 7: ")[1].splitlines()[0]
    assert "1 cell differs from the only value that its column had in training" in said
    assert "'place' 1" in said
    scores = pd.read_csv(out)
    assert scores["log_likelihood:x"].isna().tolist() == [row == 8 for row in range(400)]


def test_odd_cells_are_told_with_their_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = table()
    genzoo.fit(frame, model="independent").save(tmp_path / "model.ckpt")
    frame.head(9).assign(city=["new"] * 2 + ["a"] * 7).to_csv(tmp_path / "rows.csv", index=False)
    assert main(["score", str(tmp_path / "model.ckpt"), str(tmp_path / "rows.csv")]) == 0
    assert "2 cells hold a category not seen in training: 'city' 2" in capsys.readouterr().out


def test_a_wrong_date_is_told_from_the_right_ones() -> None:
    days = pd.date_range("2024-01-01", periods=60).strftime("%Y-%m-%d")
    model = genzoo.fit(pd.DataFrame({"day": days, "x": np.linspace(0, 1, 60) ** 2}), model="independent")
    with pytest.raises(DataError, match=r"needs dates \(like 2024-01-31\); 1 of 2 cells are not: '31.1.2024' in row 1"):
        model.log_prob(pd.DataFrame({"day": ["2024-02-01", "31.1.2024"], "x": [0.1, 0.2]}))


def test_draws_far_beyond_the_training_range_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training_ranges(np.array([[1.0], [np.nan], [3.0]]), genzoo.infer_schema({"x": [1.5, 2.5, 4.0]})) == {
        "x": [1.0, 3.0]
    }
    far = FarBeyond({"x": [1.0, 3.0], "y": [0.0, 0.0]})
    far.add(pa.table({"x": [-1.0, 5.0, 5.1, None], "z": [1e9] * 4}))
    far.add(pa.table({"x": [-80.0], "y": [0.0]}))
    assert far.lines()[0] == "2 numbers of 'x' far beyond the training range 1 to 3: between -80 and 5.1"
    assert len(far.lines()) == 2

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.standard_cauchy(400), "c": rng.choice(["a", "b"], 400)})
    model = genzoo.fit(frame, model="independent")
    model.training_record["ranges"]["x"] = [-0.1, 0.1]
    model.save(tmp_path / "model.ckpt")
    assert main(["sample", str(tmp_path / "model.ckpt"), "-n", "200", "-o", str(tmp_path / "drawn.csv")]) == 0
    said = capsys.readouterr().out
    assert "numbers of 'x' far beyond the training range -0.1 to 0.1" in said
    assert "declare lower and upper of 'x' in the schema" in said
    far = FarBeyond({"x": [1.0, 3.0]})
    far.add(pa.table({"x": [9.0]}))
    assert far.lines()[-1].startswith("declare upper of 'x' in the schema")


@pytest.mark.parametrize("command", ["score", "impute", "compare"])
def test_a_table_that_is_read_is_never_written_over(command: str, tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    table(40).to_csv(path, index=False)
    before = path.read_bytes()
    if command == "compare":
        words = ["compare", str(path), "--models", "independent", "-o", str(tmp_path / "my.html"), "--overwrite"]
    else:
        genzoo.fit(table(40), model="independent").save(tmp_path / "model.ckpt")
        words = [command, str(tmp_path / "model.ckpt"), str(path), "-o", str(path), "--overwrite"]
    assert main(words) == 2
    assert path.read_bytes() == before


def test_changed_constants_are_counted_whatever_they_hold() -> None:
    frame = pd.DataFrame({"one": [1] * 9, "none": [None] * 9, "list": ["a"] * 9, "x": np.linspace(0, 1, 9) ** 2})
    frame["nan"] = np.nan
    found = genzoo.infer_schema(frame)
    same = encode_frame(frame.assign(one=1.0), found)
    assert same.counts["changed"] == 0
    other = frame.assign(
        one=[2, None, *[1] * 7], none=["now", *[None] * 8], list=[["a", "b"]] * 9, nan=[*[None] * 7, 0, 1]
    )
    counts = encode_frame(other, found).column_counts
    assert {name: found["changed"] for name, found in counts.items()} == {"one": 1, "none": 1, "list": 9, "nan": 2}


def test_a_missing_number_that_is_a_value_keeps_its_contribution() -> None:
    frame = table()
    fitted = genzoo.fit(frame, model="independent", schema=schema(frame, x={"missing": "value"}))
    data = encode_frame(frame, fitted.schema)
    blank = missing_cells(data, ["x", "age", "city"])
    assert not blank[:, :2].any()
    assert (blank[:, 2] == frame["city"].isna()).all()
