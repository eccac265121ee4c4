"""Densities of potential outcomes: double robustness, masses that sum to one, no leak of counterfactuals, effects."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from torch.nn import functional as F

import genzoo
from genzoo.bijections.conditional_spline import ConditionalSpline
from genzoo.bijections.elementwise import Elementwise
from genzoo.datamodules.causal import Causal
from genzoo.datamodules.toys.interventional import ShiftedArms
from genzoo.errors import CapabilityError, ComparisonError, DataError
from genzoo.evaluation.causal import contrast_error, score_potential_outcomes
from genzoo.likelihood.compare import require_comparable
from genzoo.likelihood.one_step import (
    OneStepSums,
    beyond_support,
    cells_of,
    effective_rows,
    grouping,
    inverse_weights,
    negative_mass,
    observed_masses,
)
from genzoo.main import main
from genzoo.models.flows.arm_density import ArmCells, ArmFlow
from genzoo.models.flows.interventional_flow import InterventionalFlow
from genzoo.models.training import train

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
QUICK: dict[str, Any] = {
    "hidden": 16,
    "folds": 2,
    "bins": 6,
    "target_bins": 6,
    "num_cells": 200,
    "nuisance_epochs": 12,
    "target_epochs": 12,
    "lr": 1e-2,
}


def trial(num_rows: int = 300, seed: int = 0) -> pd.DataFrame:
    """Older patients are treated more often, and the treatment adds 2 to an outcome that grows with age."""
    rng = np.random.default_rng(seed)
    age = rng.normal(50, 10, num_rows)
    treated = rng.random(num_rows) < 1 / (1 + np.exp(-(age - 50) / 10))
    outcome = age / 10 + 2 * treated + rng.normal(size=num_rows)
    return pd.DataFrame({"age": age, "drug": np.where(treated, "yes", "no"), "weight": outcome})


ROLES = {"treatment": ["drug"], "outcome": ["weight"]}


@functools.cache
def fitted() -> InterventionalFlow:
    model = genzoo.fit(trial(800), model="interventional_flow", data=ROLES, **QUICK)
    assert isinstance(model, InterventionalFlow)
    return model


# ---- the one-step estimate, with nuisances that are given -----------------------------------------------------------

EDGES = np.linspace(-10, 12, 89)


def first_mean(x: np.ndarray) -> np.ndarray:
    return 1.5 * np.sin(2 * x) + x + 1


def normal_masses(means: np.ndarray, spread: float = 1.0) -> np.ndarray:
    """``(rows, cells)`` masses of normals between the edges and beyond."""
    below = norm.cdf((EDGES[:, None] - means) / spread)
    ends = np.zeros((1, len(means)))
    return np.diff(np.concatenate([ends, below, ends + 1]), axis=0).T


@functools.cache
def true_masses() -> np.ndarray:
    x = np.linspace(-7, 7, 4001)
    weight = np.exp(-0.5 * x**2)
    return weight / weight.sum() @ normal_masses(first_mean(x))


def estimate(num_rows: int, outcome: str, propensity: str, seed: int, factor: float | None = 1.0) -> np.ndarray:
    """Signed masses of arm 1 with right or wrong nuisances; ``factor`` None takes the James-Stein factor."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=num_rows)
    chance = 1 / (1 + np.exp(-1.5 * x))
    arm = (rng.random(num_rows) < chance).astype(np.int64)
    y = np.where(arm == 1, first_mean(x), 0.5 * x) + rng.normal(size=num_rows)
    given = chance if propensity == "right" else np.full(num_rows, arm.mean())
    weights = inverse_weights(torch.tensor(np.stack([1 - given, given], 1)), torch.tensor(arm), clip=0.0)
    edges = torch.tensor(EDGES)
    sums = OneStepSums(2, grouping(torch.tensor(y), edges), torch.zeros(len(EDGES) + 1, 1))
    treated = y[arm == 1]
    for start in range(0, num_rows, 20_000):
        part = slice(start, start + 20_000)
        one = (
            normal_masses(first_mean(x[part]))
            if outcome == "right"
            else np.repeat(normal_masses(np.array([treated.mean()]), treated.std()), len(x[part]), 0)
        )
        modelled = torch.tensor(np.stack([normal_masses(0.5 * x[part]), one], 1))
        sums.add(modelled, observed_masses(torch.tensor(y[part]), edges), weights[part])
    found = sums.result()
    return found.masses(found.shrinkage if factor is None else factor)[1].numpy()


def distance(masses: np.ndarray) -> float:
    return 0.5 * float(np.abs(masses - true_masses()).sum())


