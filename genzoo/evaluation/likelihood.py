"""From a trained model and held-out rows to one line of a report."""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genzoo.errors import ComparisonError, DataError, GenZooError
from genzoo.evaluation.sections import Subject, make_sections
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.reports.results import ModelResult

if TYPE_CHECKING:
    from genzoo.models.base import DensityModel
    from genzoo.reports.comparison import Comparison
    from genzoo.tables.encode import TableData


def evaluate_model(
    name: str,
    model: DensityModel,
    data: TableData,
    *,
    seed: int = 0,
    samples: int = 1000,
    discretised_draws: int = 16,
    resolutions: Mapping[str, float] | None = None,
    curves: Mapping[str, list[tuple[float, float]]] | None = None,
    train: TableData | None = None,
    datamodule: Any = None,
    sections: Sequence[str] | None = None,
) -> ModelResult:
    """Scores held-out rows, the discretised likelihood where a column has a density, and draws rows for pictures.

    Args:
        name: Name in the report.
        model: A trained model.
        data: Held-out rows, encoded.
        seed: Seed of evaluation noise and samples: the same draws for every model.
        samples: Rows to draw; 0 draws none.
        discretised_draws: Points a row in the box of the data's resolution, a pass of the model each; 0 leaves the
            discretised likelihood out.
        resolutions: Resolution of each continuous column, in its unit; by default, and for columns it lacks, read off
            the rows themselves.
        curves: Training curves to show.
        train: Training rows, for sections that compare with them.
        datamodule: Where the rows come from, for sections that need more than rows.
        sections: Keys of the report sections to make; ``None`` makes those that apply by default.
    """
    from genzoo.likelihood.discretised import discretised
    from genzoo.likelihood.discretised import resolutions as read_resolutions

    if not len(data):
        raise DataError("there are no held-out rows to score; give a test split or more rows")
    likelihood = model.log_prob(data, seed=seed)
    at_resolution = None
    # where a model scores a part of the columns, a box around whole rows says nothing of it
    whole = model.view.scored == model.schema.scored
    if discretised_draws and whole and any(c.kind in ("continuous", "mixed") for c in model.schema.scored):
        # training rows may hold no value of a column that these do
        widths = {**read_resolutions(data.schema, data), **(resolutions or {})}
        at_resolution = discretised(model, data, draws=discretised_draws, seed=seed, resolutions=widths)
    frame, speed = None, None
    # draws of potential outcomes are not to look like the rows as they come
    if samples and model.capabilities.samples and model.capabilities.estimand == "observational":
        started = time.monotonic()
        given = _context_rows(model, data)
        frame = model.sample(samples, given=given, seed=seed)
        speed = samples / max(time.monotonic() - started, 1e-9)
    record = model.training_record
    subject = Subject(model, unweighted(data, seed), None if train is None else unweighted(train, seed), frame)
    subject = dataclasses.replace(subject, datamodule=datamodule, seed=seed)
    made = make_sections(subject, sections)
    if len(subject.test) < len(data):
        kept = (
            f"Rows have weights: {len(subject.test)} of {len(data)} held-out rows, kept in proportion, stand for them."
        )
        made = tuple(dataclasses.replace(section, note=f"{section.note} {kept}".strip()) for section in made)
    return ModelResult(
        name=name,
        likelihood=likelihood,
        discretised=at_resolution,
        curves=curves or {},
        samples=frame,
        num_parameters=model.num_parameters,
        train_seconds=record.get("seconds"),
        sample_rows_per_second=speed,
        sections=made,
        settings={
            "seed": seed,
            "class": type(model).__name__,
            "float64_difference": model.precision_check(data),
            **likelihood.settings,
        },
    )


def unweighted(data: TableData, seed: int) -> TableData:
    """Rows that stand for all of ``data`` without weights; itself where rows have none."""
    from genzoo.likelihood.noise import seed_of
    from genzoo.tables.weights import equal_weight_rows

    if data.weights is None:
        return data
    return dataclasses.replace(data.select(equal_weight_rows(data.weights, seed_of(seed, "unweighted"))), weights=None)


def shown_rows(frame: Any, data: TableData, seed: int = 0) -> Any:
    """Rows of a frame for pictures beside samples, which have no weights: those of :func:`unweighted`."""
    from genzoo.likelihood.noise import seed_of
    from genzoo.tables.weights import equal_weight_rows

    if data.weights is None:
        return frame
    return frame[equal_weight_rows(data.weights, seed_of(seed, "unweighted")), :]


def _context_rows(model: DensityModel, data: TableData) -> Any:
    """Held-out context columns to condition samples on; ``None`` for a model without context."""
    if not model.schema.context:
        return None
    from genzoo.tables.encode import decode_table

    frame = decode_table(data, data.schema, "pandas")
    return frame[[c.name for c in model.schema.context]]


def evaluate_models(
    models: Mapping[str, DensityModel],
    table: Any,
    *,
    seed: int = 0,
    samples: int = 1000,
    sections: Sequence[str] | None = None,
) -> Comparison:
    """See :func:`genzoo.compare`."""
    from genzoo.reports.comparison import Comparison
    from genzoo.tables.dependence import unlimited_text
    from genzoo.tables.encode import encode_frame
    from genzoo.tables.frames import read_frame

    if not models:
        raise ComparisonError("there is no model to compare")
    schemas = {model.schema.measure for model in models.values()}
    if len(schemas) > 1:
        raise ComparisonError("the models were trained with different schemas; train them with one --data.schema")
    first = next(iter(models.values()))
    frame = read_frame(table, schema=first.schema)
    results = []
    for name, model in models.items():
        try:
            rows = encode_frame(frame, model.schema)
            results.append(evaluate_model(name, model, rows, seed=seed, samples=samples, sections=sections))
        except GenZooError as error:
            results.append(ModelResult(name=name, error=str(error)))
    rows = encode_frame(frame, first.schema)
    facts = {"test rows": len(frame), "warnings": unlimited_text(rows)}
    shown = shown_rows(frame, rows, seed) if first.schema.weight is not None else frame
    return Comparison(results=results, schema=first.schema, data_frame=shown, facts=facts)


def oracle_result(values: np.ndarray, like: LogLikelihood) -> ModelResult:
    """The true density of a toy as a line of the report: shown, never ranked."""
    likelihood = dataclasses.replace(
        like, values=values, kind="exact", bias="none", se=None, discrete=None, continuous=None, by_column=None,
        model="oracle", method="known density", settings={}, uses_mask=False, meta={},
    )  # fmt: skip
    return ModelResult(name="oracle", likelihood=likelihood, is_oracle=True)


def read_curves(folder: str | Path) -> dict[str, list[tuple[float, float]]]:
    """Training and validation curves of a run folder: name to (step, value in nats per row)."""
    path = Path(folder) / "metrics.csv"
    curves: dict[str, list[tuple[float, float]]] = {}
    if not path.is_file():
        return curves
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if key.startswith(("train/", "val/")) and value:
                    curves.setdefault(key, []).append((float(row["step"] or 0), float(value)))
    return curves
