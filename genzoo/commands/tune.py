"""``genzoo tune FILE --model NAME``: a resumable search for better hyper-parameters, by validation likelihood."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from genzoo.commands.names import find_model
from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, UsageError, add_seed, positive, whole_number, words
from genzoo.errors import GenZooError


def run(arguments: list[str]) -> int:
    """Runs trials until there are ``--trials`` of them, prints the best and writes its recipe."""
    given = parser().parse(arguments)
    target = require_writable(given.output, given.overwrite) if given.output else None
    if target is not None and target.suffix not in (".yaml", ".yml"):
        raise UsageError(f"-o {given.output}: the best arguments are written as a recipe; end its name with .yaml")

    from genzoo.commands.sources import make_source, source_of
    from genzoo.models.training import quiet
    from genzoo.models.tuning import open_study, space_of

    quiet()
    space_of(given.model)
    source = source_of(given.file, given.seed, schema=given.schema, context=given.context, ignore=given.ignore)
    datamodule = make_source(source)
    if not len(datamodule.data("val")):
        raise GenZooError(f"'{datamodule.name}' has no validation rows to judge trials by; give more rows")
    path = Path(given.study or f"tune-{given.model}-{datamodule.name}.db")
    # a study belongs to a table, a model and a split: trials of others may not be set beside these
    title = f"{given.model} {datamodule.schema.fingerprint[:12]} seed {given.seed} epochs {given.epochs}"
    study = open_study(path, title, given.seed)
    if not given.worker:
        print(f"{datamodule.name}: {len(_done(study))} of {given.trials} trials are done; study {path}", flush=True)
    if given.jobs > 1 and not given.worker:
        _run_workers(arguments, given.jobs, path)
    else:
        _run_trials(study, given, datamodule)
    if given.worker:
        return 0
    return _finish(study, given, source, target)


def parser() -> Parser:
    """Options of the command."""
    options = Parser(
        "tune",
        "Search for hyper-parameters with a higher validation likelihood. The first trial has the defaults; a search "
        "goes on where it stopped when it is started again with the same study.",
    )
    options.add_argument("file", metavar="FILE", help="table; or sklearn:wine, genzoo:adult, toy:two_moons")
    options.add_argument("--model", required=True, metavar="NAME", help="model of the catalogue")
    options.add_argument("--trials", type=whole_number(1), default=20, help="trainings in all, earlier ones included")
    options.add_argument("--study", metavar="FILE.db", help="where trials are kept; by default tune-MODEL-TABLE.db")
    options.add_argument(
        "-o", "--output", metavar="FILE.yaml", help="recipe of the best trial, for genzoo fit --config"
    )
    options.add_argument("--overwrite", action="store_true", help="replace the recipe if it exists")
    options.add_argument("--schema", metavar="YAML", help="schema, as genzoo schema writes it")
    options.add_argument("--context", type=words, metavar="A,B", help="columns to condition on")
    options.add_argument("--ignore", type=words, metavar="A,B", help="columns to leave out")
    options.add_argument("--epochs", type=whole_number(1), help="most epochs of a trial")
    options.add_argument("--minutes", type=positive, help="longest training time of a trial")
    options.add_argument("--jobs", type=whole_number(1), default=1, help="trials at the same time, each a process")
    options.add_argument("--worker", action="store_true", help="one of the processes of --jobs")
    add_seed(options, "seed of split, training and search")
    return options


def _run_trials(study: Any, given: Namespace, datamodule: Any) -> None:
    from genzoo.models.catalogue import model_class
    from genzoo.models.training import time_limit
    from genzoo.models.tuning import require_optuna, run_trial, space_of

    optuna = require_optuna()
    kind = model_class(find_model(given.model))
    options: dict[str, Any] = {}
    if given.epochs is not None:
        options["max_epochs"] = given.epochs
    if given.minutes is not None:
        options["max_time"] = time_limit(given.minutes)

    def objective(trial: Any) -> float:
        return run_trial(trial, kind, {"seed": given.seed}, datamodule, space_of(given.model), options)

    def told(study: Any, trial: Any) -> None:
        value = f"{-trial.value:.4f} nats a row" if trial.state.name == "COMPLETE" else _reason(trial)
        print(f"  trial {trial.number}: {value}; {_words(trial.user_attrs.get('arguments'))}", flush=True)
        if len(_done(study)) >= given.trials:
            study.stop()

    if len(_done(study)) < given.trials:
        states = optuna.trial.TrialState
        limit = optuna.study.MaxTrialsCallback(given.trials, states=(states.COMPLETE, states.PRUNED, states.FAIL))
        try:
            study.optimize(objective, callbacks=[told, limit])
        except KeyboardInterrupt:
            raise KeyboardInterrupt("trials that ended are kept; start again to go on") from None


def _run_workers(arguments: list[str], jobs: int, path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "genzoo.main", "tune", *arguments, "--worker", "--study", str(path)]
    children = [subprocess.Popen(command, env=environment) for _ in range(jobs)]
    codes = [child.wait() for child in children]
    if any(codes):
        raise GenZooError(f"{sum(map(bool, codes))} of {jobs} search processes failed; their words are above")


def _done(study: Any) -> list[Any]:
    """Trials that ended, in any way."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _finish(study: Any, given: Namespace, source: dict[str, Any], target: Path | None) -> int:
    import yaml

    from genzoo.reports.writing import write_texts

    complete = sorted((t for t in _done(study) if t.state.name == "COMPLETE"), key=lambda t: t.value)
    if not complete:
        raise GenZooError("no trial could be trained to its end; " + "; ".join({_reason(t) for t in _done(study)}))
    print()
    print(trial_table(_done(study)))
    best, first = complete[0], next((t for t in complete if t.number == 0), None)
    gain = f", {first.value - best.value:.4f} above the defaults" if first is not None else ""
    print(f"\nbest: trial {best.number}, {-best.value:.4f} nats a row on validation rows{gain}")
    print("The best of many trials looks better on validation rows than it is: compare it on test rows.")
    arguments = {**best.user_attrs["arguments"], "seed": given.seed}
    recipe: dict[str, Any] = {
        "model": {"class_path": find_model(given.model), "init_args": arguments},
        "data": source,
    }
    if given.epochs is not None:
        recipe["trainer"] = {"max_epochs": given.epochs}
    if target is None:
        print(f"arguments: {_words(arguments)}; a recipe of them: -o best.yaml")
        return 0
    head = (
        f"# Best of {len(_done(study))} trials: {-best.value:.4f} nats a row on validation rows.\n"
        f"# genzoo fit --config {target.name}\n# Made by: genzoo tune {shlex.quote(given.file)} --model {given.model}\n"
    )
    write_texts({target: head + yaml.safe_dump(recipe, sort_keys=False)}, given.overwrite)
    print(f"wrote {target}; train it with genzoo fit --config {target}")
    return 0


def trial_table(trials: list[Any]) -> str:
    """One line a trial, best first: number, validation log-likelihood, seconds, parameters, arguments."""
    from genzoo.reports import formats

    lines = [("trial", "val, nats", "time", "parameters", "arguments")]
    order = sorted(trials, key=lambda t: (t.value is None or t.state.name != "COMPLETE", t.value or 0.0))
    for trial in order:
        ended = trial.state.name == "COMPLETE"
        seconds = trial.duration.total_seconds() if trial.duration is not None else None
        lines.append(
            (
                str(trial.number),
                f"{-trial.value:.4f}" if ended else "stopped",
                formats.duration(seconds),
                formats.size(trial.user_attrs.get("parameters")),
                _words(trial.user_attrs.get("arguments")) if ended else _reason(trial),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)) + "  " + line[4] for line in lines)


def _reason(trial: Any) -> str:
    from genzoo.models.tuning import UNFIT

    return trial.user_attrs.get(UNFIT) or ("stopped early" if trial.state.name == "PRUNED" else "failed")


def _words(arguments: dict[str, Any] | None) -> str:
    if not arguments:
        return "defaults"
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in arguments.items())
