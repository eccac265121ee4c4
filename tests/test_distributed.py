"""Two CPU processes give the likelihood of one and count every row once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genzoo.likelihood.log_likelihood import LogLikelihood

pytestmark = pytest.mark.slow


def genzoo(*arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "genzoo.main", *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_test_every_row_once_with_the_numbers_of_one(tmp_path: Path) -> None:
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
    data = ["--data", "Table", "--data.path", "sklearn:iris", "--trainer.max_epochs", "2"]
    genzoo("fit", "--model", "maf", *data, *two, "--run_dir", "run", folder=tmp_path)
    genzoo("test", "--ckpt_path", "run", "--run_dir", "one", folder=tmp_path)
    genzoo("test", "--ckpt_path", "run", *two, "--run_dir", "two", folder=tmp_path)
    one = LogLikelihood.load(tmp_path / "one" / "test_log_likelihood.parquet")
    both = LogLikelihood.load(tmp_path / "two" / "test_log_likelihood.parquet")
    np.testing.assert_array_equal(both.rows, one.rows)
    np.testing.assert_allclose(both.values, one.values, rtol=0, atol=1e-5)
