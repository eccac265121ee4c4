"""Trade-off of fair flows: accuracy of the outcome against the statistical distance of the codes, for several gamma.

    python benchmarks/fair_flow.py adult                       # categories, states; the shipped table
    python benchmarks/fair_flow.py crime crime.parquet         # six numbers, points; UCI Communities and Crime
    python benchmarks/fair_flow.py stripes                     # the toy, whose best answer is known

Writes one line a gamma (certified distance with its upper limit, limit of every adversary, held-out accuracy, parity
gap, best trained adversary on held-out codes) to the terminal and, with -o, to a CSV file.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
import torch

from genzoo.datamodules.fairness import Fairness
from genzoo.evaluation.fairness import attack, certificate, coded_rows, outcomes
from genzoo.models.flows.fair_flow import FairFlow
from genzoo.models.flows.fair_states import FairStates
from genzoo.models.training import quiet, train

MOST_ROWS_OF_AN_ADVERSARY = 8000
GAMMAS = {"crime": [0.0, 0.02, 0.1, 0.2, 0.9], "adult": [0.0, 0.1, 0.2, 0.5, 0.9, 1.0], "stripes": [0.0, 0.2, 0.8]}


def arguments(name: str) -> dict[str, Any]:
    """Settings of the model, but for gamma."""
    if name == "crime":
        return {
            "density": "mixture",
            "density_args": {"num_components": 4, "scaler": "standardise"},
            "encoder_epochs": 30,
        }
    if name == "adult":
        return {"density_epochs": 25, "encoder_epochs": 15}
    return {
        "density": "mixture",
        "density_args": {"num_components": 2, "scaler": "standardise"},
        "encoder_epochs": 40,
        "warm_up": 0.7,
    }


def line(model: FairFlow, module: Fairness, gamma: float, seed: int, seconds: float) -> dict[str, float]:
    """What one representation reaches on held-out rows."""
    found = certificate(model, 100_000, seed=seed).worst
    train_rows, test_rows = (coded_rows(model, module.data(split), seed) for split in ("train", "test"))
    result = outcomes(test_rows)
    assert result is not None
    some = np.random.default_rng(seed).permutation(len(train_rows.group))[:MOST_ROWS_OF_AN_ADVERSARY]
    best = max(
        attack((train_rows.features[some], train_rows.group[some]), (test_rows.features, test_rows.group), seed=seed),
        key=lambda one: one.accuracy,
    )
    return {
        "gamma": gamma,
        "D": found.value,
        "D_upper": found.upper,
        "adversary_limit": found.adversary_bound,
        "adversary": best.accuracy,
        "adversary_se": best.se,
        "accuracy": result.accuracy,
        "accuracy_se": float(np.sqrt(result.accuracy * (1 - result.accuracy) / result.num_rows)),
        "parity_gap": result.parity_gap,
        "odds_gap": result.odds_gap,
        "cpu_seconds": seconds,
    }


def refit_classifier(model: FairFlow, module: Fairness, gamma: float, epochs: int, seed: int) -> None:
    """The same densities and maps with another gamma: only the classifier of codes is trained anew."""
    fair = model.fair
    assert isinstance(fair, FairStates)
    assert fair.classifier is not None
    model.gamma = fair.gamma = gamma
    batch = model.codable(module.data("train").batch())
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(fair.classifier.parameters(), lr=1e-3)
    index = fair.states.index(model.choose(batch).codes)
    group, label = model.codec.groups_of(batch), model.codec.labels_of(batch)
    for _ in range(epochs):
        for rows in torch.randperm(len(index), generator=generator).split(256):
            uniform = torch.rand(len(rows), generator=generator)
            optimiser.zero_grad()
            code = fair.encode(index[rows], group[rows], uniform)
            fair.classification(code, group[rows], label[rows]).backward()
            optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table", choices=sorted(GAMMAS))
    parser.add_argument("file", nargs="?", help="the table, for crime")
    parser.add_argument("--gammas", type=float, nargs="+", help="weights of fairness; by default a grid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", help="CSV file")
    given = parser.parse_args()
    quiet()
    module = Fairness(given.table, path=given.file, seed=given.seed)
    module.setup("fit")
    lines = []
    model: FairFlow | None = None
    for gamma in given.gammas or GAMMAS[given.table]:
        started = time.process_time()
        if model is None or given.table != "adult":
            model = FairFlow(module.schema_dict, gamma=gamma, seed=given.seed, **arguments(given.table))
            model = train(model, module, progress=False)
        else:
            refit_classifier(model, module, gamma, 15, given.seed)
        lines.append(line(model, module, gamma, given.seed, time.process_time() - started))
        print("  ".join(f"{key} {value:.4f}" for key, value in lines[-1].items()), flush=True)
    if given.output:
        pd.DataFrame(lines).to_csv(given.output, index=False)


if __name__ == "__main__":
    main()
