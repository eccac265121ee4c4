"""Fair flows: the certificate holds, encoders are bijections, states are matched in the best way."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

import genzoo
from genzoo.datamodules.fairness import Fairness, crime, stripes
from genzoo.datamodules.table import Table
from genzoo.errors import CapabilityError, DataError, GenZooError
from genzoo.evaluation.fairness import (
    CodedRows,
    attack_on_draws,
    certificate,
    coded_rows,
    draw_log_densities,
    estimation_gap,
    outcomes,
    rate_gap,
)
from genzoo.evaluation.sections import Subject, make_sections
from genzoo.likelihood.total_variation import exact_distance, statistical_distance
from genzoo.main import main
from genzoo.models.flows.fair_flow import FairFlow
from genzoo.models.flows.fair_states import FairStates
from genzoo.models.flows.state_matching import fit_logistic, pushed, sort_match
from genzoo.models.training import make_trainer, train

COMPAS = Path(__file__).parents[1].parent / "shared" / "data" / "compas" / "fnf_subset.parquet"
DELTA = 1e-6
ROLES: dict[str, Any] = {"sensitive": ["group"], "outcome": ["label"]}
SMALL: dict[str, Any] = {
    "density": "mixture",
    "density_args": {"num_components": 2, "refine": False},
    "num_blocks": 3,
    "hidden": 32,
    "classifier_hidden": 32,
    "encoder_epochs": 20,
    "warm_up": 0.7,
    "pool": 4000,
    "gamma": 0.8,
}


def finite(num_rows: int, seed: int, groups: int = 2) -> pd.DataFrame:
    """Three categories that depend on the group, and a label that depends on them."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, num_rows)
    one = np.clip(rng.poisson(0.5 + 0.7 * group), 0, 3)
    two = (rng.random(num_rows) < 0.3 + 0.2 * group).astype(int)
    three = rng.integers(0, 3, num_rows)
    label = rng.random(num_rows) < 1 / (1 + np.exp(1.0 - one + two))
    return pd.DataFrame(
        {
            "one": np.array(["p", "q", "r", "s"])[one],
            "two": np.array(["u", "v"])[two],
            "three": np.array(["k", "l", "m"])[three],
            "group": np.array(["a", "b", "c"])[group],
            "label": np.where(label, "yes", "no"),
        }
    )


def module_of(frame: pd.DataFrame, **roles: Any) -> Table:
    module = Table(frame=frame, seed=0, batch_size=64, **(roles or ROLES))
    module.setup("fit")
    return module


def fitted(frame: pd.DataFrame, roles: dict[str, Any] | None = None, **arguments: Any) -> tuple[FairFlow, Table]:
    module = module_of(frame, **(roles or ROLES))
    model = FairFlow(module.schema_dict, **arguments)
    return train(model, module, progress=False), module


@pytest.fixture(scope="module")
def points() -> tuple[FairFlow, Table]:
    return fitted(stripes(1500, 0), **SMALL)


@pytest.fixture(scope="module")
def states() -> tuple[FairFlow, Table]:
    return fitted(finite(1500, 0), density="counts", gamma=0.5, encoder_epochs=8)


# ---- the certificate ------------------------------------------------------------------------------------------------


def test_stripes_lose_their_group_and_keep_their_label(points: tuple[FairFlow, Table]) -> None:
    model, module = points
    found = certificate(model, 20_000, delta=DELTA)
    assert found.worst.value < 0.2  # 2 Phi(3) - 1 = .9973 before
    result = outcomes(coded_rows(model, module.data("test")))
    assert result is not None
    assert result.accuracy > 0.9


