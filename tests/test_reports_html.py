"""The report as a page: complete, self-contained, safe, accessible."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from reports_example import SCHEMA, comparison

from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.reports.comparison import Comparison, ModelResult
from genzoo.reports.plots import Dot, difference_plot
from genzoo.tables.schema import Column, Schema

VOID = {"meta", "link", "br", "wbr", "input"}


class Page(HTMLParser):
    """Tags of a page with their attributes; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return comparison().html()


def words(page: str) -> str:
    """What a reader sees, in one line."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S).replace("<wbr>", "")
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_page_is_well_formed_and_names_its_parts(page: str) -> None:
    parsed = Page(page)
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert parsed.of("html")[0]["lang"] == "en"
    links = [attrs["href"] for attrs in parsed.of("a")]
    assert all(link is not None and link[1:] in ids for link in links)
    assert len(parsed.of("h1")) == 1


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r"//[^\n]*", "", page.split("<script>")[1]))
    before = page.split("<script>")[0]
    assert not re.search(r"https?:|@import|url\(", before)
    parsed = Page(page)
    assert not [attrs for _, attrs in parsed.tags if "src" in attrs]
    assert all((attrs["href"] or "").startswith(("#", "data:")) for _, attrs in parsed.tags if "href" in attrs)


def test_figures_and_tables_can_be_read_aloud_and_reached_by_keyboard(page: str) -> None:
    parsed = Page(page)
    assert not parsed.of("img")
    drawings = [attrs for attrs in parsed.of("svg") if "viewBox" in attrs or "width" in attrs]
    unnamed = [d for d in drawings if d.get("role") != "img" and d.get("aria-hidden") != "true" and "overflow" not in d]
    # what is left are the nested drawings that clip a curve; they stand inside a named one
    assert all(d.get("x") == "46" for d in unnamed)
    assert page.count('role="img"') == len(re.findall(r'role="img"><title>[^<]+</title>', page))
    assert all(attrs.get("scope") for attrs in parsed.of("th"))
    scrolling = [attrs for attrs in parsed.of("div") if attrs.get("class") == "scroll"]
    assert scrolling
    assert all(s["tabindex"] == "0" and s["aria-label"] and s["role"] == "region" for s in scrolling)


def test_everything_the_table_promises_is_on_the_page(page: str) -> None:
    text = words(page)
    example = comparison()
    for row in example.rows:
        assert row.name in text
    for title in (
        "Log-likelihood, nats/row ↑", "Difference to first", "Discretised, nats/row ↑", "Spike index ↓", "Holes read",
        "Rows at −∞", "Unseen categories", "Off-grid values", "Parameters", "Training", "Sampling, rows/s ↑",
        "s.e. rows", "s.e. draws", "s.e. common", "Discrete part", "Continuous part", "Without shared rows",
    ):  # fmt: skip
        assert title in text, title
    for fact in (
        "probability of 0; density per euro elsewhere", "probability of the cell of width 1 (day)", "nothing: always 7",
        "Test rows also in training 40", "torch 2.13.0", "draws 16", "max_epochs 60", "random, seed 0",
        "an upper bound: the true value may be lower", "forest_flow was stopped after 600 s",
        "Oracle: the true density",
        "Fingerprint of the table 6c1f0a9be2d84411", "Holm over all pairs",
        *example.conclusions(), *example.warnings(),
    ):  # fmt: skip
        assert " ".join(fact.split()) in text, fact
    assert "Bits/dim" not in text  # densities and probabilities do not share a measure


def test_ranks_stand_in_one_group_and_other_kinds_in_another(page: str) -> None:
    table = page.split("<table data-sortable", 1)[1].split("</table>", 1)[0]
    bodies = re.findall(r"<tbody>(.*?)</tbody>", table, re.S)
    assert len(bodies) == 4
    oracle, ranked, unranked, failed = (words(body) for body in bodies)
    assert "true density" in oracle
    assert "(upper bound)" in unranked
    assert "narrow_mixture" in unranked
    assert "upper bound)" not in ranked
    assert "forest_flow" in failed


def test_what_a_table_holds_cannot_become_part_of_the_page() -> None:
    evil = '"><script>alert(1)</script>$title{{'
    schema = Schema(
        (
            Column(evil, "continuous", unit=evil),
            Column("b", "categorical", categories=(evil, "y")),
            Column("c", "constant", value=evil),
        )
    )
    frame = pd.DataFrame({evil: np.linspace(0, 1, 50), "b": [evil, "y"] * 25})
    like = LogLikelihood(
        values=np.linspace(-1, 0, 50), rows=np.arange(50), kind="exact", measure=schema.measure, method=evil,
        settings={evil: evil},
    )  # fmt: skip
    results = [
        ModelResult(evil, like, samples=frame, curves={evil: [(0, 1.0), (1, 0.5)]}, settings={"a": evil}),
        ModelResult("other" + evil, replace(like, values=like.values - 1)),
        ModelResult("failed", error=evil),
    ]
    facts = {"table": evil, "split": evil, "warnings": [evil], evil: evil, "splits": {evil: evil}, "created": evil}
    text = Comparison(results, schema, data_frame=frame, facts=facts).html()
    Page(text)
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert '"><script' not in text


def test_samples_may_be_any_kind_of_frame_and_figures_do_not_depend_on_it() -> None:
    base = comparison()
    plain = base.html()
    assert plain == base.html()
    results = [r if r.samples is None else replace(r, samples=pl.from_pandas(r.samples)) for r in base.results]
    changed = replace(base, results=results, data_frame=pl.from_pandas(base.data_frame)).html()
    assert changed == plain


def test_a_report_without_samples_curves_or_data_leaves_their_sections_out() -> None:
    like = LogLikelihood(values=np.zeros(5), rows=np.arange(5), kind="exact", measure=SCHEMA.measure)
    text = Comparison([ModelResult("a", like)], SCHEMA).html()
    assert 'id="samples"' not in text
    assert 'href="#samples"' not in text
    assert 'id="training"' not in text
    assert "a is the only model that can be ranked" in text


def test_models_fitted_at_once_are_named_instead_of_drawn_as_empty_curves() -> None:
    base = comparison()
    results = [replace(r, curves={"val/nll": [(19.0, 20.9)]}) if r.name == "mixture" else r for r in base.results]
    text = replace(base, results=results).html()
    assert "mixture was fitted at once and has no curve." in text
    assert "Training of mixture" not in text
    assert "Training of spline_flow" in text


def test_the_best_model_comes_first_and_open_whatever_the_order_of_results() -> None:
    base = comparison()
    text = replace(base, results=base.results[::-1]).html()
    opened = re.findall(r"<details( open)?><summary>(\w+)", text)
    assert opened[0] == (" open", "spline_flow")
    assert [name for flag, name in opened if flag] == ["spline_flow"]
    assert [name for _, name in opened] == [n for n in base.ranked if n in dict.fromkeys(name for _, name in opened)]


@pytest.mark.parametrize("num", [1, 2, 40])
def test_poor_tables_still_make_a_page(num: int) -> None:
    schema = Schema(
        (
            Column("pixels", "binary", shape=(4,)),
            Column("at", "quantized", storage="datetime", step=1.0),
            Column("same", "continuous"),
            Column("empty", "continuous"),
        )
    )
    at = pd.to_datetime(["2020-01-01 10:00:00"] * num)
    frame = pd.DataFrame({"pixels": [[0, 1, 0, 1]] * num, "at": at, "same": np.ones(num), "empty": [np.nan] * num})

    def like(gap: float) -> LogLikelihood:
        values = -gap - 0.1 * np.arange(num)
        return LogLikelihood(values=values, rows=np.arange(num), kind="exact", measure=schema.measure)

    results = [
        ModelResult("a", like(1.0), samples=frame.assign(same=7.0), curves={"val/nll": [(0, float("nan")), (1, 2.0)]}),
        ModelResult("b", like(5000.0), samples=frame),
        ModelResult("none drawn", like(3.0), samples=frame.iloc[:0]),
    ]
    found = Comparison(results, schema, data_frame=frame, facts={"shared_rows": [0]})
    text = found.html()
    Page(text)
    assert "outside the axis: data 0.0 %, samples 100.0 %" in text
    assert "NaN" not in words(text)
    assert "nan" not in re.findall(r"[\w.]+", words(text))
    assert found.markdown()
    assert found.json()


def test_differences_of_very_unequal_size_share_one_compressed_axis() -> None:
    def dot(name: str, value: float) -> Dot:
        return Dot(name, value, value - 0.01, value + 0.01, "exact", True, f"{value}")

    near = difference_plot([dot("a", 0.0), dot("b", -1.0), dot("c", -3.0)], "a")
    assert "compressed" not in near
    far = difference_plot([dot("a", 0.0), dot("b", -0.1), dot("c", -5000.0)], "a")
    assert "compressed scale" in far
    places = [float(x) for x in re.findall(r'<svg x="([\d.]+)%"', far)]
    assert places[0] - places[1] > 3  # 0.1 nats stay visible beside 5000
    assert 0 < places[2] < places[1] < places[0] < 100


def test_a_wide_table_and_twenty_models_stay_below_five_megabytes() -> None:
    rng = np.random.default_rng(0)
    names = [f"column_{i}" for i in range(60)]
    schema = Schema(tuple(Column(name, "continuous") for name in names))
    frame = pd.DataFrame(rng.standard_normal((600, 60)), columns=names)
    results = [
        ModelResult(
            f"model_{i}",
            LogLikelihood(values=rng.standard_normal(1200), rows=np.arange(1200), kind="exact", measure=schema.measure),
            samples=frame,
            curves={"val/nll": [(s, float(s)) for s in range(100)]},
        )
        for i in range(20)
    ]
    size = len(Comparison(results, schema, data_frame=frame).html().encode())
    assert size < 5e6


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_has_contrast_in_light_and_dark(theme: int) -> None:
    css = (files("genzoo.reports") / "assets" / "report.css").read_text("utf-8")
    block = re.findall(r":root \{(.*?)\}", css, re.S)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for ink in ("ink", "soft", "accent", "warn"):
        for paper in ("page", "card", "mark"):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    assert contrast(colours["ink"], colours["warn-page"]) >= 4.5
    # lines and marks: 3 to 1; data and samples differ in grey as well
    assert contrast(colours["model"], colours["page"]) >= 3
    assert contrast(colours["data-dot"], colours["page"]) >= 3
    assert contrast(colours["model"], colours["data"]) >= 3


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--no-first-run", "--virtual-time-budget=2000", "--allow-file-access-from-files"),
]


def dom(path: Path, profile: Path) -> str:
    """The page after its scripts ran."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_sorting_in_a_browser_keeps_the_groups_apart(page: str, tmp_path: Path) -> None:
    click = (
        "<script>var b = document.querySelectorAll('table')[0].querySelectorAll('thead button');"
        "b[2].click(); b[2].click();</script></body>"
    )
    (tmp_path / "sorted.html").write_text(page.replace("</body>", click), encoding="utf-8")
    found = dom(tmp_path / "sorted.html", tmp_path / "profile")
    table = found.split("<table data-sortable", 1)[1].split("</table>", 1)[0]
    groups = re.findall(r"<tbody>(.*?)</tbody>", table, re.S)
    ranked = [words(name) for name in re.findall(r'<th scope="row".*?>(.*?)</th>', groups[1], re.S)]
    assert ranked == list(reversed(comparison().ranked))
    assert 'aria-sort="ascending"' in table
    assert [words(g).startswith(t) for g, t in zip(groups, ("Oracle", "Ranked", "Not ranked", "Failed"))] == [True] * 4


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_phone_never_scrolls_the_page_sideways(page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    frame = (
        '<body style="margin:0"><iframe id="f" src="report.html" style="width:360px;height:800px;border:0"></iframe>'
        "<script>onload = function () { var d = document.getElementById('f').contentDocument.documentElement;"
        "document.title = 'wide ' + d.scrollWidth + ' of ' + d.clientWidth; };</script></body>"
    )
    (tmp_path / "phone.html").write_text(frame, encoding="utf-8")
    found = re.search(r"wide (\d+) of (\d+)", dom(tmp_path / "phone.html", tmp_path / "profile"))
    assert found is not None
    assert int(found.group(2)) >= 340
    assert int(found.group(1)) <= int(found.group(2))


def test_filter_controls_are_there_for_a_longer_table_only(page: str) -> None:
    form = re.search(r"<form.*?</form>", page, re.S)
    assert form is not None
    assert 'role="search"' in form.group()
    assert '<output aria-live="polite">' in form.group()
    assert " hidden>" in form.group()  # a script shows it; without scripts it would do nothing
    kinds = re.findall(r'name="kind" value="(.*?)" checked', form.group())
    assert kinds == ["oracle", "exact", "unbiased", "bound", "upper bound", "failed"]
    assert set(re.findall(r'data-row data-name=".*?" data-kind="(.*?)"', page)) == set(kinds)
    one = replace(comparison(), results=comparison().results[:2])
    assert "<form" not in one.html()


def filtered(page: str, place: Path, steps: str) -> tuple[list[str], str, str]:
    """Names that stand in the main table after some steps, what is announced, and the table."""
    script = (
        "<script>var f = document.querySelector('form[data-filter]');"
        "function type(t) { var i = f.elements.namedItem('words'); i.focus(); i.value = t;"
        "i.dispatchEvent(new Event('input', { bubbles: true })); }"
        "function click(kind) { f.querySelector('input[value=\"' + kind + '\"]').click(); }"
        f"{steps}</script></body>"
    )
    place.mkdir()
    (place / "filtered.html").write_text(page.replace("</body>", script), encoding="utf-8")
    found = dom(place / "filtered.html", place / "profile")
    said = re.search(r'<output aria-live="polite">(.*?)</output>', found)
    assert said is not None
    table = found.split("<table data-sortable", 1)[1].split("</table>", 1)[0]
    lines = [line for line in re.findall(r"<tr (.*?)>", table) if "hidden" not in line]
    return [n for line in lines for n in re.findall(r'data-name="(.*?)"', line)], said.group(1), table


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_words_and_kinds_filter_the_tables_in_a_browser(page: str, tmp_path: Path) -> None:
    names, said, table = filtered(page, tmp_path / "a", "type('Flow maf'); click('bound'); click('failed');")
    assert names == ["spline_flow"]
    assert said == "1 of 10 rows"
    assert len(re.findall(r'<tr class="group" hidden="">', table)) == 3  # headings without rows go too
    # sorting moves hidden rows along, and Show all brings every row back
    steps = "type('flow'); document.querySelector('thead button').click(); f.querySelector('button').click();"
    names, said, _ = filtered(page, tmp_path / "b", steps)
    assert len(names) == 10
    assert said == ""
    assert filtered(page, tmp_path / "c", "type('nothing of that name');")[:2] == ([], "no row matches")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_runs_without_an_error_in_the_console(page: str, tmp_path: Path) -> None:
    catch = "<script>var n = 0; onerror = function () { document.title = 'errors ' + ++n; };</script></head>"
    (tmp_path / "page.html").write_text(page.replace("</head>", catch), encoding="utf-8")
    assert "<title>errors" not in dom(tmp_path / "page.html", tmp_path / "profile")
