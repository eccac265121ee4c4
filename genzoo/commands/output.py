"""Output paths, checked before any work is done. The files themselves are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from genzoo.errors import DataError, GenZooError

REPORT_SUFFIXES = (".html", ".htm", ".md", ".csv", ".tex", ".json")


def require_writable(path: str | Path, overwrite: bool = False, reads: Iterable[str | Path | None] = ()) -> Path:
    """Checks that ``path`` can be written; makes its folder.

    Args:
        path: What is to be written.
        overwrite: It may exist.
        reads: Files that the command reads: they are never written over.

    Raises:
        DataError: it exists (without ``overwrite``), is a folder, is one of ``reads``, or its folder cannot be made or
            written to.
    """
    target = Path(path).expanduser()
    for source in reads:
        if source is not None and target.exists() and _same(target, Path(source).expanduser()):
            raise DataError(f"'{target}' is a table that this command reads, and would be lost; choose another -o")
    if target.is_dir():
        raise DataError(f"'{path}' is a folder; give a file name")
    if target.exists() and not overwrite:
        raise DataError(f"'{path}' exists; choose another name, or add --overwrite")
    folder = target.parent
    if not folder.exists():
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise DataError(f"cannot make the folder '{folder}' for '{target.name}': {error.strerror}") from error
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DataError(f"cannot write into '{folder}'; choose another place for '{target.name}'")
    return target


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def require_report(path: str | Path, overwrite: bool = False, reads: Iterable[str | Path | None] = ()) -> Path:
    """Checks the path of a report and of the tables that are written beside it.

    Raises:
        DataError: the suffix names no form, or a file exists, is read by the command, or cannot be written.
    """
    target = Path(path).expanduser()
    suffix = target.suffix.lower()
    if suffix not in REPORT_SUFFIXES:
        raise DataError(f"cannot write a report as '{target.name}'; end its name with .html, .md, .csv, .tex or .json")
    beside = [".md", ".csv", ".tex"] if suffix in (".html", ".htm") else []
    for one in [target, *(target.with_suffix(end) for end in beside)]:
        require_writable(one, overwrite, reads)
    return target


def new_folder(path: str | Path) -> Path:
    """Makes the folder of a run; one that holds anything is never used again.

    Raises:
        DataError: it is not empty, or cannot be made.
    """
    folder = Path(path).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"run folder '{path}' exists; a run is never overwritten, choose another --run_dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the run folder '{path}': {error.strerror}") from error
    return folder


@contextmanager
def refused_leaves_nothing(folder: Path) -> Iterator[None]:
    """Takes the new folder of a run away when the run is refused before anything was learned.

    What an epoch left, a checkpoint or a line of metrics, stays.
    """
    try:
        yield
    except GenZooError:
        if not any((folder / "checkpoints").glob("*.ckpt")) and not (folder / "metrics.csv").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
