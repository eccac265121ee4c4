"""Child processes of a comparison: one a model, each with its own folder, seed and log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genzoo.errors import GenZooError
from genzoo.likelihood.noise import seed_of
from genzoo.reports.formats import duration
from genzoo.reports.results import ModelResult


@dataclass
class Job:
    """One model of a comparison.

    Args:
        name: Its name in the list.
        class_path: Its class.
    """

    name: str
    class_path: str
    folder: Path = Path()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0


def prepare_jobs(jobs: list[Job], root: Path, datamodule: Any, source: dict[str, Any], given: Namespace) -> None:
    """Stores schema and split once and writes what each child does.

    The seed of a model is a function of (seed, name): a result depends neither on the list nor on its order.
    """
    from genzoo.commands.compare import model_folder
    from genzoo.tables.show import save_schema

    stored = {"class_path": source["class_path"], "init_args": dict(source["init_args"])}
    save_schema(datamodule.schema, root / "schema.yaml")
    if "path" in stored["init_args"]:
        datamodule.save_split(str(root / "split.csv"))
        # ignored, context and other roles are in the stored schema
        kept = {key: value for key, value in stored["init_args"].items() if key not in ("context", "ignore")}
        stored["init_args"] = kept | {
            "schema": str((root / "schema.yaml").resolve()),
            "split_path": str((root / "split.csv").resolve()),
        }
    for job in jobs:
        job.folder = model_folder(root, job.name)
        job.folder.mkdir(parents=True)
        plan = {
            "name": job.name,
            "model": {"class_path": job.class_path, "init_args": {"seed": seed_of(given.seed, job.name) % 2**31}},
            "data": stored,
            "fingerprint": datamodule.schema.fingerprint,
            "seed": given.seed,
            "samples": given.samples,
            "sections": given.sections,
            "epochs": given.epochs,
            "minutes": given.minutes,
            "threads": given.threads,
        }
        (job.folder / "job.json").write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")


def run_jobs(jobs: list[Job], at_once: int, debug: bool = False) -> list[ModelResult]:
    """Runs the children, at most ``at_once`` together; results in the order of ``jobs``.

    Raises:
        KeyboardInterrupt: Ctrl-C; children are ended, finished models stay.
    """
    waiting, running = list(jobs), list[Job]()
    results: dict[str, ModelResult] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                start(job)
                running.append(job)
                print(f"  {job.name}: training", flush=True)
            for job in [job for job in running if job.process is not None and job.process.poll() is not None]:
                running.remove(job)
                results[job.name] = collect(job)
                print(f"  {_line(results[job.name])} [{len(results)}/{len(jobs)}, {_seconds(job)}]", flush=True)
            time.sleep(0.05)
    except KeyboardInterrupt:
        for job in running:
            stop(job)
        finished = ", ".join(results) or "no model"
        raise KeyboardInterrupt(f"finished: {finished}; kept in {jobs[0].folder.parent}") from None
    return [results[job.name] for job in jobs]


def start(job: Job) -> None:
    """Starts the child of a job; what it prints goes to ``log.txt``."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    plan = json.loads((job.folder / "job.json").read_text(encoding="utf-8"))
    environment["OMP_NUM_THREADS"] = str(plan["threads"])
    job.started = time.monotonic()
    with (job.folder / "log.txt").open("wb") as log:
        job.process = subprocess.Popen(
            [sys.executable, "-m", "genzoo.commands.compare_worker", str(job.folder.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C reaches the parent alone, which then ends the children
            start_new_session=True,
        )


def stop(job: Job) -> None:
    """Ends a child."""
    if job.process is None or job.process.poll() is not None:
        return
    job.process.terminate()
    try:
        job.process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        job.process.kill()
        job.process.wait()


def collect(job: Job) -> ModelResult:
    """The result of a finished child, or a result that says why there is none."""
    from genzoo.reports.stored import load_result

    assert job.process is not None
    code = job.process.returncode
    if code == 0:
        try:
            return load_result(job.folder)
        except GenZooError as error:
            return ModelResult(name=job.name, error=str(error))
    said = job.folder / "error.json"
    if said.is_file():
        return ModelResult(name=job.name, error=json.loads(said.read_text(encoding="utf-8"))["error"])
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        hint = "; perhaps memory ran out" if name == "SIGKILL" else ""
        return ModelResult(name=job.name, error=f"the process was ended by signal {name}{hint}")
    lines = (job.folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ModelResult(name=job.name, error=f"the process ended with code {code}: {last or 'it printed nothing'}")


def _line(result: ModelResult) -> str:
    if result.likelihood is None:
        return f"{result.name}: failed: {result.error}"
    return f"{result.name}: {result.likelihood.label()} nats per row"


def _seconds(job: Job) -> str:
    return duration(time.monotonic() - job.started)