@pytest.mark.parametrize(
    ("outcome", "propensity", "expected"),
    [
        ("right", "right", (0.029, 0.011)),
        ("right", "constant", (0.022, 0.007)),
        ("wrong", "right", (0.029, 0.011)),
        ("wrong", "constant", (0.208, 0.205)),
    ],
)
def test_the_estimate_is_right_if_either_nuisance_is(
    outcome: str, propensity: str, expected: tuple[float, float]
) -> None:
    # reference values computed independently at 20,000 and 200,000 rows; a distance of many small errors hardly varies
    small = np.mean([distance(estimate(20_000, outcome, propensity, seed)) for seed in range(2)])
    assert small == pytest.approx(expected[0], rel=0.35)
    large = distance(estimate(200_000, outcome, propensity, 7))
    assert large == pytest.approx(expected[1], rel=0.35)


def test_the_shrunk_correction_keeps_double_robustness_and_sheds_noise() -> None:
    # wrong outcome model: the correction stands out of its noise and is used almost whole
    assert distance(estimate(100_000, "wrong", "right", 1, factor=None)) < 0.02
    # right outcome model, few rows: most of the correction is noise
    whole = np.mean([distance(estimate(2000, "right", "right", seed)) for seed in range(4)])
    shrunk = np.mean([distance(estimate(2000, "right", "right", seed, factor=None)) for seed in range(4)])
    assert shrunk < 0.5 * whole


def random_parts(seed: int = 0, num_rows: int = 40, num_cells: int = 13) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    modelled = torch.rand(num_rows, 2, num_cells, generator=generator, dtype=torch.float64)
    modelled = modelled / modelled.sum(2, keepdim=True)
    observed = F.one_hot(torch.randint(num_cells, (num_rows,), generator=generator), num_cells).double()
    weights = torch.rand(num_rows, 2, generator=generator, dtype=torch.float64) * 30
    return modelled, observed, weights


def one_step(modelled: torch.Tensor, observed: torch.Tensor, weights: torch.Tensor) -> Any:
    cells = modelled.shape[2]
    centres = torch.arange(cells, dtype=torch.float64)[:, None]
    sums = OneStepSums(2, torch.arange(cells) // 3, centres)
    for part in (slice(0, 17), slice(17, None)):
        sums.add(modelled[part], observed[part], weights[part])
    return sums.result()


def test_signed_masses_sum_to_one_for_any_weights() -> None:
    found = one_step(*random_parts())
    for factor in (0.0, 0.3, 1.0):
        torch.testing.assert_close(found.masses(factor).sum(1), torch.ones(2, dtype=torch.float64))
    assert (found.masses(1.0) < 0).any(), "large weights make negative masses"
    assert (negative_mass(found.masses(1.0), 5) <= 0).all()
    assert (negative_mass(found.masses(0.0)) == 0).all()


def test_without_weights_the_estimate_is_the_plug_in_and_with_unit_weights_the_empirical_distribution() -> None:
    modelled, observed, weights = random_parts()
    torch.testing.assert_close(one_step(modelled, observed, weights * 0).masses(1.0), modelled.mean(0))
    unit = one_step(modelled, observed, torch.ones_like(weights)).masses(1.0)
    torch.testing.assert_close(unit, observed.mean(0).expand(2, -1))
    # so the target's loss is then the factual negative log-likelihood of the cells
    flow = ArmFlow(2, Elementwise("spline", 4))
    flow.parameters_of_arms.data = 0.3 * torch.randn(13, 2, generator=torch.Generator().manual_seed(1))
    edges = torch.linspace(-2, 2, 12, dtype=torch.float64)
    ends = torch.full((1,), math.inf, dtype=torch.float64)
    lower, upper = torch.cat([-ends, edges]), torch.cat([edges, ends])
    cell = observed.argmax(1)
    factual = -flow.log_mass(lower[cell], upper[cell], torch.ones_like(cell)).mean()
    torch.testing.assert_close(flow.cross_entropy(unit, edges)[1], factual)


def test_the_functionals_are_those_of_the_masses_with_errors_like_the_spread_of_repetitions() -> None:
    modelled, observed, weights = random_parts()
    found = one_step(modelled, observed, weights)
    centres = torch.arange(13, dtype=torch.float64)
    torch.testing.assert_close(found.functionals[:, 0], found.masses(1.0) @ centres)
    influence = (modelled @ centres) + weights * ((observed @ centres)[:, None] - modelled @ centres)
    expected = torch.cov(influence.T, correction=0) / len(influence)
    torch.testing.assert_close(found.covariance, expected)


def test_weights_are_capped_dropped_and_normalised_as_asked() -> None:
    propensity = torch.tensor([[0.5, 0.5], [0.98, 0.02], [0.8, 0.2]])
    arm = torch.tensor([0, 1, 1])
    capped = inverse_weights(propensity, arm, 0.05)
    torch.testing.assert_close(capped[:, 1], torch.tensor([0.0, 20.0, 5.0], dtype=torch.float64))
    dropped = inverse_weights(propensity, arm, 0.05, "drop")
    torch.testing.assert_close(dropped[:, 1], torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64))
    torch.testing.assert_close(inverse_weights(propensity, arm, 0.05, hajek=True).mean(0).sum().item(), 2.0)
    torch.testing.assert_close(effective_rows(capped)[1].item(), 625 / 425)
    with pytest.raises(ValueError, match="clip is a propensity"):
        inverse_weights(propensity, arm, 1.0)


