"""``genzoo compare FILE``: train several models on one table, each in its own process, and report which is best."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from genzoo.commands.names import find_model
from genzoo.commands.output import new_folder, require_report
from genzoo.commands.parsing import (
    Parser,
    UsageError,
    add_output,
    add_sections,
    add_seed,
    positive,
    whole_number,
    words,
)
from genzoo.errors import GenZooError

DEFAULT_MODELS = ["independent", "gaussian", "mixture", "spline_flow"]


def run(arguments: list[str]) -> int:
    """Trains, evaluates on the same held-out rows, prints the table and writes the report."""
    given = parser().parse(arguments)
    names = list(dict.fromkeys(given.models))
    paths = {name: find_model(name) for name in names}
    twice = [name for name in names if list(paths.values()).count(paths[name]) > 1]
    if twice:
        raise UsageError(f"--models names one model twice: {' and '.join(twice)}")
    target = require_report(given.output, given.overwrite) if "output" in given else None

    from genzoo.commands.jobs import Job, prepare_jobs, run_jobs
    from genzoo.commands.sources import facts_of, make_source, source_of
    from genzoo.evaluation.likelihood import oracle_result
    from genzoo.models.training import quiet, run_folder
    from genzoo.reports.comparison import Comparison

    quiet()
    source = source_of(given.file, given.seed, schema=given.schema, context=given.context, ignore=given.ignore)
    datamodule = make_source(source)
    test = datamodule.data("test")
    if not len(test):
        raise GenZooError(f"'{datamodule.name}' has no test rows to compare on; give more rows")
    folder = run_folder("compare", datamodule.name) if given.run_dir is None else new_folder(given.run_dir)
    print(f"{datamodule.name}: {_counts(datamodule)}; work folder {folder}", flush=True)
    for column in datamodule.schema.scored:
        if "an identifier?" in column.note:
            print(f"  column '{column.name}' holds {column.note.partition(':')[0]}; an identifier? then --ignore it")
    jobs = [Job(name, paths[name]) for name in names]
    prepare_jobs(jobs, folder, datamodule, source, given)
    results: list[Any] = run_jobs(jobs, given.jobs, debug=bool(os.environ.get("GENZOO_DEBUG")))
    scored = [result for result in results if result.likelihood is not None]
    oracle = datamodule.oracle_log_prob(test)
    if oracle is not None and scored:
        results.append(oracle_result(oracle, scored[0].likelihood))
    facts = facts_of(datamodule) | {"seed": given.seed, "command": shlex.join(["genzoo", "compare", *arguments])}
    comparison = Comparison(
        results=results,
        schema=datamodule.schema,
        data_frame=datamodule.frame("test"),
        facts=facts,
        ordered=datamodule.ordered,
    )
    print()
    print(comparison)
    written = comparison.write(target or folder / "report.html", overwrite=given.overwrite)
    print()
    print(f"wrote {', '.join(map(str, written))}")
    if not scored:
        raise GenZooError("no model could be trained; the report names each reason")
    print(f"trained models: {folder}/MODEL, for genzoo sample, impute, score and report")
    return 0


def parser() -> Parser:
    """Options of the command."""
    options = Parser(
        "compare",
        "Train several models on one table, each in its own process, evaluate them on the same held-out rows, "
        "and report which describes the table best and how sure that is.",
    )
    options.add_argument("file", metavar="FILE", help="table; or sklearn:wine, genzoo:adult, toy:two_moons")
    options.add_argument(
        "--models", type=words, default=DEFAULT_MODELS, metavar="A,B,C", help="names of genzoo models, with commas"
    )
    add_output(options, "report: .html (with .md, .csv and .tex beside it), .md, .csv, .tex or .json", required=False)
    options.add_argument("--run_dir", metavar="FOLDER", help="work folder; by default runs/<date>-compare-<table>")
    options.add_argument("--schema", metavar="YAML", help="schema, as genzoo schema writes it")
    options.add_argument("--context", type=words, metavar="A,B", help="columns to condition on")
    options.add_argument("--ignore", type=words, metavar="A,B", help="columns to leave out")
    options.add_argument("--minutes", type=positive, help="longest training time of a model")
    options.add_argument("--epochs", type=whole_number(1), help="most epochs of a model")
    options.add_argument(
        "--samples", type=whole_number(0), default=1000, help="rows drawn from each model for pictures"
    )
    add_sections(options)
    options.add_argument("--jobs", type=whole_number(1), default=1, help="models trained at the same time")
    options.add_argument("--threads", type=whole_number(1), default=1, help="threads of each model")
    add_seed(options, "seed of split, training and evaluation")
    return options


def _counts(datamodule: Any) -> str:
    sizes = {split: len(datamodule.data(split)) for split in ("train", "val", "test")}
    return f"{sizes['train']} training, {sizes['val']} validation, {sizes['test']} test rows"


def model_folder(root: Path, name: str) -> Path:
    """Run folder of one model of a comparison."""
    return root / "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
