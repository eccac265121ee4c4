"""Trains the public package ForestDiffusion on stored rows and writes generated sets; run by ``forest_flow.py``.

    python forest_reference.py DATA.npz OUT.npz '{"num_levels": 20, "copies": 20, "sets": 5, "seed": 0}'

``DATA.npz`` holds ``train`` (n, p) and, for a table with classes, ``label`` (n,) with values 0 to C - 1. Needs numpy
and ForestDiffusion 1.0.6 alone. ``levels_timed``: trains that many levels only, for extrapolation.
"""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
from ForestDiffusion import ForestDiffusionModel


def main() -> None:
    data, settings = np.load(sys.argv[1]), json.loads(sys.argv[3])
    train = data["train"].astype(float)
    label = data.get("label")
    print("ready", flush=True)
    timed = settings.get("levels_timed", 0)
    model = ForestDiffusionModel(
        train,
        label_y=label,
        n_t=timed or settings["num_levels"],
        duplicate_K=settings["copies"],
        diffusion_type=settings.get("method", "flow"),
        bin_indexes=[],
        cat_indexes=[],
        int_indexes=[],
        n_jobs=-1,
        seed=settings["seed"],
    )
    sets = []
    if not timed:
        sets = [model.generate(batch_size=len(train)) for _ in range(settings["sets"])]
    print("done", flush=True)
    regressors = model.regr
    size = sum(len(_raw(regressor)) for regressor in _flat(regressors))
    np.savez(sys.argv[2], sets=np.array(sets), size=size)


def _flat(regressors: object) -> list[object]:
    if isinstance(regressors, (list, tuple, np.ndarray)):
        return [one for part in regressors for one in _flat(part)]
    if isinstance(regressors, dict):
        return [one for part in regressors.values() for one in _flat(part)]
    return [regressors]


def _raw(regressor: object) -> bytes:
    if hasattr(regressor, "save_raw"):
        return bytes(regressor.save_raw("ubj"))
    if hasattr(regressor, "get_booster"):
        return bytes(regressor.get_booster().save_raw("ubj"))
    return pickle.dumps(regressor)


if __name__ == "__main__":
    main()
