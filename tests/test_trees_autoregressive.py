"""The autoregressive ensemble: exact sums, its marginals without trees, conditionals it must find, imputation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import genzoo
from contract import mixed_table
from genzoo.datamodules.table import Table
from genzoo.models.baselines.independent import Independent
from genzoo.models.baselines.smooth_marginals import SmoothMarginals
from genzoo.models.trees.forest_autoregressive import ForestAutoregressive
from genzoo.models.trees.marginal_bins import BinnedMarginal, choose_cuts


def fit(frame: pd.DataFrame, **arguments: Any) -> ForestAutoregressive:
    model: ForestAutoregressive = genzoo.fit(frame, model="forest_autoregressive", **({"rounds": 60} | arguments))
    return model


def test_without_trees_it_is_the_product_of_smooth_marginals() -> None:
    module = Table(frame=mixed_table(), seed=0)
    module.setup("fit")
    schema = module.schema_dict
    forest, plain = ForestAutoregressive(schema, rounds=0), Independent(schema)
    train = module.data("train").batch()
    for model in (forest, plain):
        model.codec.fit(train)
    rows = forest.codec.encode(train)
    forest.prepare(rows, rows)
    plain.fit_closed_form([rows])
    for job in forest.jobs:
        forest.store.put(job, forest.run_job(job, rows, rows))
    a, b = forest.log_prob(module.data("test")), plain.log_prob(module.data("test"))
    np.testing.assert_allclose(a.values, b.values, atol=1e-9)
    np.testing.assert_allclose(a.by_column, b.by_column, atol=1e-9)


def test_a_category_and_a_count_with_atoms_sum_to_one_given_the_other() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 500)
    gain = np.where(rng.random(500) < 0.8, 0, rng.poisson(20 * (1 + group)))
    frame = pd.DataFrame({"group": np.array(list("abc"))[group], "gain": gain})
    schema = genzoo.infer_schema(frame).with_column("gain", kind="quantized", step=1.0, atoms=(0.0,))
    model = fit(frame, schema=schema)
    for value in "abc":
        states = pd.DataFrame({"group": value, "gain": np.arange(-3000, 3000)})
        alone = model.log_prob(pd.DataFrame({"group": [value], "gain": pd.array([None], dtype="Int64")})).values
        total = np.exp(model.log_prob(states).values).sum()
        assert total == pytest.approx(np.exp(alone[0]), abs=1e-5)


def test_it_finds_a_dependence_and_its_samples_have_it() -> None:
    rng = np.random.default_rng(1)
    sign = rng.integers(0, 2, 2000)
    frame = pd.DataFrame({"sign": np.array(["minus", "plus"])[sign], "x": rng.normal(size=2000) + 4 * sign - 2})
    model = fit(frame)
    truth = np.log(0.5) - 0.5 * (frame["x"] - 4 * sign + 2) ** 2 - 0.5 * np.log(2 * np.pi)
    held_out = model.log_prob(frame).values
    assert held_out.mean() > truth.mean() - 0.05
    plain = genzoo.fit(frame, model="independent").log_prob(frame).mean()
    assert held_out.mean() > plain + 0.5  # the mutual information is about 0.62 nats
    drawn = model.sample(2000, seed=2)
    assert drawn["x"][drawn["sign"] == "plus"].mean() == pytest.approx(2.0, abs=0.15)
    assert drawn["x"][drawn["sign"] == "minus"].mean() == pytest.approx(-2.0, abs=0.15)


def test_imputation_of_an_earlier_column_looks_at_later_ones() -> None:
    rng = np.random.default_rng(1)
    sign = rng.integers(0, 2, 1500)
    frame = pd.DataFrame({"sign": np.array(["minus", "plus"])[sign], "x": rng.normal(size=1500) + 6 * sign - 3})
    model = fit(frame)
    holes = pd.DataFrame({"sign": [None] * 40, "x": [3.0] * 20 + [-3.0] * 20})
    filled = model.impute(holes, draws=5, seed=0)
    right = np.mean([(f["sign"] == ["plus"] * 20 + ["minus"] * 20).mean() for f in filled])
    assert right > 0.95


def test_context_changes_the_likelihood_and_is_not_scored() -> None:
    rng = np.random.default_rng(2)
    age = rng.normal(size=800)
    frame = pd.DataFrame({"age": age, "x": rng.normal(size=800) * 0.3 + age})
    model = fit(frame, context=["age"])
    assert model.log_prob(frame).columns == ("x",)
    truth = np.mean(-0.5 * ((frame["x"] - frame["age"]) / 0.3) ** 2 - 0.5 * np.log(2 * np.pi) - np.log(0.3))
    assert model.log_prob(frame).mean() > truth - 0.25
    drawn = model.sample(given=pd.DataFrame({"age": [2.0] * 200}), seed=0)
    assert drawn["x"].mean() == pytest.approx(2.0, abs=0.4)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1.5] * 60, "b": np.linspace(0, 1, 60) ** 2}),
        pd.DataFrame({"a": np.linspace(0, 1, 60) ** 2, "b": [None] * 60, "c": list("xy") * 30}),
        pd.DataFrame({"only": np.linspace(0, 1, 60) ** 2}),
    ],
    ids=["a constant column", "an all-missing column", "one column"],
)
def test_odd_tables_are_modelled(frame: pd.DataFrame) -> None:
    model = fit(frame)
    assert np.isfinite(model.log_prob(frame).values).all()
    assert list(model.sample(5).columns) == list(frame.columns)


@pytest.mark.parametrize("quantized", [False, True])
def test_bins_have_training_rows_on_both_sides_of_each_cut(quantized: bool) -> None:
    x = torch.tensor([0.0] * 50 + [1.0] * 3 + [2.0] * 40 + [7.0], dtype=torch.float64)
    cuts = choose_cuts(x, x + 0.5, quantized, 8)
    index = torch.bincount(torch.searchsorted(cuts, x), minlength=len(cuts) + 1)
    assert (index > 0).all()
    assert len(cuts) >= 2
    assert not np.isin(cuts.numpy(), x.numpy()).any()


def test_numbers_drawn_within_a_bin_follow_the_marginal() -> None:
    marginals = SmoothMarginals(1, 64, 0)
    cuts = torch.tensor([-0.5, 0.2, 1.5], dtype=torch.float64)
    bins = BinnedMarginal(marginals, 0, cuts, quantized=False)
    assert bins.mass.sum() == pytest.approx(1.0, abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    for leaf in range(4):
        x = bins.draw(torch.full((4000,), leaf), generator)
        assert (bins.bin(x) == leaf).all()
        start = bins.lower[leaf].expand(4000)
        level = marginals.mass(start[:, None], x[:, None])[:, 0] / bins.mass[leaf]
        # the mean of 4000 uniform numbers: four standard errors
        assert float(level.mean()) == pytest.approx(0.5, abs=4 / np.sqrt(12 * 4000))
        assert float(level.std()) == pytest.approx(1 / np.sqrt(12), abs=0.02)


# ---- several orders


def test_orders_are_permutations_that_keep_a_number_behind_its_indicator() -> None:
    model = fit(mixed_table(150), orders=6, rounds=1)
    places = range(len(model.codec.order))
    assert model.orders[0] == list(places)
    assert len({tuple(order) for order in model.orders}) > 3
    for order in model.orders:
        assert sorted(order) == list(places)
        for place, (kind, slot) in enumerate(model.codec.order):
            if kind == "number" and model.codec.numbers[slot].indicator is not None:
                indicator = model.codec.order.index(("category", model.codec.numbers[slot].indicator))
                assert order.index(place) == order.index(indicator) + 1


def test_several_orders_are_the_even_mixture_of_exact_models() -> None:
    frame = mixed_table(300)
    one, three = fit(frame, rounds=20), fit(frame, rounds=20, orders=3)
    assert all(one.store.raw(job) == three.store.raw(job) for job in one.jobs)
    rows = three.codec.encode(three._encoded_table(frame.head(50)).batch())
    features = three.features(rows)
    each = torch.stack([three._in_order(order, rows, features)[0].sum(1) for order in range(3)])
    torch.testing.assert_close(each[0], one.model_log_prob(rows, None, 1).values)  # type: ignore[arg-type]
    likelihood = three.log_prob(frame.head(50))
    mixed = three.model_log_prob(rows, None, 1).values  # type: ignore[arg-type]
    torch.testing.assert_close(mixed, each.exp().mean(0).log())
    assert likelihood.kind == "exact"
    assert likelihood.by_column is None
    assert one.explains_columns
    assert not three.explains_columns
    assert len(three.jobs) == 3 * len(one.jobs)


def test_several_orders_sum_to_one_and_draw_what_they_score() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 3, 900)
    b = np.where(rng.random(900) < 0.7, a, rng.integers(0, 3, 900))
    frame = pd.DataFrame({"a": np.array(list("pqr"))[a], "b": np.array(list("uvw"))[b]})
    model = fit(frame, orders=3)
    states = pd.DataFrame([(x, y) for x in "pqr" for y in "uvw"], columns=["a", "b"])
    probability = np.exp(model.log_prob(states).values)
    known = (1 - model.schema.epsilon) ** 2  # the rest is for categories that were never seen
    assert probability.sum() == pytest.approx(known, abs=1e-9)
    assert len({tuple(order) for order in model.orders}) == 2
    drawn = model.sample(9000, seed=1).value_counts().reindex(list(map(tuple, states.to_numpy())), fill_value=0)
    z = (drawn.to_numpy() - 9000 * probability) / np.sqrt(9000 * probability)
    assert np.abs(z).max() < 4.5
    # conditionals of the mixture, from either side
    holes = pd.DataFrame({"a": [None] * 500, "b": ["u"] * 500})
    filled = pd.concat(model.impute(holes, draws=8, seed=0))["a"].value_counts(normalize=True)
    column = probability[states["b"] == "u"]
    np.testing.assert_allclose(filled[list("pqr")], column / column.sum(), atol=0.05)


def test_a_table_of_one_column_has_its_smooth_marginal() -> None:
    frame = pd.DataFrame({"x": 10 + 3 * np.random.default_rng(0).exponential(size=500)})
    means = [genzoo.fit(frame, model=key).log_prob(frame).mean() for key in ("forest_autoregressive", "independent")]
    assert means[0] == pytest.approx(means[1], abs=0.02)