def test_rows_beyond_the_support_are_those_less_likely_than_any_receiver() -> None:
    propensity = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.05, 0.95]])
    shares = beyond_support(propensity, torch.tensor([0, 0, 1, 1]))
    assert shares.tolist() == [0.5, 0.5]


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_conditional_spline_integrates_to_one_and_agrees_with_its_cell_masses() -> None:
    torch.manual_seed(0)
    part = ConditionalSpline(3, 2, Elementwise("spline", 6, 3.0), num_free=2, copies=2, hidden=8)
    for parameter in part.parameters():
        parameter.data += 0.15 * torch.randn_like(parameter)
    part = part.double()
    parameters, free = part(torch.randn(5, 3, dtype=torch.float64))
    assert parameters.shape == (19, 2, 5, 2)
    assert free.shape == (2, 5, 2)
    y = torch.linspace(-60, 60, 40_001, dtype=torch.float64)
    density = part.log_density(y[:, None, None, None].expand(-1, 2, 5, 2), parameters).exp()
    torch.testing.assert_close(torch.trapezoid(density, y, dim=0), torch.ones(2, 5, 2).double(), atol=1e-3, rtol=0)
    edges = torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64)
    masses = part.cell_masses(edges, parameters)
    torch.testing.assert_close(masses.sum(0), torch.ones(2, 5, 2).double())
    inner = part.log_mass(torch.full((2, 5, 2), -1.0).double(), torch.full((2, 5, 2), 0.2).double(), parameters)
    torch.testing.assert_close(masses[1], inner.exp())


def test_copies_of_the_network_are_independent() -> None:
    torch.manual_seed(0)
    part = ConditionalSpline(2, 2, Elementwise("affine"), copies=3, hidden=4)
    parameters, _ = part(torch.randn(6, 2))
    parameters[:, 1].sum().backward()
    gradient = part.straight.weight.grad
    assert gradient is not None
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0


@pytest.mark.parametrize("kind", ["flow", "flow with ends", "cells"])
def test_arm_densities_integrate_to_one_and_invert_their_quantiles(kind: str) -> None:
    torch.manual_seed(0)
    density: ArmFlow | ArmCells
    if kind != "cells":
        density = ArmFlow(2, Elementwise("spline", 5))
        density.parameters_of_arms.data = 0.5 * torch.randn(16, 2)
        if kind == "flow with ends":
            density.ends.copy_(torch.tensor([-0.7, 0.9]))
    else:
        density = ArmCells(2, 30)
        density.start(torch.rand(2, 31, dtype=torch.float64), torch.linspace(-2, 3, 30, dtype=torch.float64))
    y = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    levels = torch.tensor([0.001, 0.01, 0.3, 0.5, 0.77, 0.999], dtype=torch.float64)
    for arm in (0, 1):
        of = lambda values, arm=arm: torch.full((len(values),), arm)  # noqa: E731
        with torch.no_grad():
            total = torch.trapezoid(density.log_density(y, of(y)).exp(), y)
            assert float(total) == pytest.approx(1.0, abs=1e-3)
            value = density.quantile(levels, of(levels))
            below = density.log_mass(torch.full_like(value, -math.inf), value, of(levels)).exp()
            torch.testing.assert_close(below, levels, atol=1e-5, rtol=1e-4)
            window = density.log_mass(torch.tensor([-0.5]), torch.tensor([1.0]), torch.tensor([arm])).exp()
        inside = (y > -0.5) & (y < 1.0)
        found = torch.trapezoid(density.log_density(y[inside], of(y[inside])).detach().exp(), y[inside])
        assert float(window) == pytest.approx(float(found), abs=2e-3)


def test_beyond_the_cells_a_flow_falls_as_the_cells_do_and_keeps_their_mass() -> None:
    edges = torch.linspace(-2, 2, 9, dtype=torch.float64)
    flow, cells = ArmFlow(1, Elementwise("affine")), ArmCells(1, 9)
    with torch.no_grad():
        flow.start(torch.full((1, 10), 0.1, dtype=torch.float64), edges)
        masses = torch.stack([-math.inf * torch.ones(1), *edges[:, None], math.inf * torch.ones(1)])
        of = torch.zeros(9 + 1, dtype=torch.int64)
        log_mass = flow.log_mass(masses[:-1, 0], masses[1:, 0], of)
        torch.testing.assert_close(log_mass.logsumexp(0), torch.zeros((), dtype=torch.float64))
        cells.start(log_mass.exp()[None], edges)
        far = torch.tensor([-30.0, -5.0, -2.001, 2.001, 4.0, 60.0], dtype=torch.float64)
        of = torch.zeros(len(far), dtype=torch.int64)
        torch.testing.assert_close(flow.log_density(far, of), cells.log_density(far, of))
        torch.testing.assert_close(flow.log_mass(far[:-1], far[1:], of[1:]), cells.log_mass(far[:-1], far[1:], of[1:]))
        level = torch.tensor([1e-9, 0.01, 0.99, 1 - 1e-9], dtype=torch.float64)
        torch.testing.assert_close(flow.quantile(level, of[:4]), cells.quantile(level, of[:4]))


