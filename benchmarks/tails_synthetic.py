"""Tail-adaptive flows against the truth on heavy-tailed rows with a narrow dependence.

    OMP_NUM_THREADS=1 python benchmarks/tails_synthetic.py [--repeats 10] [--freedoms 1 2 30] [--output runs.jsonl]

Columns 1 to 4 are independent Student t, the fifth is the fourth plus a standard normal (Hickling and Prangle 2025,
section 5). 5000 rows: 2000 train, 1000 validate, 2000 test. Each variant of base and tail layer is trained on the same
rows; the one with the best validation likelihood of a repeat counts as "chosen". Numbers are nats per column above the
entropy of the truth on the same test rows (the difference of two means over equal rows: most of their noise cancels),
mean and standard error over repeats. Finished fits in ``--output`` are not run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

import genzoo

COLUMNS, ROWS, TRAIN, VAL = 5, 5000, 2000, 1000
VARIANTS = (("gaussian", "ttf"), ("gtaf", "none"), ("mtaf", "none"), ("gaussian", "none"))
OPTIONS = {"num_transforms": 1, "lr": 5e-3, "max_epochs": 40}


def table(freedom: float, seed: int) -> pd.DataFrame:
    """Rows of the synthetic target with their split."""
    rng = np.random.default_rng(1000 * seed + int(10 * freedom))
    x = rng.standard_t(freedom, size=(ROWS, COLUMNS))
    x[:, -1] = x[:, -2] + rng.normal(size=ROWS)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(COLUMNS)])
    frame["split"] = np.repeat(["train", "val", "test"], [TRAIN, VAL, ROWS - TRAIN - VAL])
    return frame


def truth(frame: pd.DataFrame, freedom: float) -> np.ndarray:
    """Log-density of the target, nats a row."""
    x = frame.drop(columns="split").to_numpy()
    return np.asarray(
        stats.t.logpdf(x[:, :-1], freedom).sum(1) + stats.norm.logpdf(x[:, -1] - x[:, -2]), dtype=np.float64
    )


def fit(freedom: float, seed: int, base: str, tail: str) -> dict[str, float | str | int]:
    """One trained variant: what it loses to the truth on validation and test rows, nats per column."""
    frame = table(freedom, seed)
    started = time.process_time()
    model = genzoo.fit(
        frame,
        model="tail_adaptive_flow",
        base=base,
        tail=tail,
        seed=seed,
        data={
            "split_column": "split",
            "batch_size": 256,
            "overrides": {f"x{i}": {"kind": "continuous"} for i in range(COLUMNS)},
        },
        **OPTIONS,
    )
    lost = {}
    for split in ("val", "test"):
        part = frame[frame["split"] == split]
        gap = truth(part, freedom) - model.log_prob(part.drop(columns="split")).values
        lost[split] = float(gap.mean()) / COLUMNS
    heavy = sum(tail_class.heavy for tail_class in model.tail_classes())
    seconds = time.process_time() - started
    return {"freedom": freedom, "seed": seed, "base": base, "tail": tail, **lost, "heavy": heavy, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--freedoms", type=float, nargs="+", default=[1.0, 2.0, 30.0])
    parser.add_argument("--variants", nargs="+", default=[f"{base}+{tail}" for base, tail in VARIANTS])
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    done = []
    if options.output is not None and options.output.exists():
        done = [json.loads(line) for line in options.output.read_text().splitlines()]
    known = {(d["freedom"], d["seed"], d["base"], d["tail"]) for d in done}
    for seed in range(options.repeats):
        for freedom in options.freedoms:
            for base, tail in (variant.split("+") for variant in options.variants):
                if (freedom, seed, base, tail) in known:
                    continue
                done.append(fit(freedom, seed, base, tail))
                if options.output is not None:
                    with options.output.open("a") as file:
                        file.write(json.dumps(done[-1]) + "\n")
    report(pd.DataFrame(done))


def report(runs: pd.DataFrame) -> None:
    """Prints one line a variant and one of the variant that validation rows choose."""
    runs = runs.assign(variant=runs["base"] + " + " + runs["tail"])
    best = runs.loc[runs.groupby(["freedom", "seed"])["val"].idxmin()].assign(variant="chosen on validation rows")
    print("| variant | freedom | above the truth, nats a column | repeats | CPU s a fit |")
    print("|---|---|---|---|---|")
    for (variant, freedom), part in pd.concat([runs, best]).groupby(["variant", "freedom"], sort=False):
        error = part["test"].std(ddof=1) / np.sqrt(len(part)) if len(part) > 1 else float("nan")
        print(
            f"| {variant} | {freedom:g} | {part['test'].mean():.3f} ± {error:.3f} | {len(part)} | "
            f"{part['seconds'].mean():.1f} |"
        )


if __name__ == "__main__":
    main()
