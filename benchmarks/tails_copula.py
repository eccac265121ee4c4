"""Do samples have light tails where data have them, and heavy ones where data have them?

    OMP_NUM_THREADS=1 python benchmarks/tails_copula.py [--seeds 1 2 3 4 5] [--output runs.jsonl]

Eight columns with a Gaussian copula (Laszkiewicz, Lederer and Fischer 2022, section 6): two normal, six mixtures of
normals or, in the last four, of Student t with two degrees of freedom. 15,000 rows train, 2,000 validate; 10,000
samples of each model are held against 15,000 fresh rows. ``area`` is the mean over columns of the area between survival
curves on logarithmic axes; ``classes`` counts the columns that the model (before training) and its samples call what
they are.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

import genzoo
from genzoo.evaluation.tails import compare_tails

COLUMNS, HEAVY, FREEDOM = 8, 4, 2.0
TRAIN, VAL, TEST = 15_000, 2_000, 15_000
VARIANTS = (("gaussian", "none"), ("mtaf", "none"))


def table(seed: int) -> pd.DataFrame:
    """Fresh rows of the copula with their split."""
    rng = np.random.RandomState(seed)
    correlation = np.eye(COLUMNS)
    for _ in range(2 * COLUMNS):
        i, j = rng.randint(0, COLUMNS), rng.randint(0, COLUMNS)
        if i != j:
            correlation[i, j] = correlation[j, i] = 0.25
    num = TRAIN + VAL + TEST
    levels = stats.norm.cdf(rng.multivariate_normal(np.zeros(COLUMNS), correlation, size=num))
    values = {}
    for column in range(COLUMNS):
        parts = 1 if column < 2 else 3 if column == 3 else 2
        means, scales = rng.uniform(-4, 4, parts), rng.uniform(1, 2, parts)
        law = stats.t(FREEDOM) if column >= COLUMNS - HEAVY else stats.norm
        values[f"x{column}"] = _quantiles(law, means, scales, levels[:, column])
    frame = pd.DataFrame(values)
    frame["split"] = np.repeat(["train", "val", "test"], [TRAIN, VAL, TEST])
    return frame


def _quantiles(law: Any, means: np.ndarray, scales: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles of an even mixture: each lies between the least and the greatest of its parts; by bisection."""
    each = [mean + scale * law.ppf(levels) for mean, scale in zip(means, scales, strict=True)]
    low, high = np.minimum.reduce(each), np.maximum.reduce(each)
    for _ in range(40):
        middle = (low + high) / 2
        below = np.mean([law.cdf((middle - m) / s) for m, s in zip(means, scales, strict=True)], 0) < levels
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2)


def fit(seed: int, base: str, tail: str, epochs: int) -> dict[str, Any]:
    """One trained variant: likelihood, areas and classes."""
    frame = table(seed)
    names = [f"x{i}" for i in range(COLUMNS)]
    started = time.process_time()
    model = genzoo.fit(
        frame,
        model="tail_adaptive_flow",
        base=base,
        tail=tail,
        seed=seed,
        max_epochs=epochs,
        patience=0,
        num_transforms=1,
        lr=5e-3,
        schedule="cosine",
        data={"split_column": "split", "batch_size": 512, "overrides": {n: {"kind": "continuous"} for n in names}},
    )
    test = frame[frame["split"] == "test"][names]
    nll = -model.log_prob(test).mean()
    drawn = model.sample(10_000, seed=seed)
    heavy = {name: place >= COLUMNS - HEAVY for place, name in enumerate(names)}
    data = {name: test[name].to_numpy() for name in names}
    found = compare_tails(data, {n: drawn[n].to_numpy() for n in names}, heavy=heavy, num_resamples=20, seed=seed)
    classes = {tail_class.column: tail_class.heavy for tail_class in model.tail_classes()}
    return {
        "seed": seed,
        "variant": f"{base} + {tail}",
        "nll": float(nll),
        "area_heavy": float(np.mean([c.area for c in found if heavy[c.column]])),
        "area_light": float(np.mean([c.area for c in found if not heavy[c.column]])),
        "area_of_data": float(np.mean([c.area_of_data for c in found if heavy[c.column]])),
        "classes_model": sum(classes[name] == heavy[name] for name in names),
        "classes_samples": sum(c.model.heavy == heavy[c.column] for c in found),
        "seconds": time.process_time() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    done = []
    if options.output is not None and options.output.exists():
        done = [json.loads(line) for line in options.output.read_text().splitlines()]
    known = {(d["seed"], d["variant"]) for d in done}
    for seed in options.seeds:
        for base, tail in VARIANTS:
            if (seed, f"{base} + {tail}") in known:
                continue
            done.append(fit(seed, base, tail, options.epochs))
            if options.output is not None:
                with options.output.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    runs = pd.DataFrame(done).sort_values(["seed", "variant"])
    print(runs.round(3).to_string(index=False))
    areas = runs.pivot(index="seed", columns="variant", values="area_heavy")
    wins = int((areas["mtaf + none"] < areas["gaussian + none"]).sum())
    print(f"area on heavy columns smaller with mtaf on {wins} of {len(areas)} seeds")


if __name__ == "__main__":
    main()
