"""Sections beside the likelihood: made by functions, carried as plain data, shown side by side."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from reports_example import comparison

from genzoo.errors import GenZooError
from genzoo.evaluation import sections
from genzoo.evaluation.sections import Curves, Grid, Maker, Metric, Section, Subject, make_sections, section_keys
from genzoo.reports.comparison import ModelResult
from genzoo.reports.stored import load_result, save_result

SECTION = Section(
    "shape",
    metrics=(
        Metric("area", 0.1234, "Area between two curves.", "down", low=0.1, high=0.15),
        Metric("hits", math.nan, "Share of hits.", "up"),
    ),
    grids=(Grid("Columns", ("column", "class"), (("income", "heavy <b>"),), "by hand"),),
    curves=(Curves("Survival", "log x", "log p", {"data": [(0, 1), (1, 0.5)], "model": [(0, 1), (1, 0.4)]}),),
    note="conditional on the fit",
)


def shape(subject: Subject) -> Section | None:
    return None if subject.model is None else SECTION


def broken(subject: Subject) -> Section | None:
    raise GenZooError("column 'income' has no tail")


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "shape": Maker("Shape of things", "What it is.", f"{__name__}:shape"),
        "broken": Maker("Broken", "Never.", f"{__name__}:broken", by_default=False),
    }
    monkeypatch.setattr("genzoo.reports.section_html.MAKERS", known)
    monkeypatch.setattr("genzoo.reports.html.MAKERS", known)
    monkeypatch.setattr(sections, "MAKERS", known)


def test_a_section_travels_through_json_unchanged() -> None:
    back = Section.from_dict(json.loads(json.dumps(SECTION.to_dict())))
    assert repr(back) == repr(dataclasses.replace(SECTION, curves=back.curves))  # nan is not equal to itself
    assert {k: list(v) for k, v in back.curves[0].series.items()} == {
        "data": [(0.0, 1.0), (1.0, 0.5)],
        "model": [(0.0, 1.0), (1.0, 0.4)],
    }


@pytest.mark.usefixtures("makers")
def test_default_sections_leave_out_what_does_not_apply_and_keep_the_reason_of_a_failure() -> None:
    assert make_sections(Subject(None, None)) == ()  # type: ignore[arg-type]
    shown = make_sections(Subject("model", None), ("shape", "broken"))  # type: ignore[arg-type]
    assert shown[0] is SECTION
    assert shown[1].note == "not computed: column 'income' has no tail"
    assert section_keys(None) == ["shape"]
    assert section_keys(("none",)) == []
    assert section_keys(("all",)) == ["shape", "broken"]
    with pytest.raises(GenZooError, match="no report section 'shap'; known: shape, broken"):
        section_keys(("shap",))


@pytest.mark.usefixtures("makers")
def test_the_report_sets_the_models_of_a_section_side_by_side() -> None:
    plain = comparison(num=60)
    results = [dataclasses.replace(r, sections=(SECTION,) if i < 2 else ()) for i, r in enumerate(plain.results)]
    shown = dataclasses.replace(plain, results=results)
    page = shown.html()
    assert '<section id="shape"' in page
    assert ">Shape of things</h2>" in page
    assert page.count("0.123 [0.100, 0.150]") == 2
    assert "heavy &lt;b&gt;" in page
    assert "heavy <b>" not in page
    assert "area ↓" in page
    assert "hits ↑" in page
    assert '<section id="shape"' not in plain.html()
    text = shown.markdown()
    assert "## Shape of things" in text
    assert "| area ↓ | hits ↑ |" in text
    assert json.loads(shown.json())["models"][0].get("sections") is not None


def test_a_stored_result_keeps_its_sections(tmp_path) -> None:  # type: ignore[no-untyped-def]
    save_result(ModelResult("a", sections=(SECTION,)), tmp_path)
    (section,) = load_result(tmp_path).sections
    assert section.key == "shape"
    assert section.metrics[0] == SECTION.metrics[0]
    assert math.isnan(section.metrics[1].value)
    assert section.grids == SECTION.grids
