"""Argmax flows: codes, probabilities against draws, every threshold, the gap of a universal flow, imputation."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import genzoo
from contract import discrete_table
from genzoo.bijections.elementwise import Elementwise
from genzoo.codecs.tokens import TokenRows
from genzoo.datamodules.table import Table
from genzoo.models.discrete.argmax_flow import ArgmaxFlow
from genzoo.models.flows.masked_flow import MaskedFlow
from genzoo.models.flows.symbol_cells import SymbolCells

SMALL: dict[str, Any] = {"num_bins": 8, "hidden": 32, "num_layers": 1, "encoder": 32, "dropout": 0.0}
CASES = [
    ("autoregressive", "binary"),
    ("autoregressive", "softplus"),
    ("autoregressive", "gumbel"),
    ("autoregressive", "gumbel_threshold"),
    ("coupling", "binary"),
    ("coupling", "softplus"),
]


def quick(frame: pd.DataFrame, steps: int, lr: float = 1e-2, **arguments: Any) -> ArgmaxFlow:
    """Trained by a bare loop: a few hundred steps on small batches."""
    module = Table(frame=frame, seed=0)
    module.setup("fit")
    model = ArgmaxFlow(schema=module.schema_dict, **(SMALL | arguments))
    model.fit_codec(module)
    rows = model.codec.encode(module.fit_sample())
    optimiser = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(steps):
            optimiser.zero_grad()
            model.loss(rows.select(torch.randint(len(rows), (256,)))).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@functools.cache
def fitted(flow: str = "autoregressive", threshold: str = "binary") -> ArgmaxFlow:
    return quick(discrete_table(400), 120, flow=flow, threshold=threshold)


@functools.cache
def trained() -> ArgmaxFlow:
    return quick(discrete_table(2000), 400)


def table(low: int = -3, high: int = 12) -> pd.DataFrame:
    return pd.DataFrame(
        list(itertools.product(["a", "b", "c"], range(low, high), ["yes", "no"])), columns=["group", "count", "flag"]
    )


@pytest.mark.parametrize(("flow", "threshold"), CASES)
def test_every_row_comes_back_from_the_point_that_is_drawn_for_it(flow: str, threshold: str) -> None:
    model = fitted(flow, threshold)
    encoded = model.codec.encode(model._encoded_table(table()).batch())
    cells = SymbolCells(model.codec).cells(encoded).repeat(50)
    noise = torch.randn(len(cells), model.rows.surjection.noise_width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y, log_q = model.rows.surjection(cells, noise)
    assert torch.equal(model.rows.surjection.decode(y)[1], cells.category)
    assert torch.isfinite(log_q).all()


@pytest.mark.parametrize(("flow", "threshold"), CASES)
def test_probabilities_over_all_states_sum_to_the_mass_of_codes_that_mean_something(flow: str, threshold: str) -> None:
    model = fitted(flow, threshold)
    states = table(-60, 80)
    draws = 20 if threshold in ("binary", "softplus") else 100  # weights of Gumbels are heavy-tailed
    found = model.log_prob(states, draws=draws)
    assert found.kind == "lower_bound"
    total, error = np.exp(found.values).sum(), np.sqrt(((np.exp(found.values) * found.se) ** 2).sum())
    epsilon = model.schema.epsilon
    invalid = model.rows.surjection.invalid(
        model.rows.density.sample(4000, None, torch.Generator().manual_seed(0)).detach()
    )
    # bins that no row can fall into are codes without meaning too: a sum below the mass of the categories' codes
    assert total <= (1 - float(invalid.any(1).double().mean())) * (1 - epsilon) ** 2 + 5 * error + 0.01
    assert total > 0.8


def test_samples_follow_the_probabilities_of_the_importance_weighted_bound() -> None:
    model, num = fitted(), 4000
    likelihood = model.log_prob(table(-30, 50), draws=150)
    # rows with codes that mean nothing are drawn again, so the law is that of the others
    probability = np.exp(likelihood.values) / np.exp(likelihood.values).sum()
    drawn = model.sample(num, seed=1).groupby(["group", "count", "flag"]).size()
    found = drawn.reindex(pd.MultiIndex.from_frame(table(-30, 50)), fill_value=0).to_numpy()
    expected = probability * num
    error = np.sqrt(expected + (expected * likelihood.se) ** 2)
    z = ((found - expected) / error)[expected >= 10]
    assert len(z) > 20
    # largest of about 40 standard normal values: above 4.5 less than once in 3000 runs
    assert np.abs(z).max() < 4.5
    assert (z**2).sum() < 2.5 * len(z)


def test_more_draws_tighten_the_bound() -> None:
    model, rows = fitted("autoregressive", "softplus"), discrete_table(200, seed=4)
    one, ten, many = (model.log_prob(rows, draws=draws) for draws in (1, 10, 100))
    error = 4.5 * float(one.values.std()) / math.sqrt(200)
    assert one.mean() < ten.mean() < many.mean() + 0.01
    assert many.mean() - one.mean() < error + 3


def test_training_beats_independent_columns() -> None:
    new = discrete_table(600, seed=9)
    independent = genzoo.fit(discrete_table(2000), model="independent")
    assert trained().log_prob(new, draws=32).mean() > independent.log_prob(new).mean() + 0.05


def test_a_flow_with_many_pieces_comes_within_a_few_hundredths_of_the_entropy_of_three_symbols() -> None:
    share = np.array([0.6, 0.3, 0.1])
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": np.array(["x", "y", "z"])[rng.choice(3, 2000, p=share)]})
    model = quick(frame, 500, threshold="softplus", bins=16)
    counts = frame["a"].value_counts(normalize=True)
    entropy = float(-(counts * np.log(counts)).sum())
    one_draw = -model.log_prob(frame, draws=1).mean()
    assert entropy - 0.02 < one_draw < entropy + 0.05


@pytest.mark.parametrize("num_transforms", [1, 2])
def test_the_masked_flow_inverts_and_its_log_determinant_is_autograds(num_transforms: int) -> None:
    torch.manual_seed(0)
    flow = MaskedFlow(3, 2, element=Elementwise("spline", 5), num_transforms=num_transforms, hidden=16).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    context = torch.randn(6, 2, dtype=torch.float64)
    z = torch.randn(6, 3, dtype=torch.float64)
    x, forward = flow.bijection(z, context)
    back, inverse = flow.bijection.inverse(x, context)
    torch.testing.assert_close(back, z, atol=1e-9, rtol=0)
    torch.testing.assert_close(inverse, -forward, atol=1e-9, rtol=0)

    def to_latent(row: Tensor, given: Tensor) -> Tensor:
        return flow.bijection.inverse(row[None], given[None])[0][0]

    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v, row=row: to_latent(v, context[row]), x[row])
        assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(inverse[row].detach()), abs=1e-9)


def test_symbols_as_cells_keep_holes_and_flag_those_of_the_context() -> None:
    frame = discrete_table().assign(flag=lambda f: f["flag"].where(f.index % 7 != 0, None))
    module = Table(frame=frame, context=["flag"], seed=0)
    module.setup("fit")
    model = ArgmaxFlow(schema=module.schema_dict, **SMALL)
    model.fit_codec(module)
    rows: TokenRows = model.codec.encode(module.fit_sample())
    cells = SymbolCells(model.codec).cells(rows)
    assert cells.context.shape == (len(rows), 3)
    assert torch.equal(cells.context.argmax(1), torch.where(rows.context[:, 0] < 0, 2, rows.context[:, 0]))
    assert cells.number.shape == (len(rows), 0)
    assert torch.equal(cells.category, rows.tokens)


def test_imputation_uses_the_observed_cells() -> None:
    holes = pd.DataFrame({"group": ["a"] * 300 + ["c"] * 300, "count": [None] * 600, "flag": [None] * 600})
    holes["count"] = holes["count"].astype("Int64")
    filled = trained().impute(holes, seed=0)[0]
    truth = discrete_table(4000, seed=2).groupby("group")["count"].mean()
    gap = filled["count"][300:].mean() - filled["count"][:300].mean()
    assert gap > 0.5 * (truth["c"] - truth["a"])


def test_options_are_checked_by_name() -> None:
    module = Table(frame=discrete_table(), seed=0)
    module.setup("fit")
    for name in ("flow", "threshold"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            ArgmaxFlow(schema=module.schema_dict, **{name: "other"})  # type: ignore[arg-type]
