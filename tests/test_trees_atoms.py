"""Atoms of grids in forests that undo noise: cells as wide as they are frequent, or indicators where they cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import genzoo
from genzoo.codecs.matrix import MatrixCodec
from genzoo.tables.schema import Column, Schema

SMALL = {"num_levels": 8, "rounds": 20, "copies": 4, "eta": 0.3, "groups": 1, "workers": 1}


def doses(num_rows: int = 800, seed: int = 0) -> pd.DataFrame:
    """A grid of 80 cells with atoms at 0 and 50, beside a smooth column that follows it."""
    rng = np.random.default_rng(seed)
    place = rng.random(num_rows)
    dose = np.where(place < 0.3, 0, np.where(place < 0.5, 50, rng.integers(1, 80, num_rows)))
    return pd.DataFrame({"dose": dose, "effect": 0.05 * dose + rng.normal(size=num_rows)})


def column_of(**changes: Any) -> Column:
    return Column("dose", **({"kind": "quantized", "step": 1.0, "atoms": (0.0, 50.0)} | changes))


@pytest.mark.parametrize(
    ("changes", "scaler", "box", "width"),
    [
        ({}, "auto", False, 1),
        ({}, None, False, 1),
        ({}, "cells", False, 1),
        ({}, {"dose": "auto"}, False, 1),
        ({"lower": 0.0}, "auto", False, 1),
        ({}, "standardise", False, 4),  # the number, and a code of three: either atom, or none
        ({}, {"dose": "robust"}, False, 4),
        ({}, "standardise", True, 4),
        ({"lower": 1.0}, "auto", False, 4),  # an atom beyond a bound has no cell
        ({"missing": "value"}, "auto", False, 5),
        ({"kind": "mixed", "step": None}, "auto", False, 4),
    ],
)
def test_atoms_of_a_grid_are_cells_where_the_scale_makes_room_for_them(
    changes: dict[str, Any], scaler: Any, box: bool, width: int
) -> None:
    codec = MatrixCodec(Schema((column_of(**changes),)), scaler, box=box)
    assert codec.width == width
    if width == 1:
        assert codec.typed.scaler.choices == ("cells",)


@pytest.mark.parametrize("model", ["forest_flow", "forest_diffusion"])
def test_atoms_are_drawn_and_imputed_as_often_as_they_are(model: str) -> None:
    frame = doses()
    overrides = {"dose": {"kind": "quantized", "step": 1.0, "atoms": [0.0, 50.0]}}
    fitted = genzoo.fit(frame, model=model, data={"overrides": overrides}, **SMALL)
    for dose in (fitted.sample(3000, seed=0)["dose"], fitted.impute(frame.assign(dose=np.nan), seed=0)[0]["dose"]):
        for atom in (0, 50):
            assert (dose == atom).mean() == pytest.approx((frame["dose"] == atom).mean(), abs=0.07)
        assert (dose == 49).mean() < 0.03
    assert np.isfinite(fitted.log_prob(frame).values).all()


def test_an_atom_beyond_a_bound_keeps_its_probability() -> None:
    frame = doses().replace({"dose": {0: -1}})
    overrides = {"dose": {"kind": "quantized", "step": 1.0, "lower": 1.0, "upper": 80.0, "atoms": [-1.0, 50.0]}}
    fitted = genzoo.fit(frame, model="forest_flow", data={"overrides": overrides}, **SMALL)
    assert np.isfinite(fitted.log_prob(frame).values).all()
    assert (fitted.sample(2000, seed=0)["dose"] == -1).mean() == pytest.approx(0.3, abs=0.06)