def test_values_fall_into_the_cells_of_a_grid() -> None:
    edges = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    assert cells_of(torch.tensor([-5.0, 0.5, 1.5, 9.0]), edges).tolist() == [0, 1, 2, 3]
    group = grouping(torch.rand(1000), torch.linspace(0, 1, 101, dtype=torch.float64), 4)
    assert group.min() == 0
    assert group.max() == 3
    assert (group.diff() >= 0).all()


# ---- data -----------------------------------------------------------------------------------------------------------


def test_the_synthetic_truth_integrates_to_one_and_has_the_stated_means() -> None:
    y = np.linspace(-25, 100, 4001)
    np.testing.assert_allclose(ShiftedArms(2).log_prob(y, 1)[::9], ShiftedArms(2).log_prob(y[::9], 1), atol=1e-6)
    for shift in (1.5, 4.0):
        toy = ShiftedArms(shift)
        x, arm, outcomes = toy.sample(200_000, np.random.default_rng(0))
        assert abs(float(toy.propensity(x)[:, 1].mean()) - 0.5) < 0.01
        assert float(toy.propensity(x)[arm == 1, 1].mean()) > float(toy.propensity(x)[arm == 0, 1].mean())
        for a in (0, 1):
            density = np.exp(toy.log_prob(y, a))
            assert np.trapezoid(density, y) == pytest.approx(1.0, abs=1e-4)
            assert np.trapezoid(density * y, y) == pytest.approx(toy.outcome_mean(a), abs=1e-3)
            assert outcomes[:, a].mean() == pytest.approx(toy.outcome_mean(a), abs=0.1)


def test_the_oracle_has_the_published_settings_values() -> None:
    # mean log-density in units of the pooled standard deviation, computed independently
    for shift, deviation, expected in ((1.5, 2.637, (-1.514, -1.106)), (4.0, 5.859, (-1.129, -1.257))):
        toy = ShiftedArms(shift)
        _, _, outcomes = toy.sample(60_000, np.random.default_rng(1))
        for a in (0, 1):
            found = toy.log_prob(outcomes[:, a], a).mean() + math.log(deviation)
            assert found == pytest.approx(expected[a], abs=0.015)


def causal_file(folder: Path, seed: int) -> Path:
    rows = trial(200)
    rng = np.random.default_rng(seed)
    rows["y_no"], rows["y_yes"] = rng.normal(size=(2, len(rows)))
    path = folder / f"rows_{seed}.csv"
    rows.to_csv(path, index=False)
    return path


def test_changing_counterfactual_columns_changes_nothing(tmp_path: Path) -> None:
    numbers, outcomes = [], []
    for seed in (0, 1):
        rows = Causal(
            "table",
            path=str(causal_file(tmp_path, seed)),
            treatment="drug",
            outcome="weight",
            potential={"no": "y_no", "yes": "y_yes"},
        )
        assert {c.name for c in rows.schema.columns} == {"age", "drug", "weight", "split"}
        assert not set(rows.frame("train").columns) & {"y_no", "y_yes"}
        model = train(InterventionalFlow(rows.schema_dict, **QUICK), rows, progress=False, max_epochs=4)
        numbers.append(model.log_prob(rows.data("test")).values)
        outcomes.append(rows.potential_outcomes("test")["yes"])
    np.testing.assert_array_equal(numbers[0], numbers[1])
    assert not np.array_equal(outcomes[0], outcomes[1])


def test_causal_rows_are_split_by_folds_that_cover_every_row_once() -> None:
    if not (SHARED / "ihdp").is_dir():
        pytest.skip("IHDP is not here")
    tested: list[int] = []
    for fold in range(4):
        rows = Causal("ihdp", path=str(SHARED / "ihdp"), folds=4, fold=fold, val=0.1)
        tested += rows.data("test").rows.tolist()
    assert sorted(tested) == list(range(747))
    assert rows.schema["treatment"].kind == "binary"
    assert rows.schema["outcome"].kind == "continuous"


def test_ihdp_has_the_known_oracle() -> None:
    if not (SHARED / "ihdp").is_dir():
        pytest.skip("IHDP is not here")
    gaps: dict[str, list[np.ndarray]] = {"0": [], "1": []}
    outcomes: list[np.ndarray] = []
    for fold in range(2):
        rows = Causal("ihdp", path=str(SHARED / "ihdp"), folds=2, fold=fold, val=0.1)
        for arm, found in gaps.items():
            oracle = rows.potential_oracle("test", arm)
            assert oracle is not None
            found.append(oracle)
            outcomes.append(rows.potential_outcomes("test")[arm])
    shift = math.log(np.concatenate(outcomes).std())
    # computed independently, standardised by the pooled standard deviation 2.437
    assert np.concatenate(gaps["0"]).mean() + shift == pytest.approx(-0.924, abs=2e-3)
    assert np.concatenate(gaps["1"]).mean() + shift == pytest.approx(-0.626, abs=2e-3)


