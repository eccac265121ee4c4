"""compare and report: child processes, failures as rows, the same numbers whatever the list."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands_runs import QUIET, say, toy_table, write_toy

import genzoo
from genzoo.main import WRONG_INPUT
from genzoo.reports.stored import load_result, save_result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a comparison of three models, of which one cannot be made."""
    folder = tmp_path_factory.mktemp("compare")
    table = write_toy(folder)
    broken = "genzoo.models.base.DensityModel"
    said = say(
        "compare", table, "--models", f"independent,{broken},gaussian", "-o", folder / "report.html",
        "--run_dir", folder / "work", "--seed", 3, "--jobs", 3, "--samples", 50,
    )  # fmt: skip
    assert said.code == 0, said.err
    (folder / "said.txt").write_text(said.out)
    return folder


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_compare_prints_the_table_and_writes_the_report_and_its_tables(place: Path) -> None:
    said = (place / "said.txt").read_text()
    assert "gaussian" in said
    for name in ("report.html", "report.md", "report.csv", "report.tex"):
        assert (place / name).stat().st_size > 100
        assert str(place / name) in said
    assert "log-likelihood" in (place / "report.html").read_text().lower()


def test_a_model_that_cannot_be_made_is_a_row_with_its_reason(place: Path) -> None:
    said = (place / "said.txt").read_text()
    assert "genzoo.models.base.DensityModel: failed:" in said
    assert "abstract" in (place / "report.html").read_text()


def test_the_runs_of_a_comparison_are_runs_for_every_other_command(place: Path) -> None:
    said = say("sample", place / "work" / "gaussian", "-n", 3, "-o", "s.csv")
    assert said.code == 0, said.err
    said = say("test", "--ckpt_path", place / "work" / "gaussian", *QUIET)
    assert said.code == 0, said.err
    stored = genzoo.LogLikelihood.load(place / "work" / "gaussian" / "test_log_likelihood.parquet")
    assert stored.label() in said.out


def test_a_result_depends_neither_on_the_list_nor_on_its_order(place: Path) -> None:
    said = say("compare", place / "toy.csv", "--models", "gaussian", "--seed", 3, "--run_dir", "w", "-o", "r.csv")
    assert said.code == 0, said.err
    alone = load_result("w/gaussian")
    among = load_result(place / "work" / "gaussian")
    assert alone.likelihood is not None
    assert among.likelihood is not None
    assert np.array_equal(alone.likelihood.values, among.likelihood.values)
    assert np.array_equal(alone.likelihood.rows, among.likelihood.rows)
    jobs = [json.loads((path / "gaussian" / "job.json").read_text()) for path in (Path("w"), place / "work")]
    assert jobs[0]["model"] == jobs[1]["model"]


def test_a_toy_brings_its_oracle(tmp_path: Path) -> None:
    said = say("compare", "toy:two_moons", "--models", "gaussian", "-o", "r.md", "--samples", 0)
    assert said.code == 0, said.err
    assert "oracle" in Path("r.md").read_text()
    assert "leave out --context" in say("compare", "toy:two_moons", "--context", "a", "-o", "q.md").err


def test_report_compares_runs_on_their_test_rows_with_the_numbers_of_the_runs(place: Path) -> None:
    said = say("report", place / "work", "-o", "r.html", "--seed", 3, "--samples", 20)
    assert said.code == 0, said.err
    stored = load_result(place / "work" / "gaussian").likelihood
    assert stored is not None
    with open("r.csv") as file:
        text = file.read()
    assert f"{stored.mean()}"[:10] in text
    assert "independent" in text


