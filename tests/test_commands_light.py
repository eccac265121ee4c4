"""What the command line says before anything heavy is imported."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands_runs import say

from genzoo.commands.given import read_given
from genzoo.commands.names import DATAMODULES, find_datamodule
from genzoo.commands.parsing import words
from genzoo.main import COMMANDS, WRONG_INPUT

LIGHT = [
    ["--help"],
    ["--version"],
    ["models"],
    ["models", "gaussian"],
    ["schema", "--help"],
    ["sample", "--help"],
    ["impute", "--help"],
    ["encode", "--help"],
    ["score", "--help"],
    ["compare", "--help"],
    ["report", "--help"],
    ["fit", "--help"],
    ["test", "--help"],
    ["nothing"],
    ["fit", "--modle", "x"],
    ["fit", "--model", "gausian"],
    ["fit", "--data", "tabel"],
    ["test"],
    ["sample", "run"],
    ["compare", "x.csv", "--models", "gausian"],
]


def test_help_the_catalogue_and_argument_errors_import_nothing_heavy() -> None:
    script = (
        "import sys\nfrom genzoo.main import main\n"
        f"for argv in {LIGHT!r}:\n"
        "    main(argv)\n"
        "    for heavy in ('torch', 'lightning', 'pandas', 'matplotlib', 'sklearn', 'pyarrow', 'scipy'):\n"
        "        assert heavy not in sys.modules, (argv, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_names_every_command_and_every_command_has_help() -> None:
    said = say("--help")
    assert said.code == 0
    for command in COMMANDS:
        assert command in said.out
        one = say(command, "--help")
        assert one.code == 0, command
        assert f"genzoo {command}" in one.out


def test_no_argument_prints_the_usage_and_fails() -> None:
    said = say()
    assert said.code == WRONG_INPUT
    assert "usage: genzoo" in said.out


def test_models_lists_the_catalogue_and_details_name_paper_and_run() -> None:
    from genzoo.models.catalogue import CATALOGUE

    listed = say("models")
    for key, entry in CATALOGUE.items():
        assert key in listed.out
        one = say("models", key)
        assert entry.paper.split()[0] in one.out if entry.paper else True
        assert f"genzoo fit my.csv --model {key}" in one.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "unknown command 'nothing'"),
        (["compar"], "did you mean 'compare'"),
        (["models", "gausian"], "did you mean 'gaussian'?"),
        (["fit", "--modle", "x"], "has no option '--modle'; did you mean '--model'?"),
        (["fit", "--max_epochs", "3"], "did you mean '--trainer.max_epochs'?"),
        (["fit", "--run-dir", "x"], "did you mean '--run_dir'?"),
        (["fit", "--data.path"], "option --data.path needs a value"),
        (["fit", "my.csv", "more.csv"], "takes one table, got 'more.csv' too"),
        (["fit", "best.ckpt"], "to go on with a run write --ckpt_path best.ckpt"),
        (["fit", "my.csv", "--minutes", "0"], "--minutes takes a number above 0, got '0'"),
        (["test", "--minutes", "1"], "it belongs to genzoo fit"),
        (["fit", "recipe.yaml"], "for a recipe write --config recipe.yaml"),
        (["fit", "--model", "splin_flow"], "unknown model 'splin_flow'; did you mean 'spline_flow'?"),
        (["fit", "--data", "Tabel"], "unknown data source 'Tabel'; did you mean 'Table'?"),
        (["fit", "--ckpt_path", "a", "--warm_start", "b"], "resumes a run"),
        (["test"], "needs a trained model: genzoo test RUN"),
        (["test", "--warm_start", "x"], "belongs to genzoo fit"),
        (["sample", "run", "-n", "0", "-o", "x.csv"], "must be at least 1, got 0"),
        (["sample", "run", "-o", "x.csv"], "say how many rows to draw with -n 1000"),
        (["sample", "run", "-n", "3", "--overwrit", "-o", "x.csv"], "did you mean '--overwrite'?"),
        (["score", "run"], "the following arguments are required: FILE"),
        (["score", "run", "x.csv", "--by", "row"], "invalid choice: 'row'"),
        (["compare", "x.csv", "--models", "gaussian,Gaussian"], "names one model twice"),
        (["compare", "x.csv", "-o", "report.docx"], "end its name with .html"),
    ],
)
def test_wrong_arguments_get_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = say(*arguments)
    assert said.code == WRONG_INPUT
    assert sentence in said.err
    assert said.err.startswith("genzoo: error: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


def test_debug_before_or_after_the_command_shows_the_traceback() -> None:
    from genzoo.commands.parsing import UsageError

    for arguments in (["--debug", "nothing"], ["nothing", "--debug"]):
        with pytest.raises(UsageError):
            say(*arguments)


def test_an_unexpected_error_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: list[str]) -> int:
        raise RuntimeError("cells\nbroke")

    monkeypatch.setattr("genzoo.commands.models.run", broken)
    said = say("models")
    assert said.code == 1
    assert said.err == "genzoo: error: unexpected RuntimeError: cells broke (--debug shows where it happened)\n"


def test_an_interruption_says_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt("the best checkpoint so far is runs/a/best.ckpt")

    monkeypatch.setattr("genzoo.commands.models.run", interrupted)
    said = say("models")
    assert said.code == 130
    assert said.err == "genzoo: interrupted; the best checkpoint so far is runs/a/best.ckpt\n"


def test_a_recipe_resolves_names_and_paths_relative_to_itself(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    recipe = {
        "model": {"class_path": "spline_flow", "init_args": {"lr": 0.01}},
        "data": {"class_path": "Table", "init_args": {"path": "../my.csv", "schema": "s.yaml", "val": 0.2}},
        "seed": 3,
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    given = read_given("fit", ["--config", str(folder / "r.yaml"), "--data.path", "sklearn:wine"])
    layer = given.layers[0]
    assert layer["model"]["class_path"] == "genzoo.models.flows.spline_flow.SplineFlow"
    assert layer["data"]["class_path"] == DATAMODULES["Table"]
    assert layer["data"]["init_args"] == {
        "path": str(tmp_path / "my.csv"), "schema": str(folder / "s.yaml"), "val": 0.2,
    }  # fmt: skip
    assert given.seed == 3
    # a name is no path, and what is typed comes last
    assert given.arguments()[-1] == "--data.path=sklearn:wine"


def test_a_recipe_with_an_unknown_entry_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("modle: gaussian\n")
    said = say("fit", "--config", tmp_path / "r.yaml")
    assert said.code == WRONG_INPUT
    assert "unknown entry 'modle'; did you mean 'model'?" in said.err
    (tmp_path / "r.yaml").write_text("model: {class_path: gaussian, lr: 3}\n")
    assert "put arguments under init_args" in say("fit", "--config", tmp_path / "r.yaml").err
    (tmp_path / "r.yaml").write_text("model: [")
    assert "is not valid YAML" in say("fit", "--config", tmp_path / "r.yaml").err


def test_a_word_without_an_option_is_the_table_or_the_run_and_minutes_are_the_trainers_time() -> None:
    fit = read_given("fit", ["my.csv", "--minutes", "90.5", "--model.lr", "1"])
    assert fit.typed == [
        ("data.path", str(Path.cwd() / "my.csv")), ("trainer.max_time", "00:01:30:30"), ("model.lr", "1")
    ]  # fmt: skip
    assert read_given("fit", ["sklearn:wine"]).typed == [("data.path", "sklearn:wine")]
    assert read_given("test", ["runs/mine"]).typed == [("ckpt_path", "runs/mine")]


def test_a_class_may_be_typed_after_its_arguments() -> None:
    given = read_given("fit", ["--model.lr", "1", "--model", "maf"])
    assert given.arguments() == ["--model=genzoo.models.flows.maf.MAF", "--model.lr=1"]


def test_columns_may_be_typed_with_commas() -> None:
    given = read_given("fit", ["--data.context", "age,sex"])
    assert given.typed == [("data.context", '["age", "sex"]')]


def test_datamodules_are_found_by_any_case_and_a_file_is_not_one(tmp_path: Path) -> None:
    assert find_datamodule("toy") == DATAMODULES["Toy"]
    (tmp_path / "my.csv").write_text("a\n1\n")
    assert f"genzoo fit {tmp_path / 'my.csv'}" in say("fit", "--data", tmp_path / "my.csv").err


@pytest.mark.parametrize("word", ["🙂", "\\ud83d\\ude42", "\\\\🙂", "é\x7f\x85\u2028", "黒", 'a"b\\'])
def test_any_category_of_a_checkpoint_reaches_the_parser_as_it_is(word: str) -> None:
    given = read_given("test", ["--ckpt_path", "x"])
    (line,) = given.arguments([{"model": {"init_args": {"schema": {word: word}}}}])
    assert yaml.safe_load(line.removeprefix("--config=")) == {"model": {"init_args": {"schema": {word: word}}}}


def test_names_that_hold_commas_are_given_as_a_list() -> None:
    assert words("a, b") == ["a", "b"]
    assert words('["a", "b, c"]') == ["a", "b, c"]
    for text in ("[a, b]", '[{"a": 1}]', "[1]"):
        with pytest.raises(argparse.ArgumentTypeError):
            words(text)