def test_acic_outcomes_are_those_of_the_treatment_received() -> None:
    if not (SHARED / "acic2016").is_dir():
        pytest.skip("ACIC 2016 is not here")
    rows = Causal("acic2016", path=str(SHARED / "acic2016"), realisation=2)
    frame = rows.frame("test").to_pandas()
    both = rows.potential_outcomes("test")
    received = np.where(frame["treatment"].to_numpy() == 1, both["1"], both["0"])
    np.testing.assert_allclose(frame["outcome"].to_numpy(), received)
    with pytest.raises(DataError, match="realisations 1 to 7"):
        Causal("acic2016", path=str(SHARED / "acic2016"), realisation=9).setup()


def test_causal_data_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs the file 'realisations_1_10"):
        Causal("ihdp", path=str(tmp_path)).setup()
    with pytest.raises(ValueError, match="needs 'treatment' and 'outcome'"):
        Causal("table", path="rows.csv")
    path = str(causal_file(tmp_path, 0))
    rows = Causal("table", path=path, treatment="drug", outcome="weight", potential={"no": "y_maybe"})
    with pytest.raises(DataError, match="no column 'y_maybe'"):
        rows.setup()


# ---- the model ------------------------------------------------------------------------------------------------------


def test_target_densities_integrate_to_one_in_the_outcomes_unit() -> None:
    model = fitted()
    y = np.linspace(-60, 80, 40_001)
    for arm in model.arms:
        assert np.trapezoid(np.exp(model.potential_log_prob(y, arm)), y) == pytest.approx(1.0, abs=1e-3)


def test_the_effect_is_found_where_the_difference_of_means_is_confounded() -> None:
    model = fitted()
    rows = trial(800)
    naive = rows.groupby("drug")["weight"].mean()
    assert naive["yes"] - naive["no"] > 2.4, "older patients are treated more often"
    found = model.effects()
    contrast = found.arms[1].contrast
    assert contrast is not None
    assert abs(contrast.value - 2.0) < 4 * contrast.se  # 1 in 16,000
    assert contrast.se < 0.2
    assert contrast.low < contrast.value < contrast.high
    for arm, mean in zip(found.arms, (5.0, 7.0), strict=True):
        assert arm.mean.value == pytest.approx(mean, abs=4 * arm.mean.se)
        assert arm.density_mean == pytest.approx(mean, abs=0.4)
        values = [arm.quantiles[level].value for level in sorted(arm.quantiles)]
        assert values == sorted(values)
        assert 0 < arm.effective_rows <= arm.rows
    assert sum(arm.rows for arm in found.arms) == model.schema.num_training_rows
    median = found.arms[1].quantile_contrasts[0.5]
    assert abs(median.value - 2.0) < 0.5
    swapped = model.effects(reference="yes").arms[0].contrast
    assert swapped is not None
    assert swapped.value == pytest.approx(-contrast.value)


def test_the_error_of_a_quantile_holds_what_shrinkage_leaves_out_of_the_correction() -> None:
    model = fitted()
    (before,) = (arm.quantiles[0.5] for arm in model.effects(levels=[0.5]).arms[:1])
    density = float(np.exp(model.potential_log_prob([before.value], 0)).item())
    stored = model.measure.functionals.clone()
    try:
        model.measure.functionals[0, 1:] += 0.2  # a correction that the density does not follow
        (after,) = (arm.quantiles[0.5] for arm in model.effects(levels=[0.5]).arms[:1])
    finally:
        model.measure.functionals.copy_(stored)
    assert after.value == before.value
    shift = 0.2 / density
    assert after.se == pytest.approx(shift, abs=3 * before.se)
    assert after.low < before.value - shift
    assert after.high > before.value + shift


def test_swapping_the_names_of_the_arms_swaps_the_densities() -> None:
    y = np.linspace(0, 12, 50)
    rows = trial(300)
    first = genzoo.fit(rows, model="interventional_flow", data=ROLES, trainer={"max_epochs": 6}, **QUICK)
    swapped = rows.assign(drug=rows["drug"].map({"yes": "no", "no": "yes"}))
    second = genzoo.fit(swapped, model="interventional_flow", data=ROLES, trainer={"max_epochs": 6}, **QUICK)
    # weights start at other places for the other head: zeros at the outputs, so only rounding and noise differ
    np.testing.assert_allclose(
        first.potential_log_prob(y, "yes"), second.potential_log_prob(y, "no"), atol=0.05, rtol=0.05
    )


