"""GIDD on tables: its bound against its own exact chain, training, holes, imputation."""

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

import genzoo
from contract import discrete_table, mixed_table
from genzoo.datamodules.table import Table
from genzoo.diffusion import any_order
from genzoo.diffusion.process import Hybrid, hybrid_bound_terms, marginal
from genzoo.models.discrete.gidd import GIDD
from genzoo.models.discrete.noisy import ReverseChain

SMALL: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2, "num_steps": 24, "patience": 0}


@functools.cache
def fitted(share: float = 0.1) -> GIDD:
    model = genzoo.fit(discrete_table(400), model="gidd", uniform_share=share, max_epochs=30, lr=5e-3, ema=0.0, **SMALL)
    assert isinstance(model, GIDD)
    return model


def table() -> pd.DataFrame:
    return pd.DataFrame(
        list(itertools.product(["a", "b", "c"], range(0, 6), ["yes", "no"])), columns=["group", "count", "flag"]
    )


def network_bound(share: float, model: RandomConditionals, nodes: int = 600) -> torch.Tensor:
    """Continuous-time bound of every state for an arbitrary network that reads no time, by enumeration."""
    sizes = model.sizes
    most = max(sizes)
    valid = torch.arange(most) < torch.tensor(sizes)[:, None]
    noise, x_all = Hybrid(share), states(sizes)
    z_all = states([k + 1 for k in sizes])
    z_all = torch.where(z_all == torch.tensor(sizes), most, z_all)
    clean = model(torch.where(z_all == most, -1, z_all), torch.arange(len(z_all))).exp()
    total = torch.zeros(len(x_all), dtype=torch.float64)
    for node in (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes:
        t = torch.full((len(z_all),), float(node) ** 4, dtype=torch.float64)
        level = noise.level(t, valid)
        for n, x in enumerate(x_all):
            xs = x.expand(len(z_all), -1)
            chance = marginal(level, torch.nn.functional.one_hot(xs, most)).gather(-1, z_all[..., None])[..., 0]
            weight = noise.weights(t, z_all == most, z_all == xs, torch.tensor(sizes))
            cell = torch.where(chance > 0, weight * hybrid_bound_terms(noise, t, z_all, xs, clean, valid), 0.0)
            total[n] += 4 * float(node) ** 3 / nodes * float((chance.prod(1) * cell.sum(1)).sum())
    return total


def chain_of(share: float, model: RandomConditionals, num_steps: int) -> ReverseChain:
    from genzoo.diffusion.process import plug_in

    most = max(model.sizes)
    valid = torch.arange(most) < torch.tensor(model.sizes)[:, None]
    noise = Hybrid(share)
    grid = [math.sin(math.pi / 2 * (1 - k / num_steps)) ** 2 for k in range(num_steps)] + [0.0]

    def reverse(z: torch.Tensor, clean: torch.Tensor, step: int) -> torch.Tensor:
        t, s = (noise.level(torch.tensor([grid[k]], dtype=torch.float64), valid) for k in (step, step + 1))
        return plug_in(z, clean, s, t)

    def denoise(tokens: torch.Tensor, context: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return model(tokens, torch.arange(len(tokens))).exp()

    return ReverseChain(denoise, reverse, grid.__getitem__, num_steps, valid, most)


def test_without_uniform_noise_the_bound_is_the_any_order_bound_of_the_same_network() -> None:
    model = RandomConditionals((3, 2), 1)
    masked = any_order.exact_bound(any_order.subset_table(model, states((3, 2))))[0]
    torch.testing.assert_close(-network_bound(0.0, model), masked, atol=1e-4, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_bound_of_any_network_is_below_the_exact_probability_of_a_long_chain(share: float) -> None:
    model = RandomConditionals((3, 2), 2)
    exact = chain_of(share, model, 400).exact_log_prob(states((3, 2)))
    assert float(exact.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    bound = -network_bound(share, model)
    assert (bound < exact + 2e-3).all()
    assert (bound > exact - 2.0).all()
    assert (exact - bound).max() > 0.01, "a random network's bound is not tight"


def test_draws_of_the_bound_average_to_the_integral_and_start_tight_at_independent_columns() -> None:
    module = Table(frame=discrete_table(), seed=0)
    module.setup("fit")
    model = GIDD(schema=module.schema_dict, uniform_share=0.2, likelihood="bound", **SMALL).eval()
    model.fit_codec(module)
    frame = table()
    bound = model.log_prob(frame, draws=2000)
    independent = torch.log_softmax(model.network.head.bias.detach().double(), 0)
    assert bound.se is not None
    assert independent.isfinite().all()
    model.likelihood = "exact"
    exact = model.log_prob(frame)
    assert (np.abs(bound.values - exact.values) < 4.5 * bound.se + 1e-3).all(), "independent columns: bound = exact"


def test_a_trained_bound_stays_below_the_exact_value_within_its_error() -> None:
    model = fitted()
    assert model.likelihood_kind == "exact"
    frame = table()
    try:
        exact = model.log_prob(frame)
        model.likelihood = "bound"
        assert model.likelihood_kind == "lower_bound"
        bound = model.log_prob(frame, draws=300)
    finally:
        model.likelihood = "auto"
    assert bound.se is not None
    weight = np.exp(exact.values)
    gap = ((exact.values - bound.values) * weight).sum() / weight.sum()
    error = np.sqrt(((bound.se * weight) ** 2).sum()) / weight.sum()
    # 24 steps are not continuous time: what the grid costs is at most a few hundredths here
    assert -4.5 * error - 0.03 < gap < 0.5


def test_training_beats_independent_columns() -> None:
    new = discrete_table(1000, seed=9)
    independent = genzoo.fit(discrete_table(400), model="independent")
    assert fitted().log_prob(new).mean() > independent.log_prob(new).mean() + 0.05


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_samples_follow_the_exact_law_of_the_chain(share: float) -> None:
    assert sample_p_value(fitted(share), table(), 6000) > 1e-4


def test_imputation_uses_the_observed_cells() -> None:
    holes = pd.DataFrame({"group": ["a"] * 300 + ["c"] * 300, "count": [None] * 600, "flag": [None] * 600})
    holes["count"] = holes["count"].astype("Int64")
    filled = fitted().impute(holes, seed=0)[0]
    assert not filled.isna().any().any()
    assert filled["count"][300:].mean() > filled["count"][:300].mean() + 0.8


def test_context_shifts_the_bound_and_samples() -> None:
    model = genzoo.fit(discrete_table(400), model="gidd", context=["group"], max_epochs=12, lr=5e-3, ema=0.0, **SMALL)
    assert model.likelihood_kind == "lower_bound"
    low, high = (model.sample(400, given=pd.DataFrame({"group": [g]}), seed=0)["count"].mean() for g in ("a", "c"))
    assert high > low + 0.6


@pytest.mark.parametrize("weights", ["dynamic", "clip", "none"])
def test_other_training_weights_train(weights: str) -> None:
    model = genzoo.fit(mixed_table(150), model="gidd", weights=weights, max_epochs=1, **SMALL)
    likelihood = model.log_prob(mixed_table(50, seed=3))
    assert np.isfinite(likelihood.values).all()
    assert likelihood.se is not None


def test_options_are_checked_by_name() -> None:
    module = Table(frame=discrete_table(), seed=0)
    module.setup("fit")
    with pytest.raises(ValueError, match="weights must be one of"):
        GIDD(schema=module.schema_dict, weights="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uniform_share must be"):
        GIDD(schema=module.schema_dict, uniform_share=1.0)
