"""Tail indices against laws that are known, and what is said of tails in a report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import genzoo
from genzoo.errors import GenZooError
from genzoo.evaluation.sections import Subject
from genzoo.evaluation.tail_index import (
    TailIndex,
    hill_estimate,
    kernel_estimate,
    moment_estimate,
    tail_index,
    tail_indices,
)
from genzoo.evaluation.tails import (
    area_between_survival,
    compare_tails,
    distances,
    survival_curve,
    tail_confusion,
    tail_quantiles,
    tail_value_at_risk,
    tails_section,
)
from genzoo.tables.encode import encode_frame
from genzoo.tables.frames import read_frame
from genzoo.tables.infer import infer_schema


def pareto(index: float, num: int, seed: int = 0) -> np.ndarray:
    return np.asarray((1 - np.random.default_rng(seed).random(num)) ** (-1 / index))


# ---- estimators -----------------------------------------------------------------------------------------------------


def test_hill_estimate_is_the_formula_written_out() -> None:
    values = np.array([5.0, 1.0, 3.0, 2.0, 8.0])
    expected = (math.log(8) + math.log(5) + math.log(3)) / 3 - math.log(2)
    assert hill_estimate(values, 3) == pytest.approx(expected)


def test_moment_estimate_is_the_formula_written_out() -> None:
    values = np.array([5.0, 1.0, 3.0, 2.0, 8.0])
    excess = np.log(np.array([8, 5, 3]) / 2)
    first, second = excess.mean(), (excess**2).mean()
    assert moment_estimate(values, 3) == pytest.approx(first + 1 - 0.5 / (1 - first**2 / second))


def test_kernel_estimate_is_the_formula_written_out() -> None:
    values = np.sort(pareto(2.0, 50))[::-1]
    h, alpha, n = 0.5, 0.6, 50
    u = np.arange(1, n) / n
    gap = np.log(values[:-1] / values[1:])

    def weight(v: np.ndarray) -> np.ndarray:
        return np.where(v < h, 15 / 8 * (1 - (v / h) ** 2) ** 2 / h, 0.0)

    step = 1e-6
    slope = ((u + step) ** (1 + alpha) * weight(u + step) - (u - step) ** (1 + alpha) * weight(u - step)) / (2 * step)
    first, second = np.sum(u**alpha * weight(u) * gap), np.sum(slope * gap)
    expected = np.sum(u * weight(u) * gap) - 1 + second / first
    assert kernel_estimate(values, h) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("index", [0.5, 1.0, 2.0, 4.0])
def test_estimators_find_the_index_of_an_exact_power_law(index: float) -> None:
    values = pareto(index, 20_000)
    xi = 1 / index
    # asymptotic standard errors: xi / sqrt k for Hill, sqrt(1 + xi^2) / sqrt k for moments; four of them
    assert hill_estimate(values, 4000) == pytest.approx(xi, abs=4 * xi / math.sqrt(4000))
    assert moment_estimate(values, 4000) == pytest.approx(xi, abs=4 * math.sqrt((1 + xi**2) / 4000))
    assert kernel_estimate(values, 0.5) == pytest.approx(xi, abs=0.1 * max(xi, 0.5))


@pytest.mark.parametrize("freedom", [1.0, 2.0, 3.0])
def test_degrees_of_freedom_of_a_student_sample_are_one_over_xi_and_not_one_more(freedom: float) -> None:
    x = np.random.default_rng(0).standard_t(freedom, 10_000)
    found = tail_index(x, num_resamples=60)
    assert found.heavy
    assert found.index == pytest.approx(freedom, rel=0.25)
    assert abs(found.index - freedom) < abs(found.index - (freedom + 1)), "1 + 1 / xi is the density's exponent"
    assert found.low < found.index < found.high


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("normal", lambda rng: rng.normal(size=4000)),
        ("uniform", lambda rng: rng.random(4000)),
        ("mixture", lambda rng: rng.normal(np.where(rng.random(4000) < 0.3, -3.0, 2.0), 1.5)),
        ("nearly normal", lambda rng: rng.standard_t(30, 4000)),
    ],
)
def test_light_tails_are_called_light(name: str, draw: Any) -> None:
    found = tail_index(draw(np.random.default_rng(1)), num_resamples=60)
    assert not found.heavy, name
    assert found.index == math.inf
    assert found.hill > 0, "Hill alone cannot say so"


def test_sides_are_told_apart() -> None:
    x = pareto(1.5, 5000)
    assert tail_index(x, side="upper", num_resamples=60).index == pytest.approx(1.5, rel=0.25)
    assert not tail_index(x, side="lower", num_resamples=60).heavy
    with pytest.raises(ValueError, match="side must be both, upper or lower"):
        tail_index(x, side="left")


def test_estimates_are_free_of_unit_and_order_and_repeat_with_their_seed() -> None:
    x = np.random.default_rng(0).standard_t(3, 1000)
    first = tail_index(x, num_resamples=30)
    assert tail_index(np.sort(x) * 1024 + 4096.0, num_resamples=30).index == pytest.approx(first.index, rel=1e-9)
    assert tail_index(x, num_resamples=30) == first
    assert tail_index(np.append(x, [np.nan, np.inf]), num_resamples=30) == first
    assert [t.index for t in tail_indices(np.stack([x, x], 1), num_resamples=30)] == [first.index] * 2


@pytest.mark.parametrize("values", [np.zeros(500), np.array([]), np.arange(50.0), np.full(300, np.nan)])
def test_samples_that_say_nothing_are_taken_for_light(values: np.ndarray) -> None:
    found = tail_index(values)
    assert not found.heavy
    assert found.num_extremes == 0


@pytest.mark.slow
@pytest.mark.parametrize("freedom", [1.0, 2.0, 3.0])
def test_interval_covers_the_index_about_as_often_as_it_says(freedom: float) -> None:
    hits = 0
    for seed in range(25):
        found = tail_index(np.random.default_rng(seed).standard_t(freedom, 1500), num_resamples=30, seed=seed)
        hits += found.low < freedom < found.high
    # at 95 % fewer than 20 of 25 come once in 3000 runs
    assert hits >= 20


# ---- measures of tails ----------------------------------------------------------------------------------------------


def test_area_between_survival_curves_is_the_sum_written_out() -> None:
    data, model = np.array([1.0, 2.0, 4.0, 9.0]), np.array([2.0, 3.0, 5.0, 30.0])
    total = 0.0
    for i in range(1, 5):
        gap = math.log(np.quantile(data, 1 - i / 4)) - math.log(np.quantile(model, 1 - i / 4))
        total += abs(gap) * math.log((i + 1) / i)
    assert area_between_survival(data, model) == pytest.approx(total)
    assert area_between_survival(data, data) == 0
    assert area_between_survival(7 * data, 7 * model) == pytest.approx(total)
    with pytest.raises(ValueError, match="positive distances"):
        area_between_survival(np.zeros(3), data)


def test_area_sees_a_tail_of_another_weight_and_not_the_same_one() -> None:
    data = pareto(2.0, 5000, 0)
    same, lighter = pareto(2.0, 5000, 1), pareto(4.0, 5000, 2)
    assert area_between_survival(data, lighter) > 5 * area_between_survival(data, same)


@pytest.mark.parametrize("law", ["pareto", "exponential"])
def test_tail_value_at_risk_has_its_closed_form_and_no_factor_of_twenty(law: str) -> None:
    level, n = 0.95, 400_000
    u = (np.arange(n) + 0.5) / n  # quantiles in the middle of equal shares: no noise of sampling
    if law == "pareto":
        values = (1 - u) ** (-1 / 3.0)
        quantile = 0.05 ** (-1 / 3.0)
        expected = quantile * 3.0 / 2.0
    else:
        values = -np.log(1 - u)
        expected = -math.log(0.05) + 1
    assert tail_value_at_risk(values, level) == pytest.approx(expected, rel=2e-3)


def test_tail_value_at_risk_of_few_values_takes_the_last_in_part() -> None:
    values = np.array([1.0, 2.0, 3.0, 10.0])
    assert tail_value_at_risk(values, 0.75) == 10.0
    assert tail_value_at_risk(values, 0.625) == pytest.approx((10 + 0.5 * 3) / 1.5)
    assert tail_value_at_risk(values, 0.0) == values.mean()
    with pytest.raises(ValueError, match="level must be at least 0 and below 1"):
        tail_value_at_risk(values, 1.0)


def test_survival_curve_of_a_power_law_is_a_line_of_its_slope() -> None:
    points = np.array(survival_curve(np.sort(pareto(2.0, 50_000))))
    assert (np.diff(points[:, 0]) >= 0).all()
    assert (np.diff(points[:, 1]) <= 0).all()
    far = points[(points[:, 1] > -3) & (points[:, 1] < -1)]
    assert np.polyfit(far[:, 0], far[:, 1], 1)[0] == pytest.approx(-2.0, abs=0.1)


def test_quantiles_of_a_sample_in_other_units_lie_on_a_shifted_line() -> None:
    data = np.sort(pareto(2.0, 1000))
    points = np.array(tail_quantiles(data, 100 * data))
    np.testing.assert_allclose(points[:, 1], points[:, 0] + 2)


def test_confusion_counts_every_column_once() -> None:
    table = tail_confusion([True, True, False, False, False], [True, False, False, True, False])
    assert (table.light_light, table.light_heavy, table.heavy_light, table.heavy_heavy) == (2, 1, 1, 1)
    assert (table.agree, table.total) == (3, 5)


def test_comparison_of_columns_says_which_tail_is_missing() -> None:
    rng = np.random.default_rng(0)
    data = {"a": rng.standard_t(2, 2000), "b": rng.normal(size=2000), "flat": np.ones(2000)}
    samples = {"a": rng.normal(size=2000) * 2, "b": rng.normal(size=2000), "flat": np.ones(2000)}
    found = {c.column: c for c in compare_tails(data, samples)}
    assert set(found) == {"a", "b"}
    assert (found["a"].data.heavy, found["a"].model.heavy) == (True, False)
    assert (found["b"].data.heavy, found["b"].model.heavy) == (False, False)
    assert found["a"].area > 3 * found["a"].area_of_data
    assert found["b"].area < 3 * found["b"].area_of_data
    known = compare_tails(data, samples, heavy={"a": False})
    assert not known[0].data.heavy


# ---- the section ----------------------------------------------------------------------------------------------------


class Described:
    """A model that says what it takes tails for."""

    def __init__(self, tails: dict[str, bool]) -> None:
        self.tails = tails

    def tail_classes(self) -> list[Any]:
        from genzoo.models.flows.tail_classes import ColumnTail

        nothing = TailIndex(2.0, 1.0, 3.0, 0.5, 0.5, 0.5, 10, 100)
        return [ColumnTail(name, heavy, 2.0, False, nothing, (0.5, 0.5)) for name, heavy in self.tails.items()]

    def tail_indices(self) -> dict[str, tuple[float, float]]:
        return {"loss": (math.inf, 2.0)}


def subject(model: Any, samples: pd.DataFrame | None, num: int = 1500, heavy: bool = True) -> Subject:
    rng = np.random.default_rng(0)
    loss = rng.standard_t(1.5, num) if heavy else rng.normal(size=num)
    frame = pd.DataFrame({"loss": loss, "kind": np.where(rng.random(num) < 0.3, "a", "b")})
    schema = infer_schema(frame, overrides={"loss": {"kind": "continuous"}})
    return Subject(model=model, test=encode_frame(read_frame(frame), schema), samples=samples)


def test_section_shows_tails_of_data_samples_and_model() -> None:
    drawn = pd.DataFrame({"loss": np.random.default_rng(1).normal(size=1000), "kind": "a"})
    section = tails_section(subject(Described({"loss": True}), drawn))
    assert section is not None
    numbers = {metric.name: metric.value for metric in section.metrics}
    assert numbers["classes right"] == 0.0
    assert numbers["area, heavy columns"] > 1.0
    line = section.grids[0].lines[0]
    assert line[0] == "loss"
    assert line[1].startswith("heavy")
    assert line[2] == "light"
    assert line[3] == "light / 2.00"
    assert len(section.curves) == 2
    assert genzoo.evaluation.sections.Section.from_dict(section.to_dict()) == section


def test_what_a_model_takes_columns_for_does_not_change_what_it_is_judged_by() -> None:
    drawn = pd.DataFrame({"loss": np.random.default_rng(1).normal(size=1000), "kind": "a"})
    found = [tails_section(subject(model, drawn)) for model in (Described({"loss": False}), object())]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].metrics == found[1].metrics


def test_section_is_for_heavy_tables_or_models_that_choose_tails() -> None:
    drawn = pd.DataFrame({"loss": np.random.default_rng(1).normal(size=1000), "kind": "a"})
    assert tails_section(subject(object(), drawn, heavy=False)) is None
    assert tails_section(subject(object(), drawn, heavy=True)) is not None
    assert tails_section(subject(Described({"loss": False}), drawn, heavy=False)) is not None
    with pytest.raises(GenZooError, match="tails are compared on samples"):
        tails_section(subject(object(), None))


def test_distances_are_sorted_and_finite() -> None:
    found = distances(np.array([3.0, np.nan, -1.0, np.inf, 1.0]), 1.0)
    assert found.tolist() == [0.0, 2.0, 2.0]


def test_entropy_of_student_laws_is_what_the_card_of_the_family_lists() -> None:
    from genzoo.models.flows.tail_density import log_student_density

    torch = pytest.importorskip("torch")
    for freedom, entropy in {1: 2.5310, 2: 1.9603, 3: 1.7735, 5: 1.6275, 10: 1.5213, 30: 1.4525}.items():
        x = torch.sinh(torch.linspace(-30, 30, 60_001, dtype=torch.float64))
        log_density = log_student_density(x, torch.tensor(float(freedom), dtype=torch.float64))
        found = float(torch.trapezoid(-log_density * log_density.exp(), x))
        assert found == pytest.approx(entropy, abs=1e-3)
        assert found == pytest.approx(stats.t(freedom).entropy(), abs=1e-3)
