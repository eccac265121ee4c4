"""RADD's likelihoods side by side on the same rows: its bound, the importance-weighted mean over orders, and exact.

    python benchmarks/any_order_likelihood.py RUN TABLE [--exact 50] [--orders 32] [--draws 32] [--rows N]

RUN is a run folder or checkpoint of ``radd``, on a table of at most 16 cells unless ``--exact 0``; TABLE holds the
rows to score: a file of the table's form, or an npz with canonical splits, of which the test rows are taken. All rows
get the bound (``--draws`` masked sets a row) and the importance-weighted bound (``--orders`` orders); the first
``--exact`` rows get the exact value and the noise-free bound, both from one list of all subsets of cells. 0 leaves a
number out.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import genzoo
from genzoo.datamodules import BinaryVectors
from genzoo.diffusion import any_order
from genzoo.models.discrete.radd import RADD
from genzoo.models.scoring import split_unseen
from genzoo.models.training import quiet
from genzoo.tables.encode import TableData, encode_frame
from genzoo.tables.frames import read_frame

ROWS_AT_ONCE = 2  # 2^16 subsets of 16 cells each


def test_rows(path: str, model: RADD) -> TableData:
    """The rows of a file, or the test rows of an npz."""
    if path.endswith(".npz"):
        module = BinaryVectors(path)
        module.setup("test")
        return module.data("test")
    return encode_frame(read_frame(path, schema=model.schema), model.schema)


@torch.no_grad()
def by_all_subsets(model: RADD, data: TableData) -> tuple[np.ndarray, np.ndarray]:
    """Exact log-likelihood and the bound without noise, ``(rows,)`` each, nats in the table's units."""
    exact, bound = [], []
    for start in range(0, len(data), ROWS_AT_ONCE):
        known = split_unseen(data.select(slice(start, start + ROWS_AT_ONCE)).batch(), model.view)
        encoded = model.codec.encode(known.batch)
        table = any_order.subset_table(model.conditional(encoded.context), encoded.tokens)
        volume = encoded.log_volume.sum(1) + known.terms.sum(1)
        exact.append(any_order.exact_log_prob(table) + volume)
        bound.append(any_order.exact_bound(table)[0] + volume)
    return torch.cat(exact).numpy(), torch.cat(bound).numpy()


def line(name: str, kind: str, values: np.ndarray, seconds: float) -> str:
    """One row of the printed table; the error is that over rows."""
    error = values.std(ddof=1) / len(values) ** 0.5
    return f"| {name} | {values.mean():.4f} ± {error:.4f} ({kind}) | {len(values)} | {seconds:.0f} |"


def main() -> None:
    """Scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("table")
    parser.add_argument("--exact", type=int, default=50, help="rows that get the exact value: 2^L network calls each")
    parser.add_argument("--orders", type=int, default=32, help="orders a row of the importance-weighted bound")
    parser.add_argument("--draws", type=int, default=32, help="masked sets a row of the bound")
    parser.add_argument("--rows", type=int, help="score the first rows only")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    model = genzoo.load(given.run)
    if not isinstance(model, RADD):
        raise SystemExit(f"'{given.run}' holds a {type(model).__name__}; give a run of radd")
    data = test_rows(given.table, model)
    data = data.select(slice(0, given.rows))
    found: dict[str, np.ndarray] = {}
    print(f"{given.table}: {len(data)} rows, {model.codec.num_slots} cells, {model.num_parameters} parameters")
    print("| likelihood | nats a row | rows | CPU s |\n|---|---|---|---|")
    for name, draws in (("bound", given.draws), ("importance", given.orders)):
        if not draws:
            continue
        model.likelihood, model.draws = name, draws
        started = time.process_time()
        scored = model.log_prob(data, seed=given.seed)
        found[name] = scored.values
        print(line(scored.method, "bound", scored.values, time.process_time() - started), flush=True)
        assert scored.se is not None
        print(f"of its error the draws make {float(np.sqrt((scored.se**2).sum())) / len(data):.4f}", flush=True)
    if len(found) == 2:
        gap = found["importance"] - found["bound"]
        print(f"importance over bound, paired: {gap.mean():+.4f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.4f}")
    if not given.exact:
        return
    few = data.select(slice(0, given.exact))
    started = time.process_time()
    exact, bound = by_all_subsets(model, few)
    seconds = time.process_time() - started
    number = 2**model.codec.num_slots
    print(line(f"bound, all {number:,} subsets", "bound", bound, seconds))
    print(line(f"exact, all {number:,} subsets", "exact", exact, seconds))
    for name, values in found.items():
        print(line(f"{name}, the same rows", "bound", values[: len(few)], 0))
    gap = exact - bound
    print(
        f"exact over bound on the same rows: mean {gap.mean():.4f}, least {gap.min():.2e}, "
        f"most {gap.max():.4f}; at least the bound on {int((gap >= 0).sum())} of {len(gap)} rows"
    )


if __name__ == "__main__":
    main()
