"""Samplers of the absorbing process: their laws, their cost, and what they never touch."""

from __future__ import annotations

import pytest
import torch
from discrete_tables import RandomConditionals, by_all_orders, chi_square_p, states

from genzoo.diffusion import any_order
from genzoo.diffusion.categorical import draw
from genzoo.diffusion.reveal import expected_nfe, reveal, reveal_probability

SIZES = (3, 2, 3)


def counts(tokens: torch.Tensor, sizes: tuple[int, ...] = SIZES) -> torch.Tensor:
    rows = states(sizes)
    return (tokens[:, None] == rows).all(2).sum(0)


@pytest.mark.parametrize("sampler", ["any_order", "first_hitting"])
def test_one_by_one_samplers_follow_the_exact_likelihood(sampler: str) -> None:
    model = RandomConditionals(SIZES, 7)
    law = any_order.exact_log_prob(any_order.subset_table(model, states(SIZES))).exp()
    start = torch.full((20_000, 3), -1)
    drawn = reveal(model, start, torch.Generator().manual_seed(0), sampler)  # type: ignore[arg-type]
    assert chi_square_p(counts(drawn.tokens), law * 20_000) > 1e-3
    assert (drawn.calls == 3).all()


def exact_tweedie(model: RandomConditionals, num_steps: int) -> torch.Tensor:
    """Law of the grid sampler, by propagating the probability of every partly masked row."""
    import itertools

    all_rows = torch.tensor(list(itertools.product(*(range(-1, s) for s in SIZES))))
    place = {tuple(r.tolist()): i for i, r in enumerate(all_rows)}
    p = torch.zeros(len(all_rows), dtype=torch.float64)
    p[place[(-1, -1, -1)]] = 1.0
    for step in range(num_steps):
        r = reveal_probability(num_steps, step, "tweedie")
        after = torch.zeros_like(p)
        probs = model(all_rows, torch.arange(len(all_rows))).exp()
        for i, row in enumerate(all_rows):
            options = []
            for j in range(3):
                if row[j] >= 0:
                    options.append([(int(row[j]), 1.0)])
                else:
                    options.append([(-1, 1 - r), *((k, r * float(probs[i, j, k])) for k in range(SIZES[j]))])
            for combination in itertools.product(*options):
                target = place[tuple(value for value, _ in combination)]
                after[target] += p[i] * combination[0][1] * combination[1][1] * combination[2][1]
        p = after
    complete = torch.tensor([place[tuple(r.tolist())] for r in states(SIZES)])
    return p[complete]


@pytest.mark.parametrize("sampler", ["tweedie", "euler"])  # one law: alpha is linear in time
def test_grid_samplers_follow_their_exact_law_and_approach_the_any_order_law(sampler: str) -> None:
    model = RandomConditionals(SIZES, 8)
    law = exact_tweedie(model, 3)
    assert float(law.sum()) == pytest.approx(1.0)
    drawn = reveal(model, torch.full((20_000, 3), -1), torch.Generator().manual_seed(1), sampler, 3)  # type: ignore[arg-type]
    assert chi_square_p(counts(drawn.tokens), law * 20_000) > 1e-3
    exact = any_order.exact_log_prob(any_order.subset_table(model, states(SIZES))).exp()
    distance = [float((exact_tweedie(model, n) - exact).abs().sum()) / 2 for n in (4, 16, 64)]
    assert distance[0] / distance[1] == pytest.approx(4, rel=0.25)
    assert distance[1] / distance[2] == pytest.approx(4, rel=0.15)


def test_cached_and_uncached_samplers_agree_draw_by_draw() -> None:
    model = RandomConditionals(SIZES, 9)
    start = torch.full((500, 3), -1)
    cached, plain = (
        reveal(model, start, torch.Generator().manual_seed(2), "tweedie", 20, cached=c) for c in (True, False)
    )
    assert torch.equal(cached.tokens, plain.tokens)
    assert (plain.calls == 20).all()
    assert (cached.calls <= 3).all()


def test_number_of_calls_has_the_closed_form() -> None:
    assert expected_nfe(3, 4) == 2.3125
    assert expected_nfe(1024, 1024) == pytest.approx(647.4755, abs=1e-4)
    assert expected_nfe(1024, 64) == pytest.approx(63.99999, abs=1e-5)
    assert expected_nfe(1024, 4096) == pytest.approx(906.129, abs=1e-3)
    assert expected_nfe(256, 1000) == pytest.approx(225.957, abs=1e-3)
    calls = reveal(
        RandomConditionals(SIZES), torch.full((20_000, 3), -1), torch.Generator().manual_seed(3), "tweedie", 4
    ).calls.double()
    assert float(calls.mean()) == pytest.approx(2.3125, abs=5 * float(calls.std()) / 20_000**0.5)


@pytest.mark.parametrize("sampler", ["any_order", "first_hitting", "tweedie", "euler"])
def test_given_cells_are_never_changed_and_masked_ones_always_filled(sampler: str) -> None:
    g = torch.Generator().manual_seed(4)
    start = torch.stack([torch.randint(-1, s, (300,), generator=g) for s in SIZES], 1)
    drawn = reveal(RandomConditionals(SIZES), start, g, sampler, 5)  # type: ignore[arg-type]
    given = start >= 0
    assert torch.equal(drawn.tokens[given], start[given])
    assert (drawn.tokens >= 0).all()
    assert (drawn.tokens < torch.tensor(SIZES)).all()


def test_conditional_draws_follow_the_order_average_of_the_masked_cells() -> None:
    model = RandomConditionals(SIZES, 10)
    start = torch.tensor([[1, -1, -1]]).repeat(20_000, 1)
    drawn = reveal(model, start, torch.Generator().manual_seed(5)).tokens
    rest = states(SIZES[1:])

    def narrow(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return model(torch.cat([torch.ones(len(tokens), 1, dtype=torch.int64), tokens], 1), index)[:, 1:]

    law = by_all_orders(narrow, rest).exp().mean(1)
    assert chi_square_p(counts(drawn[:, 1:], SIZES[1:]), law * 20_000) > 1e-3


def test_euler_and_tweedie_reveal_with_equal_probability_when_alpha_is_linear() -> None:
    for step in range(7):
        assert reveal_probability(7, step, "euler") == pytest.approx(reveal_probability(7, step, "tweedie"), abs=1e-15)


def test_draws_never_take_an_impossible_symbol() -> None:
    log_probs = torch.tensor([[-torch.inf, 0.0, -torch.inf], [-0.7, -0.7, -torch.inf]]).double()
    top = draw(log_probs, torch.tensor([1 - 2.0**-53] * 2, dtype=torch.float64))
    low = draw(log_probs, torch.tensor([2.0**-54] * 2, dtype=torch.float64))
    assert top.tolist() == [1, 1]
    assert low.tolist() == [1, 0]
