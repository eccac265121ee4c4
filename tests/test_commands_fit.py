"""fit, validate, test and predict on a toy table, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from commands_runs import QUIET, say, toy_table, write_toy

import genzoo
from genzoo.main import WRONG_INPUT, main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a fitted Gaussian in ``run``."""
    folder = tmp_path_factory.mktemp("fit")
    table = write_toy(folder)
    said = say("fit", "--model", "gaussian", "--data.path", table, "--run_dir", folder / "run", *QUIET)
    assert said.code == 0, said.err
    (folder / "said.txt").write_text(said.out)
    return folder


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_fit_writes_a_complete_run_folder_and_says_the_test_likelihood(place: Path) -> None:
    run = place / "run"
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml", "schema.yaml", "versions.json", "metrics.csv", "card.md", "test_log_likelihood.parquet",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt",
    }  # fmt: skip
    assert json.loads((run / "versions.json").read_text())["torch"] == torch.__version__
    assert yaml.safe_load((run / "schema.yaml").read_text())["fingerprint"]
    said = (place / "said.txt").read_text()
    stored = genzoo.LogLikelihood.load(run / "test_log_likelihood.parquet")
    logged = pd.read_csv(run / "metrics.csv").dropna(subset=["test/nll"])
    np.testing.assert_allclose(logged[["test/nll", "test/nll_se"]], [[-stored.mean(), stored.se_mean()]], rtol=1e-5)
    assert f"test log-likelihood: {stored.label()} nats per row, mean of {len(stored.values)} rows" in said
    assert str(run) in said


def test_checkpoints_of_the_command_line_hold_plain_values_and_tensors_only(place: Path) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        content = torch.load(place / "run" / "checkpoints" / name, weights_only=True)
        data = content["genzoo"]["training"]["data"]
        assert data["class_path"] == "genzoo.datamodules.table.Table"
        assert data["init_args"]["path"] == str(place / "toy.csv")


def test_test_needs_nothing_but_the_checkpoint_and_repeats_the_number(place: Path) -> None:
    fitted = genzoo.LogLikelihood.load(place / "run" / "test_log_likelihood.parquet")
    for run in (place / "run", place / "run" / "checkpoints" / "best.ckpt"):
        said = say("test", "--ckpt_path", run, *QUIET)
        assert said.code == 0, said.err
        assert f"test log-likelihood: {fitted.label()}" in said.out
    written = sorted(Path("runs").glob("*/test_log_likelihood.parquet"))
    assert len(written) == 2
    assert genzoo.LogLikelihood.load(written[0]).values.tolist() == fitted.values.tolist()


def test_validate_writes_nothing_and_predict_writes_a_number_a_row(place: Path) -> None:
    said = say("validate", "--ckpt_path", place / "run", *QUIET)
    assert said.code == 0, said.err
    assert "validation log-likelihood: -" in said.out
    assert list(Path.cwd().iterdir()) == []
    said = say("predict", "--ckpt_path", place / "run", "--run_dir", "out", *QUIET)
    assert said.code == 0, said.err
    assert len(pd.read_parquet("out/test_log_likelihood.parquet")) == 24


def test_what_is_typed_wins_over_the_checkpoint(place: Path) -> None:
    said = say("test", "--ckpt_path", place / "run", "--data.test", "0.5", "--data.val", "0.1", *QUIET)
    assert said.code == 0, said.err
    assert "mean of 80 rows" in said.out
    said = say("test", "--ckpt_path", place / "run", "--model", "maf")
    assert said.code == WRONG_INPUT
    assert "holds a Gaussian, and --model asks for MAF" in said.err


def test_data_changed_since_training_are_noticed_and_read_with_the_models_schema(tmp_path: Path) -> None:
    table = write_toy(tmp_path)
    assert say("fit", "--model", "gaussian", "--data.path", table, "--run_dir", "run", *QUIET).code == 0
    frame = toy_table(seed=1)
    frame["y"] = frame["y"].round(1)  # would be read as a grid of its own
    frame.loc[3, "c"] = "purple"
    frame.to_csv(table, index=False)
    said = say("test", "--ckpt_path", "run", *QUIET)
    assert said.code == 0, said.err
    assert "warning: 'toy' has changed since the model was trained" in said.out


def test_another_table_than_the_checkpoints_is_refused_when_columns_are_missing(place: Path, tmp_path: Path) -> None:
    toy_table().drop(columns="y").to_csv("other.csv", index=False)
    said = say("test", "--ckpt_path", place / "run", "--data.path", "other.csv", *QUIET)
    assert said.code == WRONG_INPUT
    assert "'y'" in said.err


def test_the_stored_configuration_repeats_the_run(place: Path) -> None:
    said = say("fit", "--config", place / "run" / "config.yaml", "--run_dir", "again", *QUIET)
    assert said.code == 0, said.err
    first = genzoo.LogLikelihood.load(place / "run" / "test_log_likelihood.parquet")
    again = genzoo.LogLikelihood.load("again/test_log_likelihood.parquet")
    assert again.values.tolist() == first.values.tolist()


