"""Replacement noise: marginals, posteriors, the two readings of a network's output, and the bounds, by enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from discrete_tables import chi_square_p, states
from torch import Tensor

from genzoo.diffusion.chain import all_states, chain_law, run_chain
from genzoo.diffusion.process import (
    Hybrid,
    Level,
    UniformCosine,
    hybrid_bound_terms,
    marginal,
    marginalised,
    plug_in,
    to_leave_one_out,
    to_posterior,
)

VALID = torch.tensor([[True, True, True], [True, True, False]])  # columns of 3 and 2 symbols


def time(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_clean(num: int, valid: Tensor = VALID, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(num, *valid.shape, generator=g, dtype=torch.float64) * valid
    return p / p.sum(-1, keepdim=True)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_weights_are_the_rate_over_the_chance_of_each_kind_of_cell(share: float, gamma: float) -> None:
    noise, h = Hybrid(share, gamma), 1e-6
    for t in (0.07, 0.3, 0.5, 0.81):
        low, mid, high = (noise.level(time(t + d), VALID) for d in (-h, 0.0, h))
        slope = (high.vector - low.vector) / (2 * h)
        rate = slope - (high.alpha - low.alpha) / (2 * h) / mid.alpha * mid.vector
        for column, size in ((0, 3), (1, 2)):
            x = 1
            chance = marginal(mid, torch.nn.functional.one_hot(torch.tensor([[x, x]]), 3))[0, column]
            for z, is_mask in ((x, False), (0, False), (3, True)):
                if share == 0 and not is_mask and z != x:
                    continue  # never happens
                expected = float(rate[0, column, z] / chance[z])
                found = noise.weights(
                    time(t), torch.tensor([[is_mask] * 2]), torch.tensor([[z == x] * 2]), torch.tensor([3, 2])
                )[0, column]
                assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-7), (t, column, z, size)


@pytest.mark.parametrize("noise", [Hybrid(0.2), Hybrid(0.0), Hybrid(0.3, 2.0)])
def test_hybrid_noise_composes_and_starts_clean_and_ends_masked(noise: Hybrid) -> None:
    for s, t in ((0.1, 0.2), (0.2, 0.9), (0.5, 1.0), (0.0, 0.3)):
        one, two = noise.level(time(s), VALID), noise.level(time(t), VALID)
        torch.testing.assert_close(two.vector.sum(-1), (1 - two.alpha[..., 0]).expand(-1, 2))
        a = two.alpha / one.alpha
        b = two.vector - a * one.vector
        assert (b > -1e-15).all(), "a step adds noise"
        at_s = marginal(one, torch.nn.functional.one_hot(torch.tensor([[2, 0]]), 3))
        torch.testing.assert_close(
            a * at_s + b * at_s.sum(-1, keepdim=True),
            marginal(two, torch.nn.functional.one_hot(torch.tensor([[2, 0]]), 3)),
            atol=1e-12,
            rtol=0,
        )
    assert float(noise.level(time(0.0), VALID).alpha) == 1.0
    assert noise.level(time(1.0), VALID).vector[0, :, 3].tolist() == [1.0, 1.0]


def test_half_way_the_shares_are_those_declared() -> None:
    level = Hybrid(0.3).level(time(0.5), VALID)
    assert float(level.vector[0, 0, 3]) == pytest.approx(0.35)
    assert float(level.vector[0, 0, :3].sum()) == pytest.approx(0.3)
    assert float(level.alpha) == pytest.approx(0.35)


def levels_of(kind: str) -> tuple[Level, Level]:
    if kind == "hybrid":
        return Hybrid(0.25).level(time(0.3), VALID), Hybrid(0.25).level(time(0.7), VALID)
    cosine = UniformCosine(4)
    return cosine.level(torch.tensor([2]), VALID), cosine.level(torch.tensor([3]), VALID)


@pytest.mark.parametrize("kind", ["hybrid", "uniform"])
def test_the_reverse_kernel_of_a_known_symbol_is_the_posterior_by_bayes(kind: str) -> None:
    s, t = levels_of(kind)
    size = s.vector.shape[-1]
    for column, count in ((0, 3), (1, 2)):
        possible = [k for k in range(size) if k < count or k == 3]
        a = float(t.alpha / s.alpha)
        b = (t.vector - a * s.vector)[0, column]
        for x in range(count):
            clean = torch.nn.functional.one_hot(torch.tensor([[x, x]]), 3)
            at_s = marginal(s, clean)[0, column]
            for z in possible:
                forward = torch.tensor([a * (k == z) + float(b[z]) for k in range(size)], dtype=torch.float64)
                bayes = forward * at_s / (forward * at_s).sum()
                found = plug_in(torch.tensor([[z, z]]), clean, s, t)[0, column]
                torch.testing.assert_close(found, bayes, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["hybrid", "uniform"])
def test_both_readings_of_the_output_give_one_kernel_after_conversion(kind: str) -> None:
    s, t = levels_of(kind)
    clean = random_clean(9)
    z = torch.cartesian_prod(torch.arange(3), torch.tensor([0, 1, 3 if kind == "hybrid" else 1]))
    posterior = to_posterior(clean, z, t)
    torch.testing.assert_close(to_leave_one_out(posterior, z, t), clean, atol=1e-12, rtol=0)
    torch.testing.assert_close(marginalised(z, posterior, s, t), plug_in(z, clean, s, t), atol=1e-12, rtol=0)
    assert (marginalised(z, clean, s, t) - plug_in(z, clean, s, t)).abs().max() > 0.01, "the readings differ"


def noisy_bound(share: float, joint: Tensor, leave_one_out: bool, nodes: int = 400) -> Tensor:
    """Continuous-time bound of every state for the optimal network, by enumeration and sin^2 quadrature."""
    sizes = joint.shape
    x_all, p = states(sizes), joint.reshape(-1)
    valid = torch.ones(len(sizes), max(sizes), dtype=torch.bool)
    noise = Hybrid(share)
    z_all = states([k + 1 for k in sizes])
    u = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes * math.pi / 2
    total = torch.zeros(len(x_all), dtype=torch.float64)
    for angle in u:
        t = torch.full((len(z_all),), float(angle.sin() ** 2), dtype=torch.float64)
        level = noise.level(t, valid)
        chances = [marginal(level, torch.nn.functional.one_hot(x.expand(len(z_all), -1), max(sizes))) for x in x_all]
        at_z = torch.stack([c.gather(-1, z_all[..., None])[..., 0] for c in chances])  # (x, z, L)
        clean = torch.zeros(len(z_all), len(sizes), max(sizes), dtype=torch.float64)
        for i in range(len(sizes)):
            others = [j for j in range(len(sizes)) if j != i] if leave_one_out else list(range(len(sizes)))
            weight = p[:, None] * at_z[:, :, others].prod(2)
            for k in range(sizes[i]):
                clean[:, i, k] = weight[x_all[:, i] == k].sum(0)
        clean = clean / clean.sum(-1, keepdim=True)
        measure = math.pi / 2 * 2 * float(angle.sin() * angle.cos()) / nodes
        for n, x in enumerate(x_all):
            xs = x.expand(len(z_all), -1)
            cell = hybrid_bound_terms(noise, t, z_all, xs, clean, valid)
            weight = noise.weights(t, z_all == max(sizes), z_all == xs, torch.tensor(sizes))
            weight = torch.where(at_z[n] > 0, weight, 0.0)
            total[n] += measure * (at_z[n].prod(1) * (weight * cell).sum(1)).sum()
    return total


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_the_bound_is_tight_for_the_leave_one_out_network_and_only_for_it(share: float) -> None:
    joint = torch.tensor([[0.45, 0.1], [0.05, 0.4]], dtype=torch.float64)
    tight = noisy_bound(share, joint, leave_one_out=True)
    torch.testing.assert_close(tight, -joint.reshape(-1).log(), atol=2e-3, rtol=0)
    loose = float((joint.reshape(-1) * noisy_bound(share, joint, leave_one_out=False)).sum())
    entropy = float(-(joint * joint.log()).sum())
    if share:
        assert loose > entropy + 0.1
    else:
        assert loose == pytest.approx(entropy, abs=2e-3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_a_uniform_network_is_bounded_by_the_log_of_the_number_of_symbols(share: float) -> None:
    noise, nodes = Hybrid(share), 2000
    v = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
    t, measure = v**4, 4 * v**3 / nodes
    uniform = (VALID.double() / VALID.sum(1, keepdim=True)).expand(nodes, -1, -1)
    x = torch.zeros(nodes, 2, dtype=torch.int64)
    chance = marginal(noise.level(t, VALID), torch.nn.functional.one_hot(x, 3))
    total = torch.zeros(2, dtype=torch.float64)
    for symbol in range(4):
        z = torch.full_like(x, symbol)
        weight = noise.weights(t, z == 3, z == x, VALID.sum(1))
        cell = hybrid_bound_terms(noise, t, z, x, uniform, VALID)
        part = torch.where(chance[..., symbol] > 0, chance[..., symbol] * weight * cell, 0.0)
        total += (measure[:, None] * part).sum(0)
    np.testing.assert_allclose(total.numpy(), [math.log(3), math.log(2)], atol=2e-4)


def test_exact_training_weights_keep_the_optimum_and_clipped_ones_do_not() -> None:
    # one column, p = (.6, .3, .1): the best xhat for a given (z, t) must be p itself
    p, noise, valid = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), Hybrid(0.2), VALID[:1]
    t, z = time(0.5), torch.tensor([[0]])

    def best(clip: bool) -> Tensor:
        score = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([score], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = torch.zeros((), dtype=torch.float64)
            clean = score.softmax(0).reshape(1, 1, 3)
            for x in range(3):
                xs = torch.tensor([[x]])
                chance = marginal(noise.level(t, valid), torch.nn.functional.one_hot(xs, 3))[0, 0, 0]
                weight = noise.weights(t, z == 3, z == xs, torch.tensor([3]))
                weight = weight.clamp(max=1.0) if clip else weight * 2 * t * (1 - t)
                loss = loss + (p[x] * chance * weight * hybrid_bound_terms(noise, t, z, xs, clean, valid)).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        return score.softmax(0).detach()

    torch.testing.assert_close(best(clip=False), p, atol=1e-5, rtol=0)
    assert (best(clip=True) - p).abs().max() > 0.02


def test_cosine_schedule_has_the_published_end_points() -> None:
    assert float(UniformCosine(1000).alpha_bar[-1]) == pytest.approx(4.93e-5, rel=5e-3)
    assert float(UniformCosine(4000).alpha_bar[-1]) == pytest.approx(1.23e-5, rel=5e-3)


def test_a_chain_draws_from_its_exact_law() -> None:
    noise, valid, steps = Hybrid(0.3), VALID, 5
    table = random_clean(12, seed=3)
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def kernel(z: Tensor, step: int) -> Tensor:
        clean = table[z[:, 0] * 3 + z[:, 1].clamp(max=2)]
        return plug_in(
            z, clean, noise.level(grid[step + 1 : step + 2], valid), noise.level(grid[step : step + 1], valid)
        )

    symbols = [torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 3])]
    listed = all_states(symbols)
    start = (listed == 3).all(1).double()
    law = chain_law(kernel, symbols, start, steps)
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(law[(listed == 3).any(1)].sum()) == 0.0, "no mask is left at the end"
    drawn = run_chain(kernel, torch.full((20_000, 2), 3), steps, torch.Generator().manual_seed(0))
    counts = (drawn[:, None] == listed).all(2).sum(0)
    assert chi_square_p(counts, law * 20_000) > 1e-3


def test_plain_masking_never_changes_a_visible_symbol() -> None:
    noise = Hybrid(0.0)
    s, t = noise.level(time(0.3), VALID), noise.level(time(0.8), VALID)
    found = plug_in(torch.tensor([[1, 0]]), random_clean(1), s, t)
    assert found[0, 0, 1] == pytest.approx(1.0)
    assert found[0, 1, 0] == pytest.approx(1.0)
