"""Runs every command on a table, in this process, and checks how each one ends.

A command may end in two ways: exit code 0 with the files it promises, or exit code 2 with one sentence on stderr, no
traceback, and nothing left behind at the path it was to write.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from genzoo.main import main
from genzoo.models.catalogue import CATALOGUE

MODELS = ("independent", "gaussian", "mixture", "maf", "spline_flow")
NOISE = re.compile(r"Traceback|Error\b|Exception|\bat 0x|object at|<class|None,|pyarrow|narwhals|numpy|torch\.")
"""What a sentence for a user does not hold: names of exceptions, addresses, parts of other libraries."""


@dataclass
class Ending:
    """How one command ended."""

    command: str
    code: int
    out: str
    err: str
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        return self.err.strip().removeprefix("genzoo: error: ")


@contextlib.contextmanager
def children_in_process() -> Iterator[None]:
    """``genzoo compare`` runs each child here: the same function on the same job folder, without a new interpreter."""
    from genzoo.commands import compare_worker, jobs

    def start(job: Any) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = compare_worker.main(str(job.folder))
        (job.folder / "log.txt").write_text(said.getvalue())
        job.process = SimpleNamespace(poll=lambda: code, returncode=code)

    with mock.patch.object(jobs, "start", start):
        yield


@contextlib.contextmanager
def foreign_errors() -> Iterator[list[str]]:
    """Errors that were told to the user and were not raised by GenZoo itself: nobody wrote their sentence."""
    from genzoo import main as dispatcher
    from genzoo.commands import compare_worker

    found: list[str] = []
    usual = dispatcher.sentence

    def noted(error: BaseException) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        if frames and f"{os.sep}genzoo{os.sep}" not in frames[-1].filename and not isinstance(error, OSError):
            ours = [f for f in frames if f"{os.sep}genzoo{os.sep}" in f.filename][-3:]
            places = " > ".join(f"{Path(f.filename).name}:{f.lineno}" for f in ours)
            found.append(f"{type(error).__name__} of {Path(frames[-1].filename).name} ({places}): {usual(error)[:200]}")
        return usual(error)

    with mock.patch.object(dispatcher, "sentence", noted), mock.patch.object(compare_worker, "sentence", noted):
        yield found


def run(*arguments: object, promised: Sequence[Path] = ()) -> Ending:
    """Runs ``genzoo ARGUMENTS`` and holds its ending against the two allowed ones."""
    out, err = io.StringIO(), io.StringIO()
    argv = [str(argument) for argument in arguments]
    before, started = {path: path.exists() for path in promised}, time.monotonic()
    with warnings.catch_warnings(record=True) as caught, children_in_process(), foreign_errors() as foreign:
        warnings.simplefilter("default")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
    ending = Ending(" ".join(argv), code, out.getvalue(), err.getvalue(), time.monotonic() - started)
    ending.warnings = sorted({f"{w.category.__name__}: {str(w.message).splitlines()[0]}" for w in caught if _ours(w)})
    ending.faults += foreign
    lines = [line for line in ending.err.splitlines() if line.strip()]
    if code == 0:
        ending.faults += [f"promised {path.name} is not there" for path in promised if not path.is_file()]
        if "Traceback" in ending.err:
            ending.faults.append("exit 0 with a traceback")
    elif code == 2:
        ending.faults += sentence_faults(lines)
        ending.faults += [f"left {path.name} behind" for path in promised if path.exists() and not before[path]]
    else:
        ending.faults.append(f"exit code {code}: {ending.err.strip()[-400:]}")
    for path in promised:
        stray = [p.name for p in path.parent.glob(f".{path.stem}-*")]
        ending.faults += [f"temporary file {name} left" for name in stray]
    return ending


def _ours(caught: warnings.WarningMessage) -> bool:
    return "genzoo" in str(caught.filename) or issubclass(caught.category, RuntimeWarning)


def sentence_faults(lines: Sequence[str]) -> list[str]:
    """What is wrong with what stderr holds after exit code 2."""
    if len(lines) != 1 or not lines[0].startswith("genzoo: error: "):
        return [f"stderr is not one sentence: {lines[-3:]}"]
    text = lines[0].removeprefix("genzoo: error: ")
    return message_faults(text)


def message_faults(text: str) -> list[str]:
    """What is wrong with one message: empty, too long to read, or in the words of a library."""
    faults = []
    if NOISE.search(text):
        faults.append(f"not in the user's words: {text[:300]}")
    if len(text) < 20 or len(text) > 1200:
        faults.append(f"{len(text)} characters: {text[:300]}")
    return faults


def walk(path: Path, folder: Path, models: Sequence[str] = MODELS, epochs: int = 2) -> list[Ending]:
    """Every command on one table; models are trained for ``epochs`` epochs.

    Args:
        path: The table.
        folder: An empty folder for what the commands write; it becomes the current folder.
        models: Names for ``compare``.
        epochs: Most epochs of a model.
    """
    endings = []

    def go(*arguments: object, promised: Sequence[Path] = ()) -> Ending:
        endings.append(run(*arguments, promised=promised))
        return endings[-1]

    with contextlib.chdir(folder):
        schema = go("schema", path, "-o", folder / "schema.yaml", promised=[folder / "schema.yaml"])
        report = [folder / f"report.{end}" for end in ("html", "md", "csv", "tex")]
        compared = go(
            "compare", path, "--models", ",".join(models), "--epochs", epochs, "--samples", 40, "--run_dir",
            folder / "zoo", "-o", report[0], promised=report,
        )  # fmt: skip
        compared.refused, faults = _failed_models(folder / "zoo")
        compared.faults += faults
        if len(compared.refused) == len(models):  # the report then names each reason, and stays
            compared.faults = [fault for fault in compared.faults if not fault.startswith("left ")]
        name = models[len(path.name) % len(models)]
        fitted = go(
            "fit", "--model", name, "--data.path", path, "--trainer.max_epochs", epochs, "--run_dir", folder / "run",
            "--trainer.enable_progress_bar", "false",
        )  # fmt: skip
        if fitted.code == 0 and not (folder / "run" / "checkpoints" / "best.ckpt").is_file():
            fitted.faults.append("no best.ckpt")
        if (compared.code != fitted.code and not compared.refused) or schema.code > compared.code:
            compared.faults.append(f"schema, compare and fit end in {schema.code}, {compared.code}, {fitted.code}")
        places = [folder / "zoo" / name for name in models]
        runs = [place for place in places if (place / "checkpoints" / "best.ckpt").exists()]
        if runs:
            path = _head(path, folder)
        if fitted.code == 0:
            go("test", "--ckpt_path", folder / "run", "--trainer.enable_progress_bar", "false")
        for trained in runs:
            _use(trained, path, folder, go)
        if runs:
            again = folder / "again.html"
            go("report", *runs, "-o", again, "--samples", 20, promised=[again])
            go("report", runs[-1], "--on", path, "-o", folder / "on.md", "--samples", 0, promised=[folder / "on.md"])
    return endings


def _head(path: Path, folder: Path, rows: int = 1000) -> Path:
    """The table, or its first rows where it is large."""
    from genzoo.tables.frames import read_frame, write_frame

    frame = read_frame(path)
    return path if len(frame) <= 2 * rows else write_frame(frame.head(rows), folder / "head.parquet")


def _failed_models(zoo: Path) -> tuple[list[str], list[str]]:
    """Sentences of the models that a comparison lists as failed, and the faults in them."""
    import json

    refused, faults = [], []
    for error in sorted(zoo.glob("*/error.json")):
        text = json.loads(error.read_text())["error"]
        refused.append(f"{error.parent.name}: {text}")
        if message_faults(text) or re.match(r"\w*(Error|Exception|Warning): ", text):
            log = (error.parent / "log.txt").read_text()
            faults.append(f"{error.parent.name} failed: {text[:300]}\n{log[-1500:]}")
    return refused, faults


def _use(trained: Path, path: Path, folder: Path, go: Any) -> None:
    """Score, sample and impute with one trained model, and the numbers and cells they give."""
    by_column = CATALOGUE[trained.name].capabilities.by_column
    target = folder / f"scored-{trained.name}.parquet"
    scored = go("score", trained, path, "-o", target, *(["--by", "column"] * by_column), promised=[target])
    sampled = folder / f"sampled-{trained.name}.parquet"
    drawn = go("sample", trained, "-n", 30, "-o", sampled, promised=[sampled])
    text = folder / f"sampled-{trained.name}.csv"
    go("sample", trained, "-n", 5, "-o", text, promised=[text])
    filled = folder / f"filled-{trained.name}.parquet"
    imputed = go("impute", trained, path, "-o", filled, promised=[filled])
    for ending, check in ((scored, _check_scores), (drawn, _check_samples), (imputed, _check_filled)):
        if ending.code == 0:
            try:
                ending.faults += check(trained, path, ending)
            except Exception:
                ending.faults.append(f"the check itself failed: {traceback.format_exc()[-1500:]}")


def _check_scores(trained: Path, path: Path, ending: Ending) -> list[str]:
    import genzoo
    from genzoo.tables.frames import read_frame

    model = genzoo.load(trained)
    scored = model.log_prob(read_frame(path, schema=model.schema))
    faults = []
    if not np.isfinite(scored.values).all():
        faults.append(f"{int((~np.isfinite(scored.values)).sum())} of {len(scored.values)} values are not finite")
    if scored.discrete is not None and np.nanmax(scored.discrete) > 1e-6:
        faults.append(f"discrete part up to {np.nanmax(scored.discrete)}")
    if scored.kind == "exact" and scored.se is not None:
        faults.append("exact with a standard error")
    if scored.kind != "exact" and (scored.se is None or not np.isfinite(scored.se).all()):
        faults.append(f"{scored.kind} without finite standard errors")
    if scored.by_column is not None:
        apart = np.abs(scored.by_column.sum(1) - scored.values)
        if not (apart <= 1e-6 * (1 + np.abs(scored.values))).all():
            faults.append(f"contributions of columns do not sum to the row: {np.nanmax(apart)} apart")
    return faults


def _check_samples(trained: Path, path: Path, ending: Ending) -> list[str]:
    """Sampled rows have the table's columns in its types, without holes, and read back under the schema."""
    import genzoo
    from genzoo.tables.cells import as_array, is_text, numbers, texts
    from genzoo.tables.encode import encode_frame
    from genzoo.tables.frames import read_frame, to_arrow

    model = genzoo.load(trained)
    schema = model.schema
    given = to_arrow(read_frame(path, schema=schema))
    drawn = to_arrow(read_frame(trained.parent.parent / f"sampled-{trained.name}.parquet"))
    faults = []
    wanted = [c.name for c in schema.columns if c.role == "value"]
    if drawn.column_names != wanted:
        faults.append(f"sampled columns {drawn.column_names}, the table has {wanted}")
    for name in wanted:
        column, cells, old = schema[name], as_array(drawn[name]), as_array(given[name])
        if column.kind != "constant" and cells.null_count:
            faults.append(f"sampled '{name}' has {cells.null_count} missing cells")
        if pa.types.is_null(old.type) or old.null_count == len(old):
            continue
        if _family(cells.type) != _family(old.type) and not (is_text(old.type) and column.storage != "string"):
            faults.append(f"sampled '{name}' is {cells.type}, the table has {old.type}")
        if column.is_categorical:
            words = texts(cells)
            strange = set(words.drop_null().to_pylist()) - set(column.categories)
            if strange:
                faults.append(f"sampled '{name}' holds unknown categories {sorted(strange)[:3]}")
        elif column.is_numeric and not is_text(cells.type) and not np.isfinite(numbers(as_array(cells))).all():
            faults.append(f"sampled '{name}' has values that are not finite")
    again = encode_frame(drawn, schema)
    if again.counts.get("unseen") or again.counts.get("off_grid"):
        faults.append(f"sampled rows do not fit the schema: {dict(again.column_counts)}")
    return faults


