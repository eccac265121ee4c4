"""Text files written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path


def write_texts(texts: Mapping[str | os.PathLike[str], str], overwrite: bool = False) -> list[Path]:
    """Writes some files together: each to a temporary file, all renamed at the end; none if one may not be written.

    Raises:
        DataError: a file exists and ``overwrite`` is false, or its folder is absent or cannot be written to.
    """
    from genzoo.tables.frames import atomic_path

    with ExitStack() as stack:
        places = {path: stack.enter_context(atomic_path(path, overwrite)) for path in texts}
        for path, temporary in places.items():
            temporary.write_text(texts[path], encoding="utf-8", newline="\n")
    return [Path(path).expanduser() for path in texts]
