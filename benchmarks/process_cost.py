"""CPU seconds and peak memory of a command and all it starts, counted from the moment it says that it is ready.

The command prints a line ``ready`` when its imports are done and its data are read, and ``done`` when it has drawn its
rows; what it costs from one to the other is what is measured, so that neither side pays for importing libraries in its
main process (workers started later are counted whole). Linux only: it reads ``/proc``.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PERIOD = 0.2


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Args:
        cpu: Seconds of processor time of the process tree.
        wall: Seconds.
        memory: Peak proportional set size of the tree above that of the idle command, bytes.
        output: What it printed after ``ready``.
    """

    cpu: float
    wall: float
    memory: int
    output: str


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Runs a command and measures it.

    Raises:
        RuntimeError: it failed, or never said ``ready``.
    """
    process = subprocess.Popen(
        list(command), stdout=subprocess.PIPE, bufsize=0, env=None if environment is None else dict(environment)
    )
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    output = ""
    while not _said(output, "ready"):
        output += _read(pipe)
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command[:3])} ended before it was ready (exit {process.returncode})")
        time.sleep(0.01)
    started, idle = time.monotonic(), _memory(_tree(process.pid))
    at_ready = _cpu(process.pid)
    seen: dict[int, float] = {}
    peak = idle
    while process.poll() is None and not _said(output, "done"):
        tree = _tree(process.pid)
        for pid in tree:
            seen[pid] = max(seen.get(pid, 0.0), _cpu(pid))
        peak = max(peak, _memory(tree))
        output += _read(pipe)
        time.sleep(PERIOD)
    wall = time.monotonic() - started
    os.set_blocking(pipe, True)
    while more := _read(pipe):
        output += more
    process.wait()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed with exit code {process.returncode}")
    cpu = sum(seen.values()) - at_ready
    return Cost(cpu, wall, peak - idle, output)


def _said(output: str, word: str) -> bool:
    return word in output.split("\n")[:-1]


def _read(pipe: int) -> str:
    try:
        return os.read(pipe, 65536).decode(errors="replace")
    except BlockingIOError:
        return ""


def _tree(root: int) -> list[int]:
    """A process and all below it."""
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*"):
            try:
                queue += [int(child) for child in (task / "children").read_text().split()]
            except OSError:  # it has just ended
                continue
    return found


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def _memory(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total
