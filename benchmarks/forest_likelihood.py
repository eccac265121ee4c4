"""The likelihood bound of ForestFlow and ForestDiffusion against known densities and against other models.

    OMP_NUM_THREADS=1 python benchmarks/forest_likelihood.py [--only moons wine] [--model forest_flow]
        [--arguments '{"rotations": 2}'] [--rows 8000] [--alone]

Negative log-likelihood of held-out rows, nats a row, numbers in z-scores of the training rows: ``truth`` where the
density is known, one Gaussian, a mixture of Gaussians (its number of components chosen on validation rows), and the
bound with 1 and with 10 importance weights; each less the truth in brackets. ``sum`` is the bound of 10 weights summed
over a grid on two columns, which is at most 1 and near it. One split and seed; settings are those of :data:`SETTINGS`.
``--rows`` draws so many training rows of a known density; ``--alone`` leaves the other models out.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from forest_flow import mixture, mixture_log_density

import genzoo

SETTINGS: dict[str, dict[str, Any]] = {
    "moons": {"num_levels": 50, "copies": 10},
    "eight_gaussians": {"num_levels": 50, "copies": 10},
    "wine": {"num_levels": 20, "shrink": True, "depth": 3, "eta": 0.1},
    "breast_cancer": {"num_levels": 20},
    "mixture": {"num_levels": 25},
    "letters": {"num_levels": 8, "copies": 3, "rounds": 40, "eta": 0.3},
}


def moons(num_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaved half circles with Gaussian noise of 0.1, and their log-density by quadrature over the arcs."""

    def arcs(angle: np.ndarray) -> np.ndarray:
        upper = np.stack([np.cos(angle), np.sin(angle)], 1)
        return np.concatenate([upper, np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)])

    angle = np.pi * rng.random(num_rows)
    both = arcs(angle)
    x = np.where(rng.random(num_rows)[:, None] < 0.5, both[:num_rows], both[num_rows:])
    x = x + 0.1 * rng.normal(size=x.shape)
    centres = arcs(np.pi * (np.arange(400) + 0.5) / 400)
    return x, _log_density(x, centres, 0.1)


def eight_gaussians(num_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Eight Gaussians on a circle of radius 2, standard deviation 0.2."""
    angle = np.arange(8) * np.pi / 4
    centres = 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    x = centres[rng.integers(0, 8, num_rows)] + 0.2 * rng.normal(size=(num_rows, 2))
    return x, _log_density(x, centres, 0.2)


def _log_density(x: np.ndarray, centres: np.ndarray, sd: float) -> np.ndarray:
    distance = ((x[:, None] - centres) ** 2).sum(2)
    each = -0.5 * distance / sd**2 - np.log(2 * np.pi * sd**2) - np.log(len(centres))
    return np.asarray(torch.logsumexp(torch.from_numpy(each), 1))


def letters(num_rows: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Two columns of three categories; the second repeats the first in four rows of five. And their log-probability."""
    first = rng.integers(0, 3, num_rows)
    second = np.where(rng.random(num_rows) < 0.8, first, rng.integers(0, 3, num_rows))
    frame = pd.DataFrame({"x0": np.array(list("abc"))[first], "x1": np.array(list("xyz"))[second]})
    return frame, np.log((0.8 * (first == second) + 0.2 / 3) / 3)


def table(name: str, seed: int, num_rows: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame, float | None]:
    """Training (with validation) and held-out rows in z-scores of the training rows, and the truth's mean NLL."""
    rng = np.random.default_rng(seed)
    truth = None
    if name == "letters":
        frame, _ = letters(num_rows or 1500, rng)
        held_out, log_probability = letters(500, rng)
        return frame, held_out, -float(log_probability.mean())
    if name in ("moons", "eight_gaussians"):
        make = moons if name == "moons" else eight_gaussians
        train, _ = make(num_rows or 2500, rng)
        test, log_density = make(1000, rng)
        truth = -float(log_density.mean())
    elif name == "mixture":
        train, test = mixture(num_rows or 2000, rng), mixture(500, rng)
        truth = -float(mixture_log_density(test).mean())
    else:
        from sklearn import datasets

        x = np.asarray(getattr(datasets, f"load_{name}")().data, dtype=float)
        x = x[rng.permutation(len(x))]
        cut = int(0.8 * len(x))
        train, test = x[:cut], x[cut:]
    mean, sd = train.mean(0), train.std(0)
    if truth is not None:
        truth -= float(np.log(sd).sum())
    columns = [f"x{k}" for k in range(train.shape[1])]
    frames = [pd.DataFrame((rows - mean) / sd, columns=columns) for rows in (train, test)]
    return frames[0], frames[1], truth


def grid_sum(model: Any, frame: pd.DataFrame) -> float:
    """The bound of ten weights summed over a grid that holds all but a sliver of the mass."""
    low, high = frame.min() - 1.0, frame.max() + 1.0
    axes = [np.linspace(low.iloc[k], high.iloc[k], 90) for k in range(2)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(model.log_prob(pd.DataFrame(points, columns=frame.columns)).values)
    return float(density.sum() * (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))


def run(name: str, model: str, seed: int, arguments: dict[str, Any], num_rows: int | None, alone: bool) -> None:
    train, test, truth = table(name, seed, num_rows)
    kind = "categorical" if name == "letters" else "continuous"
    data = {"test": 0.0, "val": 0.15, "overrides": {column: {"kind": kind} for column in train}}

    def fit(key: str, **given: Any) -> Any:
        return genzoo.fit(train, model=key, data=data, seed=seed, **given)

    def cell(likelihood: Any) -> str:
        apart = "" if truth is None else f" ({-likelihood.mean() - truth:+.3f})"
        return f"{-likelihood.mean():.3f}{apart} ± {likelihood.se_mean():.3f}"

    keys = ("gaussian", "mixture", "forest_autoregressive")
    others = ["" if alone else cell(fit(key).log_prob(test)) for key in keys]
    settings = SETTINGS[name] | arguments
    started = time.process_time()
    trees = fit(model, **({"scaler": "standardise", "trainer": {"limit_val_batches": 0}} | settings))
    seconds = time.process_time() - started
    started = time.process_time()
    one, ten = (cell(trees.log_prob(test, draws=draws)) for draws in (1, 10))
    scoring = time.process_time() - started
    total = f"{grid_sum(trees, train):.3f}" if train.shape[1] == 2 and name != "letters" else ""
    shown = "" if truth is None else f"{truth:.3f}"
    print(
        f"| {name} ({train.shape[0]} x {train.shape[1]}) | {shown} | {' | '.join(others)} | {one} | {ten} | {total} | "
        f"{seconds:.0f} + {scoring:.0f} | {json.dumps(settings)} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--model", default="forest_flow", choices=["forest_flow", "forest_diffusion"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arguments", type=json.loads, default={}, help="JSON put over the settings")
    parser.add_argument("--rows", type=int, help="training rows of the known densities")
    parser.add_argument("--alone", action="store_true", help="leave the other models out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| data | truth | gaussian | mixture | forest_autoregressive | bound | 10 weights | sum | CPU s | settings |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in given.only:
        run(name, given.model, given.seed, given.arguments, given.rows, given.alone)


if __name__ == "__main__":
    main()
