"""Every model on many tables, and the page docs/results/likelihood.md that says what came out.

    python benchmarks/results.py FOLDER [--tables wine adult] [--minutes 5] [--jobs 2] [--run_dir WORK] [-o PAGE]

FOLDER holds ``shoppers``, ``default_credit``, ``beijing`` and ``forestdiffusion27``, as Parquet. For each table one
``genzoo compare --models all --resume`` is run and printed, so the script goes on where it was stopped; tables that
are finished by then are on the page. Without ``-o`` nothing is written beside the work folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from result_page import tidy

SMALL = (
    "iris", "wine", "airfoil_self_noise", "blood_transfusion", "car", "concrete_compression", "ecoli", "glass", "seeds",
    "yacht_hydrodynamics",
)  # fmt: skip
LARGE = {
    "adult": "genzoo:adult",
    "shoppers": "shoppers/train.parquet",
    "default_credit": "default_credit/train.parquet",
    "beijing": "beijing/full_with_missing.parquet",
}
IN_TIME = ("beijing",)
MINUTES = {"small": 0.25, "large": 1.0}
"""Training time of a model, if none is given."""


def minutes_of(table: str, given: float | None) -> float:
    """Training time of a model on a table."""
    return given or MINUTES["large" if table in LARGE else "small"]


def file_of(table: str, folder: Path) -> str:
    """What is given to ``genzoo compare`` for a table."""
    place = LARGE.get(table, f"forestdiffusion27/{table}.parquet")
    return place if place.startswith("genzoo:") else str(folder / place)


def command_of(table: str, folder: Path, given: argparse.Namespace) -> list[str]:
    """The comparison of one table."""
    work = given.run_dir / table
    words = [
        "compare",
        file_of(table, folder),
        "--models",
        given.models,
        "--minutes",
        f"{minutes_of(table, given.minutes):g}",
    ]
    words += [
        "--jobs",
        str(given.jobs),
        "--samples",
        "0",
        "--discretised_draws",
        "0",
        "--run_dir",
        str(work),
        "--resume",
    ]
    return [*words, *(["--ordered"] if table in IN_TIME else []), "-o", str(work / "report.json"), "--overwrite"]


def cell(row: dict[str, Any]) -> str:
    """Likelihood, error and kind of one model on one table; the highest guaranteed value is bold."""
    if row["group"] == "failed":
        return "failed"
    error = float(row["se"])
    digits = 3 if error < 0.02 else 2 if error < 0.2 else 1
    text = f"{float(row['mean']):.{digits}f} ± {error:.{digits}f} ({row['kind']})"
    return f"**{text}**" if row["rank"] == 1 else text


def page(found: dict[str, dict[str, Any]], commands: dict[str, str], seconds: dict[str, float]) -> str:
    """The page as Markdown."""
    models = list(dict.fromkeys(row["name"] for report in found.values() for row in report["models"]))
    ranks: dict[str, list[int]] = {name: [] for name in models}
    for report in found.values():
        for row in report["models"]:
            ranks[row["name"]].append(row["rank"] or len(models))
    models.sort(key=lambda name: sum(ranks[name]) / len(ranks[name]))
    parts = [
        "# Every model on many tables",
        tidy(
            "After this page you know how the models compare out of the box: defaults, one seed, "
            "the minutes of training in the command below each table (tree ensembles grow as many trees as fit into "
            f"them), one thread a network on {os.cpu_count()} busy cores ({platform.machine()})."
        ),
        tidy(
            "Held-out log-likelihood in nats a row, in each table's own units: a column compares models, a row does "
            "not compare tables. Bold: the highest guaranteed value. The sentence below a table's name says what "
            "follows. Tables are those of `benchmarks/results.py`; Adult with six minutes a model is in "
            "[the page of the discrete models](../models/discrete.md)."
        ),
    ]
    missing = [table for table in (*LARGE, *SMALL) if table not in found]
    if missing:
        parts.append(tidy(f"Not run yet: {', '.join(missing)}."))
    lines = [["model", *found], [":--", *["--:"] * len(found)]]
    for name in models:
        rows = [next((r for r in report["models"] if r["name"] == name), None) for report in found.values()]
        lines.append([f"`{name}`", *("not taken" if row is None else cell(row) for row in rows)])
    parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    for table, report in found.items():
        counts = report["facts"]["splits"]
        splits = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test") if split in counts)
        failed = [f"- `{row['name']}` failed: {row['error']}" for row in report["models"] if row["group"] == "failed"]
        parts += [
            f"## {table}",
            tidy(f"Rows: {splits}{'; split in time' if table in IN_TIME else ''}. {report['conclusions'][0]}"),
            *(["\n".join(tidy(line, "  ") for line in failed)] if failed else []),
            f"    {commands[table]}" + (f"    # {seconds[table] / 60:.0f} minutes" if table in seconds else ""),
        ]
    return "\n\n".join([*parts, f"Written by `benchmarks/results.py`, {time.strftime('%B %Y')}."]) + "\n"


def main() -> None:
    """Compares, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tables", nargs="+", default=[*LARGE, *SMALL], choices=[*LARGE, *SMALL])
    parser.add_argument("--models", default="all")
    parser.add_argument(
        "--minutes", type=float, help="training time of a model; by default 0.25, or 1 on a large table"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/results"))
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    commands, seconds = {}, {}
    given.run_dir.mkdir(parents=True, exist_ok=True)
    for table in given.tables:
        words = command_of(table, given.folder, given)
        shown = [Path(word).name if os.sep in word and not word.startswith("genzoo:") else word for word in words]
        commands[table] = shlex.join(
            ["genzoo", *shown[: shown.index("--run_dir")], *(["--ordered"] * (table in IN_TIME))]
        )
        print(f"== {commands[table]}", flush=True)
        clock = given.run_dir / f"{table}.seconds"
        started = time.monotonic()
        spent = float(clock.read_text(encoding="utf-8")) if clock.exists() else 0.0
        try:
            code = subprocess.call([sys.executable, "-m", "genzoo.main", *words])
        finally:  # a table that is gone on with took the time of all its runs
            seconds[table] = spent + time.monotonic() - started
            clock.write_text(f"{seconds[table]:.0f}\n", encoding="utf-8")
        if code == 0:
            found[table] = json.loads((given.run_dir / table / "report.json").read_text(encoding="utf-8"))
        if found and given.output is not None:
            given.output.parent.mkdir(parents=True, exist_ok=True)
            given.output.write_text(page(found, commands, seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
