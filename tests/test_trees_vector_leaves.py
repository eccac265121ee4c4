"""Trees whose leaves hold a vector: one tree a round for all columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import genzoo
from genzoo.errors import CapabilityError, GenZooError
from genzoo.models.trees.forest_flow import ForestFlow
from genzoo.trees import boosting, library

SMALL: dict[str, Any] = {
    "num_levels": 5, "rounds": 15, "copies": 3, "eta": 0.3, "groups": 1, "draws": 4, "leaves": "vector"
}  # fmt: skip


def bent(num_rows: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=num_rows)
    return pd.DataFrame({"a": x, "b": x**2 + 0.3 * rng.normal(size=num_rows), "c": rng.normal(size=num_rows)})


@pytest.fixture
def any_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older builds grow such trees too, only slowly."""
    monkeypatch.setattr(boosting, "has_vector_leaves", lambda: True)


def fit(frame: pd.DataFrame, **arguments: Any) -> ForestFlow:
    model: ForestFlow = genzoo.fit(frame, model="forest_flow", **(SMALL | arguments))
    return model


@pytest.mark.usefixtures("any_build")
def test_a_level_has_one_booster_for_all_columns_and_learns_what_a_gaussian_cannot(tmp_path: Path) -> None:
    train, test = bent(), bent(300, seed=1)
    model = fit(train, run_dir=tmp_path)
    parts = [set(model.store.raw(job)) for job in model.jobs[:-1]]
    assert all("f" in found and not any(part[1:].isdigit() for part in found) for found in parts)
    trees = model.log_prob(test)
    gain = trees.values - fit(train, rounds=0).log_prob(test).values
    assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain))
    np.testing.assert_array_equal(genzoo.load(tmp_path).log_prob(test).values, trees.values)


@pytest.mark.usefixtures("any_build")
def test_the_boosters_do_not_depend_on_workers_groups_or_where_rows_are_kept() -> None:
    first = fit(bent(), workers=1)
    for other in (fit(bent(), workers=2, groups=3), fit(bent(), external_memory="always")):
        assert [first.store.raw(job) for job in first.jobs] == [other.store.raw(job) for job in other.jobs]


@pytest.mark.usefixtures("any_build")
def test_holes_are_scored_and_filled_but_not_learned_from() -> None:
    holes = bent(20, seed=1)
    holes.loc[::2, "b"] = np.nan
    model = fit(bent())
    assert np.isfinite(model.log_prob(holes).values).all()
    assert not model.impute(holes)[0].isna().any().any()
    with pytest.raises(CapabilityError, match=r"leaves 'vector'.*'b' has holes.*scalar"):
        fit(holes)


@pytest.mark.usefixtures("any_build")
def test_shared_trees_and_categories_take_vector_leaves_too() -> None:
    frame = bent().assign(d=np.where(bent()["a"] > 0, "x", "y"))
    model = fit(frame, shared=True)
    assert "f" in model.store.raw("trees")
    assert np.isfinite(model.log_prob(frame.head(30)).values).all()


@pytest.mark.parametrize("version, enough", [("3.2.0", False), ("3.3.0", True), ("3.10.1", True), ("4.0.0", True)])
def test_the_version_decides(monkeypatch: pytest.MonkeyPatch, version: str, enough: bool) -> None:
    monkeypatch.setattr(library.xgboost(), "__version__", version)
    assert library.has_vector_leaves() == enough


def test_an_older_build_is_refused_when_training_begins_and_a_checkpoint_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosting, "has_vector_leaves", lambda: True)
    model = fit(bent(120), run_dir=tmp_path)
    monkeypatch.setattr(boosting, "has_vector_leaves", lambda: False)
    rows = bent(10, seed=1)
    np.testing.assert_array_equal(genzoo.load(tmp_path).log_prob(rows).values, model.log_prob(rows).values)
    with pytest.raises(GenZooError, match=r"leaves 'vector' need XGBoost 3\.3.*use leaves 'scalar'"):
        fit(bent(120))


@pytest.mark.usefixtures("any_build")
@pytest.mark.parametrize("columns", [["a"], ["a", "d"]])
def test_one_number_is_a_vector_too(columns: list[str]) -> None:
    frame = bent().assign(d=np.where(bent()["c"] > 0, "x", "y"))[columns]
    model = fit(frame, label="d" if "d" in columns else None)
    assert np.isfinite(model.log_prob(frame.head(30)).values).all()


@pytest.mark.usefixtures("any_build")
def test_held_out_rows_with_holes_and_rows_without_a_label_are_no_hindrance() -> None:
    frame = bent().assign(d=np.where(bent()["c"] > 0, "x", "y"))
    frame["split"] = np.where(np.arange(len(frame)) % 5, "train", "val")
    frame.loc[3, ["b", "d"]] = None  # of no known class, so not learned from
    frame.loc[frame.index[::10], "a"] = np.nan  # half of the validation rows
    model = fit(frame, label="d", data={"split_column": "split", "test": 0.0}, stopping=5)
    assert np.isfinite(model.log_prob(frame.head(60)).values).all()
