"""Forest flow: the invariants of its card. Ends of the path, Gaussian rows, bounds, holes, determinism, imputation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import genzoo
from contract import continuous_table, mixed_table
from genzoo.codecs.matrix import MatrixCodec, category_codes
from genzoo.datamodules.table import Table
from genzoo.likelihood.noise import RowNoise
from genzoo.models.trees.code_posterior import Codes, known_values
from genzoo.models.trees.denoiser import View, patterns
from genzoo.models.trees.forest_flow import ForestFlow
from genzoo.models.trees.gaussian_fits import gaussian_fit
from genzoo.models.trees.level_job import axis_variances
from genzoo.models.trees.noised_rows import noised_copies, posterior_means, rows_to_noise
from genzoo.trees.levels import Level, NoisePath, StraightPath, VariancePreserving, reverse_kernel, shortest_path

STRAIGHT = StraightPath()


def at(time: float) -> Level:
    """A level of the straight path."""
    return STRAIGHT.level(0, time)


def fit(frame: pd.DataFrame, **arguments: Any) -> ForestFlow:
    small = {"num_levels": 6, "rounds": 20, "copies": 3, "eta": 0.3, "groups": 1, "draws": 4}
    model: ForestFlow = genzoo.fit(frame, model="forest_flow", **(small | arguments))
    return model


def gaussian_table(num_rows: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num_rows, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.5, -0.6], [0.0, 0.0, 0.7]])
    return pd.DataFrame(z, columns=list("abc"))


def encoded(model: ForestFlow, frame: pd.DataFrame) -> Any:
    return model.codec.encode(model._encoded_table(frame).batch())


# ---- the path of noise


@pytest.mark.parametrize("spacing", ["uniform", "log_snr"])
@pytest.mark.parametrize("path", [STRAIGHT, VariancePreserving()], ids=["straight", "variance preserving"])
def test_levels_ascend_to_most_noise(path: NoisePath, spacing: Any) -> None:
    levels = path.levels(12, spacing, 5)
    assert [level.index for level in levels] == list(range(12))
    assert levels[-1].time == 1
    assert (np.diff([level.time for level in levels]) > 0).all()
    assert (np.diff([level.snr for level in levels]) < 0).all()
    assert levels[0].time > 0
    assert len(path.levels(1, spacing, 5)) == 1
    if spacing == "log_snr":
        steps = np.diff(np.log([level.snr for level in levels[:-1]]))
        np.testing.assert_allclose(steps, steps[0])


@pytest.mark.parametrize("path", [STRAIGHT, VariancePreserving()], ids=["straight", "variance preserving"])
def test_a_path_knows_its_rates_and_the_time_of_a_ratio(path: NoisePath) -> None:
    for time in (0.01, 0.3, 0.9):
        ahead, behind = path.mix(time + 1e-6), path.mix(time - 1e-6)
        slopes = [(a - b) / 2e-6 for a, b in zip(ahead, behind)]
        assert path.rates(time) == pytest.approx(slopes, rel=1e-5)
        signal, noise = path.mix(time)
        assert path.time_of(noise / signal) == pytest.approx(time)


def test_the_variance_preserving_path_keeps_the_variance_and_almost_forgets_the_row() -> None:
    path = VariancePreserving(0.1, 8.0)
    for time in (0.0, 1e-3, 0.4, 1.0):
        signal, noise = path.mix(time)
        assert signal**2 + noise**2 == pytest.approx(1)
    assert path.mix(0.0) == (1.0, 0.0)
    assert path.mix(1.0)[0] == pytest.approx(math.exp(-(8 - 0.1) / 4 - 0.05))
    assert path.mix(1.0)[0] == pytest.approx(0.132, abs=1e-3)


@pytest.mark.parametrize("t, u", [(1.0, 0.5), (0.7, 0.3), (0.1, 0.02)])
@pytest.mark.parametrize("path", [STRAIGHT, VariancePreserving()], ids=["straight", "variance preserving"])
def test_a_reverse_step_keeps_the_forward_marginals(path: NoisePath, t: float, u: float) -> None:
    high, low = path.level(1, t), path.level(0, u)
    kernel = reverse_kernel(high, low)
    # x_u = c_t x_t + c_x x + b z with x_t = a_t x + s_t e must be a_u x + s_u e'
    assert kernel.c_t * high.signal + kernel.c_x == pytest.approx(low.signal)
    assert (kernel.c_t * high.noise) ** 2 + kernel.b**2 == pytest.approx(low.noise**2)
    assert kernel.gain == pytest.approx(low.snr - high.snr)


def test_the_schedule_finds_the_cheapest_path_of_all() -> None:
    levels = STRAIGHT.levels(6, "uniform", 2)
    tau = np.random.default_rng(0).random((6, 2)) * np.array([level.time for level in levels])[:, None] ** 2
    gain = np.array([level.snr for level in levels])

    def cost(path: tuple[int, ...]) -> float:
        steps = sum(0.5 * np.log1p((gain[u] - gain[t]) * tau[t]).sum() for t, u in itertools.pairwise(path))
        return float(steps + 0.5 * np.log(2 * math.pi * math.e * tau[path[-1]]).sum())

    for num_steps in (1, 2, 4):
        every = [(5, *chosen[::-1]) for k in range(num_steps) for chosen in itertools.combinations(range(5), k)]
        found = shortest_path(gain, tau, num_steps, fixed_first=False)
        assert cost(tuple(found)) == pytest.approx(min(map(cost, every)))
    assert shortest_path(gain, tau, 3, fixed_first=True)[-1] == 0


def test_a_noised_copy_is_data_at_one_end_and_noise_at_the_other_and_uses_every_row() -> None:
    model = fit(gaussian_table(), rounds=0)
    rows = encoded(model, gaussian_table(40))
    denoiser = model._denoiser(1)
    near = noised_copies(rows, 5, at(0.0), denoiser, torch.Generator().manual_seed(0))
    far = noised_copies(rows, 5, at(1.0), denoiser, torch.Generator().manual_seed(0))
    assert len(near.x) == 5 * 40
    assert torch.equal(near.x_t, near.x)
    assert torch.equal(near.x, rows.values.repeat(5, 1))
    assert not torch.isclose(far.x_t, far.x).any()
    assert float(far.x_t.std()) == pytest.approx(1.0, abs=0.1)


# ---- estimates


def test_the_linear_part_is_the_conditional_mean_of_gaussian_rows_for_every_pattern() -> None:
    rng = np.random.default_rng(0)
    root = torch.from_numpy(rng.normal(size=(4, 4)))
    covariance, mean = root @ root.T, torch.from_numpy(rng.normal(size=4))
    x_t = torch.from_numpy(rng.normal(size=(5, 4)))
    t = 0.4
    for observed in (torch.ones(4, dtype=torch.bool), torch.tensor([True, False, True, True])):
        view = View(mean, covariance, torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.bool), observed)
        o = observed.nonzero().flatten()
        block = covariance[o][:, o]
        noisy = (1 - t) ** 2 * block + t**2 * torch.eye(len(o))
        gain = (1 - t) * torch.linalg.solve(noisy, covariance[:, o].T).T
        whole = mean + (x_t[:, o] - (1 - t) * mean[o]) @ gain.T
        estimate, features = view.linear(x_t[:, o], at(t))
        torch.testing.assert_close(estimate, whole[:, o])
        torch.testing.assert_close(features, whole)
        residual = block - (1 - t) * gain[o] @ block
        torch.testing.assert_close(view.scale(at(t)).square(), residual.diagonal())


def test_posterior_means_are_the_rows_at_low_noise_and_their_mean_at_high_noise() -> None:
    model = fit(gaussian_table(), rounds=0)
    rows = encoded(model, gaussian_table(60))
    for t, target in ((1e-3, rows.values.repeat(2, 1)), (1.0, rows.values.mean(0).expand(120, -1))):
        noised = noised_copies(rows, 2, at(t), model._denoiser(1), torch.Generator().manual_seed(0))
        torch.testing.assert_close(posterior_means(noised, rows.values, at(t), 60), target)
    # a random part of the rows stands for all: nearly the same mean
    noised = noised_copies(rows, 2, at(0.6), model._denoiser(1), torch.Generator().manual_seed(0))
    whole = posterior_means(noised, rows.values, at(0.6), 60)
    part = posterior_means(noised, rows.values[::2], at(0.6), 60)
    assert float((whole - part).square().mean()) < 0.1 * float(whole.var())


def test_trees_find_the_conditional_mean_of_gaussian_rows_without_its_covariance() -> None:
    frame = gaussian_table(800)
    model = fit(frame, rounds=60, num_levels=4, spacing="uniform", copies=5)
    rows = encoded(model, frame)
    linear = model._denoiser(1)
    view = linear.view(torch.ones(3, dtype=torch.bool))
    x_t = 0.5 * rows.values + 0.5 * torch.randn(rows.values.shape, generator=torch.Generator().manual_seed(1))
    truth = view.linear(x_t, at(0.5))[0]
    found = model.reverse.denoiser.estimate(model.levels[1], x_t, view, rows.cells.context)[0]
    assert float((found - truth).square().sum() / (truth - truth.mean(0)).square().sum()) < 0.05


def test_codes_are_estimated_by_enumeration() -> None:
    points = torch.tensor([[-1.0], [1.0]]).double()
    codes = Codes(torch.tensor([0]), points, torch.tensor([0.25, 0.75]).log().double(), False, torch.zeros_like(points))
    x_t, t = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], 0.5
    w = torch.tensor([0.25, 0.75]) * torch.exp(-0.5 * (x_t - 0.5 * torch.tensor([-1.0, 1.0])) ** 2 / t**2)
    p = w[:, 1] / w.sum(1)
    mean, variance = codes.estimate(x_t, at(t))
    torch.testing.assert_close(mean[:, 0], 2 * p - 1)
    torch.testing.assert_close(variance[:, 0], 4 * p * (1 - p) + 1e-5)


def test_atoms_and_gaussians_beside_them_are_estimated_as_by_quadrature() -> None:
    points, spread = torch.tensor([[0.0], [0.5], [2.0]]).double(), torch.tensor([[0.0], [0.3], [0.05]]).double()
    weight = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    codes = Codes(torch.tensor([0]), points, weight.log(), True, spread)
    x_t, t = torch.linspace(-1, 2, 7, dtype=torch.float64), 0.4
    grid = torch.linspace(-6, 8, 20001, dtype=torch.float64)
    step = grid[1] - grid[0]
    prior = sum(
        w * torch.exp(-0.5 * (grid - m) ** 2 / v) / (2 * math.pi * v).sqrt() * step
        for w, m, v in zip(weight[1:], points[1:, 0], spread[1:, 0], strict=True)
    )
    values, mass = torch.cat([torch.zeros(1), grid]), torch.cat([weight[:1], torch.as_tensor(prior)])
    like = mass * torch.exp(-0.5 * (x_t[:, None] - (1 - t) * values) ** 2 / t**2)
    posterior = like / like.sum(1, keepdim=True)
    mean = posterior @ values
    found, variance = codes.estimate(x_t[:, None], at(t))
    torch.testing.assert_close(found[:, 0], mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        variance[:, 0], (posterior * (values - mean[:, None]) ** 2).sum(1) + 1e-5, atol=1e-6, rtol=0
    )


def test_a_fine_grid_is_known_by_its_atoms_and_parts_of_the_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    rest = torch.randn(400, generator=generator, dtype=torch.float64).round(decimals=3)
    values = torch.cat([torch.full((500,), 7.0), torch.full((100,), -3.0), rest]).double()
    points, logs, spread = known_values(values, 2)
    known = ~points.isnan()
    assert int(known.sum()) == 2 + 16
    torch.testing.assert_close(logs[known].exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    assert points[:2].tolist() == [7.0, -3.0]
    assert spread[:2].tolist() == [0.0, 0.0]
    share = logs[known].exp()
    mean = (share * points[known]).sum()
    torch.testing.assert_close(mean, values.mean())
    total = (share * (spread[known] + (points[known] - mean) ** 2)).sum()
    torch.testing.assert_close(total, values.var(correction=0))
    assert bool(known_values(values, 0).isnan().all())  # many values, and none of them an atom: smooth
    few = known_values(torch.tensor([1.0, 1.0, 2.0]).double(), 0)
    torch.testing.assert_close(few[1, :2].exp(), torch.tensor([2 / 3, 1 / 3]).double())


def test_residual_variances_use_every_observed_pair() -> None:
    residual = torch.tensor([[1.0, 2.0], [3.0, math.nan], [math.nan, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(
        axis_variances(residual, torch.eye(2, dtype=torch.float64)), torch.tensor([5.0, 10.0]).double()
    )


# ---- likelihood


@pytest.mark.parametrize("num_levels", [1, 2, 7])
@pytest.mark.parametrize("draws", [1, 3])
def test_without_trees_it_is_the_gaussian_for_any_number_of_levels_and_any_holes(num_levels: int, draws: int) -> None:
    frame = gaussian_table()
    model = fit(frame, rounds=0, num_levels=num_levels)
    holes = frame.head(50).copy()
    holes.loc[:20, "b"] = None
    holes.loc[10:30, "c"] = None
    rows = encoded(model, holes)
    values = model.model_log_prob(rows, RowNoise(0, rows.rows), draws).values
    expected = torch.zeros_like(values)
    for observed, chosen in patterns(rows.values):
        o = observed.nonzero().flatten()
        normal = torch.distributions.MultivariateNormal(model.mean[0, o], model.covariance[0][o][:, o])
        expected[chosen] = normal.log_prob(rows.values[chosen][:, o])
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-9)


def test_the_bound_stays_below_a_known_density_and_rises_with_draws() -> None:
    rng = np.random.default_rng(3)

    def ring(num_rows: int) -> tuple[pd.DataFrame, np.ndarray]:
        angle = rng.integers(0, 4, num_rows) * np.pi / 2
        centre = np.stack([np.cos(angle), np.sin(angle)], 1)
        x = centre + 0.2 * rng.normal(size=(num_rows, 2))
        centres = np.stack([np.cos(np.arange(4) * np.pi / 2), np.sin(np.arange(4) * np.pi / 2)], 1)
        distance = ((x[:, None] - centres) ** 2).sum(2)
        truth = np.log(np.exp(-distance / 0.08).mean(1) / (2 * np.pi * 0.04))
        return pd.DataFrame(x, columns=["x", "y"]), truth

    frame, _ = ring(1500)
    held_out, truth = ring(500)
    model = fit(frame, num_levels=12, rounds=80, copies=5, eta=0.2)
    one, few, many = (model.log_prob(held_out, draws=draws) for draws in (1, 5, 25))
    assert one.mean() < few.mean() < many.mean()
    gap = truth - many.values
    assert gap.mean() > -3 * gap.std() / math.sqrt(len(gap)), "a bound on the expected log-density"
    assert gap.mean() < 0.25
    gaussian = genzoo.fit(frame, model="gaussian").log_prob(held_out).mean()
    assert many.mean() > gaussian + 0.5


def test_a_number_does_not_depend_on_how_many_paths_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = mixed_table(150)
    model = fit(frame, num_levels=4, rounds=5, label=frame.select_dtypes(exclude="number").columns[0])
    whole = model.log_prob(frame, draws=5)
    monkeypatch.setattr("genzoo.models.trees.denoising_forest.MOST_PATHS", 1)
    alone = model.log_prob(frame, draws=5)
    np.testing.assert_allclose(alone.values, whole.values, rtol=0, atol=1e-9)
    np.testing.assert_allclose(alone.se, whole.se, rtol=0, atol=1e-9)


def test_the_euler_sampler_changes_samples_and_not_the_likelihood() -> None:
    frame = continuous_table(200)
    ancestral, euler = fit(frame), fit(frame, sampler="euler")
    np.testing.assert_array_equal(ancestral.log_prob(frame).values, euler.log_prob(frame).values)
    assert not ancestral.sample(10).equals(euler.sample(10))
    assert np.abs(euler.sample(500).mean() - frame.mean()).max() < 0.5


def test_rows_of_one_value_are_drawn_near_it() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": 5 + 1e-3 * rng.normal(size=200), "b": np.where(rng.random(200) < 0.5, "x", "y")})
    drawn = fit(frame).sample(200)
    assert np.abs(drawn["a"] - 5).max() < 0.01
    assert set(drawn["b"]) == {"x", "y"}


def test_fewer_steps_than_levels_are_chosen_and_scored() -> None:
    frame = continuous_table(300)
    whole = fit(frame, num_levels=12)
    few = fit(frame, num_levels=12, num_steps=4)
    assert len(few.reverse.path) <= 4
    assert few.reverse.path[0] == 11
    assert np.isfinite(few.log_prob(frame).values).all()
    assert few.log_prob(frame).mean() < whole.log_prob(frame).mean() + 0.2


# ---- codec, holes, context, imputation


@pytest.mark.parametrize("code", ["auto", "one_hot", "bits"])
@pytest.mark.parametrize("num_categories", [2, 3, 8, 9, 20])
def test_codes_of_categories_are_apart(num_categories: int, code: Any) -> None:
    codes = category_codes(num_categories, code)
    assert float(torch.pdist(codes).min()) >= 2.0
    assert codes.shape[1] <= num_categories


def test_the_matrix_gives_back_the_rows_it_was_given() -> None:
    module = Table(frame=mixed_table(), seed=0)
    module.setup("fit")
    codec = MatrixCodec(module.schema)
    batch = module.data("train").batch()
    codec.fit(batch)
    rows = codec.encode(batch)
    assert torch.equal(
        rows.values.isnan().any(1), (batch.numeric.isnan().any(1) | (batch.codes < 0).any(1) | rows.filler.any(1))
    )
    again = codec.decode(rows.values, rows.cells.category, rows.rows)
    torch.testing.assert_close(again.numeric, batch.numeric, equal_nan=True)
    assert torch.equal(again.codes, batch.codes.clamp_min(-1))


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    frame = mixed_table(150)
    found = [fit(frame, workers=workers, groups=groups, rounds=8) for workers, groups in ((1, 1), (3, 4))]
    a, b = ({job: model.store.raw(job) for job in model.jobs} for model in found)
    assert a == b


def test_a_hole_in_one_column_leaves_the_others_their_rows() -> None:
    frame = gaussian_table(200)
    frame.loc[:99, "b"] = None
    model = fit(frame, data={"val": 0.0, "test": 0.0}, stopping=0, rounds=3)
    assert model.ready
    _, covariance = gaussian_fit(encoded(model, frame).values)
    assert torch.linalg.eigvalsh(covariance).min() > 0
    assert np.isfinite(model.log_prob(frame).values).all()
    alone = model.log_prob(frame.assign(b=None)[["a", "b", "c"]].astype(float))
    assert np.isfinite(alone.values).all()


def test_imputation_of_gaussian_rows_has_the_conditional_mean_and_spread() -> None:
    frame = gaussian_table(1000)
    model = fit(frame, rounds=0, num_levels=8, imputation="particles", particles=64)
    covariance = np.cov(frame.T.to_numpy())
    holes = pd.DataFrame({"a": np.full(100, 1.5), "b": np.full(100, np.nan), "c": np.full(100, -0.5)})
    drawn = np.concatenate([f["b"].to_numpy() for f in model.impute(holes, draws=10, seed=1)])
    gain = np.linalg.solve(covariance[np.ix_([0, 2], [0, 2])], covariance[[0, 2], 1])
    mean = frame["b"].mean() + gain @ (np.array([1.5, -0.5]) - frame[["a", "c"]].mean().to_numpy())
    variance = covariance[1, 1] - gain @ covariance[[0, 2], 1]
    # 1000 draws, ten for each of 100 rows that share particles: an effective number of about 500
    assert drawn.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / 500))
    assert drawn.std() == pytest.approx(math.sqrt(variance), rel=0.15)


def test_context_moves_samples_and_likelihood() -> None:
    rng = np.random.default_rng(2)
    age = rng.normal(size=600)
    frame = pd.DataFrame({"age": age, "x": rng.normal(size=600) * 0.3 + age})
    model = fit(frame, context=["age"], rounds=60, num_levels=6)
    drawn = model.sample(given=pd.DataFrame({"age": [1.5] * 200}), seed=0)
    assert drawn["x"].mean() == pytest.approx(1.5, abs=0.4)
    right = model.log_prob(frame).mean()
    assert right > model.log_prob(frame.assign(age=frame["age"].to_numpy()[::-1])).mean() + 0.5


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
    model = fit(frame, rounds=5)
    assert np.isfinite(model.log_prob(frame).values).all()
    drawn = model.sample(20)
    assert list(drawn.columns) == list(frame.columns)
    if "label" in frame:
        # a count on a grid: neighbours of the known values keep a probability
        assert drawn["label"].isin([7, 9, 11]).mean() > 0.8


def test_by_default_a_level_sees_about_as_many_noised_rows_whatever_the_length_of_the_table() -> None:
    model = fit(gaussian_table(), rounds=0)
    rows = encoded(model, gaussian_table(50))
    generator = torch.Generator().manual_seed(0)
    short, copies = rows_to_noise(rows, 0, generator)
    assert (len(short), copies) == (50, 20)
    long = rows.select(torch.arange(50).repeat(500))
    part, copies = rows_to_noise(long, 0, generator)
    assert (len(part), copies) == (20_000, 1)
    given, copies = rows_to_noise(long, 3, generator)
    assert (len(given), copies) == (25_000, 3)


@pytest.mark.parametrize("imputation", ["repaint", "particles"])
@pytest.mark.parametrize("first", range(3))
def test_rows_of_several_patterns_of_holes_are_completed_in_one_call(imputation: Any, first: int) -> None:
    """Whatever pattern comes first, each row has its own conditional, and a row without a hole its own cells."""
    frame = gaussian_table(1000)
    model = fit(frame, rounds=0, num_levels=12, imputation=imputation, particles=200, repaint_passes=8)
    none = np.nan
    kinds = [[1.2, none, -0.5], [none, -1.0, none], [none, none, none], [0.3, 0.2, 0.1]]
    kinds = kinds[first:] + kinds[:first]
    holes = pd.DataFrame(np.tile(kinds, (40, 1)), columns=list("abc"))
    drawn = np.stack([f.to_numpy() for f in model.impute(holes, draws=10, seed=1)])
    assert np.isfinite(drawn).all()
    covariance, mean = np.cov(frame.T.to_numpy()), frame.mean().to_numpy()
    for place, kind in enumerate(np.array(kinds)):
        mine, seen = drawn[:, place :: len(kinds)].reshape(-1, 3), ~np.isnan(kind)
        np.testing.assert_array_equal(mine[:, seen], np.broadcast_to(kind[seen], (len(mine), seen.sum())))
        gain = np.linalg.pinv(covariance[np.ix_(seen, seen)]) @ covariance[np.ix_(seen, ~seen)]
        wanted = mean[~seen] + (kind[seen] - mean[seen]) @ gain
        spread = np.sqrt(np.diag(covariance[np.ix_(~seen, ~seen)] - covariance[np.ix_(~seen, seen)] @ gain))
        np.testing.assert_allclose(mine[:, ~seen].mean(0), wanted, atol=0.35 * spread.max() if len(spread) else 1)


@pytest.mark.parametrize("imputation", ["repaint", "particles"])
def test_rows_without_holes_come_back_as_they_are(imputation: Any) -> None:
    frame = mixed_table(120, holes=False)
    for arguments in ({}, {"label": "group"}):
        model = fit(frame, imputation=imputation, rounds=5, **arguments)
        pd.testing.assert_frame_equal(model.impute(frame.head(20))[0], frame.head(20))
        one = frame.head(20).copy()
        one.loc[3, "x"] = np.nan  # one class alone has something to fill
        filled = model.impute(one)[0]
        assert not filled.isna().any().any()
        pd.testing.assert_frame_equal(filled.drop(index=3), one.drop(index=3))
