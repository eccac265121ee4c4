"""Heavy-tailed series in the order of time: tail-adaptive flows against a spline flow on the last fifth of the rows.

    OMP_NUM_THREADS=1 python benchmarks/tails_time.py FILE [--seed 0] [--variants 0 1 2] [--store FOLDER]

The first rows train and validate, the last 20 % test. Each model is fitted with its defaults; differences to
``spline_flow`` are row by row, with a block bootstrap (rows depend on their neighbours). Numbers are nats a row in the
table's own measure. The spike index says what a density owes to repeated values (near 0: nothing).
With ``--store``, scores are kept and variants can be fitted one at a time; the first one comes first.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path

import genzoo
from genzoo.datamodules.table import Table
from genzoo.likelihood.compare import paired
from genzoo.likelihood.discretised import columns_with_density, discretised, resolutions
from genzoo.likelihood.log_likelihood import LogLikelihood

VARIANTS = {
    "spline_flow": {},
    "tail_adaptive_flow": {},
    "tail_adaptive_flow, mtaf + none": {"base": "mtaf", "tail": "none"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", type=int, nargs="+", default=list(range(len(VARIANTS))))
    parser.add_argument("--store", type=Path, default=None, help="folder of scores")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options = {"split": "ordered", "test": 0.2}
    rows = Table(path=given.path, seed=given.seed, **options)
    test, train = rows.data("test"), rows.data("train")
    width = resolutions(rows.schema, train)
    kept = None if given.store is None else given.store / "first.parquet"
    first = LogLikelihood.load(kept) if kept is not None and kept.exists() else None
    for number in given.variants:
        name, arguments = list(VARIANTS.items())[number]
        started = time.process_time()
        model = genzoo.fit(given.path, model=name.split(",")[0], seed=given.seed, data=options, **arguments)
        scored = model.log_prob(test)
        line = f"{name}: {scored.mean():.3f} ± {scored.se_total():.3f} ({scored.kind}), {len(test)} rows"
        if number == 0:
            first = scored
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                scored.save(kept)
        elif first is None:
            line += "; no difference: variant 0 was not fitted"
        else:
            found = paired(scored, first, ordered=True, seed=given.seed)
            line += f"; difference {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}], median {found.median:.3f}, "
            line += f"blocks of {found.block_length} rows"
        if columns_with_density(rows.schema):
            found_box = discretised(model, test, resolutions=width)
            line += f"; spike index {found_box.spike_index:.3f} ± {found_box.spike_index_se:.3f}"
        print(f"{line}; {time.process_time() - started:.0f} s CPU", flush=True)


if __name__ == "__main__":
    main()