def _check_filled(trained: Path, path: Path, ending: Ending) -> list[str]:
    """Observed cells are as they were; modelled columns have no hole left."""
    import genzoo
    from genzoo.tables.encode import encode_frame
    from genzoo.tables.frames import read_frame, to_arrow

    model = genzoo.load(trained)
    before = read_frame(path, schema=model.schema)
    after = read_frame(trained.parent.parent / f"filled-{trained.name}.parquet", schema=model.schema)
    faults = []
    if before.columns != after.columns:
        return [f"imputed columns {after.columns}, the table has {before.columns}"]
    old, new = encode_frame(before, model.schema), encode_frame(after, model.schema)
    seen = ~np.isnan(old.numeric)
    if not (old.numeric[seen] == new.numeric[seen]).all():
        faults.append("observed numbers changed")
    if not (old.codes[old.codes != -1] == new.codes[old.codes != -1]).all():
        faults.append("observed categories changed")
    if np.isnan(new.numeric).any() or (new.codes == -1).any():
        faults.append("holes are left")
    a, b = to_arrow(before), to_arrow(after)
    for name in before.columns:
        for x, y in zip(a[name].to_pylist(), b[name].to_pylist()):
            if x is None or x == y or x != x or (isinstance(x, str) and x.strip() in model.schema.missing_tokens):
                continue
            if str(x) == str(y) or (isinstance(y, float) and not isinstance(x, str) and float(x) == y):
                continue
            faults.append(f"observed cell of '{name}' was {x!r}, is {y!r}")
            break
    return faults


def _family(kind: pa.DataType) -> str:
    for family, test in (
        ("text", lambda k: pa.types.is_string(k) or pa.types.is_large_string(k) or pa.types.is_string_view(k)),
        ("bool", pa.types.is_boolean),
        ("int", pa.types.is_integer),
        ("number", lambda k: pa.types.is_floating(k) or pa.types.is_decimal(k)),
        ("date", pa.types.is_date),
        ("moment", pa.types.is_timestamp),
        ("duration", pa.types.is_duration),
        ("list", pa.types.is_nested),
    ):
        if test(kind):
            return family
    return str(kind)


def describe(endings: Sequence[Ending]) -> str:
    """The faults of a walk, for an assertion message."""
    return "\n".join(f"genzoo {e.command}\n  {fault}" for e in endings for fault in e.faults)


os.environ.setdefault("OMP_NUM_THREADS", "1")
