"""From what is typed as FILE to a datamodule, and from a datamodule to what a report says about it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from genzoo.commands.names import DATAMODULES, absolute
from genzoo.errors import DataError


def source_of(file: str, seed: int, **options: Any) -> dict[str, Any]:
    """Class path and arguments of the datamodule for a table, ``sklearn:NAME``, ``genzoo:adult`` or ``toy:NAME``."""
    if file.startswith("toy:"):
        kept = {key: value for key, value in options.items() if value}
        if kept:
            raise DataError(f"a toy brings its own schema; leave out {', '.join('--' + key for key in kept)}")
        return {"class_path": DATAMODULES["Toy"], "init_args": {"name": file.removeprefix("toy:"), "seed": seed}}
    here = Path.cwd()
    init: dict[str, Any] = {"path": absolute(file, here), "seed": seed}
    init |= {key: absolute(value, here) if key == "schema" else value for key, value in options.items() if value}
    return {"class_path": DATAMODULES["Table"], "init_args": init}


def make_source(source: dict[str, Any]) -> Any:
    """The datamodule of :func:`source_of`, read and split."""
    module, _, name = source["class_path"].rpartition(".")
    datamodule = getattr(import_module(module), name)(**source["init_args"])
    datamodule.setup("fit")
    return datamodule


def facts_of(datamodule: Any) -> dict[str, Any]:
    """What a report says about the table and its split."""
    from genzoo.models.checkpoint import versions
    from genzoo.tables.dependence import unlimited_text

    test = datamodule.data("test")
    units = {}
    if datamodule.log_scale:
        units["units"] = f"benchmark; subtract {datamodule.log_scale:.6g} nats a row for the original units"
    return units | {
        "table": datamodule.name,
        "splits": datamodule.split_counts,
        "split": "in time" if datamodule.ordered else "",
        "shared_rows": [int(row) for row in test.rows[datamodule.duplicate_mask("test")]],
        "versions": versions(),
        "warnings": unlimited_text(datamodule.data("train")),
    }
