"""Peak memory of training ForestFlow on a long table: in memory, with noised rows on disk, and streamed.

    OMP_NUM_THREADS=1 python benchmarks/forest_memory.py [--rows 1000000] [--columns 10] [--copies 1]

Correlated Gaussian rows in a Parquet file with row groups of 50,000; two levels, 20 rounds, one worker, every row
noised at each level. CPU seconds and peak memory (proportional set size) above that of the process with its imports
done, reading the table included; each way in a process of its own. ``same trees``: as those of the first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from process_cost import measure

WAYS: dict[str, dict[str, Any]] = {
    "in memory": {"external_memory": "never"},
    "noised rows on disk": {"external_memory": "always"},
    "streamed": {"external_memory": "auto"},
}
SETTINGS: dict[str, Any] = {
    "num_levels": 2, "rounds": 20, "eta": 0.3, "stopping": 0, "likelihood": False, "sampler": "euler", "groups": 1,
    "workers": 1, "posterior_mean": False,
}  # fmt: skip
GROUP_ROWS = 50_000


def write(path: Path, num_rows: int, num_columns: int) -> None:
    """The table, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    root = rng.normal(size=(num_columns, num_columns)) / np.sqrt(num_columns)
    writer = None
    for start in range(0, num_rows, GROUP_ROWS):
        rows = rng.normal(size=(min(GROUP_ROWS, num_rows - start), num_columns)) @ root
        table = pa.table({f"x{k}": rows[:, k] for k in range(num_columns)})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def child(path: str, settings: dict[str, Any]) -> None:
    """Trains one way and prints what its boosters are."""
    import torch

    from genzoo.datamodules.streamed import StreamedTable
    from genzoo.datamodules.table import Table
    from genzoo.models.training import train
    from genzoo.models.trees.forest_flow import ForestFlow

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print("ready", flush=True)
    module: Any
    if settings.pop("streamed"):
        module = StreamedTable(path, val=0.0, test=0.001, sample_rows=GROUP_ROWS, buffer_rows=GROUP_ROWS)
    else:
        module = Table(path=path, val=0.0, test=0.001)
    module.setup("fit")
    made = ForestFlow(schema=module.schema_dict, **settings)
    model = train(made, module, progress=False, limit_val_batches=0, logger=False)
    print(hashlib.sha256(b"".join(b for job in model.jobs for b in model.store.raw(job).values())).hexdigest())
    print("done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], json.loads(given.child[1]))
        return
    print(f"{given.rows:,} rows x {given.columns} columns, {given.rows * given.columns * 8 / 1e6:.0f} MB as float64")
    print("| way | CPU s | memory MB | same trees |\n|---|---|---|---|")
    first = ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write(path, given.rows, given.columns)
        for way, arguments in WAYS.items():
            settings = SETTINGS | arguments | {"copies": given.copies, "streamed": way == "streamed"}
            cost = measure([sys.executable, __file__, "--child", str(path), json.dumps(settings)])
            digest = cost.output.split()[-2]
            first = first or digest
            same = "yes" if digest == first else "other sample for scales" if way == "streamed" else "no"
            print(f"| {way} | {cost.cpu:.1f} | {cost.memory / 1e6:.0f} | {same} |", flush=True)


if __name__ == "__main__":
    main()
