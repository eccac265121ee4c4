"""Tables drawn at random: kinds, holes, sizes and encodings a user might bring. Used by the robustness tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

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
    for name in frame.columns:
        if rng.random() < 0.3:
            holes = rng.random(num_rows) < rng.choice([0.02, 0.3, 0.9])
            column = frame[name]
            frame[name] = (column.astype(object) if column.dtype == bool else column).mask(holes)
    if num_columns > 1 and rng.random() < 0.2:
        frame = pd.concat([frame, frame.sample(frac=0.3, random_state=int(seed))], ignore_index=True)
    return frame


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
