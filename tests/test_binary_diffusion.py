"""Binary diffusion: XOR noise, its bounds against enumeration, samplers against their law, guidance, imputation."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from discrete_tables import sample_p_value
from torch import Tensor

import genzoo
from contract import discrete_table, mixed_table
from genzoo.datamodules.table import Table
from genzoo.diffusion import process, xor
from genzoo.diffusion.chain import chain_law
from genzoo.models.catalogue import model_class
from genzoo.models.discrete.binary_diffusion import BinaryDiffusion

SMALL: dict[str, Any] = {"num_bits": 3, "width": 32, "num_layers": 1, "num_steps": 16, "patience": 0}
BITS = 3
STATES = torch.tensor(list(itertools.product([0, 1], repeat=BITS)))
JOINT = torch.tensor([0.3, 0.05, 0.1, 0.02, 0.03, 0.25, 0.05, 0.2], dtype=torch.float64)

Network = Callable[[Tensor, Tensor], Tensor]
"""``(z (n, D), b (n,)) -> leave-one-out log-odds of a clean 1 (n, D)``."""


def chance(b: Tensor) -> Tensor:
    """``(8, 8)``: probability of each noisy state (columns) from each clean one at one level."""
    same = STATES[:, None] == STATES[None]
    return torch.where(same, 1 - b, b).prod(-1)


def true_logit(z: Tensor, b: Tensor) -> Tensor:
    """The true leave-one-out log-odds under JOINT, by listing all clean states."""
    out = torch.zeros(z.shape, dtype=torch.float64)
    for row in range(len(z)):
        for i in range(BITS):
            others = [j for j in range(BITS) if j != i]
            weight = JOINT * torch.where(STATES[:, others] == z[row, others], 1 - b[row], b[row]).prod(1)
            out[row, i] = torch.log(weight[STATES[:, i] == 1].sum()) - torch.log(weight[STATES[:, i] == 0].sum())
    return out


def random_logit(seed: int) -> Network:
    g = torch.Generator().manual_seed(seed)
    table = torch.randn(2**BITS, BITS, generator=g, dtype=torch.float64)
    slope = torch.randn(2**BITS, BITS, generator=g, dtype=torch.float64)

    def network(z: Tensor, b: Tensor) -> Tensor:
        index = (z * torch.tensor([4, 2, 1])).sum(1)
        return table[index] + slope[index] * b[:, None]

    return network


def quadrature_bound(network: Network, num_points: int = 60) -> Tensor:
    """The continuous-time bound of every state: all noisy rows listed, time by Gauss-Legendre."""
    place, weight = np.polynomial.legendre.leggauss(num_points)
    total = torch.zeros(len(STATES), dtype=torch.float64)
    for v, w in zip((place + 1) / 2, weight / 2, strict=True):
        b = torch.full((len(STATES),), v * v / 2, dtype=torch.float64)
        h = network(STATES, b)
        for n, x in enumerate(STATES):
            terms = xor.bound_terms(h, STATES, x.expand_as(STATES), torch.full((len(STATES), 1), v).double())
            total[n] += w * (chance(b[0])[n] * terms.sum(1)).sum()
    return total


def steps_bound(network: Network, levels: Tensor) -> Tensor:
    """The discrete-time bound of every state over ascending levels from 0 to 1/2; nothing is drawn."""
    total = torch.zeros(len(STATES), dtype=torch.float64)
    for s, t in itertools.pairwise(levels):
        b = t.expand(len(STATES))
        p = torch.sigmoid(xor.posterior_logit(network(STATES, b), STATES, b[:, None]))
        for n, x in enumerate(STATES):
            terms = xor.step_terms(p, STATES, x.expand_as(STATES), s, t).sum(1)
            total[n] += (chance(t)[n] * terms).sum()
    return total


def exact_law(network: Network, levels: Tensor) -> Tensor:
    """Exact probabilities of the ancestral chain over the same levels."""
    down = levels.flip(0)

    def kernel(z: Tensor, step: int) -> Tensor:
        t, s = down[step], down[step + 1]
        p = torch.sigmoid(xor.posterior_logit(network(z, t.expand(len(z))), z, t))
        one = xor.reverse_one(p, z, s, t)
        return torch.stack([1 - one, one], -1)

    start = torch.full((8,), 1 / 8, dtype=torch.float64)
    return chain_law(kernel, [torch.arange(2)] * BITS, start, len(levels) - 1)


LEVELS = xor.flip_probability(torch.linspace(0, 1, 9, dtype=torch.float64))


def test_flipping_twice_restores_a_row_and_steps_compose_to_the_level() -> None:
    g = torch.Generator().manual_seed(0)
    x, mask = (torch.randint(0, 2, (50, 20), generator=g) for _ in range(2))
    assert torch.equal((x ^ mask) ^ mask, x)
    low, high = torch.tensor(0.03, dtype=torch.float64), torch.tensor(0.21, dtype=torch.float64)
    f = xor.step_flip(low, high)
    assert float(low * (1 - f) + f * (1 - low)) == pytest.approx(0.21, abs=1e-15)


def test_the_levels_of_the_paper_run_from_one_over_the_bits_to_a_half() -> None:
    for schedule in ("quad", "linear", "sigmoid"):
        levels = xor.paper_levels(1000, 1 / 220, schedule)
        assert levels[0] == pytest.approx(1 / 220)
        assert levels[-1] == pytest.approx(0.5)
        assert (levels.diff() > 0).all()
    assert float(xor.paper_levels(3, 0.08, "quad")[1]) == pytest.approx(((0.08**0.5 + 0.5**0.5) / 2) ** 2)
    with pytest.raises(ValueError, match="schedule must be"):
        xor.paper_levels(10, 0.1, "cosine")


def test_the_reverse_step_of_a_known_bit_is_bayes_rule_and_that_of_two_symbols() -> None:
    b_s, b_t = torch.tensor(0.07, dtype=torch.float64), torch.tensor(0.31, dtype=torch.float64)
    f = xor.step_flip(b_s, b_t)
    z = torch.tensor([[0], [1]])
    for x in (0, 1):
        found = xor.reverse_one(torch.full((2, 1), float(x), dtype=torch.float64), z, b_s, b_t)
        for row in (0, 1):
            joint = [(1 - b_s if s == x else b_s) * (1 - f if s == row else f) for s in (0, 1)]
            assert float(found[row, 0]) == pytest.approx(float(joint[1] / (joint[0] + joint[1])), abs=1e-12)
    p = torch.rand(2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = [xor.level(b.reshape(1), 1) for b in (b_s, b_t)]
    general = process.marginalised(z, torch.stack([1 - p, p], -1), *levels)
    torch.testing.assert_close(general[..., 1], xor.reverse_one(p, z, b_s, b_t), atol=1e-12, rtol=0)


def test_the_leave_one_out_and_the_posterior_log_odds_convert_as_the_general_ones_do() -> None:
    b = torch.full((8,), 0.2, dtype=torch.float64)
    h = random_logit(1)(STATES, b)
    q = torch.stack([torch.sigmoid(-h), torch.sigmoid(h)], -1)
    general = process.to_posterior(q, STATES, xor.level(b, BITS))[..., 1]
    torch.testing.assert_close(torch.sigmoid(xor.posterior_logit(h, STATES, b[:, None])), general, atol=1e-12, rtol=0)


def test_both_heads_say_the_same_when_they_are_views_of_one_posterior() -> None:
    h = random_logit(2)(STATES, torch.full((8,), 0.2, dtype=torch.float64))
    heads = torch.stack([h, (1 - 2 * STATES) * h], 1)
    torch.testing.assert_close(xor.combined(heads, STATES), h, atol=1e-14, rtol=0)


def test_a_network_of_zeros_gives_the_log_of_the_number_of_states_exactly() -> None:
    def zero(z: Tensor, b: Tensor) -> Tensor:
        return torch.zeros(z.shape, dtype=torch.float64)

    expected = np.full(8, BITS * math.log(2))
    np.testing.assert_allclose(steps_bound(zero, LEVELS).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(quadrature_bound(zero).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_bound_of_any_network_is_never_below_the_exact_value_of_its_chain(seed: int) -> None:
    network = random_logit(seed)
    law = exact_law(network, LEVELS)
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-12)
    bound = steps_bound(network, LEVELS)
    assert (bound >= -torch.log(law) - 1e-12).all()
    assert (bound + torch.log(law)).max() > 0.01
    # many steps: the chain of the continuous-time bound
    fine = xor.flip_probability(torch.linspace(0, 1, 401, dtype=torch.float64))
    assert (quadrature_bound(network) >= -torch.log(exact_law(network, fine)) - 2e-3).all()


def test_the_continuous_time_bound_is_tight_at_the_true_posterior_and_few_steps_leave_a_gap() -> None:
    np.testing.assert_allclose(quadrature_bound(true_logit).numpy(), -JOINT.log().numpy(), atol=1e-6)
    steps = steps_bound(true_logit, LEVELS)
    gap = float((JOINT * (steps + JOINT.log())).sum())
    assert 1e-5 < gap < 0.05
    finer = steps_bound(true_logit, xor.flip_probability(torch.linspace(0, 1, 33, dtype=torch.float64)))
    assert 0 < float((JOINT * (finer + JOINT.log())).sum()) < gap / 3


@functools.cache
def fitted() -> BinaryDiffusion:
    model = genzoo.fit(
        discrete_table(600), model="binary_diffusion", max_epochs=40, lr=3e-3, ema=0.0, schedule="cosine", **SMALL
    )
    assert isinstance(model, BinaryDiffusion)
    return model


def table() -> pd.DataFrame:
    return pd.DataFrame(
        list(itertools.product(["a", "b", "c"], range(-3, 12), ["yes", "no"])), columns=["group", "count", "flag"]
    )


def test_training_beats_independent_columns_and_the_bound_stays_below_the_exact_value() -> None:
    model, new = fitted(), discrete_table(400, seed=9)
    independent = genzoo.fit(discrete_table(600), model="independent")
    exact = model.log_prob(new)
    assert exact.kind == "exact"
    assert exact.mean() > independent.log_prob(new).mean() + 0.02
    try:
        model.likelihood = "bound"
        lower = model.log_prob(new, draws=128)
    finally:
        model.likelihood = "auto"
    assert lower.kind == "lower_bound"
    # the exact value is that of 16 steps among codes that mean something, so the bound is below it but for noise
    assert lower.mean() < exact.mean() + 4.5 * float(np.sqrt((lower.se**2).sum()) / len(new)) + 0.01  # type: ignore[operator]
    assert lower.mean() > exact.mean() - 0.3


def test_bounds_over_all_states_sum_to_at_most_one_for_every_pattern_of_holes() -> None:
    model = fitted()
    try:
        model.likelihood = "bound"
        for pattern in itertools.product([True, False], repeat=3):
            states = table().drop_duplicates([c for c, seen in zip(table(), pattern, strict=True) if seen] or ["flag"])
            states = states.astype({"count": "Int64"})
            for column, seen in zip(states, pattern, strict=True):
                if not seen:
                    states[column] = None
            found = model.log_prob(states, draws=64)
            total = np.exp(found.values)
            error = float(np.sqrt(((total * found.se) ** 2).sum()))
            if any(pattern):
                assert 0.5 < total.sum() < 1 + 4.5 * error, pattern
            else:
                assert total.max() == pytest.approx(1.0, abs=1e-12), "nothing observed, nothing scored"
    finally:
        model.likelihood = "auto"


def test_ancestral_samples_follow_the_exact_law_and_those_of_the_paper_do_not() -> None:
    model = fitted()
    assert sample_p_value(model, table(), 6000) > 1e-4
    try:
        model.sampler = "paper"
        assert sample_p_value(model, table(), 6000) < 1e-12
    finally:
        model.sampler = "ancestral"


def test_imputation_uses_the_observed_cells_and_wants_a_network_that_was_shown_some() -> None:
    holes = pd.DataFrame({"group": ["a"] * 300 + ["c"] * 300, "count": [None] * 600, "flag": [None] * 600})
    holes["count"] = holes["count"].astype("Int64")
    filled = fitted().impute(holes, seed=0)[0]
    truth = discrete_table(4000, seed=2).groupby("group")["count"].mean()
    gap = filled["count"][300:].mean() - filled["count"][:300].mean()
    assert gap > 0.5 * (truth["c"] - truth["a"])
    blind = BinaryDiffusion(**(fitted().init_args | {"show": 0.0}))
    blind.load_state_dict(fitted().state_dict())
    with pytest.raises(genzoo.errors.CapabilityError, match="show=0"):
        blind.impute(holes)


def test_guidance_sharpens_what_is_drawn_given_the_context() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 600)
    frame = pd.DataFrame(
        {"label": np.array(["no", "yes"])[label], "a": np.where(rng.random(600) < 0.3 + 0.4 * label, "u", "v")}
    )
    model = genzoo.fit(
        frame, model="binary_diffusion", context=["label"], max_epochs=25, lr=5e-3, drop_context=0.2, **SMALL
    )
    assert isinstance(model, BinaryDiffusion)
    assert model.likelihood_kind == "lower_bound"
    given = pd.DataFrame({"label": ["yes"] * 800 + ["no"] * 800})

    def contrast() -> float:
        drawn = model.sample(given=given, seed=0)
        assert (drawn["label"] == given["label"]).all()
        return float((drawn["a"][:800] == "u").mean() - (drawn["a"][800:] == "u").mean())

    plain = contrast()
    assert plain == pytest.approx(0.4, abs=0.15)
    model.guidance = 3.0
    assert contrast() > plain + 0.15
    model.guidance = 0.0
    assert abs(contrast()) < 0.1, "without the context the label says nothing"


def test_the_authors_settings_build_train_and_round() -> None:
    path = Path(__file__).parents[1] / "configs" / "model" / "binary_diffusion_authors.yaml"
    content = yaml.safe_load(path.read_text())
    assert model_class(content["class_path"]) is BinaryDiffusion
    arguments = content["init_args"] | {"width": 16, "num_steps": 8}
    model = genzoo.fit(mixed_table(), model="binary_diffusion", max_epochs=2, **arguments)
    assert isinstance(model, BinaryDiffusion)
    assert model.codec.num_bits == 3 * 32 + 2 + 1
    assert float(model.paper_levels[0]) == pytest.approx(1 / model.codec.num_bits)
    levels = model._sampling_levels()
    assert levels[0] == pytest.approx(0.5)
    assert levels[-2] == pytest.approx(1 / model.codec.num_bits)
    assert levels[-1] == 0.0
    likelihood = model.log_prob(mixed_table(seed=1))
    assert likelihood.kind == "lower_bound"
    assert np.isfinite(likelihood.values).all()
    assert len(model.sample(20)) == 20


@pytest.mark.parametrize("name", ["network", "loss", "levels", "heads", "likelihood", "sampler"])
def test_options_are_checked_by_name(name: str) -> None:
    module = Table(frame=discrete_table(), seed=0)
    module.setup("fit")
    with pytest.raises(ValueError, match=f"{name} must be one of"):
        BinaryDiffusion(schema=module.schema_dict, **{name: "other"})  # type: ignore[arg-type]


@pytest.mark.parametrize("heads", ["value", "flip"])
def test_either_head_alone_gives_a_likelihood(heads: str) -> None:
    model = BinaryDiffusion(**(fitted().init_args | {"heads": heads}))
    model.load_state_dict(fitted().state_dict())
    found = model.log_prob(table())
    assert float(np.exp(found.values).sum()) == pytest.approx(1.0, abs=0.05)
