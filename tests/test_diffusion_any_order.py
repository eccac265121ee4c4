"""Any-order likelihoods and the losses of the absorbing process, against enumeration in float64."""

from __future__ import annotations

import math

import pytest
import torch
from discrete_tables import RandomConditionals, by_all_orders, states, true_conditionals

from genzoo.diffusion import any_order
from genzoo.diffusion.absorbing import (
    Geometric,
    LogLinear,
    alpha,
    concrete_score,
    denoising_score_entropy,
    masked_nll,
    score_factor,
)
from genzoo.likelihood.noise import RowNoise

SIZES = (3, 2, 3)


def integrated_loss(kind: str, model: RandomConditionals, rows: torch.Tensor, schedule: LogLinear | Geometric) -> float:
    """The expectation over masks in closed form, over time by Gauss-Legendre quadrature; mean over rows."""
    nodes, weights = (torch.tensor(v, dtype=torch.float64) for v in _gauss(400))
    patterns = any_order.subsets(rows.shape[1])
    total = torch.zeros((), dtype=torch.float64)
    for masked in patterns:
        size = int(masked.sum())
        if size == 0:
            continue
        mask = masked.expand_as(rows)
        log_probs = model(rows.masked_fill(mask, -1), torch.arange(len(rows)))
        nll = masked_nll(log_probs, rows, mask).mean()
        # quadrature in lambda, the probability of being masked; every time loss is one in lambda
        for lam, weight in zip(nodes, weights, strict=True):
            chance = lam**size * (1 - lam) ** (rows.shape[1] - size)
            if kind == "lambda_dce":
                total += weight * chance / lam * nll
                continue
            t = _time_of(schedule, lam)
            jacobian = 1 / (schedule.rate(t) * (1 - lam))
            rate, factor = schedule.rate(t), score_factor(schedule, t)
            if kind == "t_dce":
                total += weight * jacobian * chance * rate * factor * nll
            else:
                entropy = denoising_score_entropy(log_probs, rows, mask, factor.expand(len(rows))).mean()
                total += weight * jacobian * chance * rate * entropy
    return float(total)


def _gauss(n: int):  # type: ignore[no-untyped-def]
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(n)
    return (x + 1) / 2, w / 2


def _time_of(schedule: LogLinear | Geometric, lam: torch.Tensor) -> torch.Tensor:
    noise = -torch.log1p(-lam)
    if isinstance(schedule, Geometric):
        return torch.log(noise / schedule.low) / math.log(schedule.high / schedule.low)
    return lam / (1 - schedule.eps)


@pytest.mark.parametrize("schedule", [LogLinear(), Geometric()])
def test_the_four_losses_have_one_expectation(schedule: LogLinear | Geometric) -> None:
    model, rows = RandomConditionals(SIZES), states(SIZES)
    bound = -float(any_order.exact_bound(any_order.subset_table(model, rows))[0].mean())
    assert bound == pytest.approx(-float(by_all_orders(model, rows).mean()), abs=1e-12)
    for kind in ("lambda_dce", "t_dce", "t_dse"):
        assert integrated_loss(kind, model, rows, schedule) == pytest.approx(bound, abs=1e-9), kind


