"""The table datamodule: splits, vocabularies, roles, duplicates, and what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genzoo.datamodules import Table
from genzoo.datamodules.base import SPLITS, automatic_batch_size
from genzoo.datamodules.splits import column_split, grouped_split, ordered_split, random_split, rows_in
from genzoo.errors import DataError, SchemaError
from genzoo.tables.schema import Schema


def people(num_rows: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "height": rng.normal(170, 8, num_rows).round(6),
            "age": rng.integers(18, 80, num_rows),
            "city": rng.choice(["Aarhus", "Bergen", "Cork"], num_rows),
            "house": rng.integers(0, 40, num_rows),
            "day": pd.date_range("2024-01-01", periods=num_rows)[rng.permutation(num_rows)],
        }
    )


@given(
    num_rows=st.integers(3, 200),
    val=st.sampled_from([0, 0.1, 0.3]),
    test=st.sampled_from([0, 0.1, 0.5]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60)
def test_every_row_is_in_one_split(num_rows: int, val: float, test: float, seed: int) -> None:
    groups = np.random.default_rng(seed).integers(0, 3, num_rows)
    groups[:3] = [0, 1, 2]
    for index in (
        random_split(num_rows, val, test, seed),
        ordered_split(groups, val, test),
        grouped_split(groups, val, test, seed),
    ):
        assert sorted(np.concatenate(list(index.values())).tolist()) == list(range(num_rows))
        assert len(index["train"]) > 0
        assert (len(index["val"]) > 0, len(index["test"]) > 0) == (val > 0, test > 0)


def test_test_rows_do_not_depend_on_the_share_of_validation() -> None:
    one, other = random_split(100, 0.1, 0.2, 3), random_split(100, 0.4, 0.2, 3)
    np.testing.assert_array_equal(one["test"], other["test"])
    assert not np.array_equal(one["test"], random_split(100, 0.1, 0.2, 4)["test"])


def test_ordered_split_tests_on_the_latest_rows() -> None:
    index = ordered_split(np.array([5, 1, 4, 2, 3, 0, 9, 8, 7, 6]), 0.2, 0.3)
    assert index["test"].tolist() == [6, 7, 8]
    assert index["val"].tolist() == [0, 9]


def test_grouped_split_keeps_groups_together_and_shares_near() -> None:
    groups = np.random.default_rng(0).integers(0, 100, 5000)
    index = grouped_split(groups, 0.1, 0.2, 0)
    of = {split: set(groups[rows].tolist()) for split, rows in index.items()}
    assert not of["train"] & of["test"]
    assert not of["train"] & of["val"]
    assert not of["val"] & of["test"]
    assert len(index["test"]) == pytest.approx(1000, abs=100)
    assert len(index["val"]) == pytest.approx(500, abs=100)


def test_split_words_are_read_in_any_case() -> None:
    index = column_split(["Train", "valid", "TEST", "train", "validation"], "part")
    assert (index["train"].tolist(), index["val"].tolist(), index["test"].tolist()) == ([0, 3], [1, 4], [2])
    with pytest.raises(DataError, match="split column 'part' holds 'fold1'"):
        column_split(["train", "fold1"], "part")
    with pytest.raises(DataError, match="no row as train"):
        column_split(["test"], "part")


def test_table_splits_a_frame_and_keeps_its_rows() -> None:
    frame = people()
    table = Table(frame=frame, ignore=["day"])
    assert table.split_counts["train"] == 280
    for split in SPLITS:
        data, rows = table.data(split), table.frame(split).to_native()
        np.testing.assert_array_equal(data.numeric[:, 0], frame["height"].to_numpy()[data.rows])
        pd.testing.assert_frame_equal(rows.reset_index(drop=True), frame.iloc[data.rows].reset_index(drop=True))
    assert table.name == "table"


def test_schema_measure_is_the_same_for_every_seed_and_vocabulary_is_of_training_rows() -> None:
    frame = people(60)
    frame.loc[7, "city"] = "Essen"
    tables = [Table(frame=frame, ignore=["day"], seed=seed) for seed in range(12)]
    assert len({table.schema.measure for table in tables}) == 1
    unseen = 0
    for table in tables:
        seen = set(table.frame("train").to_native()["city"])
        assert set(table.schema["city"].categories) == seen
        assert table.schema.num_training_rows == len(table.data("train"))
        held_out = {split: table.data(split).codes for split in ("val", "test")}
        unseen += sum((codes == -2).sum() for codes in held_out.values())
        assert (table.data("train").codes >= 0).all()
    assert unseen > 0, "some seed leaves the rare city out of training"


def test_roles_are_given_by_column_name() -> None:
    table = Table(frame=people(), context=["age"], ignore=["day", "house"])
    assert [c.name for c in table.schema.context] == ["age"]
    assert [c.name for c in table.schema.scored] == ["height", "city"]
    with pytest.raises(SchemaError, match="'context' names column 'agee', and the table has height, age"):
        Table(frame=people(), context=["agee"]).setup()
    with pytest.raises(ValueError, match="column 'age' is named twice"):
        Table(frame=people(), context=["age"], ignore=["age"])


def test_group_column_splits_by_group_and_is_not_modelled() -> None:
    table = Table(frame=people(), group="house", ignore=["day"])
    houses = {split: set(table.frame(split).to_native()["house"]) for split in SPLITS}
    assert not houses["train"] & houses["test"]
    assert "house" not in [c.name for c in (*table.schema.numeric, *table.schema.categorical)]


def test_time_column_orders_the_split() -> None:
    table = Table(frame=people(), time="day")
    table.setup()
    days = {split: table.frame(split).to_native()["day"] for split in SPLITS}
    assert table.ordered
    assert days["train"].max() < days["val"].min() <= days["val"].max() < days["test"].min()
    assert not Table(frame=people(), ignore=["day"]).ordered


def test_ordered_split_without_time_column_takes_the_file_order() -> None:
    table = Table(frame=people(), split="ordered", ignore=["day"], val=0.1, test=0.2)
    assert table.data("test").rows.tolist() == list(range(320, 400))


def test_split_column_files_and_saved_splits_are_taken(tmp_path: Path) -> None:
    frame = people(100).drop(columns="day")
    marked = frame.assign(part=["train"] * 60 + ["val"] * 15 + ["test"] * 25)
    table = Table(frame=marked, split_column="part")
    assert [len(table.data(split)) for split in SPLITS] == [60, 15, 25]
    assert "part" not in [c.name for c in table.schema.categorical]

    for name, rows in (("a", frame[:60]), ("b", frame[60:75]), ("c", frame[75:])):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    files = Table(str(tmp_path / "a.csv"), val_path=str(tmp_path / "b.csv"), test_path=str(tmp_path / "c.csv"))
    for split in SPLITS:
        np.testing.assert_allclose(files.data(split).numeric, table.data(split).numeric)
    assert files.schema.measure == table.schema.measure
    assert files.data("test").rows.tolist() == list(range(25))

    drawn = Table(frame=frame, seed=5)
    drawn.save_split(str(tmp_path / "split.parquet"))
    again = Table(frame=frame, seed=9, split_path=str(tmp_path / "split.parquet"))
    for split in SPLITS:
        np.testing.assert_array_equal(again.data(split).rows, drawn.data(split).rows)
    with pytest.raises(DataError, match="has 100 rows, and the table has 50"):
        Table(frame=frame[:50], split_path=str(tmp_path / "split.parquet")).setup()


def test_split_seed_keeps_the_split_when_the_seed_changes() -> None:
    one, other = (Table(frame=people(), ignore=["day"], seed=seed, split_seed=7) for seed in (1, 2))
    np.testing.assert_array_equal(one.data("test").rows, other.data("test").rows)
    orders = [next(iter(table.train_dataloader())).rows.tolist() for table in (one, other)]
    assert orders[0] != orders[1]


def test_duplicates_shared_with_training_rows_are_counted() -> None:
    frame = people(60).drop(columns="day")
    frame["part"] = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    for target, source in ((45, 0), (50, 3), (59, 3)):
        frame.loc[target, ["height", "age", "city", "house"]] = frame.loc[source, ["height", "age", "city", "house"]]
    frame.loc[[4, 55], "height"] = np.nan
    frame.loc[55, ["age", "city", "house"]] = frame.loc[4, ["age", "city", "house"]]
    table = Table(frame=frame, split_column="part")
    assert np.flatnonzero(table.duplicate_mask("test")).tolist() == [0, 5, 9]
    counts = table.split_counts
    assert (counts["val_duplicates"], counts["test_duplicates"]) == (1, 3)


def test_signed_zeros_are_the_same_row() -> None:
    class Rows:
        def __init__(self, value: float) -> None:
            self.numeric, self.codes = np.array([[value]]), np.zeros((1, 0), dtype=np.int64)

    assert rows_in(Rows(0.0), Rows(-0.0)).tolist() == [True]
    assert rows_in(Rows(0.0), Rows(1e-300)).tolist() == [False]


def test_a_given_schema_fixes_the_measure(tmp_path: Path) -> None:
    from genzoo.tables.show import save_schema

    frame = people(100).drop(columns="day")
    schema = Table(frame=frame).schema.with_column("age", kind="continuous", step=None)
    save_schema(schema, tmp_path / "schema.yaml")
    for form in (schema, schema.to_dict(), str(tmp_path / "schema.yaml")):
        table = Table(frame=frame, schema=form)
        assert table.schema.measure == schema.measure
        assert table.schema["age"].kind == "continuous"


def test_overrides_change_one_column() -> None:
    table = Table(frame=people(), ignore=["day"], overrides={"age": {"kind": "continuous"}})
    assert table.schema["age"].kind == "continuous"
    assert table.schema["house"].kind == "quantized"


def test_hyperparameters_are_plain_and_without_the_frame() -> None:
    table = Table(
        frame=people(), ignore=("day",), schema=Schema.from_dict(Table(frame=people(), ignore=["day"]).schema_dict)
    )
    plain = (str, int, float, bool, list, dict, type(None))

    def check(value: Any) -> None:
        assert type(value) in plain
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    check(dict(table.hparams))
    assert "frame" not in table.hparams
    assert "frame" not in table.hparams_initial


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give 'path' .* got neither"),
        ({"path": "a.csv", "frame": 1}, "got both"),
        ({"path": "a.csv", "val": 0.6, "test": 0.5}, "must leave rows to train on"),
        ({"path": "a.csv", "test": 1.5}, "test is the share of rows held out"),
        ({"path": "a.csv", "time": "t", "group": "g"}, "not both"),
        ({"path": "a.csv", "split": "rows"}, "unknown split 'rows'"),
        ({"path": "a.csv", "batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused_in_clear_words(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(**arguments)


def test_too_few_rows_are_refused_in_clear_words(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="1 row"):
        Table(str(tmp_path / "one.csv")).setup()
    (tmp_path / "two.csv").write_text("a,b\n1,2.5\n3,4.5\n")
    with pytest.raises(
        DataError, match="2 rows cannot be split into training, validation and test rows; give at least 3"
    ):
        Table(str(tmp_path / "two.csv")).setup()
    assert len(Table(str(tmp_path / "two.csv"), val=0, test=0).data("train")) == 2
    with pytest.raises(DataError, match="no file"):
        Table(str(tmp_path / "absent.csv")).setup()


def test_a_table_with_nothing_to_model_is_refused() -> None:
    with pytest.raises(DataError, match="'table' has no column to model: all are constant, context or left out"):
        Table(frame=pd.DataFrame({"a": [1] * 30, "b": range(30)}), context=["b"]).setup()


def test_missing_group_or_time_cells_are_refused() -> None:
    frame = people()
    frame.loc[3, "day"] = pd.NaT
    with pytest.raises(DataError, match="time column 'day' has 1 missing values"):
        Table(frame=frame, time="day").setup()
    with pytest.raises(DataError, match="3 splits need at least one group each"):
        Table(frame=people().assign(house=1), group="house", ignore=["day"]).setup()


def test_adult_keeps_its_published_test_rows() -> None:
    table = Table("genzoo:adult")
    assert table.data("test").rows.tolist() == list(range(32_561, 48_842))
    assert len(table.data("train")) + len(table.data("val")) == 32_561
    assert len(Table("genzoo:adult", test=0.2).data("test")) == 9_768


def test_batch_size_follows_the_number_of_training_rows() -> None:
    assert [automatic_batch_size(n) for n in (5, 500, 1100, 5000, 10**6)] == [32, 32, 64, 256, 512]
    assert all(n // automatic_batch_size(n) >= 16 for n in range(512, 20_000, 37))
    table = Table(frame=people(), ignore=["day"], batch_size=100, eval_batch_size=7)
    assert len(next(iter(table.train_dataloader()))) == 100
    assert [len(batch) for batch in table.val_dataloader()] == [7] * 8 + [4]
    assert sum(len(batch) for batch in table.predict_dataloader()) == len(table.data("test"))


def test_fit_sample_is_a_seeded_part_of_the_training_rows() -> None:
    table = Table(frame=people(), ignore=["day"])
    whole, part = table.fit_sample(), table.fit_sample(max_rows=50, seed=1)
    assert whole.rows.tolist() == table.data("train").rows.tolist()
    assert len(part) == 50
    assert set(part.rows.tolist()) < set(whole.rows.tolist())
    assert part.rows.tolist() == table.fit_sample(max_rows=50, seed=1).rows.tolist()
    assert part.rows.tolist() != table.fit_sample(max_rows=50, seed=2).rows.tolist()


def test_record_makes_the_same_table_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people(60).to_csv(tmp_path / "people.csv", index=False)
    monkeypatch.chdir(tmp_path)
    table = Table("people.csv", ignore=["day"], seed=3)
    record = table.record
    expected = table.data("test").rows
    monkeypatch.chdir("/")
    assert record["class_path"] == "genzoo.datamodules.table.Table"
    np.testing.assert_array_equal(Table(**record["init_args"]).data("test").rows, expected)
    assert Table(frame=people()).record == {}


def test_a_column_declared_categorical_by_hand_gets_its_categories_from_the_table(tmp_path: Path) -> None:
    frame = people(200).assign(name=[f"person {k % 90}" for k in range(200)])
    frame.to_csv(tmp_path / "people.csv", index=False)
    schema = Table(path=str(tmp_path / "people.csv"), ignore=["name"]).schema.to_dict()
    (entry,) = [entry for entry in schema["columns"] if entry["name"] == "name"]
    del entry["role"]
    table = Table(path=str(tmp_path / "people.csv"), schema=schema)
    assert set(table.schema["name"].categories) <= set(frame["name"])
    assert len(table.schema["name"].categories) > 40
    codes = table.data("train").codes[:, [c.name for c in table.schema.categorical].index("name")]
    assert (codes >= 0).all()
