"""Tables drawn at random: kinds, holes, sizes and encodings a user might bring. Used by the robustness tests."""

from __future__ import annotations

import datetime
import decimal
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

Rng = np.random.Generator


def _floats(rng: Rng, n: int) -> pd.Series:
    scale = 10.0 ** rng.integers(-8, 9)
    return pd.Series(rng.normal(size=n) * scale + rng.normal() * scale * 100)


def _heavy(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.standard_cauchy(n))


def _skewed(rng: Rng, n: int) -> pd.Series:
    return pd.Series(np.exp(rng.normal(size=n) * 2))


def _rounded(rng: Rng, n: int) -> pd.Series:
    return pd.Series(np.round(rng.normal(size=n) * 10, int(rng.integers(0, 3))))


def _counts(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.poisson(rng.integers(1, 50), n))


def _inflated(rng: Rng, n: int) -> pd.Series:
    return pd.Series(np.where(rng.random(n) < 0.6, 0.0, rng.gamma(2.0, 3.0, n)))


def _capped(rng: Rng, n: int) -> pd.Series:
    return pd.Series(np.minimum(rng.gamma(2.0, 3.0, n), 10.0))


def _sparse_counts(rng: Rng, n: int) -> pd.Series:
    return pd.Series(np.where(rng.random(n) < 0.9, 0, rng.integers(1, 10_000, n)))


def _words(rng: Rng, n: int) -> pd.Series:
    words = np.array(["red", "blue", "grün", "黒", "with space", "quote'", 'double"', "a,b", "-", "0"])
    return pd.Series(words[rng.integers(0, rng.integers(2, 10), n)])


def _rare_words(rng: Rng, n: int) -> pd.Series:
    return pd.Series([f"w{k}" for k in rng.zipf(2.0, n).clip(max=40)])


def _flags(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.random(n) < 0.3)


def _zero_one(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.integers(0, 2, n))


def _dates(rng: Rng, n: int) -> pd.Series:
    return pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1000, n), unit="D"))


def _constant(rng: Rng, n: int) -> pd.Series:
    return pd.Series([["same", 3, 2.5][rng.integers(0, 3)]] * n)


def _empty(rng: Rng, n: int) -> pd.Series:
    return pd.Series([None] * n, dtype=object)


def _large_ids(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.permutation(n) + 10**12)


def _texts(rng: Rng, n: int) -> pd.Series:
    return pd.Series([f"text number {i} {rng.random()}" for i in range(n)])


def _two_floats(rng: Rng, n: int) -> pd.Series:
    return pd.Series(np.where(rng.random(n) < 0.5, -1.5, 7.25))


MAKERS: tuple[Callable[[Rng, int], pd.Series], ...] = (
    _floats, _floats, _heavy, _skewed, _rounded, _counts, _inflated, _capped, _sparse_counts, _words, _rare_words,
    _flags, _zero_one, _dates, _constant, _empty, _large_ids, _texts, _two_floats,
)  # fmt: skip
NAMES = ("x", "Größe", "a b", "a.b", "select", "1", "x'", "price ($)", "-n", "id", "index", "row", "kind", "name")


def random_table(seed: int) -> pd.DataFrame:
    """The table of one seed: 1 to 1500 rows, 1 to 10 columns, holes at a random rate in some columns."""
    rng = np.random.default_rng(seed)
    num_rows = int(rng.choice([1, 2, 5, 20, 60, 200, 600, 1500]))
    num_columns = int(rng.integers(1, 11))
    names = rng.choice(NAMES, num_columns, replace=False)
    frame = pd.DataFrame({str(name): MAKERS[rng.integers(len(MAKERS))](rng, num_rows) for name in names})
    return _with_holes(frame, rng, seed)


def _with_holes(frame: pd.DataFrame, rng: Rng, seed: int) -> pd.DataFrame:
    num_rows, num_columns = frame.shape
    for name in frame.columns:
        if rng.random() < 0.3:
            holes = rng.random(num_rows) < rng.choice([0.02, 0.3, 0.9])
            column = frame[name]
            frame[name] = (column.astype(object) if column.dtype == bool else column).mask(holes)
    if num_columns > 1 and rng.random() < 0.2:
        frame = pd.concat([frame, frame.sample(frac=0.3, random_state=int(seed))], ignore_index=True)
    return frame


# ---- columns that most tables do not have -------------------------------------------------------------------------


