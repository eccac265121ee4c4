"""Processes of this machine that take work from Dask."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def local_processes(workers: int | None = None) -> Any:
    """A Dask cluster of single-threaded processes on this machine.

    Dask asks the C library to give freed memory back at once; a process that works through tensors then takes the same
    pages from the system over and over, which doubles its time. These do not ask.

    Args:
        workers: Processes; ``None`` takes one per core.

    Raises:
        ModuleNotFoundError: Dask is not installed.
    """
    config: Any = import_module("dask").config
    distributed: Any = import_module("distributed")
    name = "distributed.nanny.pre-spawn-environ"
    environment = {key: value for key, value in config.get(name).items() if key != "MALLOC_TRIM_THRESHOLD_"}
    with config.set({name: environment}):
        return distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
