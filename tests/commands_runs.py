"""A toy table and small trained runs that the command-line tests share."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from genzoo.main import main


@dataclass
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


def say(*arguments: object) -> Said:
    """Runs ``genzoo ARGUMENTS`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def toy_table(rows: int = 160, seed: int = 0) -> pd.DataFrame:
    """Two dependent numbers (one with holes) and a category."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    frame = pd.DataFrame(
        {"x": x * 1.2345678, "y": 2 * x + rng.normal(size=rows), "c": rng.choice(["red", "green", "blue"], rows)}
    )
    frame.loc[::16, "y"] = np.nan
    return frame


def write_toy(folder: Path, name: str = "toy.csv", **options: int) -> Path:
    path = folder / name
    toy_table(**options).to_csv(path, index=False)
    return path


QUIET = ("--trainer.enable_progress_bar", "false")