def test_report_scores_new_rows_and_refuses_runs_with_other_test_rows(place: Path) -> None:
    toy_table(seed=5).to_csv("new.csv", index=False)
    said = say("report", place / "work" / "gaussian", place / "work" / "independent", "--on", "new.csv", "-o", "n.json")
    assert said.code == 0, said.err
    assert {model["num_rows"] for model in json.loads(Path("n.json").read_text())["models"] if "num_rows" in model} <= {
        160
    }
    assert "learned from" not in said.out
    said = say(
        "report", place / "work" / "gaussian", place / "work" / "independent", "--on", place / "toy.csv", "-o", "o.md"
    )
    assert "is the table that gaussian and independent learned from: most of its rows are no held-out rows" in said.out
    assert "learned from" in Path("o.md").read_text()
    fitted = say(
        "fit", "--model", "gaussian", "--data.path", place / "toy.csv", "--seed", 9, "--run_dir", "other", *QUIET
    )
    assert fitted.code == 0, fitted.err
    said = say("report", place / "work" / "independent", "other", "-o", "x.html")
    assert said.code == WRONG_INPUT
    assert "rows" in said.err
    assert not Path("x.html").exists()


def test_existing_reports_are_refused_before_anything_is_trained(place: Path) -> None:
    Path("r.md").write_text("mine")
    said = say("compare", place / "toy.csv", "--models", "gaussian", "-o", "r.html")
    assert said.code == WRONG_INPUT
    assert "'r.md' exists; choose another name, or add --overwrite" in said.err
    assert Path("r.md").read_text() == "mine"
    assert not Path("runs").exists()


def test_a_comparison_in_which_every_model_fails_ends_with_an_error_and_a_report(place: Path) -> None:
    said = say("compare", place / "toy.csv", "--models", "genzoo.models.base.DensityModel", "-o", "r.md")
    assert said.code == WRONG_INPUT
    assert "no model could be trained" in said.err
    assert "DensityModel" in Path("r.md").read_text()


def test_results_come_back_from_a_folder_as_they_were(place: Path, tmp_path: Path) -> None:
    result = load_result(place / "work" / "gaussian")
    save_result(result, tmp_path / "copy")
    copy = load_result(tmp_path / "copy")
    for name in ("name", "error", "num_parameters", "train_seconds", "sample_rows_per_second", "settings", "curves"):
        assert getattr(copy, name) == getattr(result, name), name
    assert result.likelihood is not None
    assert copy.likelihood is not None
    assert copy.likelihood.values.tolist() == result.likelihood.values.tolist()
    assert copy.samples.equals(result.samples)
    assert (copy.discretised is None) == (result.discretised is None)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_the_children_and_exit_with_130(
    ending: signal.Signals, place: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "genzoo.main", "compare", str(place / "toy.csv"), "--models", "maf", "-o", "r.html",
        "--run_dir", "w",
    ]  # fmt: skip
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # a test run started in the background hands on an ignored Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert started.stdout is not None
    for line in started.stdout:
        if "maf: training" in line:
            break
    time.sleep(0.3)
    started.send_signal(ending)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert err.strip().splitlines()[-1].startswith("genzoo: interrupted; finished: no model; kept in w")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by signal SIGKILL; perhaps memory ran out"),
        ("print('lost'); raise SystemExit(7)", "ended with code 7: lost"),
        ("pass", "holds no complete result"),
    ],
)
def test_a_child_that_dies_is_a_row_that_says_how(script: str, reason: str, tmp_path: Path) -> None:
    from genzoo.commands.jobs import Job, collect

    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=log, stderr=subprocess.STDOUT)
    process.wait(timeout=30)
    result = collect(Job("maf", "genzoo.models.flows.maf.MAF", folder=tmp_path, process=process))
    assert result.name == "maf"
    assert result.likelihood is None
    assert reason in str(result.error)


def test_all_takes_every_model_that_accepts_the_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from genzoo.commands.compare import accepting
    from genzoo.models.catalogue import CATALOGUE

    models = {key: entry.class_path for key, entry in CATALOGUE.items()}
    kept = accepting(models, genzoo.load(place / "work" / "gaussian").schema)
    lines = capsys.readouterr().out.splitlines()
    assert set(models) - set(kept) == {"fair_flow", "interventional_flow"}
    reasons = [line.partition(" needs")[0].strip() for line in lines]
    assert sorted(reasons) == ["left out: fair_flow", "left out: interventional_flow"]
    said = say("compare", place / "toy.csv", "--models", "all,gaussian")
    assert said.code == WRONG_INPUT
    assert "name no other beside it" in said.err
