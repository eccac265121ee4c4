"""Child processes of a comparison: one a model, each with its own folder, seed and log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from genzoo.errors import GenZooError
from genzoo.likelihood.noise import seed_of
from genzoo.reports.formats import duration
from genzoo.reports.results import ModelResult


@dataclass
class Job:
    """One training run of a comparison.

    Args:
        name: The model's name in the list.
        class_path: Its class.
        seed: Which training seed, from 0.
        fold: Which fold, from 0.
        label: Its name in messages.
    """

    name: str
    class_path: str
    seed: int = 0
    fold: int = 0
    label: str = ""
    folder: Path = Path()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    @property
    def finished(self) -> bool:
        """Its result is stored."""
        from genzoo.reports.stored import RESULT

        return (self.folder / RESULT).is_file()


def prepare_jobs(
    models: Mapping[str, str], root: Path, datamodule: Any, source: dict[str, Any], given: Namespace
) -> list[Job]:
    """Stores schema and split once and writes what each child does.

    The seed of a model is a function of (seed, name): a result depends neither on the list nor on its order. With
    ``--resume``, runs of the same plan that are complete stay, others are made anew.

    Raises:
        GenZooError: to be resumed, but the folder holds a comparison of another table, split or settings.
    """
    from genzoo.tables.show import save_schema

    if not (root / "schema.yaml").exists():
        save_schema(datamodule.schema, root / "schema.yaml")
    stored = [{"class_path": source["class_path"], "init_args": dict(source["init_args"])}]
    if "path" in source["init_args"]:
        # ignored, context and other roles are in the stored schema
        kept = {key: value for key, value in source["init_args"].items() if key in ("path", "seed")}
        kept["schema"] = str((root / "schema.yaml").resolve())
        splits = store_splits(root, datamodule, given)
        stored = [
            {"class_path": source["class_path"], "init_args": kept | {"split_path": str(path.resolve())}}
            for path in splits
        ]
    jobs = []
    for (name, class_path), seed, fold in product(models.items(), range(given.seeds), range(len(stored))):
        words = [f"seed {seed + 1}"] * (given.seeds > 1) + [f"fold {fold + 1}"] * (len(stored) > 1)
        folder = model_folder(root, name)
        if words:
            folder = folder / "-".join(words).replace(" ", "-")
        job = Job(name, class_path, seed, fold, f"{name} ({', '.join(words)})" if words else name, folder)
        parts = (given.seed, name) if seed == 0 else (given.seed, name, seed)
        plan = {
            "name": job.name,
            "model": {"class_path": class_path, "init_args": {"seed": seed_of(*parts) % 2**31}},
            "data": stored[fold],
            "fingerprint": datamodule.schema.fingerprint,
            "seed": given.seed,
            "samples": given.samples,
            "discretised_draws": given.discretised_draws,
            "sections": given.sections,
            "epochs": given.epochs,
            "minutes": given.minutes,
            "threads": given.threads,
        }
        write_plan(job, plan)
        jobs.append(job)
    return jobs


def store_splits(root: Path, datamodule: Any, given: Namespace) -> list[Path]:
    """One file a fold that says for every row whether it trains, validates or tests."""
    if given.folds == 1:
        path = root / "split.csv"
        if not path.exists():
            datamodule.save_split(str(path))
        return [path]
    from genzoo.tables.frames import write_frame

    if datamodule.ordered:
        raise GenZooError("the rows are ordered in time, and folds would train on later rows; leave out --folds")
    paths = []
    for fold, labels in enumerate(datamodule.fold_labels(given.folds)):
        paths.append(root / f"split-{fold + 1}.csv")
        if not paths[-1].exists():
            write_frame({"split": labels}, paths[-1])
    return paths


def write_plan(job: Job, plan: dict[str, Any]) -> None:
    """Writes what a child does; a folder of an earlier comparison with the same plan keeps its finished result.

    Raises:
        GenZooError: the folder holds a run of another plan.
    """
    path = job.folder / "job.json"
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(key for key in plan if key not in ("threads",) and old.get(key) != plan[key])
        if other:
            raise GenZooError(
                f"'{job.folder}' holds a run with another {' and '.join(other)}; resume with the options of the first "
                "comparison, or choose another --run_dir"
            )
        if job.finished:
            return
        shutil.rmtree(job.folder)  # an unfinished run is made anew
    job.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")


def model_folder(root: Path, name: str) -> Path:
    """Run folder of one model of a comparison."""
    return root / "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def run_jobs(jobs: list[Job], at_once: int, root: Path) -> list[ModelResult]:
    """Runs the children that have no stored result, at most ``at_once`` together; results in the order of ``jobs``.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; children are ended, finished models stay.
    """
    from genzoo.reports.stored import load_result

    waiting, running = [job for job in jobs if not job.finished], list[Job]()
    results: dict[str, ModelResult] = {job.label: load_result(job.folder) for job in jobs if job.finished}
    for job in jobs:
        if job.label in results:
            print(f"  {_line(job, results[job.label])} [kept]", flush=True)
    try:
        with _sigterm_interrupts():
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    start(job)
                    running.append(job)
                    print(f"  {job.label}: training and scoring", flush=True)
                for job in [job for job in running if job.process is not None and job.process.poll() is not None]:
                    running.remove(job)
                    results[job.label] = collect(job)
                    print(
                        f"  {_line(job, results[job.label])} [{len(results)}/{len(jobs)}, {_seconds(job)}]", flush=True
                    )
                time.sleep(0.05)
    except KeyboardInterrupt:
        for job in running:
            stop(job)
        finished = ", ".join(results) or "no model"
        raise KeyboardInterrupt(f"finished: {finished}; kept in {root}; --resume goes on from there") from None
    return [results[job.label] for job in jobs]


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does, so that no child works on when a scheduler ends the comparison."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


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


def _line(job: Job, result: ModelResult) -> str:
    if result.likelihood is None:
        return f"{job.label}: failed: {result.error}"
    return f"{job.label}: {result.likelihood.label()} nats per row"


def _seconds(job: Job) -> str:
    return duration(time.monotonic() - job.started)
