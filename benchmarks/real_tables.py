"""The real tables that the side-by-side benchmarks read: files, columns that hold codes, and the column to predict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from genzoo.datamodules.table import Table
from genzoo.tables.encode import TableData


@dataclass(frozen=True)
class RealTable:
    """Where a table lies below the data folder, and what its schema cannot know.

    Args:
        train: File of the training rows, or of all rows.
        test: File of the held-out rows; ``None`` holds a share of all rows out at random.
        target: Column that predictors are trained for.
        codes: Columns of integers that are names, not numbers.
    """

    train: str
    test: str | None
    target: str
    codes: tuple[str, ...] = ()


TABLES = {
    "adult": RealTable("adult/train.parquet", "adult/test.parquet", "income"),
    "shoppers": RealTable(
        "shoppers/train.parquet",
        "shoppers/test.parquet",
        "Revenue",
        ("OperatingSystems", "Browser", "Region", "TrafficType"),
    ),
    "default_credit": RealTable(
        "default_credit/train.parquet",
        "default_credit/test.parquet",
        "default.payment.next.month",
        ("SEX", "EDUCATION", "MARRIAGE"),
    ),
    "beijing": RealTable("beijing/train.parquet", "beijing/test.parquet", "pm2.5"),
    "yeast": RealTable("forestdiffusion27/yeast.parquet", None, "class"),
}


def open_table(folder: Path, name: str, seed: int = 0) -> Table:
    """The table with its split and schema; ``adult`` without a folder of its own is the one that ships."""
    real = TABLES[name]
    train, test = folder / real.train, None if real.test is None else str(folder / real.test)
    if name == "adult" and not train.is_file():
        return Table(path="genzoo:adult", seed=seed)
    overrides = {column: {"kind": "categorical"} for column in real.codes}
    return Table(path=str(train), test_path=test, overrides=overrides, seed=seed)


def learned_from(module: Table) -> TableData:
    """The training and validation rows of a module, for software that makes its own split."""
    parts = [module.data("train"), module.data("val")]
    return replace(
        parts[0],
        numeric=np.concatenate([part.numeric for part in parts]),
        codes=np.concatenate([part.codes for part in parts]),
        rows=np.arange(sum(map(len, parts))),
    )