@pytest.mark.parametrize("representation", ["points", "states"])
def test_no_adversary_beats_the_certificate_on_fresh_draws(representation: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(representation)[0]
    found = certificate(model, 20_000, delta=DELTA).worst
    n = 3000
    slack = np.sqrt(2 / n * np.log(1 / DELTA) / 8)
    for one in attack_on_draws(model, n):
        assert one.accuracy <= found.adversary_bound + slack, one
        assert one.accuracy >= 0.5 - slack, one


def test_the_optimal_test_reaches_the_limit_and_never_exceeds_it_on_fresh_draws(points: tuple[FairFlow, Table]) -> None:
    model, _ = points
    found = certificate(model, 20_000, delta=DELTA, seed=1).worst
    logs = [draw_log_densities(model, group, 20_000, seed=2) for group in range(2)]
    hits = [float((logs[0][:, 0] > logs[0][:, 1]).mean()), float((logs[1][:, 1] >= logs[1][:, 0]).mean())]
    again = statistical_distance((logs[0][:, 0], logs[0][:, 1]), (logs[1][:, 0], logs[1][:, 1]))
    assert np.mean(hits) == pytest.approx(again.adversary, abs=1e-12)
    assert np.mean(hits) <= found.adversary_bound + np.sqrt(np.log(1 / DELTA) / 20_000)


def test_no_classifier_of_codes_has_a_larger_parity_gap(points: tuple[FairFlow, Table]) -> None:
    model, _ = points
    found = certificate(model, 20_000, delta=DELTA).worst
    codes = torch.cat([model.draw_codes(5000, group, 7) for group in range(2)])
    group = np.repeat([0, 1], 5000)
    slack = 2 * np.sqrt(np.log(2 / DELTA) / (2 * 5000))
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        weight = torch.randn(codes.shape[1] + 1, generator=generator, dtype=torch.float64)
        guess = (codes @ weight[:-1] + weight[-1] > 0).long().numpy()
        assert rate_gap(guess, group) <= found.upper + slack
    own = model.fair.log_label(codes).argmax(1).numpy()
    assert rate_gap(own, group) <= found.upper + slack


def test_divergence_is_at_least_twice_the_squared_distance(points: tuple[FairFlow, Table]) -> None:
    model, _ = points
    logs = [draw_log_densities(model, group, 50_000, seed=3) for group in range(2)]
    distance = certificate(model, 50_000, seed=3).worst.value
    for group in range(2):
        gap = logs[group][:, group] - logs[group][:, 1 - group]
        assert gap.mean() + 5 * gap.std() / np.sqrt(len(gap)) >= 2 * (distance - 0.01) ** 2


def test_one_bijection_more_for_both_groups_changes_no_distance(points: tuple[FairFlow, Table]) -> None:
    model, _ = points
    z = [model.draw_codes(5000, group, 5) for group in range(2)]
    logs = [model.code_log_prob(codes).numpy() for codes in z]
    mapped = [torch.sinh(2 * codes) for codes in z]
    back = [torch.asinh(codes) / 2 for codes in mapped]
    log_det = [(0.5 / torch.sqrt(1 + codes**2)).log().sum(1, keepdim=True) for codes in mapped]
    other = [(model.code_log_prob(b) + d).numpy() for b, d in zip(back, log_det, strict=True)]
    before, after = (statistical_distance((a[:, 0], a[:, 1]), (b[:, 0], b[:, 1])).value for a, b in (logs, other))
    assert after == pytest.approx(before, abs=2e-3)


# ---- points ---------------------------------------------------------------------------------------------------------


def test_encoders_are_bijections_and_densities_of_codes_integrate_to_one(points: tuple[FairFlow, Table]) -> None:
    model, module = points
    batch = module.data("test").batch()
    codes, group = model.codes_of(batch), model.codec.groups_of(batch)
    back = model.rows_of(codes, group, batch.rows)
    np.testing.assert_allclose(back.numeric.numpy(), batch.numeric.numpy(), rtol=0, atol=1e-9)
    centre, spread = codes.mean(0), codes.std(0)
    axes = [torch.linspace(float(c - 8 * s), float(c + 8 * s), 500) for c, s in zip(centre, spread, strict=True)]
    grid = torch.cartesian_prod(*axes).double()
    cell = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
    mass = model.code_log_prob(grid).exp().sum(0) * cell
    np.testing.assert_allclose(mass.numpy(), [1.0, 1.0], atol=0.01)


def test_densities_of_codes_change_by_the_jacobian(points: tuple[FairFlow, Table]) -> None:
    model, _ = points
    fair = model.points
    z = model.draw_codes(5, 1, 0)
    for group in range(2):
        jacobian = torch.stack(
            [torch.autograd.functional.jacobian(lambda v, g=group: fair.encoder(g)(v[None])[0][0], row) for row in z]
        )
        y = fair.encoder(group)(z)[0]
        expected = fair.density(group).log_prob(y) + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(model.code_log_prob(z)[:, group], expected.detach(), rtol=0, atol=1e-6)


def test_likelihood_is_given_the_group_and_joint_adds_its_probability() -> None:
    frame = stripes(400, 1)
    arguments = SMALL | {"encoder_epochs": 2, "pool": 500}
    given, _ = fitted(frame, **arguments)
    joint, _ = fitted(frame, joint=True, **arguments)
    a, b = given.log_prob(frame), joint.log_prob(frame)
    assert (a.columns, a.context) == (("x", "y", "label"), ("group",))
    assert (b.columns, b.context) == (("x", "y", "group", "label"), ())
    assert a.kind == b.kind == "exact"
    share = joint.codec.log_group()[joint.codec.groups_of(joint._encoded_table(frame).batch())].numpy()
    # the unseen-category rule adds log(1 - epsilon) for the group column
    np.testing.assert_allclose(b.values - a.values, share + np.log1p(-joint.schema.epsilon), atol=1e-9)
    # both labels of a row sum to the density of its numbers
    both = np.logaddexp(
        given.log_prob(frame.assign(label="yes")).values, given.log_prob(frame.assign(label="no")).values
    )
    alone = given.log_prob(frame.assign(label=None)).values
    np.testing.assert_allclose(both, alone + np.log1p(-given.schema.epsilon), atol=1e-9)
    nobody = frame.assign(group=None)
    with pytest.raises(DataError, match="sensitive column 'group' is missing"):
        given.log_prob(nobody)
    parts = [joint.log_prob(frame.assign(group=g)).values for g in ("a", "b")]
    np.testing.assert_allclose(
        joint.log_prob(nobody).values, np.logaddexp(*parts) - np.log1p(-joint.schema.epsilon), atol=1e-9
    )


def test_training_that_was_killed_resumes_bit_equal(tmp_path: Path) -> None:
    arguments = SMALL | {"encoder_epochs": 4, "pool": 400}
    frame = stripes(300, 2)

    def run(folder: str, epochs: int, ckpt: Path | None = None) -> FairFlow:
        module = module_of(frame)
        model = FairFlow(module.schema_dict, **arguments)
        if epochs < 5:  # stopped by force, the plan is the whole one
            model.on_train_epoch_start = _stop_at(model, epochs)  # type: ignore[method-assign]
        trainer = make_trainer(tmp_path / folder, progress=False, max_epochs=5)
        options: dict[str, Any] = {} if ckpt is None else {"ckpt_path": str(ckpt), "weights_only": True}
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            trainer.fit(model, datamodule=module, **options)
        return model

    whole = run("whole", 5)
    run("cut", 3)
    rest = run("rest", 5, tmp_path / "cut/checkpoints/last.ckpt")
    for (name, a), b in zip(whole.state_dict().items(), rest.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def _stop_at(model: FairFlow, epoch: int) -> Any:
    def hook() -> None:
        if model.trainer.current_epoch == epoch:
            raise KeyboardInterrupt
        model._focus()

    return hook


def test_columns_of_any_kind_are_points_that_decode_to_themselves() -> None:
    rng = np.random.default_rng(0)
    frame = finite(300, 0).assign(count=rng.poisson(3, 300), size=rng.normal(size=300)).drop(columns="three")
    model, module = fitted(frame, density_epochs=2, encoder_epochs=2, num_blocks=2, hidden=16, pool=300)
    assert model.likelihood_kind == "lower_bound"
    batch = module.data("test").batch()
    codes, group = model.codes_of(batch, seed=3), model.codec.groups_of(batch)
    back = model.rows_of(codes, group, batch.rows)
    part = model.choose(batch)
    assert torch.equal(back.codes, part.codes)
    torch.testing.assert_close(back.numeric, part.numeric, rtol=0, atol=1e-9)
    assert not torch.equal(codes, model.codes_of(batch, seed=4)), "places of categories are drawn"


# ---- criteria and groups --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["odds", "opportunity"])
def test_given_the_outcome_codes_of_groups_become_alike(criterion: str) -> None:
    rng = np.random.default_rng(0)
    frame = stripes(500, 3)
    frame["x"] = rng.normal(size=500) + np.where(frame["label"] == "yes", 1.5, -1.5)
    arguments = SMALL | {"density_args": {"num_components": 1, "refine": False}, "gamma": 0.9, "encoder_epochs": 12}
    model, _ = fitted(frame, criterion=criterion, **arguments)
    found = certificate(model, 10_000, delta=DELTA)
    said = {label for _, _, label in found.pairs}
    assert said == ({"no", "yes"} if criterion == "odds" else {"yes"})
    assert found.worst.value < 0.4  # 2 Phi(3) - 1 = .9973 before
    likelihood = model.log_prob(frame)
    assert likelihood.kind == "exact"
    parts = [model.log_prob(frame.assign(label=name)).values for name in ("yes", "no")]
    alone = model.log_prob(frame.assign(label=None)).values
    np.testing.assert_allclose(np.logaddexp(*parts), alone + np.log1p(-model.schema.epsilon), atol=1e-9)
    drawn = model.sample(200, given=pd.DataFrame({"group": ["a"]}), seed=0)
    assert set(drawn["group"]) == {"a"}
    assert set(drawn["label"]) == {"yes", "no"}


def test_three_groups_and_two_sensitive_columns() -> None:
    model, _ = fitted(finite(1200, 0, groups=3), density="counts", gamma=1.0, encoder_epochs=2)
    found = certificate(model)
    assert len(found.pairs) == 3
    table = model.code_table().numpy()
    np.testing.assert_allclose(table.sum(1), 1.0, atol=1e-12)
    assert found.accuracy[""].value == pytest.approx(table.max(0).sum() / 3)
    assert found.accuracy[""].value <= (1 + 2 * found.worst.value) / 3 + 1e-12
    frame = finite(1200, 1)
    model, _ = fitted(frame, {"sensitive": ["group", "two"], "outcome": ["label"]}, density="counts", encoder_epochs=2)
    assert model.codec.group_names() == ["two=u, group=a", "two=u, group=b", "two=v, group=a", "two=v, group=b"]
    batch = model._encoded_table(frame).batch()
    group = model.codec.groups_of(batch)
    assert torch.equal(model.codec.with_groups(batch, group).codes, batch.codes)
    assert bool(model.codec.possible_groups(batch).gather(1, group[:, None]).all())


# ---- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_sort_matching_is_the_best_of_all_bijections(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = (torch.from_numpy(rng.dirichlet(np.ones(6))) for _ in range(2))
    q[1] = q[4]  # a tie
    q = q / q.sum()
    code = sort_match(p, q)
    assert sorted(code.tolist()) == list(range(6))
    best = min(exact_distance(p, pushed(q, torch.tensor(order))).value for order in itertools.permutations(range(6)))
    assert exact_distance(p, pushed(q, code)).value == pytest.approx(best, abs=1e-12)


def test_matching_within_classes_keeps_classes_and_is_the_best_that_does() -> None:
    rng = np.random.default_rng(0)
    p, q = (torch.from_numpy(rng.dirichlet(np.ones(6))) for _ in range(2))
    classes = torch.tensor([0, 1, 0, 1, 1, 0])
    code = sort_match(p, q, classes)
    assert torch.equal(classes[code], classes)
    allowed = [o for o in itertools.permutations(range(6)) if torch.equal(classes[list(o)], classes)]
    best = min(exact_distance(p, pushed(q, torch.tensor(order))).value for order in allowed)
    assert exact_distance(p, pushed(q, code)).value == pytest.approx(best, abs=1e-12)


@pytest.mark.skipif(not COMPAS.exists(), reason="the data set is not at hand")
@pytest.mark.parametrize(("smoothing", "before", "after"), [(0.0, 0.4434, 0.1443), (0.1, 0.4063, 0.1379)])
def test_matching_the_recidivism_table_by_rank_gives_the_known_distances(
    smoothing: float, before: float, after: float
) -> None:
    module = Fairness("compas", path=str(COMPAS), val=0, test=0, batch_size=1024)
    module.setup("fit")
    model = FairFlow(module.schema_dict, density="counts", smoothing=smoothing, gamma=1.0, encoder_epochs=1)
    train(model, module, progress=False)
    assert isinstance(model.fair, FairStates)
    assert model.fair.states.num_states == 3072
    table = model.fair.group_table()
    assert exact_distance(table[0], table[1]).value == pytest.approx(before, abs=5e-5)
    assert certificate(model).worst.value == pytest.approx(after, abs=5e-5)


def test_fairness_tables_say_their_roles_and_what_they_lack(tmp_path: Path) -> None:
    toy = Fairness("stripes", num_rows=300)
    assert {c.name: c.role for c in toy.schema.columns} == {
        "x": "value", "y": "value", "group": "sensitive", "label": "outcome",
    }  # fmt: skip
    assert len(toy.frame("train")) == len(toy.data("train")) == 192
    again = Fairness(**toy.record["init_args"])
    np.testing.assert_array_equal(again.data("test").numeric, toy.data("test").numeric)
    with pytest.raises(DataError, match="'path' says where the file of crime is"):
        Fairness("crime").setup("fit")
    with pytest.raises(ValueError, match="unknown fairness table 'crimes'"):
        Fairness("crimes")  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    names = ["racePctWhite", "pctWInvInc", "PctFam2Par", "PctKids2Par", "PctYoungKids2Par", "PctKidsBornNeverMar"]
    table = pd.DataFrame(100 * rng.random((60, 6)), columns=names).round(0)
    others = pd.DataFrame(8 * rng.random((60, 3)), columns=["racepctblack", "racePctAsian", "racePctHisp"])
    table = table.join(others).assign(ViolentCrimesPerPop=np.where(np.arange(60) < 10, np.nan, np.arange(60.0)))
    table.to_csv(tmp_path / "crime.csv", index=False)
    module = Fairness("crime", path=str(tmp_path / "crime.csv"))
    assert {c.kind for c in module.schema.columns if c.role == "value"} == {"continuous"}
    prepared = crime(table)
    assert len(prepared) == 50
    assert (prepared["rare"] == "yes").sum() == 25
    assert ((prepared["minority"] == "yes") == (table["racePctWhite"] / 5 < others.sum(1))[prepared.index]).all()


def test_likelihood_of_states_sums_to_one_and_holes_are_summed_over(states: tuple[FairFlow, Table]) -> None:
    model, _ = states
    rows = list(itertools.product("pqrs", "uv", "klm", ["yes", "no"]))
    every = pd.DataFrame(rows, columns=["one", "two", "three", "label"])
    for group in ("a", "b"):
        likelihood = model.log_prob(every.assign(group=group))
        assert likelihood.kind == "exact"
        assert np.exp(likelihood.values).sum() == pytest.approx((1 - model.schema.epsilon) ** 4, abs=1e-9)
    part = every.assign(group="a").iloc[:6]
    holes = part.assign(two=None)
    whole = [model.log_prob(part.assign(two=name)).values for name in "uv"]
    expected = np.logaddexp(*whole) - np.log1p(-model.schema.epsilon)
    np.testing.assert_allclose(model.log_prob(holes).values, expected, atol=1e-9)


def test_codes_of_states_have_the_distribution_that_the_certificate_sums(states: tuple[FairFlow, Table]) -> None:
    model, _ = states
    fair = model.fair
    assert isinstance(fair, FairStates)
    n = 40_000
    generator = torch.Generator().manual_seed(0)
    for group in range(2):
        index = torch.multinomial(fair.group_table()[group], n, replacement=True, generator=generator)
        uniform = torch.rand(n, generator=generator, dtype=torch.float64)
        code = fair.encode(index, torch.full((n,), group), uniform)
        assert torch.equal(fair.decode(code, torch.full((n,), group), uniform), index)
        expected = model.code_table()[group] * n
        found = torch.bincount(code, minlength=fair.states.num_states)
        z = (found - expected) / expected.clamp(min=1).sqrt()
        assert float(z.abs().max()) < 5


def test_the_useful_map_keeps_the_predicted_outcome_and_gamma_mixes_both(states: tuple[FairFlow, Table]) -> None:
    model, _ = states
    fair = model.fair
    assert isinstance(fair, FairStates)
    maps = fair.maps
    for group in range(2):
        for code in (maps.useful[group], maps.alike[group]):
            assert sorted(code.tolist()) == list(range(fair.states.num_states))
        assert torch.equal(maps.predicted[maps.useful[group]], maps.predicted)
    assert len(torch.unique(maps.predicted)) == 2
    distances = []
    try:
        for gamma in (0.0, 0.5, 1.0):
            fair.gamma = gamma
            distances.append(certificate(model).worst.value)
    finally:
        fair.gamma = 0.5
    table = fair.group_table()
    assert distances[2] == pytest.approx(
        exact_distance(table[0], pushed(table[1], sort_match(table[0], table[1]))).value
    )
    assert distances[2] <= distances[0] <= exact_distance(table[0], table[1]).value


def test_logistic_regression_agrees_with_a_reference() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = (rng.random(400) < 1 / (1 + np.exp(-x[:, 0] + 0.5))).astype(int)
    weight = rng.random(400) + 0.5
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(x, y, sample_weight=weight)
    # two columns of coefficients, each penalised: their difference is penalised by half
    beta = fit_logistic(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(weight), 2, penalty=2.0).numpy()
    np.testing.assert_allclose(beta[:-1, 1] - beta[:-1, 0], reference.coef_[0], atol=1e-4)


def test_a_zoo_model_fills_the_table_of_states() -> None:
    frame = finite(800, 0)
    args = {"hidden": 24, "num_transforms": 1}
    model, _ = fitted(frame, density="spline_flow", density_args=args, density_epochs=6, encoder_epochs=2)
    fair = model.fair
    assert isinstance(fair, FairStates)
    np.testing.assert_allclose(fair.table.sum(1).numpy(), 1.0, atol=1e-12)
    index = fair.states.index(model.choose(model._encoded_table(frame).batch()).codes)
    group = model.codec.groups_of(model._encoded_table(frame).batch())
    for g in range(2):
        seen = torch.bincount(index[group == g], minlength=fair.states.num_states).double()
        assert exact_distance(seen / seen.sum(), fair.table[g]).value < 0.35
    assert torch.equal(fair.states.index(fair.states.codes(index)), index)


# ---- frames and commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("representation", ["points", "states"])
def test_encode_and_decode_on_the_command_line(
    representation: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = request.getfixturevalue(representation)
    frame = (stripes if representation == "points" else finite)(40, 5)
    model.save(tmp_path / "model.ckpt")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    run, rows, codes, back = (str(tmp_path / name) for name in ("model.ckpt", "rows.csv", "codes.csv", "back.csv"))
    assert main(["encode", run, rows, "-o", codes, "--seed", "3"]) == 0
    columns = ["z1", "z2"] if representation == "points" else ["one", "two", "three"]
    assert list(pd.read_csv(codes).columns) == columns
    assert main(["encode", run, codes, "--decode", "-o", back]) == 2
    assert "--keep group" in capsys.readouterr().err
    kept = ["--keep", "group,label", "--overwrite"]
    assert main(["encode", run, rows, "-o", codes, "--seed", "3", *kept]) == 0
    assert "no fair representation" in capsys.readouterr().out
    assert main(["encode", run, codes, "--decode", "-o", back, "--seed", "3"]) == 0
    again = pd.read_csv(back)
    pd.testing.assert_frame_equal(again, frame[list(again.columns)], atol=1e-6)
    assert main(["encode", run, rows, "-o", codes, "--keep", "nothing", "--overwrite"]) == 2
    assert "no column 'nothing' to keep" in capsys.readouterr().err


def test_encode_needs_a_fair_flow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = stripes(100, 0)[["x", "y"]]
    genzoo.fit(frame, model="gaussian").save(tmp_path / "m.ckpt")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert main(["encode", str(tmp_path / "m.ckpt"), str(tmp_path / "rows.csv"), "-o", str(tmp_path / "z.csv")]) == 2
    assert "Gaussian has no fair representation" in capsys.readouterr().err


def test_section_of_a_report_says_what_the_certificate_rests_on(points: tuple[FairFlow, Table]) -> None:
    model, module = points
    subject = Subject(model=model, test=module.data("test"))
    (section,) = make_sections(subject, ["fairness"])
    assert {m.name for m in section.metrics} >= {"D", "adversary limit", "accuracy", "parity gap", "adversary"}
    assert "fitted group densities" in section.note
    gaps = estimation_gap(model, module.data("test"))
    assert [gap.group for gap in gaps] == ["group=a", "group=b"]
    assert all(abs(gap.value) < 0.5 for gap in gaps)
    other = genzoo.fit(stripes(100, 0)[["x", "y"]], model="gaussian")
    assert make_sections(Subject(model=other, test=module.data("test")), ["fairness"]) == ()


def test_given_the_outcome_rows_are_held_against_draws_and_adversaries_of_their_own_outcome() -> None:
    # labels of the groups differ, and columns given the label do not: nothing is left to guess, and nothing to miss
    rng = np.random.default_rng(1)
    group = rng.integers(0, 2, 2000)
    label = rng.random(2000) < np.where(group == 1, 0.9, 0.1)
    one = np.where(rng.random(2000) < 0.9, label, ~label)
    frame = pd.DataFrame(
        {
            "one": np.array(["p", "q"])[one.astype(int)],
            "two": np.array(["u", "v"])[rng.integers(0, 2, 2000)],
            "group": np.array(["a", "b"])[group],
            "label": np.where(label, "yes", "no"),
        }
    )
    model, module = fitted(frame, density="counts", criterion="odds", gamma=1.0, encoder_epochs=1)
    for gap in estimation_gap(model, module.data("train")):
        assert abs(gap.value) < 4 * gap.se
    (section,) = make_sections(Subject(model=model, test=module.data("train")), ["fairness"])
    numbers = {metric.name: metric.value for metric in section.metrics}
    assert numbers["adversary"] < numbers["adversary limit"] + 0.06
    lines = next(grid for grid in section.grids if "dversaries" in grid.title).lines
    assert {line[0].split(" ", 1)[1] for line in lines} == {"(no)", "(yes)"}


def test_a_rows_number_does_not_depend_on_its_neighbours_labels(points: tuple[FairFlow, Table]) -> None:
    model, _ = points
    frame = stripes(20, 5)
    frame.loc[:9, "label"] = None
    frame.loc[:4, "x"] = np.nan
    together = model.log_prob(frame).values[:10]
    np.testing.assert_array_equal(together, model.log_prob(frame.iloc[:10]).values)


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_densities_that_are_estimated_give_no_certificate() -> None:
    # an estimate's noise would hide the group from the optimal test, and the distance would come out too small
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 65)), columns=[f"x{i}" for i in range(65)])
    schema = module_of(wide.assign(group=["a", "b"] * 30), sensitive=["group"]).schema_dict
    options = {"num_blocks": 1, "hidden": 8}
    with pytest.raises(CapabilityError, match="only estimates densities of 65 features"):
        FairFlow(schema, density="residual_flow", density_args=options)


