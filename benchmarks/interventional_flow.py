"""Interventional flow against the truth: nats a row below the oracle, for each arm and estimator.

    OMP_NUM_THREADS=1 python benchmarks/interventional_flow.py scm --shifts 1.5 2.5 --seeds 5
    OMP_NUM_THREADS=1 python benchmarks/interventional_flow.py ihdp --path FOLDER --splits 10

``scm``: 1,000 rows, a tenth of them for validation; potential outcomes of 10,000 fresh rows are scored. ``ihdp``:
realisation 1, cross-validation; both potential outcomes of the test rows are scored against the leave-one-out oracle.
One nuisance fit a seed serves all estimators: the default (one-step, shrunk), ``full`` (one-step with factor 1, as in
the paper) and ``plug-in``. Outcomes are scaled by factual training outcomes alone; a difference of two log-densities
has no unit.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import numpy as np
import torch

from genzoo.datamodules.causal import Causal
from genzoo.models.flows.arm_density import ArmCells
from genzoo.models.flows.interventional_flow import InterventionalFlow
from genzoo.models.training import quiet, train

STEPS = 300


def variants(model: InterventionalFlow) -> dict[str, InterventionalFlow]:
    """The fitted model, and others that differ from it in the last stage alone."""
    full = copy.deepcopy(model)
    full.shrink = False
    full._start_target()
    optimizer = torch.optim.Adam(full.target.parameters(), lr=full.target_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        full._target_loss(None).backward()  # type: ignore[arg-type]
        optimizer.step()
        schedule.step()
    plug_in = copy.deepcopy(model)
    cells = ArmCells(len(model.arms), model.measure.num_cells + 1)
    cells.start(model.measure.plug_in, model.measure.edges)
    plug_in.target = cells
    return {"one-step": model, "full": full, "plug-in": plug_in}


def below_oracle(rows: Causal, model: InterventionalFlow) -> dict[str, float]:
    """Mean of oracle minus model over the test rows' potential outcomes, for each arm."""
    outcomes = rows.potential_outcomes("test")
    return {
        arm: float(np.mean(rows.potential_oracle("test", arm) - model.potential_log_prob(outcomes[arm], arm)))  # type: ignore[operator]
        for arm in model.arms
    }


def run(rows: Causal, seed: int, **arguments: Any) -> tuple[dict[tuple[str, str], float], InterventionalFlow]:
    """Differences by (estimator, arm), and the fitted model."""
    rows.setup("fit")
    model = train(InterventionalFlow(rows.schema_dict, seed=seed, **arguments), rows, progress=False)
    found = {}
    for name, variant in variants(model).items():
        for arm, value in below_oracle(rows, variant).items():
            found[name, arm] = value
    return found, model


def report(title: str, found: list[dict[tuple[str, str], float]], remark: str) -> None:
    cells = []
    for key in found[0]:
        values = np.array([one[key] for one in found])
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        cells.append(f"{key[0]} Y[{key[1]}] {values.mean():.3f} ± {error:.3f}")
    for arm in sorted({arm for _, arm in found[0]}):
        values = np.array([one["one-step", arm] - one["plug-in", arm] for one in found])
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        cells.append(f"one-step - plug-in Y[{arm}] {values.mean():.3f} ± {error:.3f}")
    print(f"{title}: {'; '.join(cells)}; {remark}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["scm", "ihdp"])
    parser.add_argument("--shifts", type=float, nargs="+", default=[1.5, 2.5])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first seed, or first fold")
    parser.add_argument("--path")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=64)
    given = parser.parse_args()
    quiet()
    if given.data == "ihdp":
        found, started = [], time.process_time()
        for fold in range(given.first, given.first + given.splits):
            rows = Causal(
                "ihdp", path=given.path, folds=10, fold=fold, split_seed=10, seed=fold, batch_size=given.batch_size
            )
            one, model = run(rows, fold)
            found.append(one)
            print(f"  fold {fold}: { ({f'{k[0]} {k[1]}': round(v, 3) for k, v in one.items()}) }", flush=True)
        beyond = ", ".join(f"{float(v):.2f}" for v in model.measure.beyond)
        cost = (time.process_time() - started) / given.splits
        report(f"ihdp 1, {given.splits} folds", found, f"beyond support {beyond}; {cost:.0f} s CPU a fit")
        return
    for shift in given.shifts:
        found, beyond, factors, started = [], [], [], time.process_time()
        for seed in range(given.first, given.first + given.seeds):
            rows = Causal("scm", shift=shift, seed=seed, batch_size=given.batch_size)
            one, model = run(rows, seed)
            found.append(one)
            print(f"  seed {seed}: { ({f'{k[0]} {k[1]}': round(v, 3) for k, v in one.items()}) }", flush=True)
            x, arm = (rows.frame("train")[name].to_numpy() for name in ("x", "treatment"))
            test = rows.frame("test")["x"].to_numpy()
            own = [x[arm == a] for a in (0, 1)]
            beyond.append([((test < o.min()) | (test > o.max())).mean() for o in own])
            factors.append(model.measure.shrinkage.numpy())
        remark = (
            f"rows beyond the arm's range {np.mean(beyond, axis=0).round(3)}; shrinkage "
            f"{np.mean(factors, axis=0).round(2)}; {(time.process_time() - started) / given.seeds:.0f} s CPU a fit"
        )
        report(f"shift {shift:g}, {given.seeds} seeds", found, remark)


if __name__ == "__main__":
    main()
