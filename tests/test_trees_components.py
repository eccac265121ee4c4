"""Forests over classes that no column names, and the steps of categories."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import genzoo
from contract import mixed_table
from genzoo.errors import CapabilityError
from genzoo.likelihood.noise import RowNoise
from genzoo.models.trees.category_steps import category_log_probs, draw_step, log_step_ratio, tilted
from genzoo.models.trees.code_posterior import Codes
from genzoo.models.trees.forest_flow import ForestFlow
from genzoo.models.trees.latent_classes import filled, fit_latent_classes
from genzoo.trees.levels import StraightPath, reverse_kernel

SMALL: dict[str, Any] = {"num_levels": 5, "rounds": 12, "copies": 3, "eta": 0.3, "groups": 1, "draws": 4}
PATH = StraightPath()


def fit(frame: pd.DataFrame, **arguments: Any) -> ForestFlow:
    model: ForestFlow = genzoo.fit(frame, model="forest_flow", **(SMALL | arguments))
    return model


def clusters(num_rows: int = 500, seed: int = 0) -> pd.DataFrame:
    """Three clusters with covariances of their own, three columns; half in the first."""
    rng = np.random.default_rng(seed)
    which = rng.choice(3, num_rows, p=[0.5, 0.3, 0.2])
    centres = np.array([[0.0, 0, 0], [4, 4, 0], [-4, 3, 3]])
    roots = np.random.default_rng(9).normal(size=(3, 3, 3)) * 0.5 + 0.3 * np.eye(3)
    x = centres[which] + np.einsum("nij,nj->ni", roots[which], rng.normal(size=(num_rows, 3)))
    return pd.DataFrame(x, columns=list("abc"))


def encoded(model: ForestFlow, frame: pd.DataFrame) -> Any:
    return model.codec.encode(model._encoded_table(frame).batch())


# ---- components


@pytest.mark.parametrize("num_levels", [1, 5])
def test_components_without_trees_are_a_mixture_of_gaussians_for_any_levels_and_holes(num_levels: int) -> None:
    frame = clusters()
    model = fit(frame, rounds=0, components=3, num_levels=num_levels)
    holes = frame.head(60).copy()
    holes.loc[:20, "b"] = None
    holes.loc[10:30, "c"] = None
    rows = encoded(model, holes)
    values = model.model_log_prob(rows, RowNoise(0, rows.rows), 3).values
    for place in range(60):
        o = (~rows.values[place].isnan()).nonzero().flatten()
        normal = torch.distributions.MultivariateNormal(model.mean[:, o], model.covariance[:, o][:, :, o])
        expected = torch.logsumexp(normal.log_prob(rows.values[place, o]) + model.class_log_prob, 0)
        assert float(values[place]) == pytest.approx(float(expected), abs=1e-9)


def test_components_find_the_clusters_and_come_near_their_density() -> None:
    frame, held_out = clusters(600), clusters(400, seed=1)
    one = fit(frame, rounds=0).log_prob(held_out).mean()
    three = fit(frame, rounds=0, components=3)
    assert three.log_prob(held_out).mean() > one + 1.0
    np.testing.assert_allclose(three.class_log_prob.exp().sort().values, [0.2, 0.3, 0.5], atol=0.06)
    trees = fit(frame, components=3, rounds=30)
    assert len(trees.jobs) == 15
    assert trees.log_prob(held_out).mean() > three.log_prob(held_out).mean() - 0.3
    drawn = trees.sample(2000, seed=0)
    assert ((drawn["a"] > 2) & (drawn["b"] > 2)).mean() == pytest.approx(0.3, abs=0.06)


def test_components_impute_from_the_cluster_that_a_row_shows(tmp_path: Path) -> None:
    frame = clusters(600)
    model = fit(frame, components=3, rounds=0, imputation="particles", particles=64, run_dir=tmp_path)
    holes = pd.DataFrame({"a": [4.0] * 50 + [-4.0] * 50, "b": [4.0] * 50 + [3.0] * 50, "c": [None] * 100})
    first, second = model.impute(holes.astype(float), draws=2, seed=0)
    assert (first[["a", "b"]] == holes[["a", "b"]]).all().all()
    assert first["c"][50:].mean() > first["c"][:50].mean() + 1.5
    assert not first.equals(second)
    again = genzoo.load(tmp_path)
    np.testing.assert_array_equal(again.log_prob(frame).values, model.log_prob(frame).values)


def test_components_of_mixed_rows_with_holes_score_and_sample() -> None:
    frame = mixed_table(300)
    model = fit(frame, components=2, rounds=5)
    assert np.isfinite(model.log_prob(frame).values).all()
    assert len(model.sample(20)) == 20
    assert not model.impute(frame.head(20))[0].isna().any().any()


def test_components_and_a_label_or_a_table_without_numbers_are_refused() -> None:
    frame = clusters(60).assign(kind=["u", "v"] * 30)
    with pytest.raises(ValueError, match="components are classes that no column names, and label 'kind' names one"):
        fit(frame, components=2, label="kind")
    with pytest.raises(CapabilityError, match="found on columns of numbers, and this table has none"):
        fit(frame[["kind"]].assign(other=["s", "t", "u"] * 20), components=2)
    with pytest.raises(ValueError, match="components must be at least 0"):
        fit(frame, components=-1)


def test_holes_are_filled_by_their_conditional_mean_before_components_are_found() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(300, 1)) @ np.array([[1.0, 2.0]]) + 0.01 * rng.normal(size=(300, 2)))
    holes = x.clone()
    holes[:40, 1] = torch.nan
    assert float((filled(holes) - x).abs().max()) < 0.1
    found = fit_latent_classes(holes, holes[:0], torch.tensor([0, 1]), 2, 0)
    assert torch.isfinite(found.log_joint(holes)).all()
    assert float(found.log_prob.exp().sum()) == pytest.approx(1.0)


# ---- categories


def codes_of(points: list[list[float]], frequency: list[float]) -> Codes:
    made = torch.tensor(points, dtype=torch.float64)
    return Codes(torch.arange(made.shape[1]), made, torch.tensor(frequency, dtype=torch.float64).log(), False, 0 * made)


TWO = codes_of([[-1.0], [1.0]], [0.3, 0.7])
THREE = codes_of([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0]], [0.2, 0.5, 0.3])
BITS = codes_of([[-1.0, -1], [1, -1], [-1, 1]], [0.2, 0.5, 0.3])


@pytest.mark.parametrize("codes", [TWO, THREE], ids=["two", "one-hot"])
def test_tilted_probabilities_have_the_mean_that_the_denoiser_says(codes: Codes) -> None:
    level = PATH.level(0, 0.9)
    x_t = torch.randn(40, codes.points.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.rand(40, len(codes.points), generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    wanted = wanted / wanted.sum(1, keepdim=True)
    found = tilted(codes, codes.log_posterior(x_t, level), wanted @ codes.points)
    torch.testing.assert_close(found.exp(), wanted)


@pytest.mark.parametrize("codes", [TWO, THREE, BITS], ids=["two", "one-hot", "bits"])
def test_a_denoiser_that_says_bayes_rule_leaves_it_as_it_is(codes: Codes) -> None:
    level = PATH.level(0, 0.6)
    x_t = torch.randn(40, codes.points.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = codes.log_posterior(x_t, level)
    mean, _ = codes.estimate(x_t, level)
    found = category_log_probs(codes, x_t, mean, level, torch.tensor(0.9, dtype=torch.float64))
    torch.testing.assert_close(found, plain, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.logsumexp(1), torch.zeros(40, dtype=torch.float64))


def test_the_step_of_a_category_is_a_density_and_draws_follow_it() -> None:
    kernel = reverse_kernel(PATH.level(1, 0.7), PATH.level(0, 0.4))
    log_prob = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    x_t = torch.tensor([[0.3]], dtype=torch.float64)
    u = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    moved = u - kernel.c_t * x_t
    log_density = log_step_ratio(TWO, log_prob.expand(4001, -1), kernel, moved) - math.log(
        kernel.b * math.sqrt(2 * math.pi)
    )
    step = 12 / 4000
    assert float(log_density.exp().sum() * step) == pytest.approx(1.0, abs=1e-6)
    drawn = draw_step(
        TWO, log_prob.expand(20_000, -1), kernel, x_t.expand(20_000, -1), torch.Generator().manual_seed(0)
    )
    mean = float((log_density.exp() * u[:, 0]).sum() * step)
    spread = math.sqrt(float((log_density.exp() * (u[:, 0] - mean) ** 2).sum() * step))
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * spread / math.sqrt(20_000))
    assert float(drawn.std()) == pytest.approx(spread, rel=0.03)


def test_one_weight_of_a_categorical_table_is_near_the_truth() -> None:
    rng = np.random.default_rng(0)

    def table(num_rows: int) -> pd.DataFrame:
        first = rng.integers(0, 3, num_rows)
        second = np.where(rng.random(num_rows) < 0.8, first, rng.integers(0, 3, num_rows))
        return pd.DataFrame({"u": np.array(list("abc"))[first], "v": np.array(list("xyz"))[second]})

    frame, held_out = table(1500), table(500)
    joint = {
        (u, v): math.log((0.8 * (i == j) + 0.2 / 3) / 3)
        for (i, u), (j, v) in itertools.product(enumerate("abc"), enumerate("xyz"))
    }
    truth = np.mean([joint[pair] for pair in zip(held_out["u"], held_out["v"])])
    model = fit(frame, num_levels=8, rounds=40)
    one, ten = (model.log_prob(held_out, draws=draws).mean() for draws in (1, 10))
    # Gaussian steps between the codes were 2.3 nats away with one weight, and 1.0 with ten
    assert truth - 0.3 < one < truth + 0.05
    assert ten > truth - 0.18
    assert one < ten < truth + 0.05
