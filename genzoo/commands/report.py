"""``genzoo report RUN RUN ...``: compare runs that exist, on their test rows or on new ones."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo.commands.output import require_report
from genzoo.commands.parsing import Parser, add_output, add_sections, add_seed, whole_number
from genzoo.commands.table_text import learned_from
from genzoo.errors import CheckpointError, GenZooError

if TYPE_CHECKING:
    from genzoo.models.base import DensityModel
    from genzoo.reports.results import ModelResult


def run(arguments: list[str]) -> int:
    """Scores existing runs on the same rows, prints the table and writes the report."""
    parser = Parser("report", "Compare runs that exist, on their test rows or on the rows of a new file.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, checkpoint, or folder of genzoo compare")
    parser.add_argument("--on", metavar="FILE", help="rows to compare on instead of the test rows")
    add_output(parser, "report: .html (with .md, .csv and .tex beside it), .md, .csv, .tex or .json")
    parser.add_argument("--samples", type=whole_number(0), default=1000, help="rows drawn from each model for pictures")
    add_sections(parser)
    add_seed(parser, "seed of evaluation noise and samples")
    given = parser.parse(arguments)
    target = require_report(given.output, given.overwrite, [given.on])

    from genzoo.commands.sources import facts_of
    from genzoo.evaluation.likelihood import oracle_result, shown_rows
    from genzoo.models.checkpoint import load, versions
    from genzoo.models.training import quiet
    from genzoo.reports.comparison import Comparison
    from genzoo.reports.verdicts import listed
    from genzoo.tables.dependence import unlimited_text
    from genzoo.tables.frames import read_frame, source_name

    quiet()
    models = named({path: load(path) for path in expanded(given.runs)})
    facts: dict[str, Any]
    if given.on is not None:
        schema = next(iter(models.values())).schema
        frame = read_frame(given.on, schema=schema)
        results = [_evaluated(name, model, given, rows=_encoded(frame, model)) for name, model in models.items()]
        rows = _encoded(frame, next(iter(models.values())))
        if schema.weight is not None:
            frame = shown_rows(frame, rows, given.seed)
        facts = {"table": source_name(given.on), "versions": versions(), "warnings": unlimited_text(rows)}
        ordered = False
        seen = [name for name, model in models.items() if learned_from(model, given.on)]
        if seen:
            facts["warnings"] += [
                f"'{given.on}' is the table that {listed(seen)} learned from: most of its rows are no held-out rows; "
                "without --on a run is evaluated on its own test rows"
            ]
    else:
        sources = Sources()
        results = [_evaluated(name, model, given, source=sources.of(name, model)) for name, model in models.items()]
        datamodule = sources.first
        schema, ordered = datamodule.schema, datamodule.ordered
        frame = shown_rows(datamodule.frame("test"), datamodule.data("test"), given.seed)
        facts = facts_of(datamodule)
        facts["warnings"] += sources.warnings
        if datamodule.log_scale:
            facts["original units"] = "; ".join(
                f"{result.name} {result.likelihood.shifted(-datamodule.log_scale).label()}"
                for result in results
                if result.likelihood is not None
            )
        oracle = datamodule.oracle_log_prob(datamodule.data("test"))
        scored = [result.likelihood for result in results if result.likelihood is not None]
        if oracle is not None and scored:
            results.append(oracle_result(oracle, scored[0]))
    facts |= {"seed": given.seed, "command": shlex.join(["genzoo", "report", *arguments])}
    comparison = Comparison(results=results, schema=schema, data_frame=frame, facts=facts, ordered=ordered)
    print(comparison)
    written = comparison.write(target, overwrite=given.overwrite)
    print()
    print(f"wrote {', '.join(map(str, written))}")
    return 0


def expanded(runs: list[str]) -> list[Path]:
    """Run folders and checkpoints; the folder of a comparison stands for the runs in it.

    Raises:
        CheckpointError: a path is none of these.
    """
    from genzoo.models.checkpoint import checkpoint_path

    found: list[Path] = []
    for run in runs:
        inner = sorted(path.parent.parent for path in Path(run).glob("*/checkpoints/best.ckpt"))
        if not inner:
            checkpoint_path(run)
        found += inner or [Path(run)]
    twice = sorted({str(path) for path in found if found.count(path) > 1})
    if twice:
        raise CheckpointError(f"run '{twice[0]}' is named twice")
    return found


def named(models: dict[Path, DensityModel]) -> dict[str, DensityModel]:
    """Models under their catalogue key; where two share one, the name of the run is added."""
    from genzoo.models.catalogue import CATALOGUE

    paths = {entry.class_path: key for key, entry in CATALOGUE.items()}
    keys = {
        path: paths.get(f"{type(m).__module__}.{type(m).__qualname__}", type(m).__name__) for path, m in models.items()
    }
    names: dict[str, DensityModel] = {}
    for path, model in models.items():
        name = keys[path]
        if list(keys.values()).count(name) > 1:
            run = path.parent.parent if path.suffix == ".ckpt" and path.parent.name == "checkpoints" else path
            name = f"{name} ({run.name})"
        number, unique = 2, name
        while unique in names:
            number, unique = number + 1, f"{name} {number}"
        names[unique] = model
    return names


class Sources:
    """The test rows of each run, read once per datamodule."""

    def __init__(self) -> None:
        self.made: list[tuple[dict[str, Any], Any]] = []
        self.warnings: list[str] = []

    @property
    def first(self) -> Any:
        return self.made[0][1]

    def of(self, name: str, model: DensityModel) -> Any:
        """The datamodule of the run, its rows as the model reads them.

        Raises:
            CheckpointError: the run does not say where its rows are.
        """
        from genzoo.commands.restored import adapt_rows, data_changed, trusted_datamodule
        from genzoo.commands.sources import make_source

        record = model.training_record.get("data") or {}
        if not record:
            raise CheckpointError(
                f"{name} was trained on a frame in memory and does not say where its rows are; give --on FILE"
            )
        trusted_datamodule(record["class_path"])
        datamodule = next((made for known, made in self.made if known == record), None)
        if datamodule is None:
            datamodule = make_source(record)
            self.made.append((record, datamodule))
            changed = data_changed(datamodule, model.schema)
            self.warnings += changed
            for line in changed:
                print(line)
        if datamodule.schema.measure != model.schema.measure:
            datamodule = adapt_rows(datamodule, model.schema, record)
        return datamodule


def _encoded(frame: Any, model: DensityModel) -> Any:
    from genzoo.tables.encode import encode_frame

    return encode_frame(frame, model.schema)


def _evaluated(name: str, model: DensityModel, given: Any, rows: Any = None, source: Any = None) -> ModelResult:
    from genzoo.evaluation.likelihood import evaluate_model
    from genzoo.reports.results import ModelResult

    try:
        options: dict[str, Any] = {"seed": given.seed, "samples": given.samples, "sections": given.sections}
        if source is not None:
            rows, options["train"], options["datamodule"] = source.data("test"), source.data("train"), source
        return evaluate_model(name, model, rows, **options)
    except GenZooError as error:
        return ModelResult(name=name, error=str(error))
