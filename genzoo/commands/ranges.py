"""Work on ranges of rows, one after the other or on a Dask cluster; results come back in the order of the rows."""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from genzoo.commands.parsing import UsageError
from genzoo.errors import GenZooError
from genzoo.processes import local_processes

Result = TypeVar("Result")
Task = Callable[..., Result]


def add_dask(parser: argparse.ArgumentParser) -> None:
    """Adds ``--dask``."""
    parser.add_argument(
        "--dask",
        metavar="WHERE",
        help="share the rows out over processes: local, local:4 (so many of this machine), or the address of a Dask "
        "scheduler whose workers see the same files",
    )


def in_order(task: Task[Result], arguments: Iterator[tuple[Any, ...]], where: str | None = None) -> Iterator[Result]:
    """``task(*a)`` for each of ``arguments``, in their order.

    Args:
        task: A function of a module, so that other processes find it.
        arguments: Plain values.
        where: ``None`` runs here; ``local``, ``local:N`` or an address on a Dask cluster, where at most two tasks a
            worker wait at once, so that memory stays bounded.

    Raises:
        GenZooError: Dask is not installed, or its scheduler does not answer.
    """
    if where is None:
        for given in arguments:
            yield task(*given)
        return
    with cluster(where) as client:
        most = 2 * max(len(client.scheduler_info()["workers"]), 1)
        waiting: deque[Any] = deque()
        for given in arguments:
            waiting.append(client.submit(task, *given, pure=False))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def cluster(where: str) -> Iterator[Any]:
    """A Dask client: of new processes of this machine (``local``, ``local:N``), or of a scheduler that runs.

    Raises:
        GenZooError: Dask is not installed, the number of processes is none, or the scheduler does not answer.
    """
    try:
        from distributed import Client
    except ImportError:
        raise GenZooError(
            '--dask needs Dask; install it with pip install "genzoo[dask]", or leave --dask out'
        ) from None
    name, _, number = where.partition(":")
    if name == "local":
        if number and (not number.isdigit() or int(number) < 1):
            raise GenZooError(f"--dask {where}: give a number of processes, as in --dask local:2")
        count = int(number) if number else None
        with local_processes(count) as own, Client(own) as client:
            yield client
        return
    try:
        found = Client(where, timeout=10)
    except (OSError, ValueError) as error:
        raise GenZooError(
            f"no Dask scheduler answers at '{where}'; start one (dask scheduler), or use --dask local"
        ) from error
    with found as client:
        yield client


def opened(run: str, file: str | None, settings: str = "{}") -> tuple[Any, Any]:
    """A model and a reader of a file, kept by each process between its tasks.

    Args:
        run: Run folder or checkpoint.
        file: A table, or none.
        settings: Arguments of use of the model, as JSON.

    Raises:
        UsageError: the model has no such argument, or not with that value.
    """
    return _opened(run, file, settings, Path.cwd(), _when_written(run), _when_written(file))


def _when_written(path: str | None) -> int | None:
    """Nanoseconds of the last change; ``None`` for what is no file."""
    place = Path(path) if path is not None else None
    return place.stat().st_mtime_ns if place is not None and place.is_file() else None


@lru_cache(maxsize=1)
def _opened(run: str, file: str | None, settings: str, *_state: object) -> tuple[Any, Any]:
    """One call for the same names, folder and times of writing."""
    from genzoo.models.checkpoint import load
    from genzoo.tables.stream import RangeReader

    try:
        model = load(run, **json.loads(settings))
    except ValueError as error:
        raise UsageError(f"--set: {error}") from error
    return model, None if file is None else RangeReader(file, schema=model.schema)