def test_chances_that_a_limit_fails_add_up_to_the_one_asked_for() -> None:
    def draw(num: int, group: int, seed: int, label: int) -> torch.Tensor:
        return torch.randn(num, 1, generator=torch.Generator().manual_seed(group), dtype=torch.float64) + group

    def log_prob(codes: torch.Tensor, label: int) -> torch.Tensor:
        return -0.5 * (codes - torch.arange(len(names))).square()

    for names in (["a", "b"], ["a", "b", "c"]):
        model: Any = SimpleNamespace(
            codec=SimpleNamespace(group_names=lambda names=names: names),
            labels=[0],
            num_cell_labels=1,
            is_exact=False,
            criterion="parity",
            device="cpu",
            draw_codes=draw,
            code_log_prob=log_prob,
        )
        found = certificate(model, 2000, delta=0.06)
        limits = [d.delta for d in found.pairs.values()]
        if len(names) == 2:  # one and the same event
            assert found.accuracy[""].upper == pytest.approx(found.worst.adversary_bound)
        else:
            limits.append(found.accuracy[""].delta)
        assert sum(limits) == pytest.approx(0.06)


def test_outcomes_are_none_where_no_row_has_one() -> None:
    nothing = np.full(4, -1)
    assert outcomes(CodedRows(np.zeros((4, 1)), np.array([0, 0, 1, 1]), nothing, np.zeros(4, dtype=np.int64))) is None