def test_a_run_folder_is_never_used_twice(place: Path) -> None:
    said = say("fit", "--model", "gaussian", "--data.path", place / "toy.csv", "--run_dir", place / "run", *QUIET)
    assert said.code == WRONG_INPUT
    assert "a run is never overwritten, choose another --run_dir" in said.err
    for _ in range(2):
        assert say("fit", "--model", "gaussian", "--data.path", place / "toy.csv", *QUIET).code == 0
    names = sorted(path.name for path in Path("runs").iterdir())
    assert len(names) == 2
    assert names[1] == f"{names[0]}-2"


def test_without_a_logger_nothing_is_written_outside_the_run_folder(place: Path) -> None:
    said = say(
        "fit",
        "--model",
        "gaussian",
        "--data.path",
        place / "toy.csv",
        "--trainer.logger",
        "false",
        "--run_dir",
        "r",
        *QUIET,
    )
    assert said.code == 0, said.err
    assert [path.name for path in Path.cwd().iterdir()] == ["r"]
    assert not (Path("r") / "metrics.csv").exists()


def test_seed_sets_the_seed_of_data_and_model_unless_one_is_typed(place: Path) -> None:
    said = say("fit", "--model", "maf", "--data.path", place / "toy.csv", "--seed", 7, "--print_config")
    assert said.code == 0, said.err
    config = yaml.safe_load(said.out)
    assert config["model"]["init_args"]["seed"] == 7
    assert config["data"]["init_args"]["seed"] == 7
    said = say(
        "fit", "--model", "maf", "--data.path", place / "toy.csv", "--seed", 7, "--model.seed", 1, "--print_config"
    )
    assert yaml.safe_load(said.out)["model"]["init_args"]["seed"] == 1
    assert "trained" not in said.out
    assert "--seed takes a whole number, got 'x'" in say("fit", "--data.path", place / "toy.csv", "--seed", "x").err


def test_a_recipe_trains_a_table_named_relative_to_it(place: Path, tmp_path: Path) -> None:
    recipe = {
        "model": {"class_path": "maf", "init_args": {"hidden": 8, "num_transforms": 1}},
        "data": {"class_path": "Table", "init_args": {"path": "toy.csv"}},
        "trainer": {"max_epochs": 1},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    said = say("fit", "--config", place / "recipe.yaml", "--model.hidden", 16, "--run_dir", "run", *QUIET)
    assert said.code == 0, said.err
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)["genzoo"]
    assert content["init_args"]["hidden"] == 16
    assert content["init_args"]["num_transforms"] == 1


def test_resuming_ends_as_the_uninterrupted_run(place: Path) -> None:
    small = ("--model", "maf", "--model.hidden", 8, "--model.num_transforms", 1, "--data.path", place / "toy.csv")
    assert say("fit", *small, "--trainer.max_epochs", 4, "--run_dir", "whole", *QUIET).code == 0
    assert say("fit", *small, "--trainer.max_epochs", 2, "--run_dir", "half", *QUIET).code == 0
    said = say("fit", "--ckpt_path", "half", "--trainer.max_epochs", 4, "--run_dir", "rest", *QUIET)
    assert said.code == 0, said.err
    for name in ("best.ckpt", "last.ckpt"):
        whole = torch.load(f"whole/checkpoints/{name}", weights_only=True)["state_dict"]
        rest = torch.load(f"rest/checkpoints/{name}", weights_only=True)["state_dict"]
        for key, value in whole.items():
            assert torch.equal(value, rest[key]), (name, key)


def test_a_warm_start_keeps_the_weights_and_begins_counting_anew(place: Path) -> None:
    small = ("--model", "maf", "--model.hidden", 8, "--model.num_transforms", 1, "--data.path", place / "toy.csv")
    assert say("fit", *small, "--trainer.max_epochs", 3, "--run_dir", "first", *QUIET).code == 0
    said = say(
        "fit", "--warm_start", "first", "--trainer.max_epochs", 1, "--model.lr", "1e-9", "--run_dir", "w", *QUIET
    )
    assert said.code == 0, said.err
    first = torch.load("first/checkpoints/best.ckpt", weights_only=True)
    warm = torch.load("w/checkpoints/best.ckpt", weights_only=True)
    assert warm["epoch"] == 0
    for key, value in first["state_dict"].items():
        if value.is_floating_point():
            assert torch.allclose(value, warm["state_dict"][key], atol=1e-6), key


