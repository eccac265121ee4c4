"""What each column is taken for."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genzoo.errors import DataError, SchemaError
from genzoo.tables.infer import infer_schema
from genzoo.tables.schema import Column
from genzoo.tables.tally import Tally


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENZOO_CACHE", str(tmp_path_factory.mktemp("cache")))


def column(values: Any, **options: Any) -> Column:
    return infer_schema({"x": values}, **options)["x"]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_numbers_without_ties_have_a_density() -> None:
    assert column(rng().normal(size=500)).kind == "continuous"


def test_a_fine_grid_without_ties_stays_a_density() -> None:
    found = column(np.round(rng().normal(size=200), 6))
    assert (found.kind, found.decimals) == ("continuous", 6)


def test_ties_on_a_grid_make_cells() -> None:
    found = column(np.round(rng().normal(50, 10, size=2000), 1))
    assert (found.kind, found.step, found.origin, found.decimals, found.atoms) == ("quantized", 0.1, 0.0, 1, ())


def test_the_share_of_tied_rows_decides_at_five_percent() -> None:
    values = rng().normal(size=1000)
    values[:48] = np.repeat(values[500:524], 2)  # 48 cells, with their 24 twins 72 rows share a value
    assert column(values).kind == "quantized"
    values = rng().normal(size=1000)
    values[:24] = values[500:524]  # 48 rows
    assert column(values).kind == "continuous"


def test_zeros_before_a_continuum_are_an_atom() -> None:
    values = rng().exponential(size=1000)
    values[:300] = 0.0
    found = column(values)
    assert (found.kind, found.atoms) == ("mixed", (0.0,))


def test_a_value_on_one_percent_is_an_atom_only_if_ten_times_its_neighbours() -> None:
    values = rng().normal(size=1000)
    values[:20] = 0.25
    found = column(values)
    assert (found.kind, found.atoms) == ("mixed", (0.25,))
    values[:5] = np.nextafter(0.25, 1.0)  # the neighbour holds 5, the value 15 rows
    assert column(values).atoms == ()


def test_a_small_grid_names_no_atoms_where_every_value_is_frequent() -> None:
    years = rng().choice(16, size=5000, p=np.arange(1, 17) / 136)
    found = column(years)
    assert (found.kind, found.step, found.atoms) == ("quantized", 1.0, ())


def test_a_peak_on_a_grid_is_an_atom_of_a_quantized_column() -> None:
    gains = np.where(rng().random(5000) < 0.92, 0, rng(1).integers(100, 400, 5000))
    found = column(gains)
    assert (found.kind, found.step, found.atoms) == ("quantized", 1.0, (0.0,))


def test_a_few_odd_rows_beside_frequent_values_show_no_continuum() -> None:
    assert column([0] * 60 + [1] * 30 + [2] * 8 + [3, 5]).kind == "quantized"


@pytest.mark.parametrize(
    ("values", "categories", "storage"),
    [
        ([0, 1, 1, 0], ("0", "1"), "int"),
        ([1.0, 2.0, None, 1.0], ("1", "2"), "float"),
        ([True, False, None, True], ("False", "True"), "bool"),
        (["no", "yes", "no", None], ("no", "yes"), "string"),
        ([-9, 10, -9, 10], ("-9", "10"), "int"),
    ],
)
def test_two_values_of_any_type_are_binary(values: list[Any], categories: tuple[str, ...], storage: str) -> None:
    found = column(pa.array(values))
    assert (found.kind, found.categories, found.storage) == ("binary", categories, storage)


def test_constants_are_recorded_and_not_modelled() -> None:
    schema = infer_schema({"a": ["x"] * 3, "b": [None] * 3, "c": [7.5, None, 7.5], "d": [1, 2, 3]})
    assert [(c.kind, c.value) for c in schema.columns[:3]] == [
        ("constant", "x"),
        ("constant", None),
        ("constant", "7.5"),
    ]
    assert [c.name for c in schema.scored] == ["d"]


def test_dates_are_counted_in_days_and_times_in_their_common_step() -> None:
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=7 * i) for i in (0, 1, 3, 8)]
    found = column(days)
    assert (found.kind, found.storage, found.step) == ("quantized", "date", 7.0)
    times = [datetime.datetime(2024, 1, 1, 10) + datetime.timedelta(minutes=15 * i) for i in (0, 1, 3, 8)]
    found = column(times)
    assert (found.kind, found.storage, found.step) == ("quantized", "datetime", 900.0)


def test_near_unique_text_is_refused_with_what_to_do() -> None:
    table = {"name": [f"person {i}" for i in range(100)], "x": rng().normal(size=100)}
    with pytest.raises(DataError, match=r"'name' is text with 100 different values.*--ignore name.*kind: categorical"):
        infer_schema(table)
    assert infer_schema(table, overrides={"name": {"role": "ignore"}})["name"].role == "ignore"
    assert infer_schema(table, roles={"name": "group"})["name"].role == "group"
    assert len(infer_schema(table, overrides={"name": {"kind": "categorical"}})["name"].categories) == 100
    shown = infer_schema(table, refused="ignore")
    assert shown["name"].role == "ignore"
    assert shown["name"].doubt == "refused"
    assert "too many to learn" in shown["name"].note
    assert shown["x"].kind == "continuous"


def test_stray_words_among_numbers_are_named() -> None:
    cells = [str(i % 97) for i in range(500)]
    cells[17], cells[400] = "none", "unknown"
    with pytest.raises(DataError, match=r"'x' mixes numbers and text: 'none' \(1 cell\), 'unknown' \(1 cell\)"):
        column(cells)
    assert column(cells, missing_tokens=["none", "unknown"]).kind == "quantized"


def test_codes_that_look_partly_like_numbers_are_categories() -> None:
    codes = [c for c in ("250.00", "250.01", "428", "V57", "V58", "E909", "E910") for _ in range(20)]
    found = column(codes)
    assert (found.kind, found.storage) == ("categorical", "string")
    assert "250.00" in found.categories


def test_numeric_tokens_empty_number_cells() -> None:
    found = column([1, 2, 3, -999, 2, 3, 1, -999], missing_tokens=["-999"])
    assert found.kind == "quantized"
    assert infer_schema({"x": [5.0, 5.0, -999.0]}, missing_tokens=["-999"])["x"].kind == "constant"


def test_infinite_values_are_refused_by_column_and_row() -> None:
    with pytest.raises(DataError, match=r"'x' has infinite values \(first in row 2\)"):
        column([1.0, 2.0, np.inf, 4.0])


def test_integers_that_float64_confuses_are_refused_unless_ignored() -> None:
    table = {"id": [2**60, 2**60 + 1, 2**60 + 2], "x": [1.0, 2.0, 4.5]}
    with pytest.raises(DataError, match="'id' has integers beyond"):
        infer_schema(table)
    assert infer_schema(table, overrides={"id": {"role": "ignore"}})["id"].role == "ignore"


def test_one_row_is_refused() -> None:
    with pytest.raises(DataError, match="1 row"):
        infer_schema({"x": [1.0]})


def test_identifiers_are_noted() -> None:
    found = column(np.arange(1, 301))
    assert found.kind == "continuous"
    assert (found.note, found.doubt) == ("integers that never repeat", "identifier")


def test_overrides_read_from_the_data_what_the_kind_needs() -> None:
    values = np.round(rng().normal(size=300), 1)
    assert column(values, overrides={"x": {"kind": "continuous"}}).step is None
    assert column(values, overrides={"x": {"kind": "categorical"}}).categories[0] == str(values.min())
    assert column(rng().normal(size=50).round(3), overrides={"x": {"kind": "quantized"}}).step == 0.001
    assert column(values, overrides={"x": {"kind": "quantized", "step": 0.5}}).step == 0.5
    assert column(values, overrides={"x": {"kind": "mixed", "atoms": [9.0]}}).atoms == (9.0,)
    with pytest.raises(SchemaError, match="no atoms"):
        column(rng().normal(size=50), overrides={"x": {"kind": "mixed"}})
    with pytest.raises(SchemaError, match="cannot be quantized"):
        column(["a", "b", "c"] * 5, overrides={"x": {"kind": "quantized"}})
    with pytest.raises(SchemaError, match="no column 'y'"):
        column(values, overrides={"y": {"role": "ignore"}})
    with pytest.raises(SchemaError, match="unknown field 'colour'"):
        column(values, overrides={"x": {"colour": "red"}})


def test_roles_are_given_by_column_or_by_role() -> None:
    table = {"a": [1, 2, 3], "b": [4, 5, 7]}
    assert infer_schema(table, roles={"a": "context"})["a"].role == "context"
    assert [c.role for c in infer_schema(table, roles={"context": ["a", "b"]}).columns] == ["context", "context"]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([1024.0, 1000.0, 2.0**-20]), shape=st.integers(0, 4))
def test_a_change_of_unit_changes_no_verdict(seed: int, factor: float, shape: int) -> None:
    random = rng(seed)
    values = [
        lambda: random.normal(size=400),
        lambda: random.normal(size=400).round(1),
        lambda: np.where(random.random(400) < 0.3, 0.0, random.exponential(size=400)),
        lambda: np.where(random.random(400) < 0.9, 0.0, random.integers(1, 40, 400) / 4),
        lambda: random.choice(random.normal(size=150), 400),
    ][shape]()
    before, after = column(values, cache=False), column(values * factor, cache=False)
    assert after.kind == before.kind
    assert after.atoms == pytest.approx([atom * factor for atom in before.atoms], rel=1e-12)
    if before.step:
        assert after.step == pytest.approx(before.step * factor, rel=1e-9)


def test_backends_and_files_agree_on_the_verdicts(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "n": rng().integers(0, 50, 300),
            "x": rng().normal(size=300),
            "q": rng().normal(size=300).round(1),
            "w": rng().choice(list("abc"), 300),
        }
    )
    frame.loc[3:9, ["x", "w"]] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=70)
    want = infer_schema(frame)
    for source in (pl.from_pandas(frame), pa.Table.from_pandas(frame), tmp_path / "t.csv", tmp_path / "t.parquet"):
        found = infer_schema(source)
        assert found.measure == want.measure
        assert [c.categories for c in found.columns] == [c.categories for c in want.columns]


def test_the_cache_is_used_and_a_broken_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x\n" + "\n".join(str(i / 8) for i in range(50)))
    monkeypatch.setenv("GENZOO_CACHE", str(tmp_path / "cache"))
    first = infer_schema(path)
    entries = list((tmp_path / "cache").rglob("*.json"))
    assert len(entries) == 1
    monkeypatch.setattr("genzoo.tables.infer.Tally", None)  # a second pass over the data would fail
    assert infer_schema(path) == first
    monkeypatch.undo()
    monkeypatch.setenv("GENZOO_CACHE", str(tmp_path / "cache"))
    entries[0].write_text("{broken")
    assert infer_schema(path) == first
    monkeypatch.setenv("GENZOO_CACHE", str(path / "below a file"))
    assert infer_schema(path) == first


def test_lists_of_equal_length_are_a_block() -> None:
    pixels = rng().integers(0, 2, size=(40, 9)).tolist()
    found = column(pa.array(pixels))
    assert (found.kind, found.shape, found.width) == ("binary", (9,), 9)
    with pytest.raises(DataError, match="unequal length"):
        column(pa.array([[1, 2], [1, 2, 3]]))


def test_more_distinct_values_than_memory_allows_are_sampled_without_losing_atoms() -> None:
    random = rng(5)
    tally = Tally("x", (), max_values=2000)
    for _ in range(20):
        values = random.normal(size=5000)
        values[random.random(5000) < 0.1] = 0.0
        tally.add(pa.array(values))
    found = tally.result()
    assert len(found.values) <= 2000
    assert found.counts[found.values == 0.0] == pytest.approx(10_000, rel=0.05)
    assert (found.weights * (found.counts > 0)).sum() == pytest.approx(90_000, rel=0.15)


def test_parquet_row_groups_are_counted_as_one_table(tmp_path: Path) -> None:
    values = np.concatenate([np.zeros(600), rng().normal(size=400)])  # sorted: the atom fills the first groups
    pq.write_table(pa.table({"x": values}), tmp_path / "t.parquet", row_group_size=100)
    assert infer_schema(tmp_path / "t.parquet")["x"].atoms == (0.0,)


def test_integers_keep_a_whole_step_however_large() -> None:
    found = column(8 * rng().integers(10**7, 10**7 + 50, size=400))
    assert (found.kind, found.step) == ("quantized", 8.0)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([f"{k},{k % 7}5" for k in range(60)], "numbers with a decimal comma. write 0.05 instead; .*--ignore x"),
        ([f"{k},{k:03}.5" for k in range(1, 61)], "numbers with separators of thousands. write 1001.5 instead"),
        ([f"{k % 28 + 1}/{k % 12 + 1}/19{k + 10}" for k in range(60)], "dates. write them as YYYY-MM-DD"),
        ([f"{k + 0.5} m2" for k in range(60)], "numbers with a unit. write 0.5 instead of '0.5 m2'"),
        ([f"€{k}00" for k in range(60)], "numbers with a unit. write 000 instead of '€000'"),
        ([{"a": k} for k in range(60)], "holds records, .*--ignore"),
        ([b"%d" % k for k in range(60)], "holds bytes, .*--ignore"),
        ([[0] * (k % 3) for k in range(60)], "lists of unequal length; .*--ignore"),
        ([datetime.time(k % 24) for k in range(60)], "times of day; .*--ignore"),
        ([2**60 + k for k in range(60)], "beyond 2..53, .*--ignore"),
    ],
)
def test_cells_that_no_model_takes_are_refused_with_what_to_do(cells: list[Any], words: str) -> None:
    table = pa.table({"x": pa.array(cells), "y": rng().normal(size=60)})
    with pytest.raises(DataError, match=f"column 'x' .*{words}"):
        infer_schema(table, cache=False)
    assert infer_schema(table, roles={"ignore": ["x"]}, cache=False)["y"].is_modelled


def test_several_refused_columns_get_one_piece_of_advice() -> None:
    names = [f"person {k}" for k in range(60)]
    with pytest.raises(DataError, match=r"column 'b c' is text .*leave them out .--ignore 'a,b c'") as error:
        infer_schema({"a": names, "b c": names[::-1], "x": rng().normal(size=60)}, cache=False)
    assert str(error.value).count("--data.ignore") == 1


def test_categories_that_may_be_numbers_or_dates_in_another_form_are_asked_about() -> None:
    days = column([f"{k % 9 + 1:02}.0{k % 3 + 1}.2024" for k in range(200)])
    assert (days.kind, days.doubt) == ("categorical", "form")
    assert days.note.endswith("categories: dates? write them as YYYY-MM-DD")
    share = column([f"{k % 30}%" for k in range(200)])
    assert share.note == "30 categories: numbers with a unit? write 0 instead of '0%'"
    for words in (
        ["Q1", "Q2", "Q3", "Q4"],
        ["1st", "2nd", "3rd", "4th"],
        ["V57", "250.00", "E910"],
        ["10a", "10b", "11c"],
    ):
        assert column(words * 50).doubt == ""
