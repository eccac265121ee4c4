"""What the documentation tells a reader to type is accepted, and its example model trains."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from commands_runs import QUIET, say

import genzoo
from genzoo.models.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "howto").glob("*.md"))]
HOWTO = sorted((ROOT / "docs" / "howto").glob("*.md"))
SLOW = {
    "fair_representation",  # some training is needed before there is anything to see
    "treatment_effects",
    "serve",  # an ONNX file takes half a minute
}

IMPORTS = """
import math
from typing import Any

import torch
from torch import nn

import genzoo
from genzoo.codecs.vector import VectorCodec
from genzoo.models.capabilities import Capabilities
from genzoo.models.scoring import ModelLogProb
"""


def typed_lines() -> list[str]:
    """Every line of a code block that begins with ``genzoo``, without comments."""
    lines = []
    for page in PAGES:
        for block in re.findall(r"```(?:text)?\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S):
            lines += [line.split("  #")[0].strip() for line in block.splitlines() if line.startswith("genzoo ")]
    return sorted(set(lines))


def test_the_pages_show_commands() -> None:
    assert len(typed_lines()) > 15


@pytest.mark.parametrize("line", typed_lines())
def test_commands_of_the_pages_name_options_and_models_that_exist(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if re.search(r"sklearn:|genzoo:|toy:|mypackage", line):
        pytest.skip("trains a model; covered by the tests of its command")
    said = say(*shlex.split(line)[1:])
    # the files of the pages do not exist: that is the only complaint allowed
    assert said.code in (0, 2)
    if said.code == 2:
        assert re.search(r"no file|cannot read|no run folder|neither a file nor a folder", said.err), said.err


def test_the_example_model_of_the_pages_trains_scores_and_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", page, flags=re.S)
    assert block is not None
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "__init__.py").write_text("")
    (tmp_path / "mypackage" / "density.py").write_text(IMPORTS + "\n\n" + block.group(1))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pd.DataFrame({"a": rng.normal(5, 2, 200), "b": rng.normal(-1, 3, 200)}).to_csv("my.csv", index=False)
    said = say(
        "fit", "--model", "mypackage.density.MyDensity", "--data.path", "my.csv", "--trainer.max_epochs", 30,
        "--model.lr", 0.05, "--run_dir", "run", *QUIET,
    )  # fmt: skip
    try:
        assert said.code == 0, said.err
        scored = genzoo.load("run").log_prob("my.csv")
    finally:
        for name in ("mypackage", "mypackage.density"):
            sys.modules.pop(name, None)
    # entropy of two normals with sd 2 and 3; 200 rows and a fit leave about 0.1
    assert scored.mean() == pytest.approx(-np.log(2 * 3 * 2 * np.pi * np.e), abs=0.25)
    assert scored.kind == "exact"


def python_blocks(page: Path) -> list[str]:
    """Blocks of Python on a page, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, id=p.stem, marks=pytest.mark.slow if p.stem in SLOW else ())
        for p in [*HOWTO, ROOT / "docs" / "python.md"]
    ],
)
def test_every_block_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page.stem == "serve":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(page)
    assert blocks
    names: dict[str, object] = {"__name__": page.stem}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)
    assert capsys.readouterr().out.strip()  # a page shows something


def test_every_how_to_page_is_found_from_the_first_one() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in HOWTO:
        assert f"howto/{page.stem}\n" in index
        assert page.read_text(encoding="utf-8").splitlines()[2].startswith("After this page")


def configuration() -> ModuleType:
    """``docs/conf.py`` as a module."""
    spec = spec_from_file_location("genzoo_docs_conf", ROOT / "docs" / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_to_choose_by_is_that_of_the_catalogue() -> None:
    page = configuration().choice()
    needs = {line.split(" | ")[0].strip("| "): line for line in page.splitlines()}
    for key, entry in CATALOGUE.items():
        assert f"[`{key}`](#{key.replace('_', '-')})" in page
        for need, has in (
            ("row weights (survey, importance)", entry.capabilities.weights),
            ("missing cells filled in", entry.capabilities.imputes and not entry.capabilities.roles),
            ("codes that hide a sensitive group", key == "fair_flow"),
            ("effects of a treatment", key == "interventional_flow"),
        ):
            assert (f"[`{key}`]" in needs[need]) == has, (key, need)


def test_the_figure_of_kinds_is_what_its_script_draws() -> None:
    said = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "kinds_figure.py")], capture_output=True, text=True, check=True
    )
    assert said.stdout == (ROOT / "docs" / "images" / "kinds.svg").read_text(encoding="utf-8")
