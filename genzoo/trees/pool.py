"""A pool of threads over independent jobs: the same results, in the same order, whatever the number of workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def default_workers() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def run_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None = None) -> list[Result]:
    """``[function(job) for job in jobs]``, several at a time.

    XGBoost releases the interpreter lock while it grows trees, so threads are enough: nothing is copied or pickled. A
    job must take its randomness from its own key (:func:`genzoo.likelihood.noise.seed_of`) and grow its trees with
    one thread; then the number of workers cannot change a bit of the result.

    Args:
        function: What a job does.
        jobs: Their arguments.
        workers: Threads; ``None`` takes the cores of the process.

    Raises:
        Exception: that of the first job (in order) that failed; jobs that had not begun are cancelled.
    """
    count = min(default_workers() if workers is None else workers, len(jobs))
    if count <= 1:
        return [function(job) for job in jobs]
    with ThreadPoolExecutor(count, thread_name_prefix="genzoo-trees") as pool:
        futures = [pool.submit(function, job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
