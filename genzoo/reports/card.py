"""A model card: what a trained model is, what it was trained on, what was measured, and what it is not for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo.models.catalogue import CATALOGUE, Entry
from genzoo.reports import formats
from genzoo.reports.schema_text import schema_rows

if TYPE_CHECKING:
    from genzoo.likelihood.log_likelihood import LogLikelihood
    from genzoo.models.base import DensityModel


def model_card(model: DensityModel, test: LogLikelihood | None = None) -> str:
    """The card as Markdown.

    Args:
        model: A trained model.
        test: Its likelihood on held-out rows, if it was measured.

    References:
        Mitchell et al. (2019), Model cards for model reporting, arXiv:1810.03993.
    """
    entry = entry_of(model)
    schema = model.schema
    record = model.training_record
    title = entry.key if entry else type(model).__name__
    blocks = [f"# {title} on {schema.source or 'a table in memory'}"]
    if entry:
        blocks.append(entry.summary)
    facts = [
        ("Class", record.get("class") or f"{type(model).__module__}.{type(model).__qualname__}"),
        ("Paper", entry.paper if entry else ""),
        ("Parameters", formats.count(model.num_parameters)),
        ("Training", _training(record)),
        ("Versions", ", ".join(f"{k} {v}" for k, v in model.checkpoint_record()["versions"].items())),
    ]
    blocks.append(_table(("", ""), [line for line in facts if line[1]]))
    blocks += ["## Data", _table(("", ""), _data_facts(model))]
    blocks.append(_table(("Column", "Kind", "Role", "What is scored", "Known values", "Missing"), schema_rows(schema)))
    blocks += ["## Measured", _measured(model, test)]
    blocks += ["## Configuration", _configuration(model)]
    blocks += ["## Limits", "\n".join(f"- {line}" for line in limits(model))]
    blocks += ["## Intended use", "\n".join(f"- {line}" for line in uses(model))]
    return "\n\n".join(blocks) + "\n"


def entry_of(model: DensityModel) -> Entry | None:
    """The model's line of the catalogue, if it has one."""
    path = f"{type(model).__module__}.{type(model).__qualname__}"
    return next((entry for entry in CATALOGUE.values() if entry.class_path == path), None)


def stored_test(run: str | Path) -> LogLikelihood | None:
    """The test likelihood that lies in a run folder, if ``genzoo test`` or ``fit`` wrote one."""
    from genzoo.likelihood.log_likelihood import LogLikelihood

    folder = Path(run)
    if not folder.is_dir():
        folder = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    path = folder / "test_log_likelihood.parquet"
    return LogLikelihood.load(path) if path.is_file() else None


def _training(record: dict[str, Any]) -> str:
    parts = []
    if record.get("epochs"):
        parts.append(f"{record['epochs']} epochs")
    if record.get("steps"):
        parts.append(f"{record['steps']} steps")
    if record.get("seconds") is not None:
        parts.append(formats.duration(record["seconds"]))
    return ", ".join(parts)


def _data_facts(model: DensityModel) -> list[tuple[str, str]]:
    schema = model.schema
    data = (model.training_record.get("data") or {}).get("init_args", {})
    options = ("split", "time", "group", "split_column", "val", "test", "seed")
    given = {key: data[key] for key in options if data.get(key)}
    split = ", ".join(f"{key} {value}" for key, value in given.items())
    lines = [
        ("Table", schema.source or "in memory"),
        ("Fingerprint", schema.fingerprint),
        ("Rows", f"{formats.count(schema.num_rows)}, of which {formats.count(schema.num_training_rows)} trained"),
        ("Split", split or "by default: at random by the seed, or in time where a column says so"),
        ("Scored columns", formats.count(len(model.view.scored))),
        ("Row weights", f"column {schema.weight.name}" if schema.weight is not None else ""),
        ("Conditioned on", ", ".join(c.name for c in model.view.context) or "nothing"),
    ]
    return [(key, value) for key, value in lines if value]


def _measured(model: DensityModel, test: LogLikelihood | None) -> str:
    lines = []
    if test is not None:
        worth = f" (weighted, worth {formats.count(round(test.num_effective))})" if test.weights is not None else ""
        value = f"{test.label()}, {formats.count(len(test))} held-out rows{worth}; {test.method}"
        lines.append(("Test log-likelihood, nats a row", value))
        summary = test.summary()
        lines.append(("Median, worst row", f"{formats.number(summary['median'])}, {formats.number(summary['min'])}"))
        for key, words in (("unseen", "unseen categories"), ("off_grid", "values off their grid")):
            if test.counts.get(key):
                lines.append((words, formats.count(test.counts[key])))
    for name, value in (model.training_record.get("metrics") or {}).items():
        if name.startswith("val/"):
            lines.append((f"Validation {name.removeprefix('val/')}", formats.number(value)))
    if not lines:
        return "Nothing was measured on held-out rows yet; `genzoo test RUN` does."
    return _table(("", ""), lines)


def _configuration(model: DensityModel) -> str:
    given = {key: value for key, value in model.init_args.items() if key != "schema"}
    if not given:
        return "Defaults only."
    return "\n".join(f"- `{key}`: {value}" for key, value in given.items())


def limits(model: DensityModel) -> list[str]:
    """What a reader must not conclude, from capabilities and schema."""
    c, schema = model.capabilities, model.schema
    kind = {
        "exact": "exact up to rounding",
        "lower_bound": "a lower bound: the true value is at least this high",
        "upper_bound": "an upper bound: the true value may be lower",
        "estimate": "an estimate with a standard error",
        "unnormalised": "known up to a constant only",
    }[model.likelihood_kind]
    lines = [f"The likelihood on this table is {kind}; units are those of the table, nats per row."]
    lines.append(
        "It describes rows drawn as the training rows were; a low likelihood elsewhere is no proof of an error."
    )
    if any(column.is_categorical and not column.closed for column in schema.scored):
        lines.append(
            f"A category that training rows did not hold gets probability {schema.epsilon:.2g}, for every model."
        )
    if c.missing == "no":
        lines.append("It takes complete rows only.")
    elif c.uses_mask:
        lines.append("It reads which cells are missing, but does not model why they are.")
    else:
        lines.append("Missing cells are left out of the likelihood; why they are missing is not modelled.")
    if not c.imputes:
        lines.append("It does not fill in missing cells.")
    lines.append(
        "Samples are not anonymous by themselves: look at the privacy section of a report before sharing them."
    )
    return lines


def uses(model: DensityModel) -> list[str]:
    """What the model can be asked for."""
    c = model.capabilities
    lines = ["Log-likelihood of rows of this table: `genzoo score RUN rows.csv`."]
    if c.samples:
        lines.append("Rows that look like the table: `genzoo sample RUN -n 1000 -o synthetic.parquet`.")
    if c.imputes:
        lines.append("Missing cells filled in by draws: `genzoo impute RUN holes.csv -o filled.csv`.")
    lines.append("Comparison with other models on the same rows: `genzoo report RUN RUN -o report.html`.")
    return lines


def _table(head: tuple[str, ...], lines: list[Any]) -> str:
    rows = [head, tuple("---" for _ in head), *lines]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
