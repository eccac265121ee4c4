"""Trees under a time limit: complete in time, smaller, and still a density."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_trees_machinery import examples

import genzoo
from contract import mixed_table
from genzoo.datamodules.table import Table
from genzoo.models.baselines.mixture import GaussianMixture
from genzoo.models.deadline import deadline_of
from genzoo.models.training import make_trainer
from genzoo.models.trees.forest_flow import ForestFlow
from genzoo.trees.boosting import Growth, grow
from genzoo.trees.store import CUT_SHORT


def test_a_booster_stops_at_the_tree_under_way_when_its_time_is_over() -> None:
    def grown(seconds: float) -> Any:
        return grow(examples(), None, Growth(rounds=12, seconds=seconds), "binary:logistic", 0)

    assert (grown(math.inf).rounds, grown(math.inf).cut_short) == (12, False)
    assert (grown(1e-9).rounds, grown(1e-9).cut_short) == (1, True)
    assert (grown(0.0).rounds, grown(0.0).blob, grown(0.0).cut_short) == (0, b"", True)
    assert grown(1e9).blob == grown(math.inf).blob


@pytest.mark.parametrize("model", ["forest_flow", "forest_diffusion", "forest_autoregressive"])
def test_an_ensemble_is_complete_when_its_time_is_over(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = mixed_table()
    with caplog.at_level(logging.WARNING):
        made: Any = genzoo.fit(
            frame,
            model=model,
            seed=0,
            rounds=100_000,
            stopping=0,
            trainer={"max_time": {"seconds": 1}},
            run_dir=tmp_path,
        )
    assert made.ready
    assert any(made.store.has(job, CUT_SHORT) for job in made.jobs)
    assert f"{type(made).__name__}: the time limit ended the growth of trees" in caplog.text
    scores = made.log_prob(frame).values
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(genzoo.load(tmp_path).log_prob(frame).values, scores)
    assert len(made.sample(5)) == 5


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    stores = []
    for trainer in ({}, {"max_time": {"hours": 9}}):
        made: Any = genzoo.fit(mixed_table(), model="forest_flow", seed=0, rounds=3, num_levels=5, trainer=trainer)
        stores.append({job: made.store.raw(job) for job in made.jobs})
    assert stores[0] == stores[1]


class HalfTheLevels(ForestFlow):
    """Levels of odd numbers get no time."""

    def run_job(self, job: str, *rows: Any) -> dict[str, bytes]:
        self.job_seconds = math.inf if int(job.split()[1]) % 2 == 0 else 0.0
        return super().run_job(job, *rows)


def test_levels_without_trees_leave_a_density(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=500)
    frame = pd.DataFrame({"x": x, "y": np.abs(x) + 0.3 * rng.normal(size=500)})
    module = Table(frame=frame, seed=0)
    module.setup("fit")
    model = HalfTheLevels(schema=module.schema_dict, num_levels=12, rounds=20, draws=30, workers=1)
    make_trainer(tmp_path, progress=False).fit(model, datamodule=module)
    assert len(model.reverse.path) < 12
    axis = np.linspace(-5, 6, 56)
    grid = pd.DataFrame([(a, b) for a in axis for b in axis], columns=["x", "y"])
    mass = np.exp(model.log_prob(grid).values).sum() * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1.0, abs=0.03)


def test_levels_far_apart_come_first() -> None:
    model = ForestFlow(schema=Table(frame=mixed_table()).schema_dict, num_levels=8)
    order = [int(job.split()[1]) for job in model.most_useful_first(model.jobs)]
    assert order[0] == 0
    assert sorted(order) == list(range(8))
    assert min(abs(a - b) for a in order[:3] for b in order[:3] if a != b) >= 2


def test_a_mixture_whose_time_is_over_has_found_what_there_was_time_for(tmp_path: Path) -> None:
    frame = mixed_table()
    long: Any = genzoo.fit(frame, model="mixture", seed=0)

    module = Table(frame=frame, seed=0)
    module.setup("fit")
    trainer = make_trainer(tmp_path, progress=False, max_time={"seconds": 0})
    short = GaussianMixture(schema=module.schema_dict, seed=0)
    assert deadline_of(short) == math.inf
    trainer.fit(short, datamodule=module)
    assert deadline_of(short) <= time.monotonic()
    assert short.ready
    assert short.num_parameters < long.num_parameters
    assert np.isfinite(short.log_prob(frame).values).all()
