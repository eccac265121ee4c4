"""Forest diffusion and what it shares with the flow: samplers, RePaint, classes, rows without a likelihood."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import genzoo
from contract import continuous_table, mixed_table
from genzoo.codecs.matrix import MatrixCodec
from genzoo.datamodules.table import Table
from genzoo.errors import CapabilityError, GenZooError, SchemaError
from genzoo.likelihood.noise import RowNoise
from genzoo.models.training import make_trainer
from genzoo.models.trees.denoiser import patterns, random_rotations
from genzoo.models.trees.forest_diffusion import ForestDiffusion
from genzoo.models.trees.forest_flow import ForestFlow
from genzoo.models.trees.gaussian_fits import covariance_of, fit_groups
from genzoo.models.trees.noised_rows import noised_copies, scaled_residual
from genzoo.models.trees.samplers import follow_flow, time_grid
from genzoo.trees.example_table import ExampleTable

SMALL: dict[str, Any] = {"num_levels": 6, "rounds": 12, "copies": 3, "eta": 0.3, "groups": 1, "draws": 4}


def fit(frame: pd.DataFrame, model: str = "forest_diffusion", **arguments: Any) -> Any:
    return genzoo.fit(frame, model=model, **(SMALL | arguments))


def gaussian_table(num_rows: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num_rows, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.5, -0.6], [0.0, 0.0, 0.7]])
    return pd.DataFrame(z, columns=list("abc"))


def classes_table(num_rows: int = 300, seed: int = 0) -> pd.DataFrame:
    """Two Gaussian columns whose means depend on one of three unequal classes."""
    rng = np.random.default_rng(seed)
    which = rng.choice(3, num_rows, p=[0.6, 0.3, 0.1])
    x = rng.normal(size=(num_rows, 2)) * 0.5 + np.array([[0, 0], [2, 1], [-2, 1]])[which]
    return pd.DataFrame({"x": x[:, 0], "kind": np.array(["seven", "nine", "eleven"])[which], "y": x[:, 1]})


def encoded(model: Any, frame: pd.DataFrame) -> Any:
    return model.codec.encode(model._encoded_table(frame).batch())


# ---- likelihood of the diffusion


@pytest.mark.parametrize("num_levels", [1, 2, 7])
def test_without_trees_it_is_the_gaussian_for_any_number_of_levels_and_any_holes(num_levels: int) -> None:
    model = fit(gaussian_table(), rounds=0, num_levels=num_levels)
    holes = gaussian_table().head(40)
    holes.loc[:20, "b"] = None
    holes.loc[10:30, "c"] = None
    rows = encoded(model, holes)
    values = model.model_log_prob(rows, RowNoise(0, rows.rows), 2).values
    expected = torch.zeros_like(values)
    for observed, chosen in patterns(rows.values):
        o = observed.nonzero().flatten()
        normal = torch.distributions.MultivariateNormal(model.mean[0, o], model.covariance[0][o][:, o])
        expected[chosen] = normal.log_prob(rows.values[chosen][:, o])
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-9)


def test_the_bound_stays_below_a_known_density_and_rises_with_draws() -> None:
    rng = np.random.default_rng(3)

    def ring(num_rows: int) -> tuple[pd.DataFrame, np.ndarray]:
        angle = np.arange(4) * np.pi / 2
        centres = np.stack([np.cos(angle), np.sin(angle)], 1)
        x = centres[rng.integers(0, 4, num_rows)] + 0.2 * rng.normal(size=(num_rows, 2))
        distance = ((x[:, None] - centres) ** 2).sum(2)
        return pd.DataFrame(x, columns=["x", "y"]), np.log(np.exp(-distance / 0.08).mean(1) / (2 * np.pi * 0.04))

    frame, _ = ring(1200)
    held_out, truth = ring(400)
    model = fit(frame, num_levels=12, rounds=60, copies=5, eta=0.2, spacing="log_snr")
    one, few, many = (model.log_prob(held_out, draws=draws) for draws in (1, 4, 16))
    assert one.mean() < few.mean() < many.mean()
    gap = truth - many.values
    assert gap.mean() > -3 * gap.std() / math.sqrt(len(gap)), "a bound on the expected log-density"
    assert gap.mean() < 0.3
    assert many.mean() > genzoo.fit(frame, model="gaussian").log_prob(held_out).mean() + 0.4


# ---- samplers


@pytest.mark.parametrize("model", ["forest_flow", "forest_diffusion"])
def test_the_flow_of_gaussian_rows_is_solved_to_the_order_of_the_solver(model: str) -> None:
    frame = gaussian_table(500)
    found = fit(frame, model, rounds=0, num_levels=12, spacing="log_snr")
    reverse, path = found.reverse, found.path
    context = torch.zeros(50, 0)

    def drawn(solver: Any, num_steps: int) -> torch.Tensor:
        return follow_flow(reverse, path, context, torch.Generator().manual_seed(1), solver, num_steps)[0]

    # along each principal axis the flow keeps rows at the same number of standard deviations of the noised Gaussian
    view, first, last = reverse.denoiser.complete_view(), reverse.levels[0], reverse.levels[-1]
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = view.prior(first, z) - first.signal * view.mean

    def spread(level: Any) -> torch.Tensor:
        return (level.signal**2 * view.value + level.noise**2).sqrt()

    end = last.signal * view.mean + ((start @ view.vector) * spread(last) / spread(first)) @ view.vector.T
    truth = view.linear(end, last)[0]
    errors = [float((drawn(solver, 44) - truth).abs().mean()) for solver in ("euler", "heun", "rk4")]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 1e-3
    halves = [float((drawn("heun", steps) - truth).abs().mean()) for steps in (22, 44)]
    assert halves[0] > 2.5 * halves[1], "second order"


def test_a_solver_steps_from_level_to_level_or_evenly_between_them() -> None:
    assert time_grid([1.0, 0.5, 0.1], 0) == [1.0, 0.5, 0.1]
    assert time_grid([1.0, 0.5, 0.1], 4) == pytest.approx([1.0, 0.75, 0.5, 0.3, 0.1])


@pytest.mark.parametrize("shared", [False, True])
def test_twice_the_steps_change_samples_by_less_than_their_sampling_noise(shared: bool) -> None:
    frame = continuous_table(400)
    model = fit(frame, "forest_flow", num_levels=12, rounds=30, sampler="euler", shared=shared)

    def quantiles(steps: int, seed: int) -> np.ndarray:
        model.solver_steps = steps
        return np.sort(model.sample(400, seed=seed).to_numpy(), 0)

    noise = np.abs(quantiles(24, 0) - quantiles(24, 1)).mean()
    assert np.abs(quantiles(24, 0) - quantiles(48, 0)).mean() < noise


@pytest.mark.parametrize("sampler", ["sde", "euler", "heun", "rk4", "ancestral"])
def test_every_sampler_of_the_diffusion_finds_the_moments_of_gaussian_rows(sampler: str) -> None:
    frame = gaussian_table(2000)
    arguments = {"spacing": "uniform", "num_levels": 60} if sampler == "sde" else {"num_levels": 30}
    drawn = fit(frame, rounds=0, sampler=sampler, **arguments).sample(4000, seed=2)
    assert np.abs(drawn.mean() - frame.mean()).max() < 0.08
    # Euler-Maruyama steps of size 1/60 leave a few per cent
    np.testing.assert_allclose(drawn.cov(), frame.cov(), atol=0.15)


def test_rows_drawn_by_other_samplers_differ_and_the_likelihood_does_not() -> None:
    frame = continuous_table(200)
    models = [fit(frame, sampler=sampler) for sampler in ("ancestral", "sde", "euler")]
    drawn = [model.sample(30) for model in models]
    assert not drawn[0].equals(drawn[1])
    assert not drawn[1].equals(drawn[2])
    values = [model.log_prob(frame).values for model in models]
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])


# ---- samples without a likelihood


def test_the_box_holds_every_sample_and_has_no_likelihood() -> None:
    frame = continuous_table(200)
    model = fit(frame, "forest_flow", box=True, sampler="euler", data={"test": 0.0})
    drawn = model.sample(500)
    training = model.codec.typed
    assert (drawn.max() <= frame.max()).all()
    assert (drawn.min() >= frame.min()).all()
    assert training.fitted
    with pytest.raises(CapabilityError, match=r"draws rows and has no likelihood: box: true clips samples"):
        model.log_prob(frame)


def test_the_box_gives_back_the_rows_it_was_given() -> None:
    module = Table(frame=continuous_table(100), seed=0)
    module.setup("fit")
    codec = MatrixCodec(module.schema, box=True)
    batch = module.data("train").batch()
    codec.fit(batch)
    rows = codec.encode(batch)
    torch.testing.assert_close(rows.values.amin(0), -torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(rows.values.amax(0), torch.ones(2, dtype=torch.float64))
    again = codec.decode(rows.values, rows.cells.category, rows.rows)
    torch.testing.assert_close(again.numeric, batch.numeric)


def test_without_residual_variances_rows_are_drawn_and_a_likelihood_is_refused_in_words() -> None:
    frame = continuous_table(150)
    model = fit(frame, "forest_flow", likelihood=False, sampler="heun")
    assert len(model.sample(10)) == 10
    with pytest.raises(CapabilityError, match="trained with likelihood: false"):
        model.log_prob(frame)
    for key, kind in (("forest_flow", "euler, heun or rk4"), ("forest_diffusion", "sde, euler, heun or rk4")):
        with pytest.raises(ValueError, match=kind):
            fit(frame, key, likelihood=False)


# ---- imputation


@pytest.mark.parametrize("imputation", ["repaint", "particles"])
@pytest.mark.parametrize("model", ["forest_flow", "forest_diffusion"])
def test_imputed_gaussian_rows_have_the_conditional_mean_and_observed_cells_are_kept(
    model: str, imputation: str
) -> None:
    frame = gaussian_table(1000)
    found = fit(frame, model, rounds=0, num_levels=20, imputation=imputation, particles=256, repaint_passes=10)
    covariance = np.cov(frame.T.to_numpy())
    holes = pd.DataFrame({"a": np.full(60, 1.5), "b": np.full(60, np.nan), "c": np.full(60, -0.5)})
    first, *others = found.impute(holes, draws=4, seed=1)
    for name in "ac":
        assert np.array_equal(first[name].to_numpy(), holes[name].to_numpy())
    assert not first["b"].equals(others[0]["b"])
    drawn = np.concatenate([filled["b"].to_numpy() for filled in (first, *others)])
    gain = np.linalg.solve(covariance[np.ix_([0, 2], [0, 2])], covariance[[0, 2], 1])
    mean = frame["b"].mean() + gain @ (np.array([1.5, -0.5]) - frame[["a", "c"]].mean().to_numpy())
    sd = math.sqrt(covariance[1, 1] - gain @ covariance[[0, 2], 1])
    # RePaint tells the observed columns through noise alone: it comes near
    assert drawn.mean() == pytest.approx(mean, abs=0.35 * sd if imputation == "repaint" else 0.25 * sd)
    assert drawn.std() == pytest.approx(sd, rel=0.35)


def test_more_passes_of_repaint_come_nearer_to_the_conditional_mean() -> None:
    frame = gaussian_table(1000)
    holes = pd.DataFrame({"a": np.full(400, 2.5), "b": np.full(400, np.nan), "c": np.full(400, 0.5)})
    covariance = np.cov(frame.T.to_numpy())
    gain = np.linalg.solve(covariance[np.ix_([0, 2], [0, 2])], covariance[[0, 2], 1])
    mean = frame["b"].mean() + gain @ (np.array([2.5, 0.5]) - frame[["a", "c"]].mean().to_numpy())
    gaps = []
    for passes in (1, 10):
        model = fit(frame, rounds=0, num_levels=12, repaint_passes=passes, repaint_jump=2, spacing="uniform")
        gaps.append(abs(model.impute(holes, seed=0)[0]["b"].mean() - mean))
    assert gaps[1] < 0.6 * gaps[0]


# ---- classes


@pytest.mark.parametrize("classes", ["input", "separate"])
def test_a_label_is_worth_its_probability_and_the_bound_of_the_rest(classes: str) -> None:
    frame = classes_table()
    model: ForestFlow = fit(frame, "forest_flow", label="kind", classes=classes, rounds=0, data={"val": 0.0})
    rows = encoded(model, frame.head(30))
    assert model.codec.width == 2
    values = model.model_log_prob(rows, RowNoise(0, rows.rows), 3).values
    expected = torch.stack(
        [
            model.class_log_prob[g]
            + torch.distributions.MultivariateNormal(model.mean[g], model.covariance[g]).log_prob(x)
            for g, x in zip(rows.group.tolist(), rows.values)
        ]
    )
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-9)
    # a missing label is summed over, and the posterior is what Bayes' rule makes of the classes
    hidden = frame.head(30).assign(kind=None)
    rows = encoded(model, hidden)
    each = torch.stack(
        [
            model.class_log_prob[g]
            + torch.distributions.MultivariateNormal(model.mean[g], model.covariance[g]).log_prob(rows.values)
            for g in range(3)
        ],
        1,
    )
    values = model.model_log_prob(rows, RowNoise(0, rows.rows), 3).values
    torch.testing.assert_close(values, torch.logsumexp(each, 1), rtol=0, atol=1e-9)
    posterior = model.class_posterior(hidden)
    assert list(posterior.columns) == list(model.schema["kind"].categories)
    np.testing.assert_allclose(posterior.to_numpy(), each.softmax(1).numpy(), atol=1e-9)


def test_trees_learn_what_classes_differ_in_and_samples_keep_their_mix() -> None:
    rng = np.random.default_rng(0)
    which = rng.integers(0, 2, 600)
    x = np.where(which == 1, rng.choice([-1.0, 1.0], 600), 0.0) + 0.1 * rng.normal(size=600)  # equal means
    frame = pd.DataFrame({"x": x, "y": rng.normal(size=600), "kind": np.array(["one", "two"])[which]})
    for classes in ("input", "separate"):
        model = fit(frame, "forest_flow", label="kind", classes=classes, num_levels=10, rounds=40, copies=5)
        drawn = model.sample(1000, seed=0)
        assert (drawn["kind"] == "two").mean() == pytest.approx(0.5, abs=0.07)
        spread = drawn.groupby("kind")["x"].apply(lambda v: v.abs().median())
        assert spread["one"] < 0.35
        assert spread["two"] > 0.65
        jobs = model.jobs
        assert len(jobs) == (20 if classes == "separate" else 10)


def test_the_mix_of_classes_can_be_given_and_moves_samples_and_likelihood() -> None:
    frame = classes_table()
    mix = {"seven": 1.0, "nine": 3.0, "eleven": 0.0}
    given = fit(frame, "forest_flow", label="kind", class_mix=mix, rounds=0)
    drawn = given.sample(2000, seed=0)["kind"].astype(str)
    assert set(drawn) == {"seven", "nine"}
    assert (drawn == "nine").mean() == pytest.approx(0.75, abs=0.04)
    plain = fit(frame, "forest_flow", label="kind", rounds=0)
    rows = frame[frame["kind"] == "nine"].head(5)
    moved = given.log_prob(rows).values - plain.log_prob(rows).values
    slot = list(plain.schema["kind"].categories).index("nine")
    np.testing.assert_allclose(moved, math.log(0.75) - float(plain.class_log_prob[slot]), atol=1e-9)
    with pytest.raises(ValueError, match=r"class_mix gives a weight to each class of 'kind' .*'ten' is not one"):
        fit(frame, "forest_flow", label="kind", class_mix={"ten": 1.0})
    with pytest.raises(ValueError, match="class_mix needs a label"):
        fit(frame, "forest_flow", class_mix=mix)


def test_a_number_under_a_given_mix_of_classes_says_so(tmp_path: Path) -> None:
    frame = classes_table()
    fit(frame, "forest_flow", label="kind", rounds=0).save(tmp_path / "m.ckpt")
    plain = genzoo.load(tmp_path / "m.ckpt")
    given = genzoo.load(tmp_path / "m.ckpt", class_mix={"seven": 1.0, "nine": 1.0, "eleven": 1.0})
    assert given.log_prob(frame).method == f"{plain.log_prob(frame).method}, classes mixed as given"
    assert given.label_log_prob(frame).method.endswith(", classes mixed as given")
    assert not plain.label_log_prob(frame).method.endswith("as given")
    for wrong in ({"num_steps": -1}, {"repaint_jump": -1}, {"solver_steps": -1}, {"draws": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            genzoo.load(tmp_path / "m.ckpt", **wrong)


def test_a_missing_label_that_is_a_value_is_a_class() -> None:
    frame = classes_table()
    frame.loc[::5, "kind"] = None
    data = {"overrides": {"kind": {"missing": "value"}}}
    mix = {"seven": 1.0, "nine": 1.0, "missing": 2.0}
    model = genzoo.fit(frame, model="forest_flow", data=data, label="kind", class_mix=mix, rounds=0, num_levels=4)
    posterior = model.class_posterior(frame.head(9))
    assert list(posterior.columns) == [*model.schema["kind"].categories, "missing"]
    np.testing.assert_allclose(posterior.sum(axis=1), 1.0)
    assert model.sample(2000, seed=0)["kind"].isna().mean() == pytest.approx(0.5, abs=0.05)


def test_a_label_of_very_many_classes_is_refused_before_it_fills_memory() -> None:
    rows = 2 * 501
    frame = pd.DataFrame({"x": np.arange(rows) / 7, "name": [f"n{row // 2}" for row in range(rows)]})
    with pytest.raises(SchemaError, match=r"label 'name' has 501 classes.*at most 500.*name a column of fewer"):
        fit(frame, "forest_flow", label="name", rounds=0, data={"val": 0.0, "test": 0.0})


def test_shares_of_classes_need_classes() -> None:
    with pytest.raises(ValueError, match="stratified needs classes: name their column"):
        fit(gaussian_table(), "forest_flow", stratified=True)


def test_a_stratified_table_has_as_many_rows_of_each_class_as_asked_for() -> None:
    mix = {"seven": 1.0, "nine": 3.0, "eleven": 0.3}
    whole = sum(mix.values())
    model = fit(classes_table(), "forest_flow", label="kind", class_mix=mix, stratified=True, rounds=0)
    first = []
    for seed in range(40):
        drawn = model.sample(30, seed=seed)["kind"].astype(str)
        for name, weight in mix.items():
            expected = 30 * weight / whole
            assert (drawn == name).sum() in (math.floor(expected), math.ceil(expected))
        first.append(drawn[0])
    assert len(set(first)) > 1  # rows are in no order
    alone = [str(model.sample(1, seed=seed)["kind"].iloc[0]) for seed in range(300)]
    assert alone.count("nine") / 300 == pytest.approx(3 / whole, abs=0.08)  # three standard deviations


def test_a_label_that_is_no_category_is_refused_with_the_ones_there_are() -> None:
    frame = classes_table().assign(empty=np.nan)
    data = {"overrides": {"empty": {"kind": "categorical"}}}
    for label, reason in (
        ("x", "is a number; declare it a category with --data.overrides '{x: {kind: categorical}}'"),
        ("kinds", "is no column of this table"),
        ("empty", "has no classes to tell apart"),
    ):
        with pytest.raises(SchemaError) as error:
            fit(frame, "forest_flow", label=label, data=data)
        assert f"label '{label}' {reason}" in str(error.value)
        assert str(error.value).endswith("; categorical columns: kind")


def test_missing_labels_are_imputed_from_their_posterior_and_known_ones_kept() -> None:
    frame = classes_table()
    model = fit(frame, label="kind", rounds=0)
    holes = frame.head(60).copy()
    holes.loc[:29, "kind"] = None
    holes.loc[20:49, "y"] = None
    first, second = model.impute(holes, draws=2, seed=0)
    assert not first.isna().any().any()
    assert (first["kind"][30:].astype(str) == frame["kind"][30:60]).all()
    assert np.array_equal(first["x"].to_numpy(), holes["x"].to_numpy())
    # classes lie four standard deviations apart
    assert (first["kind"][:20].astype(str) == frame["kind"][:20]).mean() > 0.9
    assert not first["y"][20:50].equals(second["y"][20:50])


def test_a_class_that_was_never_seen_is_scored_by_the_rule_for_unseen_categories() -> None:
    frame = classes_table()
    model = fit(frame, "forest_flow", label="kind", rounds=0)
    row = frame.head(1)
    unseen = model.log_prob(row.assign(kind="twelve"))
    assert unseen.counts["unseen"] == 1
    hidden = model.log_prob(row.assign(kind=None)).values
    epsilon = model.schema.epsilon
    np.testing.assert_allclose(unseen.values, hidden + math.log(epsilon), atol=1e-9)


def test_the_posterior_of_a_label_is_an_estimate() -> None:
    frame = classes_table()
    model = fit(frame, "forest_flow", label="kind")
    likelihood = model.label_log_prob(frame.head(50))
    assert likelihood.kind == "estimate"
    assert likelihood.columns == ("kind",)
    posterior = model.class_posterior(frame.head(50))
    pd.testing.assert_frame_equal(model.class_posterior(frame.head(50).drop(columns="kind")), posterior)
    named = frame.head(50).set_axis([f"row {i}" for i in range(50)])
    assert list(model.class_posterior(named).index) == list(named.index)
    with pytest.raises(SchemaError, match="the table has no column 'kind'"):
        model.label_log_prob(frame.head(50).drop(columns="kind"))
    own = [posterior.loc[i, kind] for i, kind in enumerate(frame["kind"].head(50))]
    epsilon = model.schema.epsilon
    np.testing.assert_allclose(np.exp(likelihood.values), (1 - epsilon) * np.array(own))
    few = frame.head(4).copy()
    few.loc[1, "kind"], few.loc[2, "kind"] = None, "twelve"
    known = model.label_log_prob(few)
    assert known.rows.tolist() == [0, 2, 3]
    np.testing.assert_allclose(known.values[[0, 2]], likelihood.values[[0, 3]])
    assert known.values[1] == pytest.approx(math.log(epsilon))
    with pytest.raises(CapabilityError, match=r"has no label, so name a column; it scores the categories \['kind'\]"):
        fit(frame, "forest_flow", rounds=0).label_log_prob(frame)


def test_fits_of_classes_share_a_covariance_or_are_drawn_towards_it() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=(60, 3)))
    group = torch.tensor([0] * 50 + [1] * 9 + [-1])
    mean, shared = fit_groups(values, group, 3, separate=False, shrink=False)
    torch.testing.assert_close(mean[0], values[:50].mean(0))
    torch.testing.assert_close(mean[2], values.mean(0), msg="a class without rows has the mean of all")
    assert torch.equal(shared[0], shared[2])
    _, own = fit_groups(values, group, 3, separate=True, shrink=False)
    torch.testing.assert_close(own[2], shared[2])
    alone = covariance_of(values[50:59] - values[50:59].mean(0))
    torch.testing.assert_close(own[1], (9 * alone + 3 * shared[0]) / 12)


def test_shrinking_moves_chance_correlations_and_keeps_real_ones() -> None:
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(size=(30, 12)))
    apart = ~torch.eye(12, dtype=torch.bool)
    ratio = covariance_of(noise, True)[apart].square().sum() / covariance_of(noise)[apart].square().sum()
    assert ratio < 0.1
    related = noise[:, :1] + 0.1 * torch.from_numpy(rng.normal(size=(30, 12)))
    ratio = covariance_of(related, True)[apart] / covariance_of(related)[apart]
    assert float(ratio.min()) > 0.8


# ---- one set of trees for all levels, and rotations


def test_shared_trees_serve_every_level_and_make_a_small_model() -> None:
    frame = continuous_table(400)
    apart = fit(frame, "forest_flow", num_levels=10, rounds=40, eta=0.2)
    shared = fit(frame, "forest_flow", num_levels=10, rounds=40, eta=0.2, shared=True, groups=3)
    assert shared.jobs[0] == "trees"
    assert len(shared.jobs) == 11
    assert shared.store.num_bytes < 0.5 * apart.store.num_bytes
    gaussian = fit(frame, "forest_flow", num_levels=10, rounds=0).log_prob(frame).mean()
    assert shared.log_prob(frame).mean() > gaussian + 0.1
    assert len(shared.sample(10)) == 10
    again = fit(frame, "forest_flow", num_levels=10, rounds=40, eta=0.2, shared=True, groups=1, workers=3)
    assert {job: again.store.raw(job) for job in again.jobs} == {job: shared.store.raw(job) for job in shared.jobs}


def test_rotations_show_trees_oblique_directions() -> None:
    turn = random_rotations(4, 2)
    assert turn.shape == (4, 8)
    torch.testing.assert_close(turn[:, :4].T @ turn[:, :4], torch.eye(4, dtype=torch.float64))
    assert not torch.equal(turn[:, :4], turn[:, 4:])
    frame = continuous_table(200)
    model = fit(frame, "forest_flow", rotations=2)
    assert model.store.booster("level 2", "f0").num_features() == 2 + 2 + 4
    assert np.isfinite(model.log_prob(frame.assign(c0=None)).values).all()


# ---- odd tables, and runs that are killed


def test_a_table_of_one_row_is_refused_in_words() -> None:
    with pytest.raises(GenZooError, match="has 1 row; give a table with at least two rows"):
        fit(pd.DataFrame({"a": [1.25], "b": ["x"]}), data={"val": 0.0, "test": 0.0})


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1.5] * 60, "b": np.linspace(0, 1, 60) ** 2}),
        pd.DataFrame({"a": np.linspace(0, 1, 60) ** 2, "b": [None] * 60, "c": list("xy") * 30}),
        pd.DataFrame({"label": [7, 9, 11] * 20, "x": np.linspace(0, 1, 60) ** 2}),
    ],
    ids=["a constant column", "an all-missing column", "labels that do not start at zero"],
)
def test_odd_tables_are_modelled(frame: pd.DataFrame) -> None:
    label = {"label": "label", "data": {"overrides": {"label": {"kind": "categorical"}}}} if "label" in frame else {}
    model = fit(frame, rounds=4, **label)
    assert np.isfinite(model.log_prob(frame).values).all()
    drawn = model.sample(20)
    assert list(drawn.columns) == list(frame.columns)
    if "label" in frame:
        assert set(drawn["label"].astype(int)) <= {7, 9, 11}


@pytest.mark.slow
def test_a_cluster_grows_the_same_boosters(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    for shared in (False, True):
        models = []
        for name, dask in (("threads", ""), ("dask", "local")):
            arguments: dict[str, Any] = {"num_levels": 4, "rounds": 8, "groups": 2, "workers": 2, "shared": shared}
            model = ForestFlow(schema=module().schema_dict, dask=dask, **arguments)
            make_trainer(tmp_path / f"{name}{shared}", progress=False).fit(model, datamodule=module())
            models.append({job: model.store.raw(job) for job in model.jobs})
        assert models[0] == models[1]


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")

    def refuse(address: str, timeout: str) -> None:
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(GenZooError, match=r"no Dask scheduler answers at 'tcp://nowhere:1': timed out; start one"):
        fit(continuous_table(60), dask="tcp://nowhere:1")


def test_trees_on_a_device_that_the_library_was_not_built_for_are_refused_in_words() -> None:
    import xgboost

    if xgboost.build_info().get("USE_CUDA", False):
        pytest.skip("this build of XGBoost has GPU support")
    with pytest.raises(GenZooError, match="need the build of XGBoost with GPU support, and this one has none"):
        fit(continuous_table(60), tree_device="cuda")


def test_samples_keep_integers_whole_and_categories_known() -> None:
    frame = mixed_table(200)
    for arguments in ({}, {"box": True, "sampler": "euler"}):
        drawn = fit(frame, "forest_flow", rounds=4, **arguments).sample(300, seed=0)
        assert (drawn["count"] == drawn["count"].round()).all()
        for name in frame.columns:
            if not pd.api.types.is_numeric_dtype(frame[name]):
                assert set(drawn[name].astype(str)) <= set(frame[name].dropna().astype(str))
        if arguments:
            assert drawn["x"].between(frame["x"].min(), frame["x"].max()).all()


# ---- what trees are given


def test_a_column_with_holes_is_learned_from_the_rows_that_have_it() -> None:
    frame = gaussian_table(80)
    frame.loc[:29, "b"] = None
    model = fit(frame, rounds=0)
    rows = encoded(model, frame)
    noised = noised_copies(rows, 4, model.levels[2], model._denoiser(1), torch.Generator().manual_seed(0))
    for column, present in ((0, 80), (1, 50), (2, 80)):
        block = (noised.features, scaled_residual(noised, noised.x))
        examples = ExampleTable([block], 64, on_disk=False).examples(column)
        used = len(examples) if examples.weight is None else examples.weight.sum()
        assert used == 4 * present


def test_the_order_of_columns_changes_no_distribution() -> None:
    frame = continuous_table(500)
    quantiles = [
        np.quantile(fit(f, num_levels=8, sampler="heun").sample(1500, seed=0)[["c0", "c1"]], [0.1, 0.5, 0.9], axis=0)
        for f in (frame, frame[["c1", "c0"]])
    ]
    # standard errors of these quantiles are about 0.04 and 0.08 standard deviations
    assert (np.abs(quantiles[0] - quantiles[1]) / frame.std().to_numpy()).max() < 0.35


def test_classes_of_samples_are_multinomial() -> None:
    model = fit(classes_table(), label="kind", rounds=0, num_levels=3)
    drawn = model.sample(6000, seed=3)["kind"].astype(str)
    for name, log_p in zip(model.schema["kind"].categories, model.class_log_prob.tolist()):
        p = math.exp(log_p)
        assert abs((drawn == name).sum() - 6000 * p) < 4.5 * math.sqrt(6000 * p * (1 - p))


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
from test_trees_forest_diffusion import module, make
from genzoo.models.training import make_trainer
make_trainer(sys.argv[1], progress=False).fit(make(), datamodule=module())
"""


