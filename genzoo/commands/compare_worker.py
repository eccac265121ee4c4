"""Trains and evaluates one model of a comparison, in a process of its own.

A result depends on the table, the stored split and schema, the model and the seed; never on the other models.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from genzoo.main import FAILED, INTERRUPTED, WRONG_INPUT, sentence


def run_job(folder: Path) -> None:
    """Reads ``job.json`` of ``folder``, trains, evaluates, and writes the result beside it."""
    import torch
    import yaml

    from genzoo.commands.sources import make_source
    from genzoo.errors import DataError
    from genzoo.evaluation.likelihood import evaluate_model, read_curves
    from genzoo.models.catalogue import model_class
    from genzoo.models.training import quiet, time_limit, train
    from genzoo.reports.stored import save_result

    quiet()
    job: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    datamodule = make_source(job["data"])
    if datamodule.schema.fingerprint != job["fingerprint"]:
        raise DataError("the table changed while the comparison ran")
    kind = model_class(job["model"]["class_path"])
    model = kind(schema=datamodule.schema_dict, **job["model"]["init_args"])
    limits: dict[str, Any] = {}
    if job["epochs"] is not None:
        limits["max_epochs"] = job["epochs"]
    if job["minutes"] is not None:
        limits["max_time"] = time_limit(job["minutes"])
    model = train(model, datamodule, folder, progress=False, **limits)
    config = {"model": job["model"], "data": job["data"], "trainer": limits}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    from genzoo.likelihood.discretised import resolutions

    result = evaluate_model(
        job["name"],
        model,
        datamodule.data("test"),
        seed=job["seed"],
        samples=job["samples"],
        discretised_draws=job["discretised_draws"],
        curves=read_curves(folder),
        resolutions=resolutions(datamodule.schema, datamodule.data("train")),
        train=datamodule.data("train"),
        datamodule=datamodule,
        sections=job["sections"],
    )
    save_result(result, folder)


def main(folder: str) -> int:
    """Runs a job; an error is kept as one sentence in ``error.json``."""
    place = Path(folder)
    try:
        run_job(place)
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        from genzoo.errors import GenZooError

        expected = isinstance(error, GenZooError | ValueError | TypeError | OSError)
        text = sentence(error) if expected else f"{type(error).__name__}: {sentence(error)}"
        (place / "error.json").write_text(json.dumps({"error": text}), encoding="utf-8")
        if not expected or os.environ.get("GENZOO_DEBUG"):
            import traceback

            traceback.print_exc()
        return WRONG_INPUT if expected else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
