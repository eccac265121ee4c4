"""The protocol of the ForestDiffusion paper on its 27 small tables: rows, splits, measures, and what was published.

Tables and measures are those of the authors' evaluation script (arXiv:2309.09968, section 5 and their repository):
which columns count as categories, the 80 / 20 splits of seeds 0, 1 and 2, the L1 space that distances are taken in,
and how far a row's ball reaches. With the training rows in place of generated ones they give the published figures of
that line (:func:`real_rows`), so ours can stand beside the others'. ``forest27_published.csv``: the authors' raw
results as they lie in their repository, and those of UTrees in that of McCarter, 2025, four digits.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Target = Literal["categories", "binary", "number"]
PUBLISHED = Path(__file__).with_name("forest27_published.csv")
REAL = "training rows"
"""The published line of the training rows themselves."""
MOST_ROWS = 5000
"""Transport costs are left out for tables with as many training rows."""


@dataclass(frozen=True)
class SmallTable:
    """What the authors declare of a table; positions count the features that are kept.

    Args:
        target: Kind of the last column. ``binary`` is a class for the generator and a number for distances, whatever
            the number of its values.
        categories: Positions of categorical features.
        binary: Positions of features with two values: numbers for distances.
        dropped: Positions in the file of columns that the authors leave out.
    """

    target: Target = "categories"
    categories: tuple[int, ...] = ()
    binary: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()


TABLES = {
    "iris": SmallTable(),
    "wine": SmallTable(),
    "parkinsons": SmallTable("binary"),
    "climate_model_crashes": SmallTable("binary"),
    "concrete_compression": SmallTable("number"),
    "yacht_hydrodynamics": SmallTable("number"),
    "airfoil_self_noise": SmallTable("number"),
    "connectionist_bench_sonar": SmallTable("binary"),
    "ionosphere": SmallTable("binary", binary=(0,), dropped=(1,)),
    "qsar_biodegradation": SmallTable("binary", binary=(23, 24, 28)),
    "seeds": SmallTable(),
    "glass": SmallTable(),
    "ecoli": SmallTable(),
    "yeast": SmallTable(),
    "libras": SmallTable(),
    "planning_relax": SmallTable("binary"),
    "blood_transfusion": SmallTable("binary"),
    "breast_cancer_diagnostic": SmallTable("binary"),
    "connectionist_bench_vowel": SmallTable("binary"),
    "concrete_slump": SmallTable("number", dropped=(7, 8)),
    "wine_quality_red": SmallTable("number", dropped=(0,)),
    "wine_quality_white": SmallTable("number"),
    "california": SmallTable("number"),
    "bean": SmallTable(),
    "tictactoe": SmallTable("binary", categories=tuple(range(9))),
    "congress": SmallTable(categories=tuple(range(16))),
    "car": SmallTable(categories=tuple(range(6))),
}


@dataclass(frozen=True)
class Split:
    """Training and held-out rows as numbers, the target last; categories are codes from 0.

    Args:
        train: ``(n, p)``.
        test: ``(m, p)``.
        spaced: Columns whose values are one-hot in the space of distances.
        named: Columns that hold names: ``spaced`` ones, and those with two values.
        table: What is known of the table.
    """

    train: Floats
    test: Floats
    spaced: tuple[int, ...]
    named: tuple[int, ...]
    table: SmallTable

    @property
    def classifies(self) -> bool:
        return self.table.target != "number"


def codes(column: pd.Series) -> Floats:
    """A column as numbers; names and holes count from 0 in the order they appear."""
    if pd.api.types.is_numeric_dtype(column) and not column.isna().any():
        return column.to_numpy(dtype=np.float64)
    return pd.factorize(column.astype(object).where(column.notna(), "?"))[0].astype(np.float64)


def load(folder: Path, name: str, seed: int) -> Split:
    """One split of a table; the target is its last column."""
    from sklearn.model_selection import train_test_split

    table = TABLES[name]
    frame = pd.read_parquet(folder / f"{name}.parquet")
    frame = frame.drop(columns=[frame.columns[place] for place in table.dropped])
    rows = np.column_stack([codes(frame[column]) for column in frame])
    last = rows.shape[1] - 1
    stratify = rows[:, last] if table.target != "number" else None
    train, test = train_test_split(rows, test_size=0.2, random_state=seed, stratify=stratify)
    spaced = table.categories + ((last,) if table.target == "categories" else ())
    named = (*table.categories, *table.binary) + ((last,) if table.target != "number" else ())
    return Split(train, test, spaced, named, table)


def points(rows: Floats, split: Split) -> Floats:
    """Rows in the L1 space of distances: numbers in [0, 1] by the training rows, categories one-hot / 2."""
    parts = []
    for place in range(rows.shape[1]):
        column = rows[:, place, None]
        if place in split.spaced:
            values = np.unique(np.concatenate([split.train[:, place], split.test[:, place]]))
            parts.append((column == values) / 2)
        else:
            low, high = split.train[:, place].min(), split.train[:, place].max()
            parts.append((column - low) / (high - low if high > low else 1.0))
    return np.concatenate(parts, 1)


def transport(a: Floats, b: Floats) -> float:
    """Exact optimal transport cost with L1 ground cost between two sets of points of equal total mass."""
    import ot
    from scipy.spatial.distance import cdist

    return float(ot.emd2([], [], cdist(a, b, "cityblock"), numItermax=10**7))


def coverage(real: Floats, generated: Floats) -> float:
    """Share of real points whose ball holds a generated one.

    The ball reaches to the neighbour after the first that is no copy of the point, which neighbour that is decided by
    95 % of the points: to the second nearest where there are no copies.
    """
    from scipy.spatial.distance import cdist

    apart = np.sort(cdist(real, real, "cityblock"), 1)
    k = next((k for k in range(1, len(real) - 1) if (apart[:, k] > 0).mean() >= 0.95), len(real) - 2)
    return float((cdist(real, generated, "cityblock").min(1) < apart[:, k + 1]).mean())


def usefulness(train: Floats, test: Floats, split: Split, tries: int = 1) -> float:
    """Mean R2 or macro F1 on held-out rows of four predictors of the target trained on ``train``."""
    import xgboost
    from sklearn import ensemble, linear_model
    from sklearn.metrics import f1_score, r2_score
    from sklearn.preprocessing import LabelEncoder

    last = train.shape[1] - 1
    inputs = []
    for place in range(last):
        column = np.concatenate([train[:, place], test[:, place]])[:, None]
        inputs.append(column == np.unique(column) if place in split.table.categories else column)
    x = np.concatenate(inputs, 1).astype(np.float64)
    x_train, x_test, y, y_test = x[: len(train)], x[len(train) :], train[:, last], test[:, last]
    found = []
    for seed in range(tries):
        if split.classifies:
            coder = LabelEncoder().fit(y)
            if not np.isin(y_test, coder.classes_).all():  # as the authors have it
                return 0.0
            models: list[Any] = [
                linear_model.LogisticRegression(C=np.inf, max_iter=500, random_state=seed),
                ensemble.AdaBoostClassifier(random_state=seed),
                ensemble.RandomForestClassifier(max_depth=28, random_state=seed),
                xgboost.XGBClassifier(reg_lambda=0.0, random_state=seed, n_jobs=1),
            ]
            for model in models:
                guess = coder.inverse_transform(model.fit(x_train, coder.transform(y)).predict(x_test))
                found.append(float(f1_score(y_test, guess, average="macro")))
        else:
            models = [
                linear_model.LinearRegression(),
                ensemble.AdaBoostRegressor(random_state=seed),
                ensemble.RandomForestRegressor(max_depth=28, random_state=seed),
                xgboost.XGBRegressor(reg_lambda=0.0, random_state=seed, n_jobs=1),
            ]
            found += [float(r2_score(y_test, model.fit(x_train, y).predict(x_test))) for model in models]
    return statistics.mean(found)


def measures(rows: Floats, split: Split, tries: int = 1) -> dict[str, float]:
    """Every measure of one set of generated rows; NaN for transport costs of long tables and usefulness of 0 tries."""
    train, test, drawn = (points(part, split) for part in (split.train, split.test, rows))
    long = len(train) >= MOST_ROWS
    return {
        "W_train": math.nan if long else transport(train, drawn),
        "W_test": math.nan if long else transport(test, drawn),
        "coverage_train": coverage(train, drawn),
        "coverage_test": coverage(test, drawn),
        "useful": usefulness(rows, split.test, split, tries) if tries else math.nan,
    }


def real_rows(folder: Path, name: str, seeds: Sequence[int] = (0, 1, 2), tries: int = 0) -> dict[str, float]:
    """Measures of the training rows themselves, mean over splits: what was published as the best one can hope for."""
    splits = [load(folder, name, seed) for seed in seeds]
    return mean_of([measures(split.train, split, tries) for split in splits])


def mean_of(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of every measure."""
    return {key: statistics.mean(one[key] for one in found) for key in found[0]}


def published() -> dict[str, dict[str, dict[str, float]]]:
    """Table, method, measure."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            numbers = {key: float(line[key] or "nan") for key in line if key not in ("table", "method")}
            out.setdefault(line["table"], {})[line["method"]] = numbers
    return out


def mean_ranks(tables: dict[str, dict[str, dict[str, float]]], measure: str) -> dict[str, float]:
    """Mean rank of every method over the tables with the measure; 1 is best. Costs are better when small."""
    from scipy.stats import rankdata

    sign = 1.0 if measure.startswith("W_") else -1.0
    ranks: dict[str, list[float]] = {}
    for methods in tables.values():
        values = {name: one[measure] for name, one in methods.items() if name != REAL}
        if any(map(math.isnan, values.values())):
            continue
        for name, rank in zip(values, rankdata([sign * v for v in values.values()])):
            ranks.setdefault(name, []).append(float(rank))
    return {name: statistics.mean(found) for name, found in ranks.items()}
