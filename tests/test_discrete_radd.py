"""RADD on tables: starting values, kinds of likelihood, context, imputation of any cells."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import genzoo
from contract import discrete_table, mixed_table
from genzoo.datamodules.table import Table
from genzoo.diffusion import any_order
from genzoo.diffusion.absorbing import masked_nll
from genzoo.errors import CapabilityError
from genzoo.likelihood.noise import RowNoise
from genzoo.models.catalogue import model_class
from genzoo.models.discrete.radd import RADD
from genzoo.models.scoring import ModelLogProb

SMALL: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2, "patience": 0}


@functools.cache
def fitted(context: tuple[str, ...] = ()) -> RADD:
    model = genzoo.fit(
        discrete_table(400), model="radd", context=list(context), max_epochs=12, lr=5e-3, ema=0.0, **SMALL
    )
    assert isinstance(model, RADD)
    return model


def untrained(**options: Any) -> tuple[RADD, Table]:
    module = Table(frame=discrete_table(), seed=0)
    module.setup("fit")
    model = RADD(schema=module.schema_dict, **SMALL, **options).eval()
    return model, module


def states() -> pd.DataFrame:
    return pd.DataFrame(
        list(itertools.product(["a", "b", "c"], range(0, 8), ["yes", "no"])), columns=["group", "count", "flag"]
    )


def test_an_untouched_network_gives_the_log_of_the_number_of_symbols_by_every_likelihood() -> None:
    model, module = untrained()
    batch = module.fit_sample()
    model.codec.fit(batch)  # without the starting values of initialise
    sizes = model.codec.valid.sum(1).double()
    rows = model.codec.encode(batch)
    expected = -float(sizes.log().sum())

    def scored(likelihood: str, draws: int = 3) -> ModelLogProb:
        model.likelihood = likelihood  # type: ignore[assignment]
        with torch.no_grad():
            return model.model_log_prob(rows, RowNoise(0, rows.rows), draws)

    for likelihood in ("exact", "subset", "importance"):
        np.testing.assert_allclose(scored(likelihood).values.numpy(), expected, atol=1e-5)
    # a masked set of columns with unequal vocabularies weighs more or less than its share: equal on average
    bound = scored("bound", 600)
    assert bound.se is not None
    assert ((bound.values - expected).abs() < 4.5 * bound.se).all()
    with torch.no_grad():
        terms = torch.cat([model.loss_terms(rows.tokens, rows.context) for _ in range(40)])
    assert abs(float(terms.mean()) + expected) < 4.5 * float(terms.std()) / len(terms) ** 0.5


def test_the_model_starts_at_independent_columns() -> None:
    model, module = untrained()
    model.fit_codec(module)
    rows = model.codec.encode(module.fit_sample())
    share = torch.bincount(rows.tokens[:, 0], minlength=3).double() + 0.5
    start = model.conditional(rows.context)(torch.full_like(rows.tokens, -1), torch.arange(len(rows)))
    torch.testing.assert_close(start[0, 0, :3].double().exp(), share / share.sum(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("noise", ["log_linear", "geometric"])
def test_all_losses_of_a_trained_network_average_to_its_bound(noise: str) -> None:
    model = fitted()
    frame = discrete_table(60, seed=3)
    rows = model.codec.encode(model._encoded_table(frame).batch())
    other = RADD(**(model.init_args | {"noise": noise}))
    other.load_state_dict(model.state_dict())
    other.eval()
    other.likelihood = "subset"
    bound = -float(other.log_prob(frame).values.mean() - float(rows.log_volume.sum(1).mean()))
    bound += math.log1p(-model.schema.epsilon) * 2
    torch.manual_seed(0)
    for loss in ("any_order", "lambda_dce", "t_dce", "t_dse"):
        other.loss_kind = loss  # type: ignore[assignment]
        with torch.no_grad():
            means = torch.stack([other.loss_terms(rows.tokens, rows.context).double().mean() for _ in range(400)])
        error = float(means.std()) / 20
        # times start at 1e-3, where the losses of time are cut: below 0.3 % of the bound
        slack = 0.0 if loss == "any_order" else 4e-3 * bound
        assert abs(float(means.mean()) - bound) < 4.5 * error + slack, loss


def test_cross_entropy_weighs_every_masked_cell_alike_and_every_cell_by_one_in_the_mean() -> None:
    model = fitted()
    rows = model.codec.encode(model._encoded_table(discrete_table(60, seed=3)).batch())
    tokens = rows.tokens
    states, weights = [], []
    for pattern in any_order.subsets(tokens.shape[1]):
        observed, masked = (tokens >= 0).sum(1), pattern & (tokens >= 0)
        count = masked.sum(1)
        ways = torch.tensor([math.comb(int(n), int(k)) for n, k in zip(observed, count, strict=True)])
        # holes are no part of a set: every set of observed cells is met once for each set of holes
        chance = torch.where(count > 0, 1 / (observed * ways * 2 ** (tokens < 0).sum(1)), 0.0)
        states.append(masked)
        weights.append(chance * 2 * observed / (observed + 1))
    every = torch.arange(len(tokens))
    expected = torch.zeros(len(tokens), dtype=torch.float64)
    with torch.no_grad():
        for masked, weight in zip(states, weights, strict=True):
            log_probs = model.conditional(rows.context)(tokens.masked_fill(masked, -1), every)
            expected += weight * masked_nll(log_probs, tokens, masked)
        model.loss_kind = "cross_entropy"
        torch.manual_seed(0)
        found = torch.stack([model.loss_terms(tokens, rows.context).double().mean() for _ in range(400)])
        model.loss_kind = "any_order"
    assert abs(float(found.mean() - expected.mean())) < 4.5 * float(found.std()) / 20


def test_bounds_are_below_the_exact_value_and_more_orders_come_closer() -> None:
    model = fitted()
    frame = states()
    assert model.likelihood_kind == "exact"
    try:
        exact = model.log_prob(frame)
        values = {}
        for likelihood in ("subset", "importance", "bound"):
            model.likelihood = likelihood
            assert model.likelihood_kind == "lower_bound"
            values[likelihood] = model.log_prob(frame, draws=64)
        few = None
        model.likelihood = "importance"
        few = model.log_prob(frame, draws=1)
    finally:
        model.likelihood = "auto"
    assert (values["subset"].values <= exact.values + 1e-5).all()
    assert few is not None
    assert few.values.mean() < values["importance"].values.mean()
    weighted = values["importance"]
    assert weighted.se is not None
    assert (np.abs(weighted.values - exact.values) < 4.5 * weighted.se + 1e-3).all()
    bound = values["bound"]
    assert bound.se is not None
    z = (bound.values - values["subset"].values) / np.maximum(bound.se, 1e-6)
    assert np.abs(z).max() < 5
    assert (exact.values - values["subset"].values).max() > 1e-4, "this network's conditionals are not consistent"


def test_imputations_follow_the_exact_conditional_of_the_holes() -> None:
    model = fitted()
    holes = pd.DataFrame({"group": [None] * 4000, "count": [None] * 4000, "flag": ["yes"] * 4000})
    holes["count"] = holes["count"].astype("Int64")
    filled = model.impute(holes, seed=1)[0]
    assert (filled["flag"] == "yes").all()
    # the model's own law of the rest given flag: start with flag visible
    batch = model._encoded_table(states().query("flag == 'yes'")).batch()
    rows = model.codec.encode(batch)
    from discrete_tables import by_all_orders

    def narrow(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        wide = torch.cat([tokens, rows.tokens[index % len(rows), 2:]], 1)
        with torch.no_grad():
            return model.conditional(rows.context[:1].expand(len(tokens), -1))(wide, index)[:, :2].double()

    law = by_all_orders(narrow, rows.tokens[:, :2]).exp().mean(1) * rows.log_volume.sum(1).exp()
    keys = states().query("flag == 'yes'")[["group", "count"]]
    found = filled.groupby(["group", "count"]).size().reindex(pd.MultiIndex.from_frame(keys), fill_value=0).to_numpy()
    expected = law.numpy() * 4000
    big = expected > 8
    z = (found[big] - expected[big]) / np.sqrt(expected[big])
    assert np.abs(z).max() < 4.5


def test_given_context_the_probabilities_of_all_states_sum_to_one() -> None:
    model = fitted(("group",))
    for group in ("a", "c", None):
        frame = pd.DataFrame(list(itertools.product([group], range(-300, 300), ["yes", "no"])))
        frame.columns = ["group", "count", "flag"]
        total = np.exp(model.log_prob(frame).values).sum()
        assert total == pytest.approx(1 - model.schema.epsilon, abs=2e-4)
    low, high = (model.sample(500, given=pd.DataFrame({"group": [g]}), seed=0)["count"].mean() for g in ("a", "c"))
    assert high > low + 0.8, "the context moves the counts"


@pytest.mark.parametrize("sampler", ["first_hitting", "tweedie", "euler"])
def test_other_samplers_draw_rows_of_the_table(sampler: str) -> None:
    model = fitted()
    before = model.sampler
    try:
        model.sampler = sampler  # type: ignore[assignment]
        drawn = model.sample(3000, seed=2)
    finally:
        model.sampler = before
    states_ = states()
    probability = np.exp(model.log_prob(states_).values)
    found = drawn.groupby(list(drawn.columns)).size().reindex(pd.MultiIndex.from_frame(states_), fill_value=0)
    # 64 steps on three cells: at most one row in a hundred differs from the exact law
    assert np.abs(found.to_numpy() / 3000 - probability).sum() / 2 < 0.08


def test_training_beats_independent_columns() -> None:
    model = fitted()
    new = discrete_table(1000, seed=9)
    independent = genzoo.fit(discrete_table(400), model="independent")
    assert model.log_prob(new).mean() > independent.log_prob(new).mean() + 0.05


def test_wide_tables_report_a_bound_with_an_error() -> None:
    frame = pd.concat([mixed_table(200), mixed_table(200, seed=1).add_suffix("2")], axis=1)
    model = genzoo.fit(frame, model="radd", max_epochs=1, **SMALL)
    likelihood = model.log_prob(frame)
    assert likelihood.kind == "lower_bound"
    assert likelihood.se is not None
    assert np.isfinite(likelihood.se).all()
    more = model.log_prob(frame, draws=64)
    assert more.se is not None
    assert np.mean(more.se) < np.mean(likelihood.se)


def test_options_are_checked_by_name() -> None:
    _, module = untrained()
    with pytest.raises(ValueError, match="loss must be one of"):
        RADD(schema=module.schema_dict, loss="elbo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width must be a multiple"):
        RADD(schema=module.schema_dict, width=10, num_heads=4)
    with pytest.raises(ValueError, match="num_bins must be at least 8"):
        RADD(schema=module.schema_dict, num_bins=3)


def test_an_exact_likelihood_that_cannot_be_listed_is_refused_in_words() -> None:
    frame = pd.DataFrame({f"c{i}": np.arange(60) % (2 + i % 3) for i in range(17)}).astype(str)
    module = Table(frame=frame, seed=0)
    module.setup("fit")
    for key in ("radd", "gidd", "multinomial_diffusion"):
        model = model_class(key)(schema=module.schema_dict, likelihood="exact")
        with pytest.raises(CapabilityError, match="use 'bound'"):
            _ = model.likelihood_kind