def test_a_rows_number_is_that_of_its_own_treatment_and_no_covariate_enters() -> None:
    model = fitted()
    rows = trial(20, seed=3)
    likelihood = model.log_prob(rows)
    own = [model.potential_log_prob([w], d)[0] for w, d in zip(rows["weight"], rows["drug"], strict=True)]
    np.testing.assert_allclose(likelihood.values, own)
    assert likelihood.columns == ("weight",)
    assert set(likelihood.context) == {"age", "drug"}
    assert likelihood.estimand == "interventional"
    np.testing.assert_array_equal(model.log_prob(rows.assign(age=0.0)).values, likelihood.values)


def test_interventional_numbers_are_never_set_beside_a_joint_density() -> None:
    rows = trial(60, seed=3)
    other = genzoo.fit(trial(), model="gaussian", data=ROLES).log_prob(rows)
    with pytest.raises(ComparisonError, match="estimand"):
        require_comparable(fitted().log_prob(rows), other)


def test_comparing_with_a_joint_density_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.csv"
    trial(60).to_csv(path, index=False)
    assert main(["compare", str(path), "--models", "gaussian,interventional_flow"]) == 2
    assert "never compared" in capsys.readouterr().err


def test_a_report_of_an_interventional_model_has_its_section_and_no_pictures_of_rows() -> None:
    report = genzoo.compare({"flow": fitted()}, trial(80, seed=9)).html()
    assert "Treatments and outcomes" in report
    assert "effect of yes against no" in report
    assert "Distance of samples from data" not in report


def test_other_units_shift_by_the_log_of_the_factor() -> None:
    rows = trial(200)
    far = rows.assign(weight=10 * rows["weight"] + 3)
    options: dict[str, Any] = {"model": "interventional_flow", "data": ROLES, "trainer": {"max_epochs": 5}, **QUICK}
    near = genzoo.fit(rows, **options).log_prob(rows).values
    shifted = genzoo.fit(far, **options).log_prob(far).values
    np.testing.assert_allclose(near - shifted, math.log(10), atol=1e-3)


def test_training_moves_one_stage_at_a_time() -> None:
    rows = Causal("scm", num_rows=150, num_test=20)
    rows.setup("fit")
    model = InterventionalFlow(rows.schema_dict, **QUICK)
    model.fit_codec(rows)
    batch = rows.data("train").batch()
    nuisance, measure, target = model.stages()
    assert nuisance.modules == (model.nuisance,)
    assert measure.closed_form is not None
    measure.closed_form([batch])
    assert target.loss is not None
    assert target.begin is not None
    target.begin()
    target.loss(batch).backward()
    assert all(p.grad is None for p in model.nuisance.parameters())
    assert all(p.grad is not None for p in model.target.parameters())


def test_no_network_learns_from_the_rows_it_is_asked_about() -> None:
    rows = Causal("scm", num_rows=100, num_test=20)
    rows.setup("fit")
    model = InterventionalFlow(rows.schema_dict, **(QUICK | {"folds": 4, "outcome_noise": 0.0}))
    model.fit_codec(rows)
    batch = rows.data("train").batch()
    fold = model._fold(batch.rows)
    assert torch.bincount(fold, minlength=4).min() > 5
    model._nuisance_loss(batch.select(fold == 2)).backward()
    gradient = model.nuisance.last.weight.grad
    assert gradient is not None
    assert gradient[2].abs().sum() == 0
    assert all(gradient[k].abs().sum() > 0 for k in (0, 1, 3))


def test_estimators_differ_in_the_share_of_the_correction() -> None:
    rows = Causal("scm", num_rows=200, num_test=20)
    rows.setup("fit")
    for estimator, whole in (("adjusted", 0.0), ("plug_in", 0.0), ("one_step", 1.0)):
        model = InterventionalFlow(rows.schema_dict, estimator=estimator, shrink=False, **QUICK)  # type: ignore[arg-type]
        model = train(model, rows, progress=False, max_epochs=4)
        assert model.correction_factor.tolist() == [whole, whole]
        assert len(model.stages()) == (2 if estimator == "plug_in" else 3)
        y = np.linspace(-60, 60, 200_001)
        assert np.trapezoid(np.exp(model.potential_log_prob(y, 0)), y) == pytest.approx(1.0, abs=1e-3)


def test_outcomes_on_a_grid_are_probabilities_that_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    dose = rng.integers(0, 3, 300)
    rows = pd.DataFrame(
        {"x": rng.normal(size=300), "dose": np.array(["a", "b", "c"])[dose], "count": rng.poisson(3 + dose)}
    )
    model = genzoo.fit(
        rows,
        model="interventional_flow",
        data={"treatment": ["dose"], "outcome": ["count"]},
        trainer={"max_epochs": 12},
        **QUICK,
    )
    assert model.schema["count"].kind == "quantized"
    assert model.arms == ("a", "b", "c")
    counts = np.arange(-300, 400)
    means = []
    for arm in model.arms:
        mass = np.exp(model.potential_log_prob(counts, arm))
        assert mass.sum() == pytest.approx(1.0, abs=1e-6)
        means.append(float(mass @ counts))
    assert means == sorted(means)
    drawn = model.sample(5000, given=pd.DataFrame({"dose": ["b"]}), seed=0)
    assert set(drawn.columns) == {"dose", "count"}
    assert set(drawn["dose"]) == {"b"}
    assert drawn["count"].dtype.kind == "i"
    assert drawn["count"].mean() == pytest.approx(means[1], abs=5 * drawn["count"].std() / math.sqrt(5000))


