"""What every model of the catalogue keeps: one suite, parametrised; a new model adds a line in ``contract.py``."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import genzoo
from contract import ROLES, SMALL, TRAINER, continuous_table, discrete_table, mixed_table
from genzoo.datamodules.table import Table
from genzoo.errors import CapabilityError
from genzoo.models.catalogue import CATALOGUE, model_class
from genzoo.models.scoring import split_unseen

KEYS = sorted(CATALOGUE)


@functools.cache
def fitted(key: str, table: str) -> tuple[Any, pd.DataFrame]:
    """One small trained model per (entry, table), shared by the tests of this file."""
    roles = ROLES.get(key, {}).get(table)
    frame = {
        "mixed": mixed_table,
        "discrete": discrete_table,
        "continuous": functools.partial(continuous_table, flag=roles is not None),
    }[table]()
    return genzoo.fit(frame, model=key, trainer=TRAINER, data=roles, **SMALL[key]), frame


def test_every_entry_has_a_line_in_the_contract() -> None:
    assert set(SMALL) == set(CATALOGUE)


@pytest.mark.parametrize("key", KEYS)
def test_catalogue_entry_says_what_the_class_says(key: str) -> None:
    entry = CATALOGUE[key]
    kind = model_class(key)
    assert entry.class_path == f"{kind.__module__}.{kind.__qualname__}"
    assert entry.capabilities == kind.capabilities
    assert model_class(entry.class_name) is kind


@pytest.mark.parametrize("key", KEYS)
def test_mixed_rows_with_holes_get_finite_likelihoods_of_the_declared_kind(key: str) -> None:
    model, frame = fitted(key, "mixed")
    likelihood = model.log_prob(frame)
    assert len(likelihood) == len(frame)
    assert np.isfinite(likelihood.values).all()
    assert likelihood.kind == model.likelihood_kind
    assert (likelihood.se is None) == (likelihood.kind == "exact") or np.isfinite(likelihood.se).all()
    if likelihood.discrete is not None:
        np.testing.assert_allclose(likelihood.discrete + likelihood.continuous, likelihood.values, atol=1e-6)
        assert (likelihood.discrete <= 1e-6).all(), "a probability is at most one"
    if model.capabilities.by_column:
        np.testing.assert_allclose(likelihood.by_column.sum(1), likelihood.values, atol=1e-5)


@pytest.mark.parametrize("key", KEYS)
def test_categories_given_the_rest_follow_from_the_likelihood_of_rows(key: str) -> None:
    model, frame = fitted(key, "mixed")
    names = [column.name for column in model.view.scored if column.is_categorical]
    if not names:
        with pytest.raises(CapabilityError, match="it scores no categories"):
            model.class_posterior(frame, "flag")
        return
    name, rows = names[0], frame.head(40)
    data = model._encoded_table(rows).select(np.random.default_rng(0).permutation(40))
    posterior = model.class_posterior(data, name)
    assert list(posterior.columns) == list(model.schema[name].categories)
    np.testing.assert_allclose(posterior.sum(axis=1), 1.0, rtol=0, atol=1e-9)
    joint = np.stack([model.log_prob(rows.assign(**{name: word})).values for word in posterior.columns], 1)
    expected = np.exp(joint - joint.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(posterior.to_numpy(), expected[data.rows], rtol=0, atol=2e-5)
    own = model.label_log_prob(rows, name)
    assert own.kind == ("exact" if model.log_prob(rows).kind == "exact" else "estimate")
    assert own.columns == (name,)
    assert own.rows.tolist() == np.flatnonzero(rows[name].notna()).tolist()
    code = [list(posterior.columns).index(rows[name].iloc[row]) for row in own.rows]
    kept = 1 - model.schema.epsilon
    np.testing.assert_allclose(np.exp(own.values), kept * expected[own.rows, code], rtol=0, atol=2e-5)
    with pytest.raises(CapabilityError, match=r"no probabilities of categories to 'amount'; it scores the categories"):
        model.class_posterior(frame, "amount")


@pytest.mark.parametrize("key", KEYS)
def test_row_order_and_batch_size_do_not_matter(key: str) -> None:
    model, frame = fitted(key, "mixed")
    data = model._encoded_table(frame)
    whole = model.log_prob(data)
    order = np.random.default_rng(1).permutation(len(data))
    shuffled = model.log_prob(data.select(order), batch_size=37)
    np.testing.assert_array_equal(shuffled.rows, whole.rows)
    np.testing.assert_allclose(shuffled.values, whole.values, rtol=0, atol=2e-5)


@pytest.mark.parametrize("key", KEYS)
def test_a_saved_model_gives_bit_equal_numbers(key: str, tmp_path: Any) -> None:
    model, frame = fitted(key, "mixed")
    path = tmp_path / "model.ckpt"
    model.save(path)
    torch.load(path, weights_only=True)
    again = genzoo.load(path)
    np.testing.assert_array_equal(again.log_prob(frame).values, model.log_prob(frame).values)
    pd.testing.assert_frame_equal(again.sample(20, seed=3), model.sample(20, seed=3))


@pytest.mark.parametrize("key", KEYS)
def test_a_trained_model_can_be_used_in_another_way_and_not_be_another(key: str, tmp_path: Any) -> None:
    model, frame = fitted(key, "mixed")
    path = tmp_path / "model.ckpt"
    model.save(path)
    same = genzoo.load(path, **{name: getattr(model, name) for name in model.settings})
    np.testing.assert_array_equal(same.log_prob(frame).values, model.log_prob(frame).values)
    with pytest.raises(ValueError, match=f"{type(model).__name__} can be given .*draws.*'seed' says how it is trained"):
        genzoo.load(path, seed=1)


@pytest.mark.parametrize("key", KEYS)
def test_changing_units_shifts_the_likelihood_by_the_log_of_the_factor(key: str) -> None:
    frame = mixed_table(200)
    scaled = frame.assign(x=frame["x"] * 1024, amount=frame["amount"] * 1024, count=frame["count"] * 1024)
    kwargs = SMALL[key] | {"seed": 5}
    kwargs["data"] = ROLES.get(key, {}).get("mixed")
    base = genzoo.fit(frame, model=key, trainer=TRAINER, **kwargs).log_prob(frame)
    other = genzoo.fit(scaled, model=key, trainer=TRAINER, **kwargs).log_prob(scaled)
    # x is a density wherever it is observed, amount wherever it is not at its atom; count is a probability
    densities = sum(
        present.to_numpy().astype(int)
        for name, present in (("x", frame["x"].notna()), ("amount", frame["amount"] > 0))
        if name in base.columns
    )
    np.testing.assert_allclose(other.values - base.values, -densities * np.log(1024), rtol=0, atol=1e-9)


@pytest.mark.parametrize("key", KEYS)
def test_every_parameter_gets_a_finite_gradient(key: str) -> None:
    kind = model_class(key)
    if kind.closed_form:
        pytest.skip("closed form")
    module = Table(frame=mixed_table(), seed=0, **ROLES.get(key, {}).get("mixed", {}))
    module.setup("fit")
    model = kind(schema=module.schema_dict, **SMALL[key])
    model.fit_codec(module)
    torch.manual_seed(0)
    for parameter in model.parameters():  # away from the identity, where some gradients are zero by design
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    if kind.capabilities.stages:
        batch = split_unseen(module.fit_sample(), model.schema).batch
        for stage in model.stages():
            if stage.loss is not None:
                stage.loss(batch).backward()
    else:
        model.loss(model.codec.encode(module.fit_sample())).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("key", KEYS)
def test_probabilities_over_all_states_sum_to_one_for_every_pattern_of_holes(key: str) -> None:
    model, _ = fitted(key, "discrete")
    kind = model.schema["count"].kind
    assert kind == "quantized"
    counts = np.arange(-400, 401)
    epsilon = model.schema.epsilon
    scored = [column.name for column in model.view.scored]
    needed = ROLES.get(key, {}).get("discrete", {}).get("treatment", [])
    for pattern in itertools.product([True, False], repeat=3):
        if not any(p for p, c in zip(pattern, ["group", "count", "flag"]) if c in scored):
            continue
        if not all(p for p, c in zip(pattern, ["group", "count", "flag"]) if c in needed):
            continue  # p(Y[a]) without a is refused
        states = pd.DataFrame(
            list(
                itertools.product(
                    ["a", "b", "c"] if pattern[0] else [None],
                    counts if pattern[1] else [None],
                    ["yes", "no"] if pattern[2] else [None],
                )
            ),
            columns=["group", "count", "flag"],
        )
        states["count"] = states["count"].astype("Int64")
        likelihood = model.log_prob(states, draws=64)
        total = np.exp(likelihood.values).sum()
        open_cells = sum(
            p and not model.schema[c].closed and model.schema[c].is_categorical
            for p, c in zip(pattern, states)
            if c in scored
        )
        expected = (1 - epsilon) ** open_cells
        # one distribution for every state of the columns that are conditioned on
        expected *= states.drop(columns=scored).drop_duplicates().shape[0] if len(scored) < 3 else 1
        if likelihood.kind == "exact":
            assert total == pytest.approx(expected, abs=1e-6), pattern
        else:
            # E exp(bound) <= probability: the sum may exceed the total by its Monte-Carlo error alone
            error = (
                np.sqrt(np.sum((np.exp(likelihood.values) * likelihood.se) ** 2)) if likelihood.se is not None else 0.05
            )
            assert total <= expected + 5 * error + 1e-6, pattern
            assert total > 0.5 * expected, pattern


@pytest.mark.parametrize("key", KEYS)
def test_density_of_two_columns_integrates_to_one(key: str) -> None:
    model, frame = fitted(key, "continuous")
    if not all(column.is_scored for column in model.view.columns if column.is_numeric):
        pytest.skip("a density of one column given others, which its own tests integrate")
    categories = frame.select_dtypes(exclude="number").drop_duplicates()
    frame = frame.select_dtypes("number")
    lo, hi = frame.min() - 6 * frame.std(), frame.max() + 6 * frame.std()
    # trapezoid on an even grid; 400 x 400 points
    axes = [np.linspace(lo.iloc[i], hi.iloc[i], 400) for i in range(2)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    points = pd.DataFrame(grid, columns=frame.columns)
    tables = [points]
    if len(categories.columns):  # summed over the categories beside the numbers
        tables = [points.assign(**line._asdict()) for line in categories.itertuples(index=False)]
    density = sum(np.exp(model.log_prob(table, batch_size=20_000).values) for table in tables)
    total = density.sum() * (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    assert total == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("key", KEYS)
def test_samples_look_like_the_table_and_agree_with_the_probabilities(key: str) -> None:
    model, frame = fitted(key, "discrete")
    if len([column for column in model.view.scored if column.role == "value"]) < 2 < len(model.schema.scored):
        pytest.skip("draws one column given others, as its own tests check")
    drawn = model.sample(4000, seed=1)
    assert list(drawn.columns) == list(frame.columns)
    assert drawn["count"].dtype.kind == "i"
    assert set(drawn["group"]) <= {"a", "b", "c"}
    states = pd.DataFrame(
        list(itertools.product(["a", "b", "c"], range(-2, 10), ["yes", "no"])), columns=list(frame.columns)
    )
    likelihood = model.log_prob(states, draws=64)
    probability = np.exp(likelihood.values)
    found = drawn.groupby(list(frame.columns)).size().reindex(pd.MultiIndex.from_frame(states), fill_value=0).to_numpy()
    expected = probability * len(drawn)
    if model.likelihood_kind == "exact":
        seen = expected >= 8
        z = (found[seen] - expected[seen]) / np.sqrt(expected[seen] * (1 - probability[seen]))
        # largest of at most 72 standard normal values: above 4.5 less than once in 2000 runs
        assert np.abs(z).max() < 4.5
    else:
        # a bound is an average over draws: its own Monte-Carlo error counts too
        error = np.sqrt(expected + (0 if likelihood.se is None else (expected * likelihood.se) ** 2))
        assert (found + 4.5 * np.sqrt(np.maximum(found, 1)) >= expected - 4.5 * error).all()


@pytest.mark.parametrize("key", KEYS)
def test_imputation_fills_every_hole_and_leaves_observed_cells_alone(key: str) -> None:
    model, frame = fitted(key, "mixed")
    if not model.capabilities.imputes:
        with pytest.raises(genzoo.errors.CapabilityError):
            model.impute(frame)
        return
    first, second = model.impute(frame.head(60), draws=2, seed=0)
    assert not first.isna().any().any()
    observed = frame.head(60).notna()
    for name in frame.columns:
        keep = observed[name].to_numpy()
        np.testing.assert_array_equal(first[name].to_numpy()[keep], frame[name].head(60).to_numpy()[keep])
    assert not first["x"].equals(second["x"]), "draws differ"


@pytest.mark.parametrize("key", KEYS)
def test_validation_nll_is_minus_the_mean_of_log_prob(key: str, tmp_path: Any) -> None:
    module = Table(frame=mixed_table(), seed=0, **ROLES.get(key, {}).get("mixed", {}))
    module.setup("fit")
    from genzoo.models.training import make_trainer

    model = model_class(key)(
        schema=module.schema_dict, **(SMALL[key] | {"ema": 0.0} if not model_class(key).closed_form else SMALL[key])
    )
    trainer = make_trainer(tmp_path, progress=False, max_epochs=max(1, len(model.capabilities.stages)))
    trainer.fit(model, datamodule=module)
    logged = float(trainer.callback_metrics["val/nll"])
    assert logged == pytest.approx(-model.cpu().log_prob(module.data("val")).mean(), abs=1e-6)


@pytest.mark.parametrize("key", KEYS)
def test_new_categories_off_grid_and_far_values_are_scored(key: str) -> None:
    model, frame = fitted(key, "mixed")
    rows = frame.dropna().head(4).copy()
    rows["group"] = ["a", "never seen", "a", "b"]
    rows["x"] = [0.0, 0.0, 1e4, -1e4]
    rows["count"] = rows["count"].astype(float) + np.array([0.0, 0.0, 0.3, 1000.0])
    likelihood = model.log_prob(rows)
    assert np.isfinite(likelihood.values).all()
    assert likelihood.counts["unseen"] == 1
    assert likelihood.counts["off_grid"] == 1