def module() -> Table:
    made = Table(frame=continuous_table(600), seed=0)
    made.setup("fit")
    return made


def make() -> ForestDiffusion:
    arguments: dict[str, Any] = {"num_levels": 12, "rounds": 60, "copies": 10, "groups": 12, "workers": 1}
    return ForestDiffusion(schema=module().schema_dict, **arguments)


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_to_the_boosters_of_an_uninterrupted_one(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), str(Path(__file__).parent)])
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    for _ in range(3000):
        if last.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    half = genzoo.load(last)
    done = len(half.store)
    assert 0 < done < 12, "killed in the middle"
    with pytest.raises(GenZooError, match=rf"is not complete: {12 - done} of 12 parts are missing \(level {done}"):
        half.log_prob(continuous_table(10))
    with pytest.raises(GenZooError, match="is not complete"):
        half.sample(3)
    resumed, whole = make(), make()
    make_trainer(tmp_path / "resumed", progress=False).fit(
        resumed, datamodule=module(), ckpt_path=str(last), weights_only=True
    )
    make_trainer(tmp_path / "whole", progress=False).fit(whole, datamodule=module())
    assert {job: resumed.store.raw(job) for job in resumed.jobs} == {job: whole.store.raw(job) for job in whole.jobs}


def test_the_posterior_of_a_label_sees_what_is_impossible_in_the_rest() -> None:
    frame = classes_table().assign(site=np.array(["north", "south"])[np.arange(len(classes_table())) % 2])
    closed = {"overrides": {"site": {"closed": True}, "kind": {"closed": True}}}
    model = fit(frame, "forest_flow", label="kind", rounds=0, data=closed)
    rows = frame.head(3).copy()
    rows.loc[0, "site"], rows.loc[1, "kind"] = "west", "twelve"
    assert model.log_prob(rows).values[:2].tolist() == [-math.inf, -math.inf]
    posterior = model.class_posterior(rows)
    assert posterior.iloc[0].isna().all()
    np.testing.assert_allclose(posterior.iloc[1:].sum(axis=1), 1.0)
    own = model.label_log_prob(rows).values
    assert own[:2].tolist() == [-math.inf, -math.inf]
    assert own[2] == pytest.approx(math.log(posterior.iloc[2][rows["kind"].iloc[2]]))
    with pytest.raises(ValueError, match="draws must be at least 1"):
        model.class_posterior(rows, draws=0)