def test_an_interrupted_fit_says_which_checkpoint_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genzoo.models.base import DensityModel

    seen = []

    def interrupt(self: DensityModel) -> None:
        seen.append(self.trainer.current_epoch)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(DensityModel, "on_train_epoch_start", interrupt, raising=False)
    small = ("--model", "maf", "--model.hidden", 8, "--model.num_transforms", 1, "--data.path", place / "toy.csv")
    said = say("fit", *small, "--run_dir", "run", *QUIET)
    assert said.code == 130
    assert "the best checkpoint so far is" in said.err
    assert genzoo.load("run").ready


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model.hiden", "3"], "MAF has no option '--model.hiden'; did you mean '--model.hidden'"),
        (["--trainer.max_epoch", "3"], "the Trainer has no option '--trainer.max_epoch'"),
        (["--data.batchsize", "3"], "did you mean '--data.batch_size'"),
        (["--model.schedule", "fast"], "--model.schedule fast: expected one of ['plateau', 'cosine', 'constant']"),
        (["--trainer.max_epochs", "x"], "--trainer.max_epochs x: expected a whole number"),
        (["--trainer.gradient_clip_val", "1"], "use --model.gradient_clip"),
        (["--trainer.precision", "64-true"], "use --trainer.precision bf16-mixed or 32-true"),
        (["--data.context", "nope"], "'nope'"),
        (["--model", "json.JSONDecoder"], "json.JSONDecoder"),
        (["--model", "nowhere.Model"], "--model nowhere.Model cannot be imported"),
    ],
)
def test_wrong_options_are_named(place: Path, arguments: list[str], sentence: str) -> None:
    said = say("fit", "--model", "maf", "--data.path", place / "toy.csv", *arguments, *QUIET)
    assert said.code == WRONG_INPUT, said.out
    assert sentence in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "is empty"), ("a,b\n", "has a header but no rows"), ("a,a\n1,2\n3,4\n", "more than one column named 'a'")],
)
def test_tables_that_cannot_be_used_are_refused_in_one_sentence(text: str, sentence: str) -> None:
    Path("bad.csv").write_text(text)
    said = say("fit", "--model", "gaussian", "--data.path", "bad.csv", *QUIET)
    assert said.code == WRONG_INPUT
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["2024", "null", "1e5"])
def test_a_table_named_like_a_number_and_a_hash_of_digits_stay_text(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    digits = SimpleNamespace(update=lambda piece: None, hexdigest=lambda: "1234567890123456" * 4)
    monkeypatch.setattr("genzoo.tables.fingerprint.hashlib", SimpleNamespace(sha256=lambda *bytes: digits))
    monkeypatch.setenv("GENZOO_CACHE", "cache")
    toy_table().to_csv(f"{name}.csv", index=False)
    fitted = say("fit", "--model", "independent", "--data.path", f"{name}.csv", "--run_dir", "r", *QUIET)
    assert fitted.code == 0, fitted.err
    tested = say("test", "--ckpt_path", "r", *QUIET)
    assert (tested.code, tested.err) == (0, "")
    assert "changed" not in tested.out


def test_a_truncated_or_foreign_checkpoint_is_refused(place: Path) -> None:
    whole = (place / "run" / "checkpoints" / "best.ckpt").read_bytes()
    Path("cut.ckpt").write_bytes(whole[: len(whole) // 2])
    assert "is not a readable checkpoint" in say("test", "--ckpt_path", "cut.ckpt").err
    torch.save({"weights": torch.zeros(2)}, "foreign.ckpt")
    assert "is a checkpoint of another program" in say("test", "--ckpt_path", "foreign.ckpt").err
    assert "no run folder or checkpoint at 'none'" in say("test", "--ckpt_path", "none").err


def test_help_of_one_class_lists_its_arguments_without_the_schema() -> None:
    said = say("fit", "--model.help", "maf")
    assert said.code == 0
    assert "--model.num_transforms" in said.out
    assert "--model.schema " not in said.out
    assert "--trainer.max_epochs" in say("fit", "--help_all").out


def test_a_benchmark_is_reported_in_its_own_and_in_original_units(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from genzoo.datamodules.uci import UCIBenchmark

    data = [
        "--data",
        "UCIBenchmark",
        "--data.name",
        "miniboone_1523",
        "--data.path",
        str(shared_data / "miniboone_1523"),
    ]
    assert main(["fit", "--model", "gaussian", *data, "--run_dir", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    benchmark = next(line for line in lines if line.startswith("test log-likelihood")).split()[2]
    original = next(line for line in lines if "in original units" in line).split("units: ")[1].split()[0]
    constant = UCIBenchmark("miniboone_1523", str(shared_data / "miniboone_1523")).log_scale
    assert float(benchmark) - float(original) == pytest.approx(constant, abs=0.11)  # printed with one decimal


def test_what_a_model_says_of_the_table_is_the_whole_message(place: Path) -> None:
    said = say("fit", "--model", "fair_flow", "--data.path", place / "toy.csv", *QUIET)
    assert said.code == 2
    assert said.err.startswith("genzoo: error: FairFlow needs a sensitive column")
    assert "Union" not in said.err
    assert said.err.count("\n") == 1


def test_a_run_that_is_refused_leaves_no_folder(place: Path) -> None:
    said = say("fit", "--model", "maf", "--data.path", place / "toy.csv", "--trainer.precision", "64-true", *QUIET)
    assert said.code == WRONG_INPUT
    assert "precision '64-true'" in said.err
    assert not any(Path("runs").glob("*"))
