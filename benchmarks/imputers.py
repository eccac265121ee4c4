"""Other software that fills in cells, behind one call: rows to learn from and rows with holes in, completions out.

Each works on its usual view of a table: scikit-learn's imputers on standardised numbers and indicators of categories
(the largest indicator of a filled block is the category), miceforest on a frame of numbers and categories. A filled
number is put on its column's grid, as our own models do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genzoo.tables.encode import TableData
from genzoo.tables.grid import snap

Floats = NDArray[np.float64]
Imputer = Callable[[TableData, TableData, int, int], list[TableData]]


def fill(data: TableData, numbers: Floats, codes: NDArray[np.int64]) -> TableData:
    """``data`` with its holes filled from arrays of the same shape, numbers on their grid."""
    numeric, categories = data.numeric.astype(np.float64), data.codes.copy()
    for place, column in enumerate(data.schema.numeric):
        gap = np.isnan(numeric[:, place])
        values = numbers[gap, place]
        numeric[gap, place] = snap(values, column) if column.kind == "quantized" else values
    gap = categories < 0
    categories[gap] = codes[gap]
    return replace(data, numeric=numeric, codes=categories)


def mode_and_median(training: TableData, data: TableData, draws: int = 1, seed: int = 0) -> list[TableData]:
    """The median of each number and the most frequent category of each column."""
    numbers, codes = np.zeros(data.numeric.shape), np.zeros(data.codes.shape, dtype=np.int64)
    for place in range(numbers.shape[1]):
        known = training.numeric[:, place][~np.isnan(training.numeric[:, place])]
        numbers[:, place] = np.quantile(known, 0.5, method="inverted_cdf")
    for place in range(codes.shape[1]):
        known = training.codes[:, place][training.codes[:, place] >= 0]
        codes[:, place] = np.bincount(known).argmax()
    return [fill(data, numbers, codes)]


@dataclass(frozen=True)
class Indicators:
    """Rows as one matrix: standardised numbers, then a block of indicators a category column.

    Args:
        mean: Mean of each number on the training rows.
        scale: Their standard deviation, 1 for a constant.
        sizes: Categories of each column.
        left_out: The category of each column without an indicator of its own, the most frequent one; -1 for none.
            Regressions need it: the indicators of a whole block predict each other exactly, and would keep the value
            they start at.
    """

    mean: Floats
    scale: Floats
    sizes: tuple[int, ...]
    left_out: tuple[int, ...]

    @classmethod
    def fit(cls, training: TableData, whole: bool) -> Indicators:
        """Takes the scales and the most frequent categories of the training rows; ``whole`` blocks leave none out."""
        spread = np.nanstd(training.numeric, axis=0)
        sizes = tuple(len(c.categories) for c in training.schema.categorical)
        most = tuple(int(np.bincount(codes[codes >= 0]).argmax()) for codes in training.codes.T)
        left_out = (-1,) * len(sizes) if whole else most
        return cls(np.nanmean(training.numeric, axis=0), np.where(spread > 0, spread, 1.0), sizes, left_out)

    def matrix(self, data: TableData) -> Floats:
        """``(n, p)``; a hole is NaN, in all indicators of its column."""
        blocks = [(data.numeric - self.mean) / self.scale]
        for codes, size, without in zip(data.codes.T, self.sizes, self.left_out):
            block = np.eye(size)[np.maximum(codes, 0)]
            block[codes < 0] = np.nan
            blocks.append(block if without < 0 else np.delete(block, without, axis=1))
        return np.concatenate(blocks, axis=1)

    def filled(self, data: TableData, matrix: Floats) -> TableData:
        """``data`` with its holes filled from a completed matrix; the largest indicator is the category."""
        width = len(self.mean)
        numbers = matrix[:, :width] * self.scale + self.mean
        codes = np.zeros(data.codes.shape, dtype=np.int64)
        for place, (size, without) in enumerate(zip(self.sizes, self.left_out)):
            count = size - (without >= 0)
            block = matrix[:, width : width + count]
            if without >= 0:
                block = np.insert(block, without, 1 - block.sum(axis=1), axis=1)
            codes[:, place] = block.argmax(axis=1)
            width += count
        return fill(data, numbers, codes)


def knn(training: TableData, data: TableData, draws: int, seed: int) -> list[TableData]:
    """scikit-learn's KNNImputer as it comes: the mean of five neighbours. One completion."""
    from sklearn.impute import KNNImputer

    view = Indicators.fit(training, whole=True)
    imputer = KNNImputer(keep_empty_features=True).fit(view.matrix(training))
    return [view.filled(data, imputer.transform(view.matrix(data)))]


