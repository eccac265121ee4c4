"""Sections of an evaluation as HTML: one table of all models, then each model's own tables and figures."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from genzoo.evaluation.sections import MAKERS, Curves, Metric, Section
from genzoo.reports import formats
from genzoo.reports.svg import Panel

if TYPE_CHECKING:
    from genzoo.reports.comparison import Comparison

ARROWS = {"up": " ↑", "down": " ↓", "none": ""}


def present_sections(comparison: Comparison) -> dict[str, dict[str, Section]]:
    """Key of a section to the models that have it, in the order of the report."""
    found: dict[str, dict[str, Section]] = {}
    for key in MAKERS:
        own = {r.name: s for r in comparison.in_order for s in r.sections if s.key == key}
        if own:
            found[key] = own
    return found


def metric_names(sections: dict[str, Section]) -> dict[str, Metric]:
    """Every metric of a section with one example of it, in the order of the models."""
    found: dict[str, Metric] = {}
    for section in sections.values():
        for metric in section.metrics:
            found.setdefault(metric.name, metric)
    return found


def metric_text(metric: Metric | None) -> str:
    """``0.031 [0.020, 0.044]`` with as many digits as the interval supports."""
    if metric is None or math.isnan(metric.value):
        return "–"
    width = None
    if metric.low is not None and metric.high is not None and math.isfinite(metric.high - metric.low):
        width = (metric.high - metric.low) / 4
    digits = formats.digits_of(width)
    shown = formats.number(metric.value, digits)
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{shown}{unit} {formats.interval(metric.low, metric.high, digits)}".rstrip()


def section_html(key: str, sections: dict[str, Section]) -> str:
    """Body of one section of the page."""
    parts = [f"<p>{escape(MAKERS[key].lead)}</p>"]
    known = metric_names(sections)
    if known:
        parts.append(_metric_table(key, known, sections))
    bare = []
    for name, section in sections.items():
        inside = _own(section)
        if inside:
            parts.append(f"<details><summary>{escape(name)}</summary>{inside}</details>")
        elif section.note:
            bare.append(f'<p class="note"><b>{escape(name)}</b>: {escape(section.note)}</p>')
    return "".join([*parts, *bare])


def _metric_table(key: str, known: dict[str, Metric], sections: dict[str, Section]) -> str:
    head = '<th scope="col" class="text pin">Model</th>'
    for name, metric in known.items():
        title = escape(metric.definition, quote=True)
        head += f'<th scope="col" title="{title}">{escape(name)}{ARROWS[metric.direction]}</th>'
    body = ""
    for model, section in sections.items():
        own = {m.name: m for m in section.metrics}
        cells = f'<th scope="row" class="pin" data-key="{escape(model.lower(), quote=True)}">'
        cells += f"{escape(model).replace('_', '_<wbr>')}</th>"
        for name in known:
            value = own[name].value if name in own else math.nan
            sort_key = "" if math.isnan(value) else repr(float(value))
            cells += f'<td data-key="{sort_key}">{escape(metric_text(own.get(name)))}</td>'
        body += f"<tr data-row>{cells}</tr>"
    label = escape(MAKERS[key].title, quote=True)
    defs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(metric.definition)}</dd>" for name, metric in known.items())
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">'
        f'<table data-sortable aria-label="{label}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<details><summary>Definitions</summary><dl class="defs">{defs}</dl></details>'
    )


def _own(section: Section) -> str:
    from genzoo.reports.html import simple_table

    parts = []
    if section.grids or section.curves:
        if section.note:
            parts.append(f'<p class="note">{escape(section.note)}</p>')
        if section.curves:
            parts.append(f'<div class="panels">{"".join(map(curves_figure, section.curves))}</div>')
        for grid in section.grids:
            note = f'<p class="note">{escape(grid.note)}</p>' if grid.note else ""
            parts.append(f"<h3>{escape(grid.title)}</h3>{simple_table(grid.head, grid.lines, grid.title)}{note}")
    return "".join(parts)


def curves_figure(figure: Curves) -> str:
    """A few lines or dots on shared axes; the first series is the data, the others are the model."""
    points = [(x, y) for line in figure.series.values() for x, y in line if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return ""
    xs, ys = zip(*points)
    room = [0.04 * ((max(v) - min(v)) or 1.0) for v in (xs, ys)]
    panel = Panel((min(xs) - room[0], max(xs) + room[0]), (min(ys) - room[1], max(ys) + room[1]), left=46)
    panel.axes(figure.x_label, figure.y_label)
    for i, line in enumerate(figure.series.values()):
        own = [p[0] for p in line], [p[1] for p in line]
        if figure.dots:
            panel.dots(*own, f"dots {'data' if i == 0 else 'samples'}-dots")
        else:
            panel.line(*own, "train" if i == 0 else "val")
    names = list(figure.series)
    words = f"{names[0]} dashed, {', '.join(names[1:])} solid" if len(names) > 1 and not figure.dots else ""
    caption = f"<b>{escape(figure.title)}</b>" + (f" {escape(words)}" if words else "")
    drawn = panel.render(f"{figure.title}: {figure.summary or words}")
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def sections_markdown(comparison: Comparison) -> list[str]:
    """Each section as a heading and a Markdown table of its metrics."""
    blocks = []
    for key, sections in present_sections(comparison).items():
        known = metric_names(sections)
        blocks.append(f"## {MAKERS[key].title}")
        if known:
            head = ["Model", *(name + ARROWS[metric.direction] for name, metric in known.items())]
            lines = [
                [model, *(metric_text({m.name: m for m in section.metrics}.get(name)) for name in known)]
                for model, section in sections.items()
            ]
            rule = ["---", *["---:"] * len(known)]
            blocks.append("\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines]))
        blocks += [f"{model}: {s.note}" for model, s in sections.items() if s.note and not (s.grids or s.curves)]
    return blocks