def test_dynamic_programming_equals_the_sum_over_all_orders() -> None:
    model, rows = RandomConditionals(SIZES, 1), states(SIZES)
    exact = any_order.exact_log_prob(any_order.subset_table(model, rows))
    orders = by_all_orders(model, rows)
    torch.testing.assert_close(exact, orders.logsumexp(1) - math.log(6), atol=1e-12, rtol=0)
    assert float(exact.exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_the_bound_is_below_the_exact_value_and_meets_it_for_true_conditionals() -> None:
    model, rows = RandomConditionals(SIZES, 2), states(SIZES)
    table = any_order.subset_table(model, rows)
    assert (any_order.exact_bound(table)[0] < any_order.exact_log_prob(table) - 1e-4).all()
    joint = torch.rand(SIZES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joint /= joint.sum()
    table = any_order.subset_table(true_conditionals(joint), rows)
    for value in (any_order.exact_bound(table)[0], any_order.exact_log_prob(table)):
        torch.testing.assert_close(value, joint.reshape(-1).log(), atol=1e-12, rtol=0)


def test_parts_of_cells_sum_to_the_bound() -> None:
    model, rows = RandomConditionals(SIZES, 2), states(SIZES)
    value, cells = any_order.exact_bound(any_order.subset_table(model, rows))
    torch.testing.assert_close(cells.sum(1), value)


@pytest.mark.parametrize("pattern", [(True, False, False), (True, True, False), (False, True, False)])
def test_holes_leave_the_number_of_the_observed_cells(pattern: tuple[bool, ...]) -> None:
    model = RandomConditionals(SIZES, 3)
    rows = states(SIZES)
    hole = torch.tensor(pattern)
    rows = torch.unique(rows.masked_fill(hole, -1), dim=0)
    table = any_order.subset_table(model, rows)
    exact = any_order.exact_log_prob(table)
    assert float(exact.exp().sum()) == pytest.approx(1.0, abs=1e-12), "a probability over the observed cells"
    # against orders of the observed cells alone
    seen = [i for i in range(3) if not pattern[i]]

    def narrow(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        wide = torch.full((len(tokens), 3), -1)
        wide[:, seen] = tokens
        return model(wide, index)[:, seen]

    orders = by_all_orders(narrow, rows[:, seen])
    torch.testing.assert_close(exact, orders.logsumexp(1) - math.log(orders.shape[1]), atol=1e-12, rtol=0)
    torch.testing.assert_close(any_order.exact_bound(table)[0], orders.mean(1), atol=1e-12, rtol=0)


def test_random_draws_of_the_bound_average_to_it_holes_included() -> None:
    model = RandomConditionals(SIZES, 4)
    rows = torch.tensor([[2, 1, 0], [-1, 0, 2], [1, -1, -1], [-1, -1, -1]])
    exact = any_order.exact_bound(any_order.subset_table(model, rows))[0]
    noise = RowNoise(0, torch.arange(4))
    level, order = any_order.bound_noise(noise, 3, 4000)
    terms, cells = any_order.bound_terms(model, rows, level, order)
    error = terms.std(1) / math.sqrt(4000) + 1e-12
    assert ((terms.mean(1) - exact).abs() < 4.5 * error).all()
    torch.testing.assert_close(cells.sum(1), terms.mean(1))
    assert float(terms[3].abs().max()) == 0.0, "nothing observed, nothing scored"


def test_log_probs_along_orders_are_those_of_the_orders_and_their_mean_is_exact() -> None:
    model = RandomConditionals(SIZES, 5)
    rows = torch.tensor([[2, 1, 0], [-1, 0, 2]])
    import itertools

    order = torch.tensor(list(itertools.permutations([0.1, 0.5, 0.9])), dtype=torch.float64).expand(2, -1, -1)
    found = any_order.order_log_probs(model, rows, order)
    exact = any_order.exact_log_prob(any_order.subset_table(model, rows))
    torch.testing.assert_close(found.logsumexp(1) - math.log(6), exact, atol=1e-12, rtol=0)


def test_more_orders_tighten_the_importance_weighted_bound() -> None:
    model, rows = RandomConditionals(SIZES, 6), states(SIZES)
    table = any_order.subset_table(model, rows)
    exact, bound = any_order.exact_log_prob(table).mean(), any_order.exact_bound(table)[0].mean()
    many = rows.repeat(300, 1)
    g = torch.Generator().manual_seed(0)
    values = []
    for count in (1, 4, 32):
        order = torch.rand(len(many), count, 3, generator=g, dtype=torch.float64)
        found = any_order.order_log_probs(model, many, order)
        values.append(float((found.logsumexp(1) - math.log(count)).mean()))
    assert values[0] == pytest.approx(float(bound), abs=0.05)
    assert values[0] < values[1] < values[2] < float(exact) + 0.01
    assert values[2] == pytest.approx(float(exact), abs=0.03)


def test_concrete_score_is_the_ratio_of_marginals_of_the_noisy_rows() -> None:
    joint = torch.rand(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    joint /= joint.sum()
    schedule, t = LogLinear(), torch.tensor([0.3], dtype=torch.float64)
    a = float(alpha(schedule, t))
    # z = (mask, 1): filled with k it has probability a^2 p(k, 1); as it is (1 - a) a p(., 1)
    score = concrete_score(true_conditionals(joint)(torch.tensor([[-1, 1]]), torch.arange(1)), schedule, t)[0, 0]
    expected = a * a * joint[:, 1] / ((1 - a) * a * joint[:, 1].sum())
    torch.testing.assert_close(score, expected)
