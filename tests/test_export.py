"""Exported models: the same numbers, opened without Lightning, by every command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands_runs import say

import genzoo
from contract import SMALL, TRAINER, mixed_table
from genzoo.errors import CheckpointError, DataError
from genzoo.models.export import RECORD, WEIGHTS, export_model

pytest.importorskip("safetensors")

KEYS = ("mixture", "maf", "radd", "forest_autoregressive")


@pytest.fixture(scope="module", params=KEYS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each family, saved and exported, with its table."""
    key, folder = request.param, tmp_path_factory.mktemp(request.param)
    frame = mixed_table(200)
    frame.to_csv(folder / "rows.csv", index=False)
    model = genzoo.fit(frame, model=key, max_epochs=TRAINER["max_epochs"], **SMALL[key])
    model.save(folder / "model.ckpt")
    export_model(model, folder / "export")
    return folder


def test_an_exported_model_scores_and_samples_as_the_model_did(place: Path) -> None:
    first, second = genzoo.load(place / "model.ckpt"), genzoo.load(place / "export")
    assert {path.name for path in (place / "export").iterdir()} == {RECORD, WEIGHTS}
    one, two = (model.log_prob(place / "rows.csv") for model in (first, second))
    assert np.array_equal(one.values, two.values)
    assert one.kind == two.kind
    assert first.sample(20, seed=1).equals(second.sample(20, seed=1))


def test_it_opens_where_lightning_is_not_installed(place: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('lightning', 'lightning.pytorch', 'pytorch_lightning'): sys.modules[name] = None\n"
        "import genzoo\n"
        f"model = genzoo.load({str(place / 'export')!r})\n"
        f"print(repr(float(model.log_prob({str(place / 'rows.csv')!r}).values.sum())), len(model.sample(5)))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    total, count = said.stdout.split()
    assert count == "5"
    assert float(total) == float(genzoo.load(place / "model.ckpt").log_prob(place / "rows.csv").values.sum())


def test_every_command_takes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = mixed_table(200)
    frame.to_csv("rows.csv", index=False)
    genzoo.fit(frame, model="independent").save("model.ckpt")
    said = say("export", "model.ckpt", "-o", "out")
    assert said.code == 0, said.err
    assert say("score", "out", "rows.csv").out == say("score", "model.ckpt", "rows.csv").out
    again = say("export", "model.ckpt", "-o", "out")
    assert again.code == 2
    assert "choose another folder" in again.err


def test_a_damaged_export_is_named_and_a_full_folder_is_kept(tmp_path: Path) -> None:
    model = genzoo.fit(mixed_table(100), model="independent")
    export_model(model, tmp_path / "out")
    with pytest.raises(DataError, match="exists"):
        export_model(model, tmp_path)
    (tmp_path / "out" / WEIGHTS).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="export it again"):
        genzoo.load(tmp_path / "out")
