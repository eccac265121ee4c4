"""The main table in its written forms."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reports_example import SCHEMA, comparison
from rich.console import Console

from genzoo.errors import DataError
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.reports import formats, tables
from genzoo.reports.comparison import Comparison, ModelResult
from genzoo.reports.rows import GROUP_TITLES
from genzoo.tables.schema import Column, Schema


@pytest.fixture(scope="module")
def example() -> Comparison:
    return comparison()


@pytest.mark.parametrize(
    "shown, expected",
    [
        (formats.with_error(2.31, 0.02, "bound"), "2.310 ± 0.020 (bound)"),
        (formats.with_error(-1.0, 1.5, "exact"), "−1.00 ± 1.50 (exact)"),
        (formats.with_error(-math.inf, math.nan, "exact"), "−∞ (exact)"),
        (formats.with_error(None, None), "–"),
        (formats.number(-0.0001), "0.000"),
        (formats.signed(0.25, 2), "+0.25"),
        (formats.interval(-0.31, 0.2, 2), "[−0.31, 0.20]"),
        (formats.count(1234567), "1\u202f234\u202f567"),
        (formats.size(48_213), "48.2k"),
        (formats.duration(0.34), "0.3 s"),
        (formats.duration(185), "3 min 05 s"),
        (formats.duration(7810), "2 h 10 min"),
    ],
)
def test_numbers_are_written_as_a_reader_expects(shown: str, expected: str) -> None:
    assert shown == expected


def test_csv_holds_every_number_unrounded(example: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(tables.csv_text(example.rows))))
    assert [line["name"] for line in lines] == [row.name for row in example.rows]
    for line, row in zip(lines, example.rows):
        for key in ("mean", "se", "difference", "difference_low", "spike_index", "without_shared"):
            value = getattr(row, key)
            assert line[key] == "" if value is None else float(line[key]) == value
        assert line["group"] == row.group


def test_markdown_marks_one_best_and_keeps_the_groups_apart(example: Comparison) -> None:
    text = example.markdown()
    bold = re.findall(r"^\| 1 \| \*\*(\w+)\*\* \| \*\*(.+?)\*\*", text, re.M)
    assert len(bold) == 1
    assert bold[0][0] == example.ranked[0]
    assert "(exact)" in bold[0][1]
    blocks = [text.index(f"**{GROUP_TITLES[g]}**") for g in ("oracle", "ranked", "unranked", "failed")]
    assert blocks == sorted(blocks)
    assert blocks[2] < text.index("| energy_model") < text.index("(upper bound)") < blocks[3]
    tables_in_text = [block for block in text.split("\n\n") if block.startswith("|")]
    for block in tables_in_text:
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_a_pipe_in_a_name_does_not_break_a_markdown_table(example: Comparison) -> None:
    results = [replace(r, name="a|b") if r.name == "maf" else r for r in example.results]
    assert "a\\|b" in replace(example, results=results).markdown()


def test_latex_is_balanced_and_escapes_what_latex_reads(example: Comparison) -> None:
    results = [replace(r, name="50%_&#{x}~^\\") if r.name == "spline_flow" else r for r in example.results]
    text = tables.latex(replace(example, results=results).rows, "caption & more")
    assert r"50\%\_\&\#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text).group(1))  # type: ignore[union-attr]
    for line in text.splitlines():
        if line.endswith(r"\\") and "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
    assert not re.search(r"[^\x00-\x7f]", text)
    unescaped = re.sub(r"\\[{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")


def test_json_is_strict_and_complete(example: Comparison) -> None:
    values = np.array(example.results[0].likelihood.values)  # type: ignore[union-attr]
    values[0] = -np.inf
    broken = replace(example.results[0].likelihood, values=values, discrete=None, continuous=None)  # type: ignore[type-var]
    changed = replace(example, results=[replace(example.results[0], likelihood=broken), *example.results[1:]])

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    plain = json.loads(changed.json(), parse_constant=refuse)
    spline = next(m for m in plain["models"] if m["name"] == "spline_flow")
    assert spline["mean"] == "-inf"
    assert spline["settings"]["max_epochs"] == 60
    num = len(example.results) - 2  # neither the failed model nor the oracle
    assert len(plain["pairs"]) == num * (num - 1) // 2
    assert Schema.from_dict(plain["schema"]).measure == SCHEMA.measure


def test_an_html_report_brings_its_tables_along(example: Comparison, tmp_path: Path) -> None:
    written = example.write(tmp_path / "report.html")
    assert sorted(p.name for p in written) == ["report.csv", "report.html", "report.md", "report.tex"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.csv", "report.html", "report.md", "report.tex"]
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_nothing_is_written_when_one_file_of_a_report_exists(example: Comparison, tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_text("mine")
    with pytest.raises(DataError, match=r"report\.csv"):
        example.write(tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.csv"]
    assert (tmp_path / "report.csv").read_text() == "mine"
    example.write(tmp_path / "report.html", overwrite=True)
    assert (tmp_path / "report.csv").read_text().startswith("name,group")


def test_each_form_is_chosen_by_suffix_or_by_method(example: Comparison, tmp_path: Path) -> None:
    example.write(tmp_path / "a.json")
    example.to_json(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert example.to_markdown(tmp_path / "a.md").read_text().startswith("# Which model")
    assert example.to_latex(tmp_path / "a.tex").read_text().startswith("% needs")
    assert example.to_csv(tmp_path / "a.csv").read_text().startswith("name,")
    assert "</html>" in example.to_html(tmp_path / "a.html").read_text()
    with pytest.raises(DataError, match=r"cannot write a report as 'a\.docx'; end its name with one of \.html"):
        example.write(tmp_path / "a.docx")
    with pytest.raises(DataError, match="no folder"):
        example.write(tmp_path / "absent" / "a.md")


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_terminal_table_fits_its_terminal(example: Comparison, width: int) -> None:
    lines = [line for line, _ in tables.terminal_lines(example.rows, width)]
    table = [line for line in lines if "±" in line]
    assert len(table) == 9
    assert max(map(len, table)) <= width
    assert all(any(name in line for line in table) for name in ("spline_flow", "energy_model"))


def test_rich_output_holds_table_conclusion_and_notes(example: Comparison) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    example.print_rich(console)
    text = " ".join(console.export_text().split())
    assert "spline_flow −" in text.replace("  ", " ")
    assert " ".join(example.conclusions()[0].split()) in text
    assert "its rank is withdrawn" in text


def uniform_table(columns: tuple[Column, ...], nats: float, frame: pd.DataFrame | None = None) -> float | None:
    schema = Schema(columns)
    like = LogLikelihood(values=np.full(8, -nats), rows=np.arange(8), kind="exact", measure=schema.measure)
    return Comparison([ModelResult("uniform", like)], schema, data_frame=frame).rows[0].bits_per_dim


def test_bits_per_dim_need_one_measure() -> None:
    two = (Column("a", "categorical"), Column("b", "quantized", step=1.0))
    assert uniform_table(two, 2 * math.log(8)) == pytest.approx(3.0)
    assert uniform_table((*two, Column("c", "continuous")), 1.0) is None
    assert uniform_table((Column("a", "mixed", atoms=(0.0,)),), 1.0) is None
    metres = tuple(Column(name, "continuous", unit="m") for name in "ab")
    assert uniform_table(metres, 4 * math.log(2)) == pytest.approx(2.0)
    assert uniform_table((metres[0], Column("b", "continuous", unit="s")), 1.0) is None
    block = (Column("pixels", "binary", shape=(28, 28)),)
    assert uniform_table(block, 784 * math.log(2)) == pytest.approx(1.0)


def test_bits_per_dim_count_observed_cells_only() -> None:
    two = (Column("a", "categorical"), Column("b", "categorical"))
    frame = pd.DataFrame({"a": list("xyxyxyxy"), "b": ["x", "?"] * 4})
    assert uniform_table(two, 1.5 * math.log(4), frame) == pytest.approx(2.0)