def test_samples_follow_the_densities() -> None:
    model = fitted()
    drawn = model.sample(20_000, seed=1)
    assert list(drawn.columns) == ["drug", "weight"]
    assert model.sample(7, backend="pyarrow").column_names == ["drug", "weight"]
    assert model.sample(7, backend="polars").shape == (7, 2)
    with pytest.raises(DataError, match="training rows did not, in 1 rows"):
        model.sample(given=pd.DataFrame({"drug": ["yes", "perhaps"]}))
    for arm in model.arms:
        values = drawn.loc[drawn["drug"] == arm, "weight"].to_numpy()
        levels = np.linspace(0.05, 0.95, 19)
        at = [q.value for q in model.effects(levels=levels.tolist()).arms[model.arm_index(arm)].quantiles.values()]
        below = (values[:, None] < np.array(at)).mean(0)
        # 19 binomial shares: beyond 4.5 standard errors less than once in 7,000 runs
        assert np.abs((below - levels) / np.sqrt(levels * (1 - levels) / len(values))).max() < 4.5


def test_rows_without_an_outcome_score_nothing_and_unknown_treatments_are_refused() -> None:
    model = fitted()
    rows = trial(6, seed=5)
    rows.loc[0, "weight"] = None
    rows.loc[1, "age"] = None
    values = model.log_prob(rows).values
    assert values[0] == 0
    assert np.isfinite(values).all()
    with pytest.raises(CapabilityError, match="treatment column 'drug' is missing"):
        model.log_prob(rows.assign(drug=rows["drug"].where(rows.index > 0), weight=1.0))
    with pytest.raises(DataError, match="no treatment 'maybe'"):
        model.potential_log_prob([1.0], "maybe")


def test_tables_that_do_not_fit_are_refused_in_the_users_words() -> None:
    rows = trial(60)
    with pytest.raises(CapabilityError, match="needs a treatment column"):
        genzoo.fit(rows, model="interventional_flow", data={"outcome": ["weight"]})
    with pytest.raises(CapabilityError, match="'age' is continuous, and InterventionalFlow needs named treatments"):
        genzoo.fit(rows, model="interventional_flow", data={"treatment": ["age"], "outcome": ["weight"]})
    with pytest.raises(CapabilityError, match="cannot model column 'drug'"):
        genzoo.fit(
            rows.assign(t=rows["drug"]), model="interventional_flow", data={"treatment": ["t"], "outcome": ["drug"]}
        )
    two = rows.assign(other=rows["drug"])
    with pytest.raises(CapabilityError, match="takes one treatment column"):
        genzoo.fit(two, model="interventional_flow", data={"treatment": ["drug", "other"], "outcome": ["weight"]})


def test_scores_against_known_outcomes_and_the_report_section() -> None:
    from genzoo.evaluation.causal import causal_section
    from genzoo.evaluation.sections import Section, Subject

    rows = Causal("scm", num_rows=300, num_test=400, shift=1.0)
    rows.setup("fit")
    model = train(InterventionalFlow(rows.schema_dict, **QUICK), rows, progress=False)
    scores = score_potential_outcomes(model, rows)
    assert [score.arm for score in scores] == ["0", "1"]
    for score in scores:
        assert score.gap is not None
        assert score.gap_se is not None
        assert -3 * score.gap_se < score.gap < 0.6
        assert score.oracle == pytest.approx(score.log_prob + score.gap)
        assert score.wasserstein < 1.5
    assert contrast_error(model, rows.potential_outcomes("test"), "0", "1") < 1.5
    section = causal_section(Subject(model, rows.data("test"), datamodule=rows))
    assert section is not None
    assert len(section.grids) == 2
    assert section.metrics[0].low < section.metrics[0].value < section.metrics[0].high  # type: ignore[operator]
    assert Section.from_dict(section.to_dict()) == section
    other = genzoo.fit(trial(60), model="gaussian")
    assert causal_section(Subject(other, rows.data("test"))) is None


