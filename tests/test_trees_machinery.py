"""The ensemble machinery: bytes that do not depend on the workers, groups under the Trainer, resume, refusal."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import xgboost
from lightning.pytorch.callbacks import Callback

import genzoo
from contract import mixed_table
from genzoo.datamodules.table import Table
from genzoo.errors import CheckpointError, GenZooError
from genzoo.models.training import make_trainer, train
from genzoo.models.trees.forest_autoregressive import ForestAutoregressive
from genzoo.trees.boosting import Examples, Growth, _start_loss, grow, grow_on, margin, quantised
from genzoo.trees.hierarchy import balanced, huffman
from genzoo.trees.pool import run_jobs
from genzoo.trees.store import BoosterStore, array_bytes


def examples(seed: int = 0, num_rows: int = 400) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    start = 0.1 * rng.normal(size=num_rows)
    return Examples(x, (np.nan_to_num(x[:, 0]) + start > 0).astype(np.float32), start)


def module() -> Table:
    made = Table(frame=mixed_table(), seed=0)
    made.setup("fit")
    return made


def forest(**arguments: Any) -> ForestAutoregressive:
    return ForestAutoregressive(schema=module().schema_dict, **({"rounds": 15} | arguments))


def parts(model: Any) -> dict[str, dict[str, bytes]]:
    return {job: model.store.raw(job) for job in model.jobs}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_jobs_whatever_the_number_of_workers(workers: int) -> None:
    def slow_first(job: int) -> int:
        np.linalg.eigvalsh(np.ones((60 - 10 * job, 60 - 10 * job)))
        return job * job

    assert run_jobs(slow_first, range(6), workers) == [0, 1, 4, 9, 16, 25]


def test_the_error_of_a_job_reaches_the_caller() -> None:
    def fails(job: int) -> int:
        if job == 3:
            raise GenZooError("job three")
        return job

    with pytest.raises(GenZooError, match="job three"):
        run_jobs(fails, range(8), 2)


def test_boosters_are_bit_equal_for_any_number_of_workers_and_groups(tmp_path: Path) -> None:
    found = []
    for workers, groups in ((1, 1), (2, 3), (4, 10)):
        model = forest(workers=workers, groups=groups, seed=2)
        make_trainer(tmp_path / str(workers), progress=False, max_epochs=20).fit(model, datamodule=module())
        assert model.ready
        found.append(parts(model))
    assert found[0] == found[1] == found[2]
    assert any("booster" in part for part in found[0].values()), "some trees were grown"


def test_fewer_epochs_than_groups_still_complete_the_ensemble(tmp_path: Path) -> None:
    model = forest(groups=10)
    make_trainer(tmp_path, progress=False, max_epochs=2).fit(model, datamodule=module())
    assert model.ready


def test_a_killed_run_resumes_to_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = forest(groups=4, seed=1)
    make_trainer(tmp_path / "whole", progress=False).fit(whole, datamodule=module())

    class Kill(Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.current_epoch == 2:
                raise RuntimeError("killed")

    cut = forest(groups=4, seed=1)
    with pytest.raises(RuntimeError, match="killed"):
        make_trainer(tmp_path / "cut", progress=False, callbacks=[Kill()]).fit(cut, datamodule=module())
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    half = genzoo.load(last)
    assert 0 < len(half.store) < len(half.jobs)
    with pytest.raises(GenZooError, match=r"is not complete: \d of \d parts are missing"):
        half.log_prob(mixed_table())
    with pytest.raises(GenZooError, match="is not complete"):
        half.sample(3)
    with pytest.raises(GenZooError, match="is not complete"):
        half.impute(mixed_table())
    rest = forest(groups=4, seed=1)
    make_trainer(tmp_path / "rest", progress=False).fit(
        rest, datamodule=module(), ckpt_path=str(last), weights_only=True
    )
    assert parts(rest) == parts(whole)
    frame = mixed_table(50)
    np.testing.assert_array_equal(rest.log_prob(frame).values, whole.log_prob(frame).values)


def test_the_best_checkpoint_is_the_complete_ensemble(tmp_path: Path) -> None:
    model = train(forest(groups=3), module(), tmp_path, progress=False)
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    again = genzoo.load(tmp_path)
    assert again.ready
    assert parts(again) == parts(model)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_run_without_validation_rows_keeps_its_last_epoch() -> None:
    model = genzoo.fit(mixed_table(120), model="forest_autoregressive", data={"val": 0.0}, rounds=5, groups=2)
    assert model.ready
    assert np.isfinite(model.log_prob(mixed_table(20)).values).all()


def test_boosters_are_one_flat_tensor_beside_the_state_dict() -> None:
    model = genzoo.fit(mixed_table(), model="forest_autoregressive", rounds=5)
    state = model.extra_state_for_checkpoint()["genzoo_boosters"]
    assert state["bytes"].dtype == torch.uint8
    assert state["bytes"].ndim == 1
    assert int(state["offsets"][-1]) == len(state["bytes"]) == model.store.num_bytes
    assert not any(value.dtype == torch.uint8 for value in model.state_dict().values())
    assert parts(model) == {job: BoosterStore.from_state(state).raw(job) for job in model.jobs}
    state["bytes"] = state["bytes"][:-1]
    with pytest.raises(CheckpointError, match="offsets do not fit"):
        BoosterStore.from_state(state)


def test_a_loaded_model_outlives_the_file_it_came_from(tmp_path: Path) -> None:
    model = genzoo.fit(mixed_table(), model="forest_autoregressive", rounds=5, run_dir=tmp_path)
    again = genzoo.load(tmp_path)
    path = tmp_path / "checkpoints" / "best.ckpt"
    (tmp_path / "other").write_bytes(b"x" * path.stat().st_size)
    (tmp_path / "other").replace(path)  # as a new checkpoint takes the place of an old one
    assert parts(again) == parts(model)
    np.testing.assert_array_equal(again.log_prob(mixed_table(20)).values, model.log_prob(mixed_table(20)).values)
    travelled = pickle.loads(pickle.dumps(again.store))
    assert {job: travelled.raw(job) for job in model.jobs} == parts(model)


def test_a_copied_store_predicts_as_the_original() -> None:
    store = BoosterStore()
    rows = examples()
    store.put("a", {"booster": grow(rows, None, Growth(rounds=4), "binary:logistic", 0).blob, "x": array_bytes([1, 2])})
    other = copy.deepcopy(store)
    np.testing.assert_array_equal(
        margin(other.booster("a", "booster"), rows.features), margin(store.booster("a", "booster"), rows.features)
    )
    np.testing.assert_array_equal(other.array("a", "x"), [1.0, 2.0])


def test_without_xgboost_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(GenZooError, match=r"genzoo\[trees\]"):
        forest()


def test_the_catalogue_does_not_import_xgboost() -> None:
    code = "import sys, genzoo.models.catalogue; sys.exit('xgboost' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- what is relied on in XGBoost ------------------------------------------------------------------------------------


def test_a_starting_margin_is_no_part_of_what_is_predicted() -> None:
    rows = examples()
    booster = xgboost.Booster()
    booster.load_model(bytearray(grow(rows, None, Growth(rounds=6), "binary:logistic", 0).blob))
    start = xgboost.DMatrix(rows.features, base_margin=rows.margin)
    np.testing.assert_allclose(
        margin(booster, rows.features), booster.predict(start, output_margin=True) - rows.margin, atol=1e-6
    )


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror", "reg:gamma"])
def test_the_loss_before_the_first_tree_is_the_one_xgboost_prints(objective: Any) -> None:
    rows = examples()
    weight = np.random.default_rng(1).random(len(rows))
    target = rows.target if objective == "binary:logistic" else rows.target + 0.3
    rows = Examples(rows.features, target, rows.margin, weight)
    record: dict[str, Any] = {}
    matrix = quantised(rows.features, 64)
    matrix.set_label(rows.target)
    matrix.set_base_margin(rows.margin)
    matrix.set_weight(weight)
    parameters = Growth(eta=1e-9).parameters(objective, 0)
    xgboost.train(parameters, matrix, 1, evals=[(matrix, "rows")], evals_result=record, verbose_eval=False)
    assert next(iter(record["rows"].values()))[0] == pytest.approx(_start_loss(rows, objective), rel=1e-5)


def test_stopping_keeps_the_round_with_the_least_held_out_loss() -> None:
    train_rows, held_out = examples(0), examples(1)
    growth = Growth(rounds=60, eta=0.5, min_child_weight=0.1, patience=60)
    grown = grow(train_rows, held_out, growth, "binary:logistic", 0)
    assert 0 < grown.rounds < 60
    every = grow(train_rows, None, growth, "binary:logistic", 0)
    booster = xgboost.Booster()
    booster.load_model(bytearray(every.blob))

    def loss(rounds: int) -> float:
        logit = margin(booster[:rounds], held_out.features) + held_out.margin
        return float(np.mean(np.logaddexp(0, logit) - held_out.target * logit))

    assert grown.rounds == min(range(1, 61), key=loss)
    assert grown.held_out is not None
    assert grown.held_out[1] == pytest.approx(loss(grown.rounds), abs=1e-6)


def test_no_tree_is_kept_when_none_helps() -> None:
    rng = np.random.default_rng(0)
    noise = Examples(rng.normal(size=(200, 2)).astype(np.float32), (rng.random(200) < 0.5).astype(np.float32))
    other = Examples(noise.features, 1 - noise.target)
    assert grow(noise, other, Growth(rounds=20, eta=0.5), "binary:logistic", 0).blob == b""


def test_one_binned_matrix_serves_one_target_after_the_other() -> None:
    first, second = examples(0), examples(0)
    second = Examples(first.features, 1 - first.target, None, np.ones(len(first)))
    matrix = quantised(first.features, 64)
    growth = Growth(rounds=5)
    one = grow_on(matrix, first, None, growth, "binary:logistic", 0)
    grow_on(matrix, second, None, growth, "binary:logistic", 0)
    assert grow_on(matrix, first, None, growth, "binary:logistic", 0).blob == one.blob
    assert grow(first, None, growth, "binary:logistic", 0).blob == one.blob


# ---- trees over leaves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [balanced, huffman])
@pytest.mark.parametrize("num_leaves", [1, 2, 3, 17])
def test_leaves_sum_to_one_and_without_a_classifier_are_the_marginal(build: Any, num_leaves: int) -> None:
    mass = np.random.default_rng(num_leaves).random(num_leaves) ** 4 + 1e-6
    tree = build(mass)
    leaf = np.arange(num_leaves)
    plain = np.exp(tree.log_prob(leaf, lambda rows, nodes: np.zeros(len(rows))))
    np.testing.assert_allclose(plain, mass / mass.sum(), rtol=1e-12)
    push = np.random.default_rng(0).normal(size=max(num_leaves, 2)) * 5
    bent = np.exp(tree.log_prob(leaf, lambda rows, nodes: push[nodes]))
    assert bent.sum() == pytest.approx(1.0, abs=1e-12)


def test_draws_from_a_tree_have_the_frequencies_of_its_leaves() -> None:
    mass = np.array([0.5, 0.2, 0.05, 0.25])
    push = np.array([0.4, -1.0, 0.3])
    tree = balanced(mass)
    probability = np.exp(tree.log_prob(np.arange(4), lambda rows, nodes: push[nodes]))
    drawn = tree.draw(np.random.default_rng(0).random((40_000, tree.depth)), lambda rows, nodes: push[nodes])
    counts = np.bincount(drawn, minlength=4)
    z = (counts - 40_000 * probability) / np.sqrt(40_000 * probability * (1 - probability))
    assert np.abs(z).max() < 4.5


def test_the_balanced_tree_keeps_order_and_is_shallow_and_huffman_is_short() -> None:
    mass = np.ones(64)
    tree = balanced(mass)
    assert tree.depth == 6
    assert sorted(tree.features[:, 0].astype(int).tolist()) == list(range(63))
    skewed = 0.5 ** np.arange(1, 9)
    lengths = (huffman(skewed).nodes >= 0).sum(1)
    assert lengths[0] == 1
    entropy = -np.sum(skewed / skewed.sum() * np.log2(skewed / skewed.sum()))
    assert np.sum(skewed / skewed.sum() * lengths) == pytest.approx(entropy, abs=0.1)
    assert math.isfinite(entropy)
