"""Other software that draws synthetic rows, behind one call: rows to learn from and a number in, rows out.

Each gets the table's columns as it expects them and is left at its defaults, but for the settings it returns. A
number drawn off its column's grid is put on it, for all alike. Arguments: training rows, number to draw, seed, CPU
seconds allowed.
"""

from __future__ import annotations

import importlib.metadata
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from genzoo.tables.encode import TableData, decode_table, encode_frame
from genzoo.tables.grid import snap

Synthesiser = Callable[[TableData, int, int, float], tuple[TableData, str]]
HOLE_NAME = "(missing)"
LEVELS = 10
TRIAL_TREES = 5


class OverLimit(RuntimeError):
    """A synthesiser needs, or took, more CPU time than it is allowed."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises :class:`OverLimit` once the process has used so many CPU seconds."""

    def stop(number: int, frame: object) -> None:
        raise OverLimit(f"stopped after {seconds:.0f} CPU seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def training_frame(training: TableData) -> pd.DataFrame:
    """The rows as a frame: numbers as floats, categories as text, a missing category as one of its own."""
    frame: pd.DataFrame = decode_table(training)
    frame = frame[[c.name for c in (*training.schema.numeric, *training.schema.categorical)]]
    for column in training.schema.numeric:
        frame[column.name] = frame[column.name].astype(np.float64)
    for place, column in enumerate(training.schema.categorical):
        names = np.array([*column.categories, HOLE_NAME], dtype=object)
        codes = training.codes[:, place]
        frame[column.name] = pd.Series(
            names[np.where(codes < 0, len(names) - 1, codes)], index=frame.index, dtype="object"
        )
    return frame


def as_rows(drawn: pd.DataFrame, training: TableData) -> TableData:
    """Rows of a frame like :func:`training_frame`'s, in the training rows' own form."""
    numeric = np.column_stack(
        [np.zeros((len(drawn), 0))] + [drawn[c.name].to_numpy(dtype=np.float64) for c in training.schema.numeric]
    )
    codes = np.zeros((len(drawn), len(training.schema.categorical)), dtype=np.int64)
    for place, column in enumerate(training.schema.categorical):
        known = {name: code for code, name in enumerate(column.categories)}
        codes[:, place] = [known.get(str(name), -1) for name in drawn[column.name]]
    for place, column in enumerate(training.schema.numeric):
        if column.kind == "quantized":
            numeric[:, place] = snap(numeric[:, place], column)
    return replace(training, numeric=numeric, codes=codes, rows=np.arange(len(drawn)))


def _sdv(training: TableData, kind: str, **options: Any) -> Any:
    import sdv.single_table
    from sdv.metadata import Metadata

    numbers = {c.name for c in training.schema.numeric}
    columns = {
        name: {"sdtype": "numerical" if name in numbers else "categorical"} for name in training_frame(training).columns
    }
    metadata = Metadata.load_from_dict({"tables": {"rows": {"columns": columns}}, "relationships": []})
    return getattr(sdv.single_table, kind)(metadata, **options)


def gaussian_copula(training: TableData, num: int, seed: int, limit: float) -> tuple[TableData, str]:
    """SDV's GaussianCopulaSynthesizer as it comes (beta marginals)."""
    model = _sdv(training, "GaussianCopulaSynthesizer")
    with cpu_limit(limit):
        model.fit({"rows": training_frame(training)})
        return as_rows(model.sample(num)["rows"], training), "as it comes"


def ctgan(training: TableData, num: int, seed: int, limit: float) -> tuple[TableData, str]:
    """SDV's CTGANSynthesizer, with as many of its 300 epochs as a trial says fit the limit."""
    import torch

    torch.manual_seed(seed)
    frame = training_frame(training)
    seconds = []
    for trial in (1, 4):
        model = _sdv(training, "CTGANSynthesizer", epochs=trial, enable_gpu=False)
        started = time.process_time()
        model.fit({"rows": frame})
        seconds.append(time.process_time() - started)
    epoch = max((seconds[1] - seconds[0]) / 3, 1e-3)
    epochs = int(np.clip((limit - seconds[0]) / epoch, 1, 300))
    model = _sdv(training, "CTGANSynthesizer", epochs=epochs, enable_gpu=False)
    model.fit({"rows": frame})
    return as_rows(
        model.sample(num)["rows"], training
    ), f"{epochs} of its 300 epochs" if epochs < 300 else "as it comes"


@contextmanager
def writable_frames() -> Iterator[None]:
    """Arrays of frames can be written to, as before pandas 3: ForestDiffusion 1.0.6 does where there are categories."""
    plain = pd.DataFrame.to_numpy
    pd.DataFrame.to_numpy = lambda frame, *args, **options: plain(frame, *args, **options).copy()
    try:
        yield
    finally:
        pd.DataFrame.to_numpy = plain


def forest_diffusion(training: TableData, num: int, seed: int, limit: float) -> tuple[TableData, str]:
    """ForestDiffusion's flow with fewer levels and copies than its 50 and 100, which would take hours.

    Raises:
        OverLimit: one level with a few trees says that even these would take longer than allowed.
    """
    from ForestDiffusion import ForestDiffusionModel

    schema = training.schema
    if (training.codes < 0).any() or np.isnan(training.numeric).any():
        raise OverLimit("rows with holes: a model a column and level, far over the limit")
    values = np.concatenate([training.numeric.astype(np.float64), training.codes.astype(np.float64)], axis=1)
    width = training.numeric.shape[1]
    options: dict[str, Any] = {
        "cat_indexes": [width + i for i, c in enumerate(schema.categorical) if len(c.categories) > 2],
        "bin_indexes": [width + i for i, c in enumerate(schema.categorical) if len(c.categories) <= 2],
        "int_indexes": [i for i, c in enumerate(schema.numeric) if c.kind == "quantized" and c.step == 1],
        "n_jobs": 1,
        "seed": seed,
    }
    seconds = []
    for trees in (1, 1, 1 + TRIAL_TREES):  # the first call pays for imports
        started = time.process_time()
        ForestDiffusionModel(values, n_t=1, duplicate_K=1, n_estimators=trees, **options)
        seconds.append(time.process_time() - started)
    expected = (seconds[2] - seconds[1]) * LEVELS * 100 / TRIAL_TREES
    if expected > limit:
        raise OverLimit(f"{LEVELS} levels and 1 copy would take about {expected:.0f} CPU s")
    model = ForestDiffusionModel(values, n_t=LEVELS, duplicate_K=1, **options)
    with writable_frames():
        drawn = model.generate(batch_size=num)
    codes = np.rint(drawn[:, width:]).astype(np.int64)
    numeric = drawn[:, :width].astype(np.float64)
    for place, column in enumerate(schema.numeric):
        if column.kind == "quantized":
            numeric[:, place] = snap(numeric[:, place], column)
    rows = replace(training, numeric=numeric, codes=codes, rows=np.arange(num))
    return rows, f"{LEVELS} of its 50 levels, 1 of its 100 copies"


def encoded(frame: Any, training: TableData) -> TableData:
    """A frame that one of our models drew, in the training rows' own form."""
    return encode_frame(frame, training.schema)


SYNTHESISERS: dict[str, Synthesiser] = {
    "SDV GaussianCopula": gaussian_copula,
    "SDV CTGAN": ctgan,
    "ForestDiffusion": forest_diffusion,
}
PACKAGES = {"SDV GaussianCopula": "sdv", "SDV CTGAN": "sdv", "ForestDiffusion": "ForestDiffusion"}
"""What must be installed beside GenZoo for a synthesiser."""


def version_of(name: str) -> str:
    """The package behind a method with its version."""
    package = PACKAGES.get(name, "genzoo")
    text = f"{package} {importlib.metadata.version(package)}"
    return f"{text} (ctgan {importlib.metadata.version('ctgan')})" if "CTGAN" in name else text
