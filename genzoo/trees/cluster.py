"""Jobs on a Dask cluster: the same function, the same jobs, the same results as on one machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeVar

from genzoo.errors import GenZooError
from genzoo.processes import local_processes

Result = TypeVar("Result")


class Cluster:
    """Workers of a Dask cluster.

    What all jobs read is sent once and stays with the workers; a job sends its name and brings back its bytes.

    Args:
        address: ``local`` starts workers on this machine, one per core; else the address of a scheduler that runs
            (``tcp://host:8786``), whose workers have the same GenZoo and the same build of XGBoost.
        workers: Workers of a local cluster; ``None`` takes the cores of the process.

    Raises:
        GenZooError: Dask is not installed, or no scheduler answers.
    """

    def __init__(self, address: str, workers: int | None = None) -> None:
        try:
            distributed: Any = import_module("distributed")
        except ModuleNotFoundError as error:
            raise GenZooError(
                "training on a cluster needs Dask, which is not installed; pip install 'genzoo[dask]', "
                "or leave the option dask out"
            ) from error
        self._own: Any = None
        if address == "local":
            self._own = local_processes(workers)
            self._client: Any = distributed.Client(self._own)
        else:
            try:
                self._client = distributed.Client(address, timeout="20s")
            except (OSError, TimeoutError, ValueError) as error:
                raise GenZooError(
                    f"no Dask scheduler answers at '{address}': {error}; start one (dask scheduler) or use dask: local"
                ) from error
        self._sent: dict[int, tuple[Any, Any]] = {}

    def run(
        self, function: Callable[[Any, Any, str], Result], model: Any, rows: Any, jobs: Sequence[str]
    ) -> list[Result]:
        """``[function(model, rows, job) for job in jobs]``; ``rows`` are sent on their first use only."""
        if id(rows) not in self._sent:
            self._sent[id(rows)] = (rows, self._client.scatter(rows, broadcast=True, hash=False))
        there = self._sent[id(rows)][1]
        sent = self._client.scatter(model, broadcast=True, hash=False)
        results: list[Result] = self._client.gather(
            [self._client.submit(function, sent, there, job, pure=False) for job in jobs]
        )
        return results

    def close(self) -> None:
        """Lets go of the workers; those of a local cluster end."""
        self._sent.clear()
        self._client.close()
        if self._own is not None:
            self._own.close()
