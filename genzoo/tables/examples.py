"""Tables at hand by name: Adult, shipped with the package, and the tables that scikit-learn brings."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

import pyarrow as pa

from genzoo.errors import DataError

SKLEARN = ("wine", "iris", "breast_cancer", "diabetes", "digits")
ADULT_TRAINING_ROWS = 32_561


def example_names() -> tuple[str, ...]:
    """Names that :func:`load_example` and every ``path`` argument take."""
    return ("genzoo:adult", *(f"sklearn:{name}" for name in SKLEARN))


def is_example(name: str) -> bool:
    """Whether a name is meant as an example (``genzoo:...`` or ``sklearn:...``), known or not."""
    return name.startswith(("genzoo:", "sklearn:"))


def load_example(name: str) -> Any:
    """An example table as a narwhals frame.

    ``genzoo:adult`` (or ``adult``) is Census Income: 48,842 persons of the 1994 US census, 15 columns, missing cells in
    three of them; the first 32,561 rows are the canonical training file, the other 16,281 the test file (B. Becker and
    R. Kohavi, 1996, doi:10.24432/C5XW20, CC BY 4.0). ``sklearn:wine``, ``iris``, ``breast_cancer``, ``diabetes`` and
    ``digits`` hold the features and, last, the ``target`` (for a classification, the name of the class).

    Raises:
        DataError: no such example.
    """
    import narwhals as nw

    family, _, short = name.rpartition(":")
    if (family in ("", "genzoo")) and short == "adult":
        import pyarrow.parquet as pq

        with as_file(files("genzoo.tables") / "data" / "adult.parquet") as path:
            return nw.from_native(pq.ParquetFile(path).read(), eager_only=True)
    if family in ("", "sklearn") and short in SKLEARN:
        return nw.from_native(_sklearn(short), eager_only=True)
    raise DataError(f"no example table '{name}'; there are {', '.join(example_names())}")


def _sklearn(name: str) -> pa.Table:
    from sklearn import datasets

    if name == "diabetes":
        bunch = datasets.load_diabetes(scaled=False)
    else:
        bunch = getattr(datasets, f"load_{name}")()
    columns = {str(feature): bunch.data[:, i] for i, feature in enumerate(bunch.feature_names)}
    target = bunch.target
    if name != "diabetes":
        target = [str(bunch.target_names[label]) for label in bunch.target]
    return pa.table({**columns, "target": target})
