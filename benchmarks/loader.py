"""Rows a second of the batch loader against ``DataLoader(TensorDataset)``.

    python benchmarks/loader.py [--rows 200000] [--columns 8] [--categories 4] [--batch 1024] [--repeats 7]

Both give shuffled batches of the same rows as float64 numbers, int64 codes and int64 row numbers. The median of several
passes is printed, for one and for two torch threads, with the ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from genzoo.datamodules.loader import BatchLoader


def rows_per_second(loader: Iterable[object], num_rows: int, repeats: int) -> float:
    """Median rows a second over ``repeats`` passes, after one that is not counted."""
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _batch in loader:
            pass
        rates.append(num_rows / (time.perf_counter() - start))
    return float(np.median(rates[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--categories", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    numeric = rng.normal(size=(args.rows, args.columns))
    single = numeric.astype(np.float32).astype(np.float64)
    codes = rng.integers(0, 10, size=(args.rows, args.categories))
    rows = np.arange(args.rows)
    dataset = TensorDataset(torch.from_numpy(numeric), torch.from_numpy(codes), torch.from_numpy(rows))

    print(
        f"{args.rows} rows, {args.columns} numbers and {args.categories} codes a row, batch {args.batch}, "
        f"median of {args.repeats} passes, torch {torch.__version__}"
    )
    print(f"{'loader':<34}{'threads':>8}{'rows/s':>14}{'ratio':>8}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        reference = rows_per_second(DataLoader(dataset, args.batch, shuffle=True), args.rows, max(1, args.repeats // 2))
        print(f"{'DataLoader(TensorDataset)':<34}{threads:>8}{reference:>14,.0f}{1.0:>8.1f}")
        for name, values in (("BatchLoader, float64 numbers", numeric), ("BatchLoader, float32-exact numbers", single)):
            data = SimpleNamespace(numeric=values, codes=codes, rows=rows)
            rate = rows_per_second(BatchLoader(data, args.batch, shuffle=True), args.rows, args.repeats)
            print(f"{name:<34}{threads:>8}{rate:>14,.0f}{rate / reference:>8.1f}")


if __name__ == "__main__":
    main()
