"""The report as one HTML file that needs nothing else: no network, no fonts, no scripts from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from genzoo.evaluation.marginals import TableBins
from genzoo.evaluation.sections import MAKERS
from genzoo.reports import columns, formats, plots
from genzoo.reports.columns import TableColumn
from genzoo.reports.rows import GROUP_TITLES, GROUPS, Row
from genzoo.reports.schema_text import schema_rows
from genzoo.reports.section_html import present_sections, section_html
from genzoo.reports.verdicts import listed

if TYPE_CHECKING:
    from genzoo.reports.comparison import Comparison

MAX_MARGINALS = 24
FEWEST_TO_FILTER = 4


def render(comparison: Comparison) -> str:
    """The whole page as text."""
    assets = files("genzoo.reports") / "assets"
    sections = [
        ("results", "Results", _results(comparison)),
        ("parts", "Parts and errors", _parts(comparison)),
        ("data", "Data", _data(comparison)),
        ("training", "Training", _training(comparison)),
        ("samples", "Samples", _samples(comparison)),
        *((key, MAKERS[key].title, section_html(key, own)) for key, own in present_sections(comparison).items()),
        ("reading", "How to read", _reading(comparison)),
        ("provenance", "Provenance", _provenance(comparison)),
    ]
    sections = [s for s in sections if s[2]]
    body = [_lead(comparison)]
    for key, name, text in sections:
        body.append(f'<section id="{key}" aria-labelledby="{key}-title">{_heading(key, name)}{text}</section>')
    facts = comparison.facts
    return Template((assets / "report.html").read_text("utf-8")).substitute(
        title=escape(comparison.title),
        heading=escape(comparison.title),
        subtitle=escape(_subtitle(comparison)),
        version=escape(str(facts.get("versions", {}).get("genzoo", ""))),
        css=(assets / "report.css").read_text("utf-8"),
        js=(assets / "report.js").read_text("utf-8"),
        nav="".join(f'<li><a href="#{key}">{name}</a></li>' for key, name, _ in sections),
        body="\n".join(body),
        footer=escape(_footer(comparison)),
    )


def _heading(key: str, name: str) -> str:
    return f'<h2 id="{key}-title">{name}</h2>'


def _subtitle(comparison: Comparison) -> str:
    names = [r.name for r in comparison.rows if r.group in ("ranked", "unranked", "failed")]
    models = f"{len(names)} model{'s' if len(names) != 1 else ''}"
    rows, scored = formats.count(comparison.num_rows), len(comparison.schema.scored)
    return f"{models} on {rows} held-out rows, {scored} scored column{'s' if scored != 1 else ''}"


def _footer(comparison: Comparison) -> str:
    version = comparison.facts.get("versions", {}).get("genzoo")
    created = comparison.facts.get("created")
    return "Written by GenZoo" + (f" {version}" if version else "") + (f" on {created}" if created else "") + "."


def _lead(comparison: Comparison) -> str:
    sentences = "".join(f"<p>{escape(s)}</p>" for s in comparison.conclusions())
    warnings = "".join(f'<p class="warn" role="note">{escape(w)}</p>' for w in comparison.warnings())
    return f'<div class="lead"><h2>Conclusion</h2>{sentences}</div>{warnings}'


# -------------------------------------------------------------------------------------------------- tables


def _results(comparison: Comparison) -> str:
    rows = comparison.rows
    caption = (
        f"{'Mean' if comparison.num_effective is None else 'Weighted mean'} log-likelihood of "
        f"{formats.count(comparison.num_rows)} test rows in nats per row, in the table's "
        "own units, ± standard error (kind). Differences are paired row by row, with "
        f"{100 * comparison.level:g} % intervals. "
        "Ranks follow what each number guarantees; sorting keeps the groups apart."
    )
    label = "Results, one row a model"
    table = html_table(columns.shown(columns.RESULTS, rows), rows, caption, label, filter_form(rows))
    plot = plots.difference_plot(comparison.dots(), comparison.reference or "")
    if plot:
        plot = (
            "<h3>Differences</h3>" + plot + _legend([(_mark(dot), words) for dot, words in _marks(comparison.dots())])
        )
    costs = html_table(
        columns.shown(columns.COSTS, rows),
        [row for row in rows if row.group != "failed"],
        "Cells that needed a rule, and what each model costs.",
        "Counts and costs, one row a model",
    )
    return table + plot + "<h3>Counts and costs</h3>" + costs


def filter_form(rows: Sequence[Row]) -> str:
    """Controls that hide rows of the tables of this section: words of a name, kinds of number. Hidden without scripts.

    A short table needs none.
    """
    if len(rows) < FEWEST_TO_FILTER:
        return ""
    kinds = list(dict.fromkeys(map(_kind, rows)))
    boxes = "".join(
        f'<label><input type="checkbox" name="kind" value="{escape(kind)}" checked> {escape(kind)}</label>'
        for kind in kinds
    )
    choice = f"<fieldset><legend>Kind of number</legend>{boxes}</fieldset>" if len(kinds) > 1 else ""
    return (
        '<form class="filter" data-filter role="search" aria-label="Filter the models" hidden>'
        '<label class="words">Models <input type="search" name="words" autocomplete="off" spellcheck="false" '
        'placeholder="any of these words"></label>'
        f'{choice}<button type="reset">Show all</button><output aria-live="polite"></output></form>'
    )


def _kind(row: Row) -> str:
    """What the row is filtered by."""
    return row.group if row.group in ("failed", "oracle") else str(row.kind)


def _marks(dots: Sequence[plots.Dot]) -> list[tuple[plots.Dot, str]]:
    """The marks in use, once each, with their meaning."""
    words = {
        "exact": "exact",
        "lower_bound": "lower bound, the true value may lie further right",
        "upper_bound": "upper bound, the true value may lie further left",
        "estimate": "unbiased estimate",
        "unnormalised": "unnormalised",
        "oracle": "oracle",
    }
    if any(dot.mark == "estimate" and not dot.ranked for dot in dots):
        words["estimate"] = "estimate"
    first = {(dot.mark, dot.ranked): dot for dot in reversed(dots)}
    return [
        (dot, words[mark] + ("" if ranked or mark == "oracle" else " (hollow: not ranked)"))
        for (mark, ranked), dot in sorted(first.items(), key=lambda item: (not item[0][1], item[0][0]))
    ]


def _mark(dot: plots.Dot) -> str:
    cls = "ranked" if dot.ranked else "apart"
    return (
        '<svg class="differences" width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true">'
        f'<g class="{cls}">{plots.MARKS.get(dot.mark, plots.MARKS["estimate"])}</g></svg>'
    )


def _legend(items: Iterable[tuple[str, str]]) -> str:
    return '<p class="legend">' + "".join(f"<span>{mark}{escape(words)}</span>" for mark, words in items) + "</p>"


def _parts(comparison: Comparison) -> str:
    rows = [row for row in comparison.rows if row.group != "failed"]
    if not rows:
        return ""
    caption = (
        "What each mean is made of, in nats per row. The standard error of rows holds that of independent draws; "
        "common noise is apart."
    )
    return html_table(columns.shown(columns.PARTS, rows), rows, caption, "Parts and errors of each likelihood")


def html_table(cols: Sequence[TableColumn], rows: Sequence[Row], caption: str, label: str, controls: str = "") -> str:
    """A sortable table in groups; each group is a ``tbody``, so that sorting cannot mix them.

    Args:
        cols: Its columns.
        rows: Its rows.
        caption: A sentence above it.
        label: Its name for those who cannot see it.
        controls: HTML between the caption and the table.
    """
    head = "".join(
        f'<th scope="col" title="{escape(c.help)}" class="{_classes(c)}">{escape(c.title)}</th>' for c in cols
    )
    bodies = []
    present = [group for group in GROUPS if any(row.group == group for row in rows)]
    for group in present:
        words = f"<span>{escape(GROUP_TITLES[group])}</span>"
        title = f'<tr class="group"><th colspan="{len(cols)}" scope="colgroup">{words}</th></tr>'
        lines = "".join(_line(cols, row) for row in rows if row.group == group)
        bodies.append(f"<tbody>{title if len(present) > 1 else ''}{lines}</tbody>")
    return (
        f'<p class="note">{escape(caption)}</p>{controls}'
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
        f'<table data-sortable aria-label="{escape(label)}">'
        f"<thead><tr>{head}</tr></thead>{''.join(bodies)}</table></div>"
    )


def _classes(column: TableColumn) -> str:
    names = {"text": column.left, "pin": column.title == "Model", "best": column in columns.RESULTS[2:4]}
    return " ".join(name for name, has in names.items() if has)


def _line(cols: Sequence[TableColumn], row: Row) -> str:
    cls = {"oracle": "aside", "unranked": "aside", "failed": "aside"}.get(row.group, "first" if row.rank == 1 else "")
    cells = []
    if row.group == "failed":
        at = next(i for i, c in enumerate(cols) if c.title == "Model")
        cells = ['<td data-key=""></td>'] * at
        cells.append(f'<th scope="row" class="pin" data-key="{escape(row.name.lower())}">')
        cells[-1] += f"{escape(row.name).replace('_', '_<wbr>')}</th>"

        cells.append(f'<td class="error" colspan="{len(cols) - at - 1}" data-key="">{escape(row.error or "")}</td>')
        return f'<tr class="{cls}" {_row_data(row)}>{"".join(cells)}</tr>'
    for column in cols:
        key = column.key(row)
        shown = escape(column.cell(row))
        if column.title.startswith("Log-likelihood") and row.reason and row.group == "unranked":
            shown += f'<span class="why">{escape(row.reason)}</span>'
        if column.title.startswith("Difference"):
            shown = shown.replace("[", "<small>[").replace("]", "]</small>")
            if row.verdict:
                shown += f'<span class="below">{escape(row.verdict)}</span>'
        attributes = f'class="{_classes(column)}" data-key="{"" if key is None else escape(str(key))}"'
        if column.title == "Model":
            shown = shown.replace("_", "_<wbr>")  # long names break at their joints on a phone
        tag = 'th scope="row"' if column.title == "Model" else "td"
        cells.append(f"<{tag} {attributes}>{shown}</{tag[:2]}>")
    return f'<tr class="{cls}" {_row_data(row)}>{"".join(cells)}</tr>'


def _row_data(row: Row) -> str:
    """What scripts sort and filter by."""
    return f'data-row data-name="{escape(row.name.lower())}" data-kind="{escape(_kind(row))}"'


def simple_table(head: Sequence[str], lines: Iterable[Sequence[str]], label: str, wide: Sequence[int] = ()) -> str:
    """A small table of text; columns in ``wide`` may break into lines."""
    top = "".join(f'<th scope="col" class="text">{escape(h)}</th>' for h in head)
    body = ""
    for line in lines:
        first, *rest = line
        body += f'<tr><th scope="row" class="text">{escape(first)}</th>'
        body += "".join(
            f'<td class="text{" wide" if i + 1 in wide else ""}">{escape(cell)}</td>' for i, cell in enumerate(rest)
        )
        body += "</tr>"
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
        f'<table aria-label="{escape(label)}">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


# -------------------------------------------------------------------------------------------------- data and training


def _data(comparison: Comparison) -> str:
    facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in comparison.split_facts())
    top = f'<dl class="facts">{facts}</dl>'
    shared = comparison.shared_sentence()
    text = f"<p>{escape(shared)}</p>" if shared else ""
    table = simple_table(
        ["Column", "Kind", "Role", "What is scored", "Known values", "Missing"],
        schema_rows(comparison.schema),
        "Schema",
        wide=(3, 4),
    )
    note = '<p class="note">What the likelihood of a column refers to: fixed by the schema, equal for all models.</p>'
    return top + text + "<h3>Schema</h3>" + note + table


def _training(comparison: Comparison) -> str:
    figures = []
    at_once = []
    for result in comparison.in_order:
        plot = plots.curve_plot(result.curves, result.name)
        if result.curves and not plot and not result.is_oracle:
            at_once.append(result.name)
        if plot:
            ends = ", ".join(f"{key} {points[-1][1]:.3f}" for key, points in result.curves.items() if points)
            caption = f"<b>{escape(result.name)}</b> ends at {escape(ends)}"
            figures.append(f"<figure>{plot}<figcaption>{caption}</figcaption></figure>")
    note = ""
    if at_once:
        verbs = ("was", "has") if len(at_once) == 1 else ("were", "have")
        words = f"{listed(at_once)} {verbs[0]} fitted at once and {verbs[1]} no curve."
        note = f'<p class="note">{escape(words)}</p>'
    if not figures:
        return note
    legend = _legend([(_swatch("val", "M0 7H22"), "validation"), (_swatch("train", "M0 7H22"), "training")])
    note += '<p class="note">Axes differ between panels; the steep first fifth of a curve may leave its panel.</p>'
    return legend + f'<div class="panels">{"".join(figures)}</div>' + note


def _swatch(cls: str, path: str) -> str:
    return f'<svg width="22" height="14" viewBox="0 0 22 14" aria-hidden="true"><path class="{cls}" d="{path}"/></svg>'


def _samples(comparison: Comparison) -> str:
    drawn = [r for r in comparison.in_order if r.samples is not None]
    if comparison.data_frame is None or not drawn:
        return ""
    table = TableBins.of(comparison.data_frame, comparison.schema)
    if not table.bins:
        return ""
    lines, blocks = [], []
    for i, result in enumerate(drawn):
        samples = table.read(result.samples)
        counted = {name: c for name, c in table.marginals(samples).items() if c.num_samples and c.num_data}
        if not counted:
            continue
        worst = max(counted, key=lambda name: counted[name].distance - counted[name].by_chance)
        mean = sum(c.distance for c in counted.values()) / len(counted)
        chance = sum(c.by_chance for c in counted.values()) / len(counted)
        num = max(c.num_samples for c in counted.values())
        lines.append(
            [
                result.name,
                formats.count(num),
                f"{mean:.3f}",
                f"{chance:.3f}",
                f"{worst} ({counted[worst].distance:.3f})",
            ]
        )
        kept = sorted(counted, key=lambda name: counted[name].by_chance - counted[name].distance)[:MAX_MARGINALS]
        figures = [plots.marginal_figure(table.bins[n], counted[n]) for n in table.bins if n in kept]
        more = ""
        if len(counted) > len(figures):
            more = f'<p class="note">The {len(figures)} columns furthest from the data, of {len(counted)}.</p>'
        pairs = [plots.pair_figure(table, p, samples) for p in table.pairs if p[0] in counted and p[1] in counted]
        shaded = any("-heat" in pair for pair in pairs)
        shading = '<p class="note">In shaded panels a stronger colour is a larger share.</p>' if shaded else ""
        pair_block = (
            '<h3>Pairs with the most mutual information in the data</h3><div class="panels pairs">'
            f"{''.join(pairs)}</div>{shading}"
            if pairs
            else ""
        )
        blocks.append(
            f"<details{' open' if i == 0 else ''}><summary>{escape(result.name)} "
            f"<small>mean distance of one column {mean:.3f}, {chance:.3f} expected by chance</small></summary>"
            f'<h3>One column at a time</h3><div class="panels">{"".join(figures)}</div>{more}{pair_block}</details>'
        )
    intro = (
        "<p>Samples of each model beside the test rows, in bins chosen from the data. The distance is the total "
        "variation between the two sets of proportions (0 same, 1 disjoint); two samples of these sizes from one "
        "distribution would show the value called by chance. It looks at one column at a time and ranks nothing.</p>"
    )
    summary = simple_table(
        ["Model", "Samples", "Mean distance ↓", "By chance", "Furthest column"], lines, "Distance of samples from data"
    )
    legend = _legend(
        [(_swatch("data", "M0 2H22V12H0Z"), "data (test rows)"), (_swatch("samples", "M1 2H21V12H1Z"), "samples")]
    )
    return intro + summary + legend + "".join(blocks)


# -------------------------------------------------------------------------------------------------- words


def _reading(comparison: Comparison) -> str:
    kinds = {row.kind for row in comparison.rows}
    words = {
        "exact": "The log-likelihood itself, up to rounding.",
        "unbiased": "Random, but right on average; its standard error includes the draws.",
        "bound": "A guaranteed lower bound: the true log-likelihood is at least this high, on average over draws.",
        "upper bound": "The true log-likelihood may be lower. Shown, not ranked.",
        "estimate": "An estimate whose error has an unknown sign. Shown, not ranked.",
        "unnormalised": "Known up to a constant only. Shown, not ranked.",
    }
    defs = "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in words.items() if k in kinds)
    return (
        "<p>Each number is the mean over test rows of log p(observed cells | which cells are observed, context), in "
        "nats. It has the units of the table, fixed by the schema, so numbers in this report may be subtracted, and "
        "numbers of other tables may not. That one model describes the data better than another is said only where "
        "the kinds allow it: the first must be exact, unbiased or a lower bound, the second exact, unbiased or an "
        "upper bound, and the interval of the paired difference, corrected for the number of pairs (Holm), must "
        "exclude zero.</p>"
        f'<dl class="defs">{defs}</dl>'
    )


def _provenance(comparison: Comparison) -> str:
    lines = [[str(k), _words(v)] for k, v in comparison.provenance()]
    table = simple_table(["Item", "Value"], lines, "Provenance", wide=(1,))
    settings = []
    for result in comparison.in_order:
        merged: dict[str, Any] = dict(result.settings)
        if result.likelihood is not None:
            merged |= {k: v for k, v in result.likelihood.settings.items() if k not in merged}
        if result.discretised is not None and result.discretised.resolutions:
            merged["discretised at"] = result.discretised.resolutions
        settings.append([result.name, _words(merged) or "defaults"])
    made = simple_table(["Model", "Settings (seed, draws, ...)"], settings, "Settings of each model", wide=(1,))
    return table + "<h3>Settings</h3>" + made


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    return str(value)
