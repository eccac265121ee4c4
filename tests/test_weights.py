"""Row weights: read and refused, in training, in means and their errors, in reports."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands_runs import say
from numpy.typing import NDArray

import genzoo
from contract import SMALL, continuous_table, discrete_table, mixed_table
from genzoo.datamodules.streamed import StreamedTable
from genzoo.datamodules.table import Table
from genzoo.errors import CapabilityError, ComparisonError, DataError, SchemaError
from genzoo.likelihood.averages import quantile, same_weights, winsorised_mean
from genzoo.likelihood.bootstrap import bca_interval, block_interval, t_interval
from genzoo.likelihood.compare import paired
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.models.catalogue import CATALOGUE, model_class
from genzoo.models.trees.denoising_forest import in_proportion
from genzoo.tables.schema import Schema
from genzoo.tables.weights import equal_weight_rows

ABLE = [key for key, entry in CATALOGUE.items() if entry.capabilities.weights]
# one of each way to train: a closed form, EM, a likelihood, a draw of a bound, two kinds of trees
WAYS = ("independent", "mixture", "spline_flow", "radd", "forest_autoregressive", "forest_flow")


def weighted(num_rows: int = 300, seed: int = 0, **options: bool) -> pd.DataFrame:
    """The mixed table, with weights between 1 and 4 that favour large ``x``."""
    frame = mixed_table(num_rows, seed, **options)
    return frame.assign(w=1.0 + 3.0 / (1.0 + np.exp(-frame["x"].fillna(0.0))))


def numbers(plain: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in plain.items() if isinstance(value, float)}


def random_likelihood(weights: NDArray[np.float64] | None, shift: float = 0.0, num: int = 400) -> LogLikelihood:
    rng = np.random.default_rng(round(10 * shift))
    values = rng.gamma(2.0, size=num) - 5 + shift
    return LogLikelihood(values, np.arange(num), "exact", columns=("x",), model=f"m{shift}", weights=weights)


# ---------------------------------------------------------------------------------------------- the column


@pytest.mark.parametrize(
    "cell, words",
    [
        (None, r"missing in 1 row \(first: row 3, counted"),
        (0.0, "zero or below"),
        (-2.0, "zero or below"),
        ("?", "missing"),
    ],
)
def test_a_weight_that_is_no_number_above_0_names_column_and_row(cell: object, words: str) -> None:
    frame = weighted()
    frame["w"] = frame["w"].astype(object)
    frame.loc[3, "w"] = cell
    if cell != "?":
        frame["w"] = frame["w"].astype(float)
    with pytest.raises(DataError, match=f"weight column 'w' is {words}"):
        Table(frame=frame, weight="w").data("train")


def test_infinite_weights_and_words_are_refused() -> None:
    frame = weighted()
    with pytest.raises(DataError, match="column 'w' has infinite values"):
        Table(frame=frame.assign(w=np.where(frame.index == 5, np.inf, 1.0)), weight="w").data("train")
    with pytest.raises(DataError, match="weight column 'w' holds string"):
        Table(frame=frame.assign(w=np.where(frame.index % 2, "heavy", "light")), weight="w").data("train")


def test_one_column_has_the_role_and_the_table_must_hold_it(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="'a' and 'b' have role weight"):
        Schema.from_dict({"columns": [{"name": n, "kind": "continuous", "role": "weight"} for n in "ab"]})
    schema = Table(frame=weighted(), weight="w").schema_dict
    with pytest.raises(SchemaError, match="weight column 'w' of the schema is not in the table"):
        Table(frame=mixed_table(300), schema=schema).data("train")
    weighted().to_parquet(tmp_path / "rows.parquet")
    mixed_table(300).to_parquet(tmp_path / "bare.parquet")
    streamed = StreamedTable(str(tmp_path / "rows.parquet"), weight="w", val=0.2, test=0.2)
    assert streamed.mean_weight == pytest.approx(weighted()["w"].mean(), rel=0.05)
    with pytest.raises(SchemaError, match="weight column 'w'"):
        StreamedTable(str(tmp_path / "bare.parquet"), schema=schema, val=0.2, test=0.2).data("train")


def test_weights_travel_with_their_rows_and_are_no_column_of_the_model() -> None:
    frame = weighted()
    module = Table(frame=frame, weight="w", seed=3)
    assert module.schema.weight is not None
    assert "w" not in [c.name for c in module.schema.scored]
    assert module.schema.measure == Table(frame=frame.drop(columns="w"), seed=3).schema.measure
    for split in ("train", "val", "test"):
        data = module.data(split)
        assert data.weights is not None
        assert np.array_equal(data.weights, frame["w"].to_numpy()[data.rows])
    for batch in module.train_dataloader():
        assert batch.weights is not None
        assert np.array_equal(batch.weights.numpy(), frame["w"].to_numpy()[batch.rows.numpy()])
    model = genzoo.fit(frame, model="independent", data={"weight": "w"})
    assert "w" not in model.sample(5).columns
    # rows to be scored need no weights
    assert model.log_prob(frame.drop(columns="w")).weights is None


# ---------------------------------------------------------------------------------------------- training


def test_every_model_says_whether_it_trains_with_weights() -> None:
    frame = weighted()
    for entry in CATALOGUE.values():
        assert model_class(entry.class_path).capabilities.weights == entry.capabilities.weights
    assert set(CATALOGUE) - set(ABLE) == {"ebflow", "fair_flow", "interventional_flow"}
    with pytest.raises(
        CapabilityError, match=r"EBFlow does not train with row weights \(column 'w'\); use independent"
    ):
        genzoo.fit(frame, model="ebflow", data={"weight": "w"})


def trained(key: str, frame: pd.DataFrame, weight: bool = True, **options: object) -> genzoo.DensityModel:
    return genzoo.fit(
        frame, model=key, data={"weight": "w"} if weight else {"ignore": ["w"]}, max_epochs=2, **(SMALL[key] | options)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("key", WAYS)
def test_equal_weights_change_nothing(key: str) -> None:
    frame = weighted(120).assign(w=2.7)
    scores = [trained(key, frame, weight).log_prob(frame).values for weight in (True, False)]
    assert np.array_equal(*scores)


SLOW = {"spline_flow", "radd"}


@pytest.mark.parametrize("key", [pytest.param(k, marks=pytest.mark.slow if k in SLOW else ()) for k in WAYS])
def test_weights_move_the_model_to_the_weighted_rows(key: str) -> None:
    """Two groups 2 : 1 in the rows and 1 : 3 by weight: P(group a) goes from 2/3 to about 1/4."""
    rng = np.random.default_rng(0)
    heavy = rng.random(600) < 1 / 3
    frame = pd.DataFrame({"g": np.where(heavy, "b", "a"), "x": rng.normal(size=600), "w": np.where(heavy, 6.0, 1.0)})
    epochs = {"max_epochs": 60} if key in ("spline_flow", "radd") else {}
    model = genzoo.fit(frame, model=key, data={"weight": "w"}, **(SMALL[key] | epochs))
    assert (model.sample(2000, seed=1)["g"] == "a").mean() == pytest.approx(0.25, abs=0.08)


def on_repeated_rows(key: str, frame: pd.DataFrame, **options: Any) -> tuple[float, float]:
    """Mean log-likelihood of repeated rows after training with whole weights, and on the repeated rows."""
    rng = np.random.default_rng(1)
    frame = frame.assign(w=rng.integers(1, 4, len(frame)).astype(float))
    many = frame.loc[frame.index.repeat(frame["w"].astype(int))].reset_index(drop=True)
    fixed = {c.name: {"kind": c.kind} for c in Table(frame=frame, weight="w").schema.columns if c.name != "w"}
    data = {"val": 0.0, "test": 0.0, "overrides": fixed}
    ways = ((frame, {"weight": "w"}), (many, {"ignore": ["w"]}))
    models = [genzoo.fit(rows, model=key, data=data | role, **options) for rows, role in ways]
    one, two = (model.log_prob(many.drop(columns="w")).mean() for model in models)
    return one, two


def test_whole_weights_are_repeated_rows_for_closed_forms() -> None:
    """Not so where rows held out choose a bandwidth: copies of a row on both sides of a fold make it too narrow."""
    one, two = on_repeated_rows("gaussian", continuous_table(800, 2), prior_rows=0.0)
    assert one == pytest.approx(two, abs=1e-6)
    one, two = on_repeated_rows("mixture", continuous_table(800, 2), num_components=3, refine=False)
    assert one == pytest.approx(two, abs=0.03)
    one, two = on_repeated_rows("independent", discrete_table(800)[["group", "flag"]])
    assert one == pytest.approx(two, abs=0.002)


def test_the_weighted_marginal_of_a_number_is_that_of_the_weighted_rows() -> None:
    """Rows of an exponential law with weights x: their weighted law is Gamma(2), of entropy 1.5772."""
    x = np.random.default_rng(0).exponential(size=4000) + 1e-6
    for key in ("independent", "forest_autoregressive"):
        model = genzoo.fit(pd.DataFrame({"x": x, "w": x}), model=key, data={"weight": "w"}, **SMALL[key])
        fresh = pd.DataFrame({"x": np.random.default_rng(1).gamma(2.0, size=4000)})
        # 4000 rows leave 0.014 of sampling error, and a fit on as many rows costs some hundredths
        assert model.log_prob(fresh).mean() == pytest.approx(-1.5772, abs=0.06)


def test_the_weighted_gaussian_is_the_closed_form() -> None:
    frame = continuous_table(500, 3).assign(w=np.random.default_rng(0).gamma(1.0, size=500) + 0.01)
    model = genzoo.fit(frame, model="gaussian", data={"weight": "w", "val": 0.0, "test": 0.0}, prior_rows=0.0)
    x, w = frame[["c0", "c1"]].to_numpy(), frame["w"].to_numpy()
    mean = w @ x / w.sum()
    covariance = (w[:, None] * (x - mean)).T @ (x - mean) / w.sum()
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T)
    expected = -0.5 * (whitened**2).sum(0) - 0.5 * np.linalg.slogdet(2 * math.pi * covariance)[1]
    assert np.allclose(model.log_prob(frame).values, expected, atol=1e-4)


def test_the_loss_of_a_batch_is_weighted_by_the_mean_weight_of_all_rows() -> None:
    module = Table(frame=weighted(holes=False), weight="w")
    model = model_class(CATALOGUE["maf"].class_path)(schema=module.schema_dict, **SMALL["maf"])
    model.fit_codec(module)
    model._mean_weight = module.mean_weight
    batch = module.data("train").batch()
    losses = model.row_losses(model.codec.encode(batch)).detach().double()
    expected = (losses * batch.weights).sum() / batch.weights.sum()
    loss = float(model.weighted_loss(model.codec.encode(batch), batch.weights).detach())
    assert loss == pytest.approx(float(expected), rel=1e-5)
    # halves of the rows average to the whole, whatever their weights
    halves = [batch.select(torch.arange(k, len(batch) - len(batch) % 2, 2)) for k in range(2)]
    parts = [float(model.weighted_loss(model.codec.encode(b), b.weights).detach()) for b in halves]
    both = batch.select(slice(0, len(batch) - len(batch) % 2))
    assert np.mean(parts) == pytest.approx(
        float(model.weighted_loss(model.codec.encode(both), both.weights).detach()), rel=1e-5
    )


def test_a_loss_of_no_rows_is_refused_with_weights() -> None:
    """A model whose loss is one number of the batch declares ``weights=False``; forgotten, it fails and says why."""

    class Whole(genzoo.DensityModel):
        capabilities = model_class(CATALOGUE["maf"].class_path).capabilities

        def loss(self, encoded: object) -> torch.Tensor:
            return torch.zeros(())

        def model_log_prob(self, *_: object) -> None: ...  # type: ignore[override]

        def model_sample(self, *_: object) -> None: ...  # type: ignore[override]

    model = Whole(schema=Table(frame=weighted(), weight="w").schema_dict)
    with pytest.raises(NotImplementedError, match="no loss of each row"):
        model.weighted_loss(None, torch.ones(2))


def test_systematic_resampling_repeats_rows_by_weight() -> None:
    module = Table(frame=weighted(), weight="w")
    model = model_class(CATALOGUE["forest_flow"].class_path)(schema=module.schema_dict, **SMALL["forest_flow"])
    model.fit_codec(module)
    rows = model._inside(module.data("train").batch())
    drawn = in_proportion(rows, seed=0, repeats=5)
    assert len(drawn) == 5 * len(rows)
    assert drawn.cells.weight is None
    times = np.array([(drawn.rows == r).sum() for r in rows.rows])
    share = rows.cells.weight.numpy() / rows.cells.weight.numpy().sum()
    assert (np.abs(times - share * len(drawn)) < 1).all()


# ---------------------------------------------------------------------------------------------- means and errors


def test_equal_weights_give_the_plain_summary_and_comparison() -> None:
    ones = np.full(400, 3.3)
    plain, same = (numbers(random_likelihood(w).summary()) for w in (None, ones))
    assert plain == pytest.approx(same, nan_ok=True, rel=1e-12)
    for method in ("t", "bca", "block"):
        pairs = [
            paired(random_likelihood(w), random_likelihood(w, 0.1), method=method, num_resamples=500)  # type: ignore[arg-type]
            for w in (None, ones)
        ]
        first, second = (numbers(pair.to_dict()) for pair in pairs)
        assert first == pytest.approx(second, nan_ok=True, rel=1e-9), method


def test_the_standard_error_is_linearised() -> None:
    """Over many samples of rows with random weights, the ratio of sums spreads as the formula says."""
    rng = np.random.default_rng(0)
    means, errors, ends = [], [], []
    for _ in range(1500):
        w = rng.gamma(1.5, size=400) + 0.01
        v = rng.normal(size=400) * w**0.5 + 0.3 * w
        one = LogLikelihood(v, np.arange(400), "exact", weights=w)
        means.append(one.mean())
        errors.append(one.se_mean())
        found = t_interval(v, weights=w)
        ends.append((found.low, found.high))
    assert np.std(means) == pytest.approx(np.mean(errors), rel=0.08)
    truth = np.mean(means)
    covered = np.mean([low < truth < high for low, high in ends])
    assert 0.92 < covered < 0.97


@pytest.mark.parametrize("method", ["bca", "block"])
def test_bootstraps_agree_with_the_linearised_error(method: str) -> None:
    rng = np.random.default_rng(2)
    w = rng.gamma(2.0, size=600)
    v = rng.normal(size=600) + 0.3 * w
    by_t = t_interval(v, weights=w)
    interval = bca_interval if method == "bca" else block_interval
    found = interval(v, num_resamples=4000, weights=w)
    assert found.mean == by_t.mean == pytest.approx(w @ v / w.sum(), rel=1e-12)
    assert found.high - found.low == pytest.approx(by_t.high - by_t.low, rel=0.08)
    # shifted so that the end of the interval is at zero: the p-value is 5 %
    at_zero = interval(v - found.low, num_resamples=4000, weights=w)
    assert at_zero.p_value == pytest.approx(0.05, abs=0.012)


def test_whole_weights_give_the_quantiles_of_repeated_rows() -> None:
    rng = np.random.default_rng(3)
    values, times = rng.normal(size=900), rng.integers(1, 5, 900)
    many = np.repeat(values, times)
    weights = times.astype(float)
    for share in (0.01, 0.5, 0.99):
        assert quantile(values, share, weights) == quantile(many, share)
    ends = [winsorised_mean(values, 0.01, weights), winsorised_mean(many, 0.01)]
    assert ends[0] == pytest.approx(ends[1], abs=2e-3)


def test_different_weights_are_not_compared() -> None:
    w = np.random.default_rng(0).gamma(1.0, size=400) + 0.1
    one, other, none = random_likelihood(w), random_likelihood(w[::-1].copy(), 0.1), random_likelihood(None, 0.1)
    paired(one, random_likelihood(5 * w, 0.1))  # a common factor is no difference
    with pytest.raises(ComparisonError, match=r"row weights \(one set of weights against another\)"):
        paired(one, other)
    with pytest.raises(ComparisonError, match=r"row weights \(weighted against without weights\)"):
        paired(one, none)
    with pytest.raises(ComparisonError, match="weights of the rows differ"):
        one - none
    with pytest.raises(ValueError, match="above 0"):
        LogLikelihood(np.zeros(2), np.arange(2), "exact", weights=np.array([1.0, 0.0]))


def test_small_weights_are_told_apart_and_a_common_factor_is_not() -> None:
    weights = np.array([1.0, 2.0, 3.0])
    for size in (1.0, 1e-6, 1e-12):
        assert same_weights(size * weights, 7 * weights)
        assert not same_weights(size * weights, size * weights[::-1])


def test_weights_are_stored_and_follow_the_rows(tmp_path: Path) -> None:
    w = np.random.default_rng(0).gamma(1.0, size=400) + 0.1
    one = random_likelihood(w)
    one.save(tmp_path / "one.parquet")
    again = LogLikelihood.load(tmp_path / "one.parquet")
    assert np.array_equal(again.weights, w)  # type: ignore[arg-type]
    assert np.array_equal(LogLikelihood.from_dict(one.to_dict()).weights, w)  # type: ignore[arg-type]
    shuffled = one.select(np.random.default_rng(1).permutation(400))
    assert shuffled.aligned(one.rows).mean() == one.mean()
    assert one.num_effective == pytest.approx(w.sum() ** 2 / (w**2).sum())


def test_rows_kept_in_proportion_stand_for_the_weighted_ones() -> None:
    rng = np.random.default_rng(0)
    weights = rng.gamma(1.0, size=20_000) + 0.1
    kept = equal_weight_rows(weights, seed=1)
    assert len(np.unique(kept)) == len(kept)
    # chance of a row: its weight; so the kept rows have mean weight E w^2 / E w, within four standard errors
    expected = (weights**2).sum() / weights.sum()
    assert weights[kept].mean() == pytest.approx(expected, abs=4 * weights[kept].std() / len(kept) ** 0.5)


# ---------------------------------------------------------------------------------------------- commands


def test_commands_train_compare_and_report_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weighted(300).to_csv("rows.csv", index=False)
    said = say("schema", "rows.csv", "--weight", "w", "-o", "schema.yaml")
    assert said.code == 0, said.err
    assert "weight" in said.out
    assert "role: weight" in Path("schema.yaml").read_text()
    said = say(
        "compare", "rows.csv", "--weight", "w", "--models", "independent,gaussian,ebflow", "--run_dir", "work",
        "-o", "report.html", "--samples", "200", "--sections", "fidelity",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "EBFlow does not train with row weights" in said.out
    page = Path("report.html").read_text()
    assert "Weighted mean log-likelihood" in page
    assert "column w, worth" in page
    assert "kept in proportion" in page
    said = say("score", "work/independent", "rows.csv", "-o", "scored.csv")
    assert said.code == 0, said.err
    assert "weighted mean of 300 rows, worth" in said.out
    said = say("report", "work", "-o", "again.md")
    assert said.code == 0, said.err
    assert "Weighted mean" in Path("again.md").read_text()
