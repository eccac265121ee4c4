"""``genzoo compare FILE``: train several models on one table, each in its own process, and report which is best."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from genzoo.commands.table_text import column_remarks, rows_text
from genzoo.errors import CapabilityError, GenZooError
from genzoo.models.catalogue import CATALOGUE

if TYPE_CHECKING:
    from genzoo.reports.comparison import Comparison
    from genzoo.tables.schema import Schema

ALL = "all"
DEFAULT_MODELS = ["independent", "gaussian", "mixture", "spline_flow"]


def require_one_estimand(models: Mapping[str, str]) -> None:
    """Refuses, before anything is trained, models whose likelihoods answer different questions.

    Args:
        models: Names and class paths.

    Raises:
        UsageError: names one model of each kind.
    """
    estimands = {entry.class_path: entry.capabilities.estimand for entry in CATALOGUE.values()}
    found = {estimands.get(path, "observational"): name for name, path in models.items()}
    if len(found) > 1:
        raise UsageError(
            f"'{found['interventional']}' gives p(Y[a]), the outcome had everyone been treated so, and "
            f"'{found['observational']}' a density of the rows as they come: the two are never compared; "
            "compare models of one kind, and look at effects with genzoo effect RUN"
        )


def run(arguments: list[str]) -> int:
    """Trains, evaluates on the same held-out rows, prints the table and writes the report."""
    given = parser().parse(arguments)
    names = list(dict.fromkeys(given.models))
    if ALL in names:
        if len(names) > 1:
            raise UsageError(f"--models {ALL} takes every model that accepts the table; name no other beside it")
        names = [entry.key for entry in CATALOGUE.values() if entry.capabilities.estimand == "observational"]
    models = {name: find_model(name) for name in names}
    twice = [name for name in names if list(models.values()).count(models[name]) > 1]
    if twice:
        raise UsageError(f"--models names one model twice: {' and '.join(twice)}")
    require_one_estimand(models)
    if given.resume and given.run_dir is None:
        raise UsageError("--resume goes on with a comparison; name its work folder with --run_dir")
    target = require_report(given.output, given.overwrite, given.files) if "output" in given else None

    from genzoo.models.training import quiet

    quiet()
    if len(given.files) > 1:
        from genzoo.commands.across import compare_tables

        return compare_tables(models, given, arguments, target)
    comparison, folder = compare_table(models, given, arguments, given.files[0], given.run_dir)
    print()
    print(comparison)
    written = comparison.write(target or folder / "report.html", overwrite=given.overwrite or given.resume)
    print()
    print(f"wrote {', '.join(map(str, written))}")
    require_some(comparison)
    print(f"trained models: {folder}/MODEL, for genzoo sample, impute, score and report")
    return 0


def accepting(models: Mapping[str, str], schema: Schema) -> dict[str, str]:
    """The models that can take the table; names the others and why.

    Args:
        models: Catalogue keys and class paths.
        schema: What the columns are.
    """
    from genzoo.models.fit_check import require_capable, require_roles

    kept = {}
    for name, path in models.items():
        try:
            require_roles(name, CATALOGUE[name].capabilities, schema)
            require_capable(name, CATALOGUE[name].capabilities, schema)
        except CapabilityError as error:
            print(f"  left out: {error}", flush=True)
        else:
            kept[name] = path
    return kept


def require_some(comparison: Comparison) -> None:
    """Refuses a comparison without one model that could be trained."""
    if all(result.likelihood is None for result in comparison.results):
        raise GenZooError("no model could be trained; the report names each reason")


def compare_table(
    models: Mapping[str, str], given: Namespace, arguments: list[str], file: str, run_dir: str | Path | None
) -> tuple[Comparison, Path]:
    """Trains every model on one table and sets the results side by side.

    Args:
        models: Name to class path.
        given: Options of the command.
        arguments: What was typed, for the report.
        file: The table.
        run_dir: Work folder; ``None`` makes a new one under ``runs``.

    Returns:
        The comparison and its work folder.
    """
    from genzoo.commands.jobs import prepare_jobs, run_jobs
    from genzoo.commands.sources import facts_of, make_source, source_of
    from genzoo.evaluation.likelihood import oracle_result, shown_rows
    from genzoo.models.training import run_folder
    from genzoo.reports.combining import combine
    from genzoo.reports.comparison import Comparison

    roles = {role: getattr(given, role) for role in ("context", "ignore", "treatment", "outcome", "sensitive")}
    places = {"schema": given.schema, "time": given.time, "group": given.group, "weight": given.weight}
    if given.ordered:
        places["split"] = "ordered"
    source = source_of(file, given.seed, **roles, **places)
    datamodule = make_source(source)
    test = datamodule.data("test")
    if not len(test):
        raise GenZooError(f"'{datamodule.name}' has no test rows to compare on; give more rows")
    if run_dir is None:
        folder = run_folder("compare", datamodule.name)
    else:
        folder = Path(run_dir) if given.resume and Path(run_dir).is_dir() else new_folder(run_dir)
    print(f"{datamodule.name}: {rows_text(datamodule)}; work folder {folder}", flush=True)
    for line in column_remarks(datamodule, "--ignore"):
        print(f"  {line}", flush=True)
    if given.models == [ALL]:
        models = accepting(models, datamodule.schema)
    jobs = prepare_jobs(models, folder, datamodule, source, given)
    outcomes = run_jobs(jobs, given.jobs, folder)
    runs = {name: [(j.seed, j.fold, r) for j, r in zip(jobs, outcomes) if j.name == name] for name in models}
    results: list[Any] = [combine(name, found) for name, found in runs.items()]
    scored = [result for result in results if result.likelihood is not None]
    oracle = datamodule.oracle_log_prob(test)
    if oracle is not None and scored:
        results.append(oracle_result(oracle, scored[0].likelihood))
    facts = facts_of(datamodule) | {"seed": given.seed, "command": shlex.join(["genzoo", "compare", *arguments])}
    frame = shown_rows(datamodule.frame("test"), test, given.seed)
    if given.seeds > 1:
        facts["seeds"] = f"{given.seeds} training seeds; their spread is an error common to all rows"
    if given.folds > 1:
        import narwhals as nw

        facts |= {"splits": {"tested in turn": sum(facts["splits"].values())}, "split": f"{given.folds} folds"}
        facts.pop("shared_rows")
        frame = nw.concat(
            [
                shown_rows(datamodule.frame(split), datamodule.data(split), given.seed)
                for split in ("train", "val", "test")
            ]
        )
    comparison = Comparison(
        results=results, schema=datamodule.schema, data_frame=frame, facts=facts, ordered=datamodule.ordered
    )
    return comparison, folder


def parser() -> Parser:
    """Options of the command."""
    options = Parser(
        "compare",
        "Train several models on one table, each in its own process, evaluate them on the same held-out rows, "
        "and report which describes the table best and how sure that is.",
    )
    options.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="table; or sklearn:wine, genzoo:adult, toy:two_moons; several are compared one by one and across",
    )
    options.add_argument(
        "--models",
        type=words,
        default=DEFAULT_MODELS,
        metavar="A,B,C",
        help=f"names of genzoo models, with commas; {ALL}: every one that accepts the table",
    )
    add_output(options, "report: .html (with .md, .csv and .tex beside it), .md, .csv, .tex or .json", required=False)
    options.add_argument("--run_dir", metavar="FOLDER", help="work folder; by default runs/<date>-compare-<table>")
    options.add_argument("--schema", metavar="YAML", help="schema, as genzoo schema writes it")
    options.add_argument("--context", type=words, metavar="A,B", help="columns to condition on")
    options.add_argument("--ignore", type=words, metavar="A,B", help="columns to leave out")
    for role in ("treatment", "outcome", "sensitive"):
        options.add_argument(f"--{role}", type=words, metavar="A", help=f"{role} column, for models that need one")
    options.add_argument("--weight", metavar="A", help="column that says how much each row counts (numbers above 0)")
    options.add_argument("--time", metavar="A", help="column of times: the latest rows test")
    options.add_argument("--group", metavar="A", help="column of groups: rows of one group stay together")
    options.add_argument("--ordered", action="store_true", help="the last rows of the file test")
    options.add_argument("--folds", type=whole_number(1), default=1, help="cross-validation: every row is tested once")
    options.add_argument("--seeds", type=whole_number(1), default=1, help="training seeds a model; means are compared")
    options.add_argument(
        "--resume", action="store_true", help="go on with the comparison in --run_dir; finished models are kept"
    )
    options.add_argument("--minutes", type=positive, help="longest training time of a model")
    options.add_argument("--epochs", type=whole_number(1), help="most epochs of a model")
    options.add_argument(
        "--discretised_draws",
        type=whole_number(0),
        default=16,
        help="points in the cell of a row for the discretised likelihood of columns with a density, a pass of "
        "the model each; 0 leaves it out, where scoring is slow",
    )
    options.add_argument(
        "--samples", type=whole_number(0), default=1000, help="rows drawn from each model for pictures"
    )
    add_sections(options)
    options.add_argument("--jobs", type=whole_number(1), default=1, help="models trained at the same time")
    options.add_argument("--threads", type=whole_number(1), default=1, help="threads of each model")
    add_seed(options, "seed of split, training and evaluation")
    return options
