"""doctor, card and tune."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from commands_runs import QUIET, say, write_toy

from genzoo.commands import doctor
from genzoo.errors import GenZooError
from genzoo.models.catalogue import CATALOGUE, model_class
from genzoo.models.search_spaces import SPACES, Choice


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_doctor_finds_this_installation_whole() -> None:
    said = say("doctor")
    assert said.code == 0, said.out
    assert re.search(r"torch +\d", said.out)
    assert "float64 yes" in said.out
    assert "GenZoo can work here" in said.out


def test_doctor_says_what_is_missing_and_what_it_would_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("optuna", "lightning") else "1.0")
    lines, troubles = doctor.check_up()
    assert any("optuna" in line and 'pip install "genzoo[tune]"' in line for line in lines)
    assert [t for t in troubles if "lightning" in t]


def test_a_run_has_a_card_with_its_data_numbers_and_limits(tmp_path: Path) -> None:
    table = write_toy(tmp_path)
    said = say("fit", "--model", "gaussian", "--data.path", table, "--run_dir", "run", *QUIET)
    assert said.code == 0, said.err
    written = Path("run/card.md").read_text()
    said = say("card", "run")
    assert said.code == 0, said.err
    for text in (written, said.out):
        assert "# gaussian on" in text
        assert "## Limits" in text
        assert "The likelihood on this table is" in text
        assert "Test log-likelihood, nats a row" in text
    said = say("card", "run", "-o", "mine.md")
    assert Path("mine.md").read_text().startswith("# gaussian")
    bare = say("card", "run/checkpoints/best.ckpt")
    assert "Fingerprint" in bare.out


def test_spaces_name_arguments_that_the_models_have() -> None:
    from genzoo.commands.parsed import option_names

    for key, space in SPACES.items():
        kind = model_class(CATALOGUE[key].class_path)
        names = option_names("model", f"{kind.__module__}.{kind.__qualname__}")
        assert set(space) <= set(names), key
        for domain in space.values():
            assert isinstance(domain, Choice) or domain.low < domain.high


def test_tune_searches_goes_on_and_writes_a_recipe_that_runs(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    table = write_toy(tmp_path)
    first = say("tune", table, "--model", "mixture", "--trials", 2, "--study", "s.db")
    assert first.code == 0, first.err
    assert "0 of 2 trials are done" in first.out
    again = say("tune", table, "--model", "mixture", "--trials", 4, "--study", "s.db", "-o", "best.yaml")
    assert again.code == 0, again.err
    assert "2 of 4 trials are done" in again.out
    assert "trial 3:" in again.out
    assert "trial 0:" not in again.out
    recipe = yaml.safe_load(Path("best.yaml").read_text())
    assert recipe["model"]["class_path"].endswith("GaussianMixture")
    said = say("fit", "--config", "best.yaml", "--run_dir", "run", *QUIET)
    assert said.code == 0, said.err
    other = say("tune", table, "--model", "maf", "--trials", 1, "--study", "s.db")
    assert other.code == 2
    assert "choose another --study" in other.err


def test_tune_refuses_models_without_a_space_and_missing_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    from genzoo.models.tuning import require_optuna, space_of

    with pytest.raises(GenZooError, match="'independent' has no search space"):
        space_of("independent")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(GenZooError, match=r"genzoo\[tune\]"):
        require_optuna()
