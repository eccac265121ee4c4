"""Multinomial diffusion: its bound by enumeration, both readings of the output, training and imputation."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from discrete_tables import RandomConditionals, sample_p_value, states
from torch import Tensor
from torch.nn import functional as F

import genzoo
from contract import discrete_table
from genzoo.datamodules.table import Table
from genzoo.diffusion.process import (
    UniformCosine,
    marginal,
    marginalised,
    plug_in,
    prior_term,
    step_terms,
    to_posterior,
)
from genzoo.likelihood.noise import RowNoise
from genzoo.models.discrete.multinomial_diffusion import MultinomialDiffusion
from genzoo.models.discrete.noisy import ReverseChain

SMALL: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2, "num_steps": 20, "patience": 0}


def valid_of(sizes: tuple[int, ...]) -> Tensor:
    return torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]


def bound(process: UniformCosine, sizes: tuple[int, ...], denoise: Any, kernel: Any = plug_in) -> Tensor:
    """The whole bound of every state, all noisy rows listed: nothing is drawn. ``denoise(z, k) -> clean``."""
    valid, x_all = valid_of(sizes), states(sizes)
    last = torch.tensor([process.num_steps])
    total = prior_term(x_all, process.level(last, valid), valid).sum(1)
    z_all = states(sizes)
    for k in range(1, process.num_steps + 1):
        t, s = (process.level(torch.tensor([j]), valid) for j in (k, k - 1))
        reverse = kernel(z_all, denoise(z_all, k), s, t)
        for n, x in enumerate(x_all):
            xs = x.expand(len(z_all), -1)
            chance = marginal(t, F.one_hot(xs, max(sizes))).gather(-1, z_all[..., None])[..., 0].prod(1)
            total[n] += (chance * step_terms(z_all, xs, reverse, s, t).sum(1)).sum()
    return total


@pytest.mark.parametrize(("sizes", "num_steps"), [((3, 2), 4), ((27,), 10), ((2,), 100)])
def test_a_uniform_network_gives_the_log_of_the_number_of_symbols_exactly(
    sizes: tuple[int, ...], num_steps: int
) -> None:
    valid = valid_of(sizes)
    uniform = valid.double() / valid.sum(1, keepdim=True)
    found = bound(UniformCosine(num_steps), sizes, lambda z, k: uniform.expand(len(z), -1, -1))
    np.testing.assert_allclose(found.numpy(), sum(math.log(size) for size in sizes), atol=1e-12)


def test_the_bound_of_any_network_is_below_the_exact_probability_of_its_chain() -> None:
    sizes, process = (3, 2), UniformCosine(4)
    valid = valid_of(sizes)
    model = RandomConditionals(sizes, 3)

    def clean(z: Tensor) -> Tensor:
        return model(z, torch.arange(len(z))).exp()

    def reverse(z: Tensor, probs: Tensor, step: int) -> Tensor:
        t, s = (process.level(torch.tensor([j]), valid) for j in (4 - step, 3 - step))
        return plug_in(z, probs, s, t)

    chain = ReverseChain(lambda z, c, t: clean(z), reverse, lambda step: 1 - step / 4, 4, valid, None)
    exact = chain.exact_log_prob(states(sizes))
    assert float(exact.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    found = -bound(process, sizes, lambda z, k: clean(z))
    assert (found < exact + 1e-12).all()
    assert (exact - found).max() > 1e-3


def test_both_readings_meet_one_bound_at_their_optimum_and_swapping_them_costs() -> None:
    joint = torch.tensor([[0.3, 0.05], [0.05, 0.3], [0.2, 0.1]], dtype=torch.float64)
    sizes, process = (3, 2), UniformCosine(30)
    valid, x_all, p = valid_of(sizes), states(sizes), joint.reshape(-1)

    def leave_one_out(z: Tensor, k: int) -> Tensor:
        level = process.level(torch.tensor([k]), valid)
        at_z = torch.stack(
            [marginal(level, F.one_hot(x.expand(len(z), -1), 3)).gather(-1, z[..., None])[..., 0] for x in x_all]
        )
        out = torch.zeros(len(z), 2, 3, dtype=torch.float64)
        for i in range(2):
            weight = p[:, None] * at_z[:, :, 1 - i]
            for symbol in range(sizes[i]):
                out[:, i, symbol] = weight[x_all[:, i] == symbol].sum(0)
        return out / out.sum(-1, keepdim=True)

    def posterior(z: Tensor, k: int) -> Tensor:
        return to_posterior(leave_one_out(z, k), z, process.level(torch.tensor([k]), valid))

    one, two = (bound(process, sizes, f, kernel) for f, kernel in ((leave_one_out, plug_in), (posterior, marginalised)))
    torch.testing.assert_close(one, two, atol=1e-10, rtol=0)
    entropy = float(-(p * p.log()).sum())
    value = float((p * one).sum())
    assert entropy < value < entropy + 0.02, "30 steps are near continuous time, where the bound is tight"
    for f, kernel in ((posterior, plug_in), (leave_one_out, marginalised)):
        assert float((p * bound(process, sizes, f, kernel)).sum()) > value + 0.05


@functools.cache
def fitted(output: str = "plug_in") -> MultinomialDiffusion:
    model = genzoo.fit(
        discrete_table(400), model="multinomial_diffusion", output=output, max_epochs=40, lr=5e-3, ema=0.0, **SMALL
    )
    assert isinstance(model, MultinomialDiffusion)
    return model


def table() -> pd.DataFrame:
    return pd.DataFrame(
        list(itertools.product(["a", "b", "c"], range(0, 6), ["yes", "no"])), columns=["group", "count", "flag"]
    )


# the network starts at the marginals: the optimum for independent columns of the one reading, not of the other
@pytest.mark.parametrize(("output", "gain"), [("plug_in", 0.05), ("marginalised", 0.0)])
def test_training_beats_independent_columns_and_the_bound_stays_below_the_exact_value(output: str, gain: float) -> None:
    model, new = fitted(output), discrete_table(400, seed=9)
    independent = genzoo.fit(discrete_table(400), model="independent")
    assert model.likelihood_kind == "exact"
    exact = model.log_prob(new)
    assert exact.mean() > independent.log_prob(new).mean() + gain
    try:
        model.likelihood = "bound"
        lower = model.log_prob(new, draws=40)
    finally:
        model.likelihood = "auto"
    assert lower.kind == "lower_bound"
    assert lower.mean() < exact.mean() + 4.5 * lower.se_mean()
    assert lower.mean() > exact.mean() - 0.5


def test_few_terms_a_row_estimate_the_sum_of_all_without_bias() -> None:
    model = fitted()
    rows = model.codec.encode(model._encoded_table(table().head(1)).batch())
    many = type(rows)(*(t.repeat_interleave(1500, 0) for t in (rows.rows, rows.tokens, rows.context)),
                      rows.log_volume.repeat(1500, 1), rows.outside.repeat(1500))  # fmt: skip
    noise = RowNoise(0, torch.arange(1500))
    try:
        model.likelihood = "bound"
        with torch.no_grad():
            few, all_ = (model.model_log_prob(many, noise, draws).values for draws in (2, 20))
    finally:
        model.likelihood = "auto"
    error = math.sqrt(float(few.var() + all_.var()) / 1500)
    assert abs(float(few.mean() - all_.mean())) < 4.5 * error


def test_weighted_steps_of_training_leave_the_expected_loss_where_it_is() -> None:
    model = MultinomialDiffusion(**fitted().init_args)
    model.load_state_dict(fitted().state_dict())
    model.eval()
    assert (model.times_seen > 10).all(), "training has seen every step"
    rows = model.codec.encode(model._encoded_table(discrete_table(300, seed=4)).batch())
    model.hide = 0.0
    means = []
    torch.manual_seed(0)
    for importance in (True, False):
        model.importance = importance
        assert (model.step_probabilities().std() > 1e-3) == importance
        with torch.no_grad():
            means.append(torch.stack([model.loss(rows) for _ in range(150)]))
    error = math.sqrt(sum(float(m.var()) for m in means) / 150)
    assert abs(float(means[0].mean() - means[1].mean())) < 4.5 * error


@pytest.mark.parametrize("output", ["plug_in", "marginalised"])
def test_samples_follow_the_exact_law_of_the_chain(output: str) -> None:
    assert sample_p_value(fitted(output), table(), 6000) > 1e-4


def test_imputation_uses_the_observed_cells() -> None:
    holes = pd.DataFrame({"group": ["a"] * 200 + ["c"] * 200, "count": [None] * 400, "flag": [None] * 400})
    holes["count"] = holes["count"].astype("Int64")
    filled = fitted().impute(holes, seed=0, draws=8)
    gap = [float(frame["count"][200:].mean() - frame["count"][:200].mean()) for frame in filled]
    assert np.mean(gap) > 0.6  # standard error 0.06; without the group it would be 0


def test_options_are_checked_by_name() -> None:
    module = Table(frame=discrete_table(), seed=0)
    module.setup("fit")
    with pytest.raises(ValueError, match="output must be"):
        MultinomialDiffusion(schema=module.schema_dict, output="direct")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_steps must be"):
        MultinomialDiffusion(schema=module.schema_dict, num_steps=0)
