"""Implausible cells: found by their probability given the others, and repaired."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

import genzoo
from genzoo.models.discrete.gidd import GIDD
from genzoo.models.discrete.repair import cell_scores, repair


def agreeing(num_rows: int, seed: int = 0) -> pd.DataFrame:
    """Four columns that say the same thing, and one that is free."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, num_rows)
    return pd.DataFrame(
        {
            "word": np.array(["a", "b", "c"])[kind],
            "other": np.array(["u", "v", "w"])[kind],
            "count": 10 * kind + rng.integers(0, 3, num_rows),
            "flag": np.array(["no", "no", "yes"])[kind],
            "free": np.array(["l", "r"])[rng.integers(0, 2, num_rows)],
        }
    )


@functools.cache
def fitted() -> GIDD:
    model = genzoo.fit(
        agreeing(1500), model="gidd", uniform_share=0.2, num_bins=8, width=32, max_epochs=40, lr=1e-2, patience=0
    )
    assert isinstance(model, GIDD)
    return model


def broken(num_rows: int = 200) -> tuple[pd.DataFrame, pd.DataFrame]:
    whole = agreeing(num_rows, seed=5)
    spoilt = whole.copy()
    spoilt["word"] = whole["word"].map({"a": "b", "b": "c", "c": "a"})
    return whole, spoilt


def test_a_cell_that_contradicts_the_others_is_the_least_plausible_of_its_row() -> None:
    whole, spoilt = broken()
    columns = [c.name for c in fitted().schema.scored]
    spoilt_scores = cell_scores(fitted(), spoilt)
    assert spoilt_scores.shape == (200, 5)
    assert (spoilt_scores.argmin(1) == columns.index("word")).mean() > 0.6
    at = columns.index("word")
    assert spoilt_scores[:, at].mean() < cell_scores(fitted(), whole)[:, at].mean() - 2


def test_holes_have_no_score() -> None:
    rows = agreeing(5)
    rows.loc[0, "other"] = None
    scores = cell_scores(fitted(), rows)
    assert np.isnan(scores[0, [c.name for c in fitted().schema.scored].index("other")])
    assert np.isfinite(scores[1:]).all()


def test_repair_restores_the_broken_cell_and_leaves_whole_rows_alone() -> None:
    whole, spoilt = broken()
    fixed = repair(fitted(), spoilt, seed=0)
    assert (fixed["word"] == whole["word"]).mean() > 0.8
    assert (fixed["free"] == whole["free"]).all(), "a free cell is never implausible"
    untouched = repair(fitted(), whole, seed=0)
    assert (untouched[list(whole.columns)].astype(str) == whole.astype(str)).to_numpy().mean() > 0.99
