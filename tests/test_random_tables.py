"""Every command, with defaults, on any table: a result, or one clear sentence (see ``robustness.py``).

A handful of tables by default; all of them with ``make test-slow``. Only the number of epochs is below the default.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from random_tables import FORMS, broken_files, random_table, wide_table, write_form, write_random
from robustness import MODELS, describe, run, walk

REFUSED = ("no column to model", "cannot be split", "has 1 row", "too many to learn", "mixes numbers and text")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENZOO_CACHE", str(tmp_path / "cache"))


def held(path: Path, folder: Path, **options: object) -> list[str]:
    """Walks a table, asserts that no command is at fault, and gives the sentences of those that refused it."""
    work = folder / "work"
    work.mkdir()
    endings = walk(path, work, **options)  # type: ignore[arg-type]
    assert not describe(endings), describe(endings)
    noisy = [(ending.command, ending.warnings) for ending in endings if ending.warnings]
    assert not noisy, noisy
    return [ending.sentence for ending in endings if ending.code]


QUICK_RANDOM = (1,)
QUICK_WIDE = (8, 34)
QUICK_MODELS = ("independent", "gaussian", "spline_flow")


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=() if s in QUICK_RANDOM else pytest.mark.slow) for s in range(200)]
)
def test_every_command_ends_well_on_a_random_table(tmp_path: Path, seed: int) -> None:
    models = QUICK_MODELS if seed in QUICK_RANDOM else MODELS
    for sentence in held(write_random(random_table(seed), tmp_path, seed), tmp_path, models=models):
        assert any(words in sentence for words in REFUSED), sentence


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=() if s in QUICK_WIDE else pytest.mark.slow) for s in range(120)]
)
def test_every_command_ends_well_on_a_table_with_more_types_and_file_forms(tmp_path: Path, seed: int) -> None:
    models = QUICK_MODELS if seed in QUICK_WIDE else MODELS
    held(write_form(wide_table(seed), tmp_path, f"table{seed}", FORMS[seed % len(FORMS)]), tmp_path, models=models)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(27))
def test_every_command_gives_a_result_on_each_of_the_small_sets(tmp_path: Path, shared_data: Path, number: int) -> None:
    path = sorted((shared_data / "forestdiffusion27").glob("*.parquet"))[number]
    assert held(path, tmp_path) == []


def test_a_file_that_is_no_table_gets_one_sentence_from_every_command_that_reads_it(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    files = broken_files(tmp_path)
    for name, path in files.items():
        target = work / "out.yaml"
        endings = [
            run("schema", path, "-o", target, promised=[target]),
            run("compare", path, "--run_dir", work / "zoo", "-o", work / "r.md", promised=[work / "r.md"]),
            run("fit", "--data.path", path, "--model", "independent", "--run_dir", work / "run"),
        ]
        assert not describe(endings), describe(endings)
        assert [ending.code for ending in endings[1:]] == [2, 2], name
        if endings[0].code == 0:  # genzoo schema shows tables that hold nothing to model
            target.unlink()
        assert not list(work.iterdir()), f"{name}: {list(work.iterdir())}"


def test_a_model_refuses_files_that_are_no_table_in_one_sentence(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    files = broken_files(tmp_path)
    table = tmp_path / "whole.parquet"
    fitted = run("fit", "--data.path", table, "--model", "independent", "--run_dir", tmp_path / "run")
    assert fitted.code == 0, fitted.err
    for name, path in files.items():
        target = work / "out.csv"
        endings = [
            run("score", tmp_path / "run", path, "-o", target, promised=[target]),
            run("impute", tmp_path / "run", path, "-o", target, "--overwrite", promised=[target]),
            run("sample", tmp_path / "run", "--given", path, "-o", target, "--overwrite", promised=[target]),
            run("report", tmp_path / "run", "--on", path, "-o", work / "r.md", "--overwrite", promised=[work / "r.md"]),
        ]
        assert not describe(endings), f"{name}: {describe(endings)}"
        for left in work.iterdir():
            left.unlink()
