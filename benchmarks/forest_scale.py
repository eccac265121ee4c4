"""CPU and memory of ForestFlow against rows and columns.

    python benchmarks/forest_scale.py [--rows 1000 10000 100000 1000000] [--columns 10 30 100]

Correlated Gaussian rows, one worker, 5 levels, 20 rounds, and by default about 20,000 noised rows a level whatever the
length of the table (``--copies 1`` noises every row); training and one drawn set of a thousand rows. CPU seconds and
peak memory above that of the process with its rows read, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from process_cost import measure

SETTINGS = {
    "workers": 1,
    "num_levels": 5,
    "rounds": 20,
    "eta": 0.3,
    "stopping": 0,
    "likelihood": False,
    "sampler": "euler",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--columns", type=int, nargs="*", default=[10, 30, 100])
    parser.add_argument("--copies", type=int, default=0)
    given = parser.parse_args()
    print("| rows | columns | CPU s | memory above idle MB | rows as float64 MB |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "rows.npz", Path(folder) / "out.npz"
        for num_columns in given.columns:
            root = np.random.default_rng(0).normal(size=(num_columns, num_columns)) / np.sqrt(num_columns)
            for num_rows in given.rows:
                rows = np.random.default_rng(1).normal(size=(num_rows, num_columns)) @ root
                np.savez(data, train=rows)
                settings = {"arguments": SETTINGS | {"copies": given.copies, "val": 0.0}, "sets": 1, "rows": 1000}
                script = str(Path(__file__).with_name("forest_flow.py"))
                cost = measure([sys.executable, script, "--child", str(data), str(out), json.dumps(settings)])
                size = rows.nbytes / 1e6
                print(
                    f"| {num_rows:,} | {num_columns} | {cost.cpu:.1f} | {cost.memory / 1e6:.0f} | {size:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