def test_genzoo_effect_writes_tables_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "model.ckpt"
    fitted().save(run)
    folder = tmp_path / "effects"
    assert main(["effect", str(run), "-o", str(folder), "--levels", "0.1,0.5,0.9", "--reference", "no"]) == 0
    said = capsys.readouterr().out
    assert "effect against no" in said
    densities = pd.read_csv(folder / "densities.csv")
    assert list(densities.columns) == ["weight", "density:no", "density:yes"]
    area = np.trapezoid(densities["density:yes"], densities["weight"])
    assert area == pytest.approx(1.0, abs=0.02)
    quantiles = pd.read_csv(folder / "quantiles.csv")
    assert len(quantiles) == 6
    assert (quantiles["low"] < quantiles["high"]).all()
    effects = pd.read_csv(folder / "effects.csv")
    mean = effects[effects["what"] == "effect on the mean"].iloc[0]
    assert mean["low"] < mean["value"] < mean["high"]
    overlap = pd.read_csv(folder / "overlap.csv")
    assert overlap["rows"].sum() == 2 * fitted().measure.rows.sum()
    assert "</svg>" in (folder / "effect.svg").read_text()
    assert main(["effect", str(run), "-o", str(folder)]) == 2
    assert "new folder" in capsys.readouterr().err


def test_the_recipe_trains_tests_and_gives_effects_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Path(__file__).parents[1] / "configs" / "recipes" / "scm_interventional_flow.yaml"
    run = tmp_path / "run"
    short = ["--data.num_rows", "200", "--data.num_test", "50", "--trainer.max_epochs", "4"]
    assert main(["fit", "--config", str(recipe), "--run_dir", str(run), *short]) == 0
    assert (run / "test_log_likelihood.parquet").is_file()
    assert main(["effect", str(run), "-o", str(tmp_path / "effects")]) == 0
    assert main(["test", "--ckpt_path", str(run)]) == 0
    assert "wrote" in capsys.readouterr().out


def test_genzoo_effect_refuses_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "model.ckpt"
    genzoo.fit(trial(60), model="gaussian").save(run)
    assert main(["effect", str(run), "-o", str(tmp_path / "effects")]) == 2
    assert "effects are read off an interventional_flow" in capsys.readouterr().err


def below_truth(model: InterventionalFlow, rows: Causal) -> np.ndarray:
    """``(arms,)`` mean of true minus fitted log-density over the potential outcomes of the test rows."""
    return np.array([score.gap for score in score_potential_outcomes(model, rows)], dtype=float)


def plug_in_of(model: InterventionalFlow) -> InterventionalFlow:
    """The same nuisance, its masses themselves as densities."""
    other = copy.deepcopy(model)
    cells = ArmCells(len(model.arms), model.measure.num_cells + 1)
    cells.start(model.measure.plug_in, model.measure.edges)
    other.target = cells
    return other


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "most"), [(1.5, 0.05), (2.5, 0.15)])
def test_both_arms_are_close_to_the_truth(shift: float, most: float, record_property: Any) -> None:
    gaps, worse = [], []
    for seed in (0, 1):
        rows = Causal("scm", shift=shift, seed=seed, batch_size=64, num_test=5000)
        rows.setup("fit")
        model = train(InterventionalFlow(rows.schema_dict, seed=seed), rows, progress=False)
        gaps.append(below_truth(model, rows))
        worse.append(gaps[-1] - below_truth(plug_in_of(model), rows))
    record_property("below the truth, by seed and arm", str(np.round(gaps, 4).tolist()))
    record_property("one-step minus plug-in", str(np.round(worse, 4).tolist()))
    assert np.mean(gaps, axis=0).max() < most
    assert np.mean(worse, axis=0).max() < 0.03


@pytest.mark.slow
def test_ihdp_untreated_outcomes_are_close_to_the_truth_out_of_sample(record_property: Any) -> None:
    if not (SHARED / "ihdp").is_dir():
        pytest.skip("IHDP is not here")
    gaps = []
    for fold in (0, 1):
        rows = Causal("ihdp", path=str(SHARED / "ihdp"), folds=10, fold=fold, split_seed=10, seed=fold, batch_size=64)
        rows.setup("fit")
        model = train(InterventionalFlow(rows.schema_dict, seed=fold), rows, progress=False)
        gaps.append([*below_truth(model, rows), *below_truth(plug_in_of(model), rows)])
    record_property("below the truth, by fold; arms of the model, of the plug-in", str(np.round(gaps, 4).tolist()))
    assert np.mean(gaps, axis=0)[0] < 0.08


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("scm", -2.319), ("ihdp", -1.74)])
def test_the_recipes_give_the_numbers_of_their_headers(
    name: str, expected: float, tmp_path: Path, record_property: Any
) -> None:
    from genzoo.likelihood.log_likelihood import LogLikelihood

    recipe = Path(__file__).parents[1] / "configs" / "recipes" / f"{name}_interventional_flow.yaml"
    more = []
    if name == "ihdp":
        if not (SHARED / "ihdp").is_dir():
            pytest.skip("IHDP is not here")
        more = ["--data.path", str(SHARED / "ihdp")]
    assert main(["fit", "--config", str(recipe), "--run_dir", str(tmp_path / "run"), *more]) == 0
    found = LogLikelihood.load(tmp_path / "run" / "test_log_likelihood.parquet")
    record_property("test log-likelihood", found.label() + f" {len(found)}")
    assert found.mean() == pytest.approx(expected, abs=0.05)
