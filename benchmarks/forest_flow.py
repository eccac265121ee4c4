"""ForestFlow beside the public package ForestDiffusion 1.0.6: CPU, memory, size, and quality of the generated rows.

    pip install pot
    python -m venv peer && peer/bin/pip install ForestDiffusion==1.0.6
    python benchmarks/forest_flow.py --reference peer/bin/python [--only iris wine] [--seeds 3] [--sets 5]

Both sides train on the same rows, one after the other, each in a process of its own; costs are CPU seconds and peak
memory of the whole process tree from the moment its imports are done until its rows are drawn. ``tuned``: the settings
of :data:`CASES`; ``equal`` (``--equal``): the package's levels and copies. ``W1``: exact optimal transport cost with L1
ground cost, numbers scaled to [0, 1] by the training rows, label one-hot / 2. ``AUC``: a boosted classifier told
generated from held-out rows, five folds (0.5 is ideal). Means over generated sets and seeds, with their spread.
``--keep FOLDER`` keeps what the package generated and uses it again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from forest27_protocol import transport
from numpy.typing import NDArray
from process_cost import Cost, measure

Floats = NDArray[np.float64]
HERE = Path(__file__).parent
COMMON: dict[str, Any] = {
    "sampler": "euler", "spacing": "uniform", "likelihood": False, "stopping": 0, "eta": 0.3, "groups": 1, "val": 0.0
}  # fmt: skip
"""Rows alone are wanted: no residual variances, no stopping, so that all rows are learned from."""
LARGE: dict[str, Any] = {"num_levels": 12, "rounds": 40, "depth": 6, "sampler": "heun"}
MOST_MATCHED = 2000
"""Rows of a set that the optimal transport cost is computed on."""


@dataclass(frozen=True)
class Case:
    """One data set, and how the package is trained on it.

    Args:
        levels: Levels of noise.
        copies: Noised copies of each row.
        tuned: Arguments of ForestFlow.
        cpu: Asked-for ratio of CPU seconds.
        memory: Asked-for ratio of memory, or ``None``.
        levels_timed: Train only so many levels and extrapolate; nothing is generated.
    """

    levels: int
    copies: int
    tuned: dict[str, Any] = field(default_factory=dict)
    cpu: float = 1.0
    memory: float | None = None
    levels_timed: int = 0


CASES = {
    "iris": Case(50, 100, {"num_levels": 20, "copies": 20, "rounds": 20, "label": "label"}, 20, 10),
    "wine": Case(20, 20, {"num_levels": 12, "copies": 10, "rounds": 40, "sampler": "heun", "label": "label"}, 20, 6),
    "mixture_1600": Case(20, 10, {"copies": 5} | LARGE, 6),
    "mixture_8000": Case(20, 5, {"copies": 2} | LARGE | {"rounds": 50}, 3),
    "breast_cancer": Case(
        50, 20, {"num_levels": 12, "copies": 20, "rounds": 50, "depth": 7, "sampler": "heun", "label": "label"}, 6
    ),
}


@dataclass(frozen=True)
class Split:
    """Training and held-out rows; ``label`` and ``test_label`` hold classes 0 to C - 1, or ``None``."""

    train: Floats
    test: Floats
    label: NDArray[np.int64] | None = None
    test_label: NDArray[np.int64] | None = None


def mixture_parts() -> tuple[Floats, Floats]:
    """Centres ``(5, 8)`` and roots of the covariances ``(5, 8, 8)`` of :func:`mixture`."""
    fixed = np.random.default_rng(2024)
    return 2.0 * fixed.normal(size=(5, 8)), 0.45 * fixed.normal(size=(5, 8, 8))


def mixture(num_rows: int, rng: np.random.Generator) -> Floats:
    """Five Gaussians in eight dimensions, each with its own covariance; the same five whatever ``rng``."""
    centres, roots = mixture_parts()
    which = rng.integers(0, 5, num_rows)
    return centres[which] + np.einsum("nij,nj->ni", roots[which], rng.normal(size=(num_rows, 8)))


def mixture_log_density(x: Floats) -> Floats:
    """Its true log-density, nats."""
    from scipy.special import logsumexp
    from scipy.stats import multivariate_normal

    each = [multivariate_normal(c, root @ root.T).logpdf(x) for c, root in zip(*mixture_parts())]
    return np.asarray(logsumexp(each, axis=0) - np.log(len(each)))


def load(name: str, seed: int) -> Split:
    """The rows of a case; the seed decides the split."""
    rng = np.random.default_rng(seed)
    if name.startswith("mixture"):
        count = int(name.split("_")[1])
        return Split(mixture(count, rng), mixture(count // 4, rng))
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    bunch: Any = getattr(datasets, f"load_{name}")()
    x, y = np.asarray(bunch.data, dtype=float), np.asarray(bunch.target, dtype=np.int64)
    train, test, label, test_label = train_test_split(x, y, test_size=0.2, random_state=seed, stratify=y)
    return Split(train, test, label, test_label)


# ---- quality


def prepared(rows: Floats, split: Split) -> Floats:
    """Rows for distances: numbers in [0, 1] by the training rows, label (last column) one-hot / 2."""
    low, high = split.train.min(0), split.train.max(0)
    width = split.train.shape[1]
    scaled = (rows[:, :width] - low) / np.where(high > low, high - low, 1.0)
    if split.label is None:
        return scaled
    code = np.eye(int(split.label.max()) + 1)[rows[:, width].round().astype(int)] / 2
    return np.concatenate([scaled, code], 1)


def two_sample_auc(real: Floats, generated: Floats, seed: int = 0) -> float:
    """How well a boosted classifier tells the two apart in five folds."""
    import xgboost
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    x = np.concatenate([real, generated])
    y = np.concatenate([np.zeros(len(real)), np.ones(len(generated))])
    scores = np.zeros(len(y))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(x, y):
        model = xgboost.XGBClassifier(n_estimators=60, max_depth=4, learning_rate=0.2, n_jobs=1)
        scores[test] = model.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
    return float(roc_auc_score(y, scores))


def quality(generated: Floats, split: Split) -> dict[str, float]:
    """W1 to the training and to the held-out rows, and the two-sample AUC."""

    def stack(x: Floats, label: Any) -> Floats:
        return x if label is None else np.concatenate([x, label[:, None]], 1)

    train = prepared(stack(split.train, split.label), split)
    test = prepared(stack(split.test, split.test_label), split)
    rows = prepared(generated, split)
    few = rows[:MOST_MATCHED]
    return {
        "W1 train": transport(few, train[: len(few)]),
        "W1 test": transport(few, test),
        "AUC": two_sample_auc(test, rows),
    }


# ---- the two sides


def run_reference(python: str, folder: Path, name: str, case: Case, split: Split, sets: int, seed: int) -> dict:
    data, out = folder / f"{name}-{seed}-data.npz", folder / f"{name}-{seed}-reference.npz"
    stored = folder / f"{name}-{seed}-reference.json"
    if stored.exists():
        record = json.loads(stored.read_text())
    else:
        arrays = {"train": split.train} | ({} if split.label is None else {"label": split.label})
        np.savez(data, **arrays)
        settings = {"num_levels": case.levels, "copies": case.copies, "sets": sets, "seed": seed}
        settings["levels_timed"] = case.levels_timed
        command = [python, str(HERE / "forest_reference.py"), str(data), str(out), json.dumps(settings)]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        record = _record(measure(command, clean))
        stored.write_text(json.dumps(record))
    found = np.load(out)
    factor = case.levels / case.levels_timed if case.levels_timed else 1.0
    return record | {"cpu": record["cpu"] * factor, "size": int(found["size"]) * factor, "sets": list(found["sets"])}


def run_own(folder: Path, name: str, arguments: dict[str, Any], split: Split, sets: int, seed: int) -> dict:
    data, out = folder / f"{name}-{seed}-data.npz", folder / f"{name}-{seed}-own.npz"
    np.savez(data, train=split.train, **({} if split.label is None else {"label": split.label}))
    settings = {"arguments": COMMON | arguments | {"seed": seed}, "sets": sets}
    record = _record(measure([sys.executable, __file__, "--child", str(data), str(out), json.dumps(settings)]))
    found = np.load(out)
    return record | {"size": int(found["size"]), "sets": list(found["sets"])}


def child(data: str, out: str, settings: dict[str, Any]) -> None:
    """Trains ForestFlow on stored rows and draws from it."""
    import logging

    import pandas as pd
    import torch

    import genzoo
    import genzoo.models.trees.forest_flow  # imports are no part of the cost, on either side
    from genzoo.trees.library import xgboost

    xgboost()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    stored = np.load(data)
    frame = pd.DataFrame(stored["train"], columns=[f"x{k}" for k in range(stored["train"].shape[1])])
    if "label" in stored:
        frame["label"] = [f"class {label}" for label in stored["label"]]
    arguments = dict(settings["arguments"])
    overrides = {name: {"kind": "continuous"} for name in frame.columns if name != "label"}
    print("ready", flush=True)
    model = genzoo.fit(
        frame, model="forest_flow", data={"test": 0.0, "val": arguments.pop("val", 0.1), "overrides": overrides},
        trainer={"limit_val_batches": 0, "logger": False}, **arguments
    )  # fmt: skip
    drawn = [model.sample(settings.get("rows", len(frame)), seed=k) for k in range(settings["sets"])]
    print("done", flush=True)
    for rows in drawn:
        if "label" in rows:
            rows["label"] = rows["label"].astype(str).str.removeprefix("class ").astype(int)
    np.savez(out, sets=np.array([rows.to_numpy(dtype=float) for rows in drawn]), size=model.store.num_bytes)


def _record(cost: Cost) -> dict[str, float]:
    return {"cpu": cost.cpu, "wall": cost.wall, "memory": cost.memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", help="python of an environment with ForestDiffusion 1.0.6; left out without")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder of what the package generated")
    parser.add_argument("--equal", action="store_true", help="also ForestFlow at the package's levels and copies")
    parser.add_argument("--arguments", type=json.loads, default={}, help="JSON put over the tuned arguments")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], given.child[1], json.loads(given.child[2]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print("| data | side | CPU s | wall s | memory MB | model MB | W1 train | W1 test | AUC | CPU, memory, size |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for name in given.only:
            _one(name, CASES[name], folder, given)


def _one(name: str, case: Case, folder: Path, given: argparse.Namespace) -> None:
    sides: dict[str, list[dict]] = {}
    scores: dict[str, dict[str, list[float]]] = {}
    for seed in range(given.seeds):
        split = load(name, seed)
        runs = {}
        if given.reference:
            runs["package"] = run_reference(given.reference, folder, name, case, split, given.sets, seed)
        runs["tuned"] = run_own(folder, name, case.tuned | given.arguments, split, given.sets, seed)
        if given.equal:
            equal = {"num_levels": case.levels, "copies": case.copies}
            runs["equal"] = run_own(folder, name, equal, split, given.sets, seed)
        for side, run in runs.items():
            sides.setdefault(side, []).append(run)
            for rows in run["sets"][: given.sets]:
                for key, value in quality(rows, split).items():
                    scores.setdefault(side, {}).setdefault(key, []).append(value)
    package = sides.get("package")
    for side, runs in sides.items():
        cells = [f"{statistics.mean(run[key] for run in runs) / unit:.4g}" for key, unit in _COLUMNS]
        for key in ("W1 train", "W1 test", "AUC"):
            values = scores.get(side, {}).get(key)
            spread = statistics.stdev(values) if values and len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}" if values else "")
        ratios = ""
        if package and side != "package":
            own = [statistics.mean(run[key] for run in runs) for key in ("cpu", "memory", "size")]
            theirs = [statistics.mean(run[key] for run in package) for key in ("cpu", "memory", "size")]
            ratios = ", ".join(f"{t / o:.1f}x" for t, o in zip(theirs, own))
            ratios += f" (asked: {case.cpu:g}x" + (f", {case.memory:g}x)" if case.memory else ")")
        print(f"| {name} | {side} | " + " | ".join(cells) + f" | {ratios} |", flush=True)


_COLUMNS = (("cpu", 1.0), ("wall", 1.0), ("memory", 1e6), ("size", 1e6))

if __name__ == "__main__":
    main()
