"""Tables and small settings that the contract suite runs every catalogue entry on. A new model joins by one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

# Arguments that make a model small enough for a test; a model that needs none is left out.
SMALL: dict[str, dict[str, Any]] = {
    "independent": {},
    "gaussian": {},
    "mixture": {"num_components": 3},
    "maf": {"num_transforms": 2, "hidden": 32, "patience": 0},
    "ebflow": {"objective": "ssm", "num_layers": 2, "hidden": 16, "slices": 1, "patience": 0, "steps": 10},
    "spline_flow": {"num_transforms": 2, "hidden": 32, "patience": 0},
    "interventional_flow": {"hidden": 16, "folds": 2, "num_cells": 128, "bins": 4, "target_bins": 4, "patience": 0},
    "tail_adaptive_flow": {"num_transforms": 1, "hidden": 16, "bins": 4, "patience": 0},
    "residual_flow": {"num_blocks": 2, "hidden": 24, "patience": 0},
    "radd": {"num_bins": 8, "width": 32, "num_layers": 2, "num_heads": 2, "patience": 0},
    "gidd": {"num_bins": 8, "width": 32, "num_layers": 2, "num_heads": 2, "num_steps": 24, "patience": 0},
    "multinomial_diffusion": {"num_bins": 8, "width": 32, "num_steps": 24, "patience": 0},
    "binary_diffusion": {"num_bits": 3, "width": 32, "num_layers": 1, "num_steps": 16, "patience": 0},
    "argmax_flow": {"num_bins": 8, "bins": 4, "hidden": 32, "num_layers": 1, "encoder": 32, "draws": 2, "patience": 0},
    "fair_flow": {
        "joint": True,
        "density_args": {"transform": "coupling", "hidden": 16, "num_transforms": 2, "bins": 6},
        "num_blocks": 2,
        "hidden": 8,
        "pool": 300,
        "draws": 8,
    },
    "forest_autoregressive": {"rounds": 40, "groups": 2},
    "forest_flow": {"num_levels": 8, "rounds": 15, "copies": 3, "groups": 2, "draws": 4, "eta": 0.3},
    "forest_diffusion": {"num_levels": 5, "rounds": 12, "copies": 3, "groups": 2, "draws": 4, "eta": 0.3},
}
TRAINER = {"max_epochs": 3}
# Roles that an entry needs, on each of the tables below, as ``data`` of ``genzoo.fit``.
ROLES: dict[str, dict[str, dict[str, Any]]] = {
    "fair_flow": {table: {"sensitive": ["flag"]} for table in ("mixed", "discrete", "continuous")},
    "interventional_flow": {
        "mixed": {"treatment": ["flag"], "outcome": ["x"]},
        "discrete": {"treatment": ["flag"], "outcome": ["count"]},
        "continuous": {"treatment": ["flag"], "outcome": ["c1"]},
    },
}


def mixed_table(num_rows: int = 400, seed: int = 0, holes: bool = True) -> pd.DataFrame:
    """Continuous, quantized, mixed (40 % zeros) and categorical columns that depend on each other, with holes."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, num_rows)
    x = rng.normal(size=num_rows) + group
    count = rng.poisson(3 + 2 * group)
    amount = np.where(rng.random(num_rows) < 0.4, 0.0, np.exp(rng.normal(size=num_rows) + 0.3 * x))
    frame = pd.DataFrame(
        {
            "x": x,
            "count": count.astype("int64"),
            "amount": amount,
            "group": np.array(["a", "b", "c"])[group],
            "flag": np.where(rng.random(num_rows) < 1 / (1 + np.exp(-x)), "yes", "no"),
        }
    )
    if holes:
        frame["count"] = frame["count"].astype("Int64")
        for name in ("x", "count", "group"):
            frame.loc[rng.random(num_rows) < 0.1, name] = None
    return frame


def discrete_table(num_rows: int = 300, seed: int = 0) -> pd.DataFrame:
    """A category, a small count that is often rounded to 5, and a flag: every state can be listed."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, num_rows)
    count = rng.poisson(1 + group)
    return pd.DataFrame(
        {
            "group": np.array(["a", "b", "c"])[group],
            "count": np.where(rng.random(num_rows) < 0.12, 5, count),
            "flag": np.where(rng.random(num_rows) < 0.3 + 0.2 * group, "yes", "no"),
        }
    )


def continuous_table(num_rows: int = 400, seed: int = 0, num_columns: int = 2, flag: bool = False) -> pd.DataFrame:
    """Correlated, skewed numbers without ties; with ``flag`` a category beside them."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num_rows, num_columns))
    z[:, 1:] += 0.7 * z[:, :-1] ** 2
    frame = pd.DataFrame({f"c{i}": z[:, i] * (1 + i) for i in range(num_columns)})
    return frame.assign(flag=np.where(z[:, 0] > rng.normal(size=num_rows), "yes", "no")) if flag else frame
