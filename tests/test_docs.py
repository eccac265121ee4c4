"""What the documentation tells a reader to type is accepted, and its example model trains."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands_runs import QUIET, say

import genzoo

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

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
        assert re.search(r"no file|cannot read|no run folder", said.err), said.err


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