def iterative(training: TableData, data: TableData, draws: int, seed: int) -> list[TableData]:
    """scikit-learn's IterativeImputer as it comes: Bayesian ridge regressions, ten rounds. One completion."""
    return _iterative(training, data, 1, seed, sample_posterior=False)


def iterative_draws(training: TableData, data: TableData, draws: int, seed: int) -> list[TableData]:
    """The same with ``sample_posterior=True``, its way to several completions."""
    return _iterative(training, data, draws, seed, sample_posterior=True)


def _iterative(training: TableData, data: TableData, draws: int, seed: int, **options: Any) -> list[TableData]:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    view = Indicators.fit(training, whole=False)
    imputer = IterativeImputer(random_state=seed, keep_empty_features=True, **options).fit(view.matrix(training))
    rows = view.matrix(data)
    return [view.filled(data, imputer.transform(rows)) for _ in range(draws)]


def miceforest(
    training: TableData, data: TableData, draws: int, seed: int, fast: bool = False, iterations: int = 3
) -> list[TableData]:
    """miceforest's kernel with one data set and mean matching as it comes; each draw fills the rows anew.

    ``fast`` draws categories from the predicted probabilities, its way for tables where the search for neighbours in
    their log-odds fails.
    """
    import miceforest as package

    # a category without a row would have log-odds of minus infinity, which its search for neighbours refuses
    known = [np.unique(codes[codes >= 0]) for codes in training.codes.T]
    rows = _frame(training, known)
    strategy = {name: "fast" if fast and name.startswith("c") else "normal" for name in rows.columns}
    kernel = package.ImputationKernel(rows, random_state=seed, mean_match_strategy=strategy)
    kernel.mice(iterations, n_jobs=1, verbose=False)
    rows = _frame(data, known)
    out = []
    for draw in range(draws):
        found = kernel.impute_new_data(rows, random_state=1000 * seed + draw).complete_data(0)
        numbers = found.iloc[:, : data.numeric.shape[1]].to_numpy(dtype=np.float64)
        codes = np.column_stack(
            [np.zeros((len(found), 0), dtype=np.int64)]
            + [found.iloc[:, i].astype(np.int64) for i in range(data.numeric.shape[1], found.shape[1])]
        )
        out.append(fill(data, numbers, codes))
    return out


def _frame(data: TableData, known: Sequence[NDArray[np.int64]]) -> pd.DataFrame:
    """Numbers as they are, categories as codes of pandas' own kind; those not ``known`` are holes."""
    columns: dict[str, Any] = {}
    for place, _ in enumerate(data.schema.numeric):
        columns[f"n{place}"] = data.numeric[:, place].astype(np.float64)
    for place, names in enumerate(known):
        columns[f"c{place}"] = pd.Categorical(data.codes[:, place], dtype=pd.CategoricalDtype(names))
    return pd.DataFrame(columns)


IMPUTERS: dict[str, Imputer] = {
    "mode and median": mode_and_median,
    "KNNImputer": knn,
    "IterativeImputer": iterative,
    "IterativeImputer, draws": iterative_draws,
    "miceforest": miceforest,
    "miceforest, fast": partial(miceforest, fast=True),
}
PACKAGES = {"miceforest": "miceforest", "miceforest, fast": "miceforest"}
"""What must be installed beside GenZoo for an imputer."""
