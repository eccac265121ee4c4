"""Files a command writes: refused early when they exist, never half-written, announced when done."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genzoo.errors import DataError


def require_writable(path: str | Path, overwrite: bool = False) -> Path:
    """Checks before any work is done that ``path`` can be written.

    Raises:
        DataError: it exists (without ``overwrite``), is a folder, or its folder is missing or read-only.
    """
    target = Path(path)
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


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    Raises:
        DataError: the folder or disk does not take the file.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix)
        os.close(handle)
    except OSError as error:
        raise DataError(f"cannot write '{target}': {error.strerror}") from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"cannot write '{target}': {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