def _nullable_ints(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.integers(-5, 30, n)).astype("Int64").mask(rng.random(n) < 0.2)


def _nullable_flags(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.random(n) < 0.5).astype("boolean").mask(rng.random(n) < 0.2)


def _decimals(rng: Rng, n: int) -> pd.Series:
    return pd.Series([decimal.Decimal(int(cents)).scaleb(-2) for cents in rng.gamma(2.0, 500.0, n)], dtype=object)


def _labels(rng: Rng, n: int) -> pd.Series:
    return pd.Series(pd.Categorical(rng.choice(["low", "mid", "high"], n), ["low", "mid", "high"], ordered=True))


def _coded_labels(rng: Rng, n: int) -> pd.Series:
    return pd.Series(pd.Categorical(rng.integers(1, 6, n)))


def _moments(rng: Rng, n: int) -> pd.Series:
    return pd.Series(pd.Timestamp("2021-03-01") + pd.to_timedelta(rng.integers(0, 10**8, n), unit="s"))


def _zoned_moments(rng: Rng, n: int) -> pd.Series:
    return _moments(rng, n).dt.tz_localize("Europe/Berlin", ambiguous=True, nonexistent="shift_forward")


def _fine_moments(rng: Rng, n: int) -> pd.Series:
    return pd.Series(pd.Timestamp("1955-01-01") + pd.to_timedelta(rng.integers(0, 10**17, n), unit="ns"))


def _plain_dates(rng: Rng, n: int) -> pd.Series:
    first = datetime.date(1890, 1, 1)
    return pd.Series([first + datetime.timedelta(days=int(d)) for d in rng.integers(0, 40_000, n)], dtype=object)


def _durations(rng: Rng, n: int) -> pd.Series:
    return pd.Series(pd.to_timedelta(rng.integers(0, 10**6, n), unit="s"))


def _single(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.normal(size=n).astype(np.float32))


def _bytes(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.integers(0, 256, n).astype(np.uint8))


def _truths(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.choice(["true", "false"], n))


def _yes(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.choice(["Yes", "No", "no"], n))


def _padded_codes(rng: Rng, n: int) -> pd.Series:
    return pd.Series([f"{k:03d}" for k in rng.integers(0, 12, n)])


def _tiny_numbers(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.normal(size=n) * 1e-300)


def _huge_numbers(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.normal(size=n) * 1e300)


def _nearly_constant(rng: Rng, n: int) -> pd.Series:
    return pd.Series(1e9 + rng.normal(size=n) * 1e-6)


def _one_present(rng: Rng, n: int) -> pd.Series:
    return pd.Series([3.25] + [None] * (n - 1), dtype=float)


def _two_present(rng: Rng, n: int) -> pd.Series:
    return pd.Series([1.0, 2.0, *([np.nan] * n)][:n])


