"""Several tables in one ``genzoo compare``: one comparison each, then ranks across them."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from genzoo.commands.compare import compare_table
from genzoo.commands.output import new_folder
from genzoo.commands.parsing import UsageError
from genzoo.errors import GenZooError


def compare_tables(models: Mapping[str, str], given: Namespace, arguments: list[str], target: Path | None) -> int:
    """Compares the models on each table, then across tables; a table that cannot be used is named and left out.

    Raises:
        UsageError: options that name columns of one table, or one model.
        GenZooError: fewer than two tables could be used, or a file is not there.
    """
    from genzoo.models.training import run_folder
    from genzoo.reports.across import Across
    from genzoo.reports.comparison import Comparison
    from genzoo.tables.examples import is_example
    from genzoo.tables.frames import existing_file

    if given.schema is not None:
        raise UsageError("--schema describes one table; compare several tables without it")
    if len(models) < 2:
        raise UsageError("ranks across tables need at least two models")
    if target is not None and target.suffix.lower() == ".tex":
        raise UsageError("ranks across tables are written as .html, .md, .csv or .json")
    for file in given.files:  # before hours of training
        if not is_example(file) and not file.startswith("toy:"):
            existing_file(Path(file).expanduser())
    if given.run_dir is None:
        root = run_folder("compare", f"{len(given.files)}-tables")
    else:
        root = Path(given.run_dir) if given.resume and Path(given.run_dir).is_dir() else new_folder(given.run_dir)
    place = root if target is None else target.parent
    comparisons: dict[str, Comparison] = {}
    links: dict[str, str] = {}
    reasons: list[str] = []
    for number, file in enumerate(given.files, start=1):
        name = table_name(file, list(comparisons))
        print(f"[{number}/{len(given.files)}] {file}", flush=True)
        try:
            comparison, folder = compare_table(models, given, arguments, file, root / name)
        except GenZooError as error:
            print(f"  left out: {error}", flush=True)
            reasons.append(f"{file}: {error}")
            continue
        report = folder / "report.html"
        comparison.write(report, overwrite=given.overwrite or given.resume)
        comparisons[name], links[name] = comparison, os.path.relpath(report, place)
        print(comparison)
        print(flush=True)
    if len(comparisons) < 2:
        raise GenZooError(
            f"only {len(comparisons)} of {len(given.files)} tables could be used, and ranks need two: "
            + "; ".join(reasons)
        )
    across = Across(comparisons, links)
    print(across)
    written = across.write(target or root / "across.html", overwrite=given.overwrite or given.resume)
    print()
    print(f"wrote {', '.join(map(str, written))}; the report of each table is in {root}")
    return 0


def table_name(file: str, taken: list[str]) -> str:
    """A folder name for a table: that of its file, numbered where two share it."""
    stem = Path(file.partition(":")[2] if file.startswith(("sklearn:", "genzoo:", "toy:")) else file).name.split(".")[0]
    clean = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in stem) or "table"
    name, number = clean, 2
    while name in taken:
        name, number = f"{clean}-{number}", number + 1
    return name