def test_what_cannot_be_fair_is_said_before_training() -> None:
    frame = stripes(200, 0)
    numbers = frame.assign(age=np.arange(200) + 0.5)

    def make(table: pd.DataFrame, roles: dict[str, Any], **arguments: Any) -> FairFlow:
        return FairFlow(module_of(table, **roles).schema_dict, **arguments)

    with pytest.raises(CapabilityError, match="needs a sensitive column"):
        make(frame, {"outcome": ["label"]})
    with pytest.raises(CapabilityError, match="sensitive column 'age' is continuous"):
        make(numbers, {"sensitive": ["age"]})
    with pytest.raises(CapabilityError, match="needs an outcome column"):
        make(frame, {"sensitive": ["group"]}, criterion="odds")
    with pytest.raises(CapabilityError, match="make 'x' a value"):
        make(frame, {**ROLES, "context": ["x"]})
    with pytest.raises(CapabilityError, match="column 'x' is continuous; cut it"):
        make(frame, ROLES, representation="states")
    with pytest.raises(CapabilityError, match="have 24 states together"):
        make(finite(200, 0), ROLES, representation="states", max_states=10)
    with pytest.raises(CapabilityError, match="coupling"):
        make(frame.assign(n=np.arange(200) % 5), ROLES, density="mixture")
    with pytest.raises(ValueError, match="gamma must lie between 0 and 1"):
        make(frame, ROLES, gamma=1.5)
    with pytest.raises(ValueError, match="favourable must be a category"):
        make(frame, ROLES, criterion="opportunity", favourable="perhaps")


def test_small_groups_and_rows_without_a_state_are_refused_with_their_number(states: tuple[FairFlow, Table]) -> None:
    frame = stripes(300, 0)
    frame.loc[frame.index[frame["group"] == "b"][10:], "group"] = "a"
    with pytest.raises(DataError, match=r"group 'group=b' has \d+ training rows"):
        fitted(frame, **SMALL)
    model, _ = states
    holes = finite(10, 0)
    holes.loc[3, "one"] = None
    with pytest.raises(GenZooError, match="1 of 10 rows have missing or new categories"):
        model.encode(holes)


def test_distance_before_encoding_is_the_closed_form() -> None:
    model = FairFlow(module_of(stripes(2000, 0)).schema_dict, **SMALL)
    module = module_of(stripes(2000, 0))
    model.fit_codec(module)
    batch = module.data("train").batch()
    for part, rows in zip(model.submodels(), model.rows_by_cell(batch), strict=True):
        part.fit_closed_form([rows])
    found = certificate(model, 20_000, delta=DELTA).worst  # encoders begin as the identity
    assert found.value == pytest.approx(2 * norm.cdf(3) - 1, abs=2e-3)