def _almost_constant(rng: Rng, n: int) -> pd.Series:
    return pd.Series(np.where(np.arange(n) == n // 2, 7.0, 0.0))


def _outlier(rng: Rng, n: int) -> pd.Series:
    return pd.Series(np.where(np.arange(n) == 0, 1e30, rng.normal(size=n)))


def _blank_words(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.choice([" a", "a", "b ", "two\nlines", "tab\there", "🙂", "NULL", "None"], n))


def _percents(rng: Rng, n: int) -> pd.Series:
    return pd.Series([f"{k} %" for k in rng.integers(0, 15, n)])


USUAL: tuple[Callable[[Rng, int], pd.Series], ...] = (
    *MAKERS[:15], *MAKERS[18:], _nullable_ints, _nullable_flags, _decimals, _labels, _coded_labels, _moments,
    _zoned_moments, _fine_moments, _plain_dates, _durations, _single, _bytes, _truths, _yes, _padded_codes,
    _nearly_constant, _one_present, _two_present, _almost_constant, _outlier, _blank_words, _percents,
)  # fmt: skip
"""Columns that a model can be trained on, or that are recorded and left out."""


def _mixed_cells(rng: Rng, n: int) -> pd.Series:
    return pd.Series([rng.normal() if rng.random() < 0.95 else "unknown" for _ in range(n)], dtype=object)


def _infinite(rng: Rng, n: int) -> pd.Series:
    return pd.Series(np.where(np.arange(n) == n // 2, -np.inf, rng.normal(size=n)))


def _decimal_commas(rng: Rng, n: int) -> pd.Series:
    return pd.Series([f"{value:.3f}".replace(".", ",") for value in rng.normal(size=n)])


def _large_ints(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.integers(2**60, 2**62, n))


def _unsigned(rng: Rng, n: int) -> pd.Series:
    return pd.Series(rng.integers(0, 2**64 - 1, n, dtype=np.uint64))


def _long_digits(rng: Rng, n: int) -> pd.Series:
    return pd.Series([f"9{rng.integers(10**17, 10**18)}{rng.integers(10)}" for _ in range(n)])


def _even_lists(rng: Rng, n: int) -> pd.Series:
    return pd.Series([rng.normal(size=3).tolist() for _ in range(n)], dtype=object)


def _uneven_lists(rng: Rng, n: int) -> pd.Series:
    return pd.Series([rng.integers(0, 5, rng.integers(0, 4)).tolist() for _ in range(n)], dtype=object)


def _records(rng: Rng, n: int) -> pd.Series:
    return pd.Series([{"a": int(k), "b": "x"} for k in rng.integers(0, 5, n)], dtype=object)


def _binary(rng: Rng, n: int) -> pd.Series:
    return pd.Series([rng.bytes(4) for _ in range(n)], dtype=object)


def _times(rng: Rng, n: int) -> pd.Series:
    return pd.Series([datetime.time(int(h), 30) for h in rng.integers(0, 24, n)], dtype=object)


ODD: tuple[Callable[[Rng, int], pd.Series], ...] = (
    _mixed_cells, _infinite, _decimal_commas, _large_ints, _unsigned, _long_digits, _even_lists, _uneven_lists,
    _records, _binary, _times, _tiny_numbers, _huge_numbers, _texts, _large_ids,
)  # fmt: skip
"""Columns that may be refused, in one clear sentence."""


def wide_table(seed: int) -> pd.DataFrame:
    """Like :func:`random_table` with more types; one table in four has a column that may be refused."""
    rng = np.random.default_rng([seed, 1])
    num_rows = int(rng.choice([3, 12, 40, 120, 300, 800]))
    num_columns = int(rng.integers(1, 9))
    names = [str(name) for name in rng.choice(NAMES, num_columns, replace=False)]
    makers = [USUAL[rng.integers(len(USUAL))] for _ in names]
    if rng.random() < 0.25:
        makers[int(rng.integers(num_columns))] = ODD[rng.integers(len(ODD))]
    frame = pd.DataFrame({name: maker(rng, num_rows) for name, maker in zip(names, makers)})
    if num_columns > 1 and rng.random() < 0.15:  # a copy of another column: a singular covariance
        frame[names[-1]] = frame[names[0]]
    return _with_holes(frame, rng, seed) if rng.random() < 0.7 else frame


# ---- files --------------------------------------------------------------------------------------------------------


def write_random(frame: pd.DataFrame, folder: Path, seed: int) -> Path:
    """Writes the table in a file form drawn at random."""
    rng = np.random.default_rng(seed + 10_000)
    form = rng.choice(["csv", "tsv", "parquet", "feather", "csv-missing"])
    path = folder / f"table{seed}.{'csv' if form == 'csv-missing' else form}"
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif form == "csv-missing":
        frame.to_csv(path, index=False, na_rep=str(rng.choice(["NA", "?", "null", "NaN"])))
    else:
        plain = frame.copy()
        for name in plain.columns:
            if plain[name].dtype == object:
                plain[name] = plain[name].map(lambda v: None if v is None or v != v else str(v))
        plain.to_parquet(path) if form == "parquet" else plain.to_feather(path)
    return path


FORMS = (
    "csv", "csv-latin-1", "csv-utf-8-sig", "csv-utf-16", "csv-semicolon", "csv-pipe", "csv-gz", "csv-crlf",
    "csv-quoted", "csv-indexed", "tsv", "parquet", "parquet-groups", "feather", "arrow-stream", "polars-csv",
    "polars-parquet", "polars-ipc",
)  # fmt: skip


def write_form(frame: pd.DataFrame, folder: Path, stem: str, form: str) -> Path:
    """Writes the table in one of ``FORMS``; cells a form cannot hold are written as text."""
    ending = {"csv-gz": "csv.gz", "parquet-groups": "parquet", "arrow-stream": "arrow", "polars-ipc": "arrow"}
    ending |= {"polars-parquet": "parquet", "polars-csv": "csv"}
    path = folder / f"{stem}.{ending.get(form, form.partition('-')[0])}"
    if form.startswith(("csv", "tsv")):
        marks = {"tsv": "\t", "csv-semicolon": ";", "csv-pipe": "|"}
        encoding = form.removeprefix("csv-") if form in ("csv-latin-1", "csv-utf-8-sig", "csv-utf-16") else "utf-8"
        words = frame.to_csv(
            index=form == "csv-indexed",
            sep=marks.get(form, ","),
            quoting=1 if form == "csv-quoted" else 0,
            lineterminator="\r\n" if form == "csv-crlf" else "\n",
        )
        raw = words.encode(encoding, errors="replace")
        path.write_bytes(gzip.compress(raw) if form == "csv-gz" else raw)
        return path
    table = _arrow(frame)
    if form.startswith("polars"):
        import polars

        native = polars.from_arrow(table)
        if form == "polars-csv":
            nested = [name for name, kind in native.schema.items() if kind.is_nested() or kind == polars.Binary]
            native.with_columns(polars.lit("nested").alias(name) for name in nested).write_csv(path)
        else:
            native.write_parquet(path) if form == "polars-parquet" else native.write_ipc(path)
        return path
    from pyarrow import feather
    from pyarrow import parquet as pq

    if form == "feather":
        feather.write_feather(table, str(path))
    elif form == "arrow-stream":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    else:
        pq.write_table(table, path, row_group_size=50 if form == "parquet-groups" else None)
    return path


def _arrow(frame: pd.DataFrame) -> pa.Table:
    columns = []
    for name in frame.columns:
        try:
            columns.append(pa.Array.from_pandas(frame[name]))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns.append(pa.array([None if v is None or v != v else str(v) for v in frame[name]], pa.string()))
    return pa.table(columns, names=list(frame.columns))


def broken_files(folder: Path) -> dict[str, Path]:
    """Files that are no usable table, by what is wrong with them."""
    good = pd.DataFrame({"x": np.arange(50) * 1.5, "y": list("ab") * 25})
    good.to_parquet(folder / "whole.parquet")
    contents: dict[str, bytes] = {
        "empty.csv": b"",
        "empty.parquet": b"",
        "blank lines.csv": b"\n\n  \n",
        "header only.csv": b"x,y\n",
        "one row.csv": b"x,y\n1,2\n",
        "duplicate names.csv": b"x,y,x\n" + b"1,2,3\n" * 20,
        "nameless.csv": b"x,,y\n" + b"1,2,3\n" * 20,
        "ragged.csv": b"x,y\n1,2\n3,4,5\n" + b"1,2\n" * 20,
        "open quote.csv": b'x,y\n1,"2\n' + b"1,2\n" * 20,
        "binary.csv": bytes(range(256)) * 4,
        "only missing.csv": b"x,y\n" + b"NA,?\n" * 20,
        "constant.csv": b"x,y\n" + b"1,b\n" * 20,
        "csv inside.parquet": b"x,y\n1,2\n3,4\n",
        "csv inside.feather": b"x,y\n1,2\n3,4\n",
        "csv inside.csv.gz": b"x,y\n1,2\n3,4\n",
        "truncated.parquet": (folder / "whole.parquet").read_bytes()[:400],
        "ending.docx": b"x,y\n1,2\n",
        "no ending": b"x,y\n1,2\n",
        "infinite.csv": b"x,y\n" + b"1,2\n3,inf\n" * 20,
        "mixed.csv": b"x\n" + b"".join(b"%d.5\n" % k for k in range(40)) + b"oops\n",
        "names.csv": b"name\n" + b"".join(b"person %d\n" % k for k in range(40)),
        "rows of nothing.csv": b"x,y\n" + b",\n" * 20,
    }
    files = {}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        files[name] = folder / name
    good.head(0).to_parquet(folder / "no rows.parquet")
    good.head(0).to_feather(folder / "no rows.feather")
    pd.DataFrame(index=range(5)).to_parquet(folder / "no columns.parquet")
    (folder / "folder.csv").mkdir()
    files |= {
        name: folder / name for name in ("no rows.parquet", "no rows.feather", "no columns.parquet", "folder.csv")
    }
    files["absent.csv"] = folder / "absent.csv"
    return files
