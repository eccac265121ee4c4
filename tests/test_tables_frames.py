"""Reading and writing tables."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genzoo.errors import DataError
from genzoo.tables.frames import iter_row_groups, read_frame, source_name, to_arrow, to_native, write_frame


def written(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_cells_of_a_csv_become_integers_numbers_dates_and_text(tmp_path: Path) -> None:
    text = (
        'n,x,d,t,w,id,c\n1,0.5,2024-01-31,2024-01-31 10:00,a,007,"1,5"\n?,-2e3,NA,2024-02-01 11:30:15, b ,012,"2,5"\n'
    )
    table = to_arrow(read_frame(written(tmp_path, text)))
    kinds = [str(field.type) for field in table.schema]
    assert kinds == ["int64", "double", "date32[day]", "timestamp[us]", "string", "string", "string"]
    assert table["n"].to_pylist() == [1, None]
    assert table["x"].to_pylist() == [0.5, -2000.0]
    assert table["w"].to_pylist() == ["a", "b"]
    assert table["id"].to_pylist() == ["007", "012"]
    assert table["c"].to_pylist() == ["1,5", "2,5"]


@pytest.mark.parametrize("token", ["", "NA", "NaN", "nan", "?", "null", " ? ", "N/A", "<NA>", "NULL"])
def test_each_missing_token_is_a_hole_in_number_and_text_columns(tmp_path: Path, token: str) -> None:
    table = to_arrow(read_frame(written(tmp_path, f"x,w\n1,a\n{token},{token}\n")))
    assert table["x"].to_pylist() == [1, None]
    assert table["w"].to_pylist() == ["a", None]


def test_missing_tokens_can_be_chosen(tmp_path: Path) -> None:
    table = to_arrow(read_frame(written(tmp_path, "x,w\n1,NA\n-,-\n"), missing_tokens=["-"]))
    assert table["x"].to_pylist() == [1, None]
    assert table["w"].to_pylist() == ["NA", None]


def test_a_one_column_csv_keeps_its_empty_cells(tmp_path: Path) -> None:
    assert to_arrow(read_frame(written(tmp_path, "x\n1\n\n3\n")))["x"].to_pylist() == [1, None, 3]


def test_other_separators_encodings_and_compression_are_read(tmp_path: Path) -> None:
    import gzip

    want = [1, 2]
    assert to_arrow(read_frame(written(tmp_path, "a;b\n1;x\n2;y\n")))["a"].to_pylist() == want
    assert to_arrow(read_frame(written(tmp_path, "a\tb\n1\tx\n2\ty\n", "t.tsv")))["a"].to_pylist() == want
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        table = to_arrow(read_frame(written(tmp_path, "a,naïve\n1,é\n2,y\n".encode(encoding))))
        assert table.column_names == ["a", "naïve"]
        assert table["naïve"].to_pylist() == ["é", "y"]
    assert (
        to_arrow(read_frame(written(tmp_path, gzip.compress(b"a,b\n1,x\n2,y\n"), "t.csv.gz")))["a"].to_pylist() == want
    )


def test_quoted_line_breaks_belong_to_the_cell(tmp_path: Path) -> None:
    table = to_arrow(read_frame(written(tmp_path, 'a,"b\nc"\n1,"x\ny"\n2,z\n')))
    assert table.column_names == ["a", "b\nc"]
    assert table["b\nc"].to_pylist() == ["x\ny", "z"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"a,b\n", "header but no rows"),
        (b"a,b,a\n1,2,3\n", "more than one column named 'a'"),
        (b"a,,c\n1,2,3\n", "column 2 has no name"),
        (b"a,b\n1,2\n3\n", "row 3 .* has 1 cell and the header 2: '3'"),
        (b"a,b\n1,2\n3,4,5\n6,7,8\n", "has 3 cells and the header 2 .2 such rows.: '3,4,5'"),
        (b'a,b\n1,2\n1,"2\n1,2\n1,2\n', "column 'b' in row 3 .* never closed"),
        (b"a,b\x00\x01\n1,2\n", "binary data"),
    ],
)
def test_broken_text_files_are_refused_in_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_frame(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_broken_and_absent_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_frame(tmp_path / "absent.csv")
    (tmp_path / "f.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_frame(tmp_path / "f.csv")
    with pytest.raises(DataError, match="cannot be read as a Parquet file"):
        read_frame(written(tmp_path, "not parquet at all", "t.parquet"))
    with pytest.raises(DataError, match="cannot be read as a Feather or Arrow file"):
        read_frame(written(tmp_path, "not arrow at all", "t.feather"))
    with pytest.raises(DataError, match="cannot tell"):
        read_frame(written(tmp_path, "a", "t.xlsx"))
    with pytest.raises(DataError, match="cannot read a table from int"):
        read_frame(3)
    with pytest.raises(DataError, match="no column 'z'"):
        read_frame({"a": [1, 2]}, columns=["z"])


def test_duplicate_columns_of_a_frame_are_refused() -> None:
    with pytest.raises(DataError, match="more than one column named 'a'"):
        read_frame(pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]))
    with pytest.raises(DataError, match="more than one column named 'a'"):
        read_frame(pa.table([[1], [2]], names=["a", "a"]))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".feather", ".arrow"])
def test_a_written_table_reads_back_equal(tmp_path: Path, suffix: str) -> None:
    moment = np.array(["2024-01-31T10:00:00", "2024-02-01T11:30:15"], dtype="datetime64[us]")
    table = pa.table(
        {
            "n": pa.array([1, None], pa.int64()),
            "x": [0.1, -1e-300],
            "w": pa.array(["a,b", None]),
            "d": pa.array([0, 19000], pa.int32()).cast(pa.date32()),
            "t": moment,
        }
    )
    path = write_frame(table, tmp_path / f"t{suffix}")
    assert to_arrow(read_frame(path)).equals(table)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_existing_file_is_kept_unless_overwriting_is_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, "precious")
    with pytest.raises(DataError, match="--overwrite"):
        write_frame({"a": [1, 2]}, path)
    assert path.read_text() == "precious"
    write_frame({"a": [1, 2]}, path, overwrite=True)
    assert to_arrow(read_frame(path))["a"].to_pylist() == [1, 2]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds lists"):
        write_frame({"a": [[1, 2], [3, 4]]}, tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no folder"):
        write_frame({"a": [1]}, tmp_path / "absent" / "t.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot write in"):
        write_frame({"a": [1]}, tmp_path / "t.csv")


def test_polars_in_means_polars_out() -> None:
    for like in (pl.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}), pa.table({"a": [1]})):
        assert type(to_native(pa.table({"b": [1, None]}), like)) is type(like)
        assert type(to_native(pa.table({"b": [1, None]}), read_frame(like))) is type(like)


def test_integers_with_holes_stay_integers_in_pandas() -> None:
    frame = to_native(pa.table({"b": [1, None]}), "pandas")
    assert str(frame["b"].dtype) == "Int64"


def test_a_parquet_file_is_read_by_row_group(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(10)}), tmp_path / "t.parquet", row_group_size=4)
    assert [len(piece) for piece in iter_row_groups(tmp_path / "t.parquet")] == [4, 4, 2]


def test_tables_are_named_after_their_file() -> None:
    assert source_name("some/adult.v2.csv.gz") == "adult.v2"
    assert source_name("sklearn:wine") == "wine"
    assert source_name(pd.DataFrame()) == "table"


def test_pandas_columns_of_mixed_types_become_text() -> None:
    assert to_arrow(pd.DataFrame({"a": [1, "x", None, 2.0]}, dtype=object))["a"].to_pylist() == ["1", "x", None, "2"]


def test_date_times_with_a_zone_are_moments_in_utc_and_survive_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "z,offset,fine,mixed\n"
        "2024-01-31T12:00:00Z,2024-01-31 12:00:00+01:00,2024-01-31 12:00:00.123456789,2024-01-31T12:00:00Z\n"
        "2024-06-30T12:00:00Z,2024-06-30 12:00:00+0200,2024-01-31 12:00:01.5,2024-01-31T12:00:00\n"
    )
    table = to_arrow(read_frame(tmp_path / "t.csv"))
    utc = pa.timestamp("us", "UTC")
    assert table.schema.types == [utc, utc, pa.timestamp("ns"), pa.string()]
    assert [moment.hour for moment in table["z"].to_pylist()] == [12, 12]
    assert [moment.hour for moment in table["offset"].to_pylist()] == [11, 10]
    assert to_arrow(read_frame(write_frame(table, tmp_path / "again.csv"))).equals(table)


def test_text_that_polars_stores_as_views_is_plain_text(tmp_path: Path) -> None:
    words = pa.array(["a", None, "b"], pa.string_view())
    frame = pl.DataFrame({"c": ["a", None, "b"]})
    frame.write_ipc(tmp_path / "t.arrow")
    for source in (pa.table({"c": words}), tmp_path / "t.arrow", frame):
        read = read_frame(source)
        assert read[[2, 0], :]["c"].to_list() == ["b", "a"]
