"""Ranges of rows: read, scored, drawn and filled in with numbers that do not depend on how a file is cut."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import genzoo
from contract import SMALL, mixed_table
from genzoo.commands import impute, ranges, sample, score
from genzoo.errors import DataError, GenZooError
from genzoo.main import main
from genzoo.reports.combining import join_rows
from genzoo.tables.frames import read_frame
from genzoo.tables.stream import RangeReader, TableWriter, row_ranges


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and its table cut into row groups of 700 rows."""
    place = tmp_path_factory.mktemp("stream")
    frame = mixed_table(3000)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table, place / "rows.parquet", row_group_size=700)
    frame.to_csv(place / "rows.csv", index=False)
    genzoo.fit(frame, model="mixture", num_components=2).save(place / "model.ckpt")
    return place


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_ranges_of_any_length_are_the_rows_of_the_file(place: Path, name: str) -> None:
    reader = RangeReader(place / name)
    whole = read_frame(place / name).to_pandas()
    assert reader.num_rows == 3000
    for size in (64, 700, 1024, 5000):
        parts = [reader.read(*ends).to_pandas() for ends in reader.ranges(size)]
        pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole, check_dtype=False)
    assert list(row_ranges(5, 2)) == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "feather", "arrow"])
def test_a_table_written_in_pieces_is_the_table(tmp_path: Path, ending: str) -> None:
    frame = mixed_table(50)
    with TableWriter(tmp_path / f"t.{ending}") as writer:
        for start in range(0, 50, 20):
            writer.write(frame.iloc[start : start + 20])
    assert writer.num_rows == 50
    back = read_frame(tmp_path / f"t.{ending}").to_pandas()
    pd.testing.assert_frame_equal(back, frame, check_dtype=False)
    assert [p.name for p in tmp_path.iterdir()] == [f"t.{ending}"]


def test_a_piece_with_other_columns_leaves_no_file(tmp_path: Path) -> None:
    frame = mixed_table(20)

    def write() -> None:
        with TableWriter(tmp_path / "t.parquet") as writer:
            writer.write(frame)
            writer.write(frame[["x"]])

    with pytest.raises(DataError, match="the first one had"):
        write()
    assert not list(tmp_path.iterdir())


def test_scores_and_completions_do_not_depend_on_the_ranges(place: Path) -> None:
    file, model = str(place / "rows.parquet"), str(place / "model.ckpt")
    whole = genzoo.load(model).log_prob(read_frame(file), seed=3)
    for size in (1024, 1000):
        found = [score.score_range(model, file, 3, None, False, *ends) for ends in row_ranges(3000, size)]
        joined = join_rows([part for part, *_ in found])
        assert np.allclose(joined.values, whole.values, atol=1e-9, rtol=0)
        assert joined.kind == whole.kind
        assert joined.counts == whole.counts
        assert sum(len(kinds) for _, kinds, _ in found) == 3000
    short = [impute.impute_range(model, file, "{}", 2, 5, *ends)[0] for ends in row_ranges(3000, 1024)]
    for draw in range(2):
        together = pa.concat_tables([pieces[draw] for pieces in short]).to_pandas()
        (_, other) = impute.impute_range(model, file, "{}", 2, 5, 0, 3000)[0]
        if draw == 1:
            pd.testing.assert_frame_equal(together, other.to_pandas())
        assert not together.isna().any().any()
    parts = [sample.sample_range(model, "{}", 1, *ends) for ends in row_ranges(9000, 4096)]
    assert pa.concat_tables(parts).equals(sample.sample_range(model, "{}", 1, 0, 9000))


@pytest.mark.parametrize("key", ["spline_flow", "forest_autoregressive"])
def test_scores_do_not_depend_on_row_groups_ranges_or_batches(key: str, tmp_path: Path) -> None:
    frame = mixed_table(500)
    model = genzoo.fit(frame, model=key, max_epochs=1, **SMALL[key])
    model.save(tmp_path / "model.ckpt")
    whole = model.log_prob(frame, batch_size=500).values
    assert np.abs(model.log_prob(frame, batch_size=7).values - whole).max() < 1e-5
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for size, length in ((500, 64), (33, 500), (100, 77)):
        path = tmp_path / f"{size}.parquet"
        pq.write_table(table, path, row_group_size=size)
        tasks = row_ranges(500, length)
        parts = [
            score.score_range(str(tmp_path / "model.ckpt"), str(path), None, None, False, *ends)[0] for ends in tasks
        ]
        assert np.abs(join_rows(parts).values - whole).max() < 1e-5


def test_commands_write_what_python_says(place: Path, tmp_path: Path) -> None:
    model, file = str(place / "model.ckpt"), str(place / "rows.parquet")
    assert main(["score", model, file, "-o", str(tmp_path / "s.parquet"), "--seed", "2"]) == 0
    found = pd.read_parquet(tmp_path / "s.parquet")
    assert np.allclose(found["log_likelihood"], genzoo.load(model).log_prob(file, seed=2).values, atol=1e-9, rtol=0)
    assert main(["sample", model, "-n", "5000", "-o", str(tmp_path / "d.csv"), "--seed", "2"]) == 0
    drawn = genzoo.load(model).sample(5000, seed=2)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "d.csv"), drawn, check_dtype=False)


def test_dask_is_asked_for_in_words_a_user_can_repair() -> None:
    with pytest.raises(GenZooError, match="give a number of processes, as in --dask local:2"):
        list(ranges.in_order(len, iter([]), "local:none"))


@pytest.mark.slow
def test_processes_of_this_machine_keep_the_memory_they_freed() -> None:
    pytest.importorskip("distributed")
    assert list(ranges.in_order(os.environ.get, iter([("MALLOC_TRIM_THRESHOLD_", "")]), "local:1")) == [""]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    model, file = str(place / "model.ckpt"), str(place / "rows.parquet")
    for name, more in (("one", []), ("two", ["--dask", "local:2"])):
        assert main(["score", model, file, "-o", str(tmp_path / f"{name}.parquet"), *more]) == 0
        assert main(["sample", model, "-n", "70000", "-o", str(tmp_path / f"{name}-d.parquet"), *more]) == 0
    for end in ("", "-d"):
        one, two = (pd.read_parquet(tmp_path / f"{name}{end}.parquet") for name in ("one", "two"))
        pd.testing.assert_frame_equal(one, two)
