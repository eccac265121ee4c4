"""Every model on many tables, and the page docs/results/likelihood.md that says what came out.

    python benchmarks/results.py FOLDER [--tables wine adult] [--minutes 5] [--jobs 2] [--run_dir WORK] [-o PAGE]

FOLDER holds ``shoppers``, ``default_credit``, ``beijing`` and ``forestdiffusion27``, as Parquet. For each table one
``genzoo compare --models all --resume`` is run and printed, so the script goes on where it was stopped. A table that is
finished is kept in the JSON file beside PAGE and stands on the page with those of earlier runs. With ``--models A,B``
the rows of these models alone are put in the place of their earlier ones: data, splits and seed are the same, and no
model knows of another. Without ``-o`` nothing is written beside the work folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from result_page import Record, keep_record, load_records, markdown_table, tidy

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
SPLITS = ("train", "val", "test")
CHANGED, CHANGE = "2026-11-29", "[frequent values of a grid](../decisions/0004-frequent-values-of-a-fine-grid.md)"
"""The day and the name of the last change that moves many numbers."""
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


def record_of(table: str, command: str, seconds: float, report: dict[str, Any]) -> Record:
    """What is kept of a report: its numbers, and what it says of them."""
    counts = report["facts"]["splits"]
    return {
        "table": table,
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "minutes": round(seconds / 60),
        "rows": {split: counts[split] for split in SPLITS if split in counts},
        "conclusion": report["conclusions"][0].replace(f"'{report['facts']['table']}'", f"'{table}'"),
        "models": [
            {"name": row["name"], "failed": row["error"]}
            if row["group"] == "failed"
            else {name: row[name] for name in ("name", "mean", "se", "kind", "rank")}
            for row in report["models"]
        ],
    }


def renewed(record: Record, part: Record) -> Record:
    """A record with the rows of some of its models replaced by those of a later run of these models alone.

    Raises:
        SystemExit: the rows differ, or another model is now the best, so that the sentence on the table would be wrong.
    """
    if record["rows"] != part["rows"]:
        raise SystemExit(f"{record['table']}: {part['rows']} are other rows than {record['rows']}; run all models")
    rows = {row["name"]: row for row in record["models"]} | {row["name"]: row for row in part["models"]}
    order = sorted((row for row in rows.values() if "failed" not in row), key=lambda row: -float(row["mean"]))
    if next((row["name"] for row in record["models"] if row.get("rank") == 1), None) != order[0]["name"]:
        raise SystemExit(f"{record['table']}: {order[0]['name']} is now the best; run all models")
    ranked = [row | {"rank": place} for place, row in enumerate(order, 1)]
    again = {key: part[key] for key in ("command", "minutes", "date")}
    earlier = [one for one in _again(record) if one["command"] != part["command"]]
    failed = [row for row in rows.values() if "failed" in row]
    return record | {"models": ranked + failed, "again": [*earlier, again]}


def _again(record: Record) -> list[Record]:
    """The later runs of some of a table's models."""
    return list(record.get("again", []))


def cell(row: Record) -> str:
    """Likelihood, error and kind of one model on one table; the highest guaranteed value is bold."""
    if "failed" in row:
        return "failed"
    error = float(row["se"])
    digits = 3 if error < 0.02 else 2 if error < 0.2 else 1
    text = f"{float(row['mean']):.{digits}f} ± {error:.{digits}f} ({row['kind']})"
    return f"**{text}**" if row["rank"] == 1 else text


def page(records: Sequence[Record]) -> str:
    """The page as Markdown; models stand in the order of their mean rank."""
    records = sorted(records, key=lambda record: [*LARGE, *SMALL].index(record["table"]))
    rows = {record["table"]: {row["name"]: row for row in record["models"]} for record in records}
    models = list(dict.fromkeys(name for row in rows.values() for name in row))
    ranks = {name: [row[name].get("rank") or len(models) for row in rows.values() if name in row] for name in models}
    models.sort(key=lambda name: sum(ranks[name]) / len(ranks[name]))
    parts = [
        "# Every model on many tables",
        tidy(
            "After this page you know how the models compare out of the box: defaults, one seed, "
            "the minutes of training in the command below each table (tree ensembles grow as many trees as fit into "
            "them), one thread a network on 2 busy cores (x86-64)."
        ),
        tidy(
            "Held-out log-likelihood in nats a row, in each table's own units: a column compares models, a row does "
            "not compare tables. Bold: the highest guaranteed value. The sentence below a table's name says what "
            "follows. Tables are those of `benchmarks/results.py`; Adult with six minutes a model is in "
            "[the page of the discrete models](../models/discrete.md)."
        ),
    ]
    missing = [table for table in (*LARGE, *SMALL) if table not in rows]
    if missing:
        parts.append(tidy(f"Not run yet: {', '.join(missing)}."))
    early = [record["table"] for record in records if record["date"] < CHANGED]
    if early:
        parts.append(tidy(f"Run before models learned the {CHANGE}, from which most gain: {', '.join(early)}."))
    parts += [
        markdown_table(
            ["model", *rows],
            (
                [f"`{name}`", *("not taken" if name not in row else cell(row[name]) for row in rows.values())]
                for name in models
            ),
        ),
        tidy(
            "Mean rank over the tables that a model takes (1 is best): "
            + ", ".join(f"`{name}` {sum(ranks[name]) / len(ranks[name]):.1f}" for name in models)
            + "."
        ),
    ]
    for record in records:
        splits = ", ".join(f"{record['rows'][split]} {split}" for split in SPLITS if split in record["rows"])
        in_time = "; split in time" if record["table"] in IN_TIME else ""
        failed = [f"- `{row['name']}` failed: {row['failed']}" for row in record["models"] if "failed" in row]
        parts += [
            f"## {record['table']}",
            tidy(f"Rows: {splits}{in_time}. {record['conclusion']}"),
            *(["\n".join(tidy(line, "  ") for line in failed)] if failed else []),
            "\n".join(
                f"    {r['command']}    # {r['minutes']} minutes, {r['date']}" for r in [record, *_again(record)]
            ),
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
    given.run_dir.mkdir(parents=True, exist_ok=True)
    for table in given.tables:
        words = command_of(table, given.folder, given)
        shown = [Path(word).name if os.sep in word and not word.startswith("genzoo:") else word for word in words]
        command = shlex.join(["genzoo", *shown[: shown.index("--run_dir")], *(["--ordered"] * (table in IN_TIME))])
        print(f"== {command}", flush=True)
        clock = given.run_dir / f"{table}.seconds"
        started = time.monotonic()
        spent = float(clock.read_text(encoding="utf-8")) if clock.exists() else 0.0
        try:
            code = subprocess.call([sys.executable, "-m", "genzoo.main", *words])
        finally:  # a table that is gone on with took the time of all its runs
            spent += time.monotonic() - started
            clock.write_text(f"{spent:.0f}\n", encoding="utf-8")
        if code == 0 and given.output is not None:
            report = json.loads((given.run_dir / table / "report.json").read_text(encoding="utf-8"))
            kept = given.output.with_suffix(".json")
            record = record_of(table, command, spent, report)
            earlier = [r for r in load_records(kept) if r["table"] == table]
            if given.models != "all" and earlier:
                record = renewed(earlier[0], record)
            keep_record(kept, record, ["table"])
            given.output.write_text(page(load_records(kept)), encoding="utf-8")


if __name__ == "__main__":
    main()
