"""A model's result in a folder: Parquet and JSON only, so that it can be read back by another process or day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genzoo.errors import DataError
from genzoo.evaluation.sections import Section
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.reports.results import DiscretisedResult, ModelResult

RESULT = "result.json"
LIKELIHOOD = "test_log_likelihood.parquet"
DISCRETISED = "discretised_log_likelihood.parquet"
SAMPLES = "samples.parquet"
PLAIN = ("error", "num_parameters", "train_seconds", "sample_rows_per_second", "is_oracle")


def save_result(result: ModelResult, folder: str | Path) -> Path:
    """Writes a result; ``result.json`` comes last, so a folder that has it is complete."""
    from genzoo.tables.frames import atomic_path, write_frame

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head: dict[str, Any] = {"name": result.name} | {key: getattr(result, key) for key in PLAIN}
    head["settings"] = dict(result.settings)
    head["sections"] = [section.to_dict() for section in result.sections]
    head["curves"] = {name: [[float(x), float(y)] for x, y in curve] for name, curve in result.curves.items()}
    if result.likelihood is not None:
        result.likelihood.save(folder / LIKELIHOOD, overwrite=True)
    if result.discretised is not None:
        result.discretised.likelihood.save(folder / DISCRETISED, overwrite=True)
        head["discretised"] = {
            "spike_index": result.discretised.spike_index,
            "spike_index_se": result.discretised.spike_index_se,
            "resolutions": {k: float(v) for k, v in result.discretised.resolutions.items()},
        }
    if result.samples is not None:
        write_frame(result.samples, folder / SAMPLES, overwrite=True)
    with atomic_path(folder / RESULT, overwrite=True) as temporary:
        temporary.write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
    return folder / RESULT


def load_result(folder: str | Path) -> ModelResult:
    """Reads what :func:`save_result` wrote.

    Raises:
        DataError: the folder has no complete result.
    """
    from genzoo.tables.frames import read_frame

    folder = Path(folder)
    try:
        head = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"'{folder}' holds no complete result ({RESULT}); run the comparison again") from error
    likelihood = LogLikelihood.load(folder / LIKELIHOOD) if (folder / LIKELIHOOD).is_file() else None
    stored = head.get("discretised")
    discretised = None
    if stored is not None:
        cells = LogLikelihood.load(folder / DISCRETISED)
        discretised = DiscretisedResult(
            likelihood=cells,
            spike_index=stored["spike_index"],
            resolutions=stored["resolutions"],
            spike_index_se=stored["spike_index_se"],
        )
    return ModelResult(
        name=head["name"],
        likelihood=likelihood,
        discretised=discretised,
        curves={name: [(x, y) for x, y in curve] for name, curve in head["curves"].items()},
        samples=read_frame(folder / SAMPLES).to_native() if (folder / SAMPLES).is_file() else None,
        settings=head["settings"],
        sections=tuple(Section.from_dict(plain) for plain in head.get("sections", ())),
        **{key: head[key] for key in PLAIN},
    )
