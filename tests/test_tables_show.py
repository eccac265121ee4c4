"""Schemas for people, fingerprints, example tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from rich.console import Console

from genzoo.errors import DataError, SchemaError
from genzoo.tables.encode import decode_table, encode_frame
from genzoo.tables.examples import ADULT_TRAINING_ROWS, example_names, load_example
from genzoo.tables.fingerprint import fingerprint
from genzoo.tables.frames import read_frame, to_arrow
from genzoo.tables.infer import infer_schema, missing_shares
from genzoo.tables.schema import Column, Schema
from genzoo.tables.show import load_schema, measure_text, save_schema, schema_table


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENZOO_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_a_schema_survives_yaml(tmp_path: Path) -> None:
    schema = infer_schema("genzoo:adult").with_column("age", unit="years", lower=0.0)
    path = save_schema(schema, tmp_path / "s.yaml")
    assert load_schema(path) == schema
    assert load_schema(path)["age"].note == schema["age"].note
    with pytest.raises(DataError, match="exists"):
        save_schema(schema, path)


def test_hand_written_categories_are_text(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "columns:\n- {name: 1, kind: binary, storage: int, categories: [0, 1]}\n- {name: k, kind: constant, value: 3}\n"
    )
    assert load_schema(path)["1"].categories == ("0", "1")
    assert load_schema(path)["k"].value == "3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("columns: [", "is not YAML"),
        ("- a", "is not a schema"),
        ("rows: 3", "needs an entry 'columns'|unknown entry 'rows'"),
        ("columns: [3]", "needs 'name' and 'kind'"),
        ("columns: [{name: x, kind: fuzzy}]", "unknown kind 'fuzzy'"),
        ("columns: [{name: x, kind: quantized}]", "needs a step"),
    ],
)
def test_broken_schemas_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SchemaError, match=words):
        load_schema(tmp_path / "s.yaml")
    with pytest.raises(SchemaError, match="no schema file"):
        load_schema(tmp_path / "absent.yaml")


def test_the_schema_prints_as_a_table_with_measures_and_holes() -> None:
    schema = infer_schema("genzoo:adult")
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(schema_table(schema, missing_shares("genzoo:adult")))
    text = console.export_text()
    for words in (
        "adult: 48,842 rows, 15 columns",
        "capital_gain",
        "cells of 1, atoms 0, 15024",
        "5.73 %",
        "categorical",
    ):
        assert words in text


def test_measures_name_the_unit() -> None:
    assert measure_text(Column("x", "continuous", unit="km")) == "density per km"
    assert measure_text(Column("x", "quantized", storage="date", step=7.0)) == "probability, cells of 7 days"
    assert (
        measure_text(Column("x", "mixed", atoms=(0.0,), missing="value"))
        == "probability of 0, missing, density per unit elsewhere"
    )
    assert measure_text(Column("x", "categorical", role="ignore")) == "not modelled"


def test_the_fingerprint_follows_the_content() -> None:
    frame = pd.DataFrame({"a": [1, 2], "w": ["x", None]})
    assert fingerprint(frame) == fingerprint(frame.copy())
    assert fingerprint(pl.DataFrame({"a": [1, 2]})) == fingerprint(pa.table({"a": pa.chunked_array([[1], [2]])}))
    for other in (frame.rename(columns={"a": "b"}), frame.assign(a=[1, 3]), frame.assign(w=["x", ""]), frame[::-1]):
        assert fingerprint(other) != fingerprint(frame)


def test_the_fingerprint_of_a_file_does_not_depend_on_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    (tmp_path / "b.csv").write_text("x\n1\n2\n")
    (tmp_path / "c.csv").write_text("x\n1\n3\n")
    marks = [fingerprint(tmp_path / f"{name}.csv") for name in "abc"]
    assert marks[0] == marks[1] != marks[2]


def test_adult_is_shipped_with_its_attribution() -> None:
    table = to_arrow(load_example("adult"))
    assert (table.num_rows, table.num_columns) == (48_842, 15)
    assert sum(column.null_count for column in table.columns) == 6_465
    assert 0 < ADULT_TRAINING_ROWS < table.num_rows
    folder = Path(sys.modules["genzoo.tables"].__file__ or "").parent / "data"
    assert "CC BY 4.0" in (folder / "ADULT.md").read_text()
    assert (folder / "adult.parquet").stat().st_size < 500_000


def test_adult_equals_its_public_files_in_order(shared_data: Path) -> None:
    table = to_arrow(load_example("genzoo:adult"))
    assert table.slice(0, ADULT_TRAINING_ROWS).equals(to_arrow(read_frame(shared_data / "adult" / "train.parquet")))
    assert table.slice(ADULT_TRAINING_ROWS).equals(to_arrow(read_frame(shared_data / "adult" / "test.parquet")))


@pytest.mark.parametrize("name", example_names())
def test_every_example_is_read_described_and_encoded(name: str) -> None:
    frame = read_frame(name)
    schema = infer_schema(name)
    back = decode_table(encode_frame(frame, schema), backend="pyarrow")
    assert back.num_rows == len(frame)
    assert schema.source == name.split(":")[1]


def test_classes_are_named_by_scikit_learn() -> None:
    assert set(to_arrow(load_example("sklearn:iris"))["target"].to_pylist()) == {"setosa", "versicolor", "virginica"}
    with pytest.raises(DataError, match="no example table 'sklearn:wime'; there are genzoo:adult, sklearn:wine"):
        read_frame("sklearn:wime")


def test_tables_load_no_torch() -> None:
    code = (
        "import sys, genzoo.tables as t; t.infer_schema({'a': [1, 2, 3]}, cache=False); t.encode_frame; t.schema_table;"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_empty_schema_shows(tmp_path: Path) -> None:
    assert schema_table(Schema(())).row_count == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "mixed", "atoms": (0.0, 0.0)}, "two of its atoms .* are equal"),
        ({"kind": "mixed", "atoms": (float("nan"),)}, "finite numbers.*missing: value"),
        ({"kind": "continuous", "lower": 2.0, "upper": 1.0}, "not below its upper bound"),
        ({"kind": "continuous", "lower": 1.0, "upper": 1.0}, "not below its upper bound"),
        ({"kind": "quantized", "step": 1.0, "lower": 2.0, "upper": 1.0}, "not below its upper bound"),
    ],
)
def test_atoms_and_bounds_that_make_no_measure_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Column("x", **fields)
    assert Column("x", "quantized", step=1.0, lower=1.0, upper=1.0).upper == 1.0  # one cell is a measure
