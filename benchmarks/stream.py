"""Rows a second and peak memory of ``genzoo score``, ``sample`` and ``impute`` on a table of any length.

    python benchmarks/stream.py [--rows 200000] [--models spline_flow,forest_autoregressive] [--commands score,sample]
    python benchmarks/stream.py --dask local:2    # each command by two processes too: ratio, and largest difference

A Parquet file of N rows (three numbers with densities, two counts, three categories; 5 % of two columns missing) is
written a row group at a time, a model is trained on its first 20,000 rows, and each command runs in a process of its
own. Peak memory is the resident set of that process, libraries included (with ``--dask``: of the largest one).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 100_000
TRAINED_ON = 20_000
SMALL = {
    "spline_flow": {"num_transforms": 2, "hidden": 64, "max_epochs": 5},
    "forest_autoregressive": {"rounds": 40, "max_epochs": 10},
    "independent": {},
}


def rows_of(num_rows: int, seed: int) -> pd.DataFrame:
    """Rows with columns of every kind that depend on each other."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 4, num_rows)
    x = rng.normal(size=num_rows) + group
    y = np.exp(0.3 * x + 0.5 * rng.normal(size=num_rows))
    frame = pd.DataFrame(
        {
            "x": x,
            "y": y,
            "z": np.sin(x) + 0.2 * rng.normal(size=num_rows),
            "visits": rng.poisson(2 + group),
            "age": np.clip(rng.normal(45, 15, num_rows).round(), 0, 110),
            "group": np.array(["a", "b", "c", "d"])[group],
            "flag": np.where(rng.random(num_rows) < 1 / (1 + np.exp(-x)), "yes", "no"),
            "place": np.array([f"p{i}" for i in range(20)])[rng.integers(0, 20, num_rows)],
        }
    )
    for name in ("x", "age"):
        frame.loc[rng.random(num_rows) < 0.05, name] = np.nan
    return frame


def write_rows(path: Path, num_rows: int) -> None:
    """A Parquet file, a row group at a time."""
    writer = None
    for start in range(0, num_rows, GROUP):
        table = pa.Table.from_pandas(rows_of(min(GROUP, num_rows - start), start), preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def cost_of(arguments: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak memory (MiB) of a genzoo command in its own process."""
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "genzoo.main", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"genzoo {' '.join(arguments)} failed")
    return time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def largest_difference(one: Path, other: Path) -> float:
    """Between the numbers of two Parquet files of the same rows, a batch at a time; text must be equal."""
    worst = 0.0
    for a, b in zip(*(pq.ParquetFile(path).iter_batches(GROUP) for path in (one, other)), strict=True):
        for name in a.schema.names:
            x, y = (part.column(name).to_pandas() for part in (a, b))
            if pd.api.types.is_numeric_dtype(x):
                assert (x.isna() == y.isna()).all(), f"column {name}: not the same cells are missing"
                worst = max(worst, float((x - y).abs().max()))
            else:
                assert x.equals(y), f"column {name} differs"
    return worst


def measure(model: str, command: str, path: str, table: Path, num_rows: int, dask: str | None) -> None:
    """Prints a line for one process and, with ``dask``, one for several, and how they compare."""
    rest = ["-n", str(num_rows)] if command == "sample" else [str(table)]
    outs, walls = [], []
    for extra in [[], *([["--dask", dask]] if dask else [])]:
        outs.append(table.with_name(f"out{len(outs)}.parquet"))
        wall, cpu, memory = cost_of([command, path, *rest, "-o", str(outs[-1]), "--overwrite", *extra])
        walls.append(wall)
        written = pq.ParquetFile(outs[-1]).metadata.num_rows
        assert written == num_rows, f"{written} rows written of {num_rows}"
        cells = [f"`{model}`", " ".join([command, *extra]), f"{num_rows:,}", f"{num_rows / wall:,.0f}"]
        print(f"| {' | '.join(cells)} | {cpu:.0f} | {memory:.0f} |", flush=True)
    if dask:
        apart = largest_difference(*outs)
        print(
            f"{model} {command}, {dask}: wall clock of one process over theirs {walls[0] / walls[1]:.2f}; "
            f"largest difference {apart:.1e}"
        )
    for out in outs:
        out.unlink()


def main() -> None:
    """Trains the models and measures each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[200_000])
    parser.add_argument("--models", default="spline_flow,forest_autoregressive")
    parser.add_argument("--commands", default="score,sample")
    parser.add_argument("--dask", metavar="WHERE", help="the same rows by these processes too, as for genzoo score")
    given = parser.parse_args()
    import genzoo

    print("| model | command | rows | rows/s | CPU s | peak memory MiB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in given.models.split(","):
            path = str(folder / f"{model}.ckpt")
            genzoo.fit(rows_of(TRAINED_ON, 0), model=model, seed=0, **SMALL.get(model, {})).save(path)
            for num_rows in given.rows:
                table = folder / f"{num_rows}.parquet"
                if not table.exists():
                    write_rows(table, num_rows)
                for command in given.commands.split(","):
                    measure(model, command, path, table, num_rows, given.dask)


if __name__ == "__main__":
    main()
