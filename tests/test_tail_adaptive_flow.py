"""Tail-adaptive flow: bases, tail layer, blocks that keep tails apart, classes of columns, and the claim itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from flow_tables import shake
from scipy import integrate, stats

import genzoo
from genzoo.bijections.elementwise import Elementwise
from genzoo.bijections.linear import BlockPermutation, LULinear
from genzoo.bijections.masked_autoregressive import MaskedAutoregressive
from genzoo.bijections.tail_transform import TailTransform, log_erfc_inverse
from genzoo.errors import SchemaError
from genzoo.models.flows.tail_adaptive_flow import TailAdaptiveFlow
from genzoo.models.flows.tail_density import BASES, TAIL_LAYERS, TailBase, TailDensity

PAIRS = list(itertools.product(BASES, TAIL_LAYERS))


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def density(base: str, tail: str, heavy: list[bool], context: int = 0, amount: float = 0.2) -> TailDensity:
    """A float64 flow with random weights whose numbers have the given classes (index 2.5 where heavy)."""
    num = len(heavy)
    flow = TailDensity(
        num,
        context,
        num_numbers=num,
        element=Elementwise("spline", 5, 3.0),
        base=base,  # type: ignore[arg-type]
        tail=tail,  # type: ignore[arg-type]
        hidden=16,
    ).double()
    flags = torch.tensor(heavy)
    weights = torch.where(flags, 0.4, 0.0).double().repeat(2, 1)
    index = torch.where(flags, 2.5, torch.inf).double()
    flow.start(flags, index, weights, torch.zeros(num).double(), torch.ones(num).double())
    shake(flow, amount)
    return flow.eval()


# ---- base -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_base_density_is_the_sum_of_scipys_normal_and_student_densities(base: str) -> None:
    module = TailBase(3, base).double()  # type: ignore[arg-type]
    module.start(torch.tensor([False, True, True]), torch.tensor([10.0, 2.0, 0.7]).double())
    z = torch.tensor([[0.3, -1e6, 4.0], [-2.0, 0.0, 1e12]], dtype=torch.float64)
    freedom = module.freedom().tolist()
    parts = [stats.norm if math.isinf(v) else stats.t(v) for v in freedom]
    expected = sum(part.logpdf(z[:, j].numpy()) for j, part in enumerate(parts))
    np.testing.assert_allclose(module.log_prob(z).detach().numpy(), expected, rtol=1e-10)
    if base == "mtaf":
        assert [round(v, 6) for v in freedom] == [math.inf, 2.0, 0.7]
    if base == "taf":
        assert freedom == pytest.approx([50.0] * 3)


def test_degrees_of_freedom_have_the_gradient_of_finite_differences_and_stay_positive() -> None:
    module = TailBase(2, "gtaf").double()
    z = torch.tensor([[0.4, -30.0]], dtype=torch.float64)
    module.log_prob(z).sum().backward()
    assert module.raw_freedom.grad is not None
    gradient = module.raw_freedom.grad.clone()
    for place in range(2):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                module.raw_freedom[place] += sign * 1e-5
                values.append(float(module.log_prob(z)))
                module.raw_freedom[place] -= sign * 1e-5
        assert gradient[place] == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)
    with torch.no_grad():
        module.raw_freedom -= 1e4
    assert (module.freedom() > 0).all()
    assert torch.isfinite(module.log_prob(z)).all()


def test_draws_of_the_base_follow_its_distributions() -> None:
    module = TailBase(3, "mtaf")
    module.start(torch.tensor([False, True, True]), torch.tensor([10.0, 2.0, 0.6]))
    drawn = module.sample(20_000, torch.Generator().manual_seed(0)).numpy()
    laws: list[Any] = [stats.norm, stats.t(2.0), stats.t(0.6)]
    for j, law in enumerate(laws):
        assert stats.kstest(drawn[:, j], law.cdf).pvalue > 1e-3  # one false alarm in 333


# ---- tail layer -----------------------------------------------------------------------------------------------------


def test_inverse_of_log_erfc_keeps_its_digits_from_zero_to_far_out() -> None:
    t = torch.cat([torch.zeros(1), torch.logspace(-10, 8, 200)]).double()
    z = log_erfc_inverse(t).numpy()
    back = -(np.log(2) + stats.norm.logsf(z))
    np.testing.assert_allclose(back, t.numpy(), rtol=1e-9, atol=1e-15)


def test_tail_layer_sends_a_normal_to_generalised_pareto_distances() -> None:
    layer = TailTransform(1)
    layer.start(torch.tensor([[0.5], [1.3]]), torch.tensor([2.0]), torch.tensor([3.0]))
    z = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = layer(z)[0].detach().numpy()[:, 0]
    for side, weight in ((-1, 0.5), (1, 1.3)):
        distance = side * (x - 2.0) / 3.0
        assert stats.kstest(distance[distance > 0], stats.genpareto(weight).cdf).pvalue > 1e-3


@pytest.mark.parametrize("weight", [1e-4, 0.05, 0.5, 2.0])
def test_tail_layer_comes_back_from_far_out_and_its_slope_is_autograds(weight: float) -> None:
    layer = TailTransform(2, 1)
    layer.start(torch.full((2, 1), weight), torch.tensor([0.25]), torch.tensor([1.5]))
    far = torch.logspace(-6, 12, 60).double()
    x = torch.stack([torch.cat([far, -far, torch.tensor([0.25]).double()]), torch.ones(121).double()], 1)
    x.requires_grad_()
    z, log_det = layer.inverse(x)
    slope = torch.autograd.grad(z[:, 0].sum(), x)[0][:, 0]
    torch.testing.assert_close(slope.log(), log_det, rtol=1e-9, atol=1e-9)
    back, log_back = layer(z)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(log_back, -log_det, rtol=1e-9, atol=1e-9)
    assert torch.equal(z[:, 1], x[:, 1]), "a feature without a tail layer passes"


# ---- blocks ---------------------------------------------------------------------------------------------------------

CLASSES = [[False] * 4, [True] * 4, [True, False, False, False], [False, True, True, True], [True, False, True, False]]


@pytest.mark.parametrize("heavy", CLASSES)
def test_linear_map_in_lu_form_keeps_light_features_free_of_heavy_ones(heavy: list[bool]) -> None:
    flags = torch.tensor(sorted(heavy))
    layer = LULinear(4).double()
    layer.separate(flags)
    shake(layer, 0.5)
    x = torch.randn(5, 4, dtype=torch.float64)
    for direction in (layer.inverse, layer.forward):
        jacobian = torch.autograd.functional.jacobian(lambda v, f=direction: f(v[None])[0][0], x[0])
        assert (jacobian[~flags][:, flags] == 0).all()
        assert (jacobian[~flags][:, ~flags] != 0).all()
        assert float(jacobian.slogdet()[1]) == pytest.approx(float(direction(x)[1][0].detach()))
    torch.testing.assert_close(layer(layer.inverse(x)[0])[0], x, rtol=0, atol=1e-12)


def test_linear_map_refuses_light_features_after_heavy_ones() -> None:
    with pytest.raises(ValueError, match="light features must come before heavy ones"):
        LULinear(3).separate(torch.tensor([True, False, True]))


@pytest.mark.parametrize("heavy", CLASSES)
def test_permutation_puts_light_features_first_and_comes_back(heavy: list[bool]) -> None:
    layer = BlockPermutation(4, seed=3)
    assert layer.separate(torch.tensor(heavy)).tolist() == sorted(heavy)
    x = torch.arange(8.0).reshape(2, 4)
    z, log_det = layer.inverse(x)
    assert torch.equal(layer(z)[0], x)
    assert (log_det == 0).all()
    assert sorted(z[0].tolist()) == x[0].tolist()


def test_masked_layer_is_triangular_and_inverts() -> None:
    layer = MaskedAutoregressive(4, Elementwise("spline", 4, 3.0), num_context=2, hidden=16).double()
    shake(layer, 0.3)
    x, context = torch.randn(6, 4).double(), torch.randn(6, 2).double()
    z, log_det = layer.inverse(x, context)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer.inverse(v[None], context[:1])[0][0], x[0])
    assert (jacobian.triu(1) == 0).all()
    assert float(jacobian.slogdet()[1]) == pytest.approx(float(log_det[0].detach()))
    back, log_back = layer(z, context)
    # the network itself reads back values in float64, so that errors of earlier features reach later ones
    torch.testing.assert_close(back, x, rtol=0, atol=1e-7)
    torch.testing.assert_close(log_back, -log_det, rtol=0, atol=1e-7)


# ---- the whole density ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "tail"), PAIRS)
def test_log_det_of_the_whole_flow_is_autograds_and_light_never_reads_heavy(base: str, tail: str) -> None:
    heavy = torch.tensor([True, False, True, False])
    flow = density(base, tail, heavy.tolist(), context=1)
    context = torch.tensor([[0.7]], dtype=torch.float64)
    for x in (torch.randn(4).double(), torch.tensor([1e5, -3.0, -40.0, 0.2]).double()):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.bijection.inverse(v[None], context)[0][0], x)
        # rows over wide ranges: take out each row's size before the determinant
        size = jacobian.abs().amax(1)
        expected = float((jacobian / size[:, None]).slogdet()[1] + size.log().sum())
        assert float(flow.bijection.inverse(x[None], context)[1]) == pytest.approx(expected, abs=1e-8)
        block = jacobian[~heavy][:, heavy]
        assert (block == 0).all() == (base in ("mtaf", "mtaf_fix"))
    back = torch.autograd.functional.jacobian(lambda v: flow.bijection(v[None], context)[0][0], torch.randn(4).double())
    assert (back[~heavy][:, heavy] == 0).all() == (base in ("mtaf", "mtaf_fix"))


@pytest.mark.parametrize(("base", "tail"), PAIRS)
def test_flow_comes_back_from_a_million(base: str, tail: str) -> None:
    flow = density(base, tail, [True, False, True])
    far = torch.tensor([1e6, -1e6, 1e3, -1e3, 10.0, 0.1, -2.0]).double()
    x = torch.stack([far, far.flip(0), far.roll(2)], 1)
    z, log_det = flow.bijection.inverse(x)
    back, log_back = flow.bijection(z)
    assert ((back - x).abs() / (1 + x.abs().amax(1, keepdim=True))).max() < 1e-8
    torch.testing.assert_close(log_back, -log_det, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(flow.log_prob(x)).all()


@pytest.mark.parametrize(
    ("base", "tail"), [("gaussian", "none"), ("taf", "none"), ("mtaf", "none"), ("gaussian", "ttf"), ("mtaf", "ttf")]
)
def test_density_on_the_line_integrates_to_one_however_heavy(base: str, tail: str) -> None:
    flow = density(base, tail, [True])
    # x = sinh(u): evenly spaced u reach out to 1e15 on both sides
    u = torch.linspace(-35, 35, 40_001).double()
    x = torch.sinh(u)
    with torch.no_grad():
        mass = integrate.trapezoid((flow.log_prob(x[:, None]) + torch.cosh(u).log()).exp().numpy(), u.numpy())
    # t base under a tail layer: P(|x| > 1e15) falls like log(x)^(-nu / 2) and is not negligible
    if (base, tail) == ("mtaf", "ttf"):
        assert 0.9 < mass < 1.0
    else:
        assert mass == pytest.approx(1.0, abs=2e-5)


@pytest.mark.parametrize(("base", "tail"), [("gtaf", "none"), ("mtaf_fix", "none"), ("gaussian", "ttf_fix")])
def test_density_in_the_plane_integrates_to_one_with_a_heavy_and_a_light_column(base: str, tail: str) -> None:
    flow = density(base, tail, [True, False], amount=0.1)
    for part in flow.bijection.parts:
        if isinstance(part, LULinear):  # volume is constant; a sheared heavy column is a ridge that no grid sees
            assert part.lower is not None
            assert part.upper is not None
            part.lower.data.zero_()
            part.upper.data.zero_()
    u = torch.linspace(-14, 14, 320).double()
    first, second = torch.meshgrid(u, u, indexing="ij")
    x = torch.stack([first, second], -1).reshape(-1, 2)
    with torch.no_grad():
        terms = flow.log_prob(torch.sinh(x)) + torch.cosh(x).log().sum(1)
    assert float(terms.exp().sum() * (u[1] - u[0]) ** 2) == pytest.approx(1.0, abs=2e-3)


def test_flow_without_training_has_the_tails_of_its_base() -> None:
    flow = density("mtaf_fix", "none", [True, False], amount=0.0)
    with torch.no_grad():
        x = flow.sample(200_000, None, torch.Generator().manual_seed(0)).abs().numpy()
    # slope of log survival between its 99.5 and 99.95 % quantiles
    ends = np.quantile(x, [0.995, 0.9995], axis=0)
    slope = np.log(10) / np.log(ends[1] / ends[0])
    assert slope[0] == pytest.approx(2.5, abs=0.3)
    assert slope[1] > 6, "a normal falls faster than any power"


def test_unknown_bases_and_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="base must be one of gaussian, taf, gtaf, mtaf, mtaf_fix"):
        density("student", "none", [True])
    with pytest.raises(ValueError, match="tail must be one of none, ttf, ttf_fix"):
        density("gaussian", "pareto", [True])


# ---- on tables ------------------------------------------------------------------------------------------------------


def heavy_table(num_rows: int = 1500, seed: int = 0) -> pd.DataFrame:
    """A heavy column in thousands, a light one, a light mixture, and one heavy on its upper side alone."""
    rng = np.random.default_rng(seed)
    loss = rng.standard_t(2, num_rows)
    mixture = np.where(rng.random(num_rows) < 0.5, rng.normal(-2, 0.5, num_rows), rng.normal(2, 1, num_rows))
    return pd.DataFrame(
        {
            "loss": 1000 * loss,
            "size": 0.3 * np.tanh(loss) + rng.normal(size=num_rows),
            "mix": mixture,
            "claim": 2 * (1 - rng.random(num_rows)) ** (-1 / 1.5),
        }
    )


SMALL: dict[str, Any] = {"hidden": 16, "num_transforms": 1, "patience": 0, "max_epochs": 1}
CONTINUOUS = {c: {"kind": "continuous"} for c in ("loss", "size", "mix", "claim")}


def fitted(frame: pd.DataFrame, **options: Any) -> TailAdaptiveFlow:
    data = {"batch_size": 200, "overrides": {c: CONTINUOUS[c] for c in frame.columns}} | options.pop("data", {})
    model = genzoo.fit(frame, model="tail_adaptive_flow", data=data, **(SMALL | options))
    assert isinstance(model, TailAdaptiveFlow)
    return model


def test_classes_are_estimated_on_training_rows_and_the_user_sees_them() -> None:
    tails = {tail.column: tail for tail in fitted(heavy_table(3000)).tail_classes()}
    assert {name: tail.heavy for name, tail in tails.items()} == {
        "loss": True,
        "size": False,
        "mix": False,
        "claim": True,
    }
    assert tails["loss"].index == pytest.approx(2.0, rel=0.35)
    assert tails["claim"].index == pytest.approx(1.5, rel=0.35)
    assert tails["claim"].weights[0] == 0, "a Pareto column ends on its lower side"
    assert tails["claim"].estimate.low < tails["claim"].index < tails["claim"].estimate.high
    assert not tails["loss"].given


def test_the_user_overrides_classes_and_they_survive_the_checkpoint(tmp_path: Any) -> None:
    frame = heavy_table(600)
    model = fitted(frame, base="mtaf_fix", tail="none", tails={"loss": "light", "size": 4.0, "mix": "heavy"})
    tails = {tail.column: tail for tail in model.tail_classes()}
    assert [tails[c].given for c in frame.columns] == [True, True, True, False]
    assert [tails[c].heavy for c in frame.columns] == [False, True, True, True]
    assert tails["size"].index == 4.0
    assert model.flow.base.freedom()[1] == pytest.approx(4.0)
    model.save(tmp_path / "m.ckpt")
    again = genzoo.load(tmp_path / "m.ckpt")
    assert [t.index for t in again.tail_classes()] == [t.index for t in model.tail_classes()]
    np.testing.assert_array_equal(again.log_prob(frame).values, model.log_prob(frame).values)


def test_light_column_ignores_heavy_ones_in_a_trained_model() -> None:
    frame = heavy_table(600)
    model = fitted(frame, base="mtaf", tail="none")
    x = torch.randn(3, 4, dtype=torch.float64)
    z, _ = model.flow.bijection.inverse(x)
    moved = x.clone()
    moved[:, 0] += 1000.0
    other, _ = model.flow.bijection.inverse(moved)
    heavy = model.flow.base.heavy
    assert heavy.tolist() == [True, False, False, True]
    assert torch.equal(other[:, ~heavy], z[:, ~heavy])
    assert not torch.equal(other[:, heavy], z[:, heavy])


@pytest.mark.parametrize("tail", ["none", "ttf"])
def test_order_of_columns_in_a_frame_does_not_matter_to_scores(tail: str) -> None:
    frame = heavy_table(400)
    model = fitted(frame, base="mtaf", tail=tail)
    values = model.log_prob(frame).values
    np.testing.assert_array_equal(model.log_prob(frame[["claim", "mix", "loss", "size"]]).values, values)


def test_columns_reach_the_flow_linearly_whatever_their_tail() -> None:
    model = fitted(heavy_table(600))
    assert set(model.codec.scaler.describe().values()) == {"affine"}


def test_numbers_on_a_grid_get_a_class_too() -> None:
    frame = pd.DataFrame({"loss": np.round(heavy_table(1500)["loss"] / 100)})
    model = genzoo.fit(frame, model="tail_adaptive_flow", data={"batch_size": 200}, **SMALL)
    assert model.schema["loss"].kind == "quantized"
    assert model.tail_classes()[0].heavy
    assert model.log_prob(frame).kind == "lower_bound"


def test_a_word_that_is_no_class_and_a_column_that_is_no_number_are_refused() -> None:
    frame = heavy_table(200).assign(kind=["a", "b"] * 100)
    data = {"overrides": CONTINUOUS}
    for tails, message in (
        ({"kind": "heavy"}, "tails names column 'kind', which is not a scored numeric column; numeric: loss, size"),
        ({"loss": "fat"}, "tails of column 'loss' must be light, heavy or a number, got 'fat'"),
        ({"loss": -1.0}, "degrees of freedom of column 'loss' must be positive"),
    ):
        with pytest.raises(SchemaError, match=message):
            genzoo.fit(frame, model="tail_adaptive_flow", data=data, **(SMALL | {"tails": tails}))
    with pytest.raises(ValueError, match="scaler must be one of robust, standardise, got 'asinh'"):
        fitted(heavy_table(200), scaler="asinh")


def test_extreme_rows_get_finite_likelihoods_and_a_heavier_model_minds_them_less() -> None:
    frame = heavy_table(800)[["loss"]]
    far = pd.DataFrame({"loss": [1e5, -1e9, 1e15]})
    light = fitted(frame, base="gaussian", tail="none").log_prob(far).values
    for base, tail in (("mtaf", "none"), ("gaussian", "ttf"), ("taf", "none")):
        heavy = fitted(frame, base=base, tail=tail).log_prob(far).values
        assert np.isfinite(heavy).all()
        assert (heavy > light).all()
        if base != "taf":  # which begins at fifty degrees of freedom
            assert heavy.min() > -300, "a power falls by a few nats each time the distance triples"


@pytest.mark.slow
def test_gaussian_base_stays_light_after_training_on_heavy_data_and_mtaf_recovers_them() -> None:
    """The largest 0.2 % of many draws tell: a trained spline is steep in its body, whatever its base."""
    from genzoo.evaluation.tail_index import hill_estimate, tail_index

    frame = heavy_table(4000)[["loss", "size"]]
    far, found = {}, {}
    for base in ("gaussian", "mtaf"):
        model = fitted(frame, base=base, tail="none", max_epochs=40)
        drawn = model.sample(100_000, seed=1)
        far[base] = hill_estimate(drawn["loss"].abs().to_numpy(), 200)  # standard error xi / sqrt(200)
        found[base] = [tail_index(drawn[c].to_numpy()[:10_000], seed=0) for c in frame.columns]
    assert found["mtaf"][0].heavy
    assert not found["mtaf"][1].heavy
    assert found["mtaf"][0].index == pytest.approx(2.0, rel=0.35)
    assert far["mtaf"] == pytest.approx(0.5, abs=0.15)
    assert far["gaussian"] < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["ttf", "none"])
def test_no_likelihood_beats_the_truth(tail: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_t(2, size=(4000, 2))
    x[:, 1] = x[:, 0] + rng.normal(size=len(x))
    frame = pd.DataFrame(x, columns=["loss", "size"])
    model = fitted(frame.iloc[:2000], base="gaussian" if tail == "ttf" else "mtaf", tail=tail, max_epochs=30)
    held = frame.iloc[2000:]
    truth = stats.t.logpdf(held["loss"], 2) + stats.norm.logpdf(held["size"] - held["loss"])
    gap = truth - model.log_prob(held).values
    assert gap.mean() > -3 * gap.std() / math.sqrt(len(gap))
    assert gap.mean() < 0.3


def test_model_says_which_index_each_side_can_reach() -> None:
    frame = heavy_table(300)[["loss", "size"]]
    given = {"loss": 2.0, "size": "light"}
    fixed = fitted(frame, base="mtaf_fix", tail="none", tails=given).tail_indices()
    assert fixed["loss"] == pytest.approx((2.0, 2.0), rel=1e-6)
    assert fixed["size"] == (math.inf, math.inf)
    layer = fitted(frame, base="gaussian", tail="ttf_fix", tails=given).tail_indices()
    assert layer["loss"] == pytest.approx((2.0, 2.0), rel=1e-5)
    assert min(layer["size"]) > 1000
    assert fitted(frame, base="taf", tail="ttf", tails=given).tail_indices()["loss"] == (0.0, 0.0)


def test_classes_are_estimated_on_rows_from_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genzoo.models.flows.tail_classes.MOST_ROWS", 200)
    frame = heavy_table(2000)[["loss", "size"]]
    frame["loss"] = np.where(np.arange(2000) < 1000, frame["size"], frame["loss"])  # calm first, then wild
    tail = fitted(frame, data={"split": "ordered"}).tail_classes()[0]
    assert tail.estimate.num_values == 200
    assert tail.heavy


def test_a_stretched_normal_behind_the_tail_layer_has_an_index_smaller_by_the_square() -> None:
    layer = TailTransform(1, learn_weight=False)
    layer.start(torch.full((2, 1), 0.5), torch.zeros(1), torch.ones(1))
    # P(x > X) = P(1.3 n > z(X)): the slope of its logarithm over that of X, far out
    far = torch.tensor([[1e40], [1e80]], dtype=torch.float64)
    log_survival = stats.norm.logsf(layer.inverse(far)[0][:, 0].detach().numpy() / 1.3)
    slope = -np.diff(log_survival)[0] / math.log(1e40)
    assert slope == pytest.approx(2 / 1.3**2, rel=0.01)
